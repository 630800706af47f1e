"""Evictors before and after the function, for every way of evaluating."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.runtime.functions import WindowFunction
from penstock.runtime.keys import KeyByFunction
from penstock.runtime.records.record_types import OPAQUE, record_type_of
from penstock.runtime.windows.assigners import EventTimeSessionWindows, GlobalWindows, TumblingEventTimeWindows
from penstock.runtime.windows.building import window_operator
from penstock.runtime.windows.evaluations import Aggregate, Apply, Evaluation, Process, Reduce
from penstock.runtime.windows.evictors import (
    CountEvictor,
    DeltaEvictor,
    Evictor,
    EvictorContext,
    TimeEvictor,
    TimestampedValue,
)
from penstock.runtime.windows.triggers import CountTrigger, DeltaFunction, EventTimeTrigger, Trigger
from penstock.state.errors import PipelineError, StateError
from penstock.testing.harness import BackendKind, OperatorHarness


class Listed:
    """An aggregate of all values."""

    def create_accumulator(self) -> list[int]:
        return []

    def add(self, value: int, accumulator: list[int]) -> list[int]:
        return [*accumulator, value]

    def get_result(self, accumulator: list[int]) -> list[int]:
        return accumulator


def listed(key: Any, context: Any, values: list[int]) -> list[list[int]]:
    return [list(values)]


class Listing(WindowFunction):
    def apply(self, key: Any, window: Any, inputs: Any) -> list[list[int]]:
        return [list(inputs)]


def harness_of(
    evictor: Evictor,
    trigger: Trigger | None = None,
    evaluation: Evaluation | None = None,
    assigner: Any = None,
    backend: BackendKind = "heap",
    **options: Any,
) -> OperatorHarness:
    operator = window_operator(
        KeyByFunction(lambda value: "k"), assigner or GlobalWindows(), evaluation or Process(listed), OPAQUE,
        trigger=trigger or CountTrigger(1), evictor=evictor, **options,
    )  # fmt: skip
    return OperatorHarness(operator, backend=backend)


@pytest.mark.parametrize("evaluation", [Process(listed), Apply(Listing()), Aggregate(Listed())])
def test_count_keeps_the_last(evaluation: Evaluation) -> None:
    with harness_of(CountEvictor.of(2), evaluation=evaluation) as harness:
        harness.push([1, 2, 3], [0, 0, 0])
        assert harness.output == [[1], [1, 2], [2, 3]]


def test_a_reduction_is_made_of_what_is_left() -> None:
    with harness_of(CountEvictor(2), evaluation=Reduce(lambda a, b: a + b)) as harness:
        harness.push([1, 2, 3], [0, 0, 0])
        assert harness.output == [1, 3, 5]


def test_after_the_function_it_has_seen_everything() -> None:
    with harness_of(CountEvictor(2, do_evict_after=True)) as harness:
        harness.push([1, 2, 3, 4], [0] * 4)
        assert harness.output == [[1], [1, 2], [1, 2, 3], [2, 3, 4]]


def test_time_keeps_what_is_less_than_its_size_older_than_the_newest() -> None:
    with harness_of(TimeEvictor.of("10ms"), CountTrigger(4)) as harness:
        harness.push([1, 2, 3, 4], [0, 10, 20, 11])
        assert harness.output == [[3, 4]]


def test_time_leaves_elements_without_timestamps_alone() -> None:
    with harness_of(TimeEvictor(10), CountTrigger(2)) as harness:
        harness.push([1, 2])
        assert harness.output == [[1, 2]]


class Apart(DeltaFunction):
    def get_delta(self, old_data_point: int, new_data_point: int) -> float:
        return abs(old_data_point - new_data_point)


@pytest.mark.parametrize("delta", [Apart(), lambda old, new: abs(old - new)])
def test_delta_keeps_what_is_nearer_than_the_threshold_to_the_last(delta: Any) -> None:
    with harness_of(DeltaEvictor.of(3, delta), CountTrigger(4)) as harness:
        harness.push([1, 7, 2, 4], [0] * 4)
        assert harness.output == [[2, 4]]


class Odd(Evictor):
    """A user's own: odd values are not seen, large ones not kept; looks at everything it is given."""

    def evict_before(self, elements: list[TimestampedValue], size: int, window: Any, ctx: EvictorContext) -> None:
        assert size == len(elements)
        assert ctx.get_current_watermark() <= 9
        assert ctx.get_current_processing_time() == 0
        ctx.get_metric_group().counter("evictions").inc()
        elements[:] = [each for each in elements if each.value % 2 == 0]

    def evict_after(self, elements: list[TimestampedValue], size: int, window: Any, ctx: EvictorContext) -> None:
        assert size == len(elements)
        elements[:] = [each for each in elements if each.value < 5]


@pytest.mark.parametrize("backend", ["heap", "rocksdb"])
def test_what_is_evicted_is_gone_from_state_also_over_a_restore(backend: BackendKind) -> None:
    windows = TumblingEventTimeWindows(10)
    options: Any = {"assigner": windows, "allowed_lateness_ms": 100, "backend": backend}
    with harness_of(Odd(), EventTimeTrigger(), **options) as harness:
        harness.push([1, 2, 6], [0, 0, 0])
        harness.watermark(9)
        assert harness.take() == [[2, 6]]
        snapshot = harness.snapshot()
    operator = window_operator(
        KeyByFunction(lambda value: "k"), windows, Process(listed), OPAQUE,
        evictor=CountEvictor(9), allowed_lateness_ms=100,
    )  # fmt: skip
    with OperatorHarness(operator, backend=backend, restored=[snapshot]) as harness:
        harness.push([3], [0])
        assert harness.output == [[2, 3]]


def test_where_nothing_is_left_a_function_sees_that_and_a_reduction_has_no_result() -> None:
    with harness_of(CountEvictor(0)) as harness:
        harness.push([1], [0])
        assert harness.output == [[]]
    with harness_of(CountEvictor(0), evaluation=Reduce(lambda a, b: a)) as harness:
        harness.push([1], [0])
        assert harness.output == []
    with harness_of(CountEvictor(0), evaluation=Aggregate(Listed())) as harness:
        harness.push([1], [0])
        assert harness.output == [[]]


def test_elements_of_sessions_come_together_with_their_timestamps() -> None:
    with harness_of(TimeEvictor(12), EventTimeTrigger(), assigner=EventTimeSessionWindows(10)) as harness:
        harness.push([1, 2], [0, 18])
        harness.push([3], [9])
        harness.watermark(100)
        assert harness.output == [[2, 3]]


def test_elements_of_a_known_type_are_typed_in_state() -> None:
    operator = window_operator(
        KeyByFunction(lambda value: "k"), GlobalWindows(), Process(listed), OPAQUE,
        trigger=CountTrigger(2), evictor=CountEvictor(2), input_type=record_type_of(int),
    )  # fmt: skip
    with OperatorHarness(operator) as harness:
        harness.push(["no int"], [0])
        with pytest.raises(StateError, match="not of the declared"):
            harness.snapshot()


@pytest.mark.parametrize(
    "make", [lambda: CountEvictor(-1), lambda: TimeEvictor(0), lambda: DeltaEvictor(1, "no function")]
)
def test_bad_arguments_are_refused(make: Any) -> None:
    with pytest.raises(PipelineError):
        make()
