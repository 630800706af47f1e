"""The handle of map state: the current key's map, over the cells of the cache."""

from __future__ import annotations

import typing
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from ..backend import MapState
from ..errors import KeyTypeError, StateError
from ..key_encoding import encode_key
from ..key_signatures import KeySignatures
from ..serialization.serializers import ATOMIC_TYPES
from .cell_cache import MISSING, Codec
from .handles import Handle
from .map_cells import UNKNOWN, MapCell, MapTable

K = TypeVar("K")
V = TypeVar("V")

_FIRST_PART, _LARGEST_PART = 16, 2_048
"""Rows that iterating reads at once: few at first, because it may stop early."""
_SMALL = 1_024
"""A map of so many entries is kept whole once somebody has iterated over all of it."""


class CachedMapState(Handle[MapTable], MapState[K, V]):
    """A map per key and namespace."""

    _peeks = False
    """Only the value of an entry says whether it is there."""

    def __init__(self, *place: Any, key_type: Any, keys: KeySignatures, serializer: Codec) -> None:
        super().__init__(*place)
        self._signatures = keys
        self._serializer = serializer
        self._immutable = serializer.immutable
        self.changes_in_place = not serializer.immutable
        self._accepted = serializer.accepts
        plain = typing.get_origin(key_type) or key_type
        self._key_kind: type | None = plain if isinstance(plain, type) else None
        """Map keys have one type, because 1, 1.0 and True would meet in one entry."""

    def _new_table(self, *place: Any) -> MapTable:
        return MapTable(*place, serializer=self._serializer)

    def get(self, key: K) -> V | None:
        table, current, cell = self._place_of(key)
        value = table.lookup(current, cell, key)
        if value is not MISSING:
            value = self._read(table, current, cell, key, value)
        return None if value is MISSING else value

    def put(self, key: K, value: V) -> None:
        if self._accepted is not None and type(value) not in self._accepted:
            self.refuse_unlike(self._serializer, (value,))
        table, current, cell = self._place_of(key)
        table.put(current, cell, key, value)

    def put_all(self, entries: dict[K, V]) -> None:
        self.refuse_unlike(self._serializer, entries.values())
        for key, value in entries.items():
            self.put(key, value)

    def remove(self, key: K) -> None:
        table, current, cell = self._place_of(key)
        table.remove(current, cell, key)

    def contains(self, key: K) -> bool:
        table, current, cell = self._place_of(key)
        return table.lookup(current, cell, key) is not MISSING

    def items(self, start: K | None = None, end: K | None = None) -> Iterator[tuple[K, V]]:
        return self._iterate(start, end, values=True)

    def keys(self, start: K | None = None, end: K | None = None) -> Iterator[K]:
        return (key for key, _value in self._iterate(start, end, values=False))

    def values(self, start: K | None = None, end: K | None = None) -> Iterator[V]:
        return (value for _key, value in self._iterate(start, end, values=True))

    def is_empty(self) -> bool:
        return next(self._iterate(None, None, values=False, rows=1), None) is None

    def clear(self) -> None:
        table, current, cell = self._cell()
        table.clear(current, cell)

    def know(self, keys: Sequence[Any]) -> None:
        """What these keys have is asked for at once, as far as their maps are small: iterating does not ask then.
        Leaves no current key."""
        self._cursor.admitted += self._table_for(keys).know(keys)

    def look_up_all(self, keys: Sequence[Any], user_keys: Sequence[K]) -> None:
        """The same for an entry of each key: `get` does not ask then."""
        for user_key in user_keys:
            if type(user_key) is not self._key_kind:
                self._check_kind(user_key)
        self._cursor.admitted += self._table_for(keys).look_up_all(keys, user_keys)

    def between_batches(self) -> None:
        for table in self._tables.values():
            self._cursor.admitted += table.grown
            table.grown = 0
            table.shed(0)

    def _place_of(self, user_key: K) -> tuple[MapTable, Any, MapCell]:
        kind = type(user_key)
        if kind is not self._key_kind or kind not in self._signatures.seen:
            self._check_kind(user_key)
        return self._cell()

    def _check_kind(self, user_key: K) -> None:
        kind = type(user_key)
        if self._key_kind is not None and kind is not self._key_kind:
            raise KeyTypeError(
                f"{self._where}: its keys are of type {self._key_kind.__qualname__}, {user_key!r} is not"
            )
        self._signatures.admit(user_key)
        self._key_kind = kind

    def _peek(self, value: Any) -> Any:
        """Whether an entry counts as there; MISSING for no."""
        return value

    def _read(self, table: MapTable, current: Any, cell: MapCell, user_key: K, value: Any) -> Any:
        """What a reader is given of an entry; MISSING for nothing."""
        if not self._immutable and type(value) not in ATOMIC_TYPES:
            table.touched(current, cell, user_key)
        return value

    # ---- iterating

    def _iterate(
        self, start: K | None, end: K | None, *, values: bool, rows: int = _FIRST_PART
    ) -> Iterator[tuple[K, V]]:
        """Of the key and namespace of now. rows: to be read first."""
        for bound in (start, end):
            if bound is not None:
                self._check_kind(bound)
        cursor = self._cursor
        first, last = b"" if start is None else encode_key(start), None if end is None else encode_key(end)
        _table, key, cell = self._cell()
        if cell.complete and not self._peeks and (self._immutable or not values):
            entries, known = cell.entries, cell.live(first, last)
            return ((k, value) for k in known if (value := entries.get(k, MISSING)) is not MISSING)
        return self._entries(key, cursor.namespace, first, last, values, rows)

    def _entries(
        self, key: Any, namespace: int, start: bytes, end: bytes | None, values: bool, most: int
    ) -> Iterator[tuple[K, V]]:
        whole, rows = start == b"" and end is None, 0
        position: bytes | None = start
        while position is not None:
            table, cell = self._standing(key, namespace)
            part, position = table.part(key, cell, position, end, most)
            rows += len(part)
            most = min(4 * most, _LARGEST_PART)
            for user_key, row in part:
                value = self._given(table, key, cell, user_key, row, values=values)
                if value is not MISSING:
                    yield user_key, value
        if whole and rows <= _SMALL:
            table, cell = self._standing(key, namespace)
            table.complete(key, cell)

    def _given(self, table: MapTable, key: Any, cell: MapCell, user_key: K, row: bytes | None, *, values: bool) -> Any:
        """The value of an entry as it is now, if values are wanted; MISSING where the entry is gone."""
        value = cell.entries.get(user_key, UNKNOWN)
        if value is UNKNOWN:
            if row is None or cell.complete:  # it was known when the part was read, or is now
                return MISSING
            if not values and not self._peeks:
                return None
            value = table.decode(row)
            if not self._immutable:
                table.learn(key, cell, user_key, value)
        if value is MISSING:
            return value
        return self._read(table, key, cell, user_key, value) if values else self._peek(value)

    def _standing(self, key: Any, namespace: int) -> tuple[MapTable, MapCell]:
        """The cell of an iterator: that of the current key, whatever the current namespace."""
        cursor = self._cursor
        if cursor.key != key:
            raise StateError(f"{self._where}: an iterator over the map of {key!r} was used when that was over")
        before, cursor.namespace = cursor.namespace, namespace
        try:
            table, _key, cell = self._cell()
        finally:
            cursor.namespace = before
        return table, cell
