"""Cells of lists: what was added to each since the last write, and for lists that were read all there is.

A list is stored as chunks, one for every time its cell was written; adding needs no reading. What is only added to
needs no cell: its new elements stand in `tails`, a plain list per key, which leaves the cache when it is written. If
the elements cannot change, tails are encoded only when their layer is written.

A list that was read may be changed by its holder, so it is stored anew, as one chunk.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from ..errors import StateError
from ..serialization.serializers import Serializer
from .cell_cache import MISSING, Table
from .cell_weight import weight_of
from .layers import Layer
from .row_keys import encode_word

_UNENCODABLE = (OverflowError, UnicodeEncodeError)
_LAST = b"\xff" * 8
"""Behind all suffixes of chunks."""
_LONG = 1 << 18
"""Bytes of a chunk that is cut for who asks from outside: decoding it takes a millisecond or more."""


class Chunks(Protocol):
    """Writes and reads the elements of a list, a chunk at a time."""

    @property
    def immutable(self) -> bool:
        """No element can change in place: those added may be encoded later and on another thread."""
        ...

    def encode_added(self, chunks: Sequence[list[Any]]) -> list[bytes]:
        """For elements whose exact types were checked when they were added."""
        ...

    def encode(self, elements: list[Any]) -> bytes:
        """For lists that somebody may have changed in place. StateError when an element is not of the type."""
        ...

    def decode(self, data: bytes) -> list[Any]: ...


class PlainChunks:
    """Elements of one type."""

    def __init__(self, element: Serializer, whole: Serializer) -> None:
        """whole: of a list of such elements."""
        self._whole = whole
        self.immutable = element.immutable
        self._encode_unchecked = msgspec.msgpack.Encoder().encode
        self._type_is_all = element.type_is_all

    def encode_added(self, chunks: Sequence[list[Any]]) -> list[bytes]:
        if self._type_is_all:
            try:
                return list(map(self._encode_unchecked, chunks))
            except _UNENCODABLE:
                pass
        return list(map(self._whole.encode, chunks))

    def encode(self, elements: list[Any]) -> bytes:
        return self._whole.encode(elements)

    def decode(self, data: bytes) -> list[Any]:
        elements: list[Any] = self._whole.decode(data)
        return elements


class ListCell:
    """A list of one key, as far as it is known."""

    __slots__ = ("chunks", "given", "rewrite", "tail", "values")

    def __init__(self, tail: list[Any]) -> None:
        self.values: list[Any] | None = None
        """The whole list, if it was read or replaced."""
        self.tail = tail
        """What was added since the last write; also part of `values`."""
        self.rewrite = False
        """What is stored is void; `values` replaces it."""
        self.chunks: list[bytes] | None = None
        """Suffixes of all rows below, if they are known."""
        self.given: Any = None
        """With a TTL: what was handed out instead of `values`, which has stamps in it (expiring.py)."""


class ListTable(Table[ListCell]):
    """The lists of one state in one namespace."""

    def __init__(self, *place: Any, chunks: Chunks) -> None:
        super().__init__(*place)
        self._chunks = chunks
        self.tails: defaultdict[Any, list[Any]] = defaultdict(list)
        """New elements of keys that have no cell."""
        self.has_cells = False
        """Some keys may have one."""

    def _fetch(self, key: Any) -> ListCell:
        return ListCell([])

    def find(self, key: Any) -> ListCell | None:
        """The cell of a key, if it has one; it is in the young generation afterwards."""
        cell = self.changed.get(key) or self.young.get(key)
        if cell is None and (key in self.old_changed or key in self.old):
            cell = self.load(key)
        return cell

    def whole(self, key: Any) -> ListCell:
        """The cell of a key, which has one from now on."""
        self.has_cells = True
        tail = self.tails.pop(key, None)
        if tail is None:
            return self.find(key) or self.load(key)
        cell = self.changed[key] = ListCell(tail)
        return cell

    def append(self, key: Any, elements: list[Any]) -> None:
        cell = self.find(key) if self.has_cells else None
        if cell is None:
            self.tails[key] += elements
            return
        cell.tail += elements
        if cell.values is not None:
            cell.values += elements
        self.mark(key, cell)

    def read(self, key: Any, cell: ListCell) -> list[Any]:
        """The live list of a cell; its changes are saved."""
        values = cell.values
        if values is None:
            rows = self.queue.scan_list(self, key, self.prefix(key))
            cell.chunks = list(rows)
            values = cell.values = [value for data in rows.values() for value in self._chunks.decode(data)]
            values += cell.tail
        cell.rewrite = True
        self.mark(key, cell)
        return values

    def rows_of(self, key: Any, entry: bytes | None, most: int) -> list[tuple[bytes, bytes]]:
        cell, rows = self.known(key), {}
        values = self.tails.get(key, []) if cell is MISSING else cell.tail
        if cell is not MISSING and cell.values is not None:
            values = cell.values
        else:
            rows = self.queue.scan_list(self, key, self.prefix(key), most)
        shown = [(suffix, row if len(row) < _LONG else self._beginning(row, most)) for suffix, row in rows.items()]
        return [*shown, (_LAST, self._encode(values[:most]))] if values else shown

    def _beginning(self, row: bytes, most: int) -> bytes:
        """A list that was read was written anew, as one chunk."""
        return self._encode(self._chunks.decode(row)[:most])

    def replace(self, key: Any, cell: ListCell, values: list[Any]) -> None:
        cell.values, cell.tail, cell.rewrite, cell.given = values, [], True, None
        self.mark(key, cell)

    # ---- what leaves

    @property
    def changes(self) -> int:
        return super().changes + len(self.tails)

    @property
    def to_encode(self) -> int:
        return super().to_encode + (0 if self._chunks.immutable else len(self.tails))

    def elements(self) -> int:
        """New ones of keys that have no cell."""
        return sum(map(len, self.tails.values()))

    def weight(self) -> int:
        return super().weight() + weight_of(self.tails)

    def is_empty(self) -> bool:
        return not self.tails and super().is_empty()

    def rotate(self, layer: Layer, generation: int) -> None:
        self._put_tails(layer, generation)
        super().rotate(layer, generation)
        self.has_cells = not super().is_empty()

    def flush(self, layer: Layer, generation: int, *, mutable_only: bool = False) -> None:
        if not (mutable_only and self._chunks.immutable):
            self._put_tails(layer, generation)
        super().flush(layer, generation, mutable_only=mutable_only)

    def _put_tails(self, layer: Layer, generation: int) -> None:
        if self.tails:
            tails, self.tails = self.tails, defaultdict(list)
            suffix = encode_word(generation)
            if self._chunks.immutable:
                layer.tails.append((self, suffix, tails))
            else:
                layer.put_in_cells(len(suffix), self.encode_tails(suffix, list(tails), list(tails.values())))

    def encode_tails(self, suffix: bytes, keys: Sequence[Any], tails: Sequence[list[Any]]) -> list[tuple[bytes, bytes]]:
        try:
            rows = self._chunks.encode_added(tails)
        except StateError as error:
            raise self._failure(error) from error
        return list(zip(self.prefixes(keys, suffix), rows, strict=True))

    def _write(self, cells: dict[Any, ListCell], layer: Layer, generation: int) -> None:
        chunk = encode_word(generation)
        for (key, cell), prefix in zip(cells.items(), self.prefixes(list(cells)), strict=True):
            changes: dict[bytes, bytes | None] = {}
            if cell.rewrite:
                layer.forget_tails(self, key)
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
            return self._chunks.encode(values)
        except StateError as error:
            raise self._failure(error) from error
