"""The rows of timers, in the order of time within each key group, and how they are read forward.

    key group 2 B | state id 2 B | 8, in 4 B | timestamp 8 B | namespace 8 B | key

A timer stands where a row's key has its place (row_keys.py), and the key behind it as the suffix. So what is due next
is the beginning of each key group's timers, and what has fired, with all its tombstones, lies before it.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Sequence
from heapq import heappop, heappush
from typing import Any

from ..key_encoding import decode_key
from ..key_groups import KeyGroupRange
from .row_keys import HEAD_BYTES, PLACE_BYTES, cell_prefixes, decode_word, encode_word, state_prefix
from .write_queue import WriteQueue

Timer = tuple[int, Any, int]
"""Timestamp in ms, key, namespace."""

_TIME = struct.Struct(">IQQ")
_SIGN = 1 << 63
_WORD_BYTES = 8
_KEY = PLACE_BYTES + _TIME.size
_TIMESTAMP = slice(HEAD_BYTES, HEAD_BYTES + _WORD_BYTES)
_LEAST_PART = 2


def timer_rows(timers: Sequence[Timer], state_id: int, max_parallelism: int) -> list[bytes]:
    """Keys of their rows."""
    if not timers:
        return []
    prefixes = cell_prefixes([key for _timestamp, key, _namespace in timers], state_id, b"", max_parallelism)
    pack = _TIME.pack
    return [
        prefix[:PLACE_BYTES] + pack(_WORD_BYTES, timestamp + _SIGN, namespace + _SIGN) + prefix[HEAD_BYTES:]
        for prefix, (timestamp, _key, namespace) in zip(prefixes, timers, strict=True)
    ]


def timer_of(row_key: bytes) -> Timer:
    _length, timestamp, namespace = _TIME.unpack_from(row_key, PLACE_BYTES)
    return timestamp - _SIGN, decode_key(row_key[_KEY:]), namespace - _SIGN


class TimerReader:
    """Goes through the timers that a store has, each key group from where it has come to."""

    def __init__(self, queue: WriteQueue, state_id: int, groups: KeyGroupRange) -> None:
        """The store is an ordered one. Begins before all time."""
        self._queue = queue
        self._places = [state_prefix(group, state_id) for group in range(groups.first, groups.last + 1)]
        self._positions = list(self._places)

    def go_to(self, timestamp: int) -> None:
        start = _WORD_BYTES.to_bytes(HEAD_BYTES - PLACE_BYTES, "big") + encode_word(timestamp)
        self._positions = [place + start for place in self._places]

    def read(self, about: int) -> tuple[list[Timer], int | None]:
        """The next timers, about so many, by key groups; and the time up to which these are all, but for later rows of
        that very time. None: there are no others.

        Every group is read a part; those whose part ended first are read on, until what was read of them is enough."""
        part = max(_LEAST_PART, about // len(self._places))
        rows: list[list[bytes]] = [[] for _ in self._places]
        unfinished: list[tuple[bytes, int]] = []
        for number in range(len(rows)):
            self._read_part(number, rows[number], part, unfinished)
        complete = 0
        while unfinished and complete < about // 2:
            _timestamp, number = heappop(unfinished)
            complete += part
            self._read_part(number, rows[number], part, unfinished)
        found: list[bytes] = []
        for number, own in enumerate(rows):
            end = bisect_right(own, unfinished[0][0], key=_timestamp_of) if unfinished else len(own)
            if end:
                self._positions[number] = own[end - 1] + b"\0"
                found += own[:end]
        return list(map(timer_of, found)), decode_word(unfinished[0][0]) if unfinished else None

    def _read_part(self, number: int, rows: list[bytes], part: int, unfinished: list[tuple[bytes, int]]) -> None:
        start = rows[-1] + b"\0" if rows else self._positions[number]
        more = self._queue.stored_from(self._places[number], start, part)
        rows += more
        if len(more) == part:
            heappush(unfinished, (_timestamp_of(rows[-1]), number))


def _timestamp_of(row_key: bytes) -> bytes:
    return row_key[_TIMESTAMP]
