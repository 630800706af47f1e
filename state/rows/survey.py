"""What each state holds, by name, found by looking through the store a bite at a time.

RocksDB knows what all states of a database take, not what one does. Keys are spread over the key groups by their hash,
so what is in some groups says how much is in all: a *pass* counts the rows of every state, key group by key group. What
it has not come to is as the last one found it, and in the first one as the groups are that were counted.

Each time somebody asks for statistics, about once a second, the pass goes on for a millisecond or two; while rows are
being written it waits.

A cell is a key's value, list or map in one namespace; its rows lie together, so the largest ones are found on the way.
Rows are counted as they are encoded, before RocksDB compresses them; what is in the cache alone is not seen.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from heapq import nlargest
from itertools import islice
from operator import itemgetter
from typing import Any

from ..errors import KeyTypeError
from ..key_encoding import decode_plain
from ..key_groups import KeyGroupRange
from ..key_signatures import KeySignatures
from ..statistics import NamedState
from .row_keys import encoded_key_of, key_of, prefix_length, state_prefix
from .write_queue import WriteQueue

_BITE_ROWS = 2_000
_ROWS_PER_SEEK = 50
"""Going to the next key group costs as much as looking at so many rows."""
_LARGEST = 5
_KEY_CHARACTERS = 64
_WINDOW_MS = 60_000
_SAMPLES = 30
_BY_BYTES = itemgetter(1)

Largest = dict[bytes, int]
"""First bytes of a cell's rows -> their size."""


class Growth:
    """How fast something grows, over about the last minute."""

    def __init__(self) -> None:
        self._samples: deque[tuple[int, int]] = deque()

    def rate(self, now_ms: int, nbytes: int) -> float:
        """Bytes per second; 0 until there are two samples."""
        samples = self._samples
        if samples and now_ms < samples[-1][0]:  # the clock was set back
            samples.clear()
        if not samples or now_ms - samples[-1][0] >= _WINDOW_MS // _SAMPLES:
            samples.append((now_ms, nbytes))
        while len(samples) > 2 and samples[1][0] <= now_ms - _WINDOW_MS:
            samples.popleft()
        began_ms, before = samples[0]
        return (nbytes - before) * 1_000 / (now_ms - began_ms) if now_ms > began_ms else 0.0


@dataclass(slots=True)
class _Tally:
    """Of one state in the key group that is looked through."""

    rows: int = 0
    nbytes: int = 0
    largest: Largest = field(default_factory=dict)


class _Surveyed:
    """One state: what every key group had when it was looked through last."""

    def __init__(self, state_id: int, kind: str, type_shown: str, keys: KeySignatures) -> None:
        self.state_id = state_id
        self._kind = kind
        self._type = type_shown
        self._keys = keys
        self.group = _Tally()
        self._sizes: dict[int, tuple[int, int]] = {}
        self._rows = self._bytes = 0
        """Of all in `_sizes`."""
        self._largest: Largest = {}
        self._largest_before: Largest = {}
        """Of the pass before this one."""
        self._growth = Growth()

    def group_is_done(self, group: int) -> None:
        done, self.group = self.group, _Tally()
        rows, nbytes = self._sizes.get(group, (0, 0))
        self._sizes[group] = done.rows, done.nbytes
        self._rows += done.rows - rows
        self._bytes += done.nbytes - nbytes
        self._largest = _largest_of({**self._largest, **done.largest})

    def pass_is_done(self) -> None:
        self._largest_before, self._largest = self._largest, {}

    def shown(self, now_ms: int, groups: int) -> NamedState:
        known = max(1, len(self._sizes))
        nbytes = self._bytes * groups // known
        largest = _largest_of({**self._largest_before, **self._largest})
        return NamedState(
            bytes=nbytes,
            entries=self._rows * groups // known,
            growth=self._growth.rate(now_ms, nbytes) if known == groups else 0.0,
            largest=tuple((_shown(prefix), size) for prefix, size in largest.items()),
            kind=self._kind,
            type=self._type,
            keys=tuple(self._keys.known),
        )


class Survey:
    """Of one backend; used by the slot's thread."""

    def __init__(self, queue: WriteQueue, groups: KeyGroupRange) -> None:
        self._queue = queue
        self._groups = groups
        self._states: dict[str, _Surveyed] = {}
        self._group = groups.first
        self._index = 0
        self._position: Any = None

    def add(self, name: str, state_id: int, kind: str, type_shown: str, keys: KeySignatures) -> None:
        """`keys`: of a map."""
        self._states[name] = _Surveyed(state_id, kind, type_shown, keys)

    def states(self, now_ms: int) -> dict[str, NamedState]:
        return {name: state.shown(now_ms, len(self._groups)) for name, state in self._states.items()}

    def bite(self) -> None:
        left = _BITE_ROWS if self._states else 0
        while left > 0:
            state = next(islice(self._states.values(), self._index, None))
            looked = self._queue.look_at(state_prefix(self._group, state.state_id), self._position, left)
            if looked is None:
                return
            rows, self._position = looked
            _count(state.group, rows)
            left -= len(rows)
            if self._position is None:
                left -= _ROWS_PER_SEEK
                state.group_is_done(self._group)
                self._next()

    def _next(self) -> None:
        self._index = (self._index + 1) % len(self._states)
        if self._index:
            return
        self._group += 1
        if self._group > self._groups.last:
            self._group = self._groups.first
            for state in self._states.values():
                state.pass_is_done()


def _count(tally: _Tally, rows: list[tuple[bytes, bytes]]) -> None:
    """A cell that goes on in the next bite is added up, unless larger ones came between."""
    sizes: Largest = {}
    for key, value in rows:
        cell = key[: prefix_length(key)]
        sizes[cell] = sizes.get(cell, 0) + len(key) + len(value)
    tally.rows += len(rows)
    tally.nbytes += sum(sizes.values())
    for cell in sizes.keys() & tally.largest.keys():
        sizes[cell] += tally.largest[cell]
    tally.largest = _largest_of({**tally.largest, **sizes})


def _shown(prefix: bytes) -> str:
    try:
        key = key_of(prefix)
    except KeyTypeError:  # a class that this process does not have: what is reported must not fail the task
        key = decode_plain(encoded_key_of(prefix))
    return repr(key)[:_KEY_CHARACTERS]


def _largest_of(sizes: Largest) -> Largest:
    return dict(nlargest(_LARGEST, sizes.items(), key=_BY_BYTES))
