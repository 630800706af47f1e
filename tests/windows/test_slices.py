"""Sliding windows that share slices: when they do, and what that leaves in state."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from penstock.runtime.keys import KeyByFunction
from penstock.runtime.records.record_types import OPAQUE
from penstock.runtime.windows.assigners import SlidingEventTimeWindows, TumblingEventTimeWindows
from penstock.runtime.windows.building import window_operator
from penstock.runtime.windows.evaluations import Aggregate, Evaluation, Process, Reduce, accumulator_type
from penstock.runtime.windows.evictors import CountEvictor
from penstock.runtime.windows.slices import SlicedWindowOperator
from penstock.runtime.windows.triggers import CountTrigger, EventTimeTrigger
from penstock.state.errors import StateError, UserCodeError
from penstock.state.serialization.pickling import loads
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


class Spent:
    """An accumulator whose parts are declared, and cannot change in place."""

    def create_accumulator(self) -> tuple[int, float]:
        return 0, 0.0

    def add(self, value: tuple[str, float], accumulator: tuple[int, float]) -> tuple[int, float]:
        return accumulator[0] + 1, accumulator[1] + value[1]

    def merge(self, acc_a: tuple[int, float], acc_b: tuple[int, float]) -> tuple[int, float]:
        return acc_a[0] + acc_b[0], acc_a[1] + acc_b[1]

    def get_result(self, accumulator: tuple[int, float]) -> tuple[int, float]:
        return accumulator


def spending(aggregate: Spent, windows: Any = None) -> Any:
    windows = windows or SlidingEventTimeWindows(30, 10)
    return window_operator(KeyByFunction(lambda value: value[0]), windows, Aggregate(aggregate), OPAQUE)


def test_each_key_goes_on_for_as_long_as_it_has_something() -> None:
    with OperatorHarness(spending(Spent())) as harness:
        harness.push([("a", 1.0), ("b", 2.0), ("a", 4.0), ("c", 8.0)], [0, 5, 10, 20])
        harness.watermark(9)
        assert harness.output == [(1, 1.0), (1, 2.0)]
        assert statistics(harness).timers == 3
        harness.watermark(29)
        assert harness.output[2:] == [(2, 5.0), (1, 2.0), (1, 8.0), (2, 5.0), (1, 2.0)]
        assert statistics(harness).timers == 2
        harness.watermark(49)
        assert harness.output[7:] == [(1, 8.0), (1, 4.0), (1, 8.0)]
        assert statistics(harness).timers == 0


def test_a_merge_that_fails_is_an_error_of_its_key_and_window() -> None:
    class Strict(Spent):
        def merge(self, acc_a: tuple[int, float], acc_b: tuple[int, float]) -> tuple[int, float]:
            raise ValueError("not these")

    with OperatorHarness(spending(Strict())) as harness:
        harness.push([("a", 1.0), ("b", 2.0), ("b", 4.0)], [0, 5, 10])
        harness.watermark(9)
        with pytest.raises(UserCodeError, match=r"ValueError: not these \(in .* of key 'b'\)"):
            harness.watermark(19)


def test_windows_that_do_not_overlap_are_given_out_key_by_key_and_forgotten() -> None:
    class Strict(Spent):
        def get_result(self, accumulator: tuple[int, float]) -> tuple[int, float]:
            if accumulator[1] > 10:
                raise ValueError("too much")
            return accumulator

    with OperatorHarness(spending(Strict(), TumblingEventTimeWindows(10))) as harness:
        harness.push([("b", 1.0), ("a", 2.0), ("b", 4.0), ("a", 8.0), ("c", 11.0)], [0, 5, 9, 10, 25])
        harness.watermark(19)
        assert harness.output == [(2, 5.0), (1, 2.0), (1, 8.0)]
        harness.snapshot()
        assert (statistics(harness).timers, statistics(harness).entries) == (1, 2)
        with pytest.raises(UserCodeError, match=r"ValueError: too much \(in .*20.* of key 'c'\)"):
            harness.watermark(29)


SCRIPT = """
import sys
from penstock.runtime.windows.evaluations import Aggregate
from penstock.state.serialization.pickling import dumps

Amounts = tuple[int, float]

class Adding:
    def create_accumulator(self) -> Amounts:
        return 0, 0.0

sys.stdout.buffer.write(dumps(Aggregate(Adding())))
"""


def test_an_accumulator_is_typed_where_the_names_of_its_annotation_are_unknown() -> None:
    """As in a slot, where a script's function comes without the names that only its annotations use."""
    script = f"from __future__ import annotations\n{SCRIPT}"
    evaluation = loads(subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout)
    with OperatorHarness(operator_of(SlidingEventTimeWindows(600, 10), evaluation)) as harness:
        assert [each.type for each in harness.operator.backend.descriptors] == [tuple[int, float]]


def test_tuples_of_declared_parts_are_typed_state() -> None:
    class Careless(Spent):
        def add(self, value: tuple[str, float], accumulator: tuple[int, float]) -> tuple[int, float]:
            return accumulator[0] + 1, None if value[1] < 0 else accumulator[1] + value[1]  # type: ignore[return-value]

    assert accumulator_type(Spent()) == tuple[int, float]
    assert accumulator_type(Values()) is None
    with OperatorHarness(spending(Careless()), backend="rocksdb") as harness:
        harness.push([("a", 1.0)], [0])
        harness.push([("a", -1.0)], [0])
        with pytest.raises(StateError, match="not of the declared type"):
            harness.snapshot()


@pytest.mark.parametrize("windows", [TumblingEventTimeWindows(10), SlidingEventTimeWindows(30, 10)], ids=str)
def test_parts_that_are_never_what_was_declared_are_refused_with_the_first_record(windows: Any) -> None:
    class OfNumpy(Spent):
        def add(self, value: tuple[str, float], accumulator: tuple[int, float]) -> tuple[int, float]:
            return accumulator[0] + 1, np.float64(value[1])

    operator = window_operator(KeyByFunction(lambda value: value[0]), windows, Aggregate(OfNumpy()), OPAQUE)
    with OperatorHarness(operator) as harness, pytest.raises(UserCodeError, match=r"float64.* without an annotation"):
        harness.push([("a", 1.0)], [0])


def test_a_list_where_a_tuple_is_declared_is_refused() -> None:
    """Slices would change when they are combined."""

    class InPlace:
        def create_accumulator(self) -> tuple[tuple[int, int], float]:
            return [0, 0], 0.0  # type: ignore[return-value]

        def add(self, value: Any, accumulator: Any) -> Any:
            accumulator[0][0] += 1
            return accumulator

        def merge(self, acc_a: Any, acc_b: Any) -> Any:
            acc_a[0][0] += acc_b[0][0]
            return acc_a

        def get_result(self, accumulator: Any) -> Any:
            return accumulator[0][0]

    windows = SlidingEventTimeWindows(30, 10)
    operator = window_operator(KeyByFunction(lambda value: value[0]), windows, Aggregate(InPlace()), OPAQUE)
    with OperatorHarness(operator) as harness, pytest.raises(UserCodeError, match="can change in place"):
        harness.push([("a", 1.0)], [0])
