"""One job and lists of jobs: /jobs, /jobs/overview, /jobs/:id and its plan, configuration, status and result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NotRequired

from typing_extensions import TypedDict

from ..views import EdgeView, JobOverview, JobView, VertexView
from .io_metrics import IoMetrics, io_metrics
from .states import (
    aggregate_state,
    count_states,
    count_subtasks,
    duration_ms,
    has_ended,
    job_state,
    job_timestamps,
)
from .wire_failures import FailureCause, failure_cause
from .wire_operations import QueueStatus
from .wire_times import vertex_times

SCHEDULER = "Default"


class TaskCounts(TypedDict):
    total: int
    running: int
    canceling: int
    canceled: int
    created: int
    scheduled: int
    deploying: int
    reconciling: int
    finished: int
    initializing: int
    failed: int


JobSummary = TypedDict(
    "JobSummary",
    {
        "jid": str,
        "name": str,
        "state": str,
        "jobType": str,
        "schedulerType": str,
        "start-time": int,
        "end-time": int,
        "duration": int,
        "last-modification": int,
        "tasks": TaskCounts,
        "pending-operators": int,
    },
)


class JobsOverview(TypedDict):
    jobs: list[JobSummary]


class JobIdWithStatus(TypedDict):
    id: str
    status: str


class JobIds(TypedDict):
    jobs: list[JobIdWithStatus]


class JobStatus(TypedDict):
    status: str


class PlanInput(TypedDict):
    id: str
    num: int
    exchange: str
    ship_strategy: str


class PlanNode(TypedDict):
    id: str
    parallelism: int
    operator: str
    operator_strategy: str
    description: str
    optimizer_properties: dict[str, str]
    inputs: list[PlanInput]


class Plan(TypedDict):
    jid: str
    name: str
    type: str
    nodes: list[PlanNode]


class PlanBody(TypedDict):
    plan: Plan


VertexSummary = TypedDict(
    "VertexSummary",
    {
        "id": str,
        "slotSharingGroupId": str,
        "name": str,
        "maxParallelism": int,
        "parallelism": int,
        "status": str,
        "start-time": int,
        "end-time": int,
        "duration": int,
        "tasks": dict[str, int],
        "metrics": IoMetrics,
        "resources": dict[str, float],
    },
)
"""resources is ours: what each slot of its group has to itself, by name; memory in bytes."""
JobDetails = TypedDict(
    "JobDetails",
    {
        "jid": str,
        "application-id": str,
        "name": str,
        "isStoppable": bool,
        "state": str,
        "job-type": str,
        "schedulerType": str,
        "start-time": int,
        "end-time": int,
        "duration": int,
        "maxParallelism": int,
        "now": int,
        "timestamps": dict[str, int],
        "vertices": list[VertexSummary],
        "status-counts": dict[str, int],
        "plan": Plan,
        "pending-operators": int,
    },
)
ExecutionConfig = TypedDict(
    "ExecutionConfig",
    {
        "restart-strategy": str,
        "job-parallelism": int,
        "object-reuse-mode": bool,
        "user-config": dict[str, str],
    },
)
JobConfig = TypedDict("JobConfig", {"jid": str, "name": str, "execution-config": ExecutionConfig})
JobResult = TypedDict(
    "JobResult",
    {
        "id": str,
        "application-status": str,
        "accumulator-results": dict[str, str],
        "net-runtime": int,
        "failure-cause": NotRequired[FailureCause],
    },
)
ExecutionResult = TypedDict(
    "ExecutionResult", {"status": QueueStatus, "job-execution-result": NotRequired[JobResult | None]}
)


def job_summary(job: JobOverview, now_ms: int) -> JobSummary:
    counts = count_states(job.subtask_states)
    return {
        "jid": job.id,
        "name": job.name,
        "state": job_state(job.state),
        "jobType": _job_type(job),
        "schedulerType": SCHEDULER,
        "start-time": job.started_ms,
        "end-time": job.ended_ms,
        "duration": duration_ms(job.started_ms, job.ended_ms, now_ms),
        "last-modification": job.modified_ms,
        "tasks": {
            "total": sum(counts.values()),
            "running": counts["RUNNING"],
            "canceling": counts["CANCELING"],
            "canceled": counts["CANCELED"],
            "created": counts["CREATED"],
            "scheduled": counts["SCHEDULED"],
            "deploying": counts["DEPLOYING"],
            "reconciling": counts["RECONCILING"],
            "finished": counts["FINISHED"],
            "initializing": counts["INITIALIZING"],
            "failed": counts["FAILED"],
        },
        "pending-operators": 0,
    }


def jobs_overview(jobs: Sequence[JobOverview], now_ms: int) -> JobsOverview:
    return {"jobs": [job_summary(job, now_ms) for job in jobs]}


def job_ids(jobs: Sequence[JobOverview]) -> JobIds:
    return {"jobs": [{"id": job.id, "status": job_state(job.state)} for job in jobs]}


def job_details(view: JobView, now_ms: int) -> JobDetails:
    job = view.overview
    return {
        "jid": job.id,
        "application-id": job.id,
        "name": job.name,
        "isStoppable": False,
        "state": job_state(job.state),
        "job-type": _job_type(job),
        "schedulerType": SCHEDULER,
        "start-time": job.started_ms,
        "end-time": job.ended_ms,
        "duration": duration_ms(job.started_ms, job.ended_ms, now_ms),
        "maxParallelism": view.max_parallelism,
        "now": now_ms,
        "timestamps": job_timestamps(view.timestamps),
        "vertices": [vertex_summary(vertex, now_ms) for vertex in view.vertices],
        "status-counts": count_states(_vertex_states(view)),
        "plan": plan(view),
        "pending-operators": 0,
    }


def _vertex_states(view: JobView) -> dict[str, int]:
    """Flink counts vertices here, not subtasks."""
    counts: dict[str, int] = {}
    for vertex in view.vertices:
        state = aggregate_state(vertex.subtasks)
        counts[state] = counts.get(state, 0) + 1
    return counts


def vertex_summary(vertex: VertexView, now_ms: int) -> VertexSummary:
    times = vertex_times(vertex.subtasks, now_ms)
    return {
        "id": vertex.id,
        "slotSharingGroupId": vertex.slot_sharing_group,
        "name": vertex.name,
        "maxParallelism": vertex.max_parallelism,
        "parallelism": vertex.parallelism,
        "status": aggregate_state(vertex.subtasks),
        "start-time": times.start_ms,
        "end-time": times.end_ms,
        "duration": times.duration_ms,
        "tasks": count_subtasks(vertex.subtasks),
        "metrics": io_metrics(vertex.subtasks),
        "resources": vertex.resources,
    }


def _job_type(job: JobOverview) -> str:
    return "BATCH" if job.batch_mode else "STREAMING"


def plan(view: JobView) -> Plan:
    return {
        "jid": view.overview.id,
        "name": view.overview.name,
        "type": _job_type(view.overview),
        "nodes": [_node(vertex, view.edges) for vertex in view.vertices],
    }


def _node(vertex: VertexView, edges: Sequence[EdgeView]) -> PlanNode:
    arriving = [edge for edge in edges if edge.target == vertex.id]
    return {
        "id": vertex.id,
        "parallelism": vertex.parallelism,
        "operator": "",
        "operator_strategy": "",
        "description": "<br/>".join(_escaped(operator.name) for operator in vertex.operators),
        "optimizer_properties": {},
        "inputs": [
            {"id": edge.source, "num": num, "exchange": "pipelined_bounded", "ship_strategy": edge.ship_strategy}
            for num, edge in enumerate(arriving)
        ],
    }


def _escaped(name: str) -> str:
    """The dashboard shows descriptions as HTML; a name comes from the user."""
    return name.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def job_config(view: JobView) -> JobConfig:
    return {
        "jid": view.overview.id,
        "name": view.overview.name,
        "execution-config": {
            "restart-strategy": view.restart_strategy,
            "job-parallelism": view.overview.parallelism,
            "object-reuse-mode": False,
            "user-config": dict(view.config),
        },
    }


def execution_result(view: JobView) -> ExecutionResult:
    job = view.overview
    if not has_ended(job):
        return {"status": {"id": "IN_PROGRESS"}, "job-execution-result": None}
    outcomes = {"FINISHED": "SUCCEEDED", "FAILED": "FAILED", "CANCELED": "CANCELED"}
    result: JobResult = {
        "id": job.id,
        "application-status": outcomes.get(job_state(job.state), "UNKNOWN"),
        "accumulator-results": {},
        "net-runtime": duration_ms(job.started_ms, job.ended_ms, job.ended_ms),
    }
    if job_state(job.state) == "FAILED" and view.exceptions:
        last = view.exceptions[0]
        result["failure-cause"] = failure_cause(last.exception, last.message, last.stacktrace)
    return {"status": {"id": "COMPLETED"}, "job-execution-result": result}
