"""Cells of maps: each knows some of its map's entries, and which of them changed.

A map is stored entry by entry, and read so, until it pays to read the rest of it (`scan_at`).
"""

from __future__ import annotations

from typing import Any

from .cell_cache import MISSING, Missing, Table
from .errors import StateError
from .key_encoding import decode_key, encode_key
from .serializers import Serializer
from .write_queue import Layer

_UNKNOWN: Any = Missing()
"""Where MISSING means that it is known that there is nothing."""


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
            self.mark(key, cell)
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
            self.mark(key, cell)
        else:
            changed.pop(user_key, None)
            entries.pop(user_key, None)
        cell.order = None

    def touched(self, key: Any, cell: MapCell, user_key: Any) -> None:
        """An entry that is there may change in place."""
        if user_key not in cell.changed:
            cell.changed[user_key] = True
            self.mark(key, cell)

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
            self.mark(key, cell)

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
