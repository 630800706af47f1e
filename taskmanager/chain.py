"""The operator chain of a subtask: a tree of operators that call each other directly.

The head reads the subtask's inputs; every other operator reads its parent's main output or one of its side outputs.
A batch runs through the whole tree, depth first, before the call returns. Where several consumers read one output,
each further one gets its own rows (PROTOCOLS 24).

Watermarks and the end of the input may make operators fire for long, so they are *work*: a generator that runs
operator by operator (fire, then forward), and yields where the task may look at outputs and mail. What an operator
that waits for answers sets off below itself is kept apart (`go_on`), because it may be done while the operator is full
and what is above it stands still, and because none of its next results may overtake it. The chain
remembers each operator's watermark and puts it into its snapshot (PROTOCOLS 12).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TypeVar

from ..runtime.batch import Batch
from ..runtime.elements import MAX_WATERMARK, MIN_WATERMARK, Barrier, LatencyMarker, Watermark, WatermarkStatus
from ..runtime.graph.job_graph import ChainedOperator, edge_name
from ..runtime.operators.operator import Firing, Operator, OperatorContext, RestoredState, WaitingOperator, drained
from ..state.ids import CheckpointId
from ..state.snapshots import OperatorSnapshot
from ..state.store.objects import Program
from .exchange.frames import transcoded
from .exchange.writers import RecordWriter, Writers

T = TypeVar("T")

Consumer = Callable[[Batch], None]


class ChainOutput:
    """What an operator sees as its output."""

    def __init__(self, chain: OperatorChain, index: int) -> None:
        self._chain = chain
        self._index = index
        self._main = chain.consumers(index, None)
        self._sides = {tag: chain.consumers(index, tag) for tag in chain.tags(index)}

    def emit(self, batch: Batch) -> None:
        _hand_out(batch, self._main)

    def emit_side(self, tag: str, batch: Batch) -> None:
        _hand_out(batch, self._sides.get(tag, ()))

    def emit_watermark(self, watermark: Watermark) -> None:
        self._chain.set_off(self._index, self._chain.watermark_below(self._index, watermark))

    def emit_status(self, status: WatermarkStatus) -> None:
        self._chain.set_off(self._index, self._chain.status_below(self._index, status))

    def emit_at_once(self, element: Watermark | WatermarkStatus) -> None:
        chain, index = self._chain, self._index
        if isinstance(element, Watermark):
            drained(chain.watermark_below(index, element))
        else:
            drained(chain.status_below(index, element))


def _hand_out(batch: Batch, consumers: list[Consumer] | tuple[()]) -> None:
    if not len(batch) or not consumers:
        return
    further = [batch.branch() for _ in consumers[1:]]  # before the first consumer can change a row
    consumers[0](batch)
    for consumer, own in zip(consumers[1:], further, strict=True):
        consumer(own)


class OperatorChain:
    """Operators in tree order (parents first), the writers behind them, and the work that is under way."""

    def __init__(
        self,
        described: tuple[ChainedOperator, ...],
        operators: list[Operator],
        writers: Writers,
        now_ns: Callable[[], int],
        encode_every_edge: bool,
    ) -> None:
        self.described = described
        self.operators = operators
        self.work: deque[Iterator[None]] = deque()
        self._waiting: list[tuple[int, WaitingOperator, deque[Iterator[None]]]] = [
            (index, operator, deque())
            for index, operator in reversed(list(enumerate(operators)))
            if isinstance(operator, WaitingOperator)
        ]
        """With what they have set off below themselves. The last of the chain first."""
        self.failed_operator: str | None = None
        """Name of the operator that raised, for the error the user sees."""
        self._writers = writers
        self._now_ns = now_ns
        self._encode = encode_every_edge
        self._children = [
            [i for i, op in enumerate(described) if op.parent == parent] for parent in range(len(described))
        ]
        self._watermarks = [MIN_WATERMARK] * len(described)
        self._restored: set[int] = set()
        """Operators that have seen no watermark since they were restored."""
        self._idle = [False] * len(described)
        self._open = 0
        self._ended = 0
        """So many operators know of the end of the input."""
        self.outputs = [ChainOutput(self, i) for i in range(len(described))]

    @property
    def columnar(self) -> bool:
        """No operator works on rows: batches need not be cut small."""
        return all(operator.face == "columns" for operator in self.operators)

    def feeder(self, edge: str) -> Consumer | None:
        """Who takes the batches of that edge (job_graph.edge_name), if it begins here."""
        for index, op in enumerate(self.described):
            if op.parent is not None and edge == edge_name(self.described[op.parent].id, op.tag, op.id, 0):
                return self._feeder(index)
        writer = self._writers.of_edge(edge)
        return None if writer is None else self._writer_feeder(writer)

    # wiring

    def consumers(self, index: int, tag: str | None) -> list[Consumer]:
        chained = [
            self._feeder(child) for child, op in enumerate(self.described) if op.parent == index and op.tag == tag
        ]
        return [*chained, *(self._writer_feeder(writer) for writer in self._writers.of(index, tag))]

    def tags(self, index: int) -> set[str]:
        chained = {op.tag for op in self.described if op.parent == index and op.tag is not None}
        return chained | self._writers.tags(index)

    def _feeder(self, index: int) -> Consumer:
        def feed(batch: Batch) -> None:
            self.process(index, transcoded(batch) if self._encode else batch, 0)

        return feed

    def _writer_feeder(self, writer: RecordWriter) -> Consumer:
        def feed(batch: Batch) -> None:
            writer.emit(batch, self._now_ns())

        return feed

    # data and time

    def open(self, context: Callable[[int], OperatorContext], restored: list[RestoredState]) -> None:
        """Children first, so that an operator that emits in open is heard."""
        for index in reversed(range(len(self.operators))):
            self._watermarks[index] = restored[index].watermark
            self._restored.add(index)
            self._idle[index] = restored[index].idle
            self._open += 1
            self.guarded(index, lambda i=index: self.operators[i].open(context(i), restored[i]))  # type: ignore[misc]

    def process(self, index: int, batch: Batch, input_index: int) -> None:
        try:
            self.operators[index].process_batch(batch, input_index)
        except Exception:
            self._blame(index)
            raise

    def watermark(self, index: int, watermark: Watermark) -> Firing:
        """Fire an operator up to the watermark, then forward it. A watermark that is not newer does nothing; but
        the restored one fires when it comes again: an unaligned barrier may have cut its firing short."""
        operator = self.operators[index]
        least = self._watermarks[index] - (index in self._restored)
        own = operator.own_watermarks and watermark.timestamp < MAX_WATERMARK  # event time ends for everybody
        if own or watermark.timestamp <= max(least, MIN_WATERMARK):
            return
        self._restored.discard(index)
        self._watermarks[index] = watermark.timestamp
        yield from self._blaming(index, operator.process_watermark(watermark))
        if not isinstance(operator, WaitingOperator):
            yield from self.watermark_below(index, watermark)

    def watermark_below(self, index: int, watermark: Watermark) -> Firing:
        for child in self._children[index]:
            yield from self.watermark(child, watermark)
        for writer in self._writers.of_operator(index):
            writer.watermark(watermark, self._now_ns())

    def status(self, index: int, status: WatermarkStatus) -> Firing:
        operator = self.operators[index]
        if operator.own_watermarks:
            return
        self._idle[index] = status.idle
        self.guarded(index, lambda: operator.process_status(status))
        if not isinstance(operator, WaitingOperator):
            yield from self.status_below(index, status)

    def status_below(self, index: int, status: WatermarkStatus) -> Firing:
        for child in self._children[index]:
            yield from self.status(child, status)
        for writer in self._writers.of_operator(index):
            writer.control(status)

    def next_processing_timer(self) -> int | None:
        due = (operator.next_processing_timer() for operator in self.operators)
        return min((at_ms for at_ms in due if at_ms is not None), default=None)

    def processing_time(self, now_ms: int) -> Firing:
        for index, operator in enumerate(self.operators):
            at_ms = operator.next_processing_timer()
            if at_ms is not None and at_ms <= now_ms:
                yield from self._blaming(index, operator.advance_processing_time(now_ms))

    @property
    def ended(self) -> bool:
        return self._ended == len(self.operators) and not self.unfinished

    def end_input(self) -> Firing:
        """The first item of `work`: what an operator sets off (a last watermark) goes before the next one's end. It
        stops where an operator holds something back: once that is out it has to be called again, until `ended`."""
        while self._ended < len(self.operators) and not self.unfinished:
            index, self._ended = self._ended, self._ended + 1
            yield from self._blaming(index, self.operators[index].end_input())
            while len(self.work) > 1:
                set_off = self.work[1]
                del self.work[1]
                yield from set_off

    # operators that wait for answers

    @property
    def full(self) -> bool:
        """Nothing may come in for now."""
        return any(operator.full for _, operator, _ in self._waiting)

    @property
    def unfinished(self) -> bool:
        """Something of what has come in is held back."""
        return any(operator.unfinished or below for _, operator, below in self._waiting)

    @property
    def at_work(self) -> bool:
        """Something was set off and is not through."""
        return bool(self.work) or any(below for _, _, below in self._waiting)

    def next_due_ns(self) -> int | None:
        """When there is something for `go_on` to do; None: not before an answer comes."""
        due_ns: list[int | None] = []
        for _, operator, below in self._waiting:
            due_ns.append(0 if below else operator.next_due_ns())
            if operator.full:
                break
        return min((at_ns for at_ns in due_ns if at_ns is not None), default=None)

    def go_on(self) -> bool:
        """One thing that such an operator has to do. True if there was any. Nothing is given to one that is full by
        those above it, so those wait for it."""
        for index, operator, below in self._waiting:
            if below:
                self.take_step(below)
                return True
            due_ns = operator.next_due_ns()
            if due_ns is not None and due_ns <= (now_ns := self._now_ns()):
                self.guarded(index, lambda op=operator, at_ns=now_ns: op.advance(at_ns))  # type: ignore[misc]
                self.between_batches()
                return True
            if operator.full:
                break
        return False

    def set_off(self, index: int, work: Iterator[None]) -> None:
        """What an operator wants done below itself, after the slice that is being processed."""
        queue = next((below for waiting, _, below in self._waiting if waiting == index), self.work)
        queue.append(work)

    def take_step(self, queue: deque[Iterator[None]]) -> None:
        """Of the first item, which leaves the queue when it is through."""
        try:
            next(queue[0])
        except StopIteration:
            queue.popleft()
        self.between_batches()

    def latency_marker(self, marker: LatencyMarker) -> None:
        self._writers.latency_marker(marker)

    def between_batches(self) -> None:
        for index, operator in enumerate(self.operators):
            self.guarded(index, operator.between_batches)

    # checkpoints

    def prepare_barrier(self, checkpoint_id: CheckpointId) -> None:
        for index, operator in enumerate(self.operators):
            self.guarded(index, lambda op=operator: op.prepare_barrier(checkpoint_id))  # type: ignore[misc]

    def snapshot(self, barrier: Barrier) -> list[Program[OperatorSnapshot]]:
        """The synchronous part of all operators; of the sinks only when no state is kept (Barrier.persist)."""
        programs = []
        for index, operator in enumerate(self.operators):
            if barrier.persist or self.described[index].is_sink:
                program = self._snapshot_of(index, operator, barrier.checkpoint_id, barrier.savepoint is not None)
                if program is not None:
                    programs.append(program)
        return programs

    def _snapshot_of(
        self, index: int, operator: Operator, checkpoint: CheckpointId, canonical: bool
    ) -> Program[OperatorSnapshot] | None:
        try:
            program = operator.take_snapshot(checkpoint, canonical=canonical)
        except Exception:
            self._blame(index)
            raise
        if program is None:
            return None
        return _with_watermark(program, self._watermarks[index], self._idle[index])

    def completed(self, checkpoint_id: CheckpointId) -> None:
        for index, operator in enumerate(self.operators):
            self.guarded(index, lambda op=operator: op.checkpoint_completed(checkpoint_id))  # type: ignore[misc]

    def aborted(self, checkpoint_id: CheckpointId) -> None:
        for index, operator in enumerate(self.operators):
            self.guarded(index, lambda op=operator: op.checkpoint_aborted(checkpoint_id))  # type: ignore[misc]

    def close(self) -> list[Exception]:
        """Close every operator that was opened, whatever the others do. The errors, first to last."""
        errors: list[Exception] = []
        for operator in self.operators[len(self.operators) - self._open :]:
            try:
                operator.close()
            except Exception as error:
                errors.append(error)
        self._open = 0
        return errors

    # errors

    def _blame(self, index: int) -> None:
        if self.failed_operator is None:
            self.failed_operator = self.described[index].name

    def guarded(self, index: int, call: Callable[[], T]) -> T:
        """What goes wrong in the call is this operator's fault."""
        try:
            return call()
        except Exception:
            self._blame(index)
            raise

    def _blaming(self, index: int, work: Iterator[None]) -> Iterator[None]:
        try:
            yield from work
        except Exception:
            self._blame(index)
            raise


def _with_watermark(program: Program[OperatorSnapshot], watermark: int, idle: bool) -> Program[OperatorSnapshot]:
    snapshot = yield from program
    return replace(snapshot, watermark=watermark, idle=idle)
