"""The state handles of a row backend with a TTL: the handles without one, over cells that carry stamps.

What Flink's do, to the letter where it can be seen: an access that meets something expired removes it; a reduce or an
aggregate begins anew after it; updating a list stamps all of its elements anew; with on_read_and_write asking whether
an entry is there is reading too. The rules of the stamps are in ttl.py.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar

from ..backend import ValueState
from ..serialization.serializers import ATOMIC_TYPES, Serializer
from .cell_cache import MISSING
from .handles import CachedListState, CachedValueState
from .list_cells import ListCell, ListTable
from .map_cells import MapCell, MapTable
from .map_state import CachedMapState
from .ttl import Expiry, Stamped

K = TypeVar("K")
V = TypeVar("V")


class ExpiringValueState(ValueState[V], Generic[V]):
    """A value per key that expires."""

    def __init__(
        self, cells: CachedValueState[Stamped], expiry: Expiry, serializer: Serializer, default: V | None
    ) -> None:
        """cells: of the stamped values. serializer: of the values."""
        self._cells = cells
        self._expiry = expiry
        self._serializer = serializer
        self._accepted = serializer.accepts
        self._default = default
        cells.refuse_unlike(serializer, () if default is None else (default,))

    def value(self) -> V | None:
        expiry = self._expiry
        now = expiry.now_ms()
        cell = self._cells.value()
        if cell is None:
            return self._new_default(now)
        stamp, value = cell
        found: V = value
        if stamp + expiry.ttl_ms <= now:
            self._cells.clear()
            return found if expiry.returns_expired else self._new_default(now)
        if expiry.renews and now - stamp > expiry.refresh_ms:
            self._cells.update((now, value))
        return found

    def _new_default(self, now: int) -> V | None:
        if self._default is None or self._serializer.immutable:
            return self._default
        default = copy.deepcopy(self._default)
        self._cells.update((now, default))  # so that changes in place are seen; unchanged it is no state
        return default

    def update(self, value: V | None) -> None:
        if value is None:
            self._cells.clear()
        else:
            if self._accepted is not None and type(value) not in self._accepted:
                self._cells.refuse_unlike(self._serializer, (value,))
            self._cells.update((self._expiry.now_ms(), value))

    def clear(self) -> None:
        self._cells.clear()

    def fold(self, keys: Sequence[Any], records: Sequence[Any], function: Callable[[V | None, Any], V]) -> list[V]:
        expiry = self._expiry
        now = expiry.now_ms()
        last_dead = now - expiry.ttl_ms
        results: list[V] = []

        def step(cell: Stamped | None, record: Any) -> Any:
            old = None if cell is None or (cell[0] <= last_dead and not expiry.returns_expired) else cell[1]
            value = function(old, record)
            results.append(value)
            return None if value is None else (now, value)

        self._cells.fold(keys, records, step)
        self._cells.refuse_unlike(self._serializer, [value for value in results if value is not None])
        return results


class ExpiringListState(CachedListState[V]):
    """A list per key whose elements expire one by one.

    What is handed out is a list of the bare elements. It counts as updated, at the moment it was read, if at the next
    access or when its cell is written it is not as it was handed out.
    """

    def __init__(self, *place: Any, expiry: Expiry, **how: Any) -> None:
        super().__init__(*place, **how)
        self._expiry = expiry

    def _new_table(self, *place: Any) -> ListTable:
        return _ExpiringListTable(*place, chunks=self._chunks)

    def get(self) -> list[V]:
        expiry = self._expiry
        now = expiry.now_ms()
        table, key, cell = self._whole()
        _take_changes(cell)
        stamped = table.read(key, cell)
        last_dead = now - expiry.ttl_ms
        live = [element for element in stamped if element[0] > last_dead]
        given = [value for _stamp, value in (stamped if expiry.returns_expired else live)]
        if expiry.renews:
            live = [(now, value) if now - stamp > expiry.refresh_ms else (stamp, value) for stamp, value in live]
        cell.values = live
        if cell.given is not None:  # whoever has that list goes on seeing changes
            cell.given[0][:] = given
            given = cell.given[0]
        cell.given = (given, list(given), now)
        return given

    def add(self, value: V) -> None:
        if self._accepted is not None and type(value) not in self._accepted:
            self.refuse_unlike(self._elements, (value,))
        self._append([(self._expiry.now_ms(), value)])

    def add_all(self, values: Iterable[V]) -> None:
        values = list(values)
        if values:
            self.refuse_unlike(self._elements, values)
            now = self._expiry.now_ms()
            self._append([(now, value) for value in values])

    def _append(self, values: list[Stamped]) -> None:
        key = self._cursor.current_key()
        table = self._table()
        cell = table.find(key) if table.has_cells else None
        if cell is not None:
            _take_changes(cell)  # they are as old as the list that was handed out, what is added is not
        table.append(key, values)
        cell = table.find(key) if table.has_cells else None
        if cell is not None and cell.given is not None:
            bare = [value for _stamp, value in values]
            cell.given[0].extend(bare)
            cell.given[1].extend(bare)

    def update(self, values: Iterable[V]) -> None:
        values = list(values)
        self.refuse_unlike(self._elements, values)
        now = self._expiry.now_ms()
        table, key, cell = self._whole()
        table.replace(key, cell, [(now, value) for value in values])


def _take_changes(cell: ListCell) -> None:
    """Of the list that was handed out, if it is not as it was."""
    if cell.given is not None:
        given, before, at = cell.given
        if len(given) != len(before) or any(new is not old for new, old in zip(given, before, strict=True)):
            cell.values = [(at, value) for value in given]
            given_now = list(given)
            cell.given = (given, given_now, at)


class _ExpiringListTable(ListTable):
    def rows_of(self, key: Any, entry: bytes | None, most: int) -> list[tuple[bytes, bytes]]:
        cell = self.known(key)
        if cell is not MISSING:
            _take_changes(cell)
        return super().rows_of(key, entry, most)

    def _write(self, cells: dict[Any, ListCell], *where: Any) -> None:
        for cell in cells.values():
            _take_changes(cell)
            cell.given = None
        super()._write(cells, *where)


class ExpiringMapState(CachedMapState[K, V]):
    """A map per key whose entries expire one by one."""

    def __init__(self, *place: Any, expiry: Expiry, plain: Serializer, **how: Any) -> None:
        """plain: of the values, without stamps."""
        super().__init__(*place, **how)
        self._expiry = expiry
        self._plain = plain

    def put(self, key: K, value: V) -> None:
        if self._plain.accepts is not None and type(value) not in self._plain.accepts:
            self.refuse_unlike(self._plain, (value,))
        table, current, cell = self._place_of(key)
        table.put(current, cell, key, (self._expiry.now_ms(), value))

    def put_all(self, entries: dict[K, V]) -> None:
        self.refuse_unlike(self._plain, entries.values())
        for key, value in entries.items():
            self.put(key, value)

    def contains(self, key: K) -> bool:
        table, current, cell = self._place_of(key)
        value = table.lookup(current, cell, key)
        return value is not MISSING and self._read(table, current, cell, key, value) is not MISSING

    def keys(self, start: K | None = None, end: K | None = None) -> Iterator[K]:
        return (key for key, _value in self._iterate(start, end, values=True))

    _peeks = True

    def _peek(self, value: Stamped) -> Any:
        expiry = self._expiry
        return MISSING if value[0] + expiry.ttl_ms <= expiry.now_ms() and not expiry.returns_expired else value

    def _read(self, table: MapTable, current: Any, cell: MapCell, user_key: K, value: Stamped) -> Any:
        expiry = self._expiry
        now = expiry.now_ms()
        stamp, found = value
        if stamp + expiry.ttl_ms <= now:
            table.remove(current, cell, user_key)
            return found if expiry.returns_expired else MISSING
        if expiry.renews and now - stamp > expiry.refresh_ms:
            table.put(current, cell, user_key, (now, found))
        elif not self._immutable and type(found) not in ATOMIC_TYPES:
            table.touched(current, cell, user_key)
        return found
