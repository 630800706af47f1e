"""/metrics for Prometheus: names and labels are penstock's own.

    pipeline, job_id     of everything about a job
    operator             the uid of an operator, or its name where it has none. What goes into a subtask is counted at
                         the first operator of its chain, what leaves it at the last one, its time at the first.
    subtask              its index

Base units: seconds, bytes. Time is a counter per subtask and state. Metrics that operators and users count themselves
have their own names if those are among OWN_NAMES; all others are samples of penstock_user_metric, by name. Subtasks of
ended jobs are not shown. Counters begin anew with each attempt, as those of any process that is restarted do.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence

from fastapi import APIRouter
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector
from starlette.responses import Response

from ...runtime.elements import MAX_WATERMARK, MIN_WATERMARK
from ...state.errors import PenstockError
from ..gateway import Gateway
from ..views import NEVER, CheckpointsView, JobOverview, JobView, OperatorView, SubtaskView, TaskManagerView, VertexView
from .metric_ids import operator_counters
from .parameters import Server
from .states import JOB_STATES, has_ended, job_state

log = logging.getLogger(__name__)
router = APIRouter(tags=["metrics"])

MS = 1_000
JOB = ("pipeline", "job_id")
SUBTASK = (*JOB, "operator", "subtask")
COUNTERS = {
    "records_in": "Records that came in.",
    "records_out": "Records that were sent.",
    "bytes_in": "Bytes that came in over channels.",
    "bytes_out": "Bytes that were sent over channels.",
}
OWN_NAMES = {
    "records_late_total": "Records that came after their window was closed.",
    "records_malformed_total": "Records that could not be read.",
    "records_dead_letter_total": "Records that were put aside.",
    "user_errors_total": "Exceptions of user code.",
}
"""Counters of operators that have a name here."""


class Families:
    """Metric families by name, made when the first sample comes."""

    def __init__(self) -> None:
        self._families: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}

    def count(self, name: str, text: str, labels: Sequence[str], values: Sequence[str], number: float) -> None:
        """`name` without penstock_ and _total."""
        family = self._families.get(name)
        if family is None:
            family = self._families[name] = CounterMetricFamily(f"penstock_{name}", text, labels=labels)
        family.add_metric(values, number)

    def show(self, name: str, text: str, labels: Sequence[str], values: Sequence[str], number: float) -> None:
        family = self._families.get(name)
        if family is None:
            family = self._families[name] = GaugeMetricFamily(f"penstock_{name}", text, labels=labels)
        family.add_metric(values, number)

    def __iter__(self) -> Iterator[Metric]:
        return iter(self._families.values())


class ClusterCollector(Collector):
    """Asks the gateway whenever Prometheus asks."""

    def __init__(self, gateway: Gateway, now_ms: Callable[[], int]) -> None:
        self._gateway = gateway
        self._now_ms = now_ms

    def describe(self) -> list[Metric]:
        """Nothing, so that the registry does not ask the cluster when this is registered."""
        return []

    def collect(self) -> Iterator[Metric]:
        families, gateway = Families(), self._gateway
        _cluster(families, gateway.info().versions.get("penstock", ""), gateway.task_managers())
        for job in gateway.jobs():
            _state(families, job)
            if has_ended(job):
                continue
            try:
                view = gateway.job(job.id)
            except PenstockError as error:  # one that does not answer must not hide the others
                log.info("no metrics of job %s (%s): %s", job.id, job.name, error)
                continue
            _job(families, view)
            for vertex in view.vertices:
                for subtask in vertex.subtasks:
                    _subtask(families, view, vertex, subtask, self._now_ms())
        return iter(families)


def _cluster(families: Families, version: str, managers: Sequence[TaskManagerView]) -> None:
    families.show("build_info", "Version of penstock.", ("version",), (version,), 1)
    families.show("leader", "Whether this job manager leads the cluster.", (), (), 1)
    families.show("task_managers", "Task managers that are heard.", (), (), len(managers))
    total, free = sum(one.slots_total for one in managers), sum(one.slots_free for one in managers)
    for state, count in (("free", free), ("used", total - free)):
        families.show("slots", "Task slots.", ("state",), (state,), count)
    for manager in managers:
        text = "Resident memory of a task manager and its slots."
        families.show("task_manager_memory_bytes", text, ("task_manager",), (manager.id,), manager.process_memory_bytes)


def _state(families: Families, job: JobOverview) -> None:
    for state in JOB_STATES:
        values = (job.name, job.id, state.lower())
        text = "1 for the state a job is in."
        families.show("job_state", text, (*JOB, "state"), values, float(state == job_state(job.state)))


def _job(families: Families, view: JobView) -> None:
    values = (view.overview.name, view.overview.id)
    families.count("job_restarts", "Restarts of a job.", JOB, values, view.restarts)
    _checkpoints(families, values, view.checkpoints)


def _checkpoints(families: Families, job: tuple[str, str], view: CheckpointsView) -> None:
    for outcome, count in (("completed", view.completed), ("failed", view.failed)):
        families.count("checkpoints", "Checkpoints that ended.", (*JOB, "outcome"), (*job, outcome), count)
    last = view.latest_completed
    if last is None:
        return
    families.show("checkpoint_duration_seconds", "Of the last completed one.", JOB, job, last.duration_ms / MS)
    for kind, size in (("written", last.checkpointed_bytes), ("full", last.state_bytes)):
        families.show("checkpoint_bytes", "Size of the last completed one.", (*JOB, "kind"), (*job, kind), size)
    completed_s = (last.triggered_ms + last.duration_ms) / MS
    text = "When the last checkpoint was completed."
    families.show("last_completed_checkpoint_timestamp_seconds", text, JOB, job, completed_s)


def operator_label(operator: OperatorView) -> str:
    return operator.uid or operator.name


def _subtask(families: Families, view: JobView, vertex: VertexView, subtask: SubtaskView, now_ms: int) -> None:
    measured = subtask.metrics
    if not vertex.operators or measured.reported_at_ms == NEVER:
        return
    job, index = (view.overview.name, view.overview.id), str(subtask.index)
    first, last = ((*job, operator_label(vertex.operators[at]), index) for at in (0, -1))
    for name, text in COUNTERS.items():
        number: float = getattr(measured, name)
        families.count(name, text, SUBTASK, first if name.endswith("_in") else last, number)
    text = "Time of a subtask by what it did."
    for state, spent_ms in (
        ("busy", measured.busy_ms), ("backpressured", measured.backpressured_ms), ("idle", measured.idle_ms),
    ):  # fmt: skip
        families.count("subtask_time_seconds", text, (*SUBTASK, "state"), (*first, state), spent_ms / MS)
    if MIN_WATERMARK < measured.watermark < MAX_WATERMARK:
        at_s = measured.watermark / MS
        families.show("watermark_timestamp_seconds", "Event time that is complete.", SUBTASK, first, at_s)
        families.show("watermark_lag_seconds", "How far that is behind now.", SUBTASK, first, now_ms / MS - at_s)
    _own(families, job, vertex, subtask)


def _own(families: Families, job: tuple[str, str], vertex: VertexView, subtask: SubtaskView) -> None:
    labels = {operator.name: operator_label(operator) for operator in vertex.operators}
    for (operator, metric), number in operator_counters(vertex, subtask).items():
        values = (*job, labels.get(operator, operator), str(subtask.index))
        if metric in OWN_NAMES:
            families.count(metric.removesuffix("_total"), OWN_NAMES[metric], SUBTASK, values, number)
        else:
            text = "Metrics of operators and of user code, by name."
            families.show("user_metric", text, (*SUBTASK, "metric"), (*values, metric), number)


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"description": "Prometheus' text format.", "content": {CONTENT_TYPE_LATEST: {}}}},
)
def metrics(server: Server) -> Response:
    """The cluster, its jobs and their subtasks, for Prometheus to scrape."""
    return Response(generate_latest(server.registry), media_type=CONTENT_TYPE_LATEST)
