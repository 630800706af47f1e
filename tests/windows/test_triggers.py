"""What every trigger does, example by example."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.runtime.keys import KeyByFunction
from penstock.runtime.records.record_types import OPAQUE
from penstock.runtime.windows.assigner import WindowAssigner
from penstock.runtime.windows.assigners import (
    EventTimeSessionWindows,
    GlobalWindows,
    TumblingEventTimeWindows,
    TumblingProcessingTimeWindows,
)
from penstock.runtime.windows.building import window_operator
from penstock.runtime.windows.evaluations import Process
from penstock.runtime.windows.triggers import (
    ContinuousEventTimeTrigger,
    ContinuousProcessingTimeTrigger,
    CountTrigger,
    DeltaTrigger,
    EarlyAndLateTrigger,
    EventTimeTrigger,
    NeverTrigger,
    OnMergeContext,
    ProcessingTimeTrigger,
    PurgingTrigger,
    Trigger,
    TriggerContext,
    TriggerResult,
)
from penstock.runtime.windows.windows import TimeWindow
from penstock.state.descriptors import (
    AggregatingStateDescriptor,
    ListStateDescriptor,
    ReducingStateDescriptor,
    ValueStateDescriptor,
)
from penstock.state.errors import PipelineError, UserCodeError
from penstock.testing.harness import OperatorHarness


def harness_of(assigner: WindowAssigner, trigger: Trigger, lateness: int = 0) -> OperatorHarness:
    return OperatorHarness(
        window_operator(
            KeyByFunction(lambda value: "k"), assigner, Process(lambda key, context, values: [list(values)]), OPAQUE,
            trigger=trigger, allowed_lateness_ms=lateness,
        )
    )  # fmt: skip


def test_count_fires_at_every_nth_element_with_all_there_are() -> None:
    with harness_of(GlobalWindows(), CountTrigger(2)) as harness:
        harness.push([1, 2, 3], [0, 0, 0])
        harness.push([4, 5], [0, 0])
        assert harness.output == [[1, 2], [1, 2, 3, 4]]


def test_purging_gives_out_what_is_new() -> None:
    with harness_of(GlobalWindows(), PurgingTrigger.of(CountTrigger.of(2))) as harness:
        harness.push([1, 2, 3, 4, 5], [0] * 5)
        assert harness.output == [[1, 2], [3, 4]]


def test_counts_of_windows_that_merge_add_up() -> None:
    with harness_of(EventTimeSessionWindows(10), CountTrigger(3)) as harness:
        harness.push([1, 2], [0, 18])
        assert harness.output == []
        harness.push([3], [9])
        assert harness.output == [[1, 2, 3]]


def test_delta_is_measured_from_the_element_that_was_last_fired_at() -> None:
    with harness_of(GlobalWindows(), DeltaTrigger(2, lambda old, new: abs(new - old), int)) as harness:
        harness.push([1, 3, 4, 5, 6, 7], [0] * 6)
        assert harness.output == [[1, 3, 4], [1, 3, 4, 5, 6, 7]]


def test_never_does_not() -> None:
    with harness_of(TumblingEventTimeWindows(10), NeverTrigger()) as harness:
        harness.push([1], [0])
        harness.watermark(100)
        assert harness.output == []


def test_continuous_event_time_fires_at_multiples_and_at_the_end() -> None:
    with harness_of(TumblingEventTimeWindows(100), ContinuousEventTimeTrigger("30ms"), lateness=50) as harness:
        harness.push([1], [5])
        harness.watermark(29)
        assert harness.take() == []
        harness.watermark(30)
        assert harness.take() == [[1]]
        harness.push([2], [31])
        harness.watermark(95)
        assert harness.take() == [[1, 2], [1, 2]]  # 60, 90
        harness.watermark(99)
        assert harness.take() == [[1, 2]]
        harness.push([3], [40])
        assert harness.take() == [[1, 2, 3]]
        harness.watermark(1_000)
        assert harness.output == []


def test_continuous_event_time_needs_timestamps() -> None:
    with (
        harness_of(GlobalWindows(), ContinuousEventTimeTrigger(10)) as harness,
        pytest.raises(UserCodeError, match="needs records with timestamps"),
    ):
        harness.push([1])


def test_continuous_event_time_ends_with_the_input_in_a_window_without_end() -> None:
    with harness_of(GlobalWindows(), ContinuousEventTimeTrigger(10)) as harness:
        harness.push([1], [0])
        harness.watermark(2**63 - 1)
        assert harness.output == [[1], [1]]


def test_continuous_processing_time_goes_by_the_clock() -> None:
    with harness_of(TumblingProcessingTimeWindows(100), ContinuousProcessingTimeTrigger(30)) as harness:
        harness.push([1], [0])
        harness.advance_time(31)
        assert harness.take() == [[1]]
        harness.push([2], [0])
        harness.advance_time(200)
        assert harness.output == [[1, 2]] * 3  # 60, 90, and the end
        harness.advance_time(200)
        assert len(harness.output) == 3


def test_processing_time_in_windows_of_event_time() -> None:
    with harness_of(TumblingEventTimeWindows(10), ProcessingTimeTrigger()) as harness:
        harness.push([1], [0])
        harness.advance_time(9)
        assert harness.take() == []
        harness.advance_time(1)
        assert harness.take() == [[1]]
        harness.push([2], [3])
        harness.advance_time(1)
        assert harness.take() == [[1, 2]]
        harness.watermark(100)
        assert harness.output == []


def test_a_window_of_processing_time_holds_its_last_ms() -> None:
    with harness_of(TumblingProcessingTimeWindows(10), ProcessingTimeTrigger()) as harness:
        harness.push([1])
        harness.advance_time(9)
        harness.push([2])
        assert harness.output == []
        harness.advance_time(1)
        assert harness.timed_output == [([1, 2], 9)]


def test_early_and_late() -> None:
    trigger = EarlyAndLateTrigger(early=CountTrigger(2), late=CountTrigger(3))
    with harness_of(TumblingEventTimeWindows(10), trigger, lateness=100) as harness:
        harness.push([1, 2, 3], [0, 1, 2])
        assert harness.take() == [[1, 2]]
        harness.watermark(9)
        assert harness.take() == [[1, 2, 3]]
        harness.push([4, 5, 6, 7], [0] * 4)
        assert harness.take() == [[1, 2, 3, 4, 5, 6]]
        harness.push([8], [11])
        harness.watermark(50)
        harness.push([9], [12])
        assert harness.take() == [[8]]
        harness.watermark(200)
        harness.push([10], [150])
        assert harness.take() == [[10]]  # nothing had fired there: it does not wait for the late trigger


def test_without_a_late_trigger_every_late_element_fires() -> None:
    with harness_of(TumblingEventTimeWindows(10), EarlyAndLateTrigger(), lateness=100) as harness:
        harness.push([1], [0])
        harness.watermark(9)
        harness.push([2, 3], [0, 0])
        assert harness.output == [[1], [1, 2], [1, 2, 3]]


class Collecting(Trigger):
    """State of every kind that merges; a timer of its own. Fires when 4 values, or a total of 100, are there."""

    VALUES: ListStateDescriptor[int] = ListStateDescriptor("values", int)

    def __init__(self) -> None:
        self.total: AggregatingStateDescriptor[Any] = AggregatingStateDescriptor("total", Total(), int)

    def on_element(self, element: Any, timestamp: int, window: Any, ctx: TriggerContext) -> TriggerResult:
        values, total = ctx.get_partitioned_state(self.VALUES), ctx.get_partitioned_state(self.total)
        values.add(element)
        total.add(element)
        ctx.register_event_time_timer(window.start + 1)
        enough = len(values.get()) >= 4 or total.get() >= 100
        return TriggerResult.FIRE if enough else TriggerResult.CONTINUE

    def on_event_time(self, time: int, window: Any, ctx: TriggerContext) -> TriggerResult:
        return TriggerResult.FIRE_AND_PURGE if time == window.start + 1 else TriggerResult.CONTINUE

    def on_processing_time(self, time: int, window: Any, ctx: TriggerContext) -> TriggerResult:
        return TriggerResult.CONTINUE

    def clear(self, window: Any, ctx: TriggerContext) -> None:
        ctx.get_partitioned_state(self.VALUES).clear()
        ctx.get_partitioned_state(self.total).clear()
        ctx.delete_event_time_timer(window.start + 1)

    def can_merge(self) -> bool:
        return True

    def on_merge(self, window: Any, ctx: OnMergeContext) -> None:
        ctx.merge_partitioned_state(self.VALUES)
        ctx.merge_partitioned_state(self.total)


class Total:
    def create_accumulator(self) -> int:
        return 0

    def add(self, value: int, accumulator: int) -> int:
        return accumulator + value

    def merge(self, acc_a: int, acc_b: int) -> int:
        return acc_a + acc_b

    def get_result(self, accumulator: int) -> int:
        return accumulator


def test_a_custom_trigger_merges_its_state_and_loses_timers_of_merged_windows() -> None:
    with harness_of(EventTimeSessionWindows(10), Collecting()) as harness:
        harness.push([1, 60], [0, 18])
        harness.push([50], [9])
        assert harness.take() == [[1, 60, 50]]  # a total above 100
        harness.watermark(15)
        assert harness.take() == [[1, 60, 50]]  # at 1; that of the window which began at 18 is gone
        harness.watermark(26)
        assert harness.take() == []
        harness.watermark(1_000)
        harness.snapshot()
        statistics = harness.operator.state_statistics()
        assert statistics is not None
        assert (statistics.entries, statistics.timers) == (0, 0)


class CountOrTimeout(EventTimeTrigger):
    """As written for Flink: what is left of a window's timers after a merge cannot be deleted, since their time is
    gone from its state."""

    due = ReducingStateDescriptor("due", min, int)

    def on_element(self, element: Any, timestamp: int, window: TimeWindow, ctx: TriggerContext) -> TriggerResult:
        ctx.register_event_time_timer(window.max_timestamp())
        if ctx.get_partitioned_state(self.due).get() is None:
            self.wait_until(ctx.get_current_processing_time() + 1_000, ctx)
        return TriggerResult.CONTINUE

    def wait_until(self, time: int, ctx: TriggerContext) -> None:
        ctx.get_partitioned_state(self.due).add(time)
        ctx.register_processing_time_timer(time)

    def on_processing_time(self, time: int, window: TimeWindow, ctx: TriggerContext) -> TriggerResult:
        return TriggerResult.FIRE_AND_PURGE

    def clear(self, window: TimeWindow, ctx: TriggerContext) -> None:
        due = ctx.get_partitioned_state(self.due)
        if due.get() is not None:
            ctx.delete_processing_time_timer(due.get())
        due.clear()
        ctx.delete_event_time_timer(window.max_timestamp())

    def on_merge(self, window: TimeWindow, ctx: OnMergeContext) -> None:
        ctx.merge_partitioned_state(self.due)
        self.wait_until(ctx.get_partitioned_state(self.due).get(), ctx)
        ctx.register_event_time_timer(window.max_timestamp())


def test_a_timer_of_a_window_that_was_merged_does_not_meet_a_later_one() -> None:
    with harness_of(EventTimeSessionWindows(10), CountOrTimeout()) as harness:
        harness.push([1, 2, 3], [0, 18, 9])
        harness.watermark(100)
        assert harness.take() == [[1, 2, 3]]
        harness.advance_time(900)
        harness.push([4], [200])
        snapshot = harness.snapshot()
    operator = harness_of(EventTimeSessionWindows(10), CountOrTimeout()).operator
    with OperatorHarness(operator, restored=[snapshot], clock=harness.clock) as harness:
        harness.advance_time(150)
        assert harness.output == [], "1000 ms after the first session began"
        harness.push([5], [205])
        harness.advance_time(900)
        assert harness.take() == [[4, 5]]
        harness.push([6], [210])
        harness.watermark(300)
        assert harness.take() == [[6]]


class Forgetful(Collecting):
    """Has a state that does not merge."""

    def on_merge(self, window: Any, ctx: OnMergeContext) -> None:
        ctx.merge_partitioned_state(ValueStateDescriptor("last", int))


def test_a_state_that_does_not_merge_is_refused() -> None:
    with (
        harness_of(EventTimeSessionWindows(10), Forgetful()) as harness,
        pytest.raises(UserCodeError, match="a value state cannot be merged"),
    ):
        harness.push([1, 2], [0, 5])


class Mute(EventTimeTrigger):
    def on_element(self, element: Any, timestamp: int, window: TimeWindow, ctx: TriggerContext) -> Any:
        return None


def test_a_trigger_that_answers_nothing_is_an_error() -> None:
    assert not Mute.same_for_all_elements
    with (
        harness_of(TumblingEventTimeWindows(10), Mute()) as harness,
        pytest.raises(UserCodeError, match="answered None, which is no TriggerResult"),
    ):
        harness.push([1], [0])


@pytest.mark.parametrize("make", [lambda: CountTrigger(0), lambda: ContinuousEventTimeTrigger(0),
                                  lambda: ContinuousProcessingTimeTrigger("-1s"),
                                  lambda: DeltaTrigger(1, "no function")])  # fmt: skip
def test_bad_arguments_are_refused(make: Any) -> None:
    with pytest.raises(PipelineError):
        make()
