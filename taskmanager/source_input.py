"""The input of a source subtask: its source operator, polled, in the place where other subtasks have a gate.

What the operator emits (batches, watermarks, status) is queued here and given out one by one, so that a large batch
goes through the chain in slices like any other. A barrier is given out only when nothing is queued: the readers'
positions are then exactly behind what the chain has processed. Or it is due to overtake data: then what was read and is
not processed goes into the checkpoint with it (in_flight.py).

About once a second (metrics.latency.interval) a latency marker goes along. It is made when its turn has come, so it
never waits here: it measures the way through the channels, and what goes on at them. A source that is backpressured
makes none meanwhile.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from ..runtime.batch import Batch
from ..runtime.clock import Clock
from ..runtime.connector import NotReady, ReaderEnd
from ..runtime.elements import MAX_WATERMARK, Barrier, LatencyMarker, Watermark, WatermarkStatus
from ..runtime.operators.source import SourceOperator
from ..state.ids import CheckpointId
from .exchange.gate import Aligned, AllEnded, Data, GateEvent
from .in_flight import InFlight, Place


class SideOutput(Protocol):
    """The chain's output of the source."""

    def emit_side(self, tag: str, batch: Batch) -> None: ...


class SourceInput:
    """Both sides of a source operator: its output, and its task's input."""

    def __init__(self, operator: SourceOperator, clock: Clock, max_rows: int, marker_interval_ms: int) -> None:
        """`marker_interval_ms`: between two latency markers; 0: none."""
        self.operator = operator
        self.sides: SideOutput | None = None
        """The chain's output of the source, for malformed records; set when the chain exists."""
        self.pass_rows: Callable[[], int] = lambda: max_rows
        """How many rows go through the chain at once: a barrier waits for all that was read."""
        self.retry_at_ms: int | None = None
        """When to poll again (wall clock), if the reader said so."""
        self._clock = clock
        self._max_rows = max_rows
        self._events: deque[GateEvent] = deque()
        self._barriers: deque[Barrier] = deque()
        self._injected = CheckpointId(0)
        self._waiting = False
        self._stopped: CheckpointId | None = None
        """A savepoint with which the job ends: nothing is given out behind its barrier."""
        self._ended = False
        self._time_ended = False
        """By a savepoint with which the job is drained. Nothing may come behind that, though the savepoint be given up:
        then the attempt is, too (jobmanager/savepoints.py)."""
        self._marker_interval_ns = marker_interval_ms * 1_000_000
        self._next_marker_ns = clock.monotonic_ns()

    # what the source operator sees as its output

    def emit(self, batch: Batch) -> None:
        if len(batch):
            self._events.append(Data(batch, 0))

    def emit_side(self, tag: str, batch: Batch) -> None:
        if self.sides is not None:
            self.sides.emit_side(tag, batch)

    def emit_watermark(self, watermark: Watermark) -> None:
        self._events.append(watermark)

    def emit_status(self, status: WatermarkStatus) -> None:
        self._events.append(status)

    def emit_at_once(self, element: Watermark | WatermarkStatus) -> None:
        """Here everything is in order."""
        self._events.append(element)

    # what the task sees as its input

    def poll(self) -> GateEvent | None:
        if self._stopped is not None:
            return None
        if self._events:
            return self._events.popleft()
        if self._barriers:
            if self._time_is_to_end():
                self._time_ended = True
                return Watermark(MAX_WATERMARK)
            return self._give_barrier()
        if self._ended or self._time_ended:
            return None
        if self._marker_interval_ns and (now_ns := self._clock.monotonic_ns()) >= self._next_marker_ns:
            self._next_marker_ns = now_ns + self._marker_interval_ns
            return LatencyMarker(self._clock.now_ms(), self.operator.context.operator_name)
        if self._still_waiting():
            return None
        status = self.operator.poll(min(self._max_rows, self.pass_rows()))
        self._waiting, self.retry_at_ms = False, None
        match status:
            case ReaderEnd():
                self._ended = True
                self._events.append(AllEnded())
            case NotReady(retry_at_ms):
                self._waiting, self.retry_at_ms = True, retry_at_ms
            case None if not self._events:  # a split ended, or a batch was empty: the slot must not go to sleep
                self.retry_at_ms = self._clock.now_ms()
        return self._events.popleft() if self._events else None

    def wake(self) -> None:
        """The reader has something again, or has got splits."""
        self._waiting = False

    def barrier_at_rest(self) -> Aligned | None:
        """The next barrier, if nothing that was read waits before it, nor what event time's end sets off."""
        at_rest = self._stopped is None and self._barriers and not self._events and not self._time_is_to_end()
        return self._give_barrier() if at_rest else None

    def _time_is_to_end(self) -> bool:
        """Before the next barrier; and not before any other one, whose checkpoint the job may go back to."""
        savepoint = self._barriers[0].savepoint
        return savepoint is not None and savepoint.drain and not self._time_ended and not self._ended

    # barriers that overtake data, and what they overtook

    def due_ms(self) -> int | None:
        """From when on the next barrier may overtake data; None: there is none that ever may."""
        return self._barriers[0].due_ms() if self._barriers else None

    def overtaking(self, now_ms: int) -> Barrier | None:
        """The barrier that need not wait until all that was read has gone through the chain."""
        due_ms = self.due_ms()
        return self._barriers[0] if due_ms is not None and due_ms <= now_ms else None

    def overtake(self, barrier: Barrier, rest: Batch | None) -> Aligned:
        """`rest`: of the batch that was given out last and is not processed yet."""
        in_flight = InFlight(barrier)
        place = Place(self.operator.context.operator_id, "", self.operator.context.subtask)
        queued = [event.batch for event in self._events if isinstance(event, Data)]
        for batch in queued if rest is None else [rest, *queued]:
            in_flight.unaligned = True
            in_flight.add(place, batch)
        self._barriers.remove(barrier)
        return Aligned(barrier, 0.0, in_flight=in_flight)

    def collects(self, in_flight: InFlight) -> bool:
        return False

    def recover(self, batches: Sequence[Batch]) -> None:
        """They have their timestamps, and go before everything else."""
        self._events.extendleft(Data(batch, 0) for batch in reversed(batches))

    def inject(self, barrier: Barrier) -> None:
        if barrier.checkpoint_id > self._injected:
            self._injected = barrier.checkpoint_id
            self._barriers.append(barrier)

    def _give_barrier(self) -> Aligned:
        barrier = self._barriers.popleft()
        if barrier.savepoint is not None and barrier.savepoint.stop:
            self._stopped = barrier.checkpoint_id
            self.retry_at_ms = None  # or the slot would look again and again
        return Aligned(barrier, 0.0)

    def abort(self, checkpoint: CheckpointId) -> None:
        self._barriers = deque(b for b in self._barriers if b.checkpoint_id != checkpoint)
        if self._stopped == checkpoint and not self._time_ended:
            self._stopped = None
            self._waiting = False

    def _still_waiting(self) -> bool:
        return self._waiting and (self.retry_at_ms is None or self._clock.now_ms() < self.retry_at_ms)
