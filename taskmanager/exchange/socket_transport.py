"""The transport between slot processes: one connection per ordered pair of slots, opened by whoever has data to send.

Data goes one way on it, credit comes back the other way. Slots of one task manager meet at Unix sockets, others at TCP
ports, under mutual TLS where that is configured. Everything happens on the slot's thread, driven by its mailbox:
`handle` when sockets are ready, `flush` after every step; nothing blocks. `send` encodes and queues, what waits is
written in few system calls. What a connection queues is bounded by the credit of its channels: it never grows because
the receiver is slow.

**What a lost connection means.** Frames may be lost, so both ends fail the tasks that used it, and it must not look
whole again to either of them. When a connection is lost, the one in the other direction is closed with it, the
receiver is told once, with the newest attempt that had used either of them, and frames of attempts up to that one are
dropped from then on; the first frame of a later attempt connects anew. (A task that is deployed after that has a later
one: nobody of an attempt sends before all of it is deployed.) A connection that was never used is lost in silence. A
connection that cannot be opened (refused, wrong secret, no answer in 10 s) counts as lost. A second connection from a
peer replaces the first: the peer knows that that one is lost.

**Attempts.** Regions restart alone, so channels of several attempts share a connection. Schemas, encoders and decoders
belong to a channel and its attempt; when a later one begins on the channel, what is queued of the older one is not sent
any more, and what arrives of it is not decoded (connections.py).
"""

from __future__ import annotations

import logging
import os
import select
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

from ...runtime.clock import Clock
from ...state.errors import ConnectionLostError, PenstockError, ProtocolError
from ...state.ids import Attempt, SlotId
from ..messages import ChannelId, SlotAddress
from .connections import HANDSHAKE_NS, Connection, Peer, Stage
from .handshake import Acceptor, Connector, RefusedError
from .listeners import Listeners
from .tls import TlsFiles
from .transport import Frame, Receiver
from .watched import Watched
from .wire import Received

EAGER_BYTES = 256 * 1024
"""A queue of this length is written at once, not only after the step: the receiver can begin."""
CHECK_NS = 1_000_000_000
"""How often deadlines and silent peers are looked for."""
RETRY_NS = 10_000_000
"""When to knock again at a peer that has too many waiting."""
MOST_STRANGERS = 256
"""Accepted connections that have not proved who they are; more are closed at once."""

logger = logging.getLogger(__name__)


