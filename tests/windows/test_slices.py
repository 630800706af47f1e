"""Sliding windows that share slices: when they do, and what that leaves in state."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.runtime.keys import KeyByFunction
from penstock.runtime.record_types import OPAQUE
from penstock.runtime.windows.assigners import SlidingEventTimeWindows
from penstock.runtime.windows.building import window_operator
from penstock.runtime.windows.evaluations import Aggregate, Evaluation, Process, Reduce
from penstock.runtime.windows.evictors import CountEvictor
from penstock.runtime.windows.slices import SlicedWindowOperator
from penstock.runtime.windows.triggers import CountTrigger, EventTimeTrigger
from penstock.testing.harness import OperatorHarness


class Values:
    """An accumulator that changes in place."""

    def create_accumulator(self) -> list[int]:
        return []

    def add(self, value: int, accumulator: list[int]) -> list[int]:
        accumulator.append(value)
        return accumulator

    def merge(self, acc_a: list[int], acc_b: list[int]) -> list[int]:
        acc_a += acc_b
        return acc_a

    def get_result(self, accumulator: list[int]) -> list[int]:
        return accumulator


class Unmergeable:
    create_accumulator = add = get_result = lambda *_: 0


def operator_of(windows: Any, evaluation: Evaluation | None = None, **options: Any) -> Any:
    return window_operator(
        KeyByFunction(lambda value: "k"), windows, evaluation or Aggregate(Values()), OPAQUE, **options
    )


def statistics(harness: OperatorHarness) -> Any:
    return harness.operator.state_statistics()


def test_an_element_is_kept_once_and_a_key_has_a_timer_for_its_next_window() -> None:
    with OperatorHarness(operator_of(SlidingEventTimeWindows(600, 10))) as harness:
        harness.push([1, 2, 3], [0, 1, 20])
        harness.snapshot()
        assert (statistics(harness).timers, statistics(harness).entries) == (2, 4)
        harness.watermark(295)
        assert len(harness.output) == 29
        harness.snapshot()
        assert (statistics(harness).timers, statistics(harness).entries) == (1, 3)


def test_a_window_that_fires_changes_no_slice() -> None:
    with OperatorHarness(operator_of(SlidingEventTimeWindows(30, 10), allowed_lateness_ms=1_000)) as harness:
        harness.push([1, 2, 3], [0, 10, 20])
        harness.snapshot()
        before = statistics(harness).entries
        harness.watermark(19)
        assert harness.output == [[1], [1, 2]]
        harness.output[1].append(99)
        assert statistics(harness).entries == before
        harness.watermark(29)
        assert harness.output[-1] == [1, 2, 3]


@pytest.mark.parametrize(
    ("windows", "evaluation", "options", "shared"),
    [
        (SlidingEventTimeWindows(30, 10), Aggregate(Values()), {}, True),
        (SlidingEventTimeWindows(30, 10), Reduce(max), {"trigger": EventTimeTrigger()}, True),
        (SlidingEventTimeWindows(10, 4), Reduce(max), {}, True),
        (SlidingEventTimeWindows(30, 10), Process(list), {}, False),
        (SlidingEventTimeWindows(30, 10), Aggregate(Unmergeable()), {}, False),
        (SlidingEventTimeWindows(30, 10), Reduce(max), {"trigger": CountTrigger(3)}, False),
        (SlidingEventTimeWindows(30, 10), Reduce(max), {"evictor": CountEvictor(3)}, False),
        (SlidingEventTimeWindows(10_000, 3_333), Reduce(max), {}, False),
        (SlidingEventTimeWindows(10, 10), Reduce(max), {}, False),
        (SlidingEventTimeWindows(10, 30), Reduce(max), {}, False),
    ],
)
def test_when_they_do(windows: Any, evaluation: Evaluation, options: dict[str, Any], shared: bool) -> None:
    assert isinstance(operator_of(windows, evaluation, **options), SlicedWindowOperator) == shared
