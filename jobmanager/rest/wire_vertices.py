"""One vertex: its subtasks, their times, where they run, backpressure, watermarks, accumulators."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from typing_extensions import TypedDict

from ..views import SubtaskView, VertexView
from .io_metrics import COUNTED, IoMetrics, counted, io_metrics
from .metric_ids import as_text, operator_counters
from .states import aggregate_state, count_subtasks, subtask_state
from .statistics import MetricStatistics, metric_statistics
from .wire_times import LASTING_STATES, entered_states, status_durations, subtask_times, vertex_times

LOW_RATIO, HIGH_RATIO = 0.10, 0.5
"""Up to the first a subtask is not backpressured, above the second it is badly."""
MS_PER_SECOND = 1_000

Level = Literal["ok", "low", "high"]
LEVELS: tuple[Level, ...] = ("ok", "low", "high")

AggregatedSubtasks = TypedDict(
    "AggregatedSubtasks",
    {"metrics": dict[str, MetricStatistics], "status-duration": dict[str, MetricStatistics]},
)
Restore = TypedDict("Restore", {"bytes": int, "total-bytes": int, "local-bytes": int})
"""Files of state that a subtask began with: there by now, all, and of those that are there from the machine itself."""
SubtaskDetails = TypedDict(
    "SubtaskDetails",
    {
        "subtask": int,
        "status": str,
        "attempt": int,
        "endpoint": str,
        "start-time": int,
        "end-time": int,
        "duration": int,
        "metrics": IoMetrics,
        "taskmanager-id": str,
        "status-duration": dict[str, int],
        "start_time": int,
        "restore": Restore,
    },
)


class VertexDetails(TypedDict):
    id: str
    name: str
    parallelism: int
    maxParallelism: int
    now: int
    subtasks: list[SubtaskDetails]
    aggregated: AggregatedSubtasks
    resources: dict[str, float]
    """Ours: what each slot of its group has to itself, by name; memory in bytes."""


class SubtaskTime(TypedDict):
    subtask: int
    endpoint: str
    duration: int
    timestamps: dict[str, int]


class SubtaskTimes(TypedDict):
    id: str
    name: str
    now: int
    subtasks: list[SubtaskTime]


VertexTaskManager = TypedDict(
    "VertexTaskManager",
    {
        "endpoint": str,
        "status": str,
        "start-time": int,
        "end-time": int,
        "duration": int,
        "metrics": IoMetrics,
        "status-counts": dict[str, int],
        "taskmanager-id": str,
        "aggregated": AggregatedSubtasks,
    },
)


class VertexTaskManagers(TypedDict):
    id: str
    name: str
    now: int
    taskmanagers: list[VertexTaskManager]


SubtaskBackpressure = TypedDict(
    "SubtaskBackpressure",
    {
        "subtask": int,
        "attempt-number": int,
        "backpressureLevel": Level,
        "backpressure-level": Level,
        "ratio": float,
        "idleRatio": float,
        "busyRatio": float,
    },
)
Backpressure = TypedDict(
    "Backpressure",
    {
        "status": Literal["ok", "deprecated"],
        "backpressureLevel": Level,
        "backpressure-level": Level,
        "end-timestamp": int,
        "subtasks": list[SubtaskBackpressure],
    },
)


class Watermark(TypedDict):
    id: str
    value: str


class Accumulator(TypedDict):
    name: str
    type: str
    value: str


VertexAccumulators = TypedDict("VertexAccumulators", {"id": str, "user-accumulators": list[Accumulator]})
SubtaskAccumulators = TypedDict(
    "SubtaskAccumulators",
    {"subtask": int, "attempt": int, "endpoint": str, "user-accumulators": list[Accumulator]},
)


class SubtasksAccumulators(TypedDict):
    id: str
    parallelism: int
    subtasks: list[SubtaskAccumulators]


JobAccumulators = TypedDict(
    "JobAccumulators",
    {
        "job-accumulators": list[Accumulator],
        "user-task-accumulators": list[Accumulator],
        "serialized-user-task-accumulators": dict[str, str],
    },
)


def vertex_details(vertex: VertexView, now_ms: int) -> VertexDetails:
    return {
        "id": vertex.id,
        "name": vertex.name,
        "parallelism": vertex.parallelism,
        "maxParallelism": vertex.max_parallelism,
        "now": now_ms,
        "subtasks": [subtask_details(subtask, now_ms) for subtask in vertex.subtasks],
        "aggregated": _aggregated(vertex.subtasks, now_ms),
        "resources": vertex.resources,
    }


def subtask_details(subtask: SubtaskView, now_ms: int) -> SubtaskDetails:
    times = subtask_times(subtask, now_ms)
    return {
        "subtask": subtask.index,
        "status": subtask_state(subtask.state),
        "attempt": subtask.attempt,
        "endpoint": endpoint_of(subtask),
        "start-time": times.start_ms,
        "end-time": times.end_ms,
        "duration": times.duration_ms,
        "metrics": io_metrics([subtask]),
        "taskmanager-id": manager_of(subtask),
        "status-duration": status_durations(subtask, now_ms),
        "start_time": times.start_ms,
        "restore": restore_of(subtask),
    }


def restore_of(subtask: SubtaskView) -> Restore:
    restored = subtask.metrics.details.restored
    return {"bytes": restored.done, "total-bytes": restored.total, "local-bytes": restored.local}


def endpoint_of(subtask: SubtaskView) -> str:
    return subtask.endpoint or "(unassigned)"


def manager_of(subtask: SubtaskView) -> str:
    return subtask.task_manager or "(unassigned)"


def _aggregated(subtasks: Sequence[SubtaskView], now_ms: int) -> AggregatedSubtasks:
    measured = [counted(subtask) for subtask in subtasks]
    lasted = [status_durations(subtask, now_ms) for subtask in subtasks]
    return {
        "metrics": {name: metric_statistics([one[name] for one in measured]) for name in COUNTED},
        "status-duration": {
            state: metric_statistics([one[state] for one in lasted if one[state] >= 0]) for state in LASTING_STATES
        },
    }


def subtask_times_of(vertex: VertexView, now_ms: int) -> SubtaskTimes:
    return {
        "id": vertex.id,
        "name": vertex.name,
        "now": now_ms,
        "subtasks": [
            {
                "subtask": subtask.index,
                "endpoint": endpoint_of(subtask),
                "duration": subtask_times(subtask, now_ms).duration_ms,
                "timestamps": entered_states(subtask),
            }
            for subtask in vertex.subtasks
        ],
    }


def task_managers_of(vertex: VertexView, now_ms: int) -> VertexTaskManagers:
    """Its subtasks grouped by where they run."""
    groups: dict[str, list[SubtaskView]] = {}
    for subtask in vertex.subtasks:
        groups.setdefault(manager_of(subtask), []).append(subtask)
    return {
        "id": vertex.id,
        "name": vertex.name,
        "now": now_ms,
        "taskmanagers": [_group(manager, subtasks, now_ms) for manager, subtasks in groups.items()],
    }


def _group(manager: str, subtasks: list[SubtaskView], now_ms: int) -> VertexTaskManager:
    times = vertex_times(subtasks, now_ms)
    return {
        "endpoint": endpoint_of(subtasks[0]),
        "status": aggregate_state(subtasks),
        "start-time": times.start_ms,
        "end-time": times.end_ms,
        "duration": times.duration_ms,
        "metrics": io_metrics(subtasks),
        "status-counts": count_subtasks(subtasks),
        "taskmanager-id": manager,
        "aggregated": _aggregated(subtasks, now_ms),
    }


def backpressure_level(ratio: float) -> Level:
    if ratio <= LOW_RATIO:
        return "ok"
    return "low" if ratio <= HIGH_RATIO else "high"


def backpressure(vertex: VertexView, now_ms: int) -> Backpressure:
    """The vertex is as bad as its worst subtask."""
    subtasks = [_subtask_backpressure(subtask) for subtask in vertex.subtasks]
    worst: Level = max((one["backpressureLevel"] for one in subtasks), key=LEVELS.index, default="ok")
    reported = [one.metrics.reported_at_ms for one in vertex.subtasks if one.metrics.reported_at_ms >= 0]
    return {
        "status": "ok",
        "backpressureLevel": worst,
        "backpressure-level": worst,
        "end-timestamp": max(reported, default=now_ms),
        "subtasks": subtasks,
    }


def _subtask_backpressure(subtask: SubtaskView) -> SubtaskBackpressure:
    measured = subtask.metrics
    ratio = _ratio(measured.backpressured_rate)
    level: Level = backpressure_level(ratio)
    return {
        "subtask": subtask.index,
        "attempt-number": subtask.attempt,
        "backpressureLevel": level,
        "backpressure-level": level,
        "ratio": ratio,
        "idleRatio": _ratio(measured.idle_rate),
        "busyRatio": _ratio(measured.busy_rate),
    }


def _ratio(ms_per_second: float) -> float:
    return min(max(ms_per_second / MS_PER_SECOND, 0.0), 1.0)


def watermarks(vertex: VertexView) -> list[Watermark]:
    """Where the inputs of its subtasks are; a source has none."""
    if vertex.is_source:
        return []
    return [
        {"id": f"{subtask.index}.currentInputWatermark", "value": str(subtask.metrics.watermark)}
        for subtask in vertex.subtasks
    ]


# accumulators ----------------------------------------------------------------------------------------------------


def _accumulators(values: dict[str, float]) -> list[Accumulator]:
    return [
        {
            "name": name,
            "type": "LongCounter" if float(value).is_integer() else "DoubleCounter",
            "value": as_text(value),
        }
        for name, value in sorted(values.items())
    ]


def _sums(pairs: Iterable[tuple[VertexView, SubtaskView]]) -> list[Accumulator]:
    """'<operator>.<metric>', summed over the subtasks."""
    sums: dict[str, float] = {}
    for vertex, subtask in pairs:
        for (operator, metric), value in operator_counters(vertex, subtask).items():
            name = f"{operator}.{metric}"
            sums[name] = sums.get(name, 0) + value
    return _accumulators(sums)


def vertex_accumulators(vertex: VertexView) -> VertexAccumulators:
    return {"id": vertex.id, "user-accumulators": _sums((vertex, subtask) for subtask in vertex.subtasks)}


def subtask_accumulators(vertex: VertexView) -> SubtasksAccumulators:
    return {
        "id": vertex.id,
        "parallelism": vertex.parallelism,
        "subtasks": [
            {
                "subtask": subtask.index,
                "attempt": subtask.attempt,
                "endpoint": endpoint_of(subtask),
                "user-accumulators": _sums([(vertex, subtask)]),
            }
            for subtask in vertex.subtasks
        ],
    }


def job_accumulators(vertices: Sequence[VertexView]) -> JobAccumulators:
    return {
        "job-accumulators": [],
        "user-task-accumulators": _sums((vertex, subtask) for vertex in vertices for subtask in vertex.subtasks),
        "serialized-user-task-accumulators": {},
    }
