"""The write-back cache: decoded state of the keys used last, in two generations.

Per state and namespace there is a table with the cells of the *young* generation and those of the *old* one, in each
those that are newer than everything below apart from those that are not. A cell that is used comes into the young
generation; when that is full, or there are many more tables than when it began, the old one leaves the cache, the young
one becomes old, and an empty one begins (`rotate`). Only cells that changed are written, when they leave, at a barrier,
or, if their values can change in place, when there are too many of them (`trickle`): those have to be encoded by the
slot's thread at the barrier. A cell that was only read costs nothing when it leaves.

A value that can change in place counts as changed once it was read: an object obtained from state and changed is
saved as if `update` had been called. Cells leave only between two keys, so no object leaves while its function runs.

Namespaces of windows come in the order of time, so nobody has to look below for one that is above all that were ever
written (`Written`): what it lacks in the cache it lacks altogether, and a value that is cleared there leaves no trace.

A cell in the young generation hides one of the same key in the old, a changed one hides one that is not. An old cell
that is changed is used as a changed one, even if it is only read: nothing below knows of it. No key has a changed cell
in both generations.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import filterfalse, repeat
from typing import Any, Generic, Protocol, TypeVar

from ..errors import StateError
from .cell_weight import weight_of
from .layers import Layer
from .row_keys import cell_prefix, cell_prefixes, encode_word, row_order
from .row_store import Row
from .write_queue import WriteQueue

Cell = TypeVar("Cell")


class Missing:
    """Nothing is known here; None means that there is no value."""


MISSING: Any = Missing()


class Codec(Protocol):
    """What tables need of a serializer."""

    @property
    def immutable(self) -> bool: ...

    @property
    def accepts(self) -> frozenset[type] | None: ...

    def encode(self, value: Any) -> bytes: ...

    def encode_all(self, values: Iterable[Any]) -> list[bytes]: ...

    def decode(self, data: bytes) -> Any: ...

    def decode_all(self, rows: list[bytes | None]) -> list[Any]: ...


class Written:
    """Up to which namespace a state may have rows, or entries in layers, below the cache."""

    __slots__ = ("up_to",)

    def __init__(self, up_to: int) -> None:
        self.up_to = up_to


class Table(ABC, Generic[Cell]):
    """The cells of one state in one namespace."""

    mutable = True
    """Changed cells have to be encoded on the slot's thread."""

    def __init__(self, queue: WriteQueue, state_id: int, namespace: int, max_parallelism: int, where: str) -> None:
        self.queue = queue
        self.changed: dict[Any, Cell] = {}
        self.young: dict[Any, Cell] = {}
        self.old_changed: dict[Any, Cell] = {}
        self.old: dict[Any, Cell] = {}
        self.place = (state_id, namespace)
        self._state_id = state_id
        self._namespace = encode_word(namespace)
        self._max_parallelism = max_parallelism
        self._where = where

    def prefix(self, key: Any) -> bytes:
        return cell_prefix(key, self._state_id, self._namespace, self._max_parallelism)

    def prefixes(self, keys: Sequence[Any], suffix: bytes = b"") -> list[bytes]:
        return cell_prefixes(keys, self._state_id, self._namespace + suffix, self._max_parallelism)

    def in_order(self, entries: dict[Any, Any]) -> list[Any]:
        """The keys by key group: rows that are written together lie together."""
        keys = list(entries)
        return list(map(keys.__getitem__, row_order(keys, self._max_parallelism).tolist()))

    def load(self, key: Any) -> Cell:
        """The cell of a key that is not in the young generation; it is afterwards."""
        cell: Cell = self.old_changed.pop(key, MISSING)
        if cell is not MISSING:
            self.changed[key] = cell
            return cell
        cell = self.old.get(key, MISSING)
        if cell is MISSING:
            self.queue.fetched += 1
            cell = self._fetch(key)
        self.young[key] = cell
        return cell

    def known(self, key: Any) -> Cell:
        """The cell of a key, which stays where it is; MISSING if it is not in the cache."""
        cell: Cell = MISSING
        for cells in (self.changed, self.young, self.old_changed, self.old):
            cell = cells.get(key, MISSING)
            if cell is not MISSING:
                break
        return cell

    @abstractmethod
    def rows_of(self, key: Any, entry: bytes | None, most: int) -> list[tuple[bytes, bytes]]:
        """The cell as rows, by suffix, in order, as they would be written now; nothing moves in the cache. Of a list at
        least its first `most` elements, of a map at most its first `most` entries, or that under an encoded key."""

    def mark(self, key: Any, cell: Cell) -> None:
        """A cell of the young generation changes."""
        if self.changed.get(key, MISSING) is not cell:
            self.changed[key] = cell
            self.young.pop(key, None)

    def change_all(self, keys: Sequence[Any]) -> int:
        """Every key has its cell among the changed ones afterwards. Gives how many came into the young generation."""
        changed = self.changed
        unknown = list(dict.fromkeys(filterfalse(changed.__contains__, keys)))
        if not unknown:
            return 0
        unknown = _move(unknown, self.young, changed, leaves=True)
        admitted = len(unknown)
        unknown = _move(unknown, self.old_changed, changed, leaves=True)
        unknown = _move(unknown, self.old, changed)
        if unknown:
            self.queue.fetched += len(unknown)
            changed.update(zip(unknown, self._fetch_all(unknown), strict=True))
        return admitted

    def read_all(self, keys: Sequence[Any]) -> tuple[list[Cell], int]:
        """Every key's cell, for whoever does not change it; it is in the young generation afterwards. And how many have
        come there."""
        changed: dict[Any, Any] = self.changed
        young: dict[Any, Any] = self.young
        unchanged = filterfalse(changed.__contains__, keys)
        unknown = list(dict.fromkeys(filterfalse(young.__contains__, unchanged)))
        admitted = len(unknown)
        unknown = _move(unknown, self.old_changed, changed, leaves=True)
        unknown = _move(unknown, self.old, young)
        if unknown:
            self.queue.fetched += len(unknown)
            young.update(zip(unknown, self._fetch_all(unknown), strict=True))
        return list(map(changed.get, keys, map(young.get, keys))), admitted

    def rotate(self, layer: Layer, generation: int) -> None:
        if self.old_changed:
            self._write(self.old_changed, layer, generation)
        self.old, self.old_changed = self.young, self.changed
        self.young, self.changed = {}, {}

    def flush(self, layer: Layer, generation: int, *, mutable_only: bool = False) -> None:
        """Everything changed goes into the layer, and stays in the cache."""
        if (self.changed or self.old_changed) and (self.mutable or not mutable_only):
            self._write({**self.old_changed, **self.changed}, layer, generation)
            self.young, self.changed = {**self.young, **self.changed}, {}
            self.old, self.old_changed = {**self.old, **self.old_changed}, {}

    @property
    def changes(self) -> int:
        """Cells that are newer than everything below."""
        return len(self.changed) + len(self.old_changed)

    @property
    def to_encode(self) -> int:
        """Those of them that the slot's thread would have to encode if the barrier came now."""
        return len(self.changed) + len(self.old_changed) if self.mutable else 0

    def weight(self) -> int:
        """About how many bytes the young generation takes."""
        return weight_of(self.changed) + weight_of(self.young)

    def is_empty(self) -> bool:
        return not (self.changed or self.young or self.old_changed or self.old)

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


