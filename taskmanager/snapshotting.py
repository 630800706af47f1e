"""From barrier to handles, and back: the programs that write a subtask's snapshot and fetch what it is restored from.

The synchronous part of a snapshot is over when these programs are built (operators have frozen their state); they
run on helper threads, operator after operator, and their result is acknowledged to the job master.
"""

from __future__ import annotations

from pathlib import Path

from ..runtime.clock import Clock
from ..runtime.elements import MIN_WATERMARK
from ..runtime.operators.operator import RestoredState
from ..state.checkpoint_store import CheckpointStore
from ..state.ids import OperatorId, VertexId
from ..state.objects import Program
from ..state.snapshots import OperatorSnapshot, SubtaskSnapshot
from .messages import RestoreOperator


def subtask_snapshot(
    programs: list[Program[OperatorSnapshot]],
    vertex: VertexId,
    subtask: int,
    align_ms: float,
    sync_ms: float,
    clock: Clock,
) -> Program[SubtaskSnapshot]:
    began_ns = clock.monotonic_ns()
    operators: list[OperatorSnapshot] = []
    for program in programs:
        snapshot = yield from program
        operators.append(snapshot)
    async_ms = (clock.monotonic_ns() - began_ns) / 1e6
    uploaded = sum(f.size_bytes for op in operators for handle in op.keyed for f in handle.files.values())
    return SubtaskSnapshot(vertex, subtask, tuple(operators), align_ms, sync_ms, async_ms, uploaded)


def fetch_restored(
    restore: tuple[RestoreOperator, ...], store: CheckpointStore, directory: Path
) -> Program[dict[OperatorId, RestoredState]]:
    """Download all keyed files, each handle into a directory of its own; merge what the old subtasks left."""
    restored: dict[OperatorId, RestoredState] = {}
    for operator in restore:
        keyed = []
        for number, handle in enumerate(h for snapshot in operator.snapshots for h in snapshot.keyed):
            target = directory / f"{operator.operator_id}-{number}"
            yield from store.fetch(handle, target)
            keyed.append((handle, target))
        snapshots = operator.snapshots
        restored[operator.operator_id] = RestoredState(
            keyed=keyed,
            operator_states=[s.operator_state for s in snapshots if s.operator_state is not None],
            splits=[split for s in snapshots for split in s.splits],
            watermark=min((s.watermark for s in snapshots), default=MIN_WATERMARK),
            idle=bool(snapshots) and all(s.idle for s in snapshots),
        )
    return restored