class SocketTransport:
    """A Transport. Everything but the constructor and `use_secret` belongs to the slot's thread."""

    def __init__(
        self,
        me: SlotId,
        *,
        directory: Path,
        host: str,
        task_manager: str,
        secret: bytes,
        clock: Clock,
        tls: TlsFiles | None = None,
    ) -> None:
        """Binds a Unix socket in `directory` and a free TCP port of `host`. `secret`: of the job; with an empty one
        every connection is refused. ConfigurationError: a path too long, certificates that do not fit. OSError."""
        self._me = me
        self._secret = secret
        self._clock = clock
        self._contexts = None if tls is None else tls.contexts()
        self._listeners = Listeners(me, directory, host)
        self.address = SlotAddress(task_manager, host, self._listeners.port, self._listeners.unix_path, os.getpid())
        self._receiver: Receiver | None = None
        self._peers: dict[SlotId, Peer] = {}
        self._connections: dict[int, Connection] = {}
        self._dirty: set[Connection] = set()
        """Have something new to send."""
        self._failed: dict[Connection, str] = {}
        """Lost, and why; dealt with between calls of the slot, never inside one."""
        self._more: set[Connection] = set()
        """Have bytes that no poll announces."""
        self._knocking: dict[Connection, tuple[str, int] | str] = {}
        """Own connections that found the backlog full."""
        self._watched = Watched(self._listeners)
        self._next_check_ns = 0

    def use_secret(self, secret: bytes) -> None:
        """Of the job this slot is let to; before the loop runs."""
        self._secret = secret

    def attach(self, receiver: Receiver) -> None:
        self._receiver = receiver

    def meet(self, peers: Mapping[SlotId, SlotAddress]) -> None:
        """These are the job's slots, before anything is sent to them. A slot that is not among them any more
        is forgotten; one whose address has changed is another one. Nothing changes when there are none."""
        if not peers:
            return
        for slot, peer in list(self._peers.items()):
            if slot not in peers or (peer.address is not None and peer.address != peers[slot]):
                self._forget(slot)
        for slot, address in peers.items():
            self._peers.setdefault(slot, Peer()).address = address

    def peer(self, slot: SlotId) -> Peer:
        """What is known of it. KeyError."""
        return self._peers[slot]

    @property
    def queued_bytes(self) -> int:
        """Encoded and not yet taken by the kernel, of all connections: at most the windows of all channels, and one
        larger batch of each."""
        return sum(connection.queue.nbytes for connection in self._connections.values())

    # sending

    def send(self, target: SlotId, frame: Frame, priority: bool = False) -> None:
        """priority: overtakes what is queued on its connection; not for batches. What encoding raises (a record that is
        not of its type, or larger than a frame) is the task's error. ProtocolError: the slot was not introduced."""
        if target == self._me:
            self._attached.receive(frame)
            return
        peer = self._peers.get(target)
        if peer is None or (peer.address is None and peer.outgoing is None):
            raise ProtocolError(f"slot {self._me} sends to slot {target}, whose address it was not told")
        if frame.attempt <= peer.broken:
            return
        connection = peer.outgoing or self._connect(target, peer)
        connection.put(frame, priority)
        self._dirty.add(connection)
        if connection.queue.nbytes >= EAGER_BYTES and connection.stage is Stage.OPEN:
            self._write(connection)

    def grant(self, source: SlotId, attempt: Attempt, channel: ChannelId, nbytes: int) -> None:
        if source == self._me:
            self._attached.granted(attempt, channel, nbytes)
            return
        peer = self._peers.get(source)
        if peer is None or peer.incoming is None or attempt <= peer.broken:
            return
        peer.incoming.put_grant(attempt, channel, nbytes)
        self._dirty.add(peer.incoming)

    def flush(self) -> None:
        """Write what is queued, and look after connections. The receiver may be told of lost ones."""
        if self._dirty:
            dirty, self._dirty = self._dirty, set()
            for connection in dirty:
                self._write(connection)
        now_ns = self._clock.monotonic_ns()
        if now_ns >= self._next_check_ns:
            self._check(now_ns)
        if self._failed:
            self._lose_failed()

    def _write(self, connection: Connection) -> None:
        try:
            connection.write()
        except OSError as error:
            self._fail(connection, error)
        self._watch(connection)

    # the loop

    def register(self, poller: select.epoll) -> None:
        """Watch all sockets with this poller from here on; `handle` is given what it announces of them."""
        self._watched.begin(poller)
        for connection in self._connections.values():
            self._watch(connection)

    def unregister(self) -> None:
        """The poller is about to be closed."""
        self._watched.end(list(self._connections.values()))

    @property
    def pending(self) -> bool:
        """There is something to be handled that no poll will announce."""
        return bool(self._more or self._failed)

    def next_wakeup_ns(self) -> int | None:
        """When `flush` wants to be called although nothing happens (monotonic ns)."""
        return self._next_check_ns if self._connections or not self._watched.listening else None

    def handle(self, ready: Sequence[tuple[int, int]]) -> None:
        """(descriptor, event mask) of what the poller has announced. Calls the receiver."""
        if self._more:
            more, self._more = self._more, set()
            for connection in more:
                self._ready(connection)
        listeners = [listener.fileno() for listener in self._listeners.sockets]
        for fd, _mask in ready:
            if fd in self._connections:
                self._ready(self._connections[fd])
        for fd, _mask in ready:  # last, so that a new connection's descriptor is not taken for one that was closed
            if fd in listeners:
                self._accept(fd)
        if self._failed:
            self._lose_failed()

    def close(self) -> None:
        """Of all sockets. Peers see their connections lost; the receiver is told nothing."""
        for connection in list(self._connections.values()):
            self._drop(connection)
        self._peers.clear()
        self._watched.listen(False)
        self._listeners.close()

    def _ready(self, connection: Connection) -> None:
        if connection in self._failed or connection.stage is Stage.CLOSED:
            return
        try:
            if connection.stage is Stage.CONNECTING:
                connection.connected()
            if connection.stage is Stage.SECURING and connection.secured():
                self._more.add(connection)
            if connection.stage in (Stage.GREETING, Stage.OPEN):
                self._read(connection)
                connection.write()
        except (OSError, PenstockError) as error:
            if isinstance(error, RefusedError) and connection.accepted:
                connection.refuse(str(error))
            self._fail(connection, error)
        except Exception as error:  # a bug of ours must not take the whole slot with it
            logger.exception("slot %s: handling frames of slot %s failed", self._me, connection.peer)
            self._fail(connection, error)
        self._watch(connection)

    def _read(self, connection: Connection) -> None:
        frames, closed = connection.read()
        for frame in frames:
            if connection.stage is Stage.GREETING:
                self._greet(connection, frame)
            elif connection.accepted:
                element = connection.arrived(frame)
                if element is not None:
                    self._attached.receive(element)
            else:
                self._attached.granted(*connection.granted(frame))
        if closed:
            raise ConnectionLostError("the other end has closed it")
        if connection.pending():
            self._more.add(connection)

    def _greet(self, connection: Connection, frame: Received) -> None:
        greeting = connection.greeting
        if isinstance(greeting, Connector):
            hello = greeting.received(frame)
            if hello is not None:
                connection.say(hello)
            elif connection.peer is not None:
                connection.opened(connection.peer)
            return
        slot, welcome = greeting.received(frame)
        peer = self._peers.setdefault(slot, Peer())
        if peer.incoming is not None:
            self._lose(peer.incoming, "it was replaced by a new one")
        connection.say(welcome)
        connection.opened(slot)
        peer.incoming = connection

    # opening

    def _connect(self, slot: SlotId, peer: Peer) -> Connection:
        address = peer.address
        assert address is not None
        near = address.task_manager == self.address.task_manager
        deadline_ns = self._clock.monotonic_ns() + HANDSHAKE_NS
        connection = Connection(
            socket.socket(socket.AF_UNIX if near else socket.AF_INET, socket.SOCK_STREAM),
            Connector(self._me, slot, self._secret),
            None if near or self._contexts is None else self._contexts[1],
            deadline_ns,
        )
        connection.peer = slot
        peer.outgoing = connection
        self._connections[connection.fileno()] = connection
        self._knock(connection, address.unix_path if near else (address.host, address.port))
        return connection

    def _knock(self, connection: Connection, address: tuple[str, int] | str) -> None:
        try:
            if not connection.connect(address):
                self._knocking[connection] = address
                self._next_check_ns = min(self._next_check_ns, self._clock.monotonic_ns() + RETRY_NS)
                return
        except OSError as error:
            self._fail(connection, error)
        self._watch(connection)

    def _accept(self, listener: int) -> None:
        try:
            for accepted in self._listeners.accept(listener):
                strangers = sum(c.accepted and c.stage is not Stage.OPEN for c in self._connections.values())
                if not self._secret or strangers >= MOST_STRANGERS:
                    logger.warning(
                        "slot %s refuses a connection: %s", self._me, "too many" if self._secret else "no job"
                    )
                    accepted.close()
                    continue
                secure = accepted.family != socket.AF_UNIX and self._contexts is not None
                connection = Connection(
                    accepted,
                    Acceptor(self._me, self._secret),
                    self._contexts[0] if secure and self._contexts else None,
                    self._clock.monotonic_ns() + HANDSHAKE_NS,
                )
                self._connections[connection.fileno()] = connection
                self._more.add(connection)
        except OSError as error:
            logger.error("slot %s cannot accept connections, and tries again in a second: %s", self._me, error)
            self._watched.listen(False)
            return
        for connection in list(self._more):
            self._watch(connection)

    # losing

    def _fail(self, connection: Connection, error: Exception) -> None:
        self._failed.setdefault(connection, str(error) or type(error).__name__)

    def _lose_failed(self) -> None:
        failed, self._failed = self._failed, {}
        for connection, reason in failed.items():
            if connection.stage is not Stage.CLOSED:  # else it went with the one in the other direction
                self._lose(connection, reason)

    def _lose(self, connection: Connection, reason: str) -> None:
        """The connection is of no use any more; whoever used it is told."""
        self._drop(connection)
        slot = connection.peer
        peer = self._peers.get(slot) if slot is not None else None
        if slot is None or peer is None or connection not in peer.connections():
            logger.warning("slot %s gave up a connection from slot %s: %s", self._me, slot or "(unknown)", reason)
            return
        newest = max(c.newest for c in peer.connections())
        for other in peer.connections():
            self._drop(other)
        peer.outgoing = peer.incoming = None
        peer.broken = max(peer.broken, newest)
        level = logging.WARNING if newest else logging.INFO
        logger.log(level, "slot %s lost its connection to slot %s: %s", self._me, slot, reason)
        if newest:
            self._attached.disconnected(slot, newest, reason)

    def _forget(self, slot: SlotId) -> None:
        for connection in self._peers.pop(slot).connections():
            self._drop(connection)

    def _drop(self, connection: Connection) -> None:
        fd = connection.fileno()
        if self._connections.get(fd) is connection:
            self._watched.update(connection, lost=True)
            del self._connections[fd]
        for group in (self._dirty, self._more):
            group.discard(connection)
        self._failed.pop(connection, None)
        self._knocking.pop(connection, None)
        connection.close()

    def _check(self, now_ns: int) -> None:
        """Once in a while: who is late, who is silent, who can be tried again."""
        self._next_check_ns = now_ns + CHECK_NS
        self._watched.listen(True)
        knocking, self._knocking = self._knocking, {}
        for connection in list(self._connections.values()):
            try:
                if connection.stage is not Stage.OPEN and now_ns >= connection.deadline_ns:
                    raise ConnectionLostError(f"there was no answer for {HANDSHAKE_NS // 1_000_000_000} seconds")
                connection.check_alive()
            except (OSError, PenstockError) as error:
                self._fail(connection, error)
        for connection, address in knocking.items():
            if connection not in self._failed and connection.stage is Stage.CONNECTING:
                self._knock(connection, address)

    def _watch(self, connection: Connection) -> None:
        if connection not in self._knocking:
            self._watched.update(connection, lost=connection in self._failed)

    @property
    def _attached(self) -> Receiver:
        if self._receiver is None:
            raise ProtocolError(f"the transport of slot {self._me} has no receiver")
        return self._receiver
