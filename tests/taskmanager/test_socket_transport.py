"""Slots over real sockets: what arrives, in which order, and what a lost connection means."""

from __future__ import annotations

import socket
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from penstock.runtime.batch import Batch
from penstock.runtime.elements import Barrier, EndOfInput, LatencyMarker, Watermark, WatermarkStatus
from penstock.runtime.records.record_types import record_type_of
from penstock.state.errors import ConfigurationError, ProtocolError
from penstock.state.ids import Attempt, CheckpointId, SlotId
from penstock.taskmanager.exchange.connections import Connection, Peer
from penstock.taskmanager.exchange.handshake import Connector
from penstock.taskmanager.exchange.socket_transport import CHECK_NS, SocketTransport
from penstock.taskmanager.exchange.transport import Frame
from penstock.taskmanager.exchange.wire import HEADER, Kind
from penstock.taskmanager.messages import ChannelId

CHANNEL, OTHER = ChannelId(3, 1, 2), ChannelId(4, 0, 0)
NUMBER = record_type_of(int)
NEAR_AND_FAR = pytest.mark.parametrize("machine", ["one", "another"])


def batch(rows: int) -> Batch:
    return Batch.of_columns(NUMBER, NUMBER.to_columns(list(range(rows))), np.arange(rows))


def frame(element: Any, attempt: int = 1, channel: ChannelId = CHANNEL) -> Frame:
    return Frame(Attempt(attempt), channel, element, element.nbytes if isinstance(element, Batch) else 0)


def barrier(number: int) -> Barrier:
    return Barrier(CheckpointId(number), 0)


@NEAR_AND_FAR
def test_elements_of_a_channel_arrive_in_order_and_credit_goes_back(stations: Any, machine: str) -> None:
    a, b = stations.start("a"), stations.start("b", machine)
    stations.introduce()
    controls = [Watermark(-5), WatermarkStatus(True), LatencyMarker(7, "s"), barrier(9), EndOfInput()]
    batches = [batch(rows) for rows in (1, 1_000, 200_000)]
    for element in [*batches, *controls]:
        a.transport.send(b.id, frame(element))
    a.transport.send(b.id, frame(batch(5), channel=OTHER))
    stations.run(lambda: len(b.frames) == 9)
    assert b.elements[3:8] == controls
    assert [len(element) for element in b.elements[:3]] == [1, 1_000, 200_000]
    assert [f.nbytes for f in b.frames[:4]] == [*(one.nbytes for one in batches), 0]
    assert b.elements[2].columns().equals(batches[2].columns())
    assert [f.channel for f in b.frames] == [CHANNEL] * 8 + [OTHER]
    b.transport.grant(a.id, Attempt(1), CHANNEL, 100)
    b.transport.grant(a.id, Attempt(1), OTHER, 1)
    b.transport.grant(a.id, Attempt(1), CHANNEL, 20)
    stations.run(lambda: len(a.grants) == 2)
    assert a.grants == [(1, CHANNEL, 120), (1, OTHER, 1)]
    assert a.transport.queued_bytes == 0


def test_both_directions_at_once_and_a_slot_to_itself(stations: Any) -> None:
    a, b = stations.start("a"), stations.start("b")
    stations.introduce()
    for number in range(50):
        a.transport.send(b.id, frame(batch(3_000)))
        b.transport.send(a.id, frame(batch(3_000), channel=OTHER))
        a.transport.send(a.id, frame(Watermark(number)))
    stations.run(lambda: len(a.frames) == 100 and len(b.frames) == 50)
    assert [f.element for f in a.frames if f.channel == CHANNEL] == [Watermark(i) for i in range(50)]
    a.transport.grant(a.id, Attempt(1), CHANNEL, 3)
    assert a.grants == [(1, CHANNEL, 3)]


