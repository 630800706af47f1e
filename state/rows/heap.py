"""Rows in dicts, for state that fits into memory.

A checkpoint takes all rows at once and writes them as one Arrow file of sorted record batches (key, value). A batch
ends with a key group, and the schema's metadata says with which, so that a restore reads only the batches it wants.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby, islice
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec
import pyarrow as pa

from ..errors import DamagedCheckpointError
from ..key_groups import KeyGroupRange
from ..snapshots import FileHandle
from ..statistics import StateStatistics
from ..store.objects import Program
from .row_keys import PLACE_BYTES, group_of, prefix_length, state_prefix
from .row_store import Row, Uploads
from .ttl import DeadRows

ROWS_FILE = "rows.arrow"
_LAST_GROUPS = b"last key group of every batch"
_BATCH_ROWS = 4_096
_NOTHING: Mapping[bytes, bytes] = MappingProxyType({})
_NO_CELLS: Mapping[bytes, _Cell] = MappingProxyType({})
_COLUMNS = pa.schema([("key", pa.binary()), ("value", pa.binary())])


class HeapCheckpoint:
    """All rows of one moment."""

    def __init__(self, rows: list[tuple[bytes, bytes]], compress: bool) -> None:
        self._rows = rows
        self._compress = compress

    def upload(self, uploads: Uploads) -> Program[dict[str, FileHandle]]:
        if not self._rows:
            return {}
        handle = yield from uploads.put_bytes(encode_rows_file(self._rows, compress=self._compress))
        return {ROWS_FILE: handle}

    def discard(self) -> None:
        self._rows = []


class FrozenHeap:
    """All rows of one moment, by the first bytes of their keys."""

    def __init__(self, places: dict[bytes, list[tuple[bytes, bytes]]]) -> None:
        self._places = places

    def rows_of_state(self, state_id: int, groups: KeyGroupRange) -> Iterator[tuple[bytes, bytes]]:
        for group in range(groups.first, groups.last + 1):
            yield from sorted(self._places.pop(state_prefix(group, state_id), ()))

    def discard(self) -> None:
        self._places = {}


class _Cell:
    """The rows of a list, map or of timers of one key."""

    __slots__ = ("keys_version", "order", "rows")

    def __init__(self) -> None:
        self.rows: dict[bytes, bytes] = {}
        self.keys_version = 0
        """Changes when a key is added. What a helper thread writes meanwhile is not in an order of before."""
        self.order: tuple[int, list[bytes]] = (0, [])
        """All keys in order, and the version they are of; deleted ones may be among them."""

    def in_order(self) -> list[bytes]:
        version, keys = self.order
        if version != self.keys_version:
            version, keys = self.keys_version, sorted(list(self.rows))  # noqa: C414  the copy is atomic, sorting not
            self.order = (version, keys)
        return keys


class HeapStore:
    """Rows by key group and state; those of lists, maps and timers by cell, so that a cell is found without sorting."""

    kind = "heap"
    ordered = False

    def __init__(self, *, compress: bool = True) -> None:
        """compress: the rows in checkpoints."""
        self._compress = compress
        self._values: dict[bytes, dict[bytes, bytes]] = {}
        """Per first bytes of the row's key: rows of values."""
        self._cells: dict[bytes, dict[bytes, _Cell]] = {}
        """Per first bytes: prefix -> cell."""
        self._rows = 0
        self._bytes = 0

    def get(self, key: bytes) -> bytes | None:
        cut = prefix_length(key)
        if cut == len(key):
            return self._values.get(key[:PLACE_BYTES], _NOTHING).get(key)
        cell = self._cells.get(key[:PLACE_BYTES], _NO_CELLS).get(key[:cut])
        return None if cell is None else cell.rows.get(key)

    def get_all(self, keys: list[bytes]) -> list[bytes | None]:
        return list(map(self.get, keys))

    def scan(
        self, prefix: bytes, most: int | None = None, start: bytes = b"", end: bytes | None = None
    ) -> list[tuple[bytes, bytes]]:
        cell = self._cells.get(prefix[:PLACE_BYTES], _NO_CELLS).get(prefix)
        if cell is None:
            return []
        keys, rows = cell.in_order(), cell.rows
        first = bisect_left(keys, prefix + start) if start else 0
        last = len(keys) if end is None else bisect_left(keys, prefix + end)
        found = ((key, rows.get(key)) for key in islice(keys, first, last))
        return list(islice(((key, value) for key, value in found if value is not None), most))

    def write(self, rows: list[Row]) -> None:
        for key, value in rows:
            cut, place = prefix_length(key), key[:PLACE_BYTES]
            if cut == len(key):
                self._put(self._values.setdefault(place, {}), key, value)
                continue
            prefix, cells = key[:cut], self._cells.setdefault(place, {})
            cell = cells.get(prefix)
            if cell is None:
                cell = cells[prefix] = _Cell()
            if self._put(cell.rows, key, value):
                cell.keys_version += 1
            if not cell.rows:
                del cells[prefix]

    def _put(self, target: dict[bytes, bytes], key: bytes, value: bytes | None) -> bool:
        """True when the key is new."""
        before = target.pop(key, None) if value is None else target.get(key)
        if before is not None:
            self._rows -= 1
            self._bytes -= len(key) + len(before)
        if value is not None:
            target[key] = value
            self._rows += 1
            self._bytes += len(key) + len(value)
        return before is None and value is not None

    def statistics(self) -> StateStatistics:
        """Exact; bytes of keys and values alone, of which Python needs several times as many."""
        return StateStatistics(self._bytes, self._rows)

    def rows_of_state(self, state_id: int, groups: KeyGroupRange) -> Iterator[tuple[bytes, bytes]]:
        for group in range(groups.first, groups.last + 1):
            yield from sorted(self._of_place(state_prefix(group, state_id)))

    def some_of(self, place: bytes, position: Any, most: int) -> tuple[list[tuple[bytes, bytes]], Any]:
        if position is None:
            position = iter([*self._values.get(place, ()), *self._cells.get(place, ())])
        values, cells = self._values.get(place, _NOTHING), self._cells.get(place, _NO_CELLS)
        rows: list[tuple[bytes, bytes]] = []
        for key in position:
            cell = cells.get(key)
            value = values.get(key)
            rows += [] if cell is None else cell.rows.items()
            rows += [] if value is None else [(key, value)]
            if len(rows) >= most:
                return rows, position
        return rows, None

    def _of_place(self, place: bytes) -> list[tuple[bytes, bytes]]:
        rows = list(self._values.get(place, _NOTHING).items())
        for cell in self._cells.get(place, _NO_CELLS).values():
            rows += cell.rows.items()
        return rows

    def checkpoint(self, checkpoint_id: int, dead: DeadRows) -> HeapCheckpoint:
        rows = [row for place in {*self._values, *self._cells} for row in self._of_place(place)]
        return HeapCheckpoint([row for row in rows if not dead(*row)] if dead else rows, self._compress)

    def freeze(self) -> FrozenHeap:
        return FrozenHeap({place: self._of_place(place) for place in {*self._values, *self._cells}})

    def checkpoint_completed(self, checkpoint_id: int) -> None: ...

    def checkpoint_aborted(self, checkpoint_id: int) -> None: ...

    def close(self) -> None:
        self._values, self._cells = {}, {}


