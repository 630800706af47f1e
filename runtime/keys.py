"""Keys: how a record's key is found, and what may be one.

A key is normalised once, at key_by (PROTOCOLS 25): numpy scalars become Python's, -0.0 becomes 0.0, aware datetimes
become UTC, Decimals lose trailing zeros; NaN, naive datetimes and types that are no keys are refused. The keys of a
stream have one type (for tuples: one type per position): the annotation's, else the first record's; another one is
an error, because 1, 1.0 and True would otherwise meet in one dict entry.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from .batch import Batch, KeyGroupArray


class KeySelector(ABC):
    """Finds the keys of a batch. Picklable; one instance per operator and partitioner (it remembers the key type)."""

    @abstractmethod
    def keys(self, batch: Batch) -> list[Any]:
        """Normalised keys, one per row; remembered in batch.keys. KeyTypeError; the user's own errors pass through."""

    @abstractmethod
    def key_groups(self, batch: Batch, max_parallelism: int) -> KeyGroupArray:
        """uint16 key group of every row; remembered in batch.key_groups. Works on the face the batch has: columnar
        keys are hashed over the Arrow buffers, and give the same groups as the same keys as Python objects."""
