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
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from operator import itemgetter
from typing import Any

from ..errors import CheckpointError
from .layers import Encoder, Layer, Marker, TailEncoder, merged, with_tails
from .row_store import LocalCheckpoint, Row, RowStore

_BY_KEY = itemgetter(0)
_NOTHING_SAID: Any = object()
"""By the layers: the store has to be asked."""


class WriteQueue:
    """The layers over one store. All methods but `reach` belong to the slot's thread."""

    def __init__(self, store: RowStore) -> None:
        self._store = store
        self.fetched = 0
        """Cells that the cache had to ask for: its misses."""
        self.written = 0
        """Rows so far."""
        self._layers: tuple[Layer, ...] = ()
        """Replaced as a whole: a reader takes it before it reads the store, so that it misses nothing."""
        self._writing = threading.Lock()
        self._changing = threading.Lock()
        self.closed = False

    # ---- reads

    def leaving(self, table: Encoder) -> list[dict[Any, Any]]:
        """The objects on their way for the keys of a table, newest first."""
        return [known[1] for layer in reversed(self._layers) if (known := layer.values.get(table.place)) is not None]

    def stored(self, row_key: bytes) -> bytes | None:
        """What the store has, after nothing was found `leaving`."""
        return self._store.get(row_key)

    def stored_all(self, row_keys: list[bytes]) -> list[bytes | None]:
        return self._store.get_all(row_keys)

    def stored_from(self, place: bytes, position: bytes, most: int) -> list[bytes]:
        """Keys of the rows that an ordered store has next of a key group and state, after what was found `leaving`."""
        rows, _position = self._store.some_of(place, position, most)
        return [row_key for row_key, _value in rows]

    def get_all(self, row_keys: list[bytes]) -> list[bytes | None]:
        return list(map(self.get, row_keys)) if self._layers else self._store.get_all(row_keys)

    def get(self, row_key: bytes) -> bytes | None:
        layers = self._layers
        for layer in reversed(layers):
            if row_key in layer.rows:
                return layer.rows[row_key]
        return self._store.get(row_key)

    def get_in_cell(self, prefix: bytes, suffix: bytes) -> bytes | None:
        row = _in_layers(self._layers, prefix, suffix)
        return self._store.get(prefix + suffix) if row is _NOTHING_SAID else row

    def get_in_cells(self, places: list[tuple[bytes, bytes]]) -> list[bytes | None]:
        """For each (prefix, suffix)."""
        layers = self._layers
        found = [_in_layers(layers, prefix, suffix) for prefix, suffix in places]
        below = [prefix + suffix for (prefix, suffix), row in zip(places, found, strict=True) if row is _NOTHING_SAID]
        stored = iter(self._store.get_all(below)) if below else iter(())
        return [next(stored) if row is _NOTHING_SAID else row for row in found]

    def scan(self, prefix: bytes) -> dict[bytes, bytes]:
        """The rows of a cell by their suffix, in order."""
        layers = self._layers
        return merged(prefix, self._store.scan(prefix), layers)

    def scan_list(self, table: TailEncoder, key: Any, prefix: bytes, most: int | None = None) -> dict[bytes, bytes]:
        """The same for a list, of which elements may be here that are not encoded yet. `most`: chunks from the store,
        the first; then what follows is not all."""
        layers = tuple(map(partial(with_tails, table, key, prefix), self._layers))
        return merged(prefix, self._store.scan(prefix, most), layers)

    def scan_if_small(self, prefix: bytes, most: int) -> dict[bytes, bytes] | None:
        """The same, if the store has no more than `most` rows of the cell."""
        layers = self._layers
        stored = self._store.scan(prefix, most + 1)
        return None if len(stored) > most else merged(prefix, stored, layers)

    def scan_part(
        self, prefix: bytes, start: bytes, end: bytes | None, most: int
    ) -> tuple[dict[bytes, bytes], bytes | None]:
        """The next rows of a cell by their suffix, of which `most` from the store; and the suffix to go on from, None
        at the end."""
        layers = self._layers
        if any(prefix in layer.cleared for layer in layers):
            return merged(prefix, [], layers, start, end), None
        stored = self._store.scan(prefix, most, start, end)
        after = stored[-1][0][len(prefix) :] + b"\0" if len(stored) == most else None
        return merged(prefix, stored, layers, start, end if after is None else after), after

    # ---- changes

    def open_layer(self) -> Layer:
        """The layer that takes what leaves the cache now."""
        with self._changing:
            if not self._layers or self._layers[-1].marker is not None or self._layers[-1].pieces is not None:
                self._layers = (*self._layers, Layer())
            return self._layers[-1]

    def seal(self, layer: Layer, checkpoint_id: int, take: Callable[[], LocalCheckpoint]) -> Marker:
        """The open layer is the last one before this barrier. `take`: the store's checkpoint, or what else is made of
        its rows."""
        layer.marker = Marker(checkpoint_id, take)
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
        if self._is_sealed():
            return
        if self._layers and self._writing.acquire(blocking=False):
            try:
                self._write_piece(self._layers[0])
            finally:
                self._writing.release()

    def remove_dead(
        self, place: bytes, position: Any, most: int, is_dead: Callable[[bytes], bool]
    ) -> tuple[int, int, Any] | None:
        """Look at some rows of the store (see `some_of`) and remove those that are dead: what is above them was written
        later. Gives how many were looked at, how many of these were dead, and where to go on; None when a snapshot is
        pending."""
        if self._is_sealed() or not self._writing.acquire(blocking=False):
            return None
        try:
            rows, position = self._store.some_of(place, position, most)
            dead: list[Row] = [(key, None) for key, row in rows if is_dead(row)]
            if dead:
                dead.sort(key=_BY_KEY)
                self._store.write(dead)
            return len(rows), len(dead), position
        finally:
            self._writing.release()

    def look_at(self, place: bytes, position: Any, most: int) -> tuple[list[tuple[bytes, bytes]], Any] | None:
        """Some rows of the store (see `some_of`); None when they are being written."""
        if not self._writing.acquire(blocking=False):
            return None
        try:
            return self._store.some_of(place, position, most)
        finally:
            self._writing.release()

    def _is_sealed(self) -> bool:
        return any(layer.marker is not None and layer.marker.wanted for layer in self._layers)

    # ---- on a helper thread

    def reach(self, marker: Marker) -> LocalCheckpoint:
        """Write everything up to a marker and give the store's checkpoint of that moment."""
        with self._writing:
            marker.claimed = True
            while True:
                if self.closed or not marker.wanted:
                    raise CheckpointError(f"checkpoint {marker.checkpoint_id} was aborted before its state was written")
                if marker.checkpoint is not None:
                    return marker.checkpoint
                self._write_piece(self._layers[0])

    def close(self) -> None:
        """Write nothing more; waits until nobody writes."""
        if not self.closed:
            self.closed = True
            with self._writing:
                self._store.close()

    def write_all(self) -> None:
        """Everything that is in the layers now, those that snapshots wait for included: their checkpoints are taken
        where they belong, as `reach` does it. Waits for a helper thread that is writing."""
        with self._writing:
            while self._layers:
                self._write_piece(self._layers[0])

    def _write_piece(self, layer: Layer) -> None:
        """The next piece of the first layer; with the last one the layer is done."""
        if layer.pieces is None:
            layer.pieces = layer.cut()
        if layer.pieces:
            rows = layer.pieces[-1](self._store)
            rows.sort(key=_BY_KEY)
            self._store.write(rows)
            self.written += len(rows)
            layer.pieces.pop()
        if layer.pieces:
            return
        if layer.marker is not None and layer.marker.wanted:
            layer.marker.checkpoint = layer.marker.take()
        with self._changing:
            self._layers = tuple(other for other in self._layers if other is not layer)


def _in_layers(layers: tuple[Layer, ...], prefix: bytes, suffix: bytes) -> bytes | None:
    """A row as the newest layer that knows it leaves it, else _NOTHING_SAID."""
    for layer in reversed(layers):
        cell = layer.cells.get(prefix)
        if cell is not None and suffix in cell:
            return cell[suffix]
        if prefix in layer.cleared:
            return None
    nothing: None = _NOTHING_SAID
    return nothing
