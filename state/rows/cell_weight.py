"""How many bytes cells take, from a sample; and when a generation of the cache is full because of it.

Weighing every cell would cost more than using it. So some of them, spread evenly over the generation, are looked at:
after the first that came in, whenever their number has grown by an eighth of what may be there or doubled, and
now and then for cells that grow where they are. What they hold is itself sampled, a few levels deep.

Timers in memory take up to a quarter of the bytes (timers.py), as far as there are any; cells have what they leave.
Between the cache and the store there may be two generations more: the one that fell off, and at a barrier what was
changed in both. So a generation has a quarter of these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sized
from itertools import chain, islice
from sys import getsizeof
from typing import Any

_TIMERS = 4
_GENERATIONS = 4
_WAITING = 4
"""Generations between the cache and the store: what falls off is written as fast as it comes, but for the time between
a barrier and its write-out, which is on another thread. Usually the first of them is half written by then."""
_FIRST_CELLS = 64
_STEPS = 8
_CELLS = 32
"""A sample of a generation: so many, and less than twice as many."""
_PARTS = 8
"""A sample of what is in a container."""
_DEPTH = 4
_UNKNOWN_BYTES = 64
_ENTRY_BYTES = 80
"""Of a dict, for a cell: a slot and the spare ones."""
_FLAT = frozenset({int, float, bool, str, bytes, type(None)})


class CacheShares:
    """Who shares the bytes for cells of one slot: every operator with keyed state has an equal part."""

    def __init__(self) -> None:
        self.members = 0

    def join(self) -> None:
        self.members += 1

    def leave(self) -> None:
        self.members -= 1


class Generation:
    """How much may come into the young generation."""

    def __init__(self, cache_cells: int, cache_bytes: int, shares: CacheShares) -> None:
        self._cells = max(1, cache_cells // 2)
        self._bytes = cache_bytes
        self._shares = shares
        self._left = 0
        """Bytes that left since nothing was waiting."""
        self._mean = 1
        """Bytes of a cell, as far as is known."""
        self.look_at = 0
        """With so many cells, ask whether it is full."""
        self.timers = 0
        """Bytes that timers take."""
        self.begin()

    def begin(self) -> None:
        self.look_at = max(1, min(self._cells, _FIRST_CELLS, self._allowed() // self._mean))

    def is_full(self, admitted: int, weight: Callable[[], int]) -> bool:
        """`admitted`: cells so far. `weight`: their bytes."""
        if admitted >= self._cells:
            return True
        present, allowed = weight(), self._allowed()
        self._mean = max(1, present // max(1, admitted))
        if present >= allowed:
            return True
        most = min(self._cells, max(admitted + 1, allowed // self._mean))
        self.look_at = min(most, admitted + max(_FIRST_CELLS, min(admitted, most // _STEPS)))
        return False

    def leaves(self, admitted: int, *, is_waiting: bool, timers: int = 0) -> bool:
        """It leaves the cache; or changed timers do, bytes. `is_waiting`: earlier ones are not in the store yet. True:
        they must be now, or what is between the cache and the store would take too much."""
        if not is_waiting:
            self._left = 0
        self._left += admitted * self._mean + timers
        too_much = self._left > _WAITING * self._allowed()
        if too_much:
            self._left = 0
        return too_much

    def room_for_timers(self) -> int:
        """Bytes."""
        return self._own() // _TIMERS

    def _allowed(self) -> int:
        return max(0, self._own() - self.timers) // _GENERATIONS

    def _own(self) -> int:
        return self._bytes // max(1, self._shares.members)


def weight_of(cells: dict[Any, Any]) -> int:
    """About how many bytes the keys and cells of a table take."""
    if not cells:
        return 0
    sample = islice(cells, None, None, max(1, len(cells) // _CELLS))
    sizes = [size_of(key) + size_of(cells[key]) for key in sample]
    return len(cells) * (sum(sizes) // len(sizes) + _ENTRY_BYTES)


def size_of(value: Any, depth: int = _DEPTH) -> int:
    """About how many bytes a value takes with everything in it. What is in several values counts in each."""
    size = getsizeof(value, _UNKNOWN_BYTES)
    if type(value) in _FLAT or not depth:
        return size
    if isinstance(value, dict):
        return size + _parts(value.keys(), depth) + _parts(value.values(), depth)
    if isinstance(value, (list, tuple, set, frozenset)):
        return size + _parts(value, depth)
    attributes = getattr(value, "__dict__", None)
    if isinstance(attributes, dict):
        return size + size_of(attributes, depth)
    names = chain.from_iterable(getattr(kind, "__slots__", ()) for kind in type(value).__mro__)
    return size + sum(size_of(getattr(value, name, None), depth - 1) for name in names)


def _parts(parts: Sized, depth: int) -> int:
    some: Iterable[Any] = islice(parts, None, None, max(1, len(parts) // _PARTS))  # type: ignore[call-overload]
    sizes = [size_of(part, depth - 1) for part in some]
    return len(parts) * sum(sizes) // len(sizes) if sizes else 0
