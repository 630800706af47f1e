"""Bugs put in on purpose: each is a mistake that is easily made, in one place of the engine. The checkers must find
every one of them within some seeds that pass without it (tests/simulation); a checker that finds nothing is no proof.

Each is a context manager that replaces one method while it is entered. Those of state, windows and savepoints are in
seeded_state_bugs.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pyarrow as pa
import xxhash

from ..jobmanager.attempt_setup import AttemptSetup
from ..jobmanager.checkpointing import Checkpointing
from ..jobmanager.commits import Commits
from ..jobmanager.ending import Ending
from ..jobmanager.events import Command
from ..jobmanager.regions import Regions
from ..jobmanager.splits import SplitCoordinator
from ..jobmanager.watermark_alignment import WatermarkAlignments
from ..runtime.elements import MIN_WATERMARK, Barrier, Watermark
from ..runtime.model_workers import CallEnded, WorkerEvent
from ..runtime.operator_state import FunctionSnapshotContext
from ..runtime.operators.async_io import AsyncOperator
from ..runtime.operators.model_pool import ModelPoolOperator
from ..runtime.operators.sink import SinkOperator
from ..state.columns import column_snapshots
from ..state.columns.column_snapshots import ColumnSnapshots
from ..state.ids import Attempt, CheckpointId, OperatorId
from ..state.snapshots import FileHandle, KeyedHandle, OperatorSnapshot
from ..state.store import job_log
from ..state.store.objects import Program, create_once
from ..taskmanager import deployment
from ..taskmanager.exchange.alignment import Alignment, BarrierAligner
from ..taskmanager.exchange.gate import InputGate
from ..taskmanager.exchange.writers import OutputChannel
from ..taskmanager.in_flight import InFlight
from ..taskmanager.snapshotting import RestoredSubtask
from .seeded_state_bugs import STATE_BUGS, replaced
from .simulated_warehouse import Warehouse


def aligner_that_does_not_block() -> Any:
    """Records that follow a barrier get into the snapshot while other channels still wait for theirs."""

    def make(original: Any) -> Any:
        def barrier(
            self: BarrierAligner, channel: int, barrier: Barrier, now_ns: int, consumed_bytes: int
        ) -> Alignment | None:
            answer: Alignment | None = original(
                self, channel, replace(barrier, exactly_once=False), now_ns, consumed_bytes
            )
            return answer

        return barrier

    return replaced(BarrierAligner, "barrier", make)


def forgotten_barrier() -> Any:
    """The snapshot is taken when the barrier has come on all channels but one."""

    def make(original: Any) -> Any:
        def init(self: BarrierAligner, channels: int) -> None:
            original(self, max(1, channels - 1))

        return init

    return replaced(BarrierAligner, "__init__", make)


def double_commit() -> Any:
    """The committer does not look whether a transaction is committed already."""

    def make(original: Any) -> Any:
        def commit(self: Warehouse, names: Sequence[str]) -> None:
            again = [name for name in names if name in self.shown]
            original(self, names)
            for name in again:
                sink, rows = self.shown[name]
                self.visible[sink].extend(rows)

        return commit

    return replaced(Warehouse, "commit", make)


def commit_before_the_log() -> Any:
    """Committables become visible when the metadata is written, before the log says that the checkpoint counts."""

    def make(original: Any) -> Any:
        def metadata_written(self: Checkpointing, attempt: Attempt, checkpoint_id: CheckpointId, *rest: Any) -> None:
            checkpoint = self.coordinator.find(attempt, checkpoint_id)
            if checkpoint is not None:
                self._orders.give(*self._commits.add(checkpoint.committables(), self._graph.now_ms))
            original(self, attempt, checkpoint_id, *rest)

        return metadata_written

    return replaced(Checkpointing, "metadata_written", make)


def split_assigned_over_the_barrier() -> Any:
    """Assignments are not held back between the enumerator's snapshot and the readers' barriers."""

    def make(original: Any) -> Any:
        def snapshot(self: SplitCoordinator, checkpoint_id: CheckpointId) -> bytes:
            state: bytes = original(self, checkpoint_id)
            self._holds.clear()
            return state

        return snapshot

    return replaced(SplitCoordinator, "snapshot", make)


def file_of_an_aborted_checkpoint_reused() -> Any:
    """A file counts as re-usable as soon as its upload begins, and not when its checkpoint is known complete."""

    def make(original: Any) -> Any:
        def write(
            self: ColumnSnapshots, checkpoint_id: CheckpointId, epoch: int, chain: Any, copied: list[pa.RecordBatch],
            namespaces: list[int], fired: list[int],
        ) -> Program[tuple[KeyedHandle, ...]]:  # fmt: skip
            if not copied:
                nothing: tuple[KeyedHandle, ...] = yield from original(
                    self, checkpoint_id, epoch, chain, copied, namespaces, fired
                )
                return nothing
            layout = self._layout
            data, rows, groups = column_snapshots._encode(
                pa.concat_batches(copied), len(layout.key_types), self._max_parallelism
            )
            name = self._uploads(checkpoint_id)._name(shared=True)
            handle = FileHandle(name, len(data), xxhash.xxh3_128_hexdigest(data), True)
            chain = (*chain, (column_snapshots._File(f"{len(chain)}-{checkpoint_id}.arrow", rows, groups), handle))
            self._pending[checkpoint_id] = (epoch, chain)
            self.checkpoint_completed(checkpoint_id)
            yield from create_once(name, data)
            handles: tuple[KeyedHandle, ...] = yield from original(
                self, checkpoint_id, epoch, chain, [], namespaces, fired
            )
            return handles

        return write

    return replaced(ColumnSnapshots, "_write", make)


def watermark_not_restored() -> Any:
    """Operators and splits start without the watermark they had."""

    def make(original: Any) -> Any:
        def fetch(*arguments: Any) -> Program[RestoredSubtask]:
            restored: RestoredSubtask = yield from original(*arguments)
            for state in restored.operators.values():
                state.watermark = MIN_WATERMARK
                state.splits = [replace(split, watermark_state=b"") for split in state.splits]
            return restored

        return fetch

    return replaced(deployment, "fetch_restored", make)


def committable_handed_out_once() -> Any:
    """A sink forgets what it prepared for a checkpoint that is then aborted."""

    def make(original: Any) -> Any:
        def snapshot(self: SinkOperator, checkpoint_id: CheckpointId) -> Program[OperatorSnapshot]:
            self._prepared.clear()
            program: Program[OperatorSnapshot] = original(self, checkpoint_id)
            return program

        return snapshot

    return replaced(SinkOperator, "snapshot", make)


def hole_taken_for_the_end() -> Any:
    """Where entries of the log are deleted, who slept takes it for the log's end and writes there. Needs masters that
    sleep: no stormy seed shows it."""
    return replaced(job_log, "is_milestone", lambda original: lambda seq: True)


def splits_of_a_restarted_reader_forgotten() -> Any:
    """A reader that restarts while others go on does not get again what it was given since the checkpoint."""
    return replaced(SplitCoordinator, "restarted", lambda original: lambda self, subtask: [])


def output_of_survivors_cleaned_up() -> Any:
    """A restart of some subtasks removes pending output as a restart of all does."""

    def make(original: Any) -> Any:
        def deploy(self: AttemptSetup) -> None:
            for sink in self._parts.sinks.values():
                sink.cleanup(self._parts.job_id, self._parts.graph.attempt)
            original(self)

        return deploy

    return replaced(AttemptSetup, "_deploy", make)


def output_of_the_dead_left_pending() -> Any:
    """Nobody removes at the end of the job what subtasks of restarted regions had left."""
    return replaced(Ending, "_clean_sinks", lambda original: lambda self: None)


def late_answer_of_a_commit_heeded() -> Any:
    """What a commit says after its timeout, when the next try was faster, counts for the checkpoint that follows."""

    def make(original: Any) -> Any:
        def done(self: Commits, operator_id: OperatorId, number: int, failures: int, now_ms: int) -> list[Command]:
            queue = self._queues[operator_id]
            if queue.waiting:
                number, failures = queue.number, queue.failures
            commands: list[Command] = original(self, operator_id, number, failures, now_ms)
            return commands

        return done

    return replaced(Commits, "done", make)


def overtaken_output_forgotten() -> Any:
    """What waits for credit when an unaligned barrier overtakes it is not written down."""

    def make(original: Any) -> Any:
        def overtake(self: OutputChannel, barrier: Barrier, in_flight: InFlight) -> None:
            original(self, barrier, InFlight(barrier))

        return overtake

    return replaced(OutputChannel, "overtake", make)


def input_after_the_snapshot_forgotten() -> Any:
    """What arrives before its barrier, but after the unaligned snapshot, is not written down."""
    return replaced(InputGate, "_collect", lambda original: lambda self, frame: None)


def region_without_its_neighbours() -> Any:
    """Only what has failed restarts, and not what it is connected with."""
    return replaced(Regions, "of", lambda original: lambda self, failed: frozenset(failed))


def held_records_forgotten() -> Any:
    """What is under way to a service is not in the checkpoint."""
    return replaced(AsyncOperator, "snapshot_state", lambda original: lambda self, context: self._held.clear())


def watermark_ahead_of_held_results() -> Any:
    """It does not wait for what is under way to a service."""

    def make(original: Any) -> Any:
        def process_watermark(self: AsyncOperator, watermark: Watermark) -> Iterator[None]:
            self.output.emit_watermark(watermark)
            yield from ()

        return process_watermark

    return replaced(AsyncOperator, "process_watermark", make)


def batches_with_models_forgotten() -> Any:
    """The checkpoint holds the batch that is forming, and none that a model has."""

    def make(original: Any) -> Any:
        def snapshot_state(self: ModelPoolOperator, context: FunctionSnapshotContext) -> None:
            out, self._queue._entries = self._queue._entries, {}
            if self._forming is not None:
                self._queue._entries[self._forming.number] = self._forming
            original(self, context)
            self._queue._entries = out

        return snapshot_state

    return replaced(ModelPoolOperator, "snapshot_state", make)


def answer_of_a_dead_worker_counts() -> Any:
    """What a worker says that was given up goes out, and so does what the one says that got its batch."""

    def make(original: Any) -> Any:
        def heard(self: ModelPoolOperator, event: WorkerEvent, now_ns: int) -> None:
            match event:
                case CallEnded(worker, number, produced) if number in self._out and not self._pool.has(worker, number):
                    again = self._queue.add(self._out[number].record, 0)
                    self._queue.complete(again, [produced])
            original(self, event, now_ns)

        return heard

    return replaced(ModelPoolOperator, "_heard", make)


@contextmanager
def ended_sources_hold_the_others() -> Iterator[None]:
    """Of sources that are aligned, one that has read everything is waited for all the same: neither what it says of it
    counts, nor what the master knows. That a job is stuck shows after a long time: it is tested apart."""

    def make(original: Any) -> Any:
        return lambda self, report: None if report.watermark is None else original(self, report)

    everybody = replaced(WatermarkAlignments, "_holds", lambda original: lambda self, subtask: True)
    with everybody, replaced(WatermarkAlignments, "reported", make):
        yield


BUGS: dict[str, Callable[[], Any]] = {
    bug.__name__: bug
    for bug in (
        aligner_that_does_not_block,
        forgotten_barrier,
        double_commit,
        commit_before_the_log,
        split_assigned_over_the_barrier,
        file_of_an_aborted_checkpoint_reused,
        watermark_not_restored,
        committable_handed_out_once,
        splits_of_a_restarted_reader_forgotten,
        output_of_survivors_cleaned_up,
        output_of_the_dead_left_pending,
        region_without_its_neighbours,
        overtaken_output_forgotten,
        input_after_the_snapshot_forgotten,
        late_answer_of_a_commit_heeded,
        held_records_forgotten,
        watermark_ahead_of_held_results,
        batches_with_models_forgotten,
        answer_of_a_dead_worker_counts,
        *STATE_BUGS,
    )
}
