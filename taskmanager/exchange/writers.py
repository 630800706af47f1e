"""The output side of a subtask: record writers with a partitioner and a credit-controlled channel per target.

Small batches are gathered per channel until they are large enough, older than the buffer timeout, or a barrier
follows. Control elements queue behind the data before them and cost no credit. A watermark waits for the next flush,
and only the newest is kept (PROTOCOLS 21). When a channel has something it may not send, the subtask is
backpressured: it stops consuming its inputs, and never waits for a send.

An unaligned barrier goes ahead of what waits, and that is written down (in_flight.py); so does an aligned one that has
waited until it may (`overtake_due`). On edges that must stay aligned it keeps its place.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice

from ...runtime.batch import Batch
from ...runtime.elements import (
    MIN_WATERMARK,
    Barrier,
    Element,
    EndOfInput,
    InFlightEnd,
    LatencyMarker,
    Watermark,
    WatermarkStatus,
)
from ...state.ids import Attempt, CheckpointId, SlotId
from ..in_flight import InFlight, Place
from ..messages import ChannelId
from .credit import SendWindow
from .drain_time import DrainTime
from .frames import transcoded
from .partitioners import Partitioner
from .transport import Frame, Transport


@dataclass(frozen=True, slots=True)
class OutputOptions:
    flush_bytes: int
    """A channel's gathered batches leave when they are this large."""
    flush_after_ns: int
    """... or when the oldest of them is this old (the buffer timeout)."""
    window_bytes: int
    drain_ns: int = 0
    """Within this time the receiver should have consumed what is under way to it (drain_time.py)."""
    encode_every_edge: bool = False
    """Testing: every batch is encoded and decoded, as if it crossed a socket."""


