"""Count, mean and sum of squared distances from the mean, for every slot: what variances are made of.

Row by row as Welford, "Note on a method for calculating corrected sums of squares and products" (1962), describes it:
stable however far the values are from zero, and bit-equal to a loop over the records.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ..key_groups import nulls, values_of
from . import kernels
from .accumulator_spec import AccumulatorSpec
from .accumulators import words_of
from .hash_index import Slots, grown

_Floats = npt.NDArray[np.float64]
_FIELDS = [
    pa.field("count", pa.int64(), nullable=False),
    pa.field("mean", pa.float64(), nullable=False),
    pa.field("squares", pa.float64(), nullable=False),
]


class Moments:
    """An accumulator (accumulators.py) of three arrays. It has a value for every slot: a count of zero says that none
    was seen."""

    def __init__(self, spec: AccumulatorSpec, capacity: int) -> None:
        self.spec = spec
        self._counts = np.zeros(capacity, np.int64)
        self._means = np.zeros(capacity)
        self._squares = np.zeros(capacity)

    def grow(self, capacity: int) -> None:
        size = len(self._counts)
        self._counts, self._means = grown(self._counts, capacity), grown(self._means, capacity)
        self._squares = grown(self._squares, capacity)
        for values in (self._counts, self._means, self._squares):
            values[size:] = 0

    @property
    def nbytes(self) -> int:
        return self._counts.nbytes + self._means.nbytes + self._squares.nbytes

    def update(self, slots: Slots, column: pa.Array | None, size_before: int) -> None:
        assert column is not None
        if column.null_count:
            slots, column = slots[~nulls(column)], column.drop_null()
        values = words_of(column, "float64", str(self.spec.column))
        _fold(slots, values, self._counts, self._means, self._squares)

    def array(self, slots: Slots) -> pa.Array:
        """Structs of count, mean and squares."""
        columns = [pa.array(values[slots]) for values in (self._counts, self._means, self._squares)]
        return pa.StructArray.from_arrays(columns, fields=_FIELDS)

    def load(self, slots: Slots, column: pa.Array, size_before: int) -> None:
        counts, means, squares = column.flatten()
        self._counts[slots] = values_of(counts, np.int64)
        self._means[slots] = values_of(means, np.float64)
        self._squares[slots] = values_of(squares, np.float64)


@kernels.kernel
def _fold(slots: Slots, values: _Floats, counts: npt.NDArray[np.int64], means: _Floats, squares: _Floats) -> None:
    for i in range(len(slots)):
        slot, value = slots[i], values[i]
        counts[slot] += 1
        distance = value - means[slot]
        means[slot] += distance / counts[slot]
        squares[slot] += distance * (value - means[slot])
