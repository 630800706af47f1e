"""An HTTP proxy in front of the S3 server: while it refuses it answers 503 itself, as an overloaded store does.

Everything else goes through unchanged, with its Host header, which is part of what the client has signed.
"""

from __future__ import annotations

import http.client
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from s3_server import S3Server

SLOW_DOWN = (
    b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
)
_OF_ONE_CONNECTION = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length"})
TIMEOUT_S = 60


class RefusingProxy:
    """A context."""

    def __init__(self, server: S3Server) -> None:
        self._server = server
        self._refuses_from: tuple[str, bytes] | None = None
        self.refuses_since_s: float | None = None
        """On the clock of time.monotonic()."""
        handler = type("Handler", (_Handler,), {"proxy": self, "behind": urlsplit(server.endpoint).netloc})
        self._http = _Server(("127.0.0.1", 0), handler)

    @property
    def options(self) -> dict[str, str]:
        """How a configuration reaches the store through it."""
        return {**self._server.options, "s3.endpoint": f"http://127.0.0.1:{self._http.server_port}"}

    def refuse_from(self, path: str, body: bytes = b"") -> None:
        """Everything, from the next object on that is written to a path with this in it, and has this in it."""
        self._refuses_from = path, body

    def serve(self) -> None:
        self._refuses_from = self.refuses_since_s = None

    def refuses(self, method: str, path: str, body: bytes) -> bool:
        first = self._refuses_from
        if self.refuses_since_s is None and first and method == "PUT" and first[0] in path and first[1] in body:
            self.refuses_since_s = time.monotonic()
        return self.refuses_since_s is not None

    def __enter__(self) -> RefusingProxy:
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._http.shutdown()
        self._http.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that is gone."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: RefusingProxy
    behind: str

    def _pass(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        if self.proxy.refuses(self.command, self.path, body):
            self._answer(503, [("content-type", "application/xml")], SLOW_DOWN)
            return
        onward = http.client.HTTPConnection(self.behind, timeout=TIMEOUT_S)
        try:
            onward.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() != "connection":
                    onward.putheader(name, value)
            onward.endheaders(body)
            answer = onward.getresponse()
            self._answer(answer.status, answer.getheaders(), answer.read())
        finally:
            onward.close()

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _pass

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.send_response_only(status)
        length = next((value for name, value in headers if name.lower() == "content-length"), str(len(body)))
        for name, value in headers:
            if name.lower() not in _OF_ONE_CONNECTION:
                self.send_header(name, value)
        self.send_header("content-length", length if self.command == "HEAD" else str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None: ...
