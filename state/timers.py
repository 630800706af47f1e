"""Timers as state: rows in the store like any other, and a heap in memory that says which is due.

Timers fire by timestamp, and in the order of their registration within one timestamp; restored ones come in the
order of their rows. A deleted timer stays in the heap and is skipped when it comes up. A timer that fires before it
was ever written never reaches the store.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heapify, heappop, heappush
from typing import Any

from .backend import VOID_NAMESPACE, Timers
from .handles import Cursor
from .layers import Layer
from .row_keys import cell_prefixes, decode_word, encode_word, key_of, namespace_of, prefix_length
from .row_store import Row

Timer = tuple[int, Any, int]
"""Timestamp, key, namespace."""

_NEW, _KEPT, _GONE = 2, 1, None
"""Changes since the last write: registered and nowhere below; registered (there may be a row); deleted."""

_SPARE_ENTRIES = 1_000


class StoredTimers(Timers):
    """The timers of one name; `changed` says how many are not on their way to the store."""

    def __init__(self, cursor: Cursor, state_id: int, max_parallelism: int) -> None:
        self._cursor = cursor
        self.place = (state_id, VOID_NAMESPACE)
        self._state_id = state_id
        self._max_parallelism = max_parallelism
        self._live: dict[Timer, int] = {}
        """Number of every timer's registration."""
        self._heap: list[tuple[int, int, Timer]] = []
        """(timestamp, number, timer); numbers are unique, so keys are never compared."""
        self._changes: dict[Timer, int | None] = {}
        self._registrations = 0

    def register(self, timestamp: int, namespace: int = VOID_NAMESPACE) -> None:
        self.register_for(self._cursor.current_key(), timestamp, namespace)

    def delete(self, timestamp: int, namespace: int = VOID_NAMESPACE) -> None:
        self.delete_for(self._cursor.current_key(), timestamp, namespace)

    def register_for(self, key: Any, timestamp: int, namespace: int) -> None:
        timer = (timestamp, key, namespace)
        if timer not in self._live:
            self._changes[timer] = _KEPT if timer in self._changes else _NEW
            self._add(timer)

    def delete_for(self, key: Any, timestamp: int, namespace: int) -> None:
        timer = (timestamp, key, namespace)
        if self._live.pop(timer, None) is not None:
            self._gone(timer)
            if len(self._heap) > 2 * len(self._live) + _SPARE_ENTRIES:
                self._heap = [(timer[0], number, timer) for timer, number in self._live.items()]
                heapify(self._heap)

    def next_timestamp(self) -> int | None:
        heap = self._heap
        while heap:
            timestamp, number, timer = heap[0]
            if self._live.get(timer) == number:
                return timestamp
            heappop(heap)
        return None

    def pop_due(self, timestamp: int) -> Timer | None:
        heap, live = self._heap, self._live
        while heap and heap[0][0] <= timestamp:
            _timestamp, number, timer = heappop(heap)
            if live.get(timer) == number:
                del live[timer]
                self._gone(timer)
                return timer
        return None

    def _add(self, timer: Timer) -> None:
        self._registrations += 1
        self._live[timer] = self._registrations
        heappush(self._heap, (timer[0], self._registrations, timer))

    def _gone(self, timer: Timer) -> None:
        if self._changes.get(timer) == _NEW:
            del self._changes[timer]
        else:
            self._changes[timer] = _GONE

    @property
    def count(self) -> int:
        return len(self._live)

    # ---- rows

    def restore(self, rows: Iterator[tuple[bytes, bytes]]) -> None:
        for row_key, _value in rows:
            timestamp = decode_word(row_key[prefix_length(row_key) :])
            self._add((timestamp, key_of(row_key), namespace_of(row_key)))

    @property
    def changed(self) -> int:
        return len(self._changes)

    def flush(self, layer: Layer) -> None:
        if self._changes:
            layer.put_values(self, self._changes)
            self._changes = {}

    def in_order(self, entries: dict[Timer, int | None]) -> list[tuple[Timer, int | None]]:
        return list(entries.items())

    def encode_rows(self, entries: list[tuple[Timer, int | None]]) -> list[Row]:
        """A timer's namespace is its own, not that of a table."""
        keys = [timer[1] for timer, _change in entries]
        prefixes = cell_prefixes(keys, self._state_id, b"", self._max_parallelism) if keys else []
        return [
            (prefix + encode_word(timer[2]) + encode_word(timer[0]), None if change is _GONE else b"")
            for prefix, (timer, change) in zip(prefixes, entries, strict=True)
        ]
