"""What a subtask has read since its attempt began: records, bytes, batches, and records per key group.

The groups come with the batches of a hash exchange, so counting them is one pass over 16-bit numbers: small batches are
counted together, of large ones one record in STRIDE. A vertex of one subtask has no hash exchange, and counts none.
"""

from __future__ import annotations

import numpy as np

from ...runtime.batch import Batch, KeyGroupArray
from ..views import KeyGroupRecords

TOGETHER = 8_192
LARGE = 2_048
STRIDE = 7
"""Odd, so that records that come by turns are all met."""
SHOWN = 10


class InputCounts:
    """As many numbers as there are key groups, and up to TOGETHER records' groups that are not counted yet."""

    def __init__(self, max_parallelism: int) -> None:
        self.records = 0
        self.bytes = 0
        self.batches = 0
        self._counts = np.zeros(max_parallelism, np.int64)
        self._waiting: list[KeyGroupArray] = []
        self._rows_waiting = 0

    def add(self, batch: Batch) -> None:
        self.records += len(batch)
        self.bytes += batch.nbytes
        self.batches += 1
        groups = batch.key_groups
        if groups is None:
            return
        if len(groups) > LARGE:
            self._counts += STRIDE * np.bincount(groups[::STRIDE], minlength=len(self._counts))
            return
        self._waiting.append(groups)
        self._rows_waiting += len(groups)
        if self._rows_waiting >= TOGETHER:
            self._count()

    def hottest(self) -> tuple[KeyGroupRecords, ...]:
        """The key groups that most records had, up to SHOWN of them."""
        if self._waiting:
            self._count()
        counts = self._counts
        order = np.argsort(-counts, kind="stable")[:SHOWN]
        return tuple(KeyGroupRecords(group, int(counts[group])) for group in order.tolist() if counts[group])

    def _count(self) -> None:
        self._counts += np.bincount(np.concatenate(self._waiting), minlength=len(self._counts))
        self._waiting, self._rows_waiting = [], 0
