"""The input gate of a subtask: all its input channels, merged.

Elements are taken from the channels in turn. Data comes out with its input index; watermarks come out merged (the
minimum over active channels); barriers come out once, when they are aligned; end of input when all channels have
ended. Taking a batch gives its bytes back to the sender as credit. A blocked channel goes on receiving what was
granted, but nothing of it is taken, so nothing more is granted (PROTOCOLS 13).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from ..runtime.batch import Batch
from ..runtime.clock import Clock
from ..runtime.elements import Barrier, EndOfInput, LatencyMarker, Watermark, WatermarkStatus
from ..runtime.watermarks import WatermarkMerge
from ..state.errors import ProtocolError
from ..state.ids import CheckpointId
from .alignment import BarrierAligner
from .credit import ReceiveWindow
from .messages import ChannelId
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


@dataclass(frozen=True, slots=True)
class AllEnded:
    pass


GateEvent = Data | Watermark | WatermarkStatus | LatencyMarker | Aligned | AllEnded


class InputChannel:
    """What has been received from one subtask and not consumed yet."""

    __slots__ = ("ended", "id", "input_index", "queue", "queued_bytes", "window")

    def __init__(self, channel: ChannelId, input_index: int, window_bytes: int) -> None:
        self.id = channel
        self.input_index = input_index
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

    @property
    def queued_bytes(self) -> int:
        return sum(channel.queued_bytes for channel in self.channels)

    def receive(self, frame: Frame) -> None:
        channel = self.channels[self._index[frame.channel]]
        if channel.ended and isinstance(frame.element, Batch):
            raise ProtocolError(f"{frame.channel} got records after its end of input")
        channel.queue.append(frame)
        channel.queued_bytes += frame.nbytes

    def poll(self) -> GateEvent | None:
        """The next event, or None when every channel is empty or blocked."""
        if self._ready:
            return self._ready.popleft()
        blocked, count = self._aligner.blocked, len(self.channels)
        for step in range(count):
            index = (self._next + step) % count
            queue = self.channels[index].queue
            while queue and index not in blocked:
                self._take(index)
                if self._ready:
                    self._next = index + 1
                    return self._ready.popleft()
        return None

    def abort(self, checkpoint: CheckpointId) -> None:
        self._aligner.abort(checkpoint)

    def _take(self, index: int) -> None:
        """Consume one frame of a channel; what it changes downstream becomes ready."""
        channel = self.channels[index]
        frame = channel.queue.popleft()
        channel.queued_bytes -= frame.nbytes
        grant = channel.window.consume(frame.nbytes, not channel.queue)
        if grant:
            self._grant(channel.id, grant)
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

    def _end(self, channel: InputChannel) -> None:
        channel.ended = True
        self._ended += 1
        if self._ended == len(self.channels):
            self._ready.append(AllEnded())
