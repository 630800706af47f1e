"""One operator alone: records, watermarks and time in; results, side outputs and snapshots out.

    from penstock.runtime.keys import KeyByFunction
    from penstock.runtime.operators.keyed_process import KeyedProcessOperator
    from penstock.runtime.records.record_types import OPAQUE
    from penstock.testing import OperatorHarness, rescaled

    with OperatorHarness(KeyedProcessOperator(Rapid(), KeyByFunction(lambda c: c.user), OPAQUE)) as harness:
        harness.push([click], timestamps=[1_000])
        harness.watermark(5_000)
        assert harness.output == [...]
        snapshot = harness.snapshot()

    first, second = rescaled(make_operator, [snapshot], parallelism=2)

The operator runs as in a slot: pickled and unpickled first, with real keyed state (in memory, or RocksDB), timers
and snapshots. Its clock is a ManualClock; the harness calls what a task would call between batches. A subtask of
several accepts the keys of its own key groups only: `subtask_for` says whose a key is.
"""

from __future__ import annotations

import itertools
import shutil
import tempfile
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from ..jobmanager.restore import lists_for
from ..runtime.batch import NO_TIMESTAMP, Batch
from ..runtime.calls import MakeCalls, no_calls
from ..runtime.elements import MIN_WATERMARK, Watermark, WatermarkStatus
from ..runtime.metrics import MetricGroup
from ..runtime.model_workers import MakeWorkers, no_workers
from ..runtime.operator_state import OperatorState
from ..runtime.operators.operator import Operator, OperatorContext, RestoredState, drained
from ..runtime.records.record_types import OPAQUE, RecordType, record_type_of
from ..state.backend import KeyedStateBackend
from ..state.backend_factory import create_keyed_backend
from ..state.ids import Attempt, CheckpointId, JobId, OperatorId
from ..state.key_groups import KeyGroupRange, key_group, subtask_of
from ..state.operator_state import RestoredElements
from ..state.serialization.pickling import dumps, loads
from ..state.snapshots import KeyedHandle, OperatorSnapshot, OperatorStateHandle
from ..state.store.checkpoint_store import CheckpointStore, Uploads
from ..state.store.objects import ObjectStore, Program, run_program
from ..state.store.obstore_objects import ObstoreObjects
from .clock import ManualClock

BackendKind = Literal["heap", "rocksdb"]

_STORE = ObstoreObjects("memory://")
"""Snapshots of all harnesses of the process."""
_names = itertools.count()


def _new_name() -> str:
    return f"harness-{next(_names)}"


def subtask_for(key: Any, parallelism: int, max_parallelism: int = 128) -> int:
    """The subtask that a record of this (normalised) key goes to."""
    return subtask_of(key_group(key, max_parallelism), parallelism, max_parallelism)


