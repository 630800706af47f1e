"""What the cache has let go of and the row store does not have yet (PROTOCOLS 15).

A `Layer` is a set of changes of one moment; layers stand in a queue and reach the store in that order. Reads go
cache -> layers, newest first -> store, so nobody can tell which of them has been written already.

  rotation, trickling   the slot's thread puts cells that left the cache into the open layer, the last one
  barrier               the slot's thread puts all dirty cells into a layer, and seals it with the snapshot's marker
  write-out             layers are written in order, in sorted pieces of at most `PIECE_ROWS`:
                        by the slot's thread, a piece between two batches, while no barrier is pending;
                        by the snapshot's program on a helper thread otherwise, and then the slot writes nothing

When the layers up to a marker are in the store, the store's local checkpoint is taken before anything newer is
written. A program that runs before that of an earlier barrier does this for the earlier one too, so overlapping
snapshots are right in whatever order their programs run. A program holds the lock only while it writes, never over
a yield; programs driven in turns by one thread therefore cannot wait for each other.

A piece leaves its layer only once it is written: a failed write, an aborted checkpoint or a program that never
runs lose nothing. A layer whose snapshot was aborted is written like any other.

Only immutable values are in layers as objects; everything else was encoded when it left the cache.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import Any, Protocol

from .errors import CheckpointError
from .key_groups import KeyGroupRange
from .objects import Program
from .snapshots import FileHandle
from .statistics import StateStatistics

PIECE_ROWS = 5_000
"""Rows per write: RocksDB's write holds the GIL, and sorting pays from some thousand on."""

_BY_KEY = itemgetter(0)

Row = tuple[bytes, bytes | None]
"""A row's key and value; None deletes."""


class Encoder(Protocol):
    """Turns the immutable objects of one cache table into rows; called on any thread."""

    @property
    def place(self) -> tuple[int, int]:
        """State id and namespace: the table itself may leave the cache and come again."""
        ...

    def in_order(self, entries: dict[Any, Any]) -> list[tuple[Any, Any]]:
        """Roughly in the order of their rows' keys: sorted within a piece is half of sorted."""
        ...

    def encode_rows(self, entries: list[tuple[Any, Any]]) -> list[Row]: ...


class Uploads(Protocol):
    """Where the files of one subtask's part of one checkpoint go; every object gets a name of its own."""

    def put_bytes(self, data: bytes, *, shared: bool = False) -> Program[FileHandle]: ...

    def put_file(self, path: Path, *, shared: bool = False) -> Program[FileHandle]: ...


class LocalCheckpoint(Protocol):
    """The rows of one moment, on this machine."""

    def upload(self, uploads: Uploads) -> Program[dict[str, FileHandle]]:
        """Upload what the object store does not have; gives all files, under their local names."""
        ...

    def discard(self) -> None:
        """Free what is kept here. May be called at any time, more than once."""
        ...


class RowStore(Protocol):
    """Ordered bytes to bytes. Reads come from the slot's thread, also while a helper thread writes."""

    @property
    def kind(self) -> str:
        """The backend's name in handles."""
        ...

    def get(self, key: bytes) -> bytes | None: ...

    def get_all(self, keys: list[bytes]) -> list[bytes | None]: ...

    def scan(self, prefix: bytes, most: int | None = None) -> list[tuple[bytes, bytes]]:
        """The rows of one cell, in order; the first `most` of them."""
        ...

    def write(self, rows: list[Row]) -> None:
        """Apply changes, sorted by key."""
        ...

    def rows_of_state(self, state_id: int, groups: KeyGroupRange) -> Iterator[tuple[bytes, bytes]]:
        """All rows of one state, in order. Not while anybody writes."""
        ...

    def checkpoint(self, checkpoint_id: int) -> LocalCheckpoint:
        """The present rows, kept apart from later writes."""
        ...

    def statistics(self) -> StateStatistics:
        """Of its rows. Not after it was closed."""
        ...

    def checkpoint_completed(self, checkpoint_id: int) -> None: ...

    def checkpoint_aborted(self, checkpoint_id: int) -> None: ...

    def close(self) -> None: ...


@dataclass(slots=True, eq=False)
class Marker:
    """A barrier in the queue: what its program waits for."""

    checkpoint_id: int
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

    def clear_cell(self, prefix: bytes) -> None:
        self.cells.pop(prefix, None)
        self.cleared[prefix] = None

    def is_empty(self) -> bool:
        return not (self.values or self.rows or self.cells or self.cleared)

    def cut(self) -> list[Callable[[RowStore], list[Row]]]:
        """The pieces of this layer, in the reverse order of writing: clearing goes before the rest."""
        pieces: list[Callable[[RowStore], list[Row]]] = []
        for table, entries in self.values.values():
            pieces += [_encoding(table, part) for part in _parts(table.in_order(entries))]
        pieces += [_as_is(part) for part in _parts(self.rows.items())]
        changes = ((prefix + suffix, value) for prefix, cell in self.cells.items() for suffix, value in cell.items())
        pieces += [_as_is(part) for part in _parts(changes)]
        pieces += [_clearing(part) for part in _parts(self.cleared)]
        return pieces


def _parts(items: Iterable[Any]) -> Iterator[list[Any]]:
    rest = iter(items)
    while part := list(islice(rest, PIECE_ROWS)):
        yield part


def _encoding(table: Encoder, entries: list[tuple[Any, Any]]) -> Callable[[RowStore], list[Row]]:
    return lambda store: table.encode_rows(entries)


def _as_is(rows: list[Row]) -> Callable[[RowStore], list[Row]]:
    return lambda store: rows


