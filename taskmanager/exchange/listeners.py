"""Where a slot is reached: a Unix socket for slots of its own node, a TCP port for all others. Non-blocking."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from ...state.errors import ConfigurationError
from ...state.ids import SlotId

_BACKLOG = 1024
_ACCEPTED_AT_ONCE = 64
_LONGEST_PATH = 107
"""Bytes of a Unix socket's path (Linux)."""


class Listeners:
    """Both sockets, bound and listening."""

    def __init__(self, me: SlotId, directory: Path, host: str) -> None:
        """ConfigurationError when the directory's path is too long; OSError when the host is not ours."""
        name = hashlib.sha256(me.encode()).hexdigest()[:16]
        self.unix_path = str(directory / f"{name}.sock")
        if len(os.fsencode(self.unix_path)) > _LONGEST_PATH:
            raise ConfigurationError(
                f"{self.unix_path} is too long a path for a Unix socket (at most {_LONGEST_PATH} bytes): "
                "set io.tmp.dirs to a shorter directory"
            )
        self._unix = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            Path(self.unix_path).unlink(missing_ok=True)  # of a slot of this name that was killed
            self._unix.bind(self.unix_path)
            os.chmod(self.unix_path, 0o600)
            self._tcp.bind((host, 0))
            for listener in self.sockets:
                listener.listen(_BACKLOG)
                listener.setblocking(False)
        except OSError:
            self.close()
            raise
        self.port: int = self._tcp.getsockname()[1]

    @property
    def sockets(self) -> tuple[socket.socket, socket.socket]:
        return self._unix, self._tcp

    def accept(self, fd: int) -> Iterator[socket.socket]:
        """Connections that wait at this one, some at a time. OSError when there are no descriptors left."""
        listener = next(s for s in self.sockets if s.fileno() == fd)
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                connection, _address = listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            yield connection

    def close(self) -> None:
        for listener in self.sockets:
            listener.close()
        Path(self.unix_path).unlink(missing_ok=True)
