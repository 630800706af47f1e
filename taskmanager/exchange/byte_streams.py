"""Non-blocking byte streams: a plain socket, and one under TLS. Thin shells: what the bytes mean is said elsewhere.

Both have the same three calls. None of them blocks, and all raise OSError (ssl.SSLError is one) when the connection is
lost. A plain socket reads into and sends from several buffers at once. TLS takes one buffer at a time, wants to be
offered the very same bytes again when it could not send them (`committed`), may have to write in order to read and to
read in order to write, and keeps decrypted bytes that no poll will announce: it is therefore read until it is empty,
or its owner remembers that there is more (`pending`).
"""

from __future__ import annotations

import socket
import ssl
from typing import Protocol

from .wire import Bytes

_TLS_CHUNK_BYTES = 256 * 1024
_TLS_GATHERED_BYTES = 32 * 1024
"""Small frames are put together up to this size: every call makes at least one TLS record."""


class ByteStream(Protocol):
    """One connection's bytes."""

    committed: int
    """So many bytes of what was offered last must come first, unchanged, in the next offer."""
    wants_write: bool
    """Poll for writability although nothing is queued."""

    def handshake(self) -> bool:
        """True when bytes can flow; False: again when the socket is ready."""
        ...

    def receive(self, buffers: list[memoryview]) -> int | None:
        """How many bytes were put there; 0: the other end has closed; None: nothing there now."""
        ...

    def send(self, parts: list[Bytes]) -> int:
        """How many bytes were taken; 0: none now."""
        ...

    def pending(self) -> bool:
        """Is there something to be received that a poll would not announce?"""
        ...


class PlainStream:
    """A socket's."""

    committed = 0
    wants_write = False

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection

    def handshake(self) -> bool:
        return True

    def receive(self, buffers: list[memoryview]) -> int | None:
        try:
            if len(buffers) == 1:
                return self._socket.recv_into(buffers[0])
            return self._socket.recvmsg_into(buffers)[0]
        except (BlockingIOError, InterruptedError):
            return None

    def send(self, parts: list[Bytes]) -> int:
        try:
            return self._socket.sendmsg(parts)
        except (BlockingIOError, InterruptedError):
            return 0

    def pending(self) -> bool:
        return False


class TlsStream:
    """A socket's under TLS."""

    def __init__(self, connection: socket.socket, context: ssl.SSLContext, accepted: bool) -> None:
        """Takes the socket over; `connection` must not be used any more but through `socket`."""
        self.socket = context.wrap_socket(connection, server_side=accepted, do_handshake_on_connect=False)
        self.committed = 0
        self.wants_write = False
        self._chunk: memoryview | None = None
        """What was offered to TLS and not taken: it must be offered again."""

    def handshake(self) -> bool:
        self.wants_write = False
        try:
            self.socket.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLWantWriteError:
            self.wants_write = True
            return False
        return True

    def receive(self, buffers: list[memoryview]) -> int | None:
        try:
            return self.socket.recv_into(buffers[0])
        except ssl.SSLWantReadError:
            return None
        except ssl.SSLWantWriteError:
            self.wants_write = True
            return None
        except ssl.SSLZeroReturnError:
            return 0

    def send(self, parts: list[Bytes]) -> int:
        self.wants_write = False
        if self._chunk is None:
            self._chunk = _chunk(parts)
        try:
            sent = self.socket.send(self._chunk)
        except ssl.SSLWantWriteError:
            self.wants_write = True
            sent = 0
        except ssl.SSLWantReadError:
            sent = 0
        if sent == 0:
            self.committed = len(self._chunk)
            return 0
        self._chunk, self.committed = None, 0
        return sent

    def pending(self) -> bool:
        return self.socket.pending() > 0


def _chunk(parts: list[Bytes]) -> memoryview:
    """What one call to TLS is given: a piece of a large part, or small ones put together."""
    if len(parts[0]) >= _TLS_GATHERED_BYTES or len(parts) == 1:
        return memoryview(parts[0])[:_TLS_CHUNK_BYTES]
    gathered: list[Bytes] = []
    size = 0
    for part in parts:
        if size + len(part) > _TLS_GATHERED_BYTES and gathered:
            break
        gathered.append(part)
        size += len(part)
    return memoryview(b"".join(gathered))
