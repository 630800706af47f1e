"""The open windows of a key: numbers, and what merges into what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.runtime.keys import KeyByFunction
from penstock.runtime.records.record_types import OPAQUE
from penstock.runtime.windows.assigner import WindowAssigner
from penstock.runtime.windows.building import window_operator
from penstock.runtime.windows.evaluations import Process
from penstock.runtime.windows.session_windows import merged_time_windows
from penstock.runtime.windows.triggers import EventTimeTrigger, Trigger
from penstock.runtime.windows.window_set import (
    OpenWindow,
    WindowSet,
    find,
    slot_of,
    with_merging_window,
    with_window,
    without,
)
from penstock.runtime.windows.windows import TimeWindow
from penstock.state.errors import PipelineError, UserCodeError
from penstock.testing.harness import OperatorHarness


def window(start: int, end: int) -> TimeWindow:
    return TimeWindow(start, end)


def test_windows_that_do_not_merge_get_numbers_of_their_own() -> None:
    first = with_window((), window(0, 5))
    second = with_window(first.windows, window(0, 9))
    again = with_window(second.windows, window(0, 5))
    assert (slot_of(first.actual.number), slot_of(second.actual.number), again.actual) == (0, 1, first.actual)
    assert again.windows == second.windows
    assert without(second.windows, first.actual) == (second.actual,)


def test_a_merged_window_has_a_new_number_and_the_first_ones_contents() -> None:
    open_windows = (OpenWindow(window(0, 10), 4, 2), OpenWindow(window(15, 25), 5, 5))
    added = with_merging_window(open_windows, window(8, 18), merged_time_windows)
    (merge,) = added.merges
    assert added.actual == merge.result == OpenWindow(window(0, 25), added.actual.number, 2)
    assert slot_of(added.actual.number) == 6
    assert merge.merged == open_windows
    assert added.windows == (added.actual,)
    assert find(added.windows, 5) is None


def test_a_window_within_another_changes_nothing() -> None:
    open_windows = (OpenWindow(window(0, 20), 3, 1),)
    added = with_merging_window(open_windows, window(5, 15), merged_time_windows)
    assert added == (open_windows, open_windows[0], ())
    assert with_merging_window(open_windows, window(0, 20), merged_time_windows) == added


def test_a_window_that_meets_no_other_stands_beside_them() -> None:
    open_windows = (OpenWindow(window(0, 20), 3, 1),)
    added = with_merging_window(open_windows, window(30, 40), merged_time_windows)
    assert (slot_of(added.actual.number), added.actual.contents) == (4, 4)
    assert added.windows == (*open_windows, added.actual)


def test_a_number_is_not_that_of_an_earlier_window() -> None:
    """Whose timers may still be there, when a key has no open window and slots are given again."""
    numbers = [with_window((), window(start, start + 10)).actual.number for start in range(0, 10_000, 10)]
    assert len(set(numbers)) == 1_000
    assert {slot_of(number) for number in numbers} == {0}
    assert all(0 <= number < 1 << 63 for number in numbers), "a namespace has 64 bits"
    merged = [with_merging_window((), window(start, start + 10), merged_time_windows) for start in range(0, 10_000, 10)]
    assert [each.actual.number for each in merged] == numbers


def test_an_assigner_that_merges_what_is_not_there_is_an_error() -> None:
    with pytest.raises(PipelineError, match="not open"):
        with_merging_window((), window(0, 5), lambda windows: [([window(7, 9)], window(7, 9))])


@given(st.lists(st.tuples(st.integers(0, 100), st.integers(1, 15))))
def test_sessions_are_what_covers_the_windows_that_touch(given: list[tuple[int, int]]) -> None:
    windows: WindowSet = ()
    for start, length in given:
        added = with_merging_window(windows, window(start, start + length), merged_time_windows)
        windows = added.windows
        assert added.actual in windows
        assert len({each.number for each in windows}) == len(windows) == len({each.contents for each in windows})
    covered = [TimeWindow(start, start + length) for start, length in given]
    merged = merged_time_windows(covered)
    alone = [each for each in covered if not any(each in members for members, _cover in merged)]
    assert sorted(each.window for each in windows) == sorted([*alone, *[cover for _members, cover in merged]])


@dataclass
class Changeable:
    end: int

    def max_timestamp(self) -> int:
        return self.end - 1


class Given(WindowAssigner):
    """Every record is its window."""

    def assign_windows(self, element: Any, timestamp: int) -> list[Any]:
        return [element]

    def default_trigger(self) -> Trigger:
        return EventTimeTrigger()


@pytest.mark.parametrize(
    ("given", "message"), [(5, "gave 5, which is no window"), (Changeable(10), "unhashable type: 'Changeable'")]
)
def test_what_cannot_be_a_window_is_an_error_of_the_assigner(given: Any, message: str) -> None:
    windows = window_operator(KeyByFunction(lambda value: "k"), Given(), Process(lambda key, context, all: []), OPAQUE)
    with OperatorHarness(windows) as harness, pytest.raises(UserCodeError, match=f"{message}.*in the assigner"):
        harness.push([given], [0])