class OutputChannel:
    """Towards one subtask. `attempt` is on every frame."""

    def __init__(
        self,
        channel: ChannelId,
        target: SlotId,
        attempt: Attempt,
        transport: Transport,
        options: OutputOptions,
        now_ns: Callable[[], int],
        place: Place | None = None,
    ) -> None:
        self.id = channel
        self.target = target
        self.place = place
        """Under which its batches are written down; None: no barrier overtakes them."""
        self.window = SendWindow(options.window_bytes)
        self._drain = DrainTime(options.window_bytes, options.drain_ns)
        self._attempt = attempt
        self._transport = transport
        self._options = options
        self._now_ns = now_ns
        self._gathered: list[Batch] = []
        self._gathered_bytes = 0
        self._watermark: Watermark | None = None
        self._newest = MIN_WATERMARK
        self.flush_at_ns: int | None = None
        self.queue: deque[tuple[Element, int]] = deque()

    def add(self, batch: Batch, now_ns: int) -> None:
        self._gathered.append(batch)
        self._gathered_bytes += batch.nbytes
        if self._gathered_bytes >= min(self._options.flush_bytes, self._drain.limit_bytes // 2):
            self.flush()
        elif self.flush_at_ns is None:
            self.flush_at_ns = now_ns + self._options.flush_after_ns

    def add_watermark(self, watermark: Watermark, now_ns: int) -> None:
        """One that is not newer changes nothing: what an operator behind an asynchronous one has made of its last
        results may come behind the end of event time, which went ahead."""
        if watermark.timestamp <= self._newest:
            return
        self._watermark, self._newest = watermark, watermark.timestamp
        if self.flush_at_ns is None:
            self.flush_at_ns = now_ns + self._options.flush_after_ns

    def add_control(self, element: Element) -> None:
        self.flush()
        self.queue.append((element, 0))
        self.pump()

    def waits(self, checkpoint: CheckpointId) -> bool:
        """Its barrier is behind something that waits for credit, and may overtake it one day."""
        return self.place is not None and self._waiting(checkpoint) is not None

    def overtake(self, barrier: Barrier, in_flight: InFlight) -> None:
        """The barrier goes now, ahead of what waits before it, or of everything if it does not wait here."""
        if self.place is None:
            self.add_control(barrier)
            return
        position = self._waiting(barrier.checkpoint_id)
        if position is None:
            self.flush()
            position = len(self.queue)
        else:
            del self.queue[position]
        for element, _ in islice(self.queue, position):
            if isinstance(element, Batch):
                in_flight.unaligned = True
                in_flight.add(self.place, element)
        self._transport.send(self.target, Frame(self._attempt, self.id, barrier, 0))

    def _waiting(self, checkpoint: CheckpointId) -> int | None:
        """The barrier's position in the queue."""
        for position, (element, _) in enumerate(self.queue):
            if isinstance(element, Barrier) and element.checkpoint_id == checkpoint:
                return position
        return None

    def flush(self) -> None:
        """Everything gathered goes into the queue, then the newest watermark, then as much as credit allows is sent."""
        if self._gathered:
            batch = Batch.concat(self._gathered)
            self._gathered = []
            self._gathered_bytes = 0
            self._enqueue(transcoded(batch) if self._options.encode_every_edge else batch)
        if self._watermark is not None:
            if self.queue and isinstance(self.queue[-1][0], Watermark):
                self.queue.pop()
            self.queue.append((self._watermark, 0))
            self._watermark = None
        self.flush_at_ns = None
        self.pump()

    def _enqueue(self, batch: Batch) -> None:
        """Cut at half of what may be outstanding, so that the receiver's grants overlap with sending."""
        nbytes, limit = batch.nbytes, max(1, self._drain.limit_bytes // 2)
        if nbytes <= limit:
            self.queue.append((batch, nbytes))
            return
        rows = -(-len(batch) // min(len(batch), -(-nbytes // limit)))
        for start in range(0, len(batch), rows):
            piece = batch.slice(start, rows)
            self.queue.append((piece, piece.nbytes))

    def granted(self, nbytes: int) -> None:
        """Credit has come back."""
        self.window.granted(nbytes)
        self._drain.granted(nbytes, self.window.outstanding, self._now_ns())
        self.pump()

    @property
    def available_bytes(self) -> int:
        """What may be sent now."""
        return max(0, self._drain.limit_bytes - self.window.outstanding)

    def pump(self) -> None:
        queue, window = self.queue, self.window
        while queue:
            element, nbytes = queue[0]
            if nbytes:
                if not window.outstanding:
                    self._drain.began(self._now_ns())
                elif window.outstanding + nbytes > self._drain.limit_bytes:
                    return
                window.sent(nbytes)
            queue.popleft()
            self._transport.send(self.target, Frame(self._attempt, self.id, element, nbytes))


class RecordWriter:
    """One outgoing edge of one operator. `channels` by target subtask, only those it is connected to."""

    def __init__(self, partitioner: Partitioner, channels: dict[int, OutputChannel], edge: str = "") -> None:
        self.edge = edge
        """Its name in checkpoints."""
        self._partitioner = partitioner
        self.channels = channels
        self.records_out = 0
        self.bytes_out = 0
        self._markers = 0

    def emit(self, batch: Batch, now_ns: int) -> None:
        self.records_out += len(batch)
        self.bytes_out += batch.nbytes
        for target, part in self._partitioner.split(batch):
            self.channels[target].add(part, now_ns)

    def watermark(self, watermark: Watermark, now_ns: int) -> None:
        for channel in self.channels.values():
            channel.add_watermark(watermark, now_ns)

    def control(self, element: Barrier | EndOfInput | WatermarkStatus | InFlightEnd) -> None:
        for channel in self.channels.values():
            channel.add_control(element)

    def latency_marker(self, marker: LatencyMarker) -> None:
        """To one channel, the next one each time: sent to all they would multiply with every edge."""
        channels = list(self.channels.values())
        channels[self._markers % len(channels)].add_control(marker)
        self._markers += 1


class Writers:
    """All output channels of a subtask, by (operator index, side tag)."""

    def __init__(self, writers: dict[tuple[int, str | None], list[RecordWriter]], now_ns: Callable[[], int]) -> None:
        self._writers = writers
        self._now_ns = now_ns
        self.channels = [c for group in writers.values() for w in group for c in w.channels.values()]
        self._by_id = {channel.id: channel for channel in self.channels}

    def of(self, operator: int, tag: str | None) -> list[RecordWriter]:
        return self._writers.get((operator, tag), [])

    def of_edge(self, edge: str) -> RecordWriter | None:
        """Of two (a stream that is united with itself) the one whose batches are written down."""
        found = [w for group in self._writers.values() for w in group if w.edge == edge]
        return max(found, key=lambda w: any(c.place is not None for c in w.channels.values()), default=None)

    def tags(self, operator: int) -> set[str]:
        return {tag for index, tag in self._writers if index == operator and tag is not None}

    def of_operator(self, operator: int) -> list[RecordWriter]:
        return [w for (index, _), group in self._writers.items() if index == operator for w in group]

    def control(self, element: Barrier | EndOfInput | InFlightEnd) -> None:
        for group in self._writers.values():
            for writer in group:
                writer.control(element)

    def latency_marker(self, marker: LatencyMarker) -> None:
        for group in self._writers.values():
            for writer in group:
                writer.latency_marker(marker)

    def overtake(self, barrier: Barrier, in_flight: InFlight) -> None:
        """The barrier goes ahead of what waits for credit, wherever it may; receivers need not wait for it either."""
        at_once = replace(barrier, unaligned_after_ms=0)
        for channel in self.channels:
            channel.overtake(at_once, in_flight)

    def overtake_due(self, in_flight: InFlight, now_ms: int) -> bool:
        """An aligned barrier overtakes where it still waits, if it may by now. True: it waits nowhere any more."""
        barrier = in_flight.barrier
        waiting = [channel for channel in self.channels if channel.waits(barrier.checkpoint_id)]
        due_ms = barrier.due_ms()
        if waiting and due_ms is not None and due_ms <= now_ms:
            at_once = replace(barrier, unaligned_after_ms=0)
            for channel in waiting:
                channel.overtake(at_once, in_flight)
            return True
        return not waiting

    def granted(self, channel: ChannelId, nbytes: int) -> None:
        self._by_id[channel].granted(nbytes)

    def flush_due(self, now_ns: int) -> None:
        for channel in self.channels:
            if channel.flush_at_ns is not None and channel.flush_at_ns <= now_ns:
                channel.flush()

    def next_flush_ns(self) -> int | None:
        return min((c.flush_at_ns for c in self.channels if c.flush_at_ns is not None), default=None)

    @property
    def records_out(self) -> int:
        return sum(w.records_out for group in self._writers.values() for w in group)

    @property
    def bytes_out(self) -> int:
        return sum(w.bytes_out for group in self._writers.values() for w in group)

    @property
    def blocked(self) -> bool:
        return any(channel.queue for channel in self.channels)

    @property
    def queued_bytes(self) -> int:
        """What waits for credit."""
        return sum(nbytes for channel in self.channels for _element, nbytes in channel.queue)

    @property
    def credits_available_bytes(self) -> int:
        return sum(channel.available_bytes for channel in self.channels)
