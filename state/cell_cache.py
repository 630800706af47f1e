"""The write-back cache: decoded state of the keys used last, in two generations.

Per state and namespace there is a table with the cells of the *young* generation and those of the *old* one. A cell
that is used comes into the young generation; when that is full, the old one leaves the cache, the young one becomes
old, and an empty one begins (`rotate`). Only cells that changed are written, when they leave, at a barrier, or, if
their values can change in place, when there are too many of them (`trickle`): those have to be encoded by the slot's
thread at the barrier. A cell that was only read costs nothing when it leaves.

A value that can change in place counts as changed once it was read: an object obtained from state and changed is
saved as if `update` had been called. Cells leave only between two keys, so no object leaves while its function runs.

`dirty` holds keys whose cell is in one of the two generations and newer than everything below. A cell in the young
generation hides one of the same key in the old.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import filterfalse
from typing import Any, Generic, TypeVar

from .errors import StateError
from .key_encoding import decode_key, encode_key
from .row_keys import cell_prefix, cell_prefixes, encode_word, row_order
from .serializers import Serializer
from .write_queue import Layer, Row, WriteQueue

Cell = TypeVar("Cell")


class Missing:
    """Nothing is known here; None means that there is no value."""


MISSING: Any = Missing()
_UNKNOWN: Any = Missing()
"""Where MISSING means that it is known that there is nothing."""


class Table(ABC, Generic[Cell]):
    """The cells of one state in one namespace."""

    mutable = True
    """Changed cells have to be encoded on the slot's thread."""

    def __init__(self, queue: WriteQueue, state_id: int, namespace: int, max_parallelism: int, where: str) -> None:
        self.queue = queue
        self.young: dict[Any, Cell] = {}
        self.old: dict[Any, Cell] = {}
        self.dirty: set[Any] = set()
        self.place = (state_id, namespace)
        self._state_id = state_id
        self._namespace = encode_word(namespace)
        self._max_parallelism = max_parallelism
        self._where = where

    def prefix(self, key: Any) -> bytes:
        return cell_prefix(key, self._state_id, self._namespace, self._max_parallelism)

    def prefixes(self, keys: Sequence[Any]) -> list[bytes]:
        return cell_prefixes(keys, self._state_id, self._namespace, self._max_parallelism)

    def in_order(self, entries: dict[Any, Any]) -> list[tuple[Any, Any]]:
        """By key group: rows that are written together lie together."""
        items = list(entries.items())
        places = row_order(list(entries), self._max_parallelism).tolist()
        return list(map(items.__getitem__, places))

    def load(self, key: Any) -> Cell:
        """The cell of a key that is not in the young generation; it is afterwards."""
        cell: Cell = self.old.get(key, MISSING)
        if cell is MISSING:
            self.queue.fetched += 1
            cell = self._fetch(key)
        self.young[key] = cell
        return cell

    def load_all(self, keys: Sequence[Any]) -> None:
        """Every key has its cell in the young generation afterwards. Cheaper than one by one."""
        young, old = self.young, self.old
        unknown = []
        for key in dict.fromkeys(filterfalse(young.__contains__, keys)):
            cell = old.get(key, MISSING)
            if cell is MISSING:
                unknown.append(key)
            else:
                young[key] = cell
        if unknown:
            self.queue.fetched += len(unknown)
            young.update(zip(unknown, self._fetch_all(unknown), strict=True))

    def rotate(self, layer: Layer, generation: int) -> None:
        old = self.old
        falling = self.dirty.difference(self.young)
        if falling:
            self.dirty -= falling
            self._write({key: old[key] for key in falling}, layer, generation)
        self.old, self.young = self.young, {}

    def flush(self, layer: Layer, generation: int) -> None:
        """Everything changed goes into the layer, and stays in the cache."""
        if self.dirty:
            young, old = self.young, self.old
            self._write({key: young[key] if key in young else old[key] for key in self.dirty}, layer, generation)
            self.dirty = set()

    def is_empty(self) -> bool:
        return not (self.young or self.old)

    @abstractmethod
    def _fetch(self, key: Any) -> Cell:
        """From below the cache."""

    def _fetch_all(self, keys: list[Any]) -> list[Cell]:
        return list(map(self._fetch, keys))

    @abstractmethod
    def _write(self, cells: dict[Any, Cell], layer: Layer, generation: int) -> None:
        """Put changed cells into a layer. The generation is above that of every earlier call."""

    def _failure(self, error: StateError) -> StateError:
        return type(error)(f"{self._where}: {error}")


