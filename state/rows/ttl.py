"""State that expires: the stamp in front of a row, and which rows are dead.

With a TTL every value, element of a list and entry of a map carries the time of its last access (its *stamp*); it has
expired once `stamp + ttl <= now`. A stamp and not an expiry is stored, as in Flink, so that another TTL at a restore
applies to the rows there are.

    row of a value or an entry   C1 54 | stamp 6 B | the value as without TTL
    row of a list's chunk        C1 54 | newest stamp 6 B | length 4 B | runs | the elements as without TTL

No value begins with C1 54 (MessagePack never uses C1, a pickle begins with 80, and other numbers follow the C1 of
serializers.py), so each row says itself whether it is stamped. A state whose TTL was turned on or off at a restore
holds rows of both sorts, and none is rewritten for it: a row without a stamp counts from the moment the TTL was turned
on, which is in the snapshot's description of the state (`ttl_since_ms`, backend_meta.py), and so does one whose stamp
is from before. Where the TTL was turned off, stamps are skipped (docs/decisions/0026).

Who removes what has expired:
  access    the handle that meets it (expiring.py), from the cache and so from the store
  sweep     sweeper.py, in bites between batches and while nothing arrives
  snapshot  a heap's snapshot leaves dead rows out (`DeadRows`); files of RocksDB are uploaded as they are
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby, islice
from typing import TYPE_CHECKING, Any

import msgspec

from ..serialization.serializers import Serializer
from ..ttl_config import StateTtlConfig
from .row_keys import state_of

if TYPE_CHECKING:
    from .list_cells import Chunks

Stamped = tuple[int, Any]
"""The time of the last access in ms, and the value."""

_MARK = b"\xc1\x54"
_MARK_BITS = int.from_bytes(_MARK, "big") << 48
_LATEST = (1 << 48) - 1
_HEADER = 8


# ---- rows


def header(stamp: int) -> bytes:
    """Headers sort like their stamps."""
    return (_MARK_BITS | min(max(stamp, 0), _LATEST)).to_bytes(_HEADER, "big")


def is_stamped(row: bytes) -> bool:
    return row[:2] == _MARK


def stamp_of(row: bytes) -> int:
    return int.from_bytes(row[2:_HEADER], "big")


def without_stamp(row: bytes) -> bytes:
    return row[_HEADER:] if is_stamped(row) else row


def chunk_without_stamps(row: bytes) -> bytes:
    return row[_end_of_runs(row) :] if is_stamped(row) else row


def stamps_of_chunk(row: bytes) -> list[int]:
    """One for every element of a chunk that is stamped."""
    newest, runs = stamp_of(row), _decode_runs(row[_HEADER + _LENGTH : _end_of_runs(row)])
    return [newest - age for count, age in zip(runs[::2], runs[1::2], strict=True) for _ in range(count)]


class StampedSerializer:
    """Values and their stamps, for cells that are `(stamp, value)`."""

    accepts: frozenset[type] | None = None

    def __init__(self, plain: Serializer, since_ms: int) -> None:
        """since_ms: no stamp is taken to be earlier."""
        self._plain = plain
        self._since = since_ms
        self.immutable = plain.immutable

    def encode(self, value: Stamped) -> bytes:
        return header(value[0]) + self._plain.encode(value[1])

    def encode_all(self, values: Iterable[Stamped]) -> list[bytes]:
        values = list(values)
        if not values:
            return []
        stamps, bare = zip(*values, strict=True)
        rows = self._plain.encode_all(bare)
        headers = {stamp: header(stamp) for stamp in set(stamps)}  # what was written together has one stamp
        return [headers[stamp] + row for stamp, row in zip(stamps, rows, strict=True)]

    def decode(self, data: bytes) -> Stamped:
        if is_stamped(data):
            return max(stamp_of(data), self._since), self._plain.decode(data[_HEADER:])
        return self._since, self._plain.decode(data)

    def decode_all(self, rows: list[bytes | None]) -> list[Stamped | None]:
        return [None if row is None else self.decode(row) for row in rows]


class UnstampedSerializer:
    """Values of a state that had a TTL once: some rows still have stamps, which nobody wants any more."""

    def __init__(self, plain: Serializer) -> None:
        self._plain = plain
        self.immutable = plain.immutable
        self.accepts = plain.accepts
        self.encode = plain.encode
        self.encode_all = plain.encode_all

    def decode(self, data: bytes) -> Any:
        return self._plain.decode(data[_HEADER:] if is_stamped(data) else data)

    def decode_all(self, rows: list[bytes | None]) -> list[Any]:
        return self._plain.decode_all([row[_HEADER:] if row is not None and is_stamped(row) else row for row in rows])


class StampedChunks:
    """Elements of lists and their stamps, `(stamp, value)`. Elements that were added together have one stamp, so a
    chunk holds runs: how many elements, and how many ms older they are than the newest of the chunk."""

    def __init__(self, plain: Chunks, since_ms: int) -> None:
        self._plain = plain
        self._since = since_ms
        self.immutable = plain.immutable

    def encode_added(self, chunks: Sequence[list[Stamped]]) -> list[bytes]:
        rows = self._plain.encode_added([[value for _stamp, value in chunk] for chunk in chunks])
        return [_runs(chunk) + row for chunk, row in zip(chunks, rows, strict=True)]

    def encode(self, elements: list[Stamped]) -> bytes:
        return _runs(elements) + self._plain.encode([value for _stamp, value in elements])

    def decode(self, data: bytes) -> list[Stamped]:
        if not is_stamped(data):
            return [(self._since, value) for value in self._plain.decode(data)]
        newest, end = stamp_of(data), _end_of_runs(data)
        values = iter(self._plain.decode(data[end:]))
        runs = _decode_runs(data[_HEADER + _LENGTH : end])
        return [
            (max(newest - age, self._since), value)
            for count, age in zip(runs[::2], runs[1::2], strict=True)
            for value in islice(values, count)
        ]


class UnstampedChunks:
    """Elements of a list that had a TTL once."""

    def __init__(self, plain: Chunks) -> None:
        self._plain = plain
        self.immutable = plain.immutable
        self.encode_added = plain.encode_added
        self.encode = plain.encode

    def decode(self, data: bytes) -> list[Any]:
        return self._plain.decode(data[_end_of_runs(data) :] if is_stamped(data) else data)


_LENGTH = 4
_encode_runs = msgspec.msgpack.Encoder().encode
_decode_runs = msgspec.msgpack.Decoder(list[int]).decode


def _runs(chunk: list[Stamped]) -> bytes:
    newest = max(stamp for stamp, _value in chunk)
    ages = groupby(newest - stamp for stamp, _value in chunk)
    runs = _encode_runs([number for age, run in ages for number in (sum(1 for _ in run), age)])
    return header(newest) + len(runs).to_bytes(_LENGTH, "big") + runs


def _end_of_runs(data: bytes) -> int:
    return _HEADER + _LENGTH + int.from_bytes(data[_HEADER : _HEADER + _LENGTH], "big")


# ---- what has expired


class Expiry:
    """The rules of one state, at the clock it was given."""

    def __init__(self, config: StateTtlConfig, since_ms: int, now_ms: Callable[[], int]) -> None:
        self.now_ms = now_ms
        self.ttl_ms = config.ttl_ms
        self.since_ms = since_ms
        self.renews = config.update_type == "on_read_and_write"
        self.refresh_ms = config.refresh_ms
        self.returns_expired = config.visibility == "return_expired_if_not_cleaned_up"
        self.in_snapshots = config.cleanup_in_snapshots
        self.cleanup_rows = config.cleanup_rows

    def last_dead(self, now_ms: int) -> bytes | None:
        """The highest header of a row that has expired; None if none can have."""
        stamp = now_ms - self.ttl_ms
        return header(stamp) if stamp >= self.since_ms else None


def is_dead(row: bytes, last_dead: bytes) -> bool:
    """A row without a stamp is as old as the state's TTL, and that is dead when `last_dead` is not None."""
    return row[:_HEADER] <= last_dead or row[:2] != _MARK


class DeadRows:
    """Which rows of a store have expired, at one moment."""

    def __init__(self, last_dead: dict[int, bytes]) -> None:
        """State id -> the highest header of a dead row."""
        self._last_dead = last_dead

    def __bool__(self) -> bool:
        return bool(self._last_dead)

    def __call__(self, row_key: bytes, row: bytes) -> bool:
        last_dead = self._last_dead.get(state_of(row_key))
        return last_dead is not None and is_dead(row, last_dead)

    def last_stamp(self, state_id: int) -> int | None:
        """Of a dead row of a state; None if it has none."""
        last_dead = self._last_dead.get(state_id)
        return None if last_dead is None else stamp_of(last_dead)
