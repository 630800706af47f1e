"""The state handles of a row backend: the current key's value, list or map, over the cells of the cache.

All handles of a backend share one `Cursor`; each keeps a table of cells per namespace.
"""

from __future__ import annotations

import typing
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar

from .backend import VOID_NAMESPACE, ListState, MapState, ValueState
from .cell_cache import MISSING, ListCell, ListTable, Table, ValueTable
from .errors import KeyTypeError, StateError
from .map_cells import MapCell, MapTable
from .serializers import ATOMIC_TYPES, Serializer
from .write_queue import Layer, WriteQueue

K = TypeVar("K")
V = TypeVar("V")
AnyTable = TypeVar("AnyTable", bound=Table[Any])


class Cursor:
    """Where all handles of one backend stand, and how much they have brought into the cache."""

    __slots__ = ("admitted", "key", "namespace")

    def __init__(self) -> None:
        self.key: Any = MISSING
        self.namespace = VOID_NAMESPACE
        self.admitted = 0
        """Cells that came into the young generation since it began."""

    def current_key(self) -> Any:
        if self.key is MISSING:
            raise StateError("keyed state was used without a current key: it belongs to functions on keyed streams")
        return self.key


class Handle(Generic[AnyTable]):
    """What the kinds of state have in common: an id, tables, and where errors say they are."""

    changes_in_place = True
    """Objects that are handed out can change, here or there."""

    def __init__(self, cursor: Cursor, queue: WriteQueue, state_id: int, max_parallelism: int, where: str) -> None:
        self._cursor = cursor
        self._tables: dict[int, AnyTable] = {}
        self._place = (queue, state_id, max_parallelism)
        self._where = where

    def _table(self) -> AnyTable:
        """Of the current namespace."""
        namespace = self._cursor.namespace
        table = self._tables.get(namespace)
        if table is None:
            queue, state_id, max_parallelism = self._place
            table = self._new_table(queue, state_id, namespace, max_parallelism, self._where)
            self._tables[namespace] = table
        return table

    @abstractmethod
    def _new_table(self, *place: Any) -> AnyTable: ...

    def _cell(self) -> tuple[AnyTable, Any, Any]:
        """The current key's cell, and where it is. For states whose cells are never None."""
        cursor = self._cursor
        table = self._tables.get(cursor.namespace)
        if table is not None:
            cell = table.changed.get(cursor.key) or table.young.get(cursor.key)
            if cell is not None:
                return table, cursor.key, cell
        key = cursor.current_key()
        table = self._table()
        cursor.admitted += 1
        return table, key, table.load(key)

    def rotate(self, layer: Layer, generation: int) -> None:
        for table in self._tables.values():
            table.rotate(layer, generation)
        for namespace in [n for n, table in self._tables.items() if table.is_empty()]:
            del self._tables[namespace]

    def flush(self, layer: Layer, generation: int, *, mutable_only: bool = False) -> None:
        for table in self._tables.values():
            if table.mutable or not mutable_only:
                table.flush(layer, generation)

    def changed_mutable(self) -> int:
        """Cells that the slot's thread would have to encode if the barrier came now."""
        tables = [table for table in self._tables.values() if table.mutable]
        return sum(len(table.changed) + len(table.old_changed) for table in tables)

    def changed(self) -> int:
        """Cells that are newer than everything below; one that is changed again after it became old counts twice."""
        return sum(len(table.changed) + len(table.old_changed) for table in self._tables.values())

    def _refuse_unlike(self, serializer: Serializer, values: Iterable[Any]) -> None:
        """A value of an undeclared type is refused where it comes in: later nobody knows who wrote it."""
        accepted = serializer.accepts
        if accepted is not None and not accepted.issuperset(set(map(type, values))):
            wrong = next(value for value in values if type(value) not in accepted)
            try:
                serializer.encode(wrong)
            except StateError as error:
                raise StateError(f"{self._where}: {error}") from None


class CachedValueState(Handle[ValueTable], ValueState[V]):
    """A value per key and namespace."""

    def __init__(self, *place: Any, serializer: Serializer, default: V | None) -> None:
        super().__init__(*place)
        self._serializer = serializer
        self._default = default
        self._immutable = serializer.immutable
        self.changes_in_place = not serializer.immutable
        accepted = serializer.accepts
        self._accepted = None if accepted is None else accepted | {type(None)}
        self._refuse_unlike(serializer, () if default is None else (default,))

    def _new_table(self, *place: Any) -> ValueTable:
        return ValueTable(*place, serializer=self._serializer, default=self._default)

    def value(self) -> V | None:
        cursor = self._cursor
        key = cursor.key if cursor.key is not MISSING else cursor.current_key()
        table = self._table()
        value = table.changed.get(key, MISSING)
        if value is MISSING:
            value = table.young.get(key, MISSING)
            if value is MISSING:
                cursor.admitted += 1
                value = table.load(key)
        if value is None:
            if self._default is None:
                return None
            value = table.new_default()
        if not self._immutable and type(value) not in ATOMIC_TYPES:
            table.mark(key, value)
        found: V = value
        return found

    def update(self, value: V | None) -> None:
        cursor = self._cursor
        key = cursor.key if cursor.key is not MISSING else cursor.current_key()
        if self._accepted is not None and type(value) not in self._accepted:
            self._refuse_unlike(self._serializer, (value,))
        table = self._table()
        if key not in table.changed and table.young.pop(key, MISSING) is MISSING:
            cursor.admitted += 1
        table.changed[key] = value

    def clear(self) -> None:
        self.update(None)

    def fold(self, keys: Sequence[Any], records: Sequence[Any], function: Callable[[V | None, Any], V]) -> list[V]:
        cursor = self._cursor
        cursor.key = MISSING
        table = self._table()
        cursor.admitted += table.change_all(keys)
        changed = table.changed
        results: list[Any] = []
        append = results.append
        for key, record in zip(keys, records, strict=True):
            changed[key] = value = function(changed[key], record)
            append(value)
        if self._accepted is not None and not self._accepted.issuperset(set(map(type, results))):
            self._refuse_unlike(self._serializer, [value for value in results if value is not None])
        return results


