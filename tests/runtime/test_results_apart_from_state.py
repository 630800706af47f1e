"""What a function gives out is as it was when it was given, and whoever gets it may change it: state is not touched."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from penstock import (
    KeyedProcessFunction,
    ListStateDescriptor,
    MapStateDescriptor,
    OutputTag,
    ProcessWindowFunction,
    TumblingEventTimeWindows,
    ValueStateDescriptor,
)
from penstock.runtime.keys import KeyByFunction
from penstock.runtime.operators.keyed_process import KeyedProcessOperator
from penstock.runtime.operators.running import RunningReduceOperator
from penstock.runtime.records.record_types import OPAQUE, record_type_of
from penstock.runtime.windows.evaluations import Process
from penstock.runtime.windows.window_operator import WindowOperator
from penstock.testing.harness import OperatorHarness


@dataclass
class Total:
    n: int = 0


SIDE = OutputTag[Any]("side")


class GivesItsState(KeyedProcessFunction):
    def open(self, runtime_context: Any) -> None:
        self.total = runtime_context.get_state(ValueStateDescriptor("total", Total, Total()))
        self.values = runtime_context.get_list_state(ListStateDescriptor("values", int))
        self.totals = runtime_context.get_map_state(MapStateDescriptor("totals", str, Total))

    def process_element(self, value: str, ctx: Any) -> Iterator[Any]:
        total = self.total.value()
        for _ in range(2):
            total.n += 1
            yield total
        self.values.add(total.n)
        yield value, self.values.get()
        ctx.output(SIDE, total)
        mapped = self.totals.get("a") or Total()
        mapped.n -= 1
        self.totals.put("a", mapped)
        yield {"mapped": mapped}
        ctx.timer_service().register_event_time_timer(10)

    def on_timer(self, timestamp: int, ctx: Any) -> Iterator[Any]:
        yield [self.total.value()]


@pytest.mark.parametrize("backend", ["heap", "rocksdb"])
def test_results_are_as_they_were_when_they_were_given(backend: Any) -> None:
    operator = KeyedProcessOperator(GivesItsState(), KeyByFunction(lambda x: x), OPAQUE, frozenset({"side"}))
    with OperatorHarness(operator, backend=backend) as harness:
        harness.push(["k", "k"], [1, 2])
        assert harness.side_output(SIDE) == [Total(2), Total(4)]
        assert harness.take() == [
            Total(1), Total(2), ("k", [2]), {"mapped": Total(-1)},
            Total(3), Total(4), ("k", [2, 4]), {"mapped": Total(-2)},
        ]  # fmt: skip


def test_whoever_gets_a_result_may_change_it() -> None:
    operator = KeyedProcessOperator(GivesItsState(), KeyByFunction(lambda x: x), OPAQUE)
    with OperatorHarness(operator) as harness:
        for _ in range(3):
            harness.push(["k"], [1])
            first, _second, (_key, values), _mapping = harness.take()
            first.n += 100
            values.append(100)
        harness.watermark(10)
        assert harness.take() == [[Total(6)]]


class WithGlobalState(ProcessWindowFunction):
    def process(self, key: str, context: Any, elements: Any) -> Iterator[Any]:
        state = context.global_state().get_state(ValueStateDescriptor("total", Total, Total()))
        total = state.value()
        total.n += len(elements)
        yield total


def test_a_windows_results_are_apart_from_state_of_the_key() -> None:
    windows = WindowOperator(
        KeyByFunction(lambda x: "k"),
        TumblingEventTimeWindows("10ms"),
        Process(WithGlobalState()),
        OPAQUE,
        input_type=record_type_of(int),
    )
    with OperatorHarness(windows) as harness:
        harness.push([1, 2, 3], [1, 11, 12])
        harness.watermark(100)
        assert harness.take() == [Total(1), Total(3)]


class Unwritable:
    def __reduce__(self) -> Any:
        raise TypeError("not to be copied")


class GivesWhatCannotBeCopied(GivesItsState):
    def process_element(self, value: str, ctx: Any) -> Iterator[Any]:
        yield Unwritable()


def test_what_cannot_be_copied_goes_out_as_it_is() -> None:
    with OperatorHarness(
        KeyedProcessOperator(GivesWhatCannotBeCopied(), KeyByFunction(lambda x: x), OPAQUE)
    ) as harness:
        harness.push(["k"], [1])
        assert len(harness.take()) == 1


def test_the_first_record_of_a_batch_does_not_speak_for_all_of_them() -> None:
    def gathered(one: tuple[str, Any], other: tuple[str, Any]) -> tuple[str, Any]:
        if one[1] is None:
            return other
        one[1].extend(other[1])
        return one

    with OperatorHarness(RunningReduceOperator(KeyByFunction(lambda x: x[0]), gathered, OPAQUE)) as harness:
        harness.push([("a", None), ("a", [1]), ("a", [2])])
        assert harness.take() == [("a", None), ("a", [1]), ("a", [1, 2])]