class ValueTable(Table[Any]):
    """Cells are the values themselves, None where there is none: nothing else has to be kept per key."""

    def __init__(self, *place: Any, serializer: Serializer, default: Any = None) -> None:
        super().__init__(*place)
        self._serializer = serializer
        self._default = default
        self.mutable = not serializer.immutable

    def _fetch(self, key: Any) -> Any:
        if self.mutable:
            data = self.queue.get(self.prefix(key))
        else:
            value = self.queue.value(self, key, MISSING)
            if value is not MISSING:
                return value
            data = self.queue.stored(self.prefix(key))
        return None if data is None else self._serializer.decode(data)

    def _fetch_all(self, keys: list[Any]) -> list[Any]:
        queue, decode = self.queue, self._serializer.decode
        if self.mutable or not queue.waiting:
            return [None if data is None else decode(data) for data in queue.get_all(self.prefixes(keys))]
        leaving = {key: value for key in keys if (value := queue.value(self, key, MISSING)) is not MISSING}
        below = [key for key in keys if key not in leaving]
        for key, data in zip(below, queue.stored_all(self.prefixes(below)) if below else (), strict=True):
            leaving[key] = None if data is None else decode(data)
        return [leaving[key] for key in keys]

    def _write(self, cells: dict[Any, Any], layer: Layer, generation: int) -> None:
        if self.mutable:
            layer.rows.update(self.encode_rows(list(cells.items())))
        else:
            layer.put_values(self, cells)

    def encode_rows(self, entries: list[tuple[Any, Any]]) -> list[Row]:
        keys, values = zip(*entries, strict=True)
        if self.mutable and self._default is not None:
            # a mutable default is kept once it was read, so that changes in place are seen; unchanged it is no state
            values = tuple(None if value is None or value == self._default else value for value in values)
        return list(zip(self.prefixes(keys), self._encode(values), strict=True))

    def _encode(self, values: Sequence[Any]) -> list[bytes | None]:
        try:
            present = [value for value in values if value is not None]
            encoded = self._serializer.encode_all(present)
            if len(present) == len(values):
                return [*encoded]
            following = iter(encoded)
            return [None if value is None else next(following) for value in values]
        except StateError as error:
            raise self._failure(error) from error

    def new_default(self, key: Any) -> Any:
        """The default for a key without a value."""
        if not self.mutable or self._default is None:
            return self._default
        self.young[key] = value = copy.deepcopy(self._default)
        return value


class ListCell:
    """A list of one key, as far as it is known."""

    __slots__ = ("chunks", "rewrite", "tail", "values")

    def __init__(self) -> None:
        self.values: list[Any] | None = None
        """The whole list, if it was read or replaced."""
        self.tail: list[Any] = []
        """What was added since the last write; also part of `values`."""
        self.rewrite = False
        """What is stored is void; `values` replaces it."""
        self.chunks: list[bytes] | None = None
        """Suffixes of all rows below, if they are known."""


class ListTable(Table[ListCell]):
    """A list is stored as chunks, one for every time its cell was written; adding needs no reading.

    A list that was read may be changed by its holder, so it is stored anew as one chunk.
    """

    def __init__(self, *place: Any, chunk_serializer: Serializer) -> None:
        super().__init__(*place)
        self._serializer = chunk_serializer

    def _fetch(self, key: Any) -> ListCell:
        return ListCell()

    def read(self, key: Any, cell: ListCell) -> list[Any]:
        """The live list of a cell; its changes are saved."""
        values = cell.values
        if values is None:
            rows = self.queue.scan(self.prefix(key))
            cell.chunks = list(rows)
            values = cell.values = [value for data in rows.values() for value in self._serializer.decode(data)]
            values += cell.tail
        cell.rewrite = True
        self.dirty.add(key)
        return values

    def _write(self, cells: dict[Any, ListCell], layer: Layer, generation: int) -> None:
        chunk = encode_word(generation)
        for cell, prefix in zip(cells.values(), self.prefixes(list(cells)), strict=True):
            changes: dict[bytes, bytes | None] = {}
            if cell.rewrite:
                if cell.chunks is None:
                    layer.clear_cell(prefix)
                else:
                    changes = dict.fromkeys(cell.chunks)
                cell.chunks = []
            added = cell.values if cell.rewrite else cell.tail
            if added:
                changes[chunk] = self._encode(added)
                if cell.chunks is not None:
                    cell.chunks.append(chunk)
            if changes:
                layer.put_cell(prefix, changes)
            cell.tail = []
            cell.rewrite = False

    def _encode(self, values: list[Any]) -> bytes:
        try:
            return self._serializer.encode(values)
        except StateError as error:
            raise self._failure(error) from error


class MapCell:
    """A map of one key, as far as it is known."""

    __slots__ = ("changed", "cleared", "complete", "entries", "looks", "order", "scan_at")

    def __init__(self) -> None:
        self.entries: dict[Any, Any] = {}
        """What is known of the map; MISSING where it is known that there is no entry."""
        self.changed: dict[Any, bool] = {}
        """Entries that are not as they are below, and whether there may be a row below: if there is none, an entry
        that is removed again leaves no trace."""
        self.complete = False
        """All entries of the map are known."""
        self.cleared = False
        """Everything below is void."""
        self.order: list[Any] | None = None
        """All keys that have an entry, in the order of their encoding; None when that must be found out."""
        self.looks = 0
        """Entries asked for below, one by one."""
        self.scan_at = _FIRST_SCAN
        """After so many looks the rest of the map is read, unless it is much bigger than that."""


