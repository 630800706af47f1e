"""No more input: what every kind of window gives out then, as in Flink; nothing is left of windows that end."""

from __future__ import annotations

import operator
from typing import Any

import pytest

from penstock.runtime.elements import MAX_WATERMARK
from penstock.runtime.keys import KeyByFunction
from penstock.runtime.records.record_types import OPAQUE
from penstock.runtime.windows.all_windows import WithoutKey
from penstock.runtime.windows.assigner import WindowAssigner
from penstock.runtime.windows.assigners import (
    CalendarEventTimeWindows,
    EventTimeSessionWindows,
    GlobalWindows,
    ProcessingTimeSessionWindows,
    SlidingEventTimeWindows,
    SlidingProcessingTimeWindows,
    TumblingEventTimeWindows,
    TumblingProcessingTimeWindows,
)
from penstock.runtime.windows.building import window_operator
from penstock.runtime.windows.evaluations import Aggregate, Evaluation, Process, Reduce
from penstock.runtime.windows.evictors import CountEvictor, Evictor
from penstock.runtime.windows.triggers import (
    ContinuousEventTimeTrigger,
    ContinuousProcessingTimeTrigger,
    CountTrigger,
    DeltaTrigger,
    EarlyAndLateTrigger,
    EventTimeTrigger,
    NeverTrigger,
    ProcessingTimeoutTrigger,
    ProcessingTimeTrigger,
    PurgingTrigger,
    Trigger,
)
from penstock.runtime.windows.windows import MAX_TIMESTAMP, TimeWindow
from penstock.state.errors import RecordTypeError
from penstock.testing.harness import BackendKind, OperatorHarness

VALUES = (1, 2, 3, 4, 5)
"""Of one key, at 0, 10, 20 ... ms."""


class Sum:
    def create_accumulator(self) -> int:
        return 0

    def add(self, value: int, accumulator: int) -> int:
        return accumulator + value

    def merge(self, acc_a: int, acc_b: int) -> int:
        return acc_a + acc_b

    def get_result(self, accumulator: int) -> int:
        return accumulator


class Pairs(WindowAssigner):
    """A user's own."""

    window_type = TimeWindow
    is_event_time = True

    def assign_windows(self, element: Any, timestamp: int) -> list[TimeWindow]:
        return [TimeWindow(timestamp - timestamp % 20, timestamp - timestamp % 20 + 20)]

    def default_trigger(self) -> Trigger:
        return EventTimeTrigger()


def listed(key: Any, context: Any, elements: list[int]) -> list[int]:
    return [sum(elements)]


def harness_of(
    assigner: WindowAssigner,
    evaluation: Evaluation,
    trigger: Trigger | None = None,
    evictor: Evictor | None = None,
    lateness: int = 0,
    backend: BackendKind = "heap",
    *,
    batch_mode: bool = False,
) -> OperatorHarness:
    windows = window_operator(
        KeyByFunction(lambda value: "k"), assigner, evaluation, OPAQUE, trigger=trigger, evictor=evictor,
        allowed_lateness_ms=lateness,
    )  # fmt: skip
    return OperatorHarness(windows.in_batch_mode() if batch_mode else windows, backend=backend)


def play(harness: OperatorHarness) -> list[int]:
    for number, value in enumerate(VALUES):
        harness.push([value], [number * 10])
    given_out: list[int] = harness.take()
    harness.watermark(MAX_WATERMARK)
    harness.end_input()
    return given_out


def left(harness: OperatorHarness) -> tuple[int, int]:
    """Rows and timers in state."""
    harness.snapshot()
    statistics = harness.operator.state_statistics()
    assert statistics is not None
    return statistics.entries, statistics.timers


ENDING: list[Any] = [
    pytest.param(TumblingEventTimeWindows(20), None, [3, 7, 5], id="tumbling"),
    pytest.param(SlidingEventTimeWindows(20, 10), None, [1, 3, 5, 7, 9, 5], id="sliding"),
    pytest.param(SlidingEventTimeWindows(20, 8), None, [1, 3, 3, 5, 7, 9, 5, 5], id="sliding, uneven"),
    pytest.param(EventTimeSessionWindows(11), None, [15], id="sessions"),
    pytest.param(EventTimeSessionWindows(5), None, [1, 2, 3, 4, 5], id="sessions of one"),
    pytest.param(EventTimeSessionWindows(lambda value: 5 + 3 * value), None, [1, 14], id="sessions, dynamic gap"),
    pytest.param(Pairs(), None, [3, 7, 5], id="a user's own"),
    pytest.param(CalendarEventTimeWindows("day"), None, [15], id="calendar"),
    pytest.param(EventTimeSessionWindows(11), EarlyAndLateTrigger(CountTrigger(2)), [15], id="early"),
    pytest.param(TumblingEventTimeWindows(20), CountTrigger(2), [], id="a count that is not full"),
    pytest.param(TumblingEventTimeWindows(30), ContinuousEventTimeTrigger(20), [6, 6, 9, 9], id="continuous"),
    pytest.param(TumblingEventTimeWindows(30), ProcessingTimeoutTrigger(CountTrigger(2), 9), [6], id="timeout"),
    pytest.param(TumblingEventTimeWindows(30), DeltaTrigger(9, operator.sub, int), [], id="delta"),
    pytest.param(TumblingEventTimeWindows(30), ContinuousProcessingTimeTrigger(20), [], id="continuous by the clock"),
    pytest.param(TumblingEventTimeWindows(30), ProcessingTimeTrigger(), [], id="event time by the clock"),
    pytest.param(TumblingEventTimeWindows(20), PurgingTrigger(EventTimeTrigger()), [3, 7, 5], id="purging"),
    pytest.param(TumblingEventTimeWindows(30), NeverTrigger(), [], id="never"),
]


