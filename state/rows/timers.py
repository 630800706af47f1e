"""Timers as state: rows in the store, and the first of them in memory.

    head      the timers that are due first, in a heap; as many as there is room for
    horizon   a timestamp: all timers before it are in the head, none after it is, and of those at it some may be
    rows      every timer that was written, in the order of time within each key group (timer_rows.py)

Before the horizon the head knows what is registered. From the horizon on nobody looks: a timer is put into the store,
or deleted from it, whether it is there or not; both may be done twice. What is registered exactly at the horizon comes
into the head as well, since its row may lie before the place up to which rows were read.

When the head takes more than its room, its later half leaves it, and the horizon is where that begins. When it is
empty, the next timers are read from the store, corrected by what is on its way there (write_queue.py). As long as there
is room for all of them, the horizon is after all time, and no row is ever read. On the heap backend it stays there.

A timer that fires or is deleted before it was ever written never reaches the store, unless it was registered at the
horizon or after it.

Timers fire by timestamp; those of one timestamp in the order of their registration while they are in the head, and
those that were read from the store, after a restore too, in the order of their rows: by key group, namespace and key.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from heapq import heapify, heappop, heappush
from itertools import islice
from operator import index, itemgetter
from typing import Any

from ..backend import VOID_NAMESPACE, Timers
from ..errors import StateError
from .cell_weight import size_of
from .handles import Cursor
from .layers import Layer
from .row_store import Row
from .timer_rows import Timer, TimerReader, timer_of, timer_rows
from .write_queue import WriteQueue

_NEW, _KEPT, _GONE = 2, 1, None
"""Changes since the last write: registered and nowhere below; registered (there may be a row); deleted."""

_EARLIEST, LATEST = -(1 << 63), (1 << 63) - 1
_AFTER_ALL = LATEST + 1
_SPARE_ENTRIES = 1_000
_FIRST_LOOK = 64
_SAMPLE = 32
_HEAD_BYTES = 400
"""Of a timer in the head and among the changes, without its key."""
_BY_TIME = itemgetter(0)


class StoredTimers(Timers):
    """The timers of one name; `changed` says how many are not on their way to the store."""

    def __init__(
        self,
        cursor: Cursor,
        queue: WriteQueue,
        state_id: int,
        max_parallelism: int,
        *,
        reader: TimerReader | None = None,
        room: Callable[[], int] = lambda: sys.maxsize,
        about: int = 0,
    ) -> None:
        """reader: of the timers that the store has; None: all stay in memory. room: bytes that the head may take now.
        about: how many timers the store has, as far as is known."""
        self._cursor = cursor
        self._queue = queue
        self.place = (state_id, VOID_NAMESPACE)
        self._state_id = state_id
        self._max_parallelism = max_parallelism
        self._reader = reader
        self._room = room
        self._live: dict[Timer, int] = {}
        """The head: number of every timer's registration."""
        self._heap: list[tuple[int, int, Timer]] = []
        """(timestamp, number, timer) of the head and of timers that left it; numbers are unique, so keys are never
        compared."""
        self._changes: dict[Timer, int | None] = {}
        self._registrations = 0
        self._horizon = _AFTER_ALL
        self._elsewhere = about
        """Timers that are not in the head, about."""
        self._each, self._most = _HEAD_BYTES, sys.maxsize
        """Bytes of a timer in the head, and how many it may have, as far as is known."""
        self._look_at = sys.maxsize
        """With so many timers in the head, ask whether there is room."""
        if reader is not None:
            self._look()
            self._read_on()

    def register(self, timestamp: int, namespace: int = VOID_NAMESPACE) -> None:
        self.register_for(self._cursor.current_key(), timestamp, namespace)

    def delete(self, timestamp: int, namespace: int = VOID_NAMESPACE) -> None:
        self.delete_for(self._cursor.current_key(), timestamp, namespace)

    def register_for(self, key: Any, timestamp: int, namespace: int) -> None:
        if type(timestamp) is not int:
            timestamp = _whole(timestamp)
        timer = (timestamp, key, namespace)
        live = self._live
        if timer in live:
            return
        if not _EARLIEST <= timestamp <= LATEST:
            raise StateError(f"a timer's timestamp is in ms and fits 64 bits; {timestamp} does not")
        if timestamp < self._horizon:
            changes = self._changes
            changes[timer] = _KEPT if timer in changes else _NEW
        elif self._is_put_away(timer):
            return
        self._registrations = number = self._registrations + 1
        live[timer] = number
        heappush(self._heap, (timestamp, number, timer))
        if len(live) > self._look_at:
            self._make_room()

    def delete_for(self, key: Any, timestamp: int, namespace: int) -> None:
        if type(timestamp) is not int:
            timestamp = _whole(timestamp)
        timer = (timestamp, key, namespace)
        if self._live.pop(timer, None) is not None:
            self._gone(timer)
            if len(self._heap) > 2 * len(self._live) + _SPARE_ENTRIES:
                self._heap = self._entries()
                heapify(self._heap)
        elif self._horizon <= timestamp <= LATEST:  # what does not fit cannot be there, nor be written as gone
            self._elsewhere -= 1
            self._gone(timer)

    def next_timestamp(self) -> int | None:
        while True:
            heap, live = self._heap, self._live
            while heap:
                timestamp, number, timer = heap[0]
                if live.get(timer) == number:
                    return timestamp
                heappop(heap)
            if self._horizon == _AFTER_ALL:
                return None
            self._read_on()

    def pop_due(self, timestamp: int) -> Timer | None:
        while True:
            heap, live = self._heap, self._live
            while heap and heap[0][0] <= timestamp:
                _timestamp, number, timer = heappop(heap)
                if live.get(timer) == number:
                    del live[timer]
                    self._gone(timer)
                    return timer
            if heap or timestamp < self._horizon or self._horizon == _AFTER_ALL:
                return None
            self._read_on()

    def pop_due_alike(self, timestamp: int, most: int) -> tuple[int, int, list[Any]] | None:
        first = self.pop_due(timestamp)
        if first is None:
            return None
        at, key, namespace = first
        keys, heap, live = [key], self._heap, self._live
        while heap and heap[0][0] == at and len(keys) < most:
            _at, number, timer = heap[0]
            if live.get(timer) == number:
                if timer[2] != namespace:
                    break
                keys.append(timer[1])
                del live[timer]
                self._gone(timer)
            heappop(heap)
        return at, namespace, keys

    def _is_put_away(self, timer: Timer) -> bool:
        """A timer that is not before the horizon is put into the store, where it may be already. False: it comes into
        the head as well."""
        timestamp = timer[0]
        is_after = timestamp > self._horizon
        if self._changes.get(timer) is _GONE:
            self._changes[timer] = _KEPT
            self._elsewhere += is_after
        return is_after

    def _gone(self, timer: Timer) -> None:
        if self._changes.get(timer) == _NEW:
            del self._changes[timer]
        else:
            self._changes[timer] = _GONE

    def _entries(self) -> list[tuple[int, int, Timer]]:
        return [(timer[0], number, timer) for timer, number in self._live.items()]

    @property
    def count(self) -> int:
        """Exact while all are in memory; else about."""
        return len(self._live) + max(0, self._elsewhere)

    @property
    def earliest(self) -> int:
        """No timer has an earlier timestamp."""
        return self._heap[0][0] if self._heap else min(self._horizon, LATEST)

    # ---- the head

    @property
    def weight(self) -> int:
        """About how many bytes the head takes, of those it is given; nothing where all timers stay in memory."""
        return 0 if self._reader is None else len(self._live) * self._each

    def _look(self) -> None:
        """How many timers there is room for, by what their keys weigh; and when to look again."""
        present = len(self._live)
        keys = [size_of(timer[1]) for timer in islice(self._live, None, None, max(1, present // _SAMPLE))]
        self._each = _HEAD_BYTES + (sum(keys) // len(keys) if keys else 0)
        self._most = max(2, self._room() // self._each)
        self._look_at = max(present, min(self._most, max(_FIRST_LOOK, 2 * present)))

    def _make_room(self) -> None:
        self._look()
        assert self._reader is not None
        if len(self._live) <= self._most:
            return
        entries = sorted(self._entries())
        self._heap = entries[: self._most // 2]
        self._horizon = entries[len(self._heap)][0]
        self._elsewhere += len(entries) - len(self._heap)
        self._live = {timer: number for _timestamp, number, timer in self._heap}
        self._look_at = self._most
        self._reader.go_to(self._horizon)

    def _read_on(self) -> None:
        """Into the head, which is empty: what the store has next, and what is on its way there."""
        assert self._reader is not None
        waiting = [*reversed(self._queue.leaving(self)), self._changes]  # first, so that nothing is missed
        stored, last = self._reader.read(self._most // 2)
        changes: dict[Timer, int | None] = {}
        for newer in waiting:
            changes.update(newer if last is None else {t: change for t, change in newer.items() if t[0] <= last})
        found = dict.fromkeys(timer for timer in stored if changes.get(timer, _KEPT) is not _GONE)
        found.update(dict.fromkeys(timer for timer, change in changes.items() if change is not _GONE))
        self._horizon = _AFTER_ALL if last is None else last
        self._elsewhere = 0 if last is None else self._elsewhere - len(found)
        self._enter(sorted(found, key=_BY_TIME))
        self._look()

    def _enter(self, timers: Iterable[Timer]) -> None:
        """Into the head, which is empty, in the order of time."""
        for timer in timers:
            self._registrations += 1
            self._live[timer] = self._registrations
        self._heap = self._entries()

    # ---- rows

    def restore(self, row_keys: Iterable[bytes]) -> None:
        """All of them, to stay in memory."""
        self._enter(sorted(map(timer_of, row_keys), key=_BY_TIME))

    @property
    def changed(self) -> int:
        return len(self._changes)

    def flush(self, layer: Layer) -> None:
        if self._changes:
            layer.put_values(self, self._changes)
            self._changes = {}

    def in_order(self, entries: dict[Timer, int | None]) -> list[Timer]:
        return list(entries)

    def encode_rows(self, keys: Sequence[Timer], values: Sequence[int | None]) -> list[Row]:
        """A timer's namespace is its own, not that of a table."""
        rows = timer_rows(keys, self._state_id, self._max_parallelism)
        return [(row, None if change is _GONE else b"") for row, change in zip(rows, values, strict=True)]


def _whole(timestamp: Any) -> int:
    try:
        return index(timestamp)  # numpy's integers
    except TypeError:
        raise TypeError(f"a timer's timestamp is int ms, not {timestamp!r}") from None
