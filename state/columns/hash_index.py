"""From the values of key columns to dense slot numbers, and back.

A column of fixed-width values is a column of 64-bit words, one of strings or bytes lies in an arena; each has an
index of its own. Several columns are folded pair by pair: the numbers of the left and the right column make one word,
which is indexed again. So there are two kinds of hash table, and every key is verified value by value. Null is a key
like any other: it gets a number (after the other new values of its batch), but stands in no table.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ..errors import KeyTypeError
from ..key_groups import nulls, text_buffers, values_of
from . import kernels

Slots = npt.NDArray[np.int32]

_FIRST_SLOTS = 1024
_MAX_SLOTS = 1 << 31
"""Slot numbers are 32 bits wide."""


def grown(array: npt.NDArray[Any], length: int) -> npt.NDArray[Any]:
    """A longer copy; what is new is undefined."""
    longer = np.empty(length, array.dtype)
    longer[: len(array)] = array
    return longer


class _ColumnIndex(ABC):
    """Numbers the distinct values of one column, in the order of their first appearance."""

    def __init__(self, capacity: int) -> None:
        self.size = 0
        self._null = -1
        self._table = np.full(2 * capacity, -1, np.int32)

    def slots_of(self, column: pa.Array) -> Slots:
        """The number of every row's value; new values are entered."""
        if column.null_count == 0:
            return self._upsert(column)
        missing = nulls(column)
        slots = np.empty(len(column), np.int32)
        slots[~missing] = self._upsert(column.drop_null())
        if self._null < 0:
            self._null = self._append_null()
        slots[missing] = self._null
        return slots

    def _grow_table(self, capacity: int) -> None:
        if capacity > _MAX_SLOTS:
            raise KeyTypeError(f"more than {_MAX_SLOTS} keys in one window of one subtask: raise the parallelism")
        self._table = np.full(2 * capacity, -1, np.int32)

    def _mask(self, slots: Slots) -> npt.NDArray[np.bool_] | None:
        return None if self._null < 0 else slots == self._null

    @property
    def nbytes(self) -> int:
        return self._table.nbytes

    @abstractmethod
    def _upsert(self, column: pa.Array) -> Slots: ...

    @abstractmethod
    def _append_null(self) -> int: ...

    @abstractmethod
    def values(self, slots: Slots) -> pa.Array:
        """The values of these numbers, in the column's own type."""


class _WordIndex(_ColumnIndex):
    def __init__(self, kind: pa.DataType, capacity: int) -> None:
        super().__init__(capacity)
        self._kind = kind
        self._keys = np.empty(capacity, np.int64)

    def _upsert(self, column: pa.Array) -> Slots:
        return self.slots_of_words(_words(column))

    @property
    def nbytes(self) -> int:
        return super().nbytes + self._keys.nbytes

    def slots_of_words(self, words: npt.NDArray[np.int64]) -> Slots:
        slots = np.empty(len(words), np.int32)
        done = 0
        while True:
            self.size, done = kernels.upsert_words(self._table, words, self._keys, self.size, done, slots)
            if done == len(words):
                return slots
            self._grow()

    def _grow(self) -> None:
        self._keys = grown(self._keys, 2 * len(self._keys))
        self._grow_table(len(self._keys))
        kernels.rebuild_words(self._table, self._keys, self.size, self._null)

    def _append_null(self) -> int:
        if self.size == len(self._keys):
            self._grow()
        self._keys[self.size] = 0
        self.size += 1
        return self.size - 1

    def words(self, slots: Slots) -> npt.NDArray[np.int64]:
        taken: npt.NDArray[np.int64] = self._keys[slots]
        return taken

    def values(self, slots: Slots) -> pa.Array:
        return _from_words(self.words(slots), self._mask(slots), self._kind)


class _BytesIndex(_ColumnIndex):
    def __init__(self, kind: pa.DataType, capacity: int) -> None:
        super().__init__(capacity)
        self._kind = kind
        self._hashes = np.empty(capacity, np.uint64)
        self._ends = np.zeros(capacity + 1, np.int64)
        self._arena = np.empty(16 * capacity, np.uint8)

    def _upsert(self, column: pa.Array) -> Slots:
        data, offsets = _bytes_of(column)
        slots = np.empty(len(column), np.int32)
        done = 0
        while True:
            self.size, done = kernels.upsert_bytes(
                self._table, data, offsets, self._hashes, self._ends, self._arena, self.size, done, slots
            )
            if done == len(column):
                return slots
            self._make_room(int(offsets[done + 1] - offsets[done]))

    @property
    def nbytes(self) -> int:
        return super().nbytes + self._hashes.nbytes + self._ends.nbytes + self._arena.nbytes

    def _make_room(self, length: int) -> None:
        """For one more value of that length."""
        needed = int(self._ends[self.size]) + length
        if needed > len(self._arena):
            self._arena = grown(self._arena, max(needed, 2 * len(self._arena)))
        if self.size == len(self._hashes):
            self._hashes = grown(self._hashes, 2 * len(self._hashes))
            self._ends = grown(self._ends, len(self._hashes) + 1)
            self._grow_table(len(self._hashes))
            kernels.rebuild_bytes(self._table, self._hashes, self.size, self._null)

    def _append_null(self) -> int:
        self._make_room(0)
        self._ends[self.size + 1] = self._ends[self.size]
        self.size += 1
        return self.size - 1

    def values(self, slots: Slots) -> pa.Array:
        offsets = np.zeros(len(slots) + 1, np.int64)
        np.cumsum(self._ends[slots + 1] - self._ends[slots], out=offsets[1:])
        data = np.empty(int(offsets[-1]), np.uint8)
        kernels.gather_bytes(self._arena, self._ends, slots, offsets, data)
        mask = self._mask(slots)
        valid = None if mask is None else pa.array(~mask).buffers()[1]
        buffers = [valid, pa.py_buffer(offsets), pa.py_buffer(data)]
        large = pa.Array.from_buffers(pa.large_binary(), len(slots), buffers)
        if pa.types.is_string(self._kind) or pa.types.is_large_string(self._kind):
            return large.view(pa.large_string()).cast(self._kind)
        if pa.types.is_decimal(self._kind):
            return large.cast(pa.binary(self._kind.byte_width)).view(self._kind)
        return large.cast(self._kind)


