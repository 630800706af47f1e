"""A lost connection reaches the slots at its ends."""

from __future__ import annotations

from penstock.state.ids import Attempt, SlotId
from penstock.taskmanager.exchange.local_transport import LocalTransport
from penstock.taskmanager.exchange.transport import Frame
from penstock.taskmanager.messages import ChannelId


class Ends:
    def __init__(self) -> None:
        self.lost: list[SlotId] = []

    def receive(self, frame: Frame) -> None:
        raise AssertionError(frame)

    def granted(self, attempt: Attempt, channel: ChannelId, nbytes: int) -> None:
        raise AssertionError(channel)

    def disconnected(self, peer: SlotId, newest: Attempt | None, reason: str = "") -> None:
        self.lost.append(peer)


def test_all_others_learn_once_that_a_slot_is_gone() -> None:
    transport, ends = LocalTransport(), {SlotId(name): Ends() for name in "abc"}
    for slot, receiver in ends.items():
        transport.attach(slot, receiver)
    transport.detach(SlotId("b"))
    transport.detach(SlotId("b"))
    assert {slot: end.lost for slot, end in ends.items()} == {"a": ["b"], "b": [], "c": ["b"]}
