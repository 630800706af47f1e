"""How much a request may send.

A request that names its length is refused before anything of it is read, one that does not as soon as it has sent too
much. What it still sends is read and dropped for a while: a client that is cut off while it writes sees a broken
connection instead of the 413 that says why.
"""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import error_response, too_large

LARGEST_BODY_BYTES = 2**20
"""Of what is no upload."""
ENVELOPE_BYTES = 2**20
"""What multipart adds to a file, and the fields beside it."""
DRAINED_BYTES = 64 * 2**20
"""Of a request that is refused."""
UPLOAD_PATHS = frozenset({"/jars/upload", "/jobs/graph", "/jobs"})


class BodyLimit:
    """Inside of middleware.Wire, so that it sees bare paths."""

    def __init__(self, app: ASGIApp, upload_limit_bytes: int) -> None:
        self._app = app
        self._upload_limit_bytes = upload_limit_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = LARGEST_BODY_BYTES
        if scope["path"] in UPLOAD_PATHS:
            limit = self._upload_limit_bytes + ENVELOPE_BYTES
        length = Headers(scope=scope).get("content-length", "0")
        if length.isdecimal() and int(length) > limit:
            await drain(receive)
            await error_response(413, too_large(self._upload_limit_bytes))(scope, receive, send)
            return
        received = 0

        async def receive_counting() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                if message.get("more_body", False):  # else nothing follows, and asking for it would wait for ever
                    await drain(receive)
                raise HTTPException(413)
            return message

        await self._app(scope, receive_counting, send)


async def drain(receive: Receive) -> None:
    """What a refused client still sends: cut off while it writes, it would see a broken connection and no reason."""
    drained = 0
    while drained < DRAINED_BYTES:
        message = await receive()
        drained += len(message.get("body", b""))
        if message["type"] != "http.request" or not message.get("more_body", False):
            return