class CachedListState(Handle[ListTable], ListState[V]):
    """A list per key and namespace."""

    def __init__(self, *place: Any, element_serializer: Serializer, chunk_serializer: Serializer) -> None:
        super().__init__(*place)
        self._elements = element_serializer
        self._chunks = chunk_serializer
        self._accepted = element_serializer.accepts

    def _new_table(self, *place: Any) -> ListTable:
        return ListTable(*place, chunk_serializer=self._chunks)

    def get(self) -> list[V]:
        table, key, cell = self._cell()
        return table.read(key, cell)

    def add(self, value: V) -> None:
        if self._accepted is not None and type(value) not in self._accepted:
            self._refuse_unlike(self._elements, (value,))
        cell = self._changing_cell()
        cell.tail.append(value)
        if cell.values is not None:
            cell.values.append(value)

    def add_all(self, values: Iterable[V]) -> None:
        values = list(values)
        if not values:
            return
        self._refuse_unlike(self._elements, values)
        cell = self._changing_cell()
        cell.tail += values
        if cell.values is not None:
            cell.values += values

    def update(self, values: Iterable[V]) -> None:
        values = list(values)
        self._refuse_unlike(self._elements, values)
        cell = self._changing_cell()
        cell.values, cell.tail, cell.rewrite = values, [], True

    def clear(self) -> None:
        self.update(())

    def _changing_cell(self) -> ListCell:
        cursor = self._cursor
        table = self._tables.get(cursor.namespace)
        cell = None if table is None else table.changed.get(cursor.key)
        if cell is None:
            table, key, cell = self._cell()
            table.mark(key, cell)
        return cell


class CachedMapState(Handle[MapTable], MapState[K, V]):
    """A map per key and namespace."""

    def __init__(self, *place: Any, key_type: Any, serializer: Serializer) -> None:
        super().__init__(*place)
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
        if value is MISSING:
            return None
        self._read(table, current, cell, key, value)
        found: V = value
        return found

    def put(self, key: K, value: V) -> None:
        if self._accepted is not None and type(value) not in self._accepted:
            self._refuse_unlike(self._serializer, (value,))
        table, current, cell = self._place_of(key)
        table.put(current, cell, key, value)

    def put_all(self, entries: dict[K, V]) -> None:
        self._refuse_unlike(self._serializer, entries.values())
        for key, value in entries.items():
            self.put(key, value)

    def remove(self, key: K) -> None:
        table, current, cell = self._place_of(key)
        table.remove(current, cell, key)

    def contains(self, key: K) -> bool:
        table, current, cell = self._place_of(key)
        return table.lookup(current, cell, key) is not MISSING

    def items(self) -> Iterator[tuple[K, V]]:
        table, current, cell = self._cell()
        for key in list(table.complete(current, cell)):
            self._read(table, current, cell, key, cell.entries[key])
        return iter([(key, cell.entries[key]) for key in table.complete(current, cell)])

    def keys(self) -> Iterator[K]:
        table, current, cell = self._cell()
        return iter(list(table.complete(current, cell)))

    def values(self) -> Iterator[V]:
        return iter([value for _key, value in self.items()])

    def is_empty(self) -> bool:
        table, current, cell = self._cell()
        return not table.complete(current, cell)

    def clear(self) -> None:
        table, current, cell = self._cell()
        table.clear(current, cell)

    def _place_of(self, user_key: K) -> tuple[MapTable, Any, MapCell]:
        kind = type(user_key)
        if kind is not self._key_kind:
            if self._key_kind is not None:
                raise KeyTypeError(
                    f"{self._where}: its keys are of type {self._key_kind.__qualname__}, {user_key!r} is not"
                )
            self._key_kind = kind
        return self._cell()

    def _read(self, table: MapTable, current: Any, cell: MapCell, user_key: K, value: Any) -> None:
        if not self._immutable and type(value) not in ATOMIC_TYPES:
            table.touched(current, cell, user_key)
