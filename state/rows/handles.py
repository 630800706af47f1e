"""The state handles of a row backend: the current key's value, list or map, over the cells of the cache.

All handles of a backend share one `Cursor`; each keeps a table of cells per namespace.
"""

from __future__ import annotations

import copy
import operator
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import compress, repeat
from typing import Any, Generic, TypeVar

from ..backend import VOID_NAMESPACE, ListState, ValueState
from ..errors import StateError
from ..key_signatures import KeySignatures
from ..serialization.serializers import ATOMIC_TYPES
from .cell_cache import MISSING, Codec, Table, ValueTable, Written
from .layers import Layer
from .list_cells import Chunks, ListCell, ListTable
from .write_queue import WriteQueue

V = TypeVar("V")
AnyTable = TypeVar("AnyTable", bound=Table[Any])


class Cursor:
    """Where all handles of one backend stand, and how much they have brought into the cache."""

    __slots__ = ("admitted", "key", "keys", "namespace")

    def __init__(self, keys: KeySignatures) -> None:
        self.keys = keys
        """What keys may be; the backend admits those it is set to."""
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
        self.state_id = state_id
        self._where = where

    def _table(self) -> AnyTable:
        """Of the current namespace."""
        namespace = self._cursor.namespace
        table = self._tables.get(namespace)
        if table is None:
            table = self._tables[namespace] = self._table_of(namespace)
        return table

    def _table_for(self, keys: Sequence[Any]) -> AnyTable:
        """The one of the current namespace, for many keys at once: there is no current one any more."""
        cursor = self._cursor
        cursor.key = MISSING
        if not cursor.keys.seen.issuperset(map(type, keys)):
            cursor.keys.admit_all(keys)
        return self._table()

    def _table_of(self, namespace: int) -> AnyTable:
        queue, state_id, max_parallelism = self._place
        return self._new_table(queue, state_id, namespace, max_parallelism, self._where)

    def rows_of(self, key: Any, namespace: int, entry: bytes | None, most: int) -> list[tuple[bytes, bytes]]:
        """What a key has, for whoever asks from outside (cell_reads.py): as in Table.rows_of."""
        table = self._tables.get(namespace) or self._table_of(namespace)
        return table.rows_of(key, entry, most)

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
            table.flush(layer, generation, mutable_only=mutable_only)

    def between_batches(self) -> None:
        """Count what came into the cache, where that is not done one by one; let go of what is too big for it."""

    def changed_mutable(self) -> int:
        """Cells that the slot's thread would have to encode if the barrier came now."""
        return sum(table.to_encode for table in self._tables.values())

    def changed(self) -> int:
        """Cells that are newer than everything below."""
        return sum(table.changes for table in self._tables.values())

    @property
    def tables(self) -> int:
        return len(self._tables)

    def weight(self) -> int:
        """About how many bytes the young generation takes."""
        return sum(table.weight() for table in self._tables.values())

    def refuse_unlike(self, serializer: Codec, values: Iterable[Any]) -> None:
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

    def __init__(
        self,
        *place: Any,
        serializer: Codec,
        written: Written,
        default: V | None = None,
        is_default: Callable[[Any], bool] | None = None,
    ) -> None:
        """is_default: of values that are not what the default is to be compared with."""
        super().__init__(*place)
        self._serializer = serializer
        self._written = written
        self._default = default
        self._immutable = serializer.immutable
        self._is_default = is_default
        if default is not None and not serializer.immutable:
            self._is_default = partial(operator.eq, default)
        self.changes_in_place = not serializer.immutable
        accepted = serializer.accepts
        self._accepted = None if accepted is None else accepted | {type(None)}
        self.refuse_unlike(serializer, () if default is None else (default,))

    def _new_table(self, *place: Any) -> ValueTable:
        return ValueTable(*place, serializer=self._serializer, written=self._written, is_default=self._is_default)

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
            value = self._default if self._immutable else copy.deepcopy(self._default)
        if not self._immutable and type(value) not in ATOMIC_TYPES:
            table.mark(key, value)
        found: V = value
        return found

    def update(self, value: V | None) -> None:
        cursor = self._cursor
        key = cursor.key if cursor.key is not MISSING else cursor.current_key()
        if self._accepted is not None and type(value) not in self._accepted:
            self.refuse_unlike(self._serializer, (value,))
        table = self._table()
        if value is None:
            self._clear(table, (key,))
            return
        if key not in table.changed and table.young.pop(key, MISSING) is MISSING:
            cursor.admitted += 1
            table.old_changed.pop(key, None)
        table.changed[key] = value

    def clear(self) -> None:
        self.update(None)

    def clear_all(self, keys: Sequence[Any]) -> None:
        """Of all these keys. Leaves no current key."""
        self._clear(self._table_for(keys), keys)

    def _clear(self, table: ValueTable, keys: Sequence[Any]) -> None:
        self._cursor.admitted += table.clear_all(keys)
        if table.is_empty():  # every batch looks at all tables
            del self._tables[self._cursor.namespace]

    def values_of(self, keys: Sequence[Any]) -> list[Any]:
        """Each key's value, None where there is none. Only to be looked at: what is changed in place is not saved.
        Leaves no current key."""
        values, admitted = self._table_for(keys).read_all(keys)
        self._cursor.admitted += admitted
        return values

    def fold(self, keys: Sequence[Any], records: Sequence[Any], function: Callable[[V | None, Any], V]) -> list[V]:
        table = self._table_for(keys)
        self._cursor.admitted += table.change_all(keys)
        changed = table.changed
        results: list[Any] = []
        for key, record in zip(keys, records, strict=True):
            changed[key] = value = function(changed[key], record)
            results.append(value)
        if self._accepted is not None and not self._accepted.issuperset(set(map(type, results))):
            self.refuse_unlike(self._serializer, [value for value in results if value is not None])
        return results

    def accumulate(
        self, keys: Sequence[Any], records: Sequence[Any], create: Callable[[], V], add: Callable[[Any, V], V]
    ) -> list[int]:
        """For each (key, record) in order: value = add(record, value or create()). Positions of the records that were
        the first of a key without a value. Leaves no current key."""
        distinct = list(dict.fromkeys(keys))
        table = self._table_for(distinct)
        self._cursor.admitted += table.change_all(distinct)
        changed = table.changed
        empty = list(compress(distinct, map(operator.is_, map(changed.__getitem__, distinct), repeat(None))))
        for key in empty:
            changed[key] = create()
        for key, record in zip(keys, records, strict=True):
            changed[key] = add(record, changed[key])
        if self._accepted is not None and not self._accepted.issuperset(map(type, map(changed.__getitem__, distinct))):
            self.refuse_unlike(self._serializer, [value for key in distinct if (value := changed[key]) is not None])
        if not empty:
            return []
        last = len(keys) - 1
        first = dict(zip(reversed(keys), range(last, -1, -1), strict=True))
        return list(map(first.__getitem__, empty))


