"""One connection between two slots: its socket, what was received in part, what waits to be sent, and how far it is.

    CONNECTING  the socket is not connected yet                       (own connections only)
    SECURING    TLS shakes hands                                      (between nodes, where it is configured)
    GREETING    challenge, hello, welcome (handshake.py)
    OPEN        frames flow
    CLOSED      lost or given up

A connection knows nothing of tasks. Of attempts it knows the newest that it has carried, and that of each channel:
regions restart alone, so channels of several attempts share it; what is older than its channel's attempt is not sent
any more, and not decoded. It raises, and whoever owns it (socket_transport.py) closes it: OSError when the network
failed, WireError when the peer did.
"""

from __future__ import annotations

import enum
import errno
import os
import socket
import ssl
import struct
from dataclasses import dataclass

from ...runtime.batch import Batch
from ...runtime.elements import Watermark
from ...state.errors import ConnectionLostError, ProtocolError
from ...state.ids import Attempt, SlotId
from ..messages import ChannelId, SlotAddress
from .byte_streams import ByteStream, PlainStream, TlsStream
from .frames import BatchDecoder, BatchEncoder, decode_control, encode_control
from .handshake import Acceptor, Connector, refused
from .transport import Frame
from .wire import (
    MAX_BODY_BYTES,
    PRIORITY,
    WORD,
    FrameParser,
    Kind,
    Outgoing,
    Received,
    SendQueue,
    WireError,
    header,
)

HANDSHAKE_NS = 10_000_000_000
"""A connection that is not open after so long is given up."""
READ_BYTES = 8 << 20
"""Of one connection in one turn; then others get theirs."""
SOCKET_BUFFER_BYTES = 1 << 20
"""Of Unix sockets; TCP finds its own."""
SILENT_CHECKS = 10
"""So many checks in a row, one a second, without a sign of life from a peer that owes one: it is dead."""

_TCP_INFO = struct.Struct("=8B13I")
_PROBES, _UNACKNOWLEDGED, _LAST_ACK_RECEIVED_MS = 3, 12, 20
_MOST_PROBES = 4


class Stage(enum.Enum):
    CONNECTING = enum.auto()
    SECURING = enum.auto()
    GREETING = enum.auto()
    OPEN = enum.auto()
    CLOSED = enum.auto()


@dataclass(slots=True)
class _Decoding:
    """What arrives on one channel."""

    attempt: Attempt
    channel: ChannelId
    decoder: BatchDecoder | None = None


