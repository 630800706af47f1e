"""Counts what is asked of an object store: the source of object_store_requests_total{op,code} and
object_store_bytes_total{op}. One counter serves all stores and threads of a process."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ..errors import (
    ObjectAlreadyExists,
    ObjectNotFound,
    ObjectStoreDenied,
    ObjectStoreNotServing,
    ObjectStoreUnavailable,
)
from .objects import Get, GetFile, GetPart, GetRange, ObjectStore, Pause, Put, PutFile, StoreOp

OK = "ok"
CODES: dict[type[Exception], str] = {
    ObjectNotFound: "not_found",
    ObjectAlreadyExists: "exists",
    ObjectStoreDenied: "denied",
    ObjectStoreUnavailable: "unavailable",
    ObjectStoreNotServing: "unavailable",
}
_OPS = {"Put": "put", "PutFile": "put_file", "Get": "get", "GetRange": "get_range", "GetFile": "get_file",
        "GetPart": "get_range", "List": "list", "ListDetails": "list", "Delete": "delete"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class ObjectCounts:
    """What was asked of stores so far."""

    requests: dict[str, dict[str, int]] = field(default_factory=dict)
    """Op -> code -> how many."""
    bytes: dict[str, int] = field(default_factory=dict)
    """Op -> bytes of objects written or read."""


def summed(parts: Iterable[ObjectCounts]) -> ObjectCounts:
    """Of several processes."""
    requests: dict[str, Counter[str]] = {}
    moved: Counter[str] = Counter()
    for part in parts:
        for op, codes in part.requests.items():
            requests.setdefault(op, Counter()).update(codes)
        moved.update(part.bytes)
    return ObjectCounts({op: dict(codes) for op, codes in requests.items()}, dict(moved))


class ObjectCounter:
    """Of one process. May be used by any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: dict[str, Counter[str]] = {}
        self._bytes: Counter[str] = Counter()

    def count(self, op: str, code: str, moved: int) -> None:
        with self._lock:
            self._requests.setdefault(op, Counter())[code] += 1
            if moved:
                self._bytes[op] += moved

    def counts(self) -> ObjectCounts:
        """A copy of what there is."""
        with self._lock:
            return ObjectCounts({op: dict(codes) for op, codes in self._requests.items()}, dict(self._bytes))


class CountedObjects:
    """Wraps a store. An op of the engine may be several requests of the store's protocol: a listing has pages, a large
    upload parts, and a try that failed is repeated."""

    def __init__(self, inner: ObjectStore, counter: ObjectCounter | None = None) -> None:
        self.inner = inner
        self._counter = counter or ObjectCounter()

    def counts(self) -> ObjectCounts:
        """Of its counter, which may be that of other stores, too."""
        return self._counter.counts()

    def execute(self, op: StoreOp) -> Any:
        if isinstance(op, Pause):
            return self.inner.execute(op)
        name = _OPS[type(op).__name__]
        try:
            result = self.inner.execute(op)
        except Exception as error:
            self._counter.count(name, CODES.get(type(error), "error"), 0)
            raise
        self._counter.count(name, OK, _moved(op, result))
        return result


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
        case GetPart(length=length):
            return length
        case _:
            return 0