class CachedListState(Handle[ListTable], ListState[V]):
    """A list per key and namespace."""

    def __init__(self, *place: Any, serializer: Codec, chunks: Chunks) -> None:
        """serializer: of an element."""
        super().__init__(*place)
        self._elements = serializer
        self._chunks = chunks
        self._accepted = serializer.accepts
        self._batches = 0
        self._counted = 0

    def _new_table(self, *place: Any) -> ListTable:
        return ListTable(*place, chunks=self._chunks)

    def get(self) -> list[V]:
        cursor = self._cursor
        table = self._tables.get(cursor.namespace)
        known = None if table is None else table.changed.get(cursor.key)
        if known is not None and known.values is not None:
            known.rewrite = True
            return known.values
        table, key, cell = self._whole()
        return table.read(key, cell)

    def add(self, value: V) -> None:
        if self._accepted is not None and type(value) not in self._accepted:
            self.refuse_unlike(self._elements, (value,))
        cursor = self._cursor
        key = cursor.key
        table = self._tables.get(cursor.namespace)
        if table is None or table.has_cells or key is MISSING:
            self._append([value])
        else:
            table.tails[key].append(value)

    def add_all(self, values: Iterable[V]) -> None:
        values = list(values)
        if values:
            self.refuse_unlike(self._elements, values)
            self._append(values)

    def _append(self, values: list[Any]) -> None:
        key = self._cursor.current_key()
        self._table().append(key, values)

    def update(self, values: Iterable[V]) -> None:
        values = list(values)
        self.refuse_unlike(self._elements, values)
        table, key, cell = self._whole()
        table.replace(key, cell, values)

    def clear(self) -> None:
        self.update(())

    def _whole(self) -> tuple[ListTable, Any, ListCell]:
        cursor = self._cursor
        key = cursor.current_key()
        table = self._table()
        if key not in table.changed and key not in table.young:
            cursor.admitted += 1
        return table, key, table.whole(key)

    def between_batches(self) -> None:
        """Lists that are only added to take room in the cache as cells do, and so do many elements of few lists."""
        lists = sum(len(table.tails) for table in self._tables.values())
        self._cursor.admitted += max(0, lists - self._counted)
        self._counted = lists
        self._batches += 1
        if self._batches % _BATCHES_PER_WEIGHING == 0:
            elements = sum(table.elements() for table in self._tables.values())
            self._cursor.admitted += max(0, elements // _ELEMENTS - lists)


_BATCHES_PER_WEIGHING = 128
"""Looking at every list is done seldom."""
_ELEMENTS = 16
"""Elements that take the room of a cell."""
