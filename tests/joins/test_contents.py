"""Windows in which a key has more rows than its value holds: nothing is lost, and nothing out of order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from penstock.runtime.batch import Batch
from penstock.runtime.elements import MAX_WATERMARK
from penstock.runtime.joins.contents import LAST_ROWS
from penstock.runtime.joins.window_join import window_join_operator
from penstock.runtime.keys import KeyByFunction
from penstock.runtime.operators.operator import Operator
from penstock.runtime.records.record_types import OPAQUE, record_type_of
from penstock.runtime.windows.assigners import EventTimeSessionWindows, TumblingEventTimeWindows, WindowAssigner
from penstock.testing.harness import OperatorHarness

if TYPE_CHECKING:
    from conftest import Left, Right

MANY = 3 * LAST_ROWS


def both_sides(left: Any, right: Any) -> list[tuple[list[int], list[int]]]:
    return [([each.number for each in left], [each.number for each in right])]


def operator(assigner: WindowAssigner, sides: tuple[type[Left], type[Right]], lateness_ms: int) -> Operator:
    key, types = KeyByFunction(lambda record: record.key, str), (record_type_of(sides[0]), record_type_of(sides[1]))
    return window_join_operator((key, key), assigner, both_sides, types, OPAQUE, allowed_lateness_ms=lateness_ms)


def give(harness: OperatorHarness, side: int, kind: Any, numbers: range, at: int) -> None:
    """In batches of ten."""
    for first in numbers[::10]:
        rows = [kind("a", number, at) for number in range(first, min(first + 10, numbers.stop))]
        harness.push_batch(Batch.of_rows(record_type_of(kind), rows, [at] * len(rows)), side)


@pytest.mark.parametrize("backend", ["heap", "rocksdb"])
@pytest.mark.parametrize("lateness_ms", [0, 50])
def test_many_rows_of_a_key(sides: tuple[type[Left], type[Right]], backend: Any, lateness_ms: int) -> None:
    """Restored twice: with rows in a list and in a value, and after the window has fired."""
    left, right = sides
    make = operator(TumblingEventTimeWindows(10), sides, lateness_ms)
    with OperatorHarness(make, backend=backend) as harness:
        give(harness, 0, left, range(MANY), 1)
        give(harness, 1, right, range(5), 1)
        taken = harness.savepoint()
    with OperatorHarness(make, backend=backend, restored=[taken]) as harness:
        give(harness, 0, left, range(MANY, 2 * MANY), 1)
        harness.watermark(10)
        assert harness.output == [(list(range(2 * MANY)), [0, 1, 2, 3, 4])]
        taken = harness.savepoint()
    with OperatorHarness(make, backend=backend, restored=[taken]) as harness:
        give(harness, 1, right, range(5, 6), 1)
        expected = [(list(range(2 * MANY)), [0, 1, 2, 3, 4, 5])] if lateness_ms else []
        assert harness.output == expected
        harness.watermark(MAX_WATERMARK)
        assert harness.output == expected
        harness.snapshot()
        statistics = harness.operator.state_statistics()
        assert statistics is not None
        assert (statistics.entries, statistics.timers) == (0, 0)


def test_sessions_of_many_rows_become_one(sides: tuple[type[Left], type[Right]]) -> None:
    left, right = sides
    with OperatorHarness(operator(EventTimeSessionWindows.with_gap(10), sides, 0)) as harness:
        give(harness, 0, left, range(MANY), 1)
        give(harness, 0, left, range(MANY, 2 * MANY), 20)
        give(harness, 1, right, range(3), 20)
        give(harness, 0, left, range(2 * MANY, 2 * MANY + 1), 11)
        harness.watermark(MAX_WATERMARK)
        assert harness.output == [(list(range(2 * MANY + 1)), [0, 1, 2])]
        harness.snapshot()
        statistics = harness.operator.state_statistics()
        assert statistics is not None
        assert statistics.entries == 0
