"""Cells of maps: each knows some of its map's entries, and which of them changed.

A map is stored entry by entry, and read so, until it pays to read the rest of it (`scan_at`). Iterating reads parts
(`part`), in the order of the keys' encoding, and puts what changed over what is stored; a map that turned out to be
small is known whole then, so that iterating again asks nobody below. A cell that has grown too big is written and
forgotten between two batches (`shed`), so a map may be larger than the cache.

What was removed stands in `entries` as MISSING only as long as the map is not known whole: else iterating over what is
left would cost what was removed since the last write, too.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from itertools import islice
from operator import itemgetter
from typing import Any

from ..errors import StateError
from ..key_encoding import decode_key, encode_key
from .cell_cache import MISSING, Codec, Missing, Table
from .layers import Layer

UNKNOWN: Any = Missing()
"""Where MISSING means that it is known that there is nothing."""

_FIRST_SCAN, _LAST_SCAN = 4, 64
"""A scan costs about as much as four looks, and a look as much as 16 rows of a scan: trying it after 4, 16 and 64
looks, and giving up at 16 rows a look, never costs more than the looks did. It pays from then on: of a map that is
known completely nobody has to ask below, not even for what is not there."""
_ROWS_PER_LOOK = 16
_SMALL = 64
"""Rows of a map that are read with those of others, before anybody has asked for them all."""
_FEW = 8
"""A sorted list takes in one new element of so many, or less, one by one."""
_MOST_ENTRIES = 4_096
"""A cell with more is not kept beyond the batch."""

_BY_SUFFIX = itemgetter(0)


class _Order:
    """The keys of a dict in the order of their encoding; what is added to the dict later is taken in."""

    __slots__ = ("_pairs", "_seen")

    def __init__(self) -> None:
        self._pairs: list[tuple[bytes, Any]] = []
        self._seen = 0

    def between(self, keys: dict[Any, Any], start: bytes, end: bytes | None) -> list[tuple[bytes, Any]]:
        """(encoded key, key) of those from `start` on and before `end`. It was told what was removed from the dict."""
        pairs, new = self._pairs, len(keys) - self._seen
        if new:
            added = [(encode_key(key), key) for key in islice(reversed(keys), new)]
            if new * _FEW < len(pairs):
                for pair in added:
                    insort(pairs, pair, key=_BY_SUFFIX)
            else:
                pairs += added
                pairs.sort(key=_BY_SUFFIX)
            self._seen = len(keys)
        first = bisect_left(pairs, start, key=_BY_SUFFIX)
        return pairs[first : None if end is None else bisect_left(pairs, end, key=_BY_SUFFIX)]

    def discard(self, key: Any) -> None:
        """It is removed from the dict."""
        pairs, suffix = self._pairs, encode_key(key)
        position = bisect_left(pairs, suffix, key=_BY_SUFFIX)
        if position < len(pairs) and pairs[position][0] == suffix:  # else it came since
            del pairs[position]
            self._seen -= 1


class MapCell:
    """A map of one key, as far as it is known."""

    __slots__ = ("big", "changed", "cleared", "complete", "entries", "looks", "order", "scan_at")

    def __init__(self) -> None:
        self.entries: dict[Any, Any] = {}
        """What is known of the map; MISSING where it is known that there is no entry, unless all is known."""
        self.changed: dict[Any, bool] = {}
        """Entries that are not as they are below, and whether there may be a row below: if there is none, an entry
        that is removed again leaves no trace."""
        self.complete = False
        """All entries of the map are known."""
        self.big = False
        """It was not small when that was asked last."""
        self.cleared = False
        """Everything below is void. Such a cell is complete."""
        self.order: _Order | None = None
        """Of all entries if they are known, else of those that changed; None when that must be found out."""
        self.looks = 0
        """Entries asked for below, one by one."""
        self.scan_at = _FIRST_SCAN
        """After so many looks the rest of the map is read, unless it is much bigger than that."""

    def live(self, start: bytes, end: bytes | None) -> list[Any]:
        """The keys of a complete map, in order."""
        if len(self.entries) < 2 and not start and end is None:
            return list(self.entries)
        return [user_key for _suffix, user_key in self.ordered(start, end)]

    def ordered(self, start: bytes, end: bytes | None) -> list[tuple[bytes, Any]]:
        """(suffix, key) of the entries that `order` is about."""
        if self.order is None:
            self.order = _Order()
        return self.order.between(self.entries if self.complete else self.changed, start, end)


class MapTable(Table[MapCell]):
    """A map is stored entry by entry."""

    def __init__(self, *place: Any, serializer: Codec) -> None:
        super().__init__(*place)
        self._serializer = serializer
        self.grown = 0
        """Entries that came into the cache since that was last counted."""
        self._crowded: dict[Any, MapCell] = {}
        """Cells that may have too many entries."""

    def _fetch(self, key: Any) -> MapCell:
        return MapCell()

    def know(self, keys: Sequence[Any]) -> int:
        """The maps of these keys are known whole afterwards, as far as they are small. Gives how many cells have come
        into the young generation."""
        cells, admitted = self.read_all(keys)
        unknown = {key: cell for key, cell in zip(keys, cells, strict=True) if not (cell.complete or cell.big)}
        by_prefix = zip(self.prefixes(list(unknown)), unknown.values(), strict=True)
        for prefix, cell in sorted(by_prefix, key=_BY_SUFFIX):
            rows = self.queue.scan_if_small(prefix, _SMALL)
            if rows is None:
                cell.big = True
            else:
                self._fill(cell, rows)
        return admitted

    def look_up_all(self, keys: Sequence[Any], user_keys: Sequence[Any]) -> int:
        """Each key's entry of that user key is known afterwards, or that there is none; gives the same."""
        cells, admitted = self.read_all(keys)
        unknown = [
            (cell, key, user_key)
            for cell, key, user_key in zip(cells, keys, user_keys, strict=True)
            if not cell.complete and user_key not in cell.entries
        ]
        if unknown:
            prefixes = self.prefixes([key for _cell, key, _user_key in unknown])
            places = list(zip(prefixes, [encode_key(user_key) for _cell, _key, user_key in unknown], strict=True))
            for (cell, key, user_key), data in zip(unknown, self.queue.get_in_cells(places), strict=True):
                self.learn(key, cell, user_key, MISSING if data is None else self._serializer.decode(data))
        return admitted

    def lookup(self, key: Any, cell: MapCell, user_key: Any) -> Any:
        """The value of an entry, or MISSING."""
        value = cell.entries.get(user_key, UNKNOWN)
        if value is not UNKNOWN:
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
        value = MISSING if data is None else self._serializer.decode(data)
        self.learn(key, cell, user_key, value)
        return value

    def learn(self, key: Any, cell: MapCell, user_key: Any, value: Any) -> None:
        """An entry as it is below."""
        cell.entries[user_key] = value
        self._entered(key, cell)

    def decode(self, row: bytes) -> Any:
        return self._serializer.decode(row)

    def _fill(self, cell: MapCell, rows: dict[bytes, bytes]) -> None:
        """What is below, all of it; what is known already is newer."""
        entries, decode = cell.entries, self._serializer.decode
        for suffix, data in rows.items():
            user_key = decode_key(suffix)
            if user_key not in entries:
                entries[user_key] = decode(data)
        for user_key in [user_key for user_key, value in entries.items() if value is MISSING]:
            del entries[user_key]
        self.grown += len(rows)
        cell.complete = True
        cell.order = None

    def _entered(self, key: Any, cell: MapCell) -> None:
        self.grown += 1
        if len(cell.entries) > _MOST_ENTRIES:
            self._crowded[key] = cell

    def put(self, key: Any, cell: MapCell, user_key: Any, value: Any) -> None:
        entries, changed = cell.entries, cell.changed
        before = entries.get(user_key, UNKNOWN)
        if user_key not in changed:
            changed[user_key] = _may_be_below(cell, before)
            self.mark(key, cell)
        entries[user_key] = value
        if before is UNKNOWN:
            self._entered(key, cell)

    def remove(self, key: Any, cell: MapCell, user_key: Any) -> None:
        entries, changed = cell.entries, cell.changed
        below = changed.get(user_key)
        if below is None:
            below = _may_be_below(cell, entries.get(user_key, UNKNOWN))
        if below:
            changed[user_key] = True
            self.mark(key, cell)
        else:
            changed.pop(user_key, None)
        if below and not cell.complete:
            entries[user_key] = MISSING
        else:
            entries.pop(user_key, None)
            if cell.order is not None:
                cell.order.discard(user_key)

    def touched(self, key: Any, cell: MapCell, user_key: Any) -> None:
        """An entry that is there may change in place."""
        if user_key not in cell.changed:
            cell.changed[user_key] = True
            self.mark(key, cell)

    def part(
        self, key: Any, cell: MapCell, start: bytes, end: bytes | None, most: int, *, keep: bool = True
    ) -> tuple[list[tuple[Any, bytes | None]], bytes | None]:
        """The next entries from an encoded key on and before another one, in order: each one's key, and its row if
        nothing above knows better. At most `most` of them are read below; then where to go on, None at the end.
        `keep`: the cell may know more of the map afterwards."""
        if cell.complete:
            return [(user_key, None) for user_key in cell.live(start, end)], None
        rows, after = self.queue.scan_part(self.prefix(key), start, end, most)
        if keep and after is None and end is None and not start and len(rows) <= most:  # that is all of it
            self._fill(cell, rows)
            return [(user_key, None) for user_key in cell.live(start, end)], None
        changed = cell.ordered(start, end if after is None else after)
        if not changed:
            return [(decode_key(suffix), row) for suffix, row in rows.items()], after
        merged: dict[bytes, tuple[Any, bytes | None]] = {s: (UNKNOWN, row) for s, row in rows.items()}
        merged.update((suffix, (user_key, None)) for suffix, user_key in changed)
        return [
            (decode_key(suffix) if user_key is UNKNOWN else user_key, row)
            for suffix, (user_key, row) in sorted(merged.items(), key=_BY_SUFFIX)
        ], after

    def rows_of(self, key: Any, entry: bytes | None, most: int) -> list[tuple[bytes, bytes]]:
        cell = self.known(key)
        if cell is MISSING:
            cell = MapCell()
        if entry is None:
            found = self._all_parts(key, cell, most)
        else:
            below = None if cell.complete else self.queue.get_in_cell(self.prefix(key), entry)
            found = iter([(decode_key(entry), below)])
        known = ((user_key, row, cell.entries.get(user_key, UNKNOWN)) for user_key, row in found)
        rows = ((user_key, row if value is UNKNOWN else self._encode(value)) for user_key, row, value in known)
        live = ((encode_key(user_key), row) for user_key, row in rows if row is not None)
        return list(islice(live, most))

    def _all_parts(self, key: Any, cell: MapCell, most: int) -> Iterator[tuple[Any, bytes | None]]:
        """Of all parts, which are read as they are asked for; what was removed may be among it, and does not count."""
        position: bytes | None = b""
        while position is not None:
            part, position = self.part(key, cell, position, None, most, keep=False)
            yield from part

    def complete(self, key: Any, cell: MapCell) -> None:
        """Read the rest of a map that is small."""
        if not cell.complete:
            self._fill(cell, self.queue.scan(self.prefix(key)))

    def clear(self, key: Any, cell: MapCell) -> None:
        if cell.complete:
            cell.order = None
            for user_key in list(cell.entries):
                self.remove(key, cell, user_key)
        else:
            cell.entries, cell.changed, cell.cleared, cell.complete = {}, {}, True, True
            cell.order = None
            self.mark(key, cell)

    def shed(self, generation: int) -> None:
        """Write cells that have too many entries, and forget those."""
        for key, cell in self._crowded.items():
            if len(cell.entries) > _MOST_ENTRIES:
                self._write({key: cell}, self.queue.open_layer(), generation)
                cell.entries, cell.complete, cell.order = {}, False, None
        self._crowded = {}

    def _write(self, cells: dict[Any, MapCell], layer: Layer, generation: int) -> None:
        for cell, prefix in zip(cells.values(), self.prefixes(list(cells)), strict=True):
            entries = cell.entries
            if cell.cleared:
                layer.clear_cell(prefix)
            if cell.changed:
                layer.put_cell(prefix, {encode_key(k): self._encode(entries.get(k, MISSING)) for k in cell.changed})
            for user_key in cell.changed:  # what was removed need not be remembered once it is on its way
                if entries.get(user_key) is MISSING:
                    del entries[user_key]
            cell.cleared = False
            cell.changed = {}
            if not cell.complete:
                cell.order = None

    def _encode(self, value: Any) -> bytes | None:
        if value is MISSING:
            return None
        try:
            return self._serializer.encode(value)
        except StateError as error:
            raise self._failure(error) from error


def _may_be_below(cell: MapCell, known: Any) -> bool:
    """Of an entry that is not changed, from what the cell knows of it."""
    return known is not MISSING and not (known is UNKNOWN and cell.complete)
