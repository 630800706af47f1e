"""The timers in memory, in buckets: one for each timestamp and namespace, which the windows of one end have in common.

    new      timers that were registered since the last flush, and have no row below: they leave no trace
    kept     timers that may have a row; a flush makes kept ones of all that are new
    heap     the places of the buckets, the earliest first; those of buckets that have ended leave it lazily

A bucket's keys are a dict, in the order in which they came. Where there is only one, as with most timers of sessions
and of functions, the key stands there itself: no key is a dict.

Buckets fire by timestamp, then by namespace; of a bucket first what is kept, then what is new, each in the order in
which it came. So a timer that was deleted and registered again has its old place or a later one.

A bucket that fires by and by stands in line: its keys, last first, in a list that is made when it begins, since to find
the first key of a dict takes ever longer when those before it are gone. Keys in line that were deleted are passed over;
what is registered meanwhile is in the next line, made when this one has come to its end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from heapq import heapify, heappop, heappush
from itertools import islice, repeat
from typing import Any

from .timer_rows import Timer

Place = tuple[int, int]
"""Timestamp in ms, namespace."""
_Buckets = dict[Place, Any]
"""A dict of keys, never empty, or the only key."""

NEW, KEPT, NOT_THERE = 2, 1, 0

_NONE: Any = object()
_SPARE_ENTRIES = 1_000


class TimerHead:
    """Buckets, and which is the first."""

    def __init__(self) -> None:
        self._new: _Buckets = {}
        self._kept: _Buckets = {}
        self._heap: list[Place] = []
        self._lines: dict[Place, list[Any]] = {}
        self.size = 0
        """Timers."""
        self.kept = 0
        """How many of them are."""

    @property
    def buckets(self) -> int:
        """About how many."""
        return len(self._heap)

    @property
    def earliest(self) -> int | None:
        """No timer has an earlier timestamp; None if there are none."""
        return self._heap[0][0] if self._heap else None

    def holds(self, key: Any, place: Place) -> bool:
        return key in _keys(self._new, place) or key in _keys(self._kept, place)

    def some_keys(self, about: int) -> list[Any]:
        """A sample."""
        places = self._heap[:: max(1, len(self._heap) // about)]
        found: list[Any] = []
        for place in places:
            keys = _keys(self._new, place) or _keys(self._kept, place)
            found += islice(keys, None, None, max(1, len(keys) * len(places) // about))
        return found

    # ---- in

    def add(self, key: Any, place: Place) -> None:
        """A new one, unless it is there."""
        if place in self._kept:
            if key in _keys(self._kept, place):
                return
        elif place not in self._new:
            heappush(self._heap, place)
            self._new[place] = key
            self.size += 1
            return
        self.size += _put(self._new, place, key)

    def add_all(self, keys: Collection[Any], place: Place) -> None:
        """The same for many keys."""
        added = dict.fromkeys(keys)
        kept, before = _keys(self._kept, place), _keys(self._new, place)
        if kept and any(map(kept.__contains__, added)):
            added = {key: None for key in added if key not in kept}
        if not added:
            return
        if not (kept or before):
            heappush(self._heap, place)
        self.size -= len(before)
        if isinstance(before, dict):
            before.update(added)
        else:
            before = self._new[place] = dict.fromkeys(before) | added
        self.size += len(before)

    def add_kept(self, key: Any, place: Place) -> None:
        """One that may have a row, and is not here."""
        if place not in self._kept and place not in self._new:
            heappush(self._heap, place)
        _put(self._kept, place, key)
        self.size += 1
        self.kept += 1

    def settle(self, changes: dict[Timer, bytes | None], change: bytes) -> None:
        """Notes a change for those that are new, which are kept from now on."""
        for place, held in self._new.items():
            timestamp, namespace = place
            if type(held) is not dict:
                changes[timestamp, held, namespace] = change
            else:
                changes.update(dict.fromkeys(zip(repeat(timestamp), held, repeat(namespace)), change))
        if self._kept:
            for place in self._new.keys() & self._kept.keys():
                self._new[place] = _joined(self._kept[place], self._new[place])
            self._kept.update(self._new)
        else:
            self._kept = self._new
        self._new, self.kept = {}, self.size

    # ---- out

    def first(self) -> Place | None:
        """Of the bucket that fires first."""
        heap = self._heap
        while heap:
            place = heap[0]
            if place in self._new or place in self._kept:
                return place
            heappop(heap)
        return None

    def remove(self, key: Any, place: Place) -> int:
        """NEW, KEPT, or NOT_THERE."""
        if _drop(self._new, place, key):
            found = NEW
        elif _drop(self._kept, place, key):
            found = KEPT
            self.kept -= 1
        else:
            return NOT_THERE
        self.size -= 1
        if self._lines and place not in self._new and place not in self._kept:
            self._lines.pop(place, None)
        if len(self._heap) > 2 * (len(self._new) + len(self._kept)) + _SPARE_ENTRIES:
            self._heap = list(self._new.keys() | self._kept.keys())
            heapify(self._heap)
        return found

    def pop(self, place: Place) -> tuple[Any, int]:
        """Takes away the next timer of the first bucket: its key, and NEW or KEPT."""
        new, kept = self._new.get(place, _NONE), self._kept.get(place, _NONE)
        if kept is _NONE and type(new) is not dict:
            del self._new[place]
            self._first_has_ended(place)
            self.size -= 1
            return new, NEW
        if new is _NONE and type(kept) is not dict:
            del self._kept[place]
            self._first_has_ended(place)
            self.size -= 1
            self.kept -= 1
            return kept, KEPT
        while True:
            key = (self._lines.get(place) or self._line(place)).pop()
            if type(new) is dict and len(new) > 1 and key in new:
                del new[key]
                self.size -= 1
                return key, NEW
            found = self.remove(key, place)
            if found:
                return key, found

    def pop_some(self, place: Place, most: int) -> tuple[list[Any], Collection[Any]]:
        """Takes away some of the first bucket: their keys, and the keys of those that are kept."""
        if place not in self._kept and type(only := self._new[place]) is not dict:
            del self._new[place]
            self._first_has_ended(place)
            self.size -= 1
            return [only], ()
        new, kept = _keys(self._new, place), _keys(self._kept, place)
        if len(new) + len(kept) > most:
            return self._pop_from_line(place, most, new, kept)
        self._first_has_ended(place)
        self.size -= len(new) + len(kept)
        if new:
            del self._new[place]
        if not kept:
            return list(new), ()
        del self._kept[place]
        self.kept -= len(kept)
        return [*kept, *new], kept

    def _first_has_ended(self, place: Place) -> None:
        heappop(self._heap)
        if self._lines:
            self._lines.pop(place, None)

    def _pop_from_line(
        self, place: Place, most: int, new: Collection[Any], kept: Collection[Any]
    ) -> tuple[list[Any], Collection[Any]]:
        own_new: list[Any] = []
        own_kept: list[Any] = []
        while not (own_new or own_kept):
            line = self._lines.get(place) or self._line(place)
            part = line[: -most - 1 : -1]
            del line[-most:]
            own_new, own_kept = list(filter(new.__contains__, part)), list(filter(kept.__contains__, part))
        _drop_all(self._new, place, own_new)
        _drop_all(self._kept, place, own_kept)
        self.size -= len(own_new) + len(own_kept)
        self.kept -= len(own_kept)
        return [*own_kept, *own_new], own_kept

    def cut(self, keep: int) -> tuple[int, list[Timer]]:
        """Lets go of all but the first so many: the timestamp where those begin that go, and which of these are new."""
        self._lines.clear()
        places = sorted(self._new.keys() | self._kept.keys())
        for staying, place in enumerate(places):  # noqa: B007
            keys = [*_keys(self._kept, place), *_keys(self._new, place)]
            if len(keys) > keep:
                break
            keep -= len(keys)
        gone = [(place[0], key, place[1]) for key in keys[keep:] if self.remove(key, place) == NEW]
        for other in places[staying + 1 :]:
            new = _keys(self._new, other)
            gone += [(other[0], key, other[1]) for key in new]
            kept = _keys(self._kept, other)
            self.kept -= len(kept)
            self.size -= len(new) + len(kept)
            self._new.pop(other, None)
            self._kept.pop(other, None)
        self._heap = places[: staying + (keep > 0)]
        return place[0], gone

    def _line(self, place: Place) -> list[Any]:
        line = self._lines[place] = [*_keys(self._kept, place), *_keys(self._new, place)]
        line.reverse()
        return line


def _keys(buckets: _Buckets, place: Place) -> Collection[Any]:
    held = buckets.get(place, _NONE)
    if type(held) is dict:
        return held
    return () if held is _NONE else (held,)


def _joined(held: Any, other: Any) -> dict[Any, None]:
    """The keys of two buckets, which have none in common; the first may be changed."""
    keys = held if type(held) is dict else {held: None}
    if type(other) is dict:
        keys.update(other)
    else:
        keys[other] = None
    return keys


def _put(buckets: _Buckets, place: Place, key: Any) -> bool:
    """Whether it was not there."""
    held = buckets.get(place, _NONE)
    if held is _NONE:
        buckets[place] = key
    elif type(held) is dict:
        if key in held:
            return False
        held[key] = None
    elif held is key or held == key:
        return False
    else:
        buckets[place] = {held: None, key: None}
    return True


def _drop(buckets: _Buckets, place: Place, key: Any) -> bool:
    """Whether it was there."""
    held = buckets.get(place, _NONE)
    if type(held) is not dict:
        if held is _NONE or not (held is key or held == key):
            return False
        del buckets[place]
        return True
    if key not in held:
        return False
    del held[key]
    if not held:
        del buckets[place]
    return True


def _drop_all(buckets: _Buckets, place: Place, keys: Collection[Any]) -> None:
    """They are there."""
    held = _keys(buckets, place)
    if len(keys) == len(held):
        buckets.pop(place, None)
    elif keys:
        deque(map(held.__delitem__, keys), maxlen=0)  # type: ignore[attr-defined]