@NEAR_AND_FAR
def test_priority_frames_overtake_what_is_queued_but_not_a_frame_half_sent(stations: Any, machine: str) -> None:
    a, b = stations.start("a"), stations.start("b", machine)
    stations.introduce()
    a.transport.send(b.id, frame(Watermark(0)))
    stations.run(lambda: len(b.frames) == 1)
    for _ in range(6):  # far more than the kernel takes
        a.transport.send(b.id, frame(batch(500_000)))
    a.transport.send(b.id, frame(barrier(1)), priority=True)
    a.transport.send(b.id, frame(barrier(2)), priority=True)
    stations.run(lambda: len(b.frames) == 9)
    kinds = [type(element) for element in b.elements[1:]]
    first = kinds.index(Barrier)
    assert kinds[first : first + 2] == [Barrier, Barrier]
    assert first < 6
    assert [element.checkpoint_id for element in b.elements if isinstance(element, Barrier)] == [1, 2]
    assert all(element.columns().num_rows == 500_000 for element in b.elements if isinstance(element, Batch))


def test_a_batch_cannot_overtake_and_a_stranger_cannot_be_sent_to(stations: Any) -> None:
    a, b = stations.start("a"), stations.start("b")
    with pytest.raises(ProtocolError, match="slot a sends to slot b, whose address it was not told"):
        a.transport.send(b.id, frame(Watermark(1)))
    stations.introduce()
    with pytest.raises(ProtocolError, match="cannot overtake"):
        a.transport.send(b.id, frame(batch(1)), priority=True)


# attempts


def test_frames_of_older_attempts_are_dropped_at_both_ends_and_schemas_start_anew(stations: Any) -> None:
    a, b = stations.start("a"), stations.start("b")
    stations.introduce()
    for attempt in (1, 2):
        a.transport.send(b.id, frame(batch(10), attempt))
        a.transport.send(b.id, frame(batch(20), attempt))
        stations.run(lambda: bool(b.frames) and len(b.elements[-1]) == 20)
        b.frames.clear()
    a.transport.send(b.id, frame(Watermark(1), 1))
    a.transport.send(b.id, frame(Watermark(2), 2))
    stations.run(lambda: bool(b.frames))
    assert b.elements == [Watermark(2)]


def test_channels_of_several_attempts_share_a_connection(stations: Any) -> None:
    """A region that restarts leaves the channels of others alone: their schemas, queued frames and credit."""
    a, b = stations.start("a"), stations.start("b")
    stations.introduce()
    a.transport.send(b.id, frame(batch(10), 1))
    a.transport.send(b.id, frame(batch(10), 1, OTHER))
    stations.run(lambda: len(b.frames) == 2)
    a.transport.send(b.id, frame(batch(11), 1))
    a.transport.send(b.id, frame(batch(12), 1, OTHER))
    a.transport.send(b.id, frame(batch(13), 7, OTHER))
    a.transport.send(b.id, frame(batch(14), 1))
    b.transport.grant(a.id, Attempt(1), CHANNEL, 5)
    b.transport.grant(a.id, Attempt(7), OTHER, 6)
    b.transport.grant(a.id, Attempt(1), CHANNEL, 7)
    stations.run(lambda: len(b.frames) == 5 and len(a.grants) == 2)
    assert [(f.attempt, f.channel, len(f.element)) for f in b.frames[2:]] == [
        (1, CHANNEL, 11), (7, OTHER, 13), (1, CHANNEL, 14),
    ]  # fmt: skip
    assert a.grants == [(1, CHANNEL, 12), (7, OTHER, 6)]


# loss


@NEAR_AND_FAR
def test_both_ends_are_told_once_and_a_later_attempt_connects_anew(stations: Any, machine: str) -> None:
    a, b = stations.start("a"), stations.start("b", machine)
    stations.introduce()
    a.transport.send(b.id, frame(Watermark(1)))
    b.transport.send(a.id, frame(Watermark(1), channel=OTHER))
    stations.run(lambda: len(a.frames) == len(b.frames) == 1)
    cut(a.transport.peer(b.id))
    stations.run(lambda: a.lost == [b.id] and b.lost == [a.id])
    a.transport.send(b.id, frame(Watermark(2)))
    b.transport.grant(a.id, Attempt(1), CHANNEL, 5)
    a.transport.send(b.id, frame(Watermark(3), 2))
    b.transport.send(a.id, frame(Watermark(4), 2, OTHER))
    stations.run(lambda: len(a.frames) == len(b.frames) == 2)
    assert b.elements[1:] == [Watermark(3)]
    assert (a.lost, b.lost, a.grants) == ([b.id], [a.id], [])


