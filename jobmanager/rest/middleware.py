"""What holds for every answer, whichever handler gives it.

- `/v1/x` is `/x`: the Java client asks the one, dashboards the other. Handlers and OpenAPI know the bare path.
- Every answer may be read by a page from anywhere (access-control-allow-origin: *), errors too. Who may change
  something is another question (origins.py).
- HEAD and OPTIONS are unknown, as Flink has it.
- An exception nobody foresaw becomes a 500 whose text says under which number the log has the traceback; nothing of
  it goes to the client.
- The time each request took is counted by method, path template and status, for Prometheus.
"""

from __future__ import annotations

import logging
import time
import uuid

from prometheus_client import Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import error_response

log = logging.getLogger(__name__)

VERSION_PREFIX = "/v1"
NOWHERE = "unknown path"


class Wire:
    """The outermost layer of the application."""

    def __init__(self, app: ASGIApp, durations: Histogram) -> None:
        self._app = app
        self._durations = durations

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path, started_s, status = scope["path"], time.monotonic(), 500
        scope = _without_version(scope)

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"access-control-allow-origin", b"*")]
            await send(message)

        try:
            await self._answer(scope, receive, send_with_headers, path)
        finally:
            template = getattr(scope.get("route"), "path", NOWHERE)
            self._durations.labels(scope["method"], template, str(status)).observe(time.monotonic() - started_s)

    async def _answer(self, scope: Scope, receive: Receive, send: Send, path: str) -> None:
        if scope["method"] in ("HEAD", "OPTIONS"):
            await error_response(404, f"Not found: {path}")(scope, receive, send)
            return
        begun = False

        async def send_noting(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, send_noting)
        except Exception:
            request_id = uuid.uuid4().hex[:12]
            log.exception("request %s failed: %s %s", request_id, scope["method"], path)
            if begun:  # the client sees a body that ends too early
                raise
            text = f"Internal error. The job manager's log has the details under request {request_id}."
            await error_response(500, text)(scope, receive, send)


def _without_version(scope: Scope) -> Scope:
    path = scope["path"]
    if path.startswith(f"{VERSION_PREFIX}/"):
        bare = path.removeprefix(VERSION_PREFIX)
        return {**scope, "path": bare, "raw_path": bare.encode(), "penstock.path": path}
    return {**scope, "penstock.path": path}
