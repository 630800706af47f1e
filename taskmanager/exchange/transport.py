"""How frames get from slot to slot. The slot only knows this interface: in one process it is a function call
(local_transport.py), in the simulator a link with delays and cuts, between processes sockets.

A transport delivers the frames of one channel in order or not at all; a frame lost means the link is lost, which
fails the tasks at both ends. Every frame carries the attempt of its two tasks, and the receiving slot drops those of
any other (PROTOCOLS 5). Regions restart alone: channels of several attempts share a link, and a frame of an older
attempt is stale only if its own channel has been set up anew since.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from ...runtime.elements import Element
from ...state.ids import Attempt, SlotId
from ..messages import ChannelId


class Frame(NamedTuple):
    """One element on one channel. `nbytes` is what it costs of credit: 0 for everything but batches."""

    attempt: Attempt
    channel: ChannelId
    element: Element
    nbytes: int


class Receiver(Protocol):
    """What a transport calls on a slot; never from inside one of the slot's own calls to the transport's peer."""

    def receive(self, frame: Frame) -> None: ...

    def granted(self, attempt: Attempt, channel: ChannelId, nbytes: int) -> None: ...

    def disconnected(self, peer: SlotId, newest: Attempt | None, reason: str = "") -> None:
        """The connection to that slot is lost, and with it, perhaps, frames and grants of attempts up to this one;
        None: the slot is gone. `reason`: for people."""
        ...


class Transport(Protocol):
    """What a slot sends through."""

    def send(self, target: SlotId, frame: Frame) -> None:
        """Towards the channel's receiving slot. Never blocks: credit bounds what can be on its way."""
        ...

    def grant(self, source: SlotId, attempt: Attempt, channel: ChannelId, nbytes: int) -> None:
        """Credit, back towards the channel's sending slot."""
        ...
