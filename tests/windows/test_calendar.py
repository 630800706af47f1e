"""Days, weeks, months and years of time zones: their borders are what the clocks there show."""

from __future__ import annotations

import pickle
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.runtime.windows.assigners import CalendarEventTimeWindows, CalendarProcessingTimeWindows
from penstock.state.errors import PipelineError, RecordTypeError

HOUR = 3_600_000


def ms(*when: int, zone: str = "UTC") -> int:
    return int(datetime(*when, tzinfo=ZoneInfo(zone)).timestamp() * 1_000)  # type: ignore[arg-type,misc]


def window_of(windows: CalendarEventTimeWindows, timestamp: int) -> tuple[int, int]:
    (window,) = windows.assign_windows(None, timestamp)
    assert window == windows.window_at(window.start)
    assert window.start <= timestamp < window.end
    return window.start, window.end


def test_days_are_as_long_as_the_clock_makes_them() -> None:
    days = CalendarEventTimeWindows("day", "Europe/Berlin")
    usual = window_of(days, ms(2024, 1, 15, 12))
    assert usual == (ms(2024, 1, 14, 23), ms(2024, 1, 15, 23))
    spring = window_of(days, ms(2024, 3, 31, 12))
    assert spring == (ms(2024, 3, 30, 23), ms(2024, 3, 31, 22))
    autumn = window_of(days, ms(2024, 10, 27, 12))
    assert autumn[1] - autumn[0] == 25 * HOUR


def test_weeks_months_and_years() -> None:
    when = ms(2024, 2, 29, 12)
    assert window_of(CalendarEventTimeWindows("week"), when) == (ms(2024, 2, 26), ms(2024, 3, 4))
    sundays = CalendarEventTimeWindows("week", week_starts_on="sunday")
    assert window_of(sundays, when) == (ms(2024, 2, 25), ms(2024, 3, 3))
    assert window_of(CalendarEventTimeWindows("month"), when) == (ms(2024, 2, 1), ms(2024, 3, 1))
    assert window_of(CalendarEventTimeWindows("year"), when) == (ms(2024, 1, 1), ms(2025, 1, 1))
    berlin = CalendarEventTimeWindows("month", "Europe/Berlin")
    assert window_of(berlin, when) == (ms(2024, 1, 31, 23), ms(2024, 2, 29, 23))


def test_a_day_that_begins_at_six() -> None:
    days = CalendarEventTimeWindows("day", "Europe/Berlin", offset="6h")
    assert window_of(days, ms(2024, 3, 31, 3)) == (ms(2024, 3, 30, 5), ms(2024, 3, 31, 4))
    assert window_of(days, ms(2024, 3, 31, 4)) == (ms(2024, 3, 31, 4), ms(2024, 4, 1, 4))


@pytest.mark.parametrize(
    ("zone", "day", "start"),
    [
        ("America/Sao_Paulo", (2018, 11, 4), (2018, 11, 4, 3)),  # 00:00 was 01:00
        ("America/Havana", (2023, 11, 5), (2023, 11, 5, 4)),  # 00:00 came twice
        ("America/Toronto", (1919, 3, 31), (1919, 3, 31, 4, 30)),  # from 23:30 to 00:30
    ],
)
def test_days_whose_midnight_was_moved(zone: str, day: tuple[int, ...], start: tuple[int, ...]) -> None:
    noon = ms(*day, 16)
    assert window_of(CalendarEventTimeWindows("day", zone), noon)[0] == ms(*start)


def test_a_day_that_a_zone_has_skipped_is_no_window() -> None:
    days = CalendarEventTimeWindows("day", "Pacific/Apia")
    before = window_of(days, ms(2011, 12, 30, 9, 59))
    after = window_of(days, ms(2011, 12, 30, 10))
    assert before[1] == after[0] == ms(2011, 12, 30, 10)
    zone = ZoneInfo("Pacific/Apia")
    assert [datetime.fromtimestamp(start / 1_000, zone).day for start, _end in (before, after)] == [29, 31]


@given(
    st.sampled_from(["day", "week", "month", "year"]),
    st.sampled_from(["Europe/Berlin", "America/Sao_Paulo", "Australia/Lord_Howe", "Pacific/Apia", "Asia/Kolkata"]),
    st.sampled_from([None, "1h 30min", "-2h"]),
    st.lists(st.integers(ms(1950, 1, 1), ms(2060, 1, 1)), min_size=1, max_size=8),
)
@settings(max_examples=60, deadline=None)
def test_windows_tile_time_and_begin_when_the_clock_says(
    unit: str, zone: str, offset: str | None, timestamps: list[int]
) -> None:
    windows = CalendarEventTimeWindows(unit, zone, offset)
    (starts,) = windows.starts(np.array(timestamps, np.int64))
    for timestamp, start in zip(timestamps, starts.tolist(), strict=True):
        own = window_of(windows, timestamp)
        assert own[0] == start
        assert windows.window_at(own[1]).start == window_of(windows, own[1])[0] == own[1]
        assert window_of(windows, own[1] - 1) == own
        begins = local(start, zone) - windows.offset_ms * timedelta(milliseconds=1)
        before = local(start - 1, zone) - windows.offset_ms * timedelta(milliseconds=1)
        assert period(begins, unit) > period(before, unit)


def local(timestamp: int, zone: str) -> datetime:
    return (
        (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=timestamp))
        .astimezone(ZoneInfo(zone))
        .replace(tzinfo=None)
    )


def period(when: datetime, unit: str) -> tuple[int, ...]:
    if unit == "week":
        return ((when.toordinal() - 1) // 7,)
    return (when.year, when.month, when.day)[: {"year": 1, "month": 2, "day": 3}[unit]]


def test_what_it_remembers_does_not_travel_and_does_not_count() -> None:
    days = CalendarEventTimeWindows.of("day", "Europe/Berlin")
    fresh = CalendarEventTimeWindows("day", "Europe/Berlin")
    window_of(days, 0)
    assert days == fresh
    assert pickle.dumps(days) == pickle.dumps(fresh)
    assert not CalendarProcessingTimeWindows("day").is_event_time


@pytest.mark.parametrize(
    "arguments", [("hour",), ("day", "Europe/Nowhere"), ("day", "UTC", "1d"), ("week", "UTC", None, "noday")]
)
def test_bad_arguments_are_refused(arguments: Any) -> None:
    with pytest.raises(PipelineError):
        CalendarEventTimeWindows(*arguments)


def test_a_time_beyond_the_calendar_is_an_error() -> None:
    with pytest.raises(RecordTypeError, match="not in the calendar"):
        CalendarEventTimeWindows("day").assign_windows(None, 10**15)