class OperatorHarness:
    """Use it as a context manager: it opens the operator, and closes it at the end."""

    def __init__(
        self,
        operator: Operator,
        *,
        record_type: RecordType | Any = OPAQUE,
        subtask: int = 0,
        parallelism: int = 1,
        max_parallelism: int = 128,
        backend: BackendKind = "heap",
        restored: Sequence[OperatorSnapshot] = (),
        clock: ManualClock | None = None,
        job_parameters: dict[str, str] | None = None,
        store: ObjectStore = _STORE,
        calls: MakeCalls = no_calls,
        workers: MakeWorkers = no_workers,
    ) -> None:
        """record_type: of the records that are pushed. restored: snapshots of the subtasks before (all of them). calls:
        of asynchronous functions (ManualCalls). workers: of pools of models (ManualWorkers)."""
        self.operator: Operator = loads(dumps(operator))
        self.clock = clock or ManualClock()
        self.metrics = MetricGroup(self.clock)
        self.batches: list[Batch] = []
        self.side_batches: dict[str, list[Batch]] = {}
        self.elements: list[Watermark | WatermarkStatus] = []
        """Watermarks and statuses that the operator made itself."""
        self.requests = 0
        """How often a source has asked for a split."""
        self._record_type = record_type_of(record_type)
        self._subtask = subtask
        self._parallelism = parallelism
        self._max_parallelism = max_parallelism
        self._backend_kind: BackendKind = backend
        self._restored = tuple(restored)
        self._job_parameters = job_parameters or {}
        self._objects = store
        self._calls = calls
        self._workers = workers
        self._checkpoints = CheckpointStore(JobId("harness"), _new_name)
        self._next_checkpoint = 1
        self._watermark = min((snapshot.watermark for snapshot in restored), default=MIN_WATERMARK)
        self._directory: Path | None = None
        self._state = RestoredState()

    # life

    def open(self) -> OperatorHarness:
        """Once; a second call does nothing."""
        if self._directory is not None:
            return self
        self._directory = Path(tempfile.mkdtemp(prefix="penstock-harness-"))
        self._remove_directory = weakref.finalize(self, shutil.rmtree, self._directory, ignore_errors=True)
        self._state = self._restored_state(self._directory)
        self.operator.open(self._context(self._directory), self._state)
        return self

    def close(self) -> None:
        try:
            self.operator.close()
        finally:
            if self._directory is not None:
                self._remove_directory()

    def __enter__(self) -> OperatorHarness:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # in

    def push(self, rows: Sequence[Any], timestamps: Sequence[int] | None = None, input_index: int = 0) -> None:
        """One batch of records."""
        self.push_batch(
            Batch.of_rows(self._record_type, list(rows), None if timestamps is None else list(timestamps)), input_index
        )

    def push_batch(self, batch: Batch, input_index: int = 0) -> None:
        self._fire_due_timers()
        self.operator.process_batch(batch, input_index)
        self.operator.between_batches()

    def watermark(self, timestamp: int) -> None:
        """One that is not newer than the last does nothing, as in a task."""
        if timestamp > self._watermark:
            self._watermark = timestamp
            drained(self.operator.process_watermark(Watermark(timestamp)))

    def advance_time(self, duration_ms: int) -> None:
        """Move the clock, and fire what is due by then."""
        self.clock.advance(duration_ms)
        self._fire_due_timers()

    def end_input(self) -> None:
        drained(self.operator.end_input())

    def _fire_due_timers(self) -> None:
        if self._directory is None:
            raise ValueError("the harness is not open: use it as a context manager, or call open()")
        now_ms = self.clock.now_ms()
        due_ms = self.operator.next_processing_timer()
        if due_ms is not None and due_ms <= now_ms:
            drained(self.operator.advance_processing_time(now_ms))

    # out

    @property
    def output(self) -> list[Any]:
        """All results so far."""
        return [row for batch in self.batches for row in batch.rows()]

    @property
    def timed_output(self) -> list[tuple[Any, int | None]]:
        """The same with their timestamps."""
        return _timed(self.batches)

    def side_output(self, tag: Any) -> list[Any]:
        """Of an OutputTag, or the name of one."""
        return [row for batch in self.side_batches.get(getattr(tag, "name", tag), ()) for row in batch.rows()]

    def timed_side_output(self, tag: Any) -> list[tuple[Any, int | None]]:
        return _timed(self.side_batches.get(getattr(tag, "name", tag), []))

    @property
    def watermarks(self) -> list[int]:
        """Those that the operator made itself."""
        return [element.timestamp for element in self.elements if isinstance(element, Watermark)]

    def take(self) -> list[Any]:
        """Results since the last take; forgets everything that was given out."""
        rows = self.output
        self.batches, self.side_batches, self.elements = [], {}, []
        return rows

    # checkpoints

    def snapshot(self) -> OperatorSnapshot:
        """Take a checkpoint, completely, and tell the operator of its completion."""
        checkpoint = CheckpointId(self._next_checkpoint)
        snapshot = self.finish(self.begin_snapshot())
        self.operator.checkpoint_completed(checkpoint)
        return snapshot

    def savepoint(self) -> OperatorSnapshot:
        """Take a savepoint: state in a form that every backend restores. To the operator nothing follows from it."""
        checkpoint = CheckpointId(self._next_checkpoint)
        savepoint = self.finish(self.begin_snapshot(canonical=True))
        self.operator.checkpoint_aborted(checkpoint)
        return savepoint

    def begin_snapshot(self, *, canonical: bool = False) -> Program[OperatorSnapshot]:
        """The barrier only; `finish` does the rest. What comes in between does not belong to it. `canonical`: that of
        a savepoint."""
        checkpoint = CheckpointId(self._next_checkpoint)
        self._next_checkpoint += 1
        self.operator.prepare_barrier(checkpoint)
        program = self.operator.take_snapshot(checkpoint, canonical=canonical)
        if program is None:
            raise ValueError(f"{type(self.operator).__name__} has no state")
        return program

    def finish(self, program: Program[OperatorSnapshot]) -> OperatorSnapshot:
        return run_program(program, self._objects)

    def _restored_state(self, directory: Path) -> RestoredState:
        own = KeyGroupRange.of_subtask(self._subtask, self._parallelism, self._max_parallelism)
        keyed: list[tuple[KeyedHandle, Path]] = []
        handles = [handle for snapshot in self._restored for handle in snapshot.keyed]
        for number, handle in enumerate(handles):
            if len(KeyGroupRange(handle.first_key_group, handle.last_key_group).intersection(own)):
                run_program(self._checkpoints.fetch(handle, directory / f"restored-{number}"), self._objects)
                keyed.append((handle, directory / f"restored-{number}"))
        mine = self._restored[self._subtask :: self._parallelism]
        lists = lists_for(dict(enumerate(self._restored)), self._subtask, self._parallelism, len(self._restored))
        return RestoredState(
            keyed=keyed,
            operator_states=[each.operator_state for each in mine if each.operator_state is not None],
            splits=[split for each in mine for split in each.splits],
            watermark=self._watermark,
            idle=bool(self._restored) and all(each.idle for each in self._restored),
            lists=[RestoredElements.of(state, self._elements(state)) for state in lists],
            found=bool(self._restored),
        )

    def _elements(self, state: OperatorStateHandle) -> bytes:
        if state.file is None:
            return state.inline
        return run_program(self._checkpoints.fetch_bytes(state.file), self._objects)

    # what the operator is given

    def _context(self, directory: Path) -> OperatorContext:
        return OperatorContext(
            operator_id=OperatorId("operator"),
            operator_name="operator",
            task_name="task",
            subtask=self._subtask,
            parallelism=self._parallelism,
            max_parallelism=self._max_parallelism,
            attempt=Attempt(1),
            output=_Output(self),
            clock=self.clock,
            metrics=self.metrics,
            keyed_backend=self._keyed_backend,
            new_name=_new_name,
            work_directory=directory,
            uploads=self._uploads,
            operator_state=OperatorState(
                "operator", self._subtask, self._state.lists, self._uploads, is_restored=self._state.found
            ),
            job_id="harness",
            job_name="harness",
            job_parameters=self._job_parameters,
            calls=self._calls,
            workers=self._workers,
            request_input=self._requested,
        )

    def _keyed_backend(self) -> KeyedStateBackend:
        assert self._directory is not None
        return create_keyed_backend(
            self._backend_kind,
            operator_name="operator",
            key_groups=KeyGroupRange.of_subtask(self._subtask, self._parallelism, self._max_parallelism),
            max_parallelism=self._max_parallelism,
            directory=self._directory / "state",
            uploads=self._uploads,
            now_ms=self.clock.now_ms,
            restored=self._state.keyed,
        )

    def _uploads(self, checkpoint: CheckpointId) -> Uploads:
        return self._checkpoints.uploads(Attempt(1), checkpoint)

    def _requested(self) -> None:
        self.requests += 1


