"""Checkpoints of a job: counts, statistics, history, one with its vertices, one vertex's subtasks, configuration.

Objects carry a `className` by which the Java client tells what it reads. Sizes: `checkpointed_size` is what was
written for this checkpoint, `state_size` all that it refers to.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NotRequired

from typing_extensions import TypedDict

from ..gateway import UnknownError
from ..views import NEVER, CheckpointConfigView, CheckpointSubtaskView, CheckpointsView, CheckpointView, RestoredView
from .statistics import StatsSummary, stats_summary

CheckpointClass = Literal["completed", "failed", "in_progress"]
_CLASSES: dict[str, CheckpointClass] = {"COMPLETED": "completed", "FAILED": "failed", "IN_PROGRESS": "in_progress"}


class Counts(TypedDict):
    restored: int
    total: int
    in_progress: int
    completed: int
    failed: int


class Summary(TypedDict):
    checkpointed_size: StatsSummary
    state_size: StatsSummary
    end_to_end_duration: StatsSummary
    alignment_buffered: StatsSummary
    processed_data: StatsSummary
    persisted_data: StatsSummary


class TaskCheckpoint(TypedDict):
    """Of one vertex."""

    id: int
    status: str
    latest_ack_timestamp: int
    checkpointed_size: int
    state_size: int
    end_to_end_duration: int
    alignment_buffered: int
    processed_data: int
    persisted_data: int
    num_subtasks: int
    num_acknowledged_subtasks: int


class Checkpoint(TypedDict):
    """`external_path` and `discarded` of a completed one, `failure_*` of a failed one."""

    className: CheckpointClass
    id: int
    status: str
    is_savepoint: bool
    savepointFormat: str | None
    trigger_timestamp: int
    latest_ack_timestamp: int
    checkpointed_size: int
    state_size: int
    end_to_end_duration: int
    alignment_buffered: int
    processed_data: int
    persisted_data: int
    num_subtasks: int
    num_acknowledged_subtasks: int
    checkpoint_type: str
    tasks: dict[str, TaskCheckpoint]
    external_path: NotRequired[str]
    discarded: NotRequired[bool]
    failure_timestamp: NotRequired[int]
    failure_message: NotRequired[str]


class Restored(TypedDict):
    id: int
    restore_timestamp: int
    is_savepoint: bool
    external_path: str


class Latest(TypedDict):
    completed: Checkpoint | None
    savepoint: Checkpoint | None
    failed: Checkpoint | None
    restored: Restored | None


class Checkpoints(TypedDict):
    counts: Counts
    summary: Summary
    latest: Latest
    history: list[Checkpoint]


SyncAsync = TypedDict("SyncAsync", {"sync": int, "async": int})
SyncAsyncSummary = TypedDict("SyncAsyncSummary", {"sync": StatsSummary, "async": StatsSummary})


class Alignment(TypedDict):
    buffered: int
    processed: int
    persisted: int
    duration: int


class AlignmentSummary(TypedDict):
    buffered: StatsSummary
    processed: StatsSummary
    persisted: StatsSummary
    duration: StatsSummary


class SubtaskSummary(TypedDict):
    checkpointed_size: StatsSummary
    state_size: StatsSummary
    end_to_end_duration: StatsSummary
    checkpoint_duration: SyncAsyncSummary
    alignment: AlignmentSummary
    start_delay: StatsSummary


class CompletedSubtask(TypedDict):
    className: Literal["completed"]
    index: int
    status: str
    ack_timestamp: int
    end_to_end_duration: int
    checkpointed_size: int
    state_size: int
    checkpoint: SyncAsync
    alignment: Alignment
    start_delay: int
    unaligned_checkpoint: bool
    aborted: bool


class PendingSubtask(TypedDict):
    className: Literal["pending"]
    index: int
    status: str


class TaskCheckpointDetails(TaskCheckpoint):
    summary: SubtaskSummary
    subtasks: list[CompletedSubtask | PendingSubtask]


class Externalization(TypedDict):
    enabled: bool
    delete_on_cancellation: bool


class CheckpointConfig(TypedDict):
    mode: Literal["exactly_once", "at_least_once"]
    interval: int
    timeout: int
    min_pause: int
    max_concurrent: int
    externalization: Externalization
    state_backend: str
    checkpoint_storage: str
    unaligned_checkpoints: bool
    tolerable_failed_checkpoints: int
    aligned_checkpoint_timeout: int
    checkpoints_after_tasks_finish: bool
    state_changelog_enabled: bool
    changelog_periodic_materialization_interval: int
    changelog_storage: str


def checkpoints(view: CheckpointsView) -> Checkpoints:
    completed = [one for one in view.history if one.status == "COMPLETED"]
    return {
        "counts": {
            "restored": view.restored_count,
            "total": view.triggered,
            "in_progress": view.in_progress,
            "completed": view.completed,
            "failed": view.failed,
        },
        "summary": _summary(completed),
        "latest": {
            "completed": None if view.latest_completed is None else checkpoint(view.latest_completed),
            "savepoint": None if view.latest_savepoint is None else checkpoint(view.latest_savepoint),
            "failed": None if view.latest_failed is None else checkpoint(view.latest_failed),
            "restored": None if view.latest_restored is None else _restored(view.latest_restored),
        },
        "history": [checkpoint(one) for one in view.history],
    }


def _summary(completed: Sequence[CheckpointView]) -> Summary:
    return {
        "checkpointed_size": stats_summary([one.checkpointed_bytes for one in completed]),
        "state_size": stats_summary([one.state_bytes for one in completed]),
        "end_to_end_duration": stats_summary([one.duration_ms for one in completed]),
        "alignment_buffered": stats_summary([0 for _ in completed]),
        "processed_data": stats_summary([_processed(_acknowledged(one)) for one in completed]),
        "persisted_data": stats_summary([_persisted(_acknowledged(one)) for one in completed]),
    }


def _restored(view: RestoredView) -> Restored:
    return {
        "id": view.id,
        "restore_timestamp": view.restored_ms,
        "is_savepoint": view.is_savepoint,
        "external_path": view.external_path,
    }


def _acknowledged(view: CheckpointView) -> list[CheckpointSubtaskView]:
    return [subtask for subtasks in view.acknowledged.values() for subtask in subtasks]


def _processed(subtasks: Iterable[CheckpointSubtaskView]) -> int:
    return sum(subtask.processed_bytes for subtask in subtasks)


def _persisted(subtasks: Iterable[CheckpointSubtaskView]) -> int:
    return sum(subtask.persisted_bytes for subtask in subtasks)


def checkpoint(view: CheckpointView, *, with_tasks: bool = False) -> Checkpoint:
    """`tasks` stays empty where many checkpoints are listed."""
    acknowledged = _acknowledged(view)
    shown: Checkpoint = {
        "className": _CLASSES[view.status],
        "id": view.id,
        "status": view.status,
        "is_savepoint": view.is_savepoint,
        "savepointFormat": "CANONICAL" if view.is_savepoint else None,
        "trigger_timestamp": view.triggered_ms,
        "latest_ack_timestamp": view.latest_ack_ms,
        "checkpointed_size": view.checkpointed_bytes,
        "state_size": view.state_bytes,
        "end_to_end_duration": view.duration_ms,
        "alignment_buffered": 0,
        "processed_data": _processed(acknowledged),
        "persisted_data": _persisted(acknowledged),
        "num_subtasks": sum(view.expected_subtasks.values()),
        "num_acknowledged_subtasks": len(acknowledged),
        "checkpoint_type": _checkpoint_type(view, acknowledged),
        "tasks": {vertex: _task(view, vertex) for vertex in view.expected_subtasks} if with_tasks else {},
    }
    if view.status == "COMPLETED":
        shown["external_path"] = view.external_path
        shown["discarded"] = view.discarded
    elif view.status == "FAILED":
        shown["failure_timestamp"] = view.failure_ms
        shown["failure_message"] = view.failure
    return shown


def _checkpoint_type(view: CheckpointView, acknowledged: Iterable[CheckpointSubtaskView]) -> str:
    if view.is_savepoint:
        return "SYNC_SAVEPOINT" if view.stops_job else "SAVEPOINT"
    return "UNALIGNED_CHECKPOINT" if any(subtask.unaligned for subtask in acknowledged) else "CHECKPOINT"


def _task(view: CheckpointView, vertex_id: str) -> TaskCheckpoint:
    acknowledged = view.acknowledged.get(vertex_id, ())
    expected = view.expected_subtasks[vertex_id]
    latest_ms = max((subtask.ack_ms for subtask in acknowledged), default=NEVER)
    complete = len(acknowledged) == expected
    return {
        "id": view.id,
        "status": "COMPLETED" if complete else view.status,
        "latest_ack_timestamp": latest_ms,
        "checkpointed_size": sum(subtask.checkpointed_bytes for subtask in acknowledged),
        "state_size": sum(subtask.state_bytes for subtask in acknowledged),
        "end_to_end_duration": max(latest_ms - view.triggered_ms, 0) if acknowledged else NEVER,
        "alignment_buffered": 0,
        "processed_data": _processed(acknowledged),
        "persisted_data": _persisted(acknowledged),
        "num_subtasks": expected,
        "num_acknowledged_subtasks": len(acknowledged),
    }


def task_checkpoint(view: CheckpointView, vertex_id: str) -> TaskCheckpointDetails:
    """UnknownError: the vertex had no part in it."""
    if vertex_id not in view.expected_subtasks:
        raise UnknownError(f"vertex {vertex_id} has no part in checkpoint {view.id}")
    acknowledged = {subtask.index: subtask for subtask in view.acknowledged.get(vertex_id, ())}
    subtasks: list[CompletedSubtask | PendingSubtask] = [
        _completed_subtask(view, acknowledged[index]) if index in acknowledged else _pending_subtask(index)
        for index in range(view.expected_subtasks[vertex_id])
    ]
    return {
        **_task(view, vertex_id),
        "summary": _subtask_summary(view, list(acknowledged.values())),
        "subtasks": subtasks,
    }


def _duration_ms(view: CheckpointView, subtask: CheckpointSubtaskView) -> int:
    return max(subtask.ack_ms - view.triggered_ms, 0)


def _subtask_summary(view: CheckpointView, acknowledged: Sequence[CheckpointSubtaskView]) -> SubtaskSummary:
    return {
        "checkpointed_size": stats_summary([one.checkpointed_bytes for one in acknowledged]),
        "state_size": stats_summary([one.state_bytes for one in acknowledged]),
        "end_to_end_duration": stats_summary([_duration_ms(view, one) for one in acknowledged]),
        "checkpoint_duration": {
            "sync": stats_summary([one.sync_ms for one in acknowledged]),
            "async": stats_summary([one.async_ms for one in acknowledged]),
        },
        "alignment": {
            "buffered": stats_summary([0 for _ in acknowledged]),
            "processed": stats_summary([one.processed_bytes for one in acknowledged]),
            "persisted": stats_summary([one.persisted_bytes for one in acknowledged]),
            "duration": stats_summary([one.align_ms for one in acknowledged]),
        },
        "start_delay": stats_summary([one.start_delay_ms for one in acknowledged]),
    }


def _completed_subtask(view: CheckpointView, subtask: CheckpointSubtaskView) -> CompletedSubtask:
    return {
        "className": "completed",
        "index": subtask.index,
        "status": "completed",
        "ack_timestamp": subtask.ack_ms,
        "end_to_end_duration": _duration_ms(view, subtask),
        "checkpointed_size": subtask.checkpointed_bytes,
        "state_size": subtask.state_bytes,
        "checkpoint": {"sync": subtask.sync_ms, "async": subtask.async_ms},
        "alignment": {
            "buffered": 0,
            "processed": subtask.processed_bytes,
            "persisted": subtask.persisted_bytes,
            "duration": subtask.align_ms,
        },
        "start_delay": subtask.start_delay_ms,
        "unaligned_checkpoint": subtask.unaligned,
        "aborted": False,
    }


def _pending_subtask(index: int) -> PendingSubtask:
    return {"className": "pending", "index": index, "status": "pending_or_failed"}


def checkpoint_config(view: CheckpointConfigView) -> CheckpointConfig:
    return {
        "mode": "exactly_once" if view.exactly_once else "at_least_once",
        "interval": view.interval_ms,
        "timeout": view.timeout_ms,
        "min_pause": view.min_pause_ms,
        "max_concurrent": view.max_concurrent,
        "externalization": {"enabled": view.retained_on_cancel, "delete_on_cancellation": not view.retained_on_cancel},
        "state_backend": view.state_backend,
        "checkpoint_storage": view.storage,
        "unaligned_checkpoints": view.unaligned_after_ms is not None,
        "tolerable_failed_checkpoints": view.tolerable_failures,
        "aligned_checkpoint_timeout": view.unaligned_after_ms or 0,
        "checkpoints_after_tasks_finish": True,
        "state_changelog_enabled": False,
        "changelog_periodic_materialization_interval": NEVER,
        "changelog_storage": "",
    }
