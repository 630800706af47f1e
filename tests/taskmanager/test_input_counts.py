"""Records per key group: counted exactly in small batches, estimated in large ones, for the hottest only."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from penstock.runtime.batch import Batch
from penstock.runtime.records.record_types import OPAQUE
from penstock.taskmanager.exchange.input_counts import LARGE, SHOWN, STRIDE, TOGETHER, InputCounts


def batch_of(groups: list[int]) -> Batch:
    batch = Batch.of_rows(OPAQUE, groups)
    batch.key_groups = np.array(groups, np.uint16)
    return batch


def counted(counts: InputCounts) -> dict[int, int]:
    return {each.key_group: each.records for each in counts.hottest()}


def test_small_batches_are_counted_exactly() -> None:
    counts = InputCounts(128)
    expected: Counter[int] = Counter()
    for number in range(3 * TOGETHER // 100):
        groups = [number % 7, 127] + [5] * 98
        expected.update(groups)
        counts.add(batch_of(groups))
    assert counted(counts) == dict(expected)
    assert (counts.records, counts.batches) == (3 * TOGETHER // 100 * 100, 3 * TOGETHER // 100)


def test_large_batches_are_estimated_also_when_records_come_by_turns() -> None:
    counts = InputCounts(128)
    counts.add(batch_of([n % 2 for n in range(LARGE * STRIDE)]))
    assert counted(counts) == pytest.approx({0: LARGE * STRIDE / 2, 1: LARGE * STRIDE / 2}, rel=0.01)


def test_the_hottest_come_first_and_others_are_not_shown() -> None:
    counts = InputCounts(128)
    counts.add(batch_of([group for group in range(2 * SHOWN) for _ in range(group + 1)]))
    assert [each.key_group for each in counts.hottest()] == list(range(2 * SHOWN - 1, SHOWN - 1, -1))


def test_what_is_not_partitioned_by_key_has_none() -> None:
    counts = InputCounts(128)
    counts.add(Batch.of_rows(OPAQUE, [1, 2, 3]))
    assert (counts.hottest(), counts.records) == ((), 3)