def cut(peer: Peer) -> None:
    """As if the network had lost it."""
    for connection in peer.connections():
        connection._socket.shutdown(socket.SHUT_RDWR)


def test_who_used_a_connection_that_was_lost_is_told_by_attempt(stations: Any) -> None:
    a, b = stations.start("a"), stations.start("b")
    stations.introduce()
    a.transport.send(b.id, frame(Watermark(1)))
    stations.run(lambda: bool(b.frames))
    cut(a.transport.peer(b.id))
    stations.run(lambda: not a.transport.peer(b.id).connections() and not b.transport.peer(a.id).connections())
    a.transport.send(b.id, frame(Watermark(2), 2))
    stations.run(lambda: len(b.frames) == 2)
    assert (a.lost_attempts, b.lost_attempts) == ([1], [1])


@NEAR_AND_FAR
def test_a_slot_that_is_gone_cannot_be_connected_to(stations: Any, machine: str) -> None:
    a, b = stations.start("a"), stations.start("b", machine)
    stations.introduce()
    stations.stop(b)
    a.transport.send(b.id, frame(Watermark(1)))
    assert a.lost == []  # never inside the slot's own call
    stations.run(lambda: a.lost == [b.id])


def test_a_slot_with_a_new_address_is_another_one(stations: Any) -> None:
    a, b = stations.start("a"), stations.start("b")
    stations.introduce()
    a.transport.send(b.id, frame(Watermark(1)))
    stations.run(lambda: bool(b.frames))
    stations.stop(b)
    b = stations.start("b", "another")
    stations.introduce()
    a.transport.send(b.id, frame(Watermark(2)))
    stations.run(lambda: bool(b.frames))
    assert b.elements == [Watermark(2)]


def test_a_second_connection_of_a_peer_replaces_the_first(stations: Any) -> None:
    a, b = stations.start("a"), stations.start("b")
    stations.introduce()
    a.transport.send(b.id, frame(Watermark(1)))
    stations.run(lambda: bool(b.frames))
    twin = stations.start("a", "twin's")  # the same slot, which has lost its connection, and b does not know
    twin.transport.meet({b.id: replace(b.transport.address, task_manager="twin's")})
    twin.transport.send(b.id, frame(Watermark(2), 2))
    stations.run(lambda: len(b.frames) == 2)
    assert b.lost == [a.id]


# strangers


@NEAR_AND_FAR
def test_another_secret_is_refused(stations: Any, machine: str, caplog: pytest.LogCaptureFixture) -> None:
    a, b = stations.start("a", secret=b"another"), stations.start("b", machine)
    stations.introduce()
    a.transport.send(b.id, frame(Watermark(1)))
    stations.run(lambda: a.lost == [b.id])
    assert (b.frames, b.lost) == ([], [])
    assert "the secret is not that of this slot's job" in caplog.text


def test_a_slot_without_a_job_refuses_everybody(stations: Any) -> None:
    a, b = stations.start("a", secret=b""), stations.start("b", secret=b"")
    stations.introduce()
    a.transport.send(b.id, frame(Watermark(1)))
    stations.run(lambda: a.lost == [b.id])
    assert b.frames == []


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", "not a frame of this protocol"),
        (HEADER.pack(0, 0, 0, Kind.BATCH, 0, 0, 2**30), "the limit is 4096"),
        (HEADER.pack(0, 0, 0, Kind.BATCH, 0, 1, 4) + b"1234", "expected HELLO"),
        (b"", "the other end has closed it"),
    ],
)
def test_garbage_closes_the_connection_and_nothing_else(
    stations: Any, said: bytes, complaint: str, caplog: pytest.LogCaptureFixture
) -> None:
    a, b = stations.start("a"), stations.start("b")
    stations.introduce()
    with socket.create_connection((b.transport.address.host, b.transport.address.port)) as stranger:
        stranger.sendall(said)
        stranger.shutdown(socket.SHUT_WR)
        stations.run(lambda: complaint in caplog.text)
    a.transport.send(b.id, frame(Watermark(1)))
    stations.run(lambda: bool(b.frames))
    assert b.lost == []


