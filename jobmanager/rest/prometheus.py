"""/metrics for Prometheus: names and labels are penstock's own (served_metrics.py, docs/metrics.md).

    pipeline, job_id     of everything about a job
    operator             the uid of an operator, or its name where it has none. What goes into a subtask is counted at
                         the first operator of its chain, what leaves it at the last one, its time at the first.
    subtask              its index

Base units: seconds, bytes. Time is a counter per subtask and state. Metrics that operators and users count themselves
have their own names if those are in the table of served ones; all others are samples of penstock_user_metric, by name.
Subtasks of ended jobs are not shown. Counters begin anew with each attempt, as those of any process that is restarted
do.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence

from fastapi import APIRouter
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector
from starlette.responses import Response

from ...runtime.elements import MAX_WATERMARK, MIN_WATERMARK
from ...state.errors import PenstockError
from ..gateway import Gateway
from ..views import (
    NEVER,
    CheckpointsView,
    CheckpointView,
    JobOverview,
    JobView,
    ObjectCounts,
    OperatorView,
    SubtaskView,
    TaskManagerView,
    VertexView,
)
from .metric_ids import operator_counters
from .parameters import Server
from .served_metrics import ROCKSDB, SERVED
from .states import JOB_STATES, has_ended, job_state

log = logging.getLogger(__name__)
router = APIRouter(tags=["metrics"])

MS = 1_000
COUNTED = ("records_late", "records_from_future", "records_malformed", "records_dead_letter", "user_errors")
"""Counters of operators that have a name here."""
NO_JOB = ("", "")
"""To Prometheus an empty label is none."""


class Families:
    """Metric families by name, made when the first sample comes. KeyError: nobody has said what the name means."""

    def __init__(self) -> None:
        self._counters: dict[str, CounterMetricFamily] = {}
        self._gauges: dict[str, GaugeMetricFamily] = {}
        self._summaries: dict[str, SummaryMetricFamily] = {}

    def add(self, name: str, labels: Sequence[str], value: float) -> None:
        """A sample of a counter or gauge; labels in the order of the table."""
        served = SERVED[name]
        if served.kind == "counter":
            counter = self._counters.get(name)
            if counter is None:
                counter = CounterMetricFamily(f"penstock_{name}", served.text, labels=served.labels)
                self._counters[name] = counter
            counter.add_metric(labels, value)
        else:
            gauge = self._gauges.get(name)
            if gauge is None:
                gauge = GaugeMetricFamily(f"penstock_{name}", served.text, labels=served.labels)
                self._gauges[name] = gauge
            gauge.add_metric(labels, value)

    def summarise(self, name: str, labels: Sequence[str], count: int, total: float) -> None:
        served = SERVED[name]
        summary = self._summaries.get(name)
        if summary is None:
            summary = SummaryMetricFamily(f"penstock_{name}", served.text, labels=served.labels)
            self._summaries[name] = summary
        summary.add_metric(labels, count, total)

    def __iter__(self) -> Iterator[Metric]:
        yield from (*self._counters.values(), *self._gauges.values(), *self._summaries.values())


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
        info = gateway.info()
        _cluster(families, info.versions.get("penstock", ""), gateway.task_managers())
        _objects(families, NO_JOB, info.objects)
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
    families.add("build_info", (version,), 1)
    families.add("leader", (), 1)
    families.add("task_managers", (), len(managers))
    total, free = sum(one.slots_total for one in managers), sum(one.slots_free for one in managers)
    for state, count in (("free", free), ("used", total - free)):
        families.add("slots", (state,), count)
    for manager in managers:
        families.add("task_manager_memory_bytes", (manager.id,), manager.process_memory_bytes)


def _objects(families: Families, job: tuple[str, str], counts: ObjectCounts) -> None:
    for op, codes in counts.requests.items():
        for code, count in codes.items():
            families.add("object_store_requests", (*job, op, code), count)
    for op, moved in counts.bytes.items():
        families.add("object_store_bytes", (*job, op), moved)


# of a job --------------------------------------------------------------------------------------------------------


def _state(families: Families, job: JobOverview) -> None:
    for state in JOB_STATES:
        families.add("job_state", (job.name, job.id, state.lower()), float(state == job_state(job.state)))


def _job(families: Families, view: JobView) -> None:
    job = (view.overview.name, view.overview.id)
    families.add("job_restarts", job, view.restarts)
    _checkpoints(families, job, view.checkpoints)
    _objects(families, job, view.objects)
    restored_ms = _restored_ms(view)
    if restored_ms is not None:
        families.add("restore_duration_seconds", job, restored_ms / MS)


def _checkpoints(families: Families, job: tuple[str, str], view: CheckpointsView) -> None:
    for outcome, count in (("completed", view.completed), ("failed", view.failed)):
        families.add("checkpoints", (*job, outcome), count)
    last = view.latest_completed
    if last is None:
        return
    families.add("checkpoint_duration_seconds", job, last.duration_ms / MS)
    for phase, longest_ms in _phases_ms(last).items():
        families.add("checkpoint_phase_seconds", (*job, phase), longest_ms / MS)
    for kind, size in (("written", last.checkpointed_bytes), ("full", last.state_bytes)):
        families.add("checkpoint_bytes", (*job, kind), size)
    completed_s = (last.triggered_ms + last.duration_ms) / MS
    families.add("last_completed_checkpoint_timestamp_seconds", job, completed_s)


def _phases_ms(checkpoint: CheckpointView) -> dict[str, int]:
    """Phase -> how long the slowest subtask needed for it."""
    subtasks = [subtask for vertex in checkpoint.acknowledged.values() for subtask in vertex]
    return {
        "start_delay": max((subtask.start_delay_ms for subtask in subtasks), default=0),
        "align": max((subtask.align_ms for subtask in subtasks), default=0),
        "sync": max((subtask.sync_ms for subtask in subtasks), default=0),
        "async": max((subtask.async_ms for subtask in subtasks), default=0),
        "complete": max(0, checkpoint.triggered_ms + checkpoint.duration_ms - checkpoint.latest_ack_ms),
    }


def _restored_ms(view: JobView) -> int | None:
    """Of the subtasks of the newest attempt; None: they began without a checkpoint, or are not through."""
    restored = view.checkpoints.latest_restored
    newest = [one for vertex in view.vertices for one in vertex.subtasks if one.attempt == view.attempt]
    began_ms = [one.timestamps.get("DEPLOYING", NEVER) for one in newest]
    opened_ms = [one.timestamps.get("INITIALIZING", NEVER) for one in newest]
    if restored is None or not newest or NEVER in began_ms or NEVER in opened_ms:
        return None
    if restored.restored_ms > min(began_ms):  # another attempt is being set up
        return None
    return max(opened - began for began, opened in zip(began_ms, opened_ms, strict=True))


# of a subtask ----------------------------------------------------------------------------------------------------


def operator_label(operator: OperatorView) -> str:
    return operator.uid or operator.name


def _subtask(families: Families, view: JobView, vertex: VertexView, subtask: SubtaskView, now_ms: int) -> None:
    measured = subtask.metrics
    if not vertex.operators or measured.reported_at_ms == NEVER:
        return
    job, index = (view.overview.name, view.overview.id), str(subtask.index)
    first, last = ((*job, operator_label(vertex.operators[at]), index) for at in (0, -1))
    families.add("records_in", first, measured.records_in)
    families.add("records_out", last, measured.records_out)
    families.add("bytes_in", first, measured.bytes_in)
    families.add("bytes_out", last, measured.bytes_out)
    families.summarise("batch_rows", first, measured.details.batches_in, measured.records_in)
    for state, spent_ms in (
        ("busy", measured.busy_ms), ("backpressured", measured.backpressured_ms), ("idle", measured.idle_ms),
    ):  # fmt: skip
        families.add("subtask_time_seconds", (*first, state), spent_ms / MS)
    if MIN_WATERMARK < measured.watermark < MAX_WATERMARK:
        at_s = measured.watermark / MS
        families.add("watermark_timestamp_seconds", first, at_s)
        families.add("watermark_lag_seconds", first, now_ms / MS - at_s)
    _channels(families, view, vertex, subtask, first, last)
    if vertex.is_source and subtask.state == "RUNNING":
        _lag(families, subtask, first, now_ms)
    _restored(families, subtask, first)
    _remembered(families, job, vertex, subtask)
    _own(families, job, vertex, subtask)


def _channels(
    families: Families,
    view: JobView,
    vertex: VertexView,
    subtask: SubtaskView,
    first: tuple[str, ...],
    last: tuple[str, ...],
) -> None:
    details = subtask.metrics.details
    if any(edge.source == vertex.id for edge in view.edges):
        families.add("credits_available_bytes", last, details.credits_available_bytes)
        families.add("channel_queued_bytes", (*last, "out"), details.queued_out_bytes)
    if not vertex.is_source:
        families.add("channel_queued_bytes", (*first, "in"), details.queued_in_bytes)
    if details.record_latency_ms is not None:
        families.add("record_latency_seconds", first, details.record_latency_ms / MS)


def _lag(families: Families, subtask: SubtaskView, first: tuple[str, ...], now_ms: int) -> None:
    details = subtask.metrics.details
    if details.source_lag_records is not None:
        families.add("source_lag_records", first, details.source_lag_records)
    if details.source_timestamp is not None:
        families.add("source_lag_seconds", first, (now_ms - details.source_timestamp) / MS)


def _restored(families: Families, subtask: SubtaskView, first: tuple[str, ...]) -> None:
    restored = subtask.metrics.details.restored
    if restored.total:
        families.add("restored_bytes", (*first, "store"), restored.stored)
        families.add("restored_bytes", (*first, "local"), restored.local)


def _remembered(families: Families, job: tuple[str, str], vertex: VertexView, subtask: SubtaskView) -> None:
    for operator in vertex.operators:
        state = subtask.metrics.details.states.get(operator.id)
        if state is None:
            continue
        values = (*job, operator_label(operator), str(subtask.index))
        families.add("state_bytes", values, state.bytes)
        families.add("state_entries", values, state.entries)
        families.add("timers", values, state.timers)
        if state.growth is not None:
            families.add("state_growth_bytes", values, state.growth)
        for name, named in state.states.items():
            families.add("named_state_bytes", (*values, name), named.bytes)
            families.add("named_state_entries", (*values, name), named.entries)
            families.add("named_state_growth_bytes", (*values, name), named.growth)
            for _key, nbytes in named.largest[:1]:
                families.add("named_state_largest_key_bytes", (*values, name), nbytes)
        for name, number in state.rocksdb.items():
            if name in ROCKSDB:
                families.add(ROCKSDB[name], values, number)


def _own(families: Families, job: tuple[str, str], vertex: VertexView, subtask: SubtaskView) -> None:
    labels = {operator.name: operator_label(operator) for operator in vertex.operators}
    for (operator, metric), number in operator_counters(vertex, subtask).items():
        values = (*job, labels.get(operator, operator), str(subtask.index))
        name = metric.removesuffix("_total")
        if metric == "alignment_paused_ms_total":
            families.add("alignment_paused_seconds", values, number / MS)
        elif name in COUNTED and name != metric:
            families.add(name, values, number)
        else:
            families.add("user_metric", (*values, metric), number)


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"description": "Prometheus' text format.", "content": {CONTENT_TYPE_LATEST: {}}}},
)
def metrics(server: Server) -> Response:
    """The cluster, its jobs and their subtasks, for Prometheus to scrape."""
    return Response(generate_latest(server.registry), media_type=CONTENT_TYPE_LATEST)
