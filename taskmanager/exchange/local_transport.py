"""The transport between slots of one process: a frame is appended to the receiver's queue, nothing is copied."""

from __future__ import annotations

from ...state.ids import Attempt, SlotId
from ..messages import ChannelId
from .transport import Frame, Receiver


class LocalTransport:
    """All slots of a process on one thread. Frames to a slot that is gone are dropped, like on a dead connection."""

    def __init__(self) -> None:
        self._receivers: dict[SlotId, Receiver] = {}

    def attach(self, slot: SlotId, receiver: Receiver) -> None:
        self._receivers[slot] = receiver

    def detach(self, slot: SlotId) -> None:
        """The slot is gone; all others learn that."""
        if self._receivers.pop(slot, None) is not None:
            for receiver in self._receivers.values():
                receiver.disconnected(slot, None)

    def send(self, target: SlotId, frame: Frame) -> None:
        receiver = self._receivers.get(target)
        if receiver is not None:
            receiver.receive(frame)

    def grant(self, source: SlotId, attempt: Attempt, channel: ChannelId, nbytes: int) -> None:
        receiver = self._receivers.get(source)
        if receiver is not None:
            receiver.granted(attempt, channel, nbytes)
