"""A stream that goes quiet closes its windows by the clock: ProcessingTimeoutTrigger, example by example. (By idleness:
tests/pipelines/test_quiet_sources.py; at the end of the input: test_end_of_input.py.)"""

from __future__ import annotations

import pytest

from penstock.runtime.elements import MAX_WATERMARK
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
    CountTrigger,
    EventTimeTrigger,
    ProcessingTimeoutTrigger,
    ProcessingTimeTrigger,
    PurgingTrigger,
    Trigger,
)
from penstock.state.errors import PipelineError
from penstock.testing.harness import OperatorHarness


def harness_of(assigner: WindowAssigner, trigger: Trigger, lateness: int = 0) -> OperatorHarness:
    return OperatorHarness(
        window_operator(
            KeyByFunction(lambda value: "k"), assigner, Process(lambda key, context, values: [list(values)]), OPAQUE,
            trigger=trigger, allowed_lateness_ms=lateness,
        )
    )  # fmt: skip


def left(harness: OperatorHarness) -> tuple[int, int]:
    harness.snapshot()
    statistics = harness.operator.state_statistics()
    assert statistics is not None
    return statistics.entries, statistics.timers


def test_what_does_not_fill_a_count_is_given_out_after_the_timeout() -> None:
    with harness_of(GlobalWindows(), PurgingTrigger(ProcessingTimeoutTrigger.of(CountTrigger(3), "50ms"))) as harness:
        harness.push([1, 2, 3, 4], [0] * 4)
        assert harness.take() == [[1, 2, 3]]
        harness.advance_time(50)
        assert harness.output == []
        harness.advance_time(1)
        assert harness.take() == [[4]]
        harness.advance_time(1_000)
        assert harness.output == []
        assert left(harness) == (0, 0)


@pytest.mark.parametrize(("reset", "after_ms"), [(False, 11), (True, 41)])
def test_the_timeout_is_that_of_the_first_or_of_the_last_element(reset: bool, after_ms: int) -> None:
    trigger = ProcessingTimeoutTrigger.of(CountTrigger(9), 50, reset, True)
    with harness_of(GlobalWindows(), trigger) as harness:
        harness.push([1], [0])
        harness.advance_time(40)
        harness.push([2], [0])
        harness.advance_time(after_ms - 1 if not reset else 10)
        assert harness.output == []
        harness.advance_time(1 if not reset else 41)
        assert harness.output == [[1, 2]]


@pytest.mark.parametrize(("clear", "expected"), [(True, [[1, 2]]), (False, [[1, 2], [1, 2, 3]])])
def test_a_count_begins_anew_after_a_timeout_or_goes_on(clear: bool, expected: list[list[int]]) -> None:
    trigger = ProcessingTimeoutTrigger(CountTrigger(3), 50, should_clear_on_timeout=clear)
    with harness_of(GlobalWindows(), trigger) as harness:
        harness.push([1, 2], [0, 0])
        harness.advance_time(51)
        harness.push([3], [0])
        assert harness.output == expected


@pytest.mark.parametrize("clear", [True, False])
@pytest.mark.parametrize("lateness", [0, 10])
def test_windows_of_event_time_close_though_the_watermark_stands_still(clear: bool, lateness: int) -> None:
    """What comes later is given out at the window's end; the window is over then."""
    trigger = PurgingTrigger(ProcessingTimeoutTrigger(EventTimeTrigger(), 50, True, clear))
    with harness_of(TumblingEventTimeWindows(100), trigger, lateness) as harness:
        harness.push([1, 2], [10, 20])
        harness.advance_time(51)
        assert harness.take() == [[1, 2]]
        harness.push([3], [30])
        harness.watermark(99)
        assert harness.take() == [[3]]
        harness.watermark(MAX_WATERMARK)
        harness.advance_time(1_000)
        assert harness.output == []
        assert left(harness) == (0, 0)


@pytest.mark.parametrize("clear", [True, False])
def test_without_purging_a_window_is_given_out_again_at_its_end_and_leaves_nothing(clear: bool) -> None:
    trigger = ProcessingTimeoutTrigger(EventTimeTrigger(), 50, should_clear_on_timeout=clear)
    with harness_of(TumblingEventTimeWindows(100), trigger) as harness:
        harness.push([1], [10])
        harness.advance_time(51)
        assert harness.take() == [[1]]
        harness.watermark(99)
        assert harness.take() == [[1]]
        assert left(harness) == (0, 0)


def test_windows_of_the_clock_end_before_a_longer_timeout() -> None:
    trigger = ProcessingTimeoutTrigger(CountTrigger(9), 1_000)
    with harness_of(TumblingProcessingTimeWindows(100), trigger) as harness:
        harness.clock.set(1_000)
        harness.push([1, 2], [0, 0])
        harness.advance_time(100)
        assert harness.output == [[1, 2]]
        assert left(harness) == (0, 0)


def test_windows_of_the_clock_fire_at_their_end_once() -> None:
    trigger = ProcessingTimeoutTrigger(ProcessingTimeTrigger(), 1_000)
    with harness_of(TumblingProcessingTimeWindows(100), trigger) as harness:
        harness.clock.set(1_000)
        harness.push([1, 2], [0, 0])
        harness.advance_time(2_000)
        assert harness.output == [[1, 2]]
        assert left(harness) == (0, 0)


def test_of_sessions_that_merge_the_earliest_timeout_holds() -> None:
    with harness_of(EventTimeSessionWindows(10), ProcessingTimeoutTrigger(EventTimeTrigger(), 50)) as harness:
        harness.push([1], [0])
        harness.advance_time(30)
        harness.push([2, 3], [16, 8])
        harness.advance_time(21)
        assert harness.output == [[1, 2, 3]]
        harness.advance_time(1_000)
        harness.watermark(MAX_WATERMARK)
        assert left(harness) == (0, 0)


def test_what_it_cannot_be_made_of() -> None:
    with pytest.raises(PipelineError, match="the timeout of a ProcessingTimeoutTrigger is at least 1 ms"):
        ProcessingTimeoutTrigger(CountTrigger(3), 0)
    with pytest.raises(PipelineError, match="is put around a Trigger, not 3"):
        ProcessingTimeoutTrigger(3, "1s")  # type: ignore[arg-type]