def encode_rows_file(rows: Iterable[tuple[bytes, bytes]], *, compress: bool) -> bytes:
    batches: list[pa.RecordBatch] = []
    last_groups: list[int] = []
    pending: list[tuple[bytes, bytes]] = []
    group = 0
    for group, members in groupby(sorted(rows), key=lambda row: group_of(row[0])):
        pending += members
        if len(pending) >= _BATCH_ROWS:
            batches.append(_batch(pending))
            last_groups.append(group)
            pending = []
    if pending:
        batches.append(_batch(pending))
        last_groups.append(group)
    schema = _COLUMNS.with_metadata({_LAST_GROUPS: msgspec.json.encode(last_groups)})
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="lz4" if compress else None)
    with pa.ipc.new_file(sink, schema, options=options) as writer:
        for batch in batches:
            writer.write_batch(batch)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _batch(rows: list[tuple[bytes, bytes]]) -> pa.RecordBatch:
    keys, values = zip(*rows, strict=True)
    return pa.RecordBatch.from_arrays([pa.array(keys, pa.binary()), pa.array(values, pa.binary())], schema=_COLUMNS)


def read_rows_file(path: Path, wanted: KeyGroupRange) -> Iterator[tuple[bytes, bytes]]:
    """Rows of the wanted key groups, in order."""
    try:
        with pa.memory_map(str(path)) as source:
            reader = pa.ipc.open_file(source)
            first = 0
            last_groups = msgspec.json.decode(reader.schema.metadata[_LAST_GROUPS], type=list[int])
            for number, last in enumerate(last_groups):
                if len(wanted.intersection(KeyGroupRange(first, last))):
                    keys, values = reader.get_batch(number).columns
                    rows = zip(keys.to_pylist(), values.to_pylist(), strict=True)
                    yield from (row for row in rows if group_of(row[0]) in wanted)
                first = last + 1
    except (pa.ArrowInvalid, OSError, KeyError, TypeError, msgspec.DecodeError) as error:
        raise DamagedCheckpointError(f"the state file {path.name} cannot be read: {error}") from error
