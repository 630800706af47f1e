"""Frames as bytes: however the stream is cut, the same frames come out; what is no frame is refused."""

from __future__ import annotations

from itertools import pairwise

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.state.ids import Attempt, SlotId
from penstock.taskmanager.exchange.handshake import Acceptor, Connector, RefusedError, refused
from penstock.taskmanager.exchange.wire import (
    DIRECT_BYTES,
    HEADER,
    MAX_BODY_BYTES,
    MAX_HANDSHAKE_BYTES,
    SCRATCH_BYTES,
    FrameParser,
    Kind,
    Outgoing,
    Received,
    SendQueue,
    WireError,
    handshake_frame,
    header,
)
from penstock.taskmanager.messages import ChannelId

SIZES = st.one_of(
    st.integers(0, 64),
    st.sampled_from([DIRECT_BYTES - 1, DIRECT_BYTES, SCRATCH_BYTES - 16, SCRATCH_BYTES - 15, SCRATCH_BYTES + 1]),
    st.integers(0, 3 * SCRATCH_BYTES),
)
U16 = st.integers(0, 2**16 - 1)
FRAMES = st.lists(st.tuples(st.tuples(U16, U16, U16), st.integers(1, 9), st.integers(0, 2**32 - 1), SIZES), max_size=8)


def fed(parser: FrameParser, stream: bytes, cuts: list[int]) -> list[Received]:
    """The frames of a stream that arrives in pieces ending at these positions."""
    frames: list[Received] = []
    for begin, end in pairwise([0, *sorted(cuts), len(stream)]):
        piece = memoryview(stream)[begin:end]
        while piece:
            taken = 0
            for room in parser.buffers():
                part = piece[: len(room)]
                room[: len(part)] = part
                piece = piece[len(part) :]
                taken += len(part)
            frames += parser.received(taken)
    return frames


def opened() -> FrameParser:
    parser = FrameParser()
    parser.limit = MAX_BODY_BYTES
    return parser


@given(st.data(), FRAMES)
def test_any_chunking_gives_the_same_frames(data: st.DataObject, frames: list[tuple]) -> None:
    bodies = [bytes([i + 1]) * size for i, (_, _, _, size) in enumerate(frames)]
    stream = b"".join(
        header(ChannelId(*channel), kind, 3, Attempt(attempt), len(body)) + body
        for (channel, kind, attempt, _), body in zip(frames, bodies, strict=True)
    )
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=20))
    parser = opened()
    got = fed(parser, stream, cuts)
    assert [(f.channel, f.kind, f.flags, f.attempt) for f in got] == [(c, k, 3, a) for c, k, a, _ in frames]
    assert [f.body.to_pybytes() for f in got] == bodies
    assert not parser.in_frame


@given(st.binary(max_size=2_000), st.lists(st.integers(0, 2_000), max_size=5))
def test_garbage_is_refused_or_waits_for_more_and_nothing_else(stream: bytes, cuts: list[int]) -> None:
    parser = FrameParser()
    try:
        frames = fed(parser, stream, [min(cut, len(stream)) for cut in cuts])
    except WireError:
        return
    assert sum(HEADER.size + f.body.size for f in frames) <= len(stream)


def test_frames_stay_as_they_are_when_later_ones_come() -> None:
    parser = opened()
    stream = b"".join(
        header(ChannelId(0, 0, 0), Kind.CONTROL, 0, Attempt(1), 5_000) + bytes([i]) * 5_000 for i in range(60)
    )
    frames = fed(parser, stream, [])
    assert [set(f.body.to_pybytes()) for f in frames] == [{i} for i in range(60)]


def test_a_small_body_does_not_keep_the_scratch_buffer_alive() -> None:
    (frame,) = fed(opened(), header(ChannelId(0, 0, 0), Kind.CONTROL, 0, Attempt(1), 10) + b"0123456789", [])
    assert frame.body.size == 10
    assert frame.body.parent is None


def test_a_large_body_is_one_aligned_buffer() -> None:
    (frame,) = fed(
        opened(), header(ChannelId(0, 0, 0), Kind.BATCH, 0, Attempt(1), 10**6) + bytes(10**6), [10, 20, 70_000]
    )
    assert (frame.body.size, frame.body.address % 64) == (10**6, 0)


@pytest.mark.parametrize(
    ("stream", "complaint"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "not a frame of this protocol"),
        (HEADER.pack(0, 0, 0, 0, 0, 0, 0), r"kind 0"),
        (HEADER.pack(0, 0, 0, Kind.HELLO, 0, 0, MAX_HANDSHAKE_BYTES + 1), "a HELLO frame of 4097 bytes"),
    ],
)
def test_what_is_no_frame_is_refused(stream: bytes, complaint: str) -> None:
    with pytest.raises(WireError, match=complaint):
        fed(FrameParser(), stream, [])


def test_the_limit_holds_after_the_handshake_too() -> None:
    with pytest.raises(WireError, match="the limit is"):
        fed(opened(), HEADER.pack(0, 0, 0, Kind.BATCH, 0, 0, MAX_BODY_BYTES + 1), [])


def test_a_frame_cut_short_is_known_to_be_incomplete() -> None:
    for length in (3, 16, 17, 16 + DIRECT_BYTES):
        parser = opened()
        stream = header(ChannelId(0, 0, 0), Kind.BATCH, 0, Attempt(1), 2 * DIRECT_BYTES) + bytes(2 * DIRECT_BYTES)
        assert fed(parser, stream[:length], []) == []
        assert parser.in_frame


