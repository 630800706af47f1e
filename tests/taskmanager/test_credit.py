"""Byte credits: bounded, conserved, and never stuck."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.state.errors import ProtocolError
from penstock.taskmanager.exchange.credit import ReceiveWindow, SendWindow


def test_an_oversized_frame_goes_only_when_nothing_is_outstanding() -> None:
    window = SendWindow(100)
    window.sent(40)
    assert not window.may_send(500)
    window.granted(40)
    assert window.may_send(500)
    window.sent(500)
    assert not window.may_send(1)


def test_credit_that_was_never_sent_is_an_error() -> None:
    with pytest.raises(ProtocolError, match="never sent"):
        SendWindow(100).granted(1)
    full = SendWindow(100)
    full.sent(100)
    with pytest.raises(ProtocolError, match="100 of 100 outstanding"):
        full.sent(1)


@given(st.integers(1, 200), st.lists(st.integers(1, 300), max_size=80), st.randoms(use_true_random=False))
def test_everything_arrives_and_credit_is_conserved(window_bytes: int, frames: list[int], choice: object) -> None:
    sender, receiver = SendWindow(window_bytes), ReceiveWindow(window_bytes)
    waiting, queue, grants = deque(frames), deque[int](), deque[int]()
    received = []
    for _ in range(20 * len(frames) + 20):
        action = choice.randrange(3)  # type: ignore[attr-defined]
        if action == 0 and waiting and sender.may_send(waiting[0]):
            sender.sent(waiting[0])
            queue.append(waiting.popleft())
        elif action == 1 and queue:
            received.append(queue.popleft())
            if grant := receiver.consume(received[-1], not queue):
                grants.append(grant)
        elif action == 2 and grants:
            sender.granted(grants.popleft())
        assert sender.outstanding == sum(queue) + receiver.consumed + sum(grants)
        assert sum(queue) <= max([window_bytes, *frames])
    while waiting or queue:  # no deadlock: what is left gets through
        moved = len(waiting) + len(queue)
        while grants:
            sender.granted(grants.popleft())
        if waiting and sender.may_send(waiting[0]):
            sender.sent(waiting[0])
            queue.append(waiting.popleft())
        if queue:
            received.append(queue.popleft())
            if grant := receiver.consume(received[-1], not queue):
                grants.append(grant)
        assert grants or len(waiting) + len(queue) < moved
    assert received == frames
