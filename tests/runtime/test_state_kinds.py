"""Reducing and aggregating state, and state that expires, as functions are given them: on both backends."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from penstock.runtime.functions import AggregateFunction, KeyedProcessFunction, ProcessWindowFunction, ReduceFunction
from penstock.runtime.keys import KeyByFunction
from penstock.runtime.operators.keyed_process import KeyedProcessOperator
from penstock.runtime.records.record_types import OPAQUE
from penstock.runtime.windows.assigners import TumblingEventTimeWindows
from penstock.runtime.windows.window_operator import Process, WindowOperator
from penstock.state.descriptors import (
    AggregatingStateDescriptor,
    MapStateDescriptor,
    ReducingStateDescriptor,
    ValueStateDescriptor,
)
from penstock.state.ttl_config import StateTtlConfig
from penstock.testing.harness import BackendKind, OperatorHarness

BY_FIRST = KeyByFunction(lambda record: record[0])


class Largest(ReduceFunction):
    def reduce(self, value1: int, value2: int) -> int:
        return max(value1, value2)


class Mean(AggregateFunction):
    def create_accumulator(self) -> tuple[int, int]:
        return 0, 0

    def add(self, value: int, accumulator: tuple[int, int]) -> tuple[int, int]:
        return accumulator[0] + value, accumulator[1] + 1

    def get_result(self, accumulator: tuple[int, int]) -> float:
        return accumulator[0] / accumulator[1]


LARGEST = ReducingStateDescriptor[int]("largest", Largest(), int)
MEAN = AggregatingStateDescriptor[Any]("mean", Mean(), tuple[int, int])


class Folded(KeyedProcessFunction):
    def open(self, runtime_context: Any) -> None:
        self.largest = runtime_context.get_reducing_state(LARGEST)
        self.mean = runtime_context.get_aggregating_state(MEAN)

    def process_element(self, value: tuple[str, int], ctx: Any) -> Iterator[Any]:
        self.largest.add(value[1])
        self.mean.add(value[1])
        yield ctx.get_current_key(), self.largest.get(), self.mean.get()


@pytest.fixture(params=["heap", "rocksdb"])
def kind(request: pytest.FixtureRequest) -> BackendKind:
    chosen: BackendKind = request.param
    return chosen


def test_what_is_added_is_folded_over_restores(kind: BackendKind) -> None:
    with OperatorHarness(KeyedProcessOperator(Folded(), BY_FIRST, OPAQUE), backend=kind) as harness:
        harness.push([("a", 5), ("b", 1), ("a", 1)])
        assert harness.output == [("a", 5, 5.0), ("b", 1, 1.0), ("a", 5, 3.0)]
        snapshot = harness.snapshot()
    later = OperatorHarness(KeyedProcessOperator(Folded(), BY_FIRST, OPAQUE), backend=kind, restored=[snapshot])
    with later as harness:
        harness.push([("a", 9)])
        assert harness.output == [("a", 9, 5.0)]


class OfWindows(ProcessWindowFunction):
    def process(self, key: Any, context: Any, elements: Iterable[Any]) -> Iterable[Any]:
        own, overall = context.window_state(), context.global_state()
        for element in elements:
            own.get_reducing_state(LARGEST).add(element[1])
            overall.get_reducing_state(LARGEST).add(element[1])
            overall.get_aggregating_state(MEAN).add(element[1])
            overall.get_map_state(MapStateDescriptor("counts", int, int)).put(element[1], context.window().start)
        yield (
            own.get_reducing_state(LARGEST).get(),
            overall.get_reducing_state(LARGEST).get(),
            overall.get_aggregating_state(MEAN).get(),
            list(overall.get_map_state(MapStateDescriptor("counts", int, int)).items(start=3)),
        )

    def clear(self, context: Any) -> None:
        context.window_state().get_reducing_state(LARGEST).clear()


def test_windows_have_them_too() -> None:
    operator = WindowOperator(BY_FIRST, TumblingEventTimeWindows(10), Process(OfWindows()), OPAQUE)
    with OperatorHarness(operator) as harness:
        harness.push([("a", 7), ("a", 1), ("a", 3)], [0, 1, 11])
        harness.watermark(30)
        assert harness.output == [(7, 7, 4.0, [(7, 0)]), (3, 7, 11 / 3, [(3, 10), (7, 0)])]


class Seen(KeyedProcessFunction):
    """Gives out what it sees for the first time in a minute."""

    def open(self, runtime_context: Any) -> None:
        ttl = StateTtlConfig("1min")
        self.seen = runtime_context.get_state(ValueStateDescriptor("seen", bool, ttl=ttl))

    def process_element(self, value: tuple[str, int], ctx: Any) -> Iterator[Any]:
        if not self.seen.value():
            self.seen.update(True)
            yield value


def test_state_expires_by_the_clock_of_the_slot(kind: BackendKind) -> None:
    with OperatorHarness(KeyedProcessOperator(Seen(), BY_FIRST, OPAQUE), backend=kind) as harness:
        harness.push([("a", 1), ("a", 2)])
        harness.advance_time(59_999)
        harness.push([("a", 3)])
        harness.advance_time(1)
        harness.push([("a", 4)])
        assert harness.output == [("a", 1), ("a", 4)]


def test_what_has_expired_goes_though_nothing_arrives(kind: BackendKind) -> None:
    with OperatorHarness(KeyedProcessOperator(Seen(), BY_FIRST, OPAQUE), backend=kind) as harness:
        harness.push([(f"key {number}", 0) for number in range(500)])
        harness.snapshot()  # writes them
        operator: Any = harness.operator
        assert operator.backend.statistics().entries == 500
        harness.advance_time(60_000)
        for _ in range(20):
            due = operator.next_processing_timer()
            assert due is not None
            harness.advance_time(max(0, due - harness.clock.now_ms()))
            operator.between_batches()
        assert operator.backend.statistics().entries == 0