class _Output:
    def __init__(self, harness: OperatorHarness) -> None:
        self._harness = harness

    def emit(self, batch: Batch) -> None:
        self._harness.batches.append(batch)

    def emit_side(self, tag: str, batch: Batch) -> None:
        self._harness.side_batches.setdefault(tag, []).append(batch)

    def emit_watermark(self, watermark: Watermark) -> None:
        self._harness.elements.append(watermark)

    def emit_status(self, status: WatermarkStatus) -> None:
        self._harness.elements.append(status)

    def emit_at_once(self, element: Watermark | WatermarkStatus) -> None:
        self._harness.elements.append(element)


def rescaled(
    make: Callable[[], Operator], snapshots: Sequence[OperatorSnapshot], parallelism: int, **options: Any
) -> list[OperatorHarness]:
    """The subtasks of an operator restored at a parallelism, opened. Close them, or use each as a context manager."""
    return [
        OperatorHarness(make(), subtask=subtask, parallelism=parallelism, restored=snapshots, **options).open()
        for subtask in range(parallelism)
    ]


def _timed(batches: Sequence[Batch]) -> list[tuple[Any, int | None]]:
    return [
        (row, None if timestamp == NO_TIMESTAMP else timestamp)
        for batch in batches
        for row, timestamp in zip(batch.rows(), batch.timestamp_list(), strict=True)
    ]