class Connection:
    """Owned by the slot's thread."""

    def __init__(
        self,
        connection: socket.socket,
        greeting: Acceptor | Connector,
        context: ssl.SSLContext | None,
        deadline_ns: int,
    ) -> None:
        """context: for TLS. A connector's socket may still be connecting."""
        connection.setblocking(False)
        _tune(connection)
        self.greeting = greeting
        self.accepted = isinstance(greeting, Acceptor)
        self.stage = Stage.GREETING if self.accepted else Stage.CONNECTING
        self.deadline_ns = deadline_ns
        self.peer: SlotId | None = None
        """None: not known yet."""
        self.newest = Attempt(0)
        """Of all frames sent or received on it."""
        self.queue = SendQueue()
        """Of an open connection; until then it fills."""
        self.registered = 0
        """Event mask the poller has."""
        self.tcp = connection.family != socket.AF_UNIX
        self._words = SendQueue()
        """Of the handshake."""
        self._encoders: dict[ChannelId, tuple[Attempt, BatchEncoder]] = {}
        self._decoders: dict[tuple[int, int, int], _Decoding] = {}
        self._grants: dict[tuple[Attempt, ChannelId], int] = {}
        """Not sent yet."""
        self._socket = connection
        self._context = context
        self._stream: ByteStream = PlainStream(connection)
        self._parser = FrameParser()
        self._silent_checks = 0
        if self.accepted:
            self._secure()

    def fileno(self) -> int:
        return self._socket.fileno()

    def connect(self, address: tuple[str, int] | str) -> bool:
        """Begin. False: the peer's backlog is full, try again later. OSError."""
        try:
            self._socket.connect(address)
        except BlockingIOError as error:
            # EINPROGRESS for TCP; a Unix socket answers EAGAIN when the backlog is full, and is not connecting then
            return self.tcp or error.errno == errno.EINPROGRESS
        self.connected()
        return True

    def connected(self) -> None:
        """The socket says it is through with connecting. OSError when it failed."""
        if self.stage is not Stage.CONNECTING:
            return
        error = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise OSError(error, os.strerror(error))
        try:
            self._socket.getpeername()
        except OSError:  # a stale event: it is still connecting
            return
        self.stage = Stage.GREETING
        self._secure()

    def _secure(self) -> None:
        if self._context is not None:
            stream = TlsStream(self._socket, self._context, self.accepted)
            self._socket, self._stream, self.stage = stream.socket, stream, Stage.SECURING
        elif isinstance(self.greeting, Acceptor):
            self.say(self.greeting.challenge())

    def secured(self) -> bool:
        """Go on with TLS' handshake. True when it is through. OSError."""
        if not self._stream.handshake():
            return False
        self.stage = Stage.GREETING
        if isinstance(self.greeting, Acceptor):
            self.say(self.greeting.challenge())
        return True

    def opened(self, peer: SlotId) -> None:
        self.peer = peer
        self.stage = Stage.OPEN
        self._parser.limit = MAX_BODY_BYTES

    def say(self, words: bytes) -> None:
        """A frame of the handshake: before everything else."""
        self._words.append(Outgoing(0, [words]))

    def refuse(self, reason: str) -> None:
        """Tell the other end why it will be closed, if that can be told at once."""
        try:
            self.say(refused(reason))
            self.write()
        except OSError:
            pass

    # frames

    def _encoder(self, attempt: Attempt, channel: ChannelId) -> BatchEncoder | None:
        """Of what goes out on the channel, which is of this attempt now. None: it has gone on to a later one."""
        known = self._encoders.get(channel)
        if known is not None:
            if attempt <= known[0]:
                return known[1] if attempt == known[0] else None
            self.queue.drop_before(attempt, channel)
        self.newest = max(self.newest, attempt)
        encoder = BatchEncoder()
        self._encoders[channel] = (attempt, encoder)
        return encoder

    def put(self, frame: Frame, priority: bool) -> None:
        """Encode and queue it. What encoding raises; ProtocolError for a batch that is to overtake."""
        element, channel, attempt = frame.element, frame.channel, frame.attempt
        encoder = self._encoder(attempt, channel)
        if encoder is None:
            return
        if isinstance(element, Batch):
            if priority:
                raise ProtocolError(f"{channel}: a batch cannot overtake")
            self._put_batch(element, frame, encoder)
            return
        if isinstance(element, Watermark):
            kind, body = Kind.WATERMARK, WORD.pack(element.timestamp)
        else:
            kind, body = Kind.CONTROL, encode_control(element)
        head = header(channel, kind, PRIORITY if priority else 0, attempt, len(body))
        self.queue.append(Outgoing(attempt, [head + body], priority, channel))

    def _put_batch(self, batch: Batch, frame: Frame, encoder: BatchEncoder) -> None:
        channel, attempt = frame.channel, frame.attempt
        schema, flags, parts = encoder.encode(batch, frame.nbytes)
        head = header(channel, Kind.BATCH, flags, attempt, sum(map(len, parts)))
        if schema is not None:
            intro = header(channel, Kind.SCHEMA, 0, attempt, len(schema)) + schema
            self.queue.append(Outgoing(attempt, [intro], channel=channel))
        self.queue.append(Outgoing(attempt, [head + memoryview(parts[0]), *parts[1:]], channel=channel))

    def put_grant(self, attempt: Attempt, channel: ChannelId, nbytes: int) -> None:
        """Credit, sent with the next `write`."""
        self.newest = max(self.newest, attempt)
        self._grants[attempt, channel] = self._grants.get((attempt, channel), 0) + nbytes

    def arrived(self, received: Received) -> Frame | None:
        """Of the sender of data. None when it is not an element, or older than its channel's attempt. WireError."""
        attempt = Attempt(received.attempt)
        decoding = self._decoders.get(received.channel)
        if decoding is None or attempt > decoding.attempt:
            decoding = self._decoders[received.channel] = _Decoding(attempt, ChannelId(*received.channel))
            self.newest = max(self.newest, attempt)
        elif attempt < decoding.attempt:
            return None
        channel = decoding.channel
        match received.kind:
            case Kind.BATCH:
                if decoding.decoder is None:
                    raise WireError(f"a batch of {channel} came before its schema")
                batch, credit = decoding.decoder.decode(received.flags, received.body)
                return Frame(attempt, channel, batch, credit)
            case Kind.WATERMARK:
                return Frame(attempt, channel, Watermark(_word(received)), 0)
            case Kind.CONTROL:
                return Frame(attempt, channel, decode_control(received.body), 0)
            case Kind.SCHEMA:
                decoding.decoder = BatchDecoder(received.body)
                return None
            case other:
                raise WireError(f"a {Kind(other).name} frame came from the sender of data")

    def granted(self, received: Received) -> tuple[Attempt, ChannelId, int]:
        """Of the receiver of data. WireError."""
        if received.kind != Kind.GRANT:
            raise WireError(f"a {Kind(received.kind).name} frame came from the receiver of data")
        return Attempt(received.attempt), ChannelId(*received.channel), _word(received)

    # bytes

    def read(self) -> tuple[list[Received], bool]:
        """What has arrived and is complete; and whether the peer has closed. OSError, WireError."""
        frames: list[Received] = []
        parser, stream = self._parser, self._stream
        budget = READ_BYTES
        while budget > 0:
            buffers = parser.buffers()
            room = sum(map(len, buffers))
            nbytes = stream.receive(buffers)
            if nbytes is None:
                break
            if nbytes == 0:
                return frames, True
            frames += parser.received(nbytes)
            budget -= nbytes
            if nbytes < room and self._context is None:  # it is empty: spare the call that would say so
                break
            if self.stage is not Stage.OPEN:  # what follows may only be read by who is known then
                break
        return frames, False

    def write(self) -> None:
        """As much as the socket takes. OSError."""
        if self.stage in (Stage.CONNECTING, Stage.SECURING, Stage.CLOSED):
            return
        self._write_queue(self._words)
        if self.stage is Stage.OPEN and not len(self._words):
            if self._grants:
                self._queue_grants()
            self._write_queue(self.queue)

    def _write_queue(self, queue: SendQueue) -> None:
        stream = self._stream
        while len(queue):
            sent = stream.send(queue.parts())
            queue.committed = stream.committed
            if not sent:
                return
            queue.sent(sent)

    def _queue_grants(self) -> None:
        frames = [
            header(channel, Kind.GRANT, 0, attempt, WORD.size) + WORD.pack(nbytes)
            for (attempt, channel), nbytes in self._grants.items()
        ]
        self._grants.clear()
        self.queue.append(Outgoing(self.newest, [b"".join(frames)]))

    def pending(self) -> bool:
        return self._stream.pending()

    @property
    def wants_write(self) -> bool:
        if self.stage is Stage.CONNECTING:
            return True
        if self._stream.wants_write or self.stage is Stage.SECURING:
            return self._stream.wants_write
        return len(self._words) > 0 or (self.stage is Stage.OPEN and len(self.queue) > 0)

    def check_alive(self) -> None:
        """Once a second. ConnectionLostError when the peer's machine has been silent for too long although it owes an
        answer. The kernel's own timeout (TCP_USER_TIMEOUT) would also end the connection of a peer that is merely busy
        and reads nothing."""
        if not self.tcp or self.stage is Stage.CONNECTING:
            return
        info = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
        self._silent_checks = self._silent_checks + 1 if owes_answer(info) else 0
        if self._silent_checks >= SILENT_CHECKS:
            raise ConnectionLostError(f"the other machine has not answered for {SILENT_CHECKS} seconds")

    def close(self) -> None:
        if self.stage is not Stage.CLOSED:
            self.stage = Stage.CLOSED
            self.queue.clear()
            self._encoders.clear()
            self._decoders.clear()
            self._grants.clear()
            self._socket.close()


