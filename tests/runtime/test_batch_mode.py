"""Operators in batch mode: final results only, once, when all input is there; and nothing stays in state."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.runtime.elements import MAX_WATERMARK
from penstock.runtime.event_time.watermarks import WatermarkStrategy
from penstock.runtime.functions import KeyedProcessFunction, RuntimeContext, TimeDomain
from penstock.runtime.keys import KeyByFunction
from penstock.runtime.operators.deduplicate import KeepLastOperator
from penstock.runtime.operators.keyed_process import KeyedProcessOperator
from penstock.runtime.operators.operator import Operator
from penstock.runtime.operators.running import RunningAggregateOperator, RunningReduceOperator
from penstock.runtime.operators.watermarks import WatermarksOperator
from penstock.runtime.records.record_types import OPAQUE, record_type_of
from penstock.runtime.windows.assigner import WindowAssigner
from penstock.runtime.windows.assigners import (
    EventTimeSessionWindows,
    GlobalWindows,
    ProcessingTimeSessionWindows,
    SlidingEventTimeWindows,
    SlidingProcessingTimeWindows,
    TumblingEventTimeWindows,
    TumblingProcessingTimeWindows,
)
from penstock.runtime.windows.building import window_operator
from penstock.runtime.windows.evaluations import Process, Reduce
from penstock.runtime.windows.final_triggers import final_trigger
from penstock.runtime.windows.triggers import (
    ContinuousEventTimeTrigger,
    ContinuousProcessingTimeTrigger,
    CountTrigger,
    EarlyAndLateTrigger,
    EventTimeTrigger,
    ProcessingTimeoutTrigger,
    ProcessingTimeTrigger,
    PurgingTrigger,
    Trigger,
    TriggerResult,
)
from penstock.state.descriptors import ValueStateDescriptor
from penstock.testing.harness import BackendKind, OperatorHarness, rescaled, subtask_for

BY_FIRST = KeyByFunction(lambda record: record[0], str)
PAIR = record_type_of(tuple[str, int])
BACKENDS: tuple[BackendKind, ...] = ("heap", "rocksdb")
Record = tuple[str, int]
RECORDS: list[Record] = [("a", 1), ("b", 7), ("a", 3), ("c", 2), ("b", 5), ("a", 3)]


def add(one: Record, other: Record) -> Record:
    return one[0], one[1] + other[1]


def running(kind: str) -> Operator:
    if kind == "reduce":
        return RunningReduceOperator(BY_FIRST, add, PAIR)
    return RunningAggregateOperator(BY_FIRST, kind, 1, record_type_of(int) if kind == "count" else PAIR)


def left(harness: OperatorHarness) -> tuple[int, int]:
    """Rows and timers in state."""
    harness.snapshot()
    statistics = harness.operator.state_statistics()
    assert statistics is not None
    return statistics.entries, statistics.timers


# ---- running results


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["reduce", "sum", "min", "max", "min_by", "max_by", "count"])
def test_of_running_results_the_last_of_each_key_is_given_out_at_the_end(kind: str, backend: BackendKind) -> None:
    times = [10, 20, 30, 40, 15, 25]
    with OperatorHarness(running(kind), record_type=PAIR, backend=backend) as streaming:
        streaming.push(RECORDS, times)
        last = {record[0]: timed for record, timed in zip(RECORDS, streaming.timed_output, strict=True)}
    with OperatorHarness(running(kind).in_batch_mode(), record_type=PAIR, backend=backend) as harness:
        harness.push(RECORDS[:2], times[:2])
        harness.push(RECORDS[2:], times[2:])
        harness.watermark(1_000)
        assert harness.output == []
        harness.watermark(MAX_WATERMARK)
        assert harness.timed_output == [last[key] for key in "abc"]
        harness.end_input()
        assert len(harness.output) == 3
        assert left(harness) == (0, 0)


def test_records_without_timestamps_give_results_without() -> None:
    with OperatorHarness(running("sum").in_batch_mode(), record_type=PAIR) as harness:
        harness.push(RECORDS)
        harness.watermark(MAX_WATERMARK)
        assert harness.timed_output == [(("a", 7), None), (("b", 12), None), (("c", 2), None)]


def test_no_input_gives_nothing() -> None:
    with OperatorHarness(running("sum").in_batch_mode(), record_type=PAIR) as harness:
        harness.watermark(MAX_WATERMARK)
        harness.end_input()
        assert harness.output == []


def test_a_result_that_was_changed_in_place_is_the_last_one() -> None:
    def extend(one: tuple[str, list[int]], other: tuple[str, list[int]]) -> tuple[str, list[int]]:
        one[1].extend(other[1])
        return one

    with OperatorHarness(RunningReduceOperator(BY_FIRST, extend, OPAQUE).in_batch_mode()) as harness:
        harness.push([("a", [1]), ("b", [2]), ("a", [3])])
        harness.watermark(MAX_WATERMARK)
        assert harness.output == [("a", [1, 3]), ("b", [2])]


@settings(max_examples=25, deadline=None)
@given(
    records=st.lists(st.tuples(st.sampled_from("abcdefg"), st.integers(0, 9)), max_size=30),
    cut=st.integers(0, 30),
    before=st.integers(1, 3),
    after=st.integers(1, 3),
)
def test_restored_in_the_middle_at_another_parallelism(
    records: list[Record], cut: int, before: int, after: int
) -> None:
    def make() -> Operator:
        return running("sum").in_batch_mode()

    def push(harnesses: Sequence[OperatorHarness], pushed: list[Record]) -> None:
        for key, value in pushed:
            harnesses[subtask_for(key, len(harnesses))].push([(key, value)], [value])

    first = rescaled(make, [], before, record_type=PAIR)
    push(first, records[:cut])
    snapshots = [harness.snapshot() for harness in first]
    second = rescaled(make, snapshots, after, record_type=PAIR)
    push(second, records[cut:])
    for harness in second:
        harness.watermark(MAX_WATERMARK)
    results = sorted(result for harness in second for result in harness.timed_output)
    for harness in [*first, *second]:
        harness.close()
    keys = sorted({key for key, _ in records})
    assert results == [
        ((key, sum(value for k, value in records if k == key)), [value for k, value in records if k == key][-1])
        for key in keys
    ]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("by_event_time", "expected"),
    [
        (False, [(("a", 3), 25), (("b", 5), 15), (("c", 2), 40)]),
        (True, [(("a", 3), 30), (("b", 7), 20), (("c", 2), 40)]),
    ],
)
def test_of_a_deduplication_that_keeps_the_last_only_that_is_given_out(
    by_event_time: bool, expected: list[Any], backend: BackendKind
) -> None:
    operator = KeepLastOperator(BY_FIRST, PAIR, None, by_event_time=by_event_time).in_batch_mode()
    with OperatorHarness(operator, record_type=PAIR, backend=backend) as harness:
        for record, at in zip(RECORDS, [10, 20, 30, 40, 15, 25], strict=True):
            harness.push([record], [at])
        assert harness.output == []
        harness.watermark(MAX_WATERMARK)
        assert harness.timed_output == expected
        assert [batch.row_kinds for batch in harness.batches] == [None]
        assert left(harness) == (0, 0)


# ---- timers


class Timed(KeyedProcessFunction):
    """Registers timers of both kinds, and more of them while they fire."""

    def open(self, runtime_context: RuntimeContext) -> None:
        self.seen = runtime_context.get_state(ValueStateDescriptor("seen", int, 0))

    def process_element(self, value: Record, ctx: Any) -> Iterator[Any]:
        self.seen.update(self.seen.value() + 1)
        timers = ctx.timer_service()
        timers.register_event_time_timer(value[1])
        timers.register_processing_time_timer(timers.current_processing_time() + 60_000)
        yield from ()

    def on_timer(self, timestamp: int, ctx: Any) -> Iterator[Any]:
        timers = ctx.timer_service()
        timers.register_processing_time_timer(timestamp + 60_000)
        if ctx.time_domain() is TimeDomain.EVENT_TIME:
            yield ctx.get_current_key(), "event", timestamp
            if timestamp < 100:
                timers.register_event_time_timer(100)
        else:
            yield ctx.get_current_key(), "clock", self.seen.value()
            timers.register_event_time_timer(200)
            self.seen.clear()


@pytest.mark.parametrize("backend", BACKENDS)
def test_all_timers_fire_at_the_end_those_of_the_clock_last_and_once(backend: BackendKind) -> None:
    operator = KeyedProcessOperator(Timed(), BY_FIRST, OPAQUE).in_batch_mode()
    with OperatorHarness(operator, backend=backend) as harness:
        harness.push([("a", 5), ("b", 3)], [5, 3])
        harness.advance_time(3_600_000)
        harness.push([("a", 4)], [4])
        assert harness.output == []
        harness.watermark(MAX_WATERMARK)
        harness.end_input()
        assert harness.output[:5] == [
            ("b", "event", 3),
            ("a", "event", 4),
            ("a", "event", 5),
            ("b", "event", 100),
            ("a", "event", 100),
        ]
        assert sorted(harness.output[5:8]) == [("a", "clock", 0), ("a", "clock", 2), ("b", "clock", 1)]
        assert sorted(harness.output[8:]) == [("a", "event", 200), ("b", "event", 200)]
        assert left(harness) == (0, 0)


# ---- windows

VALUES = (1, 2, 3, 4, 5)
"""Of one key, at 0, 10, 20 ... ms, of both clocks."""


def summed(key: Any, context: Any, elements: list[Record]) -> list[int]:
    return [sum(value for _, value in elements)]


def play(assigner: WindowAssigner, trigger: Trigger | None, backend: BackendKind = "heap") -> tuple[list[int], Any]:
    """What comes before the end, and then."""
    operator = window_operator(BY_FIRST, assigner, Process(summed), OPAQUE, trigger=trigger, input_type=PAIR)
    with OperatorHarness(operator.in_batch_mode(), record_type=PAIR, backend=backend) as harness:
        harness.clock.set(0)
        for number, value in enumerate(VALUES):
            harness.push([("k", value)], [number * 10])
            harness.advance_time(10)
        before = harness.take()
        harness.watermark(MAX_WATERMARK)
        harness.end_input()
        at_end = harness.output
        if not isinstance(assigner, GlobalWindows):
            assert left(harness) == (0, 0)
        return before, at_end


ONCE: list[Any] = [
    pytest.param(TumblingEventTimeWindows(20), None, [3, 7, 5], id="tumbling"),
    pytest.param(TumblingEventTimeWindows(20), ContinuousEventTimeTrigger(7), [3, 7, 5], id="continuous"),
    pytest.param(
        TumblingEventTimeWindows(20), ContinuousProcessingTimeTrigger(7), [3, 7, 5], id="continuous by the clock"
    ),
    pytest.param(TumblingEventTimeWindows(20), ProcessingTimeTrigger(), [3, 7, 5], id="event time by the clock"),
    pytest.param(
        TumblingEventTimeWindows(20), EarlyAndLateTrigger(CountTrigger(1), CountTrigger(1)), [3, 7, 5], id="early"
    ),
    pytest.param(
        TumblingEventTimeWindows(20), PurgingTrigger(ContinuousEventTimeTrigger(7)), [3, 7, 5], id="purging continuous"
    ),
    pytest.param(
        TumblingEventTimeWindows(20), ProcessingTimeoutTrigger(EventTimeTrigger(), 5), [3, 7, 5], id="timeout"
    ),
    pytest.param(
        TumblingEventTimeWindows(30), ProcessingTimeoutTrigger(CountTrigger(9), 5), [6, 9], id="timeout of a count"
    ),
    pytest.param(SlidingEventTimeWindows(20, 10), None, [1, 3, 5, 7, 9, 5], id="sliding"),
    pytest.param(EventTimeSessionWindows(11), EarlyAndLateTrigger(CountTrigger(2)), [15], id="sessions, early"),
    pytest.param(TumblingProcessingTimeWindows(20), None, [3, 7, 5], id="tumbling by the clock"),
    pytest.param(SlidingProcessingTimeWindows(20, 10), None, [1, 3, 5, 7, 9, 5], id="sliding by the clock"),
    pytest.param(ProcessingTimeSessionWindows(11), None, [15], id="sessions by the clock"),
    pytest.param(ProcessingTimeSessionWindows(5), None, [1, 2, 3, 4, 5], id="sessions by the clock, of one"),
    pytest.param(
        TumblingProcessingTimeWindows(20), ContinuousProcessingTimeTrigger(7), [3, 7, 5], id="continuous, both clock"
    ),
    pytest.param(GlobalWindows(), EventTimeTrigger(), [15], id="global"),
    pytest.param(GlobalWindows(), ContinuousProcessingTimeTrigger(7), [15], id="global, continuous by the clock"),
    pytest.param(
        GlobalWindows(), PurgingTrigger(ProcessingTimeoutTrigger(CountTrigger(9), 5)), [15], id="global, timeout"
    ),
    pytest.param(GlobalWindows(), None, [], id="global without a trigger"),
]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("assigner", "trigger", "at_end"), ONCE)
def test_every_window_is_given_out_once_at_the_end(
    assigner: WindowAssigner, trigger: Trigger | None, at_end: list[int], backend: BackendKind
) -> None:
    assert play(assigner, trigger, backend) == ([], at_end)


def test_what_counts_elements_fires_on_the_way() -> None:
    """A count says what belongs together; what does not fill it is not given out, in batch mode neither."""
    assert play(GlobalWindows(), PurgingTrigger(CountTrigger(2))) == ([3, 7], [])
    assert play(TumblingEventTimeWindows(30), CountTrigger(2)) == ([3, 9], [])


class Later(Trigger):
    """By event time, which it begins to wait for when the clock says so."""

    def on_element(self, element: Any, timestamp: int, window: Any, ctx: Any) -> TriggerResult:
        ctx.register_processing_time_timer(ctx.get_current_processing_time() + 5_000)
        return TriggerResult.CONTINUE

    def on_processing_time(self, time: int, window: Any, ctx: Any) -> TriggerResult:
        ctx.register_processing_time_timer(time + 5_000)
        ctx.register_event_time_timer(time)
        return TriggerResult.CONTINUE

    def on_event_time(self, time: int, window: Any, ctx: Any) -> TriggerResult:
        return TriggerResult.FIRE_AND_PURGE

    def clear(self, window: Any, ctx: Any) -> None:
        pass


def test_timers_of_event_time_that_those_of_the_clock_register_fire_as_well() -> None:
    assert play(GlobalWindows(), Later()) == ([], [15])


def test_triggers_of_a_user_s_own_are_left_alone() -> None:
    class Mine(ContinuousEventTimeTrigger):
        pass

    mine = Mine(7)
    assert final_trigger(mine, of_event_time=True) is mine
    purging = final_trigger(PurgingTrigger(mine), of_event_time=True)
    assert isinstance(purging, PurgingTrigger)
    assert purging.nested is mine


def test_the_prototype_of_streaming_is_not_changed() -> None:
    operator = window_operator(
        BY_FIRST, TumblingEventTimeWindows(20), Reduce(add), PAIR, trigger=ContinuousEventTimeTrigger(7)
    )
    in_batch_mode = operator.in_batch_mode()
    assert (operator.batch_mode, in_batch_mode.batch_mode) == (False, True)
    assert isinstance(operator.trigger, ContinuousEventTimeTrigger)
    assert isinstance(in_batch_mode.trigger, EventTimeTrigger)


# ---- event time


@pytest.mark.parametrize(
    "strategy",
    [
        WatermarkStrategy.for_monotonous_timestamps(),
        WatermarkStrategy.for_bounded_out_of_orderness(5).with_idleness("1s"),
    ],
)
def test_watermarks_in_the_middle_of_a_pipeline_stand_still_until_the_end(strategy: WatermarkStrategy) -> None:
    second: Callable[[Record, int], int] = lambda record, _: record[1]  # noqa: E731 (pickled)
    operator = WatermarksOperator(strategy.with_timestamp_assigner(second), PAIR).in_batch_mode()
    with OperatorHarness(operator, record_type=PAIR) as harness:
        harness.push(RECORDS, [0] * len(RECORDS))
        harness.advance_time(10_000)
        assert harness.elements == []
        assert [timestamp for _, timestamp in harness.timed_output] == [1, 7, 3, 2, 5, 3]
        harness.end_input()
        assert harness.watermarks == [MAX_WATERMARK]