def _clearing(prefixes: list[bytes]) -> Callable[[RowStore], list[Row]]:
    return lambda store: [(key, None) for prefix in prefixes for key, _value in store.scan(prefix)]


class WriteQueue:
    """The layers over one store. All methods but `reach` belong to the slot's thread."""

    def __init__(self, store: RowStore) -> None:
        self._store = store
        self.fetched = 0
        """Cells that the cache had to ask for: its misses."""
        self._layers: tuple[Layer, ...] = ()
        """Replaced as a whole: a reader takes it before it reads the store, so that it misses nothing."""
        self._writing = threading.Lock()
        self._changing = threading.Lock()
        self._closed = False

    # ---- reads

    def leaving(self, table: Encoder) -> list[dict[Any, Any]]:
        """The objects on their way for the keys of a table, newest first."""
        return [known[1] for layer in reversed(self._layers) if (known := layer.values.get(table.place)) is not None]

    def stored(self, row_key: bytes) -> bytes | None:
        """What the store has, after nothing was found `leaving`."""
        return self._store.get(row_key)

    def stored_all(self, row_keys: list[bytes]) -> list[bytes | None]:
        return self._store.get_all(row_keys)

    def get_all(self, row_keys: list[bytes]) -> list[bytes | None]:
        return list(map(self.get, row_keys)) if self._layers else self._store.get_all(row_keys)

    def get(self, row_key: bytes) -> bytes | None:
        layers = self._layers
        for layer in reversed(layers):
            if row_key in layer.rows:
                return layer.rows[row_key]
        return self._store.get(row_key)

    def get_in_cell(self, prefix: bytes, suffix: bytes) -> bytes | None:
        layers = self._layers
        for layer in reversed(layers):
            cell = layer.cells.get(prefix)
            if cell is not None and suffix in cell:
                return cell[suffix]
            if prefix in layer.cleared:
                return None
        return self._store.get(prefix + suffix)

    def scan(self, prefix: bytes) -> dict[bytes, bytes]:
        """The rows of a cell by their suffix, in order."""
        layers = self._layers
        return _merged(prefix, self._store.scan(prefix), layers)

    def scan_if_small(self, prefix: bytes, most: int) -> dict[bytes, bytes] | None:
        """The same, if the store has no more than `most` rows of the cell."""
        layers = self._layers
        stored = self._store.scan(prefix, most + 1)
        return None if len(stored) > most else _merged(prefix, stored, layers)

    # ---- changes

    def open_layer(self) -> Layer:
        """The layer that takes what leaves the cache now."""
        with self._changing:
            if not self._layers or self._layers[-1].marker is not None or self._layers[-1].pieces is not None:
                self._layers = (*self._layers, Layer())
            return self._layers[-1]

    def seal(self, layer: Layer, checkpoint_id: int) -> Marker:
        """The open layer is the last one before this barrier."""
        layer.marker = Marker(checkpoint_id)
        return layer.marker

    def forget(self, marker: Marker) -> None:
        """The snapshot is not wanted any more; what its layers hold is written all the same."""
        marker.wanted = False
        if marker.checkpoint is not None and not marker.claimed:
            marker.checkpoint.discard()

    @property
    def waiting(self) -> bool:
        return bool(self._layers)

    def write_some(self) -> None:
        """Write one piece, unless that is a pending snapshot's business."""
        if any(layer.marker is not None and layer.marker.wanted for layer in self._layers):
            return
        if self._layers and self._writing.acquire(blocking=False):
            try:
                self._write_piece(self._layers[0])
            finally:
                self._writing.release()

    # ---- on a helper thread

    def reach(self, marker: Marker) -> LocalCheckpoint:
        """Write everything up to a marker and give the store's checkpoint of that moment."""
        with self._writing:
            marker.claimed = True
            while True:
                if self._closed or not marker.wanted:
                    raise CheckpointError(f"checkpoint {marker.checkpoint_id} was aborted before its state was written")
                if marker.checkpoint is not None:
                    return marker.checkpoint
                self._write_piece(self._layers[0])

    def close(self) -> None:
        """Write nothing more; waits until nobody writes."""
        if not self._closed:
            self._closed = True
            with self._writing:
                self._store.close()

    def _write_piece(self, layer: Layer) -> None:
        """The next piece of the first layer; with the last one the layer is done."""
        if layer.pieces is None:
            layer.pieces = layer.cut()
        if layer.pieces:
            rows = layer.pieces[-1](self._store)
            rows.sort(key=_BY_KEY)
            self._store.write(rows)
            layer.pieces.pop()
        if layer.pieces:
            return
        if layer.marker is not None and layer.marker.wanted:
            layer.marker.checkpoint = self._store.checkpoint(layer.marker.checkpoint_id)
        with self._changing:
            self._layers = tuple(other for other in self._layers if other is not layer)


def _merged(prefix: bytes, stored: list[tuple[bytes, bytes]], layers: tuple[Layer, ...]) -> dict[bytes, bytes]:
    """Rows of a cell by their suffix, as the layers above the store leave them."""
    cut = len(prefix)
    rows: dict[bytes, bytes | None] = {key[cut:]: value for key, value in stored}
    changed = False
    for layer in layers:
        if prefix in layer.cleared:
            rows = {}
        cell = layer.cells.get(prefix)
        if cell is not None:
            rows.update(cell)
            changed = True
    if not changed:
        return rows  # type: ignore[return-value]  # nothing is deleted in the store itself
    return {suffix: value for suffix, value in sorted(rows.items()) if value is not None}