def _move(keys: list[Any], source: dict[Any, Any], found: dict[Any, Any], *, leaves: bool = False) -> list[Any]:
    """Note what is in a dict, and perhaps take it out there; gives the other keys. (Look-ups by the
    million: passes without a step of the interpreter are cheaper than one pass with some.)"""
    absent = list(filterfalse(source.__contains__, keys)) if source else keys
    if len(absent) < len(keys):
        present = list(filter(source.__contains__, keys))
        found.update(zip(present, map(source.pop if leaves else source.__getitem__, present), strict=True))
    return absent


class ValueTable(Table[Any]):
    """Cells are the values themselves, None where there is none: nothing else has to be kept per key."""

    def __init__(
        self, *place: Any, serializer: Codec, written: Written, is_default: Callable[[Any], bool] | None = None
    ) -> None:
        """is_default: a mutable default is kept once it was read, so that changes in place are seen; while it is still
        the default it is no state. None: there is none."""
        super().__init__(*place)
        self._serializer = serializer
        self._written = written
        self._is_default = is_default
        self.mutable = not serializer.immutable

    @property
    def nothing_below(self) -> bool:
        return self.place[1] > self._written.up_to

    def clear_all(self, keys: Sequence[Any]) -> int:
        """Gives how many cells came into the young generation."""
        if self.nothing_below:
            for cells in (self.changed, self.young, self.old_changed, self.old):
                if cells:
                    deque(map(cells.pop, keys, repeat(None)), 0)
            return 0
        here = len(self.changed) + len(self.young)
        for cells in (self.young, self.old_changed):
            if cells:
                deque(map(cells.pop, keys, repeat(None)), 0)
        self.changed.update(dict.fromkeys(keys))
        return max(0, len(self.changed) + len(self.young) - here)

    def _fetch(self, key: Any) -> Any:
        if self.nothing_below:
            return None
        if self.mutable:
            data = self.queue.get(self.prefix(key))
        else:
            for leaving in self.queue.leaving(self):
                value = leaving.get(key, MISSING)
                if value is not MISSING:
                    return value
            data = self.queue.stored(self.prefix(key))
        return None if data is None else self._serializer.decode(data)

    def _fetch_all(self, keys: list[Any]) -> list[Any]:
        if self.nothing_below:
            return [None] * len(keys)
        queue, decode_all = self.queue, self._serializer.decode_all
        if self.mutable:
            return decode_all(queue.get_all(self.prefixes(keys)))
        found: dict[Any, Any] = {}
        unknown = keys
        for leaving in queue.leaving(self):
            unknown = _move(unknown, leaving, found)
        values = decode_all(queue.stored_all(self.prefixes(unknown))) if unknown else []
        if not found:
            return values
        found.update(zip(unknown, values, strict=True))
        return [found[key] for key in keys]

    def rows_of(self, key: Any, entry: bytes | None, most: int) -> list[tuple[bytes, bytes]]:
        value = self.known(key)
        ((_prefix, row),) = self.encode_rows([key], [self._fetch(key) if value is MISSING else value])
        return [] if row is None else [(b"", row)]

    def _write(self, cells: dict[Any, Any], layer: Layer, generation: int) -> None:
        self._written.up_to = max(self._written.up_to, self.place[1])
        if self.mutable:
            layer.rows.update(self.encode_rows(list(cells), list(cells.values())))
        else:
            layer.put_values(self, cells)

    def encode_rows(self, keys: Sequence[Any], values: Sequence[Any]) -> list[Row]:
        is_default = self._is_default
        if is_default is not None:
            values = [None if value is None or is_default(value) else value for value in values]
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
