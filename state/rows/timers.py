"""Timers as state: rows in the store, and the first of them in memory.

    head      the timers that are due first (timer_head.py); as many as there is room for
    horizon   a timestamp: all timers before it are in the head, none after it is, and of those at it some may be
    changes   what the store is to be told, but for the timers of the head that are new
    rows      every timer that was written, in the order of time within each key group (timer_rows.py)

Before the horizon the head knows what is registered. From the horizon on nobody looks: a timer is put into the store,
or deleted from it, whether it is there or not; both may be done twice. What is registered exactly at the horizon comes
into the head as well, since its row may lie before the place up to which rows were read.

When the head takes more than its room, its later half leaves it, and the horizon is where that begins. When it is
empty, the next timers are read from the store, corrected by what is on its way there (write_queue.py). As long as there
is room for all of them, the horizon is after all time, and no row is ever read. On the heap backend it stays there.

A timer that fires or is deleted before it was ever written never reaches the store, unless it was registered at the
horizon or after it, or has left the head.

Timers fire by timestamp; what the head has of one timestamp, by namespace; and of one namespace in the order of their
registration. Those that were read from the store, after a restore too, come in the order of their rows, by key
group and key, before others that were registered later. At the horizon the head has a part of them at a time.

What windows cost is by the batch: timers that differ only in the key come and go many at once. A registration looks for
what has changed since the last flush only up to the time of the latest such change; usually that has fired.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from operator import index
from typing import Any

from ..backend import VOID_NAMESPACE, Timers
from ..errors import StateError
from .cell_weight import size_of
from .handles import Cursor
from .layers import Layer
from .row_store import Row
from .timer_head import KEPT, NEW, NOT_THERE, Place, TimerHead
from .timer_rows import Timer, TimerReader, timer_of, timer_rows
from .write_queue import WriteQueue

_PUT, _GONE = b"", None
"""Changes since the last flush, as they are written: there may be a row already, or none."""

_EARLIEST, LATEST = -(1 << 63), (1 << 63) - 1
_BEFORE_ALL, _AFTER_ALL = _EARLIEST - 1, LATEST + 1
_FIRST_LOOK = 64
_GROWTH = 4
"""Look again when there are a quarter more: buckets of one key, of which each timer takes most, may be what comes."""
_SAMPLE = 32
_BUCKET_BYTES, _KEY_BYTES = 300, 100
"""Of a bucket in the head, and of a timer in it or on its way to the store, without its key."""


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
        self._head = TimerHead()
        self._changes: dict[Timer, bytes | None] = {}
        self._changed_to = _BEFORE_ALL
        """No change is of a later timestamp."""
        self._horizon = _AFTER_ALL
        self._elsewhere = about
        """Timers that are not in the head, about."""
        self._each, self._most = _BUCKET_BYTES + _KEY_BYTES, sys.maxsize
        """Bytes of a timer in the head, and how many it may have, as far as is known."""
        self._part = 1
        """How many to read at once: half of what there is room for, if each has a bucket of its own."""
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
        if self._changed_to < timestamp < self._horizon:
            self._head.add(key, (timestamp, namespace))
        else:
            self._register_changed(key, timestamp, namespace)
        if self._head.size > self._look_at:
            self._make_room()

    def register_all(self, keys: Collection[Any], timestamp: int, namespace: int) -> None:
        if type(timestamp) is not int:
            timestamp = _whole(timestamp)
        if self._changed_to < timestamp < self._horizon:
            self._head.add_all(keys, (timestamp, namespace))
        else:
            for key in keys:
                self._register_changed(key, timestamp, namespace)
        if self._head.size > self._look_at:
            self._make_room()

    def _register_changed(self, key: Any, timestamp: int, namespace: int) -> None:
        """It may be among the changes, or is not before the horizon: then it is put into the store, where it may be
        already."""
        place, timer = (timestamp, namespace), (timestamp, key, namespace)
        if not _EARLIEST <= timestamp <= LATEST:
            raise StateError(f"a timer's timestamp is in ms and fits 64 bits; {timestamp} does not")
        if timestamp <= self._horizon and self._head.holds(key, place):
            return
        if timestamp < self._horizon and timer not in self._changes:
            self._head.add(key, place)
            return
        if self._changes.get(timer) is _GONE:
            self._change(timer, _PUT)
            self._elsewhere += timestamp > self._horizon
        if timestamp <= self._horizon:
            self._head.add_kept(key, place)

    def delete_for(self, key: Any, timestamp: int, namespace: int) -> None:
        if type(timestamp) is not int:
            timestamp = _whole(timestamp)
        found = self._head.remove(key, (timestamp, namespace))
        if found == NOT_THERE:
            if not self._horizon <= timestamp <= LATEST:  # what does not fit cannot be there, nor be written as gone
                return
            self._elsewhere -= 1
        if found != NEW:
            self._change((timestamp, key, namespace), _GONE)

    def next_timestamp(self) -> int | None:
        place = self._head.first() or self._read_first(LATEST)
        return None if place is None else place[0]

    def pop_due(self, timestamp: int) -> Timer | None:
        place = self._head.first() or self._read_first(timestamp)
        if place is None or place[0] > timestamp:
            return None
        key, found = self._head.pop(place)
        timer = (place[0], key, place[1])
        if found == KEPT:
            self._change(timer, _GONE)
        return timer

    def pop_due_alike(self, timestamp: int, most: int) -> tuple[int, int, list[Any]] | None:
        place = self._head.first() or self._read_first(timestamp)
        if place is None or place[0] > timestamp:
            return None
        at, namespace = place
        keys, kept = self._head.pop_some(place, most)
        if kept:
            changes = self._changes
            for key in kept:
                changes[at, key, namespace] = _GONE
            self._changed_to = max(self._changed_to, at)
        return at, namespace, keys

    def _read_first(self, up_to: int) -> Place | None:
        """Where the head is empty, the timers that are due first, as long as they may be up to then."""
        while self._horizon <= up_to and self._horizon != _AFTER_ALL:
            self._read_on()
            place = self._head.first()
            if place is not None:
                return place
        return None

    def _change(self, timer: Timer, change: bytes | None) -> None:
        self._changes[timer] = change
        if timer[0] > self._changed_to:
            self._changed_to = timer[0]

    @property
    def count(self) -> int:
        """Exact while all are in memory; else about."""
        return self._head.size + max(0, self._elsewhere)

    @property
    def earliest(self) -> int:
        """No timer has an earlier timestamp."""
        earliest = self._head.earliest
        return min(self._horizon, LATEST) if earliest is None else earliest

    # ---- the head

    @property
    def weight(self) -> int:
        """About how many bytes the head takes, of those it is given; nothing where all timers stay in memory."""
        return 0 if self._reader is None else self._head.size * self._each

    def _look(self) -> None:
        """How many timers there is room for, by what their keys weigh and how many are in a bucket; and when to look
        again."""
        head, present = self._head, self._head.size
        keys = list(map(size_of, head.some_keys(_SAMPLE)))
        of_key = _KEY_BYTES + (sum(keys) // len(keys) if keys else 0)
        self._each = of_key + (_BUCKET_BYTES * head.buckets // present if present else _BUCKET_BYTES)
        room = self._room()
        self._most = max(2, room // self._each)
        self._part = max(1, room // (_BUCKET_BYTES + of_key) // 2)
        self._look_at = max(present, min(self._most, max(_FIRST_LOOK, present + present // _GROWTH)))

    def _make_room(self) -> None:
        self._look()
        assert self._reader is not None
        before = self._head.size
        if before <= self._most:
            return
        self._horizon, leaving = self._head.cut(self._most // 2)
        self._changes.update(dict.fromkeys(leaving, _PUT))
        if leaving:
            self._changed_to = max(self._changed_to, leaving[-1][0])
        self._elsewhere += before - self._head.size
        self._look_at = self._most
        self._reader.go_to(self._horizon)

    def _read_on(self) -> None:
        """Into the head, which is empty: what the store has next, and what is on its way there."""
        assert self._reader is not None
        waiting = [*reversed(self._queue.leaving(self)), self._changes]  # first, so that nothing is missed
        stored, last = self._reader.read(self._part)
        changes: dict[Timer, bytes | None] = {}
        for newer in waiting:
            changes.update(newer if last is None else {t: change for t, change in newer.items() if t[0] <= last})
        found = dict.fromkeys(timer for timer in stored if changes.get(timer, _PUT) is not _GONE)
        found.update(dict.fromkeys(timer for timer, change in changes.items() if change is not _GONE))
        self._horizon = _AFTER_ALL if last is None else last
        self._elsewhere = 0 if last is None else self._elsewhere - len(found)
        self._enter(found)
        self._look()

    def _enter(self, timers: Iterable[Timer]) -> None:
        """Into the head, where none of them is."""
        for timestamp, key, namespace in timers:
            self._head.add_kept(key, (timestamp, namespace))

    # ---- rows

    def restore(self, row_keys: Iterable[bytes]) -> None:
        """All of them, to stay in memory."""
        self._enter(map(timer_of, row_keys))

    @property
    def changed(self) -> int:
        return len(self._changes) + self._head.size - self._head.kept

    def flush(self, layer: Layer) -> None:
        self._head.settle(self._changes, _PUT)
        if self._changes:
            layer.put_values(self, self._changes)
            self._changes, self._changed_to = {}, _BEFORE_ALL

    def in_order(self, entries: dict[Timer, bytes | None]) -> list[Timer]:
        return list(entries)

    def encode_rows(self, keys: Sequence[Timer], values: Sequence[bytes | None]) -> list[Row]:
        """A timer's namespace is its own, not that of a table."""
        return list(zip(timer_rows(keys, self._state_id, self._max_parallelism), values, strict=True))


def _whole(timestamp: Any) -> int:
    try:
        return index(timestamp)  # numpy's integers
    except TypeError:
        raise TypeError(f"a timer's timestamp is int ms, not {timestamp!r}") from None
