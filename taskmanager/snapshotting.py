"""From barrier to handles, and back: the programs that write a subtask's snapshot and fetch what it is restored from.

The synchronous part of a snapshot is over when these programs are built (operators have frozen their state); they
run on helper threads, operator after operator, and their result is acknowledged to the job master.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ..runtime.clock import Clock
from ..runtime.elements import MIN_WATERMARK
from ..runtime.operators.operator import RestoredState
from ..state.ids import CheckpointId, OperatorId
from ..state.operator_state import RestoredElements
from ..state.snapshots import InFlightHandle, KeyedHandle, OperatorSnapshot, SubtaskSnapshot
from ..state.store.downloads import Downloads
from ..state.store.local_copies import LocalCopies
from ..state.store.objects import Program, Put, PutFile
from ..state.store.packing import SubtaskUploads
from .in_flight import Recovered, fetch_in_flight
from .messages import RestoreOperator, SubtaskId

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Arrival:
    """What is known of a subtask's checkpoint when its synchronous part is over."""

    align_ms: float
    sync_ms: float
    start_delay_ms: float
    processed_bytes: int


def subtask_snapshot(
    subtask: SubtaskId,
    checkpoint_id: CheckpointId,
    programs: list[Program[OperatorSnapshot]],
    uploads: SubtaskUploads,
    arrival: Arrival,
    clock: Clock,
) -> Program[SubtaskSnapshot]:
    began_ns = clock.monotonic_ns()
    operators: list[OperatorSnapshot] = []
    written: dict[str, int] = {}
    try:
        for program in programs:
            snapshot = yield from noting(program, written)
            operators.append(snapshot)
        yield from noting(uploads.finish(checkpoint_id), written)
        copies = uploads.of(checkpoint_id).copies
        if copies is not None:
            copies.needed((file.name for operator in operators for file in operator.files()), checkpoint_id)
    finally:
        uploads.forget(checkpoint_id)
    files = sum(file.size_bytes for operator in operators for file in operator.files())
    inline = sum(map(_inline_bytes, operators))
    return SubtaskSnapshot(
        subtask.vertex,
        subtask.index,
        tuple(operators),
        arrival.align_ms,
        arrival.sync_ms,
        async_ms=(clock.monotonic_ns() - began_ns) / 1e6,
        uploaded_bytes=sum(written.values()) + inline,
        state_bytes=files + inline,
        start_delay_ms=arrival.start_delay_ms,
        processed_bytes=arrival.processed_bytes,
    )


def noting(program: Program[T], written: dict[str, int]) -> Program[T]:
    """The same program; what it writes is noted, object -> bytes. (A try that is repeated counts once.)"""
    answer: Any = None
    error: Exception | None = None
    try:
        while True:
            try:
                op = program.send(answer) if error is None else program.throw(error)
            except StopIteration as stop:
                result: T = stop.value
                return result
            if isinstance(op, Put):
                written[op.name] = len(op.data)
            elif isinstance(op, PutFile):
                written[op.name] = op.path.stat().st_size
            answer, error = None, None
            try:
                answer = yield op
            except Exception as failure:  # the program decides which failures it can handle
                error = failure
    finally:
        program.close()


def _inline_bytes(operator: OperatorSnapshot) -> int:
    """What stands in the checkpoint's metadata itself."""
    return (
        len(operator.operator_state or b"")
        + sum(len(handle.meta) for handle in operator.keyed)
        + sum(len(split.state) + len(split.watermark_state) for split in operator.splits)
        + sum(map(len, operator.committables))
        + sum(len(state.inline) for state in operator.lists)
    )


@dataclass(frozen=True, slots=True)
class RestoredSubtask:
    operators: dict[OperatorId, RestoredState]
    in_flight: list[Recovered]
    """To be sent again, in this order."""


def fetch_restored(
    restore: tuple[RestoreOperator, ...],
    in_flight: tuple[InFlightHandle, ...],
    downloads: Downloads,
    directory: Path,
) -> Program[RestoredSubtask]:
    """Fetch all files of state, keyed handles into a directory each; merge what the old subtasks left."""
    keyed = {operator.operator_id: _placed(operator, directory) for operator in restore}
    placed = [each for handles in keyed.values() for each in handles]
    elements = [state.file for operator in restore for snapshot in operator.snapshots for state in snapshot.lists]
    downloads.expect(
        (file for handle, _ in placed for file in handle.files.values()),
        [*(file for file in elements if file is not None), *(handle.file for handle in in_flight)],
    )
    yield from downloads.fetch(placed)
    restored: dict[OperatorId, RestoredState] = {}
    for operator in restore:
        snapshots = operator.snapshots
        lists = []
        for state in (state for snapshot in snapshots for state in snapshot.lists):
            data = state.inline if state.file is None else (yield from downloads.fetch_bytes(state.file))
            lists.append(RestoredElements.of(state, data))
        restored[operator.operator_id] = RestoredState(
            keyed=keyed[operator.operator_id],
            operator_states=[s.operator_state for s in snapshots if s.operator_state is not None],
            splits=[split for s in snapshots for split in s.splits],
            watermark=min((s.watermark for s in snapshots), default=MIN_WATERMARK),
            idle=bool(snapshots) and all(s.idle for s in snapshots),
            lists=lists,
            found=True,
        )
    return RestoredSubtask(restored, (yield from fetch_in_flight(in_flight, downloads)))


def _placed(operator: RestoreOperator, directory: Path) -> list[tuple[KeyedHandle, Path]]:
    handles = (handle for snapshot in operator.snapshots for handle in snapshot.keyed)
    return [(handle, directory / f"{operator.operator_id}-{number}") for number, handle in enumerate(handles)]


def dropping(copies: LocalCopies, completed: CheckpointId) -> Program[None]:
    """Deletes what that checkpoint makes superfluous."""
    copies.completed(completed)
    return
    yield  # a program that asks nothing of the store
