"""Removes expired rows that nobody accesses from the store, a bite at a time, on the slot's thread.

A *pass* goes over all rows of a state, key group by key group; the next one begins an eighth of the TTL after it
began, at the earliest. How many rows a bite looks at:

  two for every row that was written meanwhile   so a pass is done before the rows have doubled, however fast they come
  `cleanup_rows`, but only every `PACE_MS`       so it also gets on where little is written, for a few percent of a core

and at most four times `cleanup_rows`; as many, where nothing was written since the last bite and most of what that met
was dead: so what expires all at once is gone in half a minute for every five million rows, though nothing comes any
more, and where something comes it does not wait for that.

Rows that never reach the store, because they expired and were met or removed in the cache before, cost nothing here.
While a snapshot is pending nothing is removed (write_queue.py). Where nothing arrives, the operator asks `next_at_ms`
when to go on.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from ..key_groups import KeyGroupRange
from .row_keys import state_prefix
from .ttl import Expiry, is_dead
from .write_queue import WriteQueue

PACE_MS = 10
_ROWS_PER_WRITE = 2
_MOST_BITES = 4
_ROWS_PER_SEEK = 50
"""Going to the next key group costs as much as looking at so many rows."""
_PASSES_PER_TTL = 8


class _Pass:
    """How far a state has been looked through."""

    def __init__(self, state_id: int, expiry: Expiry, groups: KeyGroupRange) -> None:
        self.state_id = state_id
        self.expiry = expiry
        self.group = groups.first
        self.position: Any = None
        self.owed = 0
        """Rows to look at."""
        self.met_dead = False
        """Most of what the last bite looked at was removed."""
        self.began_ms: int | None = None
        self.due_ms = 0
        """When the next pass begins, or this one began."""


class Sweeper:
    """Of one backend."""

    def __init__(self, queue: WriteQueue, groups: KeyGroupRange, now_ms: Callable[[], int]) -> None:
        self._queue = queue
        self._groups = groups
        self._now_ms = now_ms
        self._passes: list[_Pass] = []
        self._written = 0
        self._last_ms = 0
        """When all passes went on by `cleanup_rows`."""

    def add(self, state_id: int, expiry: Expiry) -> None:
        if expiry.cleanup_rows:
            self._passes.append(_Pass(state_id, expiry, self._groups))

    def next_at_ms(self) -> int | None:
        """When to call `bite` though nothing arrives."""
        if not self._passes:
            return None
        return max(self._last_ms + 2 * PACE_MS, min(each.due_ms for each in self._passes))

    def bite(self) -> None:
        if not self._passes:
            return
        now = self._now_ms()
        written, self._written = self._queue.written - self._written, self._queue.written
        is_time = not 0 <= now - self._last_ms < PACE_MS
        if is_time:
            self._last_ms = now
        for each in self._passes:
            if now >= each.due_ms:
                bites = _MOST_BITES if each.met_dead and not written else 1
                self._go_on(each, now, _ROWS_PER_WRITE * written, bites * each.expiry.cleanup_rows if is_time else 0)

    def _go_on(self, each: _Pass, now: int, owed: int, at_least: int) -> None:
        if each.began_ms is None:
            each.began_ms = now
        each.owed = min(max(each.owed + owed, at_least), _MOST_BITES * each.expiry.cleanup_rows)
        while each.owed > 0:
            last_dead = each.expiry.last_dead(now)
            if last_dead is None:
                return self._rest(each, now)
            place = state_prefix(each.group, each.state_id)
            looked = self._queue.remove_dead(place, each.position, each.owed, partial(is_dead, last_dead=last_dead))
            if looked is None:
                return None
            rows, dead, each.position = looked
            if rows:
                each.met_dead = 2 * dead > rows
            each.owed -= rows
            if each.position is None:
                each.owed -= _ROWS_PER_SEEK
                each.group += 1
                if each.group > self._groups.last:
                    return self._rest(each, now)
        return None

    def _rest(self, each: _Pass, now: int) -> None:
        began = now if each.began_ms is None else each.began_ms
        each.due_ms = began + max(each.expiry.ttl_ms // _PASSES_PER_TTL, PACE_MS)
        each.group, each.position, each.owed, each.began_ms = self._groups.first, None, 0, None
