"""Models over batches, each loaded once in a worker of a pool: map_batches of a class.

    records -> forming batch -> with a worker (model_pool.py) -> results -> given out (result_queue.py)

**Batches.** Records are gathered up to `batch_size`, because models like full batches. What is not full goes as it is
after the buffer timeout, if a worker has nothing to do; while all are busy it goes on growing. A watermark that comes
meanwhile waits behind the whole batch: records of the same batch may overtake it, never the reverse (PROTOCOLS 21).

**Time.** Nothing here waits: workers' answers come as mail, which only notes them, and are looked at when the task lets
the operator go on (async_io.py has the same life). A batch has `timeout` from when its worker begins with it; then the
operator fails, since a model that answers nothing holds up the whole job.

**Full.** At most `capacity` batches, or so many bytes, are held: waiting, with workers, or done and kept back by the
order. While there are more the task hands nothing to the chain.

**Exactly once.** The checkpoint holds the records whose results are not given out, those of the forming batch included.
After a restore they are gathered and sent anew, at any parallelism. Models may see a batch more than once; its results
go on once. A worker that dies is replaced, and what it had is sent again (model_pool.py).

The subtasks share the concurrency: each has its part of the workers, and there are never more subtasks than workers.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa

from ...state.descriptors import ListStateDescriptor
from ...state.errors import ConfigurationError, RecordTypeError
from ..batch import Batch, Int64Array
from ..elements import Watermark
from ..model_pool import MS, ModelPool, Order, PoolError, SendBatch, StartWorker
from ..model_workers import CallEnded, ModelSpec, NoRoomError, WorkerEnded, WorkerEvent, WorkerReady, Workers
from ..operator_state import CheckpointedFunction, FunctionInitializationContext, FunctionSnapshotContext
from ..records.batch_faces import as_batch
from ..records.packed_batches import packed, unpacked
from ..records.record_types import RecordType
from ..resources import NO_RESOURCES, Resources
from .operator import OperatorContext, RestoredState
from .queueing import QueueingOperator
from .result_queue import Entry, ResultQueue
from .user_code import raise_user_error, shown

MOST_BYTES = 64 * 2**20
"""Records that are held: they are in memory, some of them twice, and in every checkpoint."""
_TIMESTAMPS = "__timestamp"


@dataclass(frozen=True)
class PoolSettings:
    """How a pool works."""

    model: Any
    """A class, or what else makes a model when it is called."""
    face: str
    concurrency: int
    """Workers, over all subtasks."""
    batch_size: int
    capacity: int
    """Batches of one subtask that are held."""
    ordered: bool
    timeout_ms: int
    start_timeout_ms: int
    resources: Resources = NO_RESOURCES
    """Of each worker."""


@dataclass(slots=True, eq=False)
class _Held:
    """The records of one batch."""

    since_ns: int
    pieces: list[Batch] = field(default_factory=list)
    rows: int = 0
    size_bytes: int = 0
    whole: Batch | None = None
    """All pieces, once no more are added."""
    written: bytes | None = None
    """As it is in checkpoints, likewise."""
    deadline_ns: int | None = None
    """While a worker works on it."""

    def add(self, piece: Batch) -> None:
        self.pieces.append(piece)
        self.rows += len(piece)
        self.size_bytes += int(piece.columns().nbytes)

    def joined(self) -> Batch:
        if self.whole is not None:
            return self.whole
        if len(self.pieces) == 1:
            return self.pieces[0]
        columns = pa.Table.from_batches([piece.columns() for piece in self.pieces]).combine_chunks().to_batches()[0]
        timestamps = np.concatenate([piece.timestamps() for piece in self.pieces])
        return Batch.of_columns(self.pieces[0].record_type, columns, timestamps)


class ModelPoolOperator(QueueingOperator, CheckpointedFunction):
    """Gives out what a pool of models makes of the records."""

    face = "columns"
    stateful = True

    def __init__(self, settings: PoolSettings, input_type: RecordType, output_type: RecordType) -> None:
        self.settings = settings
        self.input_type = input_type
        self.output_type = output_type
        self.most_subtasks = settings.concurrency
        self._describe()

    def _describe(self) -> None:
        settings = self.settings
        each = f", each with {settings.resources}" if settings.resources else ""
        self.note = f"pool: {settings.concurrency} models{each}, batches of {settings.batch_size} records"

    def with_resources(self, resources: Resources) -> None:
        """While the pipeline is written down."""
        self.settings = replace(self.settings, resources=resources)
        self._describe()

    def open(self, context: OperatorContext, restored: RestoredState) -> None:
        super().open(context, restored)
        settings = self.settings
        parts, rest = divmod(settings.concurrency, context.parallelism)
        self._pool = ModelPool(max(1, parts + (context.subtask < rest)), settings.start_timeout_ms)
        self._workers: Workers | None = None
        self._queue = ResultQueue(ordered=settings.ordered)
        self._forming: Entry | None = None
        self._out: dict[int, Entry] = {}
        """With the pool, by the entry's number."""
        self._deadlines: deque[tuple[int, Entry]] = deque()
        """Of batches that workers have begun with, in that order; also some that are done, or were sent again."""
        self._events: list[WorkerEvent] = []
        """Not looked at yet."""
        self._held_bytes = 0
        metrics = context.metrics
        metrics.gauge("model_batches_held", lambda: len(self._queue))
        metrics.gauge("model_workers", lambda: self._pool.ready)
        self._lost = metrics.counter("model_workers_lost_total")
        self._sent_again = metrics.counter("model_batches_sent_again_total")
        context.operator_state.initialize(self)

    # what comes in

    def process_batch(self, batch: Batch, input_index: int) -> None:
        self._accept(batch)

    def _accept(self, batch: Batch) -> None:
        start, now_ns = 0, self.context.clock.monotonic_ns()
        while start < len(batch):
            if self._forming is None:
                self._forming = self._queue.add(_Held(now_ns), 0)
            held: _Held = self._forming.record
            piece = batch.slice(start, self.settings.batch_size - held.rows)
            before = held.size_bytes
            held.add(piece)
            self._held_bytes += held.size_bytes - before
            start += len(piece)
            if held.rows == self.settings.batch_size:
                self._close_batch()

    def _close_batch(self) -> None:
        """No more records are added to the forming batch: it goes to the pool."""
        entry = self._forming
        assert entry is not None
        self._forming = None
        held: _Held = entry.record
        held.whole = held.joined()
        held.pieces = []
        self._out[entry.number] = entry
        if self._workers is not None:
            self._carry_out(self._pool.submit(entry.number))

    @property
    def full(self) -> bool:
        closed = len(self._queue) - (self._forming is not None)
        return closed >= self.settings.capacity or self._held_bytes >= MOST_BYTES

    # what is going on

    def next_due_ns(self) -> int | None:
        if self._workers is None or self._events or self._queue.ready:
            return 0
        while self._deadlines and not _is_awaited(*self._deadlines[0]):
            self._deadlines.popleft()
        due = [self._pool.next_due_ns(), self._forming_due_ns()]
        if self._deadlines:
            due.append(self._deadlines[0][0])
        return min((at_ns for at_ns in due if at_ns is not None), default=None)

    def _forming_due_ns(self) -> int | None:
        """When it goes as it is: if somebody has nothing to do, or it cannot grow any more."""
        if self._forming is None or not (self._pool.idle or self._held_bytes >= MOST_BYTES):
            return None
        due_ns: int = self._forming.record.since_ns + self.context.buffer_timeout_ms * MS
        return due_ns

    def advance(self, now_ns: int) -> None:
        if self._workers is None:
            self._begin(now_ns)
        events, self._events = self._events, []
        try:
            for event in events:
                self._heard(event, now_ns)
            self._carry_out(self._pool.tick(now_ns))
        except PoolError as error:
            self._fail(error)
        self._look_at_deadlines(now_ns)
        due_ns = self._forming_due_ns()
        if due_ns is not None and due_ns <= now_ns:
            self._close_batch()
        self._give_out()

    def _begin(self, now_ns: int) -> None:
        settings = self.settings
        spec = ModelSpec(self.context.operator_name, settings.model, settings.face, settings.resources)
        self._workers = self.context.workers(spec, self._note)
        self._carry_out(self._pool.start(now_ns))
        for number in list(self._out):
            self._carry_out(self._pool.submit(number))

    def _note(self, event: WorkerEvent) -> None:
        """As mail: nothing here may fail."""
        self._events.append(event)

    def _carry_out(self, orders: Iterable[Order]) -> None:
        workers = self._workers
        assert workers is not None
        for order in orders:
            match order:
                case StartWorker(worker):
                    workers.start(worker)
                case SendBatch(worker, number):
                    held: _Held = self._out[number].record
                    assert held.whole is not None
                    workers.call(worker, number, held.whole.columns())
                    self._watch(worker)

    def _watch(self, worker: int) -> None:
        """The time of the batch that it works on now begins, if it has not."""
        number = self._pool.working_on(worker)
        entry = None if number is None else self._out[number]
        if entry is not None and entry.record.deadline_ns is None:
            deadline_ns = self.context.clock.monotonic_ns() + self.settings.timeout_ms * MS
            entry.record.deadline_ns = deadline_ns
            self._deadlines.append((deadline_ns, entry))

    def _heard(self, event: WorkerEvent, now_ns: int) -> None:
        match event:
            case WorkerReady(worker):
                self._carry_out(self._pool.worker_ready(worker))
            case WorkerEnded(worker, _, NoRoomError() as error):
                if not self._pool.no_room(worker, now_ns):  # a job that has run waits for its nodes
                    raise ConfigurationError(str(error)) if self.context.attempt == 1 else error
            case WorkerEnded(_, reason, error) if error is not None:
                raise_user_error(self.context, error, reason)
            case WorkerEnded(worker, reason):
                again = self._pool.worker_ended(worker, reason, now_ns)
                self._lost.inc()
                self._sent_again.inc(len(again))
                for number in again:
                    self._out[number].record.deadline_ns = None
            case CallEnded(worker, number, produced, error):
                if not self._pool.has(worker, number):  # it was believed to have ended, and another one has the batch
                    return
                entry = self._out.pop(number)
                if error is not None:
                    self._raise(error, entry)
                self._queue.complete(entry, [] if produced is None else [produced])
                self._carry_out(self._pool.answered(worker, number))
                self._watch(worker)

    def _look_at_deadlines(self, now_ns: int) -> None:
        while self._deadlines and self._deadlines[0][0] <= now_ns:
            deadline_ns, entry = self._deadlines.popleft()
            if _is_awaited(deadline_ns, entry):
                self._raise(TimeoutError(f"no result within {self.settings.timeout_ms} ms"), entry)

    def _raise(self, error: Exception, entry: Entry) -> None:
        if isinstance(error, RecordTypeError):
            raise error
        raise_user_error(self.context, error, _shown_batch(entry.record))

    def _fail(self, error: PoolError) -> None:
        entry = None if error.number is None else self._out.get(error.number)
        what = f" ({_shown_batch(entry.record)})" if entry is not None else ""
        raise PoolError(f"operator '{self.context.operator_name}', subtask {self.context.subtask}: {error}{what}")

    # what goes out

    def _give_out(self) -> None:
        """One batch, in the order; the task looks at its outputs and its mail before the next."""
        entries, marks = self._queue.take(1)
        for entry in entries:
            held: _Held = entry.record
            self._held_bytes -= held.size_bytes
            assert held.whole is not None
            for table in entry.results or ():
                self.output.emit(as_batch(table, held.whole.timestamps(), self.output_type, self.context.operator_name))
        for mark in marks:
            if isinstance(mark, Watermark):
                self.output.emit_watermark(mark)
            else:
                self.output.emit_status(mark)

    # checkpoints

    def initialize_state(self, context: FunctionInitializationContext) -> None:
        descriptor: ListStateDescriptor[bytes] = ListStateDescriptor("held batches", bytes)
        self._state = context.get_operator_state_store().get_list_state(descriptor)
        for written in self._state.get():
            self._accept(_read(written, self.input_type))
        self._state.clear()

    def snapshot_state(self, context: FunctionSnapshotContext) -> None:
        self._state.update(_written(entry.record) for entry in self._queue.entries())

    def close(self) -> None:
        if self._workers is not None:
            self._workers.close()


def _is_awaited(deadline_ns: int, entry: Entry) -> bool:
    return entry.results is None and entry.record.deadline_ns == deadline_ns


def _shown_batch(held: _Held) -> str:
    batch = held.joined()
    return f"on a batch of {len(batch)} records, the first of which is {shown(copy.copy(batch.slice(0, 1)).rows()[0])}"


def _written(held: _Held) -> bytes:
    if held.written is not None:
        return held.written
    batch = held.joined()
    timestamps: Int64Array = batch.timestamps()
    columns = batch.columns()
    written: bytes = packed(columns.append_column(_TIMESTAMPS, pa.array(timestamps))).to_pybytes()
    if held.whole is not None:
        held.written = written
    return written


def _read(written: bytes, record_type: RecordType) -> Batch:
    both = unpacked(written)
    *own, last = both.columns  # by its place: a field of the records may have that name, too
    columns, timestamps = pa.RecordBatch.from_arrays(own, schema=both.schema.remove(len(own))), last.to_numpy()
    schema = record_type.schema
    if schema is not None and columns.schema != schema:
        columns = columns.select(schema.names).cast(schema)
    return Batch.of_columns(record_type, columns, timestamps)
