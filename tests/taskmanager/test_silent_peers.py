"""Peers that say nothing: not yet, or not any more."""

from __future__ import annotations

import socket
from dataclasses import replace
from typing import Any

import pytest

from penstock.runtime.elements import Watermark
from penstock.state.ids import Attempt, SlotId
from penstock.taskmanager.exchange.connections import _TCP_INFO as TCP_INFO
from penstock.taskmanager.exchange.connections import owes_answer
from penstock.taskmanager.exchange.socket_transport import CHECK_NS
from penstock.taskmanager.exchange.transport import Frame
from penstock.taskmanager.messages import ChannelId


def frame(element: Any) -> Frame:
    return Frame(Attempt(1), ChannelId(3, 1, 2), element, 0)


def test_a_peer_that_does_not_answer_is_given_up_after_ten_seconds(stations: Any) -> None:
    a = stations.start("a")
    with socket.create_server(("127.0.0.1", 0)) as mute:
        address = replace(a.transport.address, task_manager="far", port=mute.getsockname()[1])
        a.transport.meet({SlotId("b"): address})
        a.transport.send(SlotId("b"), frame(Watermark(1)))
        stations.run(lambda: a.transport.next_wakeup_ns() is not None)
        a.turn()
        assert a.lost == []
        a.clock.ahead_ns = 11 * CHECK_NS
        stations.run(lambda: a.lost == ["b"])


def test_a_stranger_that_says_nothing_is_given_up(stations: Any, caplog: pytest.LogCaptureFixture) -> None:
    b = stations.start("b")
    with socket.create_connection((b.transport.address.host, b.transport.address.port)) as mute:
        stations.run(lambda: b.transport.next_wakeup_ns() is not None)
        b.turn()
        b.clock.ahead_ns = 11 * CHECK_NS
        stations.run(lambda: "there was no answer for 10 seconds" in caplog.text)
        mute.settimeout(5)
        while mute.recv(100):
            pass


def test_who_owes_an_answer() -> None:
    def info(probes: int, unacknowledged: int, silent_ms: int) -> bytes:
        fields = [0] * 21
        fields[3], fields[12], fields[20] = probes, unacknowledged, silent_ms
        return TCP_INFO.pack(*fields)

    assert owes_answer(info(0, 1, 1_000))
    assert owes_answer(info(4, 0, 5_000))
    assert not owes_answer(info(0, 1, 900))  # it has just said something
    assert not owes_answer(info(1, 0, 60_000))  # it is busy: its window is closed, and it answers probes
    assert not owes_answer(info(0, 0, 3_600_000))  # nobody has anything to say
    assert not owes_answer(b"")


def test_a_silent_machine_is_noticed(stations: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = stations.start("a"), stations.start("b", "another")
    stations.introduce()
    a.transport.send(b.id, frame(Watermark(1)))
    stations.run(lambda: bool(b.frames))
    assert all(c.check_alive() is None for c in a.transport.peer(b.id).connections())
    monkeypatch.setattr("penstock.taskmanager.exchange.connections.owes_answer", lambda info: True)
    for _ in range(12):
        a.clock.ahead_ns += CHECK_NS
        a.turn()
    assert a.lost == [b.id]