def test_what_does_not_fit_into_a_header_is_named() -> None:
    with pytest.raises(WireError, match="edge=70000"):
        header(ChannelId(70_000, 0, 0), Kind.BATCH, 0, Attempt(1), 0)
    with pytest.raises(WireError, match="records are too large"):
        header(ChannelId(0, 0, 0), Kind.BATCH, 0, Attempt(1), MAX_BODY_BYTES + 1)


# what waits to be sent


def frame(text: bytes, attempt: int = 1, priority: bool = False, channel: ChannelId | None = None) -> Outgoing:
    half = len(text) // 2
    return Outgoing(attempt, [text[:half], b"", text[half:]], priority, channel)


def drained(queue: SendQueue) -> bytes:
    out = b"".join(queue.parts())
    queue.sent(len(out))
    return out


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=40), st.booleans(), st.integers(0, 60)), max_size=20))
def test_frames_stay_whole_and_priority_frames_overtake_only_what_has_not_begun(
    steps: list[tuple[bytes, bool, int]],
) -> None:
    queue, out, begun = SendQueue(), b"", 0
    model: list[tuple[bytes, bool]] = []
    for text, priority, sent in steps:
        if priority:
            position = begun
            while position < len(model) and model[position][1]:
                position += 1
            model.insert(position, (text, True))
        else:
            model.append((text, False))
        queue.append(frame(text, priority=priority))
        offered = b"".join(queue.parts())
        queue.sent(min(sent, len(offered)))
        out += offered[:sent]
        length = 0
        begun = 0
        while length < len(out):
            length += len(model[begun][0])
            begun += 1
        assert queue.nbytes == sum(len(t) for t, _ in model) - len(out)
    out += drained(queue)
    assert out == b"".join(text for text, _ in model)
    assert (queue.nbytes, len(queue)) == (0, 0)


def test_nothing_goes_before_what_tls_was_given() -> None:
    queue = SendQueue()
    for text in (b"first ", b"second ", b"third "):
        queue.append(frame(text))
    queue.committed = 8
    queue.append(frame(b"urgent ", priority=True))
    queue.drop_before(2)
    assert drained(queue) == b"first second "


def test_frames_of_older_attempts_are_not_sent_unless_they_have_begun() -> None:
    queue = SendQueue()
    for text, attempt in ((b"begun ", 1), (b"old ", 1), (b"new ", 2)):
        queue.append(frame(text, attempt))
    queue.sent(2)
    queue.drop_before(2)
    assert queue.nbytes == 8
    assert drained(queue) == b"gun new "


def test_a_later_attempt_of_one_channel_leaves_others_alone() -> None:
    queue, one, other = SendQueue(), ChannelId(0, 0, 0), ChannelId(1, 0, 0)
    for text, channel in ((b"stale ", one), (b"good ", other)):
        queue.append(frame(text, channel=channel))
    queue.drop_before(2, one)
    assert drained(queue) == b"good "


# the handshake


def received(stream: bytes) -> Received:
    (one,) = fed(FrameParser(), stream, [])
    return one


A, B = SlotId("slot-a"), SlotId("slot-b")


def hello(connector: Connector, acceptor: Acceptor) -> Received:
    said = connector.received(received(acceptor.challenge()))
    assert said is not None
    return received(said)


def test_two_slots_of_one_job_recognise_each_other() -> None:
    acceptor, connector = Acceptor(B, b"secret"), Connector(A, B, b"secret")
    sender, welcome = acceptor.received(hello(connector, acceptor))
    assert sender == A
    assert not connector.done
    assert connector.received(received(welcome)) is None
    assert connector.done


def test_another_secret_is_refused_by_both_ends() -> None:
    acceptor, connector = Acceptor(B, b"secret"), Connector(A, B, b"another")
    greeting = hello(connector, acceptor)
    with pytest.raises(RefusedError, match="not that of this slot's job"):
        acceptor.received(greeting)
    with pytest.raises(RefusedError, match="does not know the job's secret"):
        connector.received(received(handshake_frame(Kind.WELCOME, bytes(32))))


def test_what_was_overheard_cannot_be_said_again() -> None:
    acceptor, connector = Acceptor(B, b"secret"), Connector(A, B, b"secret")
    overheard = hello(connector, acceptor)
    acceptor.received(overheard)
    with pytest.raises(RefusedError, match="secret"):
        Acceptor(B, b"secret").received(overheard)


def test_a_slot_that_was_not_meant_refuses() -> None:
    acceptor = Acceptor(B, b"secret")
    with pytest.raises(RefusedError, match="this is slot slot-b, not slot slot-c"):
        acceptor.received(hello(Connector(A, SlotId("slot-c"), b"secret"), acceptor))


def test_another_version_is_refused_and_says_so() -> None:
    challenge = received(Acceptor(B, b"secret").challenge())
    body = challenge.body.to_pybytes()
    other = challenge._replace(body=pa.py_buffer(body[:8] + b"\x09\x00" + body[10:]))
    with pytest.raises(RefusedError, match="version 9 of the slots' protocol meets version 1"):
        Connector(A, B, b"secret").received(other)


def test_a_refusal_is_understood() -> None:
    with pytest.raises(RefusedError, match="the connection was refused: because"):
        Connector(A, B, b"secret").received(received(refused("because")))


@given(st.binary(max_size=200), st.integers(1, 9))
def test_nonsense_instead_of_a_greeting_is_refused(body: bytes, kind: int) -> None:
    nonsense = Received((0, 0, 0), kind, 0, 0, pa.py_buffer(body))
    with pytest.raises(WireError):
        Connector(A, B, b"secret").received(nonsense)
    with pytest.raises(WireError):
        Acceptor(B, b"secret").received(nonsense)
