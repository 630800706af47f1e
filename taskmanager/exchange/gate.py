"""The input gate of a subtask: all its input channels, merged.

Elements are taken from the channels in turn. Data comes out with its input index; watermarks come out merged (the
minimum over active channels); barriers come out once, when they are aligned; end of input when all channels have
ended. Taking a batch gives its bytes back to the sender as credit. A blocked channel goes on receiving what was
granted, but nothing of it is taken, so nothing more is granted (PROTOCOLS 13).

A barrier that may overtake data is looked at when it arrives. It keeps its place in its queue, and may come out
aligned; but when it is due (`overtaking`), and has come on all channels that must stay aligned, the task calls
`overtake`: what lies before it in the queues is written down, and on channels on which it has not arrived yet what
still arrives before it (in_flight.py). After a restore a channel that has delivered all that was under way
(InFlightEnd) is held until all channels of its edge have. Not those of other edges: their senders may be upstream of
this edge's, and would wait for each other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from ...runtime.batch import Batch
from ...runtime.clock import Clock
from ...runtime.elements import Barrier, EndOfInput, InFlightEnd, LatencyMarker, Watermark, WatermarkStatus
from ...runtime.event_time.watermark_merge import WatermarkMerge
from ...state.errors import ProtocolError
from ...state.ids import CheckpointId
from ..in_flight import InFlight, Place
from ..messages import ChannelId
from .alignment import BarrierAligner
from .credit import ReceiveWindow
from .transport import Frame


@dataclass(frozen=True, slots=True)
class Data:
    batch: Batch
    input_index: int


@dataclass(frozen=True, slots=True)
class Aligned:
    barrier: Barrier
    align_ms: float
    processed_bytes: int = 0
    """Of input that was consumed from the first barrier to the last."""
    in_flight: InFlight | None = None
    """What the barrier overtook in the input, if it did."""


@dataclass(frozen=True, slots=True)
class AllEnded:
    pass


GateEvent = Data | Watermark | WatermarkStatus | LatencyMarker | Aligned | AllEnded


class InputChannel:
    """What has been received from one subtask and not consumed yet."""

    __slots__ = ("ended", "id", "input_index", "place", "queue", "queued_bytes", "window")

    def __init__(self, channel: ChannelId, input_index: int, window_bytes: int, place: Place | None = None) -> None:
        self.id = channel
        self.input_index = input_index
        self.place = place
        """Under which its batches are written down; None: no barrier overtakes them."""
        self.queue: deque[Frame] = deque()
        self.queued_bytes = 0
        self.window = ReceiveWindow(window_bytes)
        self.ended = False


class InputGate:
    """grant(channel, bytes) is called when credit goes back to a sender."""

    def __init__(
        self,
        channels: list[InputChannel],
        clock: Clock,
        grant: Callable[[ChannelId, int], None],
        aligner: BarrierAligner,
    ) -> None:
        self.channels = channels
        self._index = {channel.id: i for i, channel in enumerate(channels)}
        self._clock = clock
        self._grant = grant
        self._aligner = aligner
        self._merge = WatermarkMerge(range(len(channels)))
        self._next = 0
        self._ended = 0
        self._consumed_bytes = 0
        self._ready: deque[GateEvent] = deque()
        """Events of the frame that was taken last and are not given out yet."""
        self._taken = 0
        """The channel that was taken from last."""
        self._announced: Barrier | None = None
        """The newest that may overtake data, until it has."""
        self._collecting: InFlight | None = None
        self._missing: set[int] = set()
        """Channels on which what is being collected has not ended: its barrier has not arrived."""
        self._held: set[int] = set()
        """Channels that have delivered all that was under way in the restored checkpoint, while others of the same
        edge have not."""
        self._released = False
        """Channels that were held are not any more, and have not been looked at since."""

    @property
    def queued_bytes(self) -> int:
        return sum(channel.queued_bytes for channel in self.channels)

    def receive(self, frame: Frame) -> None:
        channel = self.channels[self._index[frame.channel]]
        element = frame.element
        if isinstance(element, Batch):
            if channel.ended:
                raise ProtocolError(f"{frame.channel} got records after its end of input")
            if self._missing:
                self._collect(frame)
        elif isinstance(element, Barrier) and element.unaligned_after_ms is not None:
            if self._completes(element, self._index[frame.channel]):
                return
            self._announce(element)
        channel.queue.append(frame)
        channel.queued_bytes += frame.nbytes

    def poll(self) -> GateEvent | None:
        """The next event, or None when every channel is empty or blocked."""
        if self._ready:
            return self._ready.popleft()
        blocked, held, count = self._aligner.blocked, self._held, len(self.channels)
        for step in range(count):
            index = (self._next + step) % count
            queue = self.channels[index].queue
            while queue and index not in blocked and index not in held:
                self._take(index)
                if self._ready:
                    self._next = index + 1
                    return self._ready.popleft()
        if self._released:
            self._released = False
            return self.poll()
        return None

    def abort(self, checkpoint: CheckpointId) -> None:
        self._aligner.abort(checkpoint)
        if self._collecting is not None and self._collecting.barrier.checkpoint_id == checkpoint:
            self._give_up()

    # barriers that overtake data

    def due_ms(self) -> int | None:
        """From when on the barrier that was announced may overtake data; None: there is none."""
        return None if self._announced is None else self._announced.due_ms()

    def overtaking(self, now_ms: int) -> Barrier | None:
        """The barrier with which the snapshot is to be taken now, without waiting for more."""
        barrier = self._announced
        if barrier is None:
            return None
        checkpoint, due_ms = barrier.checkpoint_id, barrier.due_ms()
        if self._aligner.is_over(checkpoint):
            self._announced = None
            return None
        if due_ms is None or now_ms < due_ms:
            return None
        stay = (index for index, channel in enumerate(self.channels) if channel.place is None)
        return barrier if all(self._aligner.has_come(checkpoint, index) for index in stay) else None

    def overtake(self, barrier: Barrier, rest: Batch | None) -> Aligned:
        """`rest`: of the batch that was given out last and is not processed yet."""
        self._give_up()
        in_flight = InFlight(barrier)
        in_flight.unaligned = True
        if rest is not None:
            place = self.channels[self._taken].place
            if place is None:
                raise ProtocolError(
                    f"a barrier overtook a batch of {self.channels[self._taken].id}, which stays aligned"
                )
            in_flight.add(place, rest)
        for index, channel in enumerate(self.channels):
            if channel.place is None or self._aligner.has_come(barrier.checkpoint_id, index):
                continue
            if not _write_down(channel, channel.place, in_flight):
                self._missing.add(index)
            elif not channel.queue:
                self._give_back(channel, 0)
        self._announced, self._collecting = None, in_flight if self._missing else None
        alignment = self._aligner.overtake(barrier.checkpoint_id, self._clock.monotonic_ns(), self._consumed_bytes)
        return Aligned(barrier, alignment.duration_ns / 1e6, alignment.processed_bytes, in_flight)

    def collects(self, in_flight: InFlight) -> bool:
        """More may be added to it: its barrier has not arrived on all channels."""
        return self._collecting is in_flight

    def _give_up(self) -> None:
        """What is collected will never be whole: the checkpoint has ended elsewhere."""
        if self._collecting is not None:
            self._collecting.void = True
        self._missing.clear()
        self._collecting = None

    def _announce(self, barrier: Barrier) -> None:
        known = self._announced
        newer = known is None or barrier.checkpoint_id > known.checkpoint_id
        if newer or (known is not None and barrier.checkpoint_id == known.checkpoint_id and _earlier(barrier, known)):
            self._announced = barrier

    def _collect(self, frame: Frame) -> None:
        index = self._index[frame.channel]
        place = self.channels[index].place
        if index in self._missing and place is not None and self._collecting is not None:
            assert isinstance(frame.element, Batch)
            self._collecting.add(place, frame.element)

    def _completes(self, barrier: Barrier, index: int) -> bool:
        """The barrier ends what is collected of this channel: its snapshot was taken."""
        if self._collecting is None or index not in self._missing:
            return False
        checkpoint = self._collecting.barrier.checkpoint_id
        if barrier.checkpoint_id > checkpoint:
            self._give_up()
        elif barrier.checkpoint_id == checkpoint:
            self._missing.discard(index)
            if not self._missing:
                self._collecting = None
        return barrier.checkpoint_id == checkpoint

    # consuming

    def _take(self, index: int) -> None:
        """Consume one frame of a channel; what it changes downstream becomes ready."""
        channel = self.channels[index]
        self._taken = index
        frame = channel.queue.popleft()
        channel.queued_bytes -= frame.nbytes
        self._give_back(channel, frame.nbytes)
        match frame.element:
            case Batch() as batch:
                self._consumed_bytes += frame.nbytes
                self._ready.append(Data(batch, channel.input_index))
            case Watermark(timestamp):
                self._ready.extend(self._merge.advance(index, timestamp))
            case WatermarkStatus(idle):
                self._ready.extend(self._merge.set_idle(index, idle))
            case Barrier() as barrier:
                alignment = self._aligner.barrier(index, barrier, self._clock.monotonic_ns(), self._consumed_bytes)
                if alignment is not None:
                    self._ready.append(Aligned(barrier, alignment.duration_ns / 1e6, alignment.processed_bytes))
            case EndOfInput():
                self._end(channel)
            case LatencyMarker() as marker:
                self._ready.append(marker)
            case InFlightEnd():
                self._hold(index)

    def _hold(self, index: int) -> None:
        self._held.add(index)
        edge = self.channels[index].id.edge
        of_edge = {i for i, channel in enumerate(self.channels) if channel.id.edge == edge}
        if of_edge <= self._held:
            self._held -= of_edge
            self._released = True

    def _give_back(self, channel: InputChannel, nbytes: int) -> None:
        grant = channel.window.consume(nbytes, not channel.queue)
        if grant:
            self._grant(channel.id, grant)

    def _end(self, channel: InputChannel) -> None:
        channel.ended = True
        self._ended += 1
        if self._ended == len(self.channels):
            self._ready.append(AllEnded())


def is_last(event: GateEvent) -> bool:
    """What came before it must be through: the end of the input, and the last barrier of a job that is drained."""
    if isinstance(event, Aligned):
        return event.barrier.savepoint is not None and event.barrier.savepoint.drain
    return isinstance(event, AllEnded)


def _earlier(barrier: Barrier, than: Barrier) -> bool:
    return (barrier.unaligned_after_ms or 0) < (than.unaligned_after_ms or 0)


def _write_down(channel: InputChannel, place: Place, in_flight: InFlight) -> bool:
    """What lies in the queue before the barrier, which is taken out. False: the barrier has not arrived."""
    for position, frame in enumerate(channel.queue):
        element = frame.element
        if isinstance(element, Barrier) and element.checkpoint_id == in_flight.barrier.checkpoint_id:
            del channel.queue[position]
            return True
        if isinstance(element, Batch):
            in_flight.add(place, element)
    return False
