"""The column store: the state of a vectorised operator, one accumulator array per aggregate behind a hash index.

A store holds one namespace (one window). A key's slot is its number in the order of first appearance. Every slot
remembers the epoch of its last change; snapshots (column_snapshots.py) ask for the slots changed since an epoch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from . import kernels
from .accumulator_spec import AccumulatorSpec
from .accumulators import Accumulator
from .hash_index import HashIndex, Slots, grown
from .moments import Moments

_FIRST_SLOTS = 1024


class ColumnStore:
    """Keys of any column types to slots, and one array per accumulator with a value for every slot."""

    def __init__(
        self, key_types: Sequence[pa.DataType], specs: Sequence[AccumulatorSpec], expected_keys: int = _FIRST_SLOTS
    ) -> None:
        """`expected_keys` sizes the table; it grows by doubling. KeyTypeError for types that cannot be keys."""
        self._index = HashIndex(key_types, expected_keys)
        capacity = max(_FIRST_SLOTS, expected_keys)
        self._epochs = np.zeros(capacity, np.int32)
        self.accumulators: dict[AccumulatorSpec, Accumulator | Moments] = {
            spec: Moments(spec, capacity) if spec.kind == "moments" else Accumulator(spec, capacity) for spec in specs
        }

    @property
    def size(self) -> int:
        """Number of keys."""
        return self._index.size

    def update(self, keys: Sequence[pa.Array], inputs: Mapping[str, pa.Array], epoch: int) -> Slots:
        """Fold rows in; returns the slot of each. KeyTypeError, AggregateError."""
        before = self.size
        slots = self._slots_of(keys, epoch)
        for spec, accumulator in self.accumulators.items():
            accumulator.update(slots, None if spec.column is None else inputs[spec.column], before)
        return slots

    def load(self, keys: Sequence[pa.Array], values: Mapping[AccumulatorSpec, pa.Array], epoch: int) -> None:
        """Put rows of a snapshot back: each replaces what its key has."""
        before = self.size
        slots = self._slots_of(keys, epoch)
        for spec, accumulator in self.accumulators.items():
            accumulator.load(slots, values[spec], before)

    def _slots_of(self, keys: Sequence[pa.Array], epoch: int) -> Slots:
        slots = self._index.slots_of(keys)
        if self.size > len(self._epochs):
            capacity = max(self.size, 2 * len(self._epochs))
            old = len(self._epochs)
            self._epochs = grown(self._epochs, capacity)
            self._epochs[old:] = 0
            for accumulator in self.accumulators.values():
                accumulator.grow(capacity)
        kernels.mark(slots, self._epochs, epoch)
        return slots

    @property
    def nbytes(self) -> int:
        """Of its arrays, full or not."""
        return self._index.nbytes + self._epochs.nbytes + sum(each.nbytes for each in self.accumulators.values())

    def all_slots(self) -> Slots:
        return np.arange(self.size, dtype=np.int32)

    def changed_since(self, epoch: int) -> Slots:
        """Slots whose last change came after that epoch."""
        changed: Slots = np.flatnonzero(self._epochs[: self.size] > epoch).astype(np.int32)
        return changed

    def keys(self, slots: Slots) -> list[pa.Array]:
        return self._index.keys(slots)

    def arrays(self, slots: Slots) -> dict[AccumulatorSpec, pa.Array]:
        """Values of all accumulators, null where a slot has seen none. Copies."""
        return {spec: accumulator.array(slots) for spec, accumulator in self.accumulators.items()}
