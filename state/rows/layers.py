"""Changes on their way into the row store: what is in a layer, how it is read, and the pieces it is written in.

Only immutable values are in layers as objects; everything else was encoded when it left the cache. The queue of layers,
and who writes them when, is write_queue.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol

from .row_store import LocalCheckpoint, Row, RowStore

PIECE_ROWS = 5_000
"""Rows per write: RocksDB's write holds the GIL, and sorting pays from some thousand on."""


class Encoder(Protocol):
    """Turns the immutable objects of one cache table into rows; called on any thread."""

    @property
    def place(self) -> tuple[int, int]:
        """State id and namespace: the table itself may leave the cache and come again."""
        ...

    def in_order(self, entries: dict[Any, Any]) -> list[Any]:
        """The keys, roughly in the order of their rows': sorted within a piece is half of sorted."""
        ...

    def encode_rows(self, keys: Sequence[Any], values: Sequence[Any]) -> list[Row]: ...


class TailEncoder(Protocol):
    """Turns immutable elements that were added to lists into rows; called on any thread."""

    @property
    def place(self) -> tuple[int, int]: ...

    def in_order(self, entries: dict[Any, Any]) -> list[Any]: ...

    def encode_tails(self, suffix: bytes, keys: Sequence[Any], tails: Sequence[list[Any]]) -> list[tuple[bytes, bytes]]:
        """The row of every key's elements."""
        ...


@dataclass(slots=True, eq=False)
class Marker:
    """A barrier in the queue: what its program waits for."""

    checkpoint_id: int
    take: Callable[[], LocalCheckpoint]
    """Of the rows of that moment, once they are in the store."""
    wanted: bool = True
    claimed: bool = False
    """Its program has begun, and will discard the local checkpoint."""
    checkpoint: LocalCheckpoint | None = None


@dataclass(slots=True, eq=False)
class Layer:
    """Changes of one moment that are on their way into the store."""

    values: dict[tuple[int, int], tuple[Encoder, dict[Any, Any]]] = field(default_factory=dict)
    """Per place of a cache table: key -> immutable value, None for deleted."""
    rows: dict[bytes, bytes | None] = field(default_factory=dict)
    """Encoded values by their row's key."""
    cells: dict[bytes, dict[bytes, bytes | None]] = field(default_factory=dict)
    """Encoded rows of lists and maps: prefix -> suffix -> value."""
    tails: list[tuple[TailEncoder, bytes, dict[Any, list[Any]]]] = field(default_factory=list)
    """Tables of lists, the suffix of their rows, and key -> immutable elements that were added."""
    cleared: dict[bytes, None] = field(default_factory=dict)
    """Prefixes of which everything older is gone."""
    marker: Marker | None = None
    pieces: list[Callable[[RowStore], list[Row]]] | None = None
    """What is still to be written, last first; None until somebody has begun."""

    def put_values(self, table: Encoder, entries: dict[Any, Any]) -> None:
        known = self.values.get(table.place)
        if known is None:
            self.values[table.place] = (table, entries)
        else:
            known[1].update(entries)

    def put_cell(self, prefix: bytes, changes: dict[bytes, bytes | None]) -> None:
        known = self.cells.get(prefix)
        if known is None:
            self.cells[prefix] = changes
        else:
            known.update(changes)

    def put_in_cells(self, suffix_bytes: int, rows: Iterable[tuple[bytes, bytes]]) -> None:
        for row_key, value in rows:
            self.put_cell(row_key[:-suffix_bytes], {row_key[-suffix_bytes:]: value})

    def forget_tails(self, table: TailEncoder, key: Any) -> None:
        """The list is written anew."""
        for _suffix, tails in self.tails_of(table):
            tails.pop(key, None)

    def tails_of(self, table: TailEncoder) -> list[tuple[bytes, dict[Any, list[Any]]]]:
        """The table itself may have left the cache and come again."""
        return [(suffix, tails) for other, suffix, tails in self.tails if other.place == table.place]

    def clear_cell(self, prefix: bytes) -> None:
        self.cells.pop(prefix, None)
        self.cleared[prefix] = None

    def is_empty(self) -> bool:
        return not (self.values or self.rows or self.cells or self.tails or self.cleared)

    def cut(self) -> list[Callable[[RowStore], list[Row]]]:
        """The pieces of this layer, in the reverse order of writing: clearing goes before the rest."""
        pieces: list[Callable[[RowStore], list[Row]]] = []
        for table, entries in self.values.values():
            pieces += [_encoding(table, part, entries) for part in _parts(table.in_order(entries))]
        pieces += [_as_is(part) for part in _parts(self.rows.items())]
        for lists, suffix, tails in self.tails:
            pieces += [_encoding_tails(lists, suffix, part, tails) for part in _parts(lists.in_order(tails))]
        changes = ((prefix + suffix, value) for prefix, cell in self.cells.items() for suffix, value in cell.items())
        pieces += [_as_is(part) for part in _parts(changes)]
        pieces += [_clearing(part) for part in _parts(self.cleared)]
        return pieces


