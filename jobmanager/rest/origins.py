"""Which web pages may change something here.

Anybody who reaches this interface may run code with it, and a browser reaches it at 127.0.0.1 on behalf of every page
it shows. Pages may read answers, as with Flink. A request that changes something (POST, PATCH, PUT, DELETE, and the
GETs of CHANGING) is refused if a browser says that a foreign page has sent it:

    Origin            of another server, or null, and not in rest.allowed-origins
    Sec-Fetch-Site    cross-site or same-site, where there is no Origin: links, images

Programs (the command line, Flink's clients, curl) send neither, and are not concerned. This server's own pages are
those whose Origin is the Host that was asked for, provided it is an address, localhost, or this machine's name: a page
of a foreign name that was made to lead to 127.0.0.1 (DNS rebinding) names itself in both headers.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from .body_limit import drain
from .errors import error_response

SAFE = ("GET", "HEAD", "OPTIONS")
CHANGING = re.compile(r"/jobs/[^/]+/(yarn-cancel|yarn-stop|collected/.*)|/jars/[^/]+/plan")
"""Paths whose GET cancels, stops, forgets, or executes something."""
LONGEST_ECHO = 100


class Origins:
    """Inside of middleware.Wire, so that it sees bare paths."""

    def __init__(self, app: ASGIApp, allowed: Iterable[str] = ()) -> None:
        """`allowed`: origins, like https://dashboard.example.com, whose pages may do everything."""
        self._app = app
        self._allowed = frozenset(origin.strip().rstrip("/").lower() for origin in allowed)
        self._names = frozenset({"localhost", socket.gethostname().lower()})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and changes(scope["method"], scope["path"]):
            headers = Headers(scope=scope)
            if (foreign := self._foreign(headers)) is not None:
                await drain(receive)
                text = (
                    f"refused: a page of {foreign[:LONGEST_ECHO]!r} may not change anything on this cluster; "
                    "rest.allowed-origins says which pages may"
                )
                await error_response(403, text)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _foreign(self, headers: Headers) -> str | None:
        """Whose page has sent the request, if that is a foreign one."""
        origin = headers.get("origin")
        if origin is None:
            return "another site" if headers.get("sec-fetch-site") in ("cross-site", "same-site") else None
        if origin.lower() in self._allowed:
            return None
        try:
            parts = urlsplit(origin)
            host = parts.hostname or ""
        except ValueError:
            return origin
        own = parts.netloc.lower() == headers.get("host", "").lower() and self._is_own_name(host)
        return None if own else origin

    def _is_own_name(self, host: str) -> bool:
        if host in self._names:
            return True
        try:
            ipaddress.ip_address(host)
        except ValueError:
            return False
        return True


def changes(method: str, path: str) -> bool:
    return method not in SAFE or (method == "GET" and CHANGING.fullmatch(path) is not None)
