"""Rows in dicts, for state that fits into memory.

A checkpoint takes all rows at once and writes them as one Arrow file of sorted record batches (key, value). A batch
ends with a key group, and the schema's metadata says with which, so that a restore reads only the batches it wants.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path

import msgspec
import pyarrow as pa

from .errors import DamagedCheckpointError
from .key_groups import KeyGroupRange
from .objects import Program
from .row_keys import group_of, prefix_length, state_prefix
from .snapshots import FileHandle
from .statistics import StateStatistics
from .write_queue import Row, Uploads

ROWS_FILE = "rows.arrow"
_LAST_GROUPS = b"last key group of every batch"
_BATCH_ROWS = 4_096
_COLUMNS = pa.schema([("key", pa.binary()), ("value", pa.binary())])


class HeapCheckpoint:
    """All rows of one moment."""

    def __init__(self, rows: list[tuple[bytes, bytes]]) -> None:
        self._rows = rows

    def upload(self, uploads: Uploads) -> Program[dict[str, FileHandle]]:
        if not self._rows:
            return {}
        handle = yield from uploads.put_bytes(encode_rows_file(self._rows))
        return {ROWS_FILE: handle}

    def discard(self) -> None:
        self._rows = []


class HeapStore:
    """Rows of values by their key; rows of lists, maps and timers by cell, so that a cell is found without sorting."""

    kind = "heap"

    def __init__(self) -> None:
        self._values: dict[bytes, bytes] = {}
        self._cells: dict[bytes, dict[bytes, bytes]] = {}
        self._rows = 0
        self._bytes = 0

    def get(self, key: bytes) -> bytes | None:
        cut = prefix_length(key)
        if cut == len(key):
            return self._values.get(key)
        cell = self._cells.get(key[:cut])
        return None if cell is None else cell.get(key)

    def get_all(self, keys: list[bytes]) -> list[bytes | None]:
        return list(map(self.get, keys))

    def scan(self, prefix: bytes, most: int | None = None) -> list[tuple[bytes, bytes]]:
        cell = self._cells.get(prefix)
        return [] if cell is None else sorted(list(cell.items()))[:most]  # noqa: C414  the copy is atomic, sorting not

    def write(self, rows: list[Row]) -> None:
        for key, value in rows:
            cut = prefix_length(key)
            if cut == len(key):
                self._put(self._values, key, value)
                continue
            prefix = key[:cut]
            cell = self._cells.setdefault(prefix, {})
            self._put(cell, key, value)
            if not cell:
                del self._cells[prefix]

    def _put(self, target: dict[bytes, bytes], key: bytes, value: bytes | None) -> None:
        before = target.pop(key, None) if value is None else target.get(key)
        if before is not None:
            self._rows -= 1
            self._bytes -= len(key) + len(before)
        if value is not None:
            target[key] = value
            self._rows += 1
            self._bytes += len(key) + len(value)

    def statistics(self) -> StateStatistics:
        """Exact; bytes of keys and values alone, of which Python needs several times as many."""
        return StateStatistics(self._bytes, self._rows)

    def rows_of_state(self, state_id: int, groups: KeyGroupRange) -> Iterator[tuple[bytes, bytes]]:
        wanted = {state_prefix(group, state_id) for group in range(groups.first, groups.last + 1)}
        return iter(sorted(row for row in self._all() if row[0][:4] in wanted))

    def _all(self) -> list[tuple[bytes, bytes]]:
        rows = list(self._values.items())
        for cell in self._cells.values():
            rows += cell.items()
        return rows

    def checkpoint(self, checkpoint_id: int) -> HeapCheckpoint:
        return HeapCheckpoint(self._all())

    def checkpoint_completed(self, checkpoint_id: int) -> None: ...

    def checkpoint_aborted(self, checkpoint_id: int) -> None: ...

    def close(self) -> None:
        self._values, self._cells = {}, {}


def encode_rows_file(rows: Iterable[tuple[bytes, bytes]]) -> bytes:
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
    with pa.ipc.new_file(sink, schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
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
