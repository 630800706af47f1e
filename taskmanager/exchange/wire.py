"""What goes over a connection between two slots, as bytes. No I/O here: bytes in, frames out, and the other way.

A connection carries frames, one after the other. A frame is a header of 16 bytes and a body:

    edge u16 | source u16 | target u16 | kind u8 | flags u8 | attempt u32 | length of the body u32     (little endian)

| kind      | from      | body                                                                                  |
|-----------|-----------|---------------------------------------------------------------------------------------|
| CHALLENGE | acceptor  | handshake.py: the first frame of a connection                                         |
| HELLO     | connector | who it is, and its proof of the job's secret                                          |
| WELCOME   | acceptor  | the acceptor's proof; from here on the frames below                                   |
| REFUSED   | either    | why the connection will be closed, as text                                            |
| SCHEMA    | connector | frames.py: how the batches of this channel look from here on                          |
| BATCH     | connector | frames.py: credit, Arrow IPC messages, pickled rows                                   |
| WATERMARK | connector | i64, ms since the epoch                                                               |
| CONTROL   | connector | any other element, pickled                                                            |
| GRANT     | acceptor  | i64, bytes of credit that go back to the sender                                       |

Edge, source and target name the channel; they are 0 in a handshake. Frames of one channel and attempt arrive in the
order they were sent, except that PRIORITY frames overtake what has not begun to be sent; they never need a schema.

The parser says where the next bytes belong (`buffers`) and is told how many came (`received`): a large body is received
straight into the Arrow buffer that the batch will live in, small frames come many at a time through one scratch
buffer and are copied out, so that a small batch never keeps a large buffer alive. Whatever is no frame (an unknown
kind, a body above the limit) is a WireError, after which the connection must be closed: there is no way to find the
next frame. Until the peer has proved who it is the limit is small, so that a stranger cannot make us allocate.
"""

from __future__ import annotations

import enum
import struct
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple, TypeAlias

import pyarrow as pa

from ...state.errors import PenstockError
from ...state.ids import Attempt
from ..messages import ChannelId

VERSION = 1
"""Of everything that goes over a connection; both ends must speak the same."""
HEADER = struct.Struct("<HHHBBII")
WORD = struct.Struct("<q")
"""Body of a watermark, and of a grant."""
MAX_HANDSHAKE_BYTES = 4 * 1024
"""Longest body before the peer is known."""
MAX_BODY_BYTES = 1 << 30
"""Longest body after that: larger than any window, because one record may be larger than its window."""
SCRATCH_BYTES = 64 * 1024
DIRECT_BYTES = 16 * 1024
"""A body of at least this length is received where it will stay, unless it is there already."""
READ_AHEAD_BYTES = 4 * 1024
"""What is read beyond the end of such a body: the next one is probably as large, and what is read of it here is copied.
"""
PARTS_PER_SEND = 256
BYTES_PER_SEND = 4 << 20
"""What one system call is given at most (the kernel takes 1,024 parts)."""

Bytes: TypeAlias = bytes | bytearray | memoryview | pa.Buffer
"""A memoryview is one of single bytes."""


class WireError(PenstockError):
    """What has arrived is no frame, or not one that may come here; the connection cannot be used any more."""


class Kind(enum.IntEnum):
    CHALLENGE = 1
    HELLO = 2
    WELCOME = 3
    REFUSED = 4
    SCHEMA = 5
    BATCH = 6
    WATERMARK = 7
    CONTROL = 8
    GRANT = 9


KINDS = frozenset(int(kind) for kind in Kind)
NO_CHANNEL = (0, 0, 0)
PRIORITY = 0x80
"""Flag: the frame overtook what was queued. The other flags are the kind's own (frames.py)."""


class Received(NamedTuple):
    """One frame, complete."""

    channel: tuple[int, int, int]
    kind: int
    flags: int
    attempt: int
    body: pa.Buffer


def header(channel: ChannelId, kind: int, flags: int, attempt: Attempt, length: int) -> bytes:
    """WireError when a field does not fit: a body above MAX_BODY_BYTES, or more than 65,536 subtasks or edges."""
    if length > MAX_BODY_BYTES:
        raise WireError(
            f"{channel}: a batch of {length} bytes cannot be sent (limit {MAX_BODY_BYTES}): its records are too large"
        )
    try:
        return HEADER.pack(channel.edge, channel.source, channel.target, kind, flags, attempt, length)
    except struct.error as error:
        raise WireError(f"{channel} of attempt {attempt} does not fit into a frame: {error}") from error


def handshake_frame(kind: Kind, body: bytes) -> bytes:
    return HEADER.pack(*NO_CHANNEL, kind, 0, 0, len(body)) + body


