"""Aggregates in columns: for every slot a value, and whether it has seen one.

Nulls are left out, as in SQL: an accumulator that has seen none but nulls has no value. Integers are folded in 64
bits, and a sum that leaves them is an error, never a wrong number; everything else is folded as float64, row by row
in the order of the batch, so that sums are bit-equal to a loop over the records. NaN makes a sum NaN, and is greater
than every number for minimum and maximum, as in SQL.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ..errors import AggregateError
from ..key_groups import nulls, values_of
from . import kernels
from .accumulator_spec import AccumulatorSpec, Word, overflow_error
from .hash_index import Slots, grown

_INT_LIMITS = np.iinfo(np.int64)
_NEUTRAL: dict[tuple[str, str], Any] = {
    ("count", "int64"): 0,
    ("sum", "int64"): 0,
    ("sum", "float64"): 0.0,
    ("min", "int64"): _INT_LIMITS.max,
    ("max", "int64"): _INT_LIMITS.min,
    ("min", "float64"): np.nan,
    ("max", "float64"): -np.inf,
}
_FOLDS: dict[tuple[str, str], Any] = {
    ("sum", "int64"): kernels.sum_ints,
    ("sum", "float64"): kernels.sum_floats,
    ("min", "int64"): kernels.least_ints,
    ("max", "int64"): kernels.greatest_ints,
    ("min", "float64"): kernels.least_floats,
    ("max", "float64"): kernels.greatest_floats,
}


class Accumulator:
    """The values of one spec for all slots."""

    def __init__(self, spec: AccumulatorSpec, capacity: int) -> None:
        self.spec = spec
        self._neutral = _NEUTRAL[spec.kind, spec.word]
        self._fold = _FOLDS.get((spec.kind, spec.word))
        self._values = np.full(capacity, self._neutral, spec.word)
        self._seen: npt.NDArray[np.bool_] | None = None
        """Kept from the first null on; until then every slot has seen a value, for a row made it."""

    def grow(self, capacity: int) -> None:
        size = len(self._values)
        self._values = grown(self._values, capacity)
        self._values[size:] = self._neutral
        if self._seen is not None:
            self._seen = grown(self._seen, capacity)
            self._seen[size:] = False

    @property
    def nbytes(self) -> int:
        return self._values.nbytes + (0 if self._seen is None else self._seen.nbytes)

    def update(self, slots: Slots, column: pa.Array | None, size_before: int) -> None:
        """Fold a row into each slot. `size_before`: slots from there on are new. AggregateError on overflow."""
        if column is not None and column.null_count:
            if self.spec.kind != "count":
                self._keep_seen(size_before)
            present = ~nulls(column)
            slots, column = slots[present], column.drop_null()
        if self.spec.kind == "count":
            kernels.count_rows(slots, self._values)
            return
        assert column is not None
        assert self._fold is not None
        overflow = self._fold(slots, words_of(column, self.spec.word, str(self.spec.column)), self._values)
        if overflow is not None and overflow >= 0:
            raise overflow_error(str(self.spec.column))
        if self._seen is not None:
            self._seen[slots] = True

    def values(self, slots: Slots) -> npt.NDArray[Any]:
        taken: npt.NDArray[Any] = self._values[slots]
        return taken

    def missing(self, slots: Slots) -> npt.NDArray[np.bool_] | None:
        """Which of these slots have seen no value; None when all have."""
        return None if self._seen is None else ~self._seen[slots]

    def array(self, slots: Slots) -> pa.Array:
        """Values as they are in snapshots: null where there is none."""
        return pa.array(self.values(slots), mask=self.missing(slots))

    def load(self, slots: Slots, column: pa.Array, size_before: int) -> None:
        """Put values of `array` back. `size_before` as for update."""
        if column.null_count:
            self._keep_seen(size_before)
        if self._seen is not None:
            self._seen[slots] = ~nulls(column)
        self._values[slots] = values_of(column.fill_null(pa.scalar(self._neutral, column.type)), self.spec.word)

    def _keep_seen(self, size_before: int) -> None:
        if self._seen is None:
            self._seen = np.arange(len(self._values)) < size_before


def words_of(column: pa.Array, word: Word, name: str) -> npt.NDArray[Any]:
    """Values without nulls as int64 or float64. Times are their ticks."""
    types, kind = pa.types, column.type
    if types.is_dictionary(kind):
        column, kind = column.dictionary_decode(), kind.value_type
    if types.is_boolean(kind):
        column, kind = column.cast(pa.uint8()), pa.uint8()
    if not types.is_primitive(kind):
        raise AggregateError(f"column {name!r} of type {kind} has no numbers to aggregate")
    if types.is_integer(kind) or types.is_floating(kind):
        dtype = np.dtype(kind.to_pandas_dtype())
    else:
        dtype = np.dtype(np.int32 if kind.bit_width == 32 else np.int64)
    values = values_of(column, dtype)
    if dtype == np.uint64 and word == "int64" and len(values) and values.max() > _INT_LIMITS.max:
        raise AggregateError(f"column {name!r} has values above 2**63 - 1, which do not fit 64 bits with a sign")
    return values.astype(word, copy=False)
