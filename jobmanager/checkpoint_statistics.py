"""What is shown of checkpoints: those under way with who has acknowledged, the newest ones that have ended, sums.

Told by checkpointing.py what happens to each. A checkpoint that is given up counts as failed, whatever the reason, so
that triggered = completed + failed + in progress. Durations are measured where they pass, on the subtask's own clock,
with one exception: the start delay, from the trigger (the master's clock) to the arrival of the first barrier (the
subtask's). Clocks of machines differ, so it is held within what the master has seen: it cannot be negative, and
together with the other phases not longer than from the trigger to the acknowledgement.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace

from ..runtime.graph.job_graph import JobGraph
from ..state.ids import CheckpointId
from ..state.savepoints.savepoint_store import is_savepoint
from ..state.snapshots import SubtaskSnapshot
from ..taskmanager.messages import SubtaskId
from .checkpoint_coordinator import Checkpoint
from .views import NEVER, CheckpointSubtaskView, CheckpointsView, CheckpointView, RestoredView, vertex_hex

HISTORY = 10
"""Checkpoints that have ended and are kept; as many as Flink keeps."""


@dataclass(slots=True)
class _UnderWay:
    checkpoint: Checkpoint
    acknowledged: dict[str, list[CheckpointSubtaskView]] = field(default_factory=dict)
    latest_ack_ms: int = NEVER


class CheckpointStatistics:
    """Of one job, over all attempts of this master's life."""

    def __init__(self, job_graph: JobGraph, storage: str) -> None:
        """`storage`: what stands in front of objects' names in a path; empty: names are relative to the store."""
        self._expected = {vertex_hex(vertex.id): vertex.parallelism for vertex in job_graph.vertices}
        self._storage = storage.rstrip("/")
        self._under_way: dict[CheckpointId, _UnderWay] = {}
        self._ended: deque[CheckpointView] = deque(maxlen=HISTORY)
        self._latest_completed: CheckpointView | None = None
        self._latest_savepoint: CheckpointView | None = None
        self._latest_failed: CheckpointView | None = None
        self._latest_restored: RestoredView | None = None
        self._triggered = self._completed = self._failed = self._restored = 0

    # ---- what happens

    def triggered(self, checkpoint: Checkpoint) -> None:
        """One of which nothing is kept (checkpoints are off) is not shown."""
        if checkpoint.persist:
            self._triggered += 1
            self._under_way[checkpoint.id] = _UnderWay(checkpoint)

    def acknowledged(self, checkpoint_id: CheckpointId, subtask: SubtaskId, now_ms: int) -> None:
        """For the first time, and the coordinator has its snapshot."""
        under_way = self._under_way.get(checkpoint_id)
        if under_way is not None:
            checkpoint = under_way.checkpoint
            shown = _subtask_view(checkpoint.snapshots[subtask], subtask.index, checkpoint.triggered_at_ms, now_ms)
            under_way.acknowledged.setdefault(vertex_hex(subtask.vertex), []).append(shown)
            under_way.latest_ack_ms = now_ms

    def completed(self, checkpoint: Checkpoint, now_ms: int) -> None:
        """It counts: it is in the log, or it is a savepoint whose document is in the store."""
        under_way = self._under_way.pop(checkpoint.id, None)
        if under_way is not None:
            self._completed += 1
            savepoint = checkpoint.savepoint
            path = savepoint.path if savepoint is not None else self._path(checkpoint.metadata_name or "")
            shown = replace(self._view(under_way, "COMPLETED", now_ms), external_path=path)
            self._ended.append(shown)
            if savepoint is None:
                self._latest_completed = shown
            else:
                self._latest_savepoint = shown

    def failed(self, checkpoint: Checkpoint, reason: str, now_ms: int) -> None:
        under_way = self._under_way.pop(checkpoint.id, None)
        if under_way is not None:
            self._failed += 1
            shown = replace(self._view(under_way, "FAILED", now_ms), failure=reason, failure_ms=now_ms)
            self._ended.append(shown)
            self._latest_failed = shown

    def discarded(self, up_to: CheckpointId) -> None:
        """The objects of these are deleted. Not those of savepoints."""
        for index, shown in enumerate(self._ended):
            if shown.id <= up_to and shown.status == "COMPLETED" and not (shown.discarded or shown.is_savepoint):
                self._ended[index] = replace(shown, discarded=True)
        latest = self._latest_completed
        if latest is not None and latest.id <= up_to:
            self._latest_completed = replace(latest, discarded=True)

    def discarded_all(self) -> None:
        """The job has ended, and keeps none."""
        if self._latest_completed is not None:
            self.discarded(CheckpointId(self._latest_completed.id))

    def restored(self, checkpoint_id: CheckpointId, metadata_name: str, now_ms: int) -> None:
        """An attempt begins with it."""
        self._restored += 1
        if is_savepoint(metadata_name):
            self._latest_restored = RestoredView(checkpoint_id, now_ms, metadata_name, is_savepoint=True)
        else:
            self._latest_restored = RestoredView(checkpoint_id, now_ms, self._path(metadata_name))

    # ---- what is shown

    def view(self, now_ms: int) -> CheckpointsView:
        in_progress = [self._view(each, "IN_PROGRESS", now_ms) for each in self._under_way.values()]
        history = sorted((*self._ended, *in_progress), key=lambda shown: -shown.id)
        return CheckpointsView(
            triggered=self._triggered,
            completed=self._completed,
            failed=self._failed,
            in_progress=len(in_progress),
            restored_count=self._restored,
            history=tuple(history),
            latest_completed=self._latest_completed,
            latest_savepoint=self._latest_savepoint,
            latest_failed=self._latest_failed,
            latest_restored=self._latest_restored,
        )

    def _view(self, under_way: _UnderWay, status: str, now_ms: int) -> CheckpointView:
        checkpoint = under_way.checkpoint
        subtasks = [shown for each in under_way.acknowledged.values() for shown in each]
        return CheckpointView(
            id=checkpoint.id,
            attempt=checkpoint.attempt,
            status=status,
            triggered_ms=checkpoint.triggered_at_ms,
            expected_subtasks=self._expected,
            acknowledged={
                vertex: tuple(sorted(shown, key=lambda each: each.index))
                for vertex, shown in under_way.acknowledged.items()
            },
            latest_ack_ms=under_way.latest_ack_ms,
            duration_ms=max(0, now_ms - checkpoint.triggered_at_ms),
            checkpointed_bytes=sum(each.checkpointed_bytes for each in subtasks),
            state_bytes=sum(each.state_bytes for each in subtasks),
            is_savepoint=checkpoint.savepoint is not None,
            stops_job=checkpoint.savepoint is not None and checkpoint.savepoint.stop,
        )

    def _path(self, name: str) -> str:
        return f"{self._storage}/{name}" if self._storage else name


def _subtask_view(snapshot: SubtaskSnapshot, index: int, triggered_ms: int, now_ms: int) -> CheckpointSubtaskView:
    phases_ms = snapshot.align_ms + snapshot.sync_ms + snapshot.async_ms
    longest_ms = max(0.0, now_ms - triggered_ms - phases_ms)
    return CheckpointSubtaskView(
        index=index,
        ack_ms=now_ms,
        start_delay_ms=round(min(max(0.0, snapshot.start_delay_ms), longest_ms)),
        align_ms=round(snapshot.align_ms),
        sync_ms=round(snapshot.sync_ms),
        async_ms=round(snapshot.async_ms),
        checkpointed_bytes=snapshot.uploaded_bytes,
        state_bytes=snapshot.state_bytes,
        processed_bytes=snapshot.processed_bytes,
        persisted_bytes=snapshot.in_flight_bytes,
        unaligned=snapshot.unaligned,
    )