@pytest.mark.parametrize(
    ("kind", "body", "complaint"),
    [
        (Kind.BATCH, bytes(16), "came before its schema"),
        (Kind.SCHEMA, b"nonsense", "cannot be read"),
        (Kind.CONTROL, b"nonsense", "cannot be read"),
        (Kind.WATERMARK, b"1", "WATERMARK frame of 1 bytes"),
        (Kind.GRANT, bytes(8), "GRANT frame came from the sender"),
        (Kind.HELLO, bytes(8), "HELLO frame came from the sender"),
    ],
)
def test_garbage_of_a_known_peer_is_a_lost_connection(
    stations: Any, kind: Kind, body: bytes, complaint: str, caplog: pytest.LogCaptureFixture
) -> None:
    a, b = stations.start("a"), stations.start("b")
    stations.introduce()
    a.transport.send(b.id, frame(Watermark(1)))
    stations.run(lambda: bool(b.frames))
    a.transport.peer(b.id).outgoing._socket.sendall(HEADER.pack(0, 0, 0, kind, 0, 1, len(body)) + body)
    stations.run(lambda: a.lost == [b.id] and b.lost == [a.id])
    assert complaint in caplog.text


def test_an_error_of_the_receiver_costs_the_connection_not_the_slot(stations: Any) -> None:
    a, b = stations.start("a"), stations.start("b")
    stations.introduce()

    class Strict(type(b)):  # type: ignore[misc]
        def receive(self, frame: Frame) -> None:
            raise KeyError(frame.channel)

    b.__class__ = Strict
    a.transport.send(b.id, frame(Watermark(1)))
    stations.run(lambda: a.lost == [b.id] and b.lost == [a.id])


# limits


def test_what_is_queued_for_a_slow_receiver_is_counted_and_dropped_with_its_attempt(stations: Any) -> None:
    a, b = stations.start("a"), stations.start("b")
    stations.introduce()
    a.transport.send(b.id, frame(Watermark(1)))
    stations.run(lambda: bool(b.frames))
    for _ in range(20):
        a.transport.send(b.id, frame(batch(100_000)))
        a.turn()  # b does not read
    size = batch(100_000).nbytes
    assert 10 * size < a.transport.queued_bytes <= 20 * (size + 1_000)
    a.transport.send(b.id, frame(Watermark(2), 2))
    assert a.transport.queued_bytes < 2 * size
    stations.run(lambda: b.elements[-1] == Watermark(2))
    assert a.transport.queued_bytes == 0


def test_a_full_backlog_is_tried_again(stations: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = stations.start("a"), stations.start("b")
    stations.introduce()
    connect, refusals = Connection.connect, [False, False]
    monkeypatch.setattr(Connection, "connect", lambda self, to: refusals.pop() if refusals else connect(self, to))
    a.transport.send(b.id, frame(Watermark(1)))
    a.clock.ahead_ns += CHECK_NS
    a.turn()
    a.clock.ahead_ns += CHECK_NS
    stations.run(lambda: bool(b.frames))
    assert refusals == []


def test_a_path_too_long_for_a_socket_is_explained(tmp_path: Any) -> None:
    directory = tmp_path / ("x" * 100)
    directory.mkdir()
    with pytest.raises(ConfigurationError, match=r"set io\.tmp\.dirs to a shorter directory"):
        SocketTransport(
            SlotId("a"), directory=directory, host="127.0.0.1", task_manager="t", secret=b"", clock=None  # type: ignore[arg-type]
        )  # fmt: skip


def test_closing_leaves_no_socket_behind(stations: Any) -> None:
    a = stations.start("a")
    assert [path.suffix for path in stations.directory.iterdir()] == [".sock"]
    stations.stop(a)
    assert list(stations.directory.iterdir()) == []


def test_a_connector_keeps_its_records_until_it_is_welcome(stations: Any) -> None:
    a = stations.start("a")
    with socket.create_server(("127.0.0.1", 0)) as impostor:
        address = replace(a.transport.address, task_manager="far", port=impostor.getsockname()[1])
        a.transport.meet({SlotId("b"): address})
        a.transport.send(SlotId("b"), frame(batch(1_000)))
        stations.run(lambda: isinstance(a.transport.peer(SlotId("b")).outgoing.greeting, Connector))
        accepted, _ = impostor.accept()
        with accepted:
            for _ in range(5):
                a.turn()
            accepted.setblocking(False)
            with pytest.raises(BlockingIOError):
                accepted.recv(1)
