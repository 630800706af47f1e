"""The two kinds of bodies: JSON with Flink's content type, and text."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.responses import JSONResponse, PlainTextResponse
from typing_extensions import TypedDict

JSON_TYPE = "application/json; charset=UTF-8"


class WireJson(JSONResponse):
    """As Flink writes it, to the letter of the content type."""

    media_type = JSON_TYPE

    def render(self, content: Any) -> bytes:
        return msgspec.json.encode(content)


class Text(PlainTextResponse):
    """Logs: whatever bytes they hold, a client shows them as text."""

    media_type = "text/plain; charset=UTF-8"


class Nothing(TypedDict):
    """`{}`: it is done, or taken."""


TEXT: dict[int | str, dict[str, Any]] = {
    200: {"description": "Text.", "content": {Text.media_type: {"schema": {"type": "string"}}}}
}
"""What OpenAPI says of a path that answers text. Its response_class is the plain Response: its errors are JSON."""
