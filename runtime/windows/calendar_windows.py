"""Windows of the calendar: days, weeks, months and years of a time zone, as long as they are there.

A day begins with the first instant whose local time is midnight or later: where the clock is put forward at midnight
that is later than midnight, where it is put back over midnight it is the first of the two. Days are therefore 23, 24 or
25 hours long, or what else the zone has seen; a day that a zone has skipped is no window.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np

from ...state.errors import PipelineError, RecordTypeError
from ..batch import Int64Array
from .assigner import AlignedWindows, Duration, offset_ms
from .event_time_triggers import EventTimeTrigger
from .processing_time_triggers import ProcessingTimeTrigger
from .trigger import Trigger
from .windows import TimeWindow

_UNITS = ("day", "week", "month", "year")
_WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY_MS = 86_400_000
_MS = timedelta(milliseconds=1)
_CACHED_DAYS = 10_000


@dataclass(frozen=True)
class _CalendarWindows(AlignedWindows):
    window_type = TimeWindow
    unit: str
    timezone: str
    offset_ms: int
    week_starts_on: int
    """0: Monday."""
    _starts: dict[int, list[int]] = field(compare=False, repr=False)
    """Of days since the epoch (UTC): the starts of all windows that meet it, in order."""

    def __init__(
        self, unit: str, timezone: str = "UTC", offset: Duration | None = None, week_starts_on: str = "monday"
    ) -> None:
        """unit: "day", "week", "month" or "year". timezone: a name like "Europe/Berlin". offset: local time, "6h" for
        days that begin at six o'clock; less than a day."""
        if unit not in _UNITS:
            raise PipelineError(f"calendar windows are of a {', '.join(_UNITS)}, not of a {unit!r}")
        if week_starts_on not in _WEEKDAYS:
            raise PipelineError(f"weeks start on one of {', '.join(_WEEKDAYS)}, not on {week_starts_on!r}")
        try:
            ZoneInfo(timezone)
        except (ZoneInfoNotFoundError, ValueError, TypeError, OSError):
            raise PipelineError(
                f"there is no time zone {timezone!r}; write a name like 'Europe/Berlin' (where the system has none, "
                "the package tzdata does)"
            ) from None
        object.__setattr__(self, "unit", unit)
        object.__setattr__(self, "timezone", timezone)
        object.__setattr__(self, "offset_ms", offset_ms(offset))
        object.__setattr__(self, "week_starts_on", _WEEKDAYS.index(week_starts_on))
        object.__setattr__(self, "_starts", {})
        if abs(self.offset_ms) >= _DAY_MS:
            raise PipelineError(f"the offset {offset!r} of calendar windows is not less than a day")

    @classmethod
    def of(cls, unit: str, timezone: str = "UTC", offset: Duration | None = None) -> Self:
        return cls(unit, timezone, offset)

    def __str__(self) -> str:
        return f"every {self.unit} of {self.timezone}"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_starts": {}}

    def starts(self, timestamps: Int64Array) -> list[Int64Array]:
        days = np.unique(timestamps // _DAY_MS).tolist()
        known = np.unique(np.concatenate([self._starts_about(day) for day in days]))
        return [known[np.searchsorted(known, timestamps, side="right") - 1]]

    def window_at(self, start: int) -> TimeWindow:
        return TimeWindow(start, self._next(start))

    def _starts_about(self, day: int) -> list[int]:
        starts = self._starts.get(day)
        if starts is None:
            if len(self._starts) >= _CACHED_DAYS:
                self._starts.clear()
            starts = self._starts[day] = self._find_starts(day * _DAY_MS, (day + 1) * _DAY_MS)
        return starts

    def _find_starts(self, begin: int, end: int) -> list[int]:
        """From that of the window which holds `begin` on."""
        try:
            period = self._period(self._local(begin).date() - timedelta(days=1), -1)
            starts = [self._instant(period)]
            while starts[-1] < end:
                period = self._period(period, 1)
                starts.append(self._instant(period))
        except (OverflowError, ValueError):
            raise RecordTypeError(f"{begin} ms is not in the calendar, which ends with the year 9999") from None
        return sorted({*starts[bisect_right(starts, begin) - 1 : -1]})

    def _next(self, start: int) -> int:
        """The first start after this one."""
        period = self._period(self._local(start).date() - timedelta(days=1), -1)
        while (instant := self._instant(period)) <= start:
            period = self._period(period, 1)
        return instant

    def _local(self, ms: int) -> datetime:
        """The wall clock's time, less the offset."""
        local = (_EPOCH + ms * _MS).astimezone(ZoneInfo(self.timezone)).replace(tzinfo=None)
        return local - self.offset_ms * _MS

    def _period(self, day: date, step: int) -> date:
        """The first day of the unit that the day is in, or so many later."""
        if self.unit == "day":
            return day + timedelta(days=step)
        if self.unit == "week":
            return day - timedelta(days=(day.weekday() - self.week_starts_on) % 7) + timedelta(weeks=step)
        if self.unit == "month":
            months = day.year * 12 + day.month - 1 + step
            return date(months // 12, months % 12 + 1, 1)
        return date(day.year + step, 1, 1)

    def _instant(self, day: date) -> int:
        """When the clock first shows the day's beginning, or later."""
        zone = ZoneInfo(self.timezone)
        wanted = datetime(day.year, day.month, day.day) + self.offset_ms * _MS
        first, second = ((wanted.replace(tzinfo=zone, fold=fold) - _EPOCH) // _MS for fold in (0, 1))
        if second >= first:
            return first
        while second < first:  # no clock shows it: `first` is after the hour that was left out, `second` before it
            middle = (first + second) // 2
            if self._local(middle) + self.offset_ms * _MS >= wanted:
                first = middle
            else:
                second = middle + 1
        return first


class CalendarEventTimeWindows(_CalendarWindows):
    """Days, weeks, months or years of a time zone: CalendarEventTimeWindows("day", "Europe/Berlin")."""

    def default_trigger(self) -> Trigger:
        return EventTimeTrigger()


class CalendarProcessingTimeWindows(_CalendarWindows):
    """The same by the clock."""

    is_event_time = False

    def default_trigger(self) -> Trigger:
        return ProcessingTimeTrigger()