class Peer:
    """Another slot, as far as this one knows it."""

    def __init__(self, address: SlotAddress | None = None) -> None:
        self.address = address
        self.outgoing: Connection | None = None
        self.incoming: Connection | None = None
        self.broken = Attempt(0)
        """Attempts up to this one have lost a connection."""

    def connections(self) -> list[Connection]:
        return [c for c in (self.outgoing, self.incoming) if c is not None]


def owes_answer(tcp_info: bytes) -> bool:
    """By the kernel's account (struct tcp_info): something is on its way, or the peer's window was asked for
    repeatedly, and it has not said a word for a second."""
    if len(tcp_info) < _TCP_INFO.size:
        return False
    fields = _TCP_INFO.unpack_from(tcp_info)
    waits = fields[_UNACKNOWLEDGED] > 0 or fields[_PROBES] >= _MOST_PROBES
    return bool(waits and fields[_LAST_ACK_RECEIVED_MS] >= 1_000)


def _word(received: Received) -> int:
    if received.body.size != WORD.size:
        raise WireError(f"a {Kind(received.kind).name} frame of {received.body.size} bytes arrived")
    (value,) = WORD.unpack(received.body)
    return int(value)


def _tune(connection: socket.socket) -> None:
    if connection.family == socket.AF_UNIX:
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            connection.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER_BYTES)
        return
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in ((socket.TCP_KEEPIDLE, 4), (socket.TCP_KEEPINTVL, 2), (socket.TCP_KEEPCNT, 3)):
        connection.setsockopt(socket.IPPROTO_TCP, option, value)