def _parts(items: Iterable[Any]) -> Iterator[list[Any]]:
    rest = iter(items)
    while part := list(islice(rest, PIECE_ROWS)):
        yield part


def _encoding(table: Encoder, keys: list[Any], entries: dict[Any, Any]) -> Callable[[RowStore], list[Row]]:
    return lambda store: table.encode_rows(keys, list(map(entries.__getitem__, keys)))


def _encoding_tails(
    table: TailEncoder, suffix: bytes, keys: list[Any], tails: dict[Any, list[Any]]
) -> Callable[[RowStore], list[Row]]:
    return lambda store: [*table.encode_tails(suffix, keys, list(map(tails.__getitem__, keys)))]


def _as_is(rows: list[Row]) -> Callable[[RowStore], list[Row]]:
    return lambda store: rows


def _clearing(prefixes: list[bytes]) -> Callable[[RowStore], list[Row]]:
    return lambda store: [(key, None) for prefix in prefixes for key in _last_rows(store, prefix)]


def _last_rows(store: RowStore, prefix: bytes) -> list[bytes]:
    """Delete the rows of a cell, which may be a large map, but for the last ones: those are the keys given."""
    start = b""
    while len(keys := [key for key, _value in store.scan(prefix, PIECE_ROWS, start)]) == PIECE_ROWS:
        store.write([(key, None) for key in keys])
        start = keys[-1][len(prefix) :] + b"\0"
    return keys


def with_tails(table: TailEncoder, key: Any, prefix: bytes, layer: Layer) -> Layer:
    """What a layer says of one list."""
    added = [(suffix, tails[key]) for suffix, tails in layer.tails_of(table) if key in tails]
    if not added:
        return layer
    rows = {**layer.cells.get(prefix, {})}
    for suffix, elements in added:
        ((_row_key, rows[suffix]),) = table.encode_tails(suffix, [key], [elements])
    return Layer(cells={prefix: rows}, cleared=layer.cleared)


def merged(
    prefix: bytes,
    stored: list[tuple[bytes, bytes]],
    layers: tuple[Layer, ...],
    start: bytes = b"",
    end: bytes | None = None,
) -> dict[bytes, bytes]:
    """Rows of a cell by their suffix, as the layers above the store leave them; of the layers' those between bounds."""
    cut = len(prefix)
    rows: dict[bytes, bytes | None] = {key[cut:]: value for key, value in stored}
    changed = False
    for layer in layers:
        if prefix in layer.cleared:
            rows = {}
        cell = layer.cells.get(prefix)
        if cell is not None:
            if start or end is not None:
                cell = {suffix: cell[suffix] for suffix in cell if start <= suffix and (end is None or suffix < end)}
            rows.update(cell)
            changed = True
    if not changed:
        return rows  # type: ignore[return-value]  # nothing is deleted in the store itself
    return {suffix: value for suffix, value in sorted(rows.items()) if value is not None}
