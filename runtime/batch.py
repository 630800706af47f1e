"""A batch: n records and their event timestamps, with two faces.

`rows()` gives Python objects, `columns()` an Arrow record batch. The face a batch was built from is kept, the
other one is derived on demand from the stream's record type and remembered. Operators ask for the face they
want, so Python functions and vectorised operators mix freely in one pipeline.

A batch is immutable by convention: nobody changes the lists and arrays it hands out, except a user's function
that changes a record it was given (fan-out therefore gives each further branch its own rows, PROTOCOLS 24).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from .records.record_types import RecordType

NO_TIMESTAMP = -(2**63)
"""The event timestamp of a record that has none (PROTOCOLS 20)."""

Int64Array = npt.NDArray[np.int64]
KeyGroupArray = npt.NDArray[np.uint16]

_SAMPLED_ROWS = 8
_SLACK_BYTES = 1_024


class Batch:
    """n records of one type.

    keys: after a key_by, the normalised key of every row, or None when nobody has computed them yet.
    key_groups: after a hash exchange, uint16 key group of every row, or None likewise.
    keyed_by: whose keys and key groups these are: (selector's token, max parallelism of the groups), see keys.py. A
    batch may be keyed differently on several branches; a selector trusts only what is its own.
    row_kinds: room for a changelog's +I, -U, +U, -D (int8 0..3 of every row); None means all are +I (PROTOCOLS 29).
    """

    __slots__ = ("_columns", "_length", "_nbytes", "_rows", "_timestamp_list", "_timestamps", "key_groups", "keyed_by",
                 "keys", "record_type", "row_kinds")  # fmt: skip

    def __init__(
        self,
        record_type: RecordType,
        length: int,
        rows: list[Any] | None,
        columns: pa.RecordBatch | None,
        timestamps: Int64Array | None,
        timestamp_list: list[int] | None,
    ) -> None:
        self.record_type = record_type
        self._length = length
        self._rows = rows
        self._columns = columns
        self._timestamps = timestamps
        self._timestamp_list = timestamp_list
        self._nbytes = -1
        self.keys: list[Any] | None = None
        self.key_groups: KeyGroupArray | None = None
        self.keyed_by: tuple[str, int] | None = None
        self.row_kinds: npt.NDArray[np.int8] | None = None

    @classmethod
    def of_rows(
        cls, record_type: RecordType, rows: list[Any], timestamps: list[int] | Int64Array | None = None
    ) -> Batch:
        if isinstance(timestamps, list):
            return cls(record_type, len(rows), rows, None, None, timestamps)
        return cls(record_type, len(rows), rows, None, timestamps, None)

    @classmethod
    def of_columns(
        cls, record_type: RecordType, columns: pa.RecordBatch, timestamps: list[int] | Int64Array | None = None
    ) -> Batch:
        if isinstance(timestamps, list):
            return cls(record_type, columns.num_rows, None, columns, None, timestamps)
        return cls(record_type, columns.num_rows, None, columns, timestamps, None)

    def __len__(self) -> int:
        return self._length

    def __repr__(self) -> str:
        return f"Batch({self._length} x {self.record_type})"

    def rows(self) -> list[Any]:
        if self._rows is None:
            assert self._columns is not None
            self._rows = self.record_type.to_rows(self._columns)
        return self._rows

    def columns(self) -> pa.RecordBatch:
        """The records as columns. RecordTypeError when the type is opaque or a record is not of the type."""
        if self._columns is None:
            assert self._rows is not None
            self._columns = self.record_type.to_columns(self._rows)
        return self._columns

    @property
    def has_columns(self) -> bool:
        return self._columns is not None

    @property
    def has_timestamps(self) -> bool:
        return self._timestamps is not None or self._timestamp_list is not None

    def timestamps(self) -> Int64Array:
        """Event timestamps, int64 ms since the epoch, NO_TIMESTAMP where a record has none."""
        if self._timestamps is None:
            if self._timestamp_list is None:
                self._timestamps = np.full(self._length, NO_TIMESTAMP, np.int64)
            else:
                self._timestamps = np.array(self._timestamp_list, np.int64)
        return self._timestamps

    def timestamp_list(self) -> list[int]:
        """The same as a list of ints, for loops over rows."""
        if self._timestamp_list is None:
            if self._timestamps is None:
                self._timestamp_list = [NO_TIMESTAMP] * self._length
            else:
                self._timestamp_list = self._timestamps.tolist()
        return self._timestamp_list

    def last_timestamp(self) -> int:
        """Of the last record, without a look at the others; NO_TIMESTAMP if it has none."""
        known = self._timestamp_list if self._timestamps is None else self._timestamps
        return NO_TIMESTAMP if known is None or not len(known) else int(known[-1])

    def newest_timestamp(self) -> int:
        """The greatest timestamp, in whichever form they are there; NO_TIMESTAMP if no record has one."""
        if self._timestamps is not None:
            return int(self._timestamps.max(initial=NO_TIMESTAMP))
        return max(self._timestamp_list or (), default=NO_TIMESTAMP)

    def _like(
        self,
        length: int,
        rows: list[Any] | None,
        columns: pa.RecordBatch | None,
        timestamps: Int64Array | None,
        timestamp_list: list[int] | None,
    ) -> Batch:
        other = Batch(self.record_type, length, rows, columns, timestamps, timestamp_list)
        other.keyed_by = self.keyed_by
        return other

    def _part(
        self,
        length: int,
        rows: list[Any] | None,
        columns: pa.RecordBatch | None,
        timestamps: Int64Array | None,
        timestamp_list: list[int] | None,
    ) -> Batch:
        """Some of these records: where the size of all is known, theirs is their share, so that the sum stays right."""
        part = self._like(length, rows, columns, timestamps, timestamp_list)
        if self._nbytes >= 0:
            part._nbytes = max(1, self._nbytes * length // max(1, self._length))
        return part

    def slice(self, start: int, length: int) -> Batch:
        """Records start .. start + length of every face that exists. Shares memory with this batch."""
        if start == 0 and length >= self._length:
            return self
        end = min(start + length, self._length)
        part = self._part(
            end - start,
            None if self._rows is None else self._rows[start:end],
            None if self._columns is None else self._columns.slice(start, end - start),
            None if self._timestamps is None else self._timestamps[start:end],
            None if self._timestamp_list is None else self._timestamp_list[start:end],
        )
        part.keys = None if self.keys is None else self.keys[start:end]
        part.key_groups = None if self.key_groups is None else self.key_groups[start:end]
        part.row_kinds = None if self.row_kinds is None else self.row_kinds[start:end]
        return part

    def take(self, indices: npt.NDArray[np.integer[Any]]) -> Batch:
        """The records at these positions, in this order; one face is taken (columns where they exist)."""
        rows, columns = None, None
        if self._columns is not None:
            columns = self._columns.take(pa.array(indices))
        positions: list[int] = indices.tolist() if columns is None or self.keys is not None else []
        if columns is None and self._rows is not None:
            own = self._rows
            rows = [own[i] for i in positions]
        part = self._part(
            len(indices), rows, columns, self.timestamps()[indices] if self.has_timestamps else None, None
        )
        if self.keys is not None:
            keys = self.keys
            part.keys = [keys[i] for i in positions]
        part.key_groups = None if self.key_groups is None else self.key_groups[indices]
        part.row_kinds = None if self.row_kinds is None else self.row_kinds[indices]
        return part

    def with_timestamps(self, timestamps: list[int] | Int64Array) -> Batch:
        """The same records with other timestamps; faces, keys and row kinds are shared."""
        as_list = isinstance(timestamps, list)
        other = self._like(
            self._length,
            self._rows,
            self._columns,
            None if as_list else timestamps,  # type: ignore[arg-type]
            timestamps if as_list else None,  # type: ignore[arg-type]
        )
        other.keys, other.key_groups, other.row_kinds = self.keys, self.key_groups, self.row_kinds
        return other

    def with_rows(self, record_type: RecordType, rows: list[Any]) -> Batch:
        """Other records, one for each of these, with their timestamps and row kinds."""
        other = Batch(record_type, self._length, rows, None, self._timestamps, self._timestamp_list)
        other.row_kinds = self.row_kinds
        return other

    def keep(self, positions: list[int]) -> Batch:
        """The records at these positions, in this order, on every face that exists."""
        rows, indices = self._rows, np.array(positions, np.int64)
        part = self._part(
            len(positions),
            None if rows is None else [rows[i] for i in positions],
            None if self._columns is None else self._columns.take(pa.array(indices)),
            None if self._timestamps is None else self._timestamps[indices],
            None if self._timestamp_list is None else [self._timestamp_list[i] for i in positions],
        )
        keys = self.keys
        part.keys = None if keys is None else [keys[i] for i in positions]
        part.key_groups = None if self.key_groups is None else self.key_groups[indices]
        part.row_kinds = None if self.row_kinds is None else self.row_kinds[indices]
        return part

    def branch(self) -> Batch:
        """The same records for one more consumer, who may change its rows (PROTOCOLS 24)."""
        rows = None if self._columns is not None or self._rows is None else self.record_type.copy_rows(self._rows)
        other = self._like(self._length, rows, self._columns, self._timestamps, self._timestamp_list)
        other.keys, other.key_groups, other.row_kinds = self.keys, self.key_groups, self.row_kinds
        return other

    @property
    def nbytes(self) -> int:
        """Estimated memory: that of the columns, a sample of the rows otherwise. At least 1, so that credit moves."""
        if self._nbytes < 0:
            if self._columns is not None:
                size = _columns_bytes(self._columns)
            else:
                assert self._rows is not None
                step = max(1, self._length // _SAMPLED_ROWS)
                sample = self._rows[::step]
                size = sum(map(_shallow_bytes, sample)) * self._length // max(1, len(sample))
            self._nbytes = max(1, size + 8 * self._length)
        return self._nbytes

    @staticmethod
    def concat(batches: Sequence[Batch]) -> Batch:
        """One batch of all records in order. All must be of one record type. Columns stay columns if all have them."""
        first = batches[0]
        if len(batches) == 1:
            return first
        length = sum(map(len, batches))
        rows: list[Any] | None = None
        columns: pa.RecordBatch | None = None
        if all(b._columns is not None for b in batches):
            columns = pa.concat_batches([b._columns for b in batches])
        else:
            rows = _joined(b.rows() for b in batches)
        timestamps, timestamp_list = None, None
        if all(b._timestamp_list is not None and b._timestamps is None for b in batches):
            timestamp_list = _joined(b.timestamp_list() for b in batches)
        elif any(b.has_timestamps for b in batches):
            timestamps = np.concatenate([b.timestamps() for b in batches])
        merged = first._like(length, rows, columns, timestamps, timestamp_list)
        alike = all(b.keyed_by == first.keyed_by for b in batches)
        if alike and all(b.keys is not None for b in batches):
            merged.keys = _joined(b.keys or [] for b in batches)
        if alike and all(b.key_groups is not None for b in batches):
            merged.key_groups = np.concatenate([b.key_groups for b in batches if b.key_groups is not None])
        if any(b.row_kinds is not None for b in batches):
            merged.row_kinds = np.concatenate(
                [b.row_kinds if b.row_kinds is not None else np.zeros(len(b), np.int8) for b in batches]
            )
        return merged


def _joined(lists: Iterable[list[Any]]) -> list[Any]:
    """Many times as fast as one element after the other."""
    joined: list[Any] = []
    for each in lists:
        joined += each
    return joined


def _columns_bytes(columns: pa.RecordBatch) -> int:
    """What the buffers hold, or, of a slice, the part that is its own. The exact answer takes ten times as long as the
    two questions that show that it is not needed."""
    held: int = columns.get_total_buffer_size()
    own: int = columns.nbytes if held > 2 * pa.ipc.get_record_batch_size(columns) + _SLACK_BYTES else held
    return own


def _shallow_bytes(row: Any) -> int:
    """Size of a row and of the strings and bytes it holds directly: enough for credit."""
    size = sys.getsizeof(row)
    if isinstance(row, dict):
        return size + sum(sys.getsizeof(v) for v in row.values())
    if isinstance(row, (tuple, list)):
        return size + sum(sys.getsizeof(v) for v in row[:32]) * max(1, len(row) // 32)
    fields = getattr(row, "__dict__", None)
    return size if fields is None else size + sum(sys.getsizeof(v) for v in fields.values())
