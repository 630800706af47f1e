"""What a request that cannot be done is answered: a status, and the body `{"errors": [...]}` with that one key.

The Java client takes any body with exactly that key as an error, whatever the status, and shows the texts to the
user. So they say what is wrong and what to do; never what is inside: an exception nobody foresaw is answered with the
number under which the log has it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from typing_extensions import TypedDict

from ...runtime.units import format_size
from ...state.errors import ObjectStoreError, PenstockError, ProtocolError
from ..gateway import ConflictError, RefusedError, UnavailableError, UnknownError
from .responses import WireJson

LONGEST_ECHO = 100
"""Characters of a wrong value that its error repeats."""


class ErrorBody(TypedDict):
    """Of every answer that is no success."""

    errors: list[str]


class UnsupportedError(PenstockError):
    """Flink has it and penstock does not (yet): says what to do instead. 501."""


class ForbiddenError(PenstockError):
    """The cluster is set up not to do such things. 403."""


class TooLargeError(PenstockError):
    """More was sent than is taken. 413."""


_STATUS: tuple[tuple[type[PenstockError], int], ...] = (
    (UnknownError, 404),
    (RefusedError, 400),
    (ConflictError, 409),
    (UnavailableError, 503),
    (UnsupportedError, 501),
    (ForbiddenError, 403),
    (TooLargeError, 413),
    (ObjectStoreError, 503),
    (PenstockError, 400),
)
"""The first class that fits decides. Other PenstockErrors are about what was asked: a pipeline, an option, a path."""


def status_of(error: PenstockError) -> int:
    return next(status for kind, status in _STATUS if isinstance(error, kind))


def error_response(status: int, *texts: str) -> WireJson:
    return WireJson({"errors": list(texts)}, status_code=status)


def too_large(upload_limit_bytes: int) -> str:
    return (
        f"the request is too large: an upload may have {format_size(upload_limit_bytes)} "
        "(option rest.server.max-content-length), any other body 1 MiB"
    )


def describe_validation(errors: Sequence[Any]) -> list[str]:
    """One text for each wrong parameter or field: where it is, what is wrong, what came."""
    texts = []
    for error in errors:
        where = " ".join(str(part) for part in error["loc"])
        came = repr(error.get("input"))
        shown = "" if error["type"] == "missing" else f", not {came[:LONGEST_ECHO]}"
        texts.append(f"{where}: {error['msg']}{shown}")
    return texts


def original_path(request: Request) -> str:
    """As the client wrote it, with /v1."""
    return str(request.scope.get("penstock.path", request.url.path))


def install(app: FastAPI, upload_limit_bytes: int) -> None:
    """Answers for every kind of exception a handler or the framework raises on purpose."""

    async def penstock_error(_: Request, error: Exception) -> Response:
        if not isinstance(error, PenstockError) or isinstance(error, ProtocolError):
            raise error
        return error_response(status_of(error), str(error))

    async def invalid(_: Request, error: Exception) -> Response:
        if not isinstance(error, RequestValidationError):
            raise error
        return error_response(400, *describe_validation(error.errors()))

    async def http_error(request: Request, error: Exception) -> Response:
        if not isinstance(error, HTTPException):
            raise error
        if error.status_code in (404, 405):
            return error_response(404, f"Not found: {original_path(request)}")
        if error.status_code == 413:
            return error_response(413, too_large(upload_limit_bytes))
        return error_response(error.status_code, str(error.detail))

    handlers: dict[type[Exception], Callable[[Request, Exception], Awaitable[Response]]] = {
        PenstockError: penstock_error,
        RequestValidationError: invalid,
        HTTPException: http_error,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)
