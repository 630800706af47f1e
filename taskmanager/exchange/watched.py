"""Which sockets of a transport are watched, for what. The poller belongs to the mailbox, and may come later."""

from __future__ import annotations

import select

from .connections import Connection, Stage
from .listeners import Listeners


class Watched:
    """Registrations with a poller: of the listeners, and of connections as they want to read or write."""

    def __init__(self, listeners: Listeners) -> None:
        self._listeners = listeners
        self._poller: select.epoll | None = None
        self.listening = False

    def begin(self, poller: select.epoll) -> None:
        self._poller = poller
        self.listen(True)

    def end(self, connections: list[Connection]) -> None:
        """The poller is about to be closed."""
        self._poller, self.listening = None, False
        for connection in connections:
            connection.registered = 0

    def listen(self, on: bool) -> None:
        if self._poller is None or on is self.listening:
            return
        self.listening = on
        for listener in self._listeners.sockets:
            if on:
                self._poller.register(listener.fileno(), select.EPOLLIN)
            else:
                self._poller.unregister(listener.fileno())

    def update(self, connection: Connection, lost: bool = False) -> None:
        """After anything that may have changed what the connection waits for. A lost one waits for nothing."""
        poller = self._poller
        if poller is None or connection.stage is Stage.CLOSED:
            return
        mask = 0
        if not lost:
            mask = select.EPOLLOUT if connection.wants_write else 0
            mask |= 0 if connection.stage is Stage.CONNECTING else select.EPOLLIN
        if mask == connection.registered:
            return
        if not connection.registered:
            poller.register(connection.fileno(), mask)
        elif mask:
            poller.modify(connection.fileno(), mask)
        else:
            poller.unregister(connection.fileno())
        connection.registered = mask
