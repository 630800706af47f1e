"""Counts what is asked of an object store: the source of object_store_requests_total{op,code} and
object_store_bytes_total{op}. One serves all threads."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

from .errors import ObjectAlreadyExists, ObjectNotFound, ObjectStoreDenied, ObjectStoreUnavailable
from .objects import Get, GetFile, GetRange, ObjectStore, Pause, Put, PutFile, StoreOp

OK = "ok"
CODES: dict[type[Exception], str] = {
    ObjectNotFound: "not_found",
    ObjectAlreadyExists: "exists",
    ObjectStoreDenied: "denied",
    ObjectStoreUnavailable: "unavailable",
}
_OPS = {"Put": "put", "PutFile": "put_file", "Get": "get", "GetRange": "get_range", "GetFile": "get_file",
        "List": "list", "ListDetails": "list", "Delete": "delete"}  # fmt: skip


class CountedObjects:
    """Wraps a store. An op of the engine may be several requests of the store's protocol: a listing has pages, a large
    upload parts."""

    def __init__(self, inner: ObjectStore) -> None:
        self.inner = inner
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, str]] = Counter()
        self._bytes: Counter[str] = Counter()

    def execute(self, op: StoreOp) -> Any:
        if isinstance(op, Pause):
            return self.inner.execute(op)
        name = _OPS[type(op).__name__]
        try:
            result = self.inner.execute(op)
        except Exception as error:
            self._count(name, CODES.get(type(error), "error"), 0)
            raise
        self._count(name, OK, _moved(op, result))
        return result

    def requests(self) -> dict[tuple[str, str], int]:
        """(op, code) -> how many so far."""
        with self._lock:
            return dict(self._requests)

    def bytes(self) -> dict[str, int]:
        """Op -> bytes of objects written or read so far."""
        with self._lock:
            return dict(self._bytes)

    def _count(self, op: str, code: str, moved: int) -> None:
        with self._lock:
            self._requests[op, code] += 1
            if moved:
                self._bytes[op] += moved


def _moved(op: StoreOp, result: Any) -> int:
    match op:
        case Put(_, data):
            return len(data)
        case PutFile(_, path) | GetFile(_, path):
            try:
                return path.stat().st_size
            except OSError:  # moved or removed meanwhile: it is only a number
                return 0
        case Get() | GetRange():
            return len(result)
        case _:
            return 0