_FIRST_SCAN, _LAST_SCAN = 4, 64
"""A scan costs about as much as four looks, and a look as much as 16 rows of a scan: trying it after 4, 16 and 64
looks, and giving up at 16 rows a look, never costs more than the looks did. It pays from then on: of a map that is
known completely nobody has to ask below, not even for what is not there."""
_ROWS_PER_LOOK = 16


class MapTable(Table[MapCell]):
    """A map is stored entry by entry."""

    def __init__(self, *place: Any, serializer: Serializer) -> None:
        super().__init__(*place)
        self._serializer = serializer

    def _fetch(self, key: Any) -> MapCell:
        return MapCell()

    def lookup(self, key: Any, cell: MapCell, user_key: Any) -> Any:
        """The value of an entry, or MISSING."""
        value = cell.entries.get(user_key, _UNKNOWN)
        if value is not _UNKNOWN:
            return value
        return MISSING if cell.complete else self._look_below(key, cell, user_key)

    def _look_below(self, key: Any, cell: MapCell, user_key: Any) -> Any:
        prefix = self.prefix(key)
        cell.looks += 1
        if cell.looks == cell.scan_at <= _LAST_SCAN:
            cell.scan_at *= 4
            rows = self.queue.scan_if_small(prefix, _ROWS_PER_LOOK * cell.looks)
            if rows is not None:
                self._fill(cell, rows)
                return cell.entries.get(user_key, MISSING)
        data = self.queue.get_in_cell(prefix, encode_key(user_key))
        value = cell.entries[user_key] = MISSING if data is None else self._serializer.decode(data)
        return value

    def _fill(self, cell: MapCell, rows: dict[bytes, bytes]) -> None:
        """What is below, all of it; what is known already is newer."""
        entries, decode = cell.entries, self._serializer.decode
        for suffix, data in rows.items():
            user_key = decode_key(suffix)
            if user_key not in entries:
                entries[user_key] = decode(data)
        cell.complete = True

    def put(self, key: Any, cell: MapCell, user_key: Any, value: Any) -> None:
        entries, changed = cell.entries, cell.changed
        before = entries.get(user_key, _UNKNOWN)
        if user_key not in changed:
            changed[user_key] = _may_be_below(cell, before)
            self.dirty.add(key)
        if before is MISSING or before is _UNKNOWN:
            cell.order = None
        entries[user_key] = value

    def remove(self, key: Any, cell: MapCell, user_key: Any) -> None:
        entries, changed = cell.entries, cell.changed
        below = changed.get(user_key)
        if below is None:
            below = _may_be_below(cell, entries.get(user_key, _UNKNOWN))
        if below:
            entries[user_key] = MISSING
            changed[user_key] = True
            self.dirty.add(key)
        else:
            changed.pop(user_key, None)
            entries.pop(user_key, None)
        cell.order = None

    def touched(self, key: Any, cell: MapCell, user_key: Any) -> None:
        """An entry that is there may change in place."""
        if user_key not in cell.changed:
            cell.changed[user_key] = True
            self.dirty.add(key)

    def complete(self, key: Any, cell: MapCell) -> list[Any]:
        """Read the rest of the map; gives its keys, in order."""
        if not cell.complete:
            self._fill(cell, self.queue.scan(self.prefix(key)))
        if cell.order is None:
            present = [user_key for user_key, value in cell.entries.items() if value is not MISSING]
            cell.order = sorted(present, key=encode_key)
        return cell.order

    def clear(self, key: Any, cell: MapCell) -> None:
        if cell.complete:
            for user_key in list(cell.entries):
                self.remove(key, cell, user_key)
        else:
            cell.entries, cell.changed, cell.cleared, cell.complete = {}, {}, True, True
            cell.order = None
            self.dirty.add(key)

    def _write(self, cells: dict[Any, MapCell], layer: Layer, generation: int) -> None:
        for cell, prefix in zip(cells.values(), self.prefixes(list(cells)), strict=True):
            entries = cell.entries
            if cell.cleared:
                layer.clear_cell(prefix)
            if cell.changed:
                layer.put_cell(prefix, {encode_key(k): self._encode(entries[k]) for k in cell.changed})
            for user_key in cell.changed:  # what was removed need not be remembered once it is on its way
                if entries[user_key] is MISSING:
                    del entries[user_key]
            cell.cleared = False
            cell.changed = {}

    def _encode(self, value: Any) -> bytes | None:
        if value is MISSING:
            return None
        try:
            return self._serializer.encode(value)
        except StateError as error:
            raise self._failure(error) from error


def _may_be_below(cell: MapCell, known: Any) -> bool:
    """Of an entry that is not changed, from what the cell knows of it."""
    return known is not MISSING and not (known is _UNKNOWN and cell.complete)
