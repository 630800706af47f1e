"""The HTTP server: uvicorn on a thread of its own, beside whatever the process does.

The socket is bound before the thread starts, so that a busy port is an error of `start` with a name, and port 0 has
become a real one when it returns.
"""

from __future__ import annotations

import errno
import socket
import threading
import time
from dataclasses import dataclass

import uvicorn
from fastapi import FastAPI

from ...state.errors import ConfigurationError

START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 5.0
"""Requests under way get half of it to come to their end; then connections are cut."""
LONGEST_QUEUE = 200
"""Connections that the system holds until they are accepted."""
POLL_S = 0.01


@dataclass(frozen=True, slots=True)
class RunningServer:
    """Ends with `stop`, or with its process: the thread is a daemon."""

    host: str
    port: int
    """The one that is bound, also where 0 was asked for."""
    _server: uvicorn.Server
    _thread: threading.Thread

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def stop(self) -> None:
        """Takes no more requests, lets those under way end, and closes the socket. May be called again."""
        self._server.should_exit = True
        self._thread.join(STOP_TIMEOUT_S / 2)
        self._server.force_exit = True
        self._thread.join(STOP_TIMEOUT_S / 2)


def start(app: FastAPI, host: str, port: int) -> RunningServer:
    """Serves when it returns. ConfigurationError: the address cannot be bound, and which option names another."""
    bound = _bind(host, port)
    config = uvicorn.Config(
        app, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=int(STOP_TIMEOUT_S / 2),
        server_header=False,
    )  # fmt: skip
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, name="rest", daemon=True)
    thread.start()
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while not server.started:
        if not thread.is_alive() or time.monotonic() > deadline_s:
            server.should_exit = True
            bound.close()
            raise ConfigurationError(f"REST did not start on {host}:{port}; the log says why")
        time.sleep(POLL_S)
    return RunningServer(host, bound.getsockname()[1], server, thread)


def _bind(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        bound = socket.create_server((host, port), family=family, backlog=LONGEST_QUEUE)
    except (OSError, OverflowError) as error:
        raise ConfigurationError(_why_not(host, port, error)) from None
    # Connections inherit it. asyncio sets it only where the socket names its protocol; without it headers and body,
    # two writes, cost 40 ms of waiting for each other's acknowledgement.
    bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return bound


def _why_not(host: str, port: int, error: Exception) -> str:
    other = "choose another with --port or rest.port (0 takes a free one)"
    match getattr(error, "errno", None):
        case errno.EADDRINUSE:
            return f"port {port} on {host} is in use by another process; {other}"
        case errno.EACCES | errno.EPERM:
            return f"port {port} on {host} needs rights that this process lacks; {other}"
        case errno.EADDRNOTAVAIL:
            return f"{host} is no address of this machine; set rest.bind-address to one that is"
        case _ if isinstance(error, socket.gaierror):
            return f"the address {host!r} is not known ({error}); set rest.bind-address to one of this machine"
        case _:
            return f"REST cannot listen on {host}:{port}: {error}; {other}"