class HashIndex:
    """Numbers the distinct keys of one or several columns, in the order of their first appearance."""

    def __init__(self, kinds: Sequence[pa.DataType], capacity: int = _FIRST_SLOTS) -> None:
        """KeyTypeError for column types that cannot be keys."""
        capacity = max(_FIRST_SLOTS, 1 << (capacity - 1).bit_length())
        self.kinds = [kind.value_type if pa.types.is_dictionary(kind) else kind for kind in kinds]
        self._columns = [_index_of(kind, capacity) for kind in self.kinds]
        self._pairs = [_WordIndex(pa.int64(), capacity) for _ in self._columns[1:]]

    @property
    def size(self) -> int:
        return self._pairs[-1].size if self._pairs else self._columns[0].size

    @property
    def nbytes(self) -> int:
        return sum(index.nbytes for index in (*self._columns, *self._pairs))

    def slots_of(self, columns: Sequence[pa.Array]) -> Slots:
        """The number of every row's key; new keys are entered."""
        slots = self._columns[0].slots_of(_plain(columns[0], self.kinds[0]))
        for pair, index, column, kind in zip(self._pairs, self._columns[1:], columns[1:], self.kinds[1:], strict=True):
            right = index.slots_of(_plain(column, kind))
            slots = pair.slots_of_words((slots.astype(np.int64) << 32) | right)
        return slots

    def keys(self, slots: Slots) -> list[pa.Array]:
        """The key columns of these numbers."""
        columns = []
        for pair, index in zip(reversed(self._pairs), reversed(self._columns), strict=False):
            words = pair.words(slots)
            columns.append(index.values((words & 0xFFFFFFFF).astype(np.int32)))
            slots = (words >> 32).astype(np.int32)
        columns.append(self._columns[0].values(slots))
        return columns[::-1]


def _plain(column: pa.Array, kind: pa.DataType) -> pa.Array:
    return column if column.type == kind else column.cast(kind)


def _index_of(kind: pa.DataType, capacity: int) -> _ColumnIndex:
    types = pa.types
    if (
        types.is_string(kind)
        or types.is_large_string(kind)
        or types.is_binary(kind)
        or types.is_large_binary(kind)
        or types.is_fixed_size_binary(kind)
        or types.is_decimal(kind)
    ):
        return _BytesIndex(kind, capacity)
    if types.is_timestamp(kind) and kind.tz is None:
        raise KeyTypeError("a timestamp column without time zone cannot be a key: give it a time zone")
    if types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind):
        return _WordIndex(kind, capacity)
    if types.is_timestamp(kind) or types.is_date(kind):
        return _WordIndex(kind, capacity)
    raise KeyTypeError(f"a column of type {kind} cannot be a key of a vectorised window")


def _bytes_of(column: pa.Array) -> tuple[npt.NDArray[np.uint8], npt.NDArray[Any]]:
    kind = column.type
    if pa.types.is_fixed_size_binary(kind) or pa.types.is_decimal(kind):
        width = kind.byte_width
        data = values_of(column, f"V{width}").view(np.uint8)
        return data, np.arange(len(column) + 1, dtype=np.int64) * width
    return text_buffers(column)


def _words(column: pa.Array) -> npt.NDArray[np.int64]:
    """Fixed-width values without nulls as 64-bit words."""
    types, kind = pa.types, column.type
    if types.is_floating(kind):
        floats = values_of(column.cast(pa.float64()), np.float64) + 0.0  # no negative zero
        if np.isnan(floats).any():
            raise KeyTypeError("NaN cannot be a key: it is not equal to itself")
        return floats.view(np.int64)
    if types.is_boolean(kind):
        return values_of(column.cast(pa.uint8()), np.uint8).astype(np.int64)
    if types.is_integer(kind):
        dtype = np.dtype(kind.to_pandas_dtype())
        if dtype == np.uint64:
            return values_of(column, np.int64)
        return values_of(column, dtype).astype(np.int64, copy=False)
    return values_of(column, np.int32 if kind.bit_width == 32 else np.int64).astype(np.int64, copy=False)


def _from_words(words: npt.NDArray[np.int64], mask: npt.NDArray[np.bool_] | None, kind: pa.DataType) -> pa.Array:
    types = pa.types
    if types.is_floating(kind):
        return pa.array(words.view(np.float64), mask=mask).cast(kind)
    if types.is_boolean(kind):
        return pa.array(words != 0, mask=mask)
    if types.is_integer(kind):
        return pa.array(words.astype(kind.to_pandas_dtype()), kind, mask=mask)
    narrow = kind.bit_width == 32
    return pa.array(words.astype(np.int32 if narrow else np.int64), mask=mask).view(kind)