@pytest.mark.parametrize(("assigner", "trigger", "at_end"), ENDING)
@pytest.mark.parametrize("evaluation", [Reduce(lambda a, b: a + b), Aggregate(Sum()), Process(listed)])
@pytest.mark.parametrize(("lateness", "backend"), [(0, "heap"), (15, "heap"), (0, "rocksdb")])
def test_windows_of_event_time_fire_and_leave_nothing(
    assigner: WindowAssigner,
    trigger: Trigger | None,
    at_end: list[int],
    evaluation: Evaluation,
    lateness: int,
    backend: BackendKind,
) -> None:
    with harness_of(assigner, evaluation, trigger, None, lateness, backend) as harness:
        play(harness)
        assert harness.output == at_end
        assert left(harness) == (0, 0)


@pytest.mark.parametrize(
    ("assigner", "trigger"),
    [
        (TumblingProcessingTimeWindows(20), None),
        (SlidingProcessingTimeWindows(20, 10), None),
        (ProcessingTimeSessionWindows(20), None),
        (TumblingProcessingTimeWindows(20), ContinuousProcessingTimeTrigger(7)),
    ],
)
def test_windows_of_processing_time_give_out_nothing_until_the_clock_passes(
    assigner: WindowAssigner, trigger: Trigger | None
) -> None:
    """At the end of the input a task fires no timer of the clock any more."""
    with harness_of(assigner, Aggregate(Sum()), trigger) as harness:
        play(harness)
        assert harness.output == []
        assert min(left(harness)) > 0, "what they hold, and their timers"
        harness.advance_time(100)
        assert set(harness.output) == {15}
        assert left(harness) == (0, 0)


@pytest.mark.parametrize(
    ("trigger", "evictor", "before", "at_end"),
    [
        (None, None, [], []),
        (PurgingTrigger(CountTrigger(2)), None, [3, 7], []),
        (CountTrigger(2), CountEvictor(3), [3, 9], []),
        (EventTimeTrigger(), None, [], [15]),
        (PurgingTrigger(EventTimeTrigger()), None, [], [15]),
        (ContinuousEventTimeTrigger(20), None, [], [15, 15]),
        (EarlyAndLateTrigger(CountTrigger(9)), None, [], [15]),
        (DeltaTrigger(99, operator.sub, int), None, [], []),
        (ProcessingTimeTrigger(), None, [], []),
        (ContinuousProcessingTimeTrigger(20), None, [], []),
        (ProcessingTimeoutTrigger(CountTrigger(9), 9), None, [], []),
    ],
    ids=[
        "global", "count window", "sliding count window", "event time", "purged", "continuous", "early", "delta",
        "by the clock", "continuous by the clock", "timeout",
    ],
)  # fmt: skip
def test_what_does_not_fill_a_count_or_has_no_trigger_is_not_given_out(
    trigger: Trigger | None, evictor: Evictor | None, before: list[int], at_end: list[int]
) -> None:
    """Global windows never end: what they hold stays in state, as in Flink, unless it was purged."""
    with harness_of(GlobalWindows(), Process(listed), trigger, evictor) as harness:
        assert play(harness) == before
        assert harness.output == at_end
        assert (left(harness) == (0, 0)) == (isinstance(trigger, PurgingTrigger) and bool(at_end))


@pytest.mark.parametrize(
    ("assigner", "trigger", "before", "at_end", "stays"),
    [
        (TumblingEventTimeWindows(20), None, [], [3, 7, 5], False),
        (GlobalWindows(), PurgingTrigger(CountTrigger(2)), [3, 7], [], True),
    ],
    ids=["window_all", "count_window_all"],
)
def test_without_keys_as_with_keys(
    assigner: WindowAssigner, trigger: Trigger | None, before: list[int], at_end: list[int], stays: bool
) -> None:
    function = WithoutKey(lambda context, elements: [sum(elements)], "process")
    with harness_of(assigner, Process(function), trigger) as harness:
        assert play(harness) == before
        assert harness.output == at_end
        assert (left(harness) != (0, 0)) == stays


def test_a_count_window_that_was_just_filled_leaves_nothing() -> None:
    with harness_of(GlobalWindows(), Aggregate(Sum()), PurgingTrigger(CountTrigger(5))) as harness:
        assert play(harness) == [15]
        assert left(harness) == (0, 0)


@pytest.mark.parametrize("evaluation", [Process(listed), Aggregate(Sum())], ids=["process", "aggregate"])
@pytest.mark.parametrize(
    ("assigner", "trigger"),
    [
        (TumblingEventTimeWindows(20), None),
        (SlidingEventTimeWindows(40, 20), None),
        (EventTimeSessionWindows(20), None),
        (EventTimeSessionWindows(20), PurgingTrigger(EventTimeTrigger())),
        (CalendarEventTimeWindows("day"), None),
    ],
    ids=["tumbling", "sliding", "sessions", "merging", "calendar"],
)
def test_results_of_count_windows_are_no_elements_of_windows_of_event_time(
    assigner: WindowAssigner, trigger: Trigger | None, evaluation: Evaluation
) -> None:
    """They have the timestamp of a window that never ends, so the next one would end after all time."""
    with harness_of(GlobalWindows(), Aggregate(Sum()), PurgingTrigger(CountTrigger(2))) as counted:
        counted.push([1, 2, 3], [0, 10, 20])
        assert counted.timed_output == [(3, MAX_TIMESTAMP)]
    with harness_of(assigner, evaluation, trigger) as harness:
        message = r"operator 'operator': the record 3 has the last.*count windows.*assign_timestamps_and_watermarks"
        with pytest.raises(RecordTypeError, match=message):
            harness.push([1, 3], [5, MAX_TIMESTAMP])
        assert left(harness) == (0, 0)