class FrameParser:
    """Bytes of one connection to frames. Say how many bytes were put into `buffers()`, get what is complete."""

    def __init__(self) -> None:
        self.limit = MAX_HANDSHAKE_BYTES
        """Longest body that is taken; the owner raises it when the peer is known."""
        self._scratch = bytearray(SCRATCH_BYTES)
        self._view = memoryview(self._scratch)
        self._filled = 0
        self._body: pa.Buffer | None = None
        self._head: tuple[tuple[int, int, int], int, int, int] = (NO_CHANNEL, 0, 0, 0)
        self._rest = memoryview(b"")
        """What is still missing of the body."""

    def buffers(self) -> list[memoryview]:
        """Where the next bytes go, in this order; never empty, none of them is."""
        if self._body is not None:
            return [self._rest, self._view[:READ_AHEAD_BYTES]]
        return [self._view[self._filled :]]

    @property
    def in_frame(self) -> bool:
        """Has a part of a frame arrived? Then the end of the stream is not a proper one."""
        return self._body is not None or self._filled > 0

    def received(self, nbytes: int) -> list[Received]:
        """So many bytes were put into `buffers()`. WireError when they are no frames."""
        frames: list[Received] = []
        if self._body is not None:
            taken = min(nbytes, len(self._rest))
            self._rest = self._rest[taken:]
            nbytes -= taken
            if len(self._rest):
                return frames
            frames.append(Received(*self._head, self._body))
            self._body = None
        self._filled += nbytes
        self._parse(frames)
        return frames

    def _parse(self, frames: list[Received]) -> None:
        position, filled = 0, self._filled
        while filled - position >= HEADER.size:
            edge, source, target, kind, flags, attempt, length = HEADER.unpack_from(self._scratch, position)
            if kind not in KINDS or length > self.limit:
                raise WireError(_not_a_frame(kind, length, self.limit))
            begin = position + HEADER.size
            end = begin + length
            head = ((edge, source, target), kind, flags, attempt)
            if end <= filled:
                frames.append(Received(*head, pa.py_buffer(bytes(self._view[begin:end]))))
                position = end
            elif length >= DIRECT_BYTES:
                self._receive_directly(head, length, self._view[begin:filled])
                position = filled
            else:
                break
        self._filled = filled - position
        if position and self._filled:
            self._scratch[: self._filled] = self._scratch[position:filled]

    def _receive_directly(
        self, head: tuple[tuple[int, int, int], int, int, int], length: int, begun: memoryview
    ) -> None:
        self._head = head
        self._body = pa.allocate_buffer(length)
        view = memoryview(self._body).cast("B")
        view[: len(begun)] = begun
        self._rest = view[len(begun) :]


def _not_a_frame(kind: int, length: int, limit: int) -> str:
    if kind not in KINDS:
        return f"what arrived is not a frame of this protocol (kind {kind})"
    return f"a {Kind(kind).name} frame of {length} bytes arrived, the limit is {limit}"


class Outgoing:
    """One frame to be sent."""

    __slots__ = ("attempt", "begun", "channel", "parts", "priority", "size")

    def __init__(
        self, attempt: int, parts: Iterable[Bytes], priority: bool = False, channel: ChannelId | None = None
    ) -> None:
        """Empty parts are left out. channel: whose later attempts make the frame superfluous."""
        self.attempt = attempt
        self.channel = channel
        self.parts: list[Bytes] = [part for part in parts if len(part)]
        self.size = sum(map(len, self.parts))
        self.begun = False
        self.priority = priority


class SendQueue:
    """Frames of one connection on their way out, in order; what bounds it is the credit of its channels.

    `committed` bytes at the front were handed to TLS and must be offered again exactly as they are: nothing may be
    put before their end, and no frame that they reach into may be dropped.
    """

    def __init__(self) -> None:
        self._frames: deque[Outgoing] = deque()
        self.nbytes = 0
        """Not sent yet."""
        self.committed = 0

    def __len__(self) -> int:
        return len(self._frames)

    def append(self, frame: Outgoing) -> None:
        """A priority frame goes before all that has not begun, but behind older priority frames."""
        self.nbytes += frame.size
        if not frame.priority:
            self._frames.append(frame)
            return
        position = self._first_free()
        while position < len(self._frames) and self._frames[position].priority:
            position += 1
        self._frames.insert(position, frame)

    def parts(self) -> list[Bytes]:
        """The next bytes to be sent, for one system call."""
        parts: list[Bytes] = []
        size = 0
        for frame in self._frames:
            parts += frame.parts
            size += frame.size
            if size >= BYTES_PER_SEND or len(parts) >= PARTS_PER_SEND:
                break
        return parts[:PARTS_PER_SEND]

    def sent(self, nbytes: int) -> None:
        """The first so many of `parts()` are out."""
        self.nbytes -= nbytes
        self.committed = max(0, self.committed - nbytes)
        frames = self._frames
        while nbytes:
            frame = frames[0]
            if nbytes >= frame.size:
                nbytes -= frame.size
                frames.popleft()
                continue
            frame.begun = True
            frame.size -= nbytes
            parts = frame.parts
            done = 0
            while nbytes >= len(parts[done]):
                nbytes -= len(parts[done])
                done += 1
            frame.parts = parts[done:]
            if nbytes:
                frame.parts[0] = memoryview(frame.parts[0])[nbytes:]
            return

    def drop_before(self, attempt: int, channel: ChannelId | None = None) -> None:
        """The channel's frames of older attempts that have not begun are not sent any more."""
        keep = self._first_free()
        frames = list(self._frames)
        self._frames = deque(
            f for i, f in enumerate(frames) if i < keep or f.attempt >= attempt or f.channel != channel
        )
        self.nbytes = sum(frame.size for frame in self._frames)

    def clear(self) -> None:
        self._frames.clear()
        self.nbytes = self.committed = 0

    def _first_free(self) -> int:
        """Position behind everything that has begun or is committed."""
        position = 0
        covered = self.committed
        for frame in self._frames:
            if covered <= 0 and not frame.begun:
                break
            covered -= frame.size
            position += 1
        return position
