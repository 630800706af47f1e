"""Functions with state and timers per key, running reduce and aggregates: on both backends, over restores."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pytest

from penstock.runtime.elements import MAX_WATERMARK
from penstock.runtime.functions import (
    KeyedProcessFunction,
    OutputTag,
    ReduceFunction,
    TimeDomain,
)
from penstock.runtime.keys import KeyByColumns, KeyByFunction
from penstock.runtime.operators.keyed_process import (
    KeyedProcessOperator,
    RunningAggregateOperator,
    RunningReduceOperator,
)
from penstock.runtime.records.record_types import OPAQUE, record_type_of
from penstock.state.descriptors import ListStateDescriptor, MapStateDescriptor, ValueStateDescriptor
from penstock.state.errors import KeyTypeError, UserCodeError
from penstock.testing.harness import BackendKind, OperatorHarness, rescaled, subtask_for

SIDE = OutputTag("side", int)
BY_FIRST = KeyByFunction(lambda record: record[0])


@dataclass
class Reading:
    sensor: str
    value: int
    note: str


# ---- keyed process


class Visits(KeyedProcessFunction):
    """All kinds of state and timers in one."""

    def open(self, runtime_context: Any) -> None:
        self.count = runtime_context.get_state(ValueStateDescriptor("count", int, default=0))
        self.values = runtime_context.get_list_state(ListStateDescriptor("values", int))
        self.latest = runtime_context.get_map_state(MapStateDescriptor("latest", str, int))

    def process_element(self, value: tuple[str, int], ctx: Any) -> Iterator[Any]:
        self.count.update(self.count.value() + 1)
        self.values.add(value[1])
        self.latest.put("value", value[1])
        timers = ctx.timer_service()
        if value[1] < 0:
            timers.delete_event_time_timer(100)
        else:
            timers.register_event_time_timer(100)
            timers.register_event_time_timer(100)
            timers.register_processing_time_timer(timers.current_processing_time() + 50)
        yield ctx.get_current_key(), self.count.value()

    def on_timer(self, timestamp: int, ctx: Any) -> Iterator[Any]:
        if ctx.time_domain() is TimeDomain.PROCESSING_TIME:
            yield "clock", ctx.get_current_key(), timestamp, ctx.timestamp()
            return
        assert ctx.timestamp() == timestamp
        ctx.output(SIDE, self.count.value())
        yield ctx.get_current_key(), sorted(self.values.get()), self.latest.get("value")
        if timestamp == 100:
            ctx.timer_service().register_event_time_timer(90)  # past: still at this watermark
            ctx.timer_service().register_event_time_timer(300)


def visits() -> KeyedProcessOperator:
    return KeyedProcessOperator(Visits(), BY_FIRST, OPAQUE, frozenset({"side"}))


def test_state_and_timers_per_key() -> None:
    with OperatorHarness(visits()) as harness:
        harness.push([("b", 1), ("a", 2), ("b", 3), ("c", -1)], [1, 2, 3, 4])
        assert harness.take() == [("b", 1), ("a", 1), ("b", 2), ("c", 1)]
        harness.watermark(99)
        assert harness.take() == []
        harness.watermark(100)
        assert harness.timed_output == [
            (("b", [1, 3], 3), 100),
            (("b", [1, 3], 3), 90),
            (("a", [2], 2), 100),
            (("a", [2], 2), 90),
        ]
        assert harness.side_output("side") == [2, 2, 1, 1]
        harness.take()
        harness.push([("b", -1)], [5])
        harness.watermark(299)
        assert harness.take() == [("b", 3)]
        harness.watermark(300)
        assert harness.take() == [("b", [-1, 1, 3], -1), ("a", [2], 2)]


def test_a_timer_in_the_past_waits_for_the_next_watermark() -> None:
    with OperatorHarness(visits()) as harness:
        harness.watermark(500)
        harness.push([("a", 1)], [600])
        assert harness.take() == [("a", 1)]
        harness.watermark(501)
        assert harness.take() == [("a", [1], 1)] * 3


def test_processing_timers_fire_by_the_clock_before_the_next_batch() -> None:
    with OperatorHarness(visits()) as harness:
        harness.push([("a", 1)], [1])
        harness.take()
        harness.advance_time(49)
        assert harness.take() == []
        harness.clock.advance(1)
        harness.push([("b", 1)], [1])
        assert harness.timed_output == [(("clock", "a", 50, None), None), (("b", 1), 1)]


def test_no_more_input() -> None:
    """Event time ends: its timers fire. That of the clock does not, and state stays as the function leaves it."""
    with OperatorHarness(visits()) as harness:
        harness.push([("a", 1)], [1])
        assert harness.take() == [("a", 1)]
        harness.watermark(MAX_WATERMARK)
        harness.end_input()
        assert harness.take() == [("a", [1], 1)] * 3
        statistics = harness.operator.state_statistics()
        assert statistics is not None
        assert statistics.timers == 1
        snapshot = harness.snapshot()
    with OperatorHarness(visits(), restored=[snapshot]) as harness:
        harness.push([("a", 1)], [2])
        assert harness.output == [("a", 2)]


def test_no_more_input_of_running_results() -> None:
    """They are out, and what they go on from stays."""
    with OperatorHarness(
        RunningReduceOperator(BY_FIRST, lambda one, other: (one[0], one[1] + other[1]), OPAQUE)
    ) as sums:
        sums.push([("a", 1), ("a", 2), ("b", 3)], [1, 2, 3])
        assert sums.take() == [("a", 1), ("a", 3), ("b", 3)]
        sums.watermark(MAX_WATERMARK)
        sums.end_input()
        assert sums.output == []
        statistics = sums.operator.state_statistics()
        assert statistics is not None
        assert (statistics.entries, statistics.timers) == (2, 0)


@pytest.mark.parametrize("backend", ["heap", "rocksdb"])
def test_state_and_timers_survive_rescaling(backend: BackendKind) -> None:
    keys = [f"k{i}" for i in range(40)]
    with OperatorHarness(visits(), backend=backend) as harness:
        harness.push([(key, 1) for key in keys], [1] * 40)
        harness.watermark(50)
        program = harness.begin_snapshot()
        harness.push([(key, 9) for key in keys], [1] * 40)  # after the barrier
        snapshot = harness.finish(program)
    assert snapshot.watermark == 50
    subtasks = rescaled(visits, [snapshot], 3, backend=backend)
    seen = []
    for number, harness in enumerate(subtasks):
        mine = [key for key in keys if subtask_for(key, 3) == number]
        harness.push([(key, 2) for key in mine], [1] * len(mine))
        assert harness.take() == [(key, 2) for key in mine]
        harness.watermark(100)
        seen += harness.take()
        harness.close()
    assert sorted(seen) == sorted([(key, [1, 2], 2) for key in keys] * 2)  # at 100 and at 90


def test_many_timers_let_themselves_be_interrupted() -> None:
    from penstock.runtime.elements import Watermark

    with OperatorHarness(visits()) as harness:
        harness.push([(f"k{i}", 1) for i in range(1_000)], [1] * 1_000)
        harness.take()
        given_out = [len(harness.output) for _ in harness.operator.process_watermark(Watermark(100))]
        assert len(given_out) >= 15
        assert all(after - before <= 1_200 for before, after in pairwise([0, *given_out]))
        assert len(set(given_out)) > 1
        assert len(harness.output) == 2_000


def test_errors_of_keys_and_timers() -> None:
    with OperatorHarness(visits()) as harness, pytest.raises(KeyTypeError, match=r"operator 'operator'.*list cannot"):
        harness.push([([1], 1)])
    with OperatorHarness(visits()) as harness, pytest.raises(UserCodeError, match="in the key function"):
        harness.push([5])

    class Fails(KeyedProcessFunction):
        def process_element(self, value: Any, ctx: Any) -> None:
            ctx.timer_service().register_event_time_timer(np.int64(5))

        def on_timer(self, timestamp: int, ctx: Any) -> None:
            raise ValueError("boom")

    with OperatorHarness(KeyedProcessOperator(Fails(), BY_FIRST, OPAQUE)) as harness:
        harness.push([("a", 1)], [1])
        with pytest.raises(UserCodeError, match=r"boom.*event time timer at 5 of key 'a'"):
            harness.watermark(5)

    def float_timer(value: Any, ctx: Any) -> None:
        ctx.timer_service().register_event_time_timer(1.5)

    operator = KeyedProcessOperator(float_timer, BY_FIRST, OPAQUE)
    with OperatorHarness(operator) as harness, pytest.raises(UserCodeError, match=r"int ms, not 1\.5"):
        harness.push([("a", 1)])


# ---- running reduce and aggregates


class Longer(ReduceFunction):
    def reduce(self, value1: Any, value2: Any) -> Any:
        return value1 if len(value1) > len(value2) else value2


@pytest.mark.parametrize("backend", ["heap", "rocksdb"])
def test_running_reduce(backend: BackendKind) -> None:
    operator = RunningReduceOperator(KeyByFunction(len), lambda a, b: a + b, record_type_of(str))
    with OperatorHarness(operator, record_type=str, backend=backend) as harness:
        harness.push(["a", "bb", "c"], [1, 2, 3])
        assert harness.timed_output == [("a", 1), ("bb", 2), ("ac", 3)]
        snapshot = harness.snapshot()
    for harness in rescaled(lambda: operator, [snapshot], 1, record_type=str, backend=backend):
        harness.push(["d"])
        assert harness.output == ["acd"]
        harness.close()
    with OperatorHarness(RunningReduceOperator(KeyByFunction(lambda r: 0), Longer(), OPAQUE)) as harness:
        harness.push(["a", "bb", "c"])
        assert harness.output == ["a", "bb", "bb"]


def test_a_reduce_that_changes_its_argument_gives_out_each_result_as_it_was() -> None:
    def into_first(a: dict[str, int], b: dict[str, int]) -> dict[str, int]:
        a["n"] += b["n"]
        return a

    with OperatorHarness(RunningReduceOperator(KeyByFunction(lambda r: 0), into_first, OPAQUE)) as harness:
        harness.push([{"n": 1}, {"n": 2}, {"n": 3}])
        assert harness.output == [{"n": 1}, {"n": 3}, {"n": 6}]
        harness.output[-1]["n"] = -1
        harness.push([{"n": 4}])
        assert harness.output[-1] == {"n": 10}


RECORDS = [("a", 3, "x"), ("b", 5, "y"), ("a", 1, "z"), ("a", 3, "w"), ("a", 1, "v")]
EXPECTED: dict[str, list[Any]] = {
    "sum": [(3, "x"), (5, "y"), (4, "x"), (7, "x"), (8, "x")],
    "min": [(3, "x"), (5, "y"), (1, "x"), (1, "x"), (1, "x")],
    "max": [(3, "x"), (5, "y"), (3, "x"), (3, "x"), (3, "x")],
    "min_by": [(3, "x"), (5, "y"), (1, "z"), (1, "z"), (1, "z")],
    "max_by": [(3, "x"), (5, "y"), (3, "x"), (3, "x"), (3, "x")],
}


@pytest.mark.parametrize("kind", sorted(EXPECTED))
def test_running_aggregates_as_in_flink(kind: str) -> None:
    by_key = KeyByFunction(lambda record: record[0])
    with OperatorHarness(RunningAggregateOperator(by_key, kind, 1, OPAQUE)) as harness:
        harness.push(RECORDS[:2])
        harness.push(RECORDS[2:])
        assert [row[1:] for row in harness.output] == EXPECTED[kind]
    readings = [Reading(*record) for record in RECORDS]
    typed = record_type_of(Reading)
    for backend in ("heap", "rocksdb"):
        operator = RunningAggregateOperator(KeyByColumns(["sensor"]), kind, "value", typed)
        with OperatorHarness(operator, record_type=typed, backend=backend) as harness:  # type: ignore[arg-type]
            harness.push(readings)
            assert [(r.value, r.note) for r in harness.output] == EXPECTED[kind]
            snapshot = harness.snapshot()
        (harness,) = rescaled(lambda: operator, [snapshot], 1, record_type=typed, backend=backend)  # noqa: B023
        with harness:
            harness.push([readings[0]])
            expected = {"sum": 11, "min": 1, "max": 3, "min_by": 1, "max_by": 3}
            assert harness.output[0].value == expected[kind]


class Sale(NamedTuple):
    shop: str
    amount: int
    note: str


@pytest.mark.parametrize("field", ["amount", 1, -2])
def test_running_sum_of_named_tuples(field: str | int) -> None:
    with OperatorHarness(RunningAggregateOperator(KeyByColumns(["shop"]), "sum", field, OPAQUE)) as harness:
        harness.push([Sale("a", 1, "x"), Sale("b", 5, "y"), Sale("a", 2, "z")])
        assert harness.output == [Sale("a", 1, "x"), Sale("b", 5, "y"), Sale("a", 3, "x")]
        assert set(map(type, harness.output)) == {Sale}


def test_running_aggregates_of_scalars_dicts_and_counts() -> None:
    parity = KeyByFunction(lambda x: x % 2)
    for kind, expected in (
        ("sum", [1, 2, 4, 6]),
        ("max", [1, 2, 3, 4]),
        ("min_by", [1, 2, 1, 2]),
        ("count", [1, 1, 2, 2]),
    ):
        with OperatorHarness(
            RunningAggregateOperator(parity, kind, 0, record_type_of(int)), record_type=int
        ) as harness:
            harness.push([1, 2, 3, 4])
            assert harness.output == expected
    with OperatorHarness(RunningAggregateOperator(KeyByColumns(["k"]), "sum", "n", OPAQUE)) as harness:
        rows = [{"k": "a", "n": 1}, {"k": "a", "n": 2}]
        harness.push(rows)
        assert harness.output == [{"k": "a", "n": 1}, {"k": "a", "n": 3}]
        assert rows == [{"k": "a", "n": 1}, {"k": "a", "n": 2}]
    operator = RunningAggregateOperator(BY_FIRST, "sum", 7, OPAQUE)
    with OperatorHarness(operator) as harness, pytest.raises(UserCodeError, match="no field 7"):
        harness.push([("a", 1)])
