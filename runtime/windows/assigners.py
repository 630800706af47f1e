"""Window assigners: which windows an element belongs to.

An *aligned* assigner cuts time itself into windows, the same for every key: a whole batch is assigned at once, as
arrays of window starts. Any other assigner (sessions, global windows, a user's own) is asked element by element.
Within one assigner a window is known by its start, which is the namespace of its state.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from ...state.errors import PipelineError
from ..batch import Int64Array
from ..units import format_duration, parse_duration_ms
from .triggers import EventTimeTrigger, TimeWindow, Trigger

Duration = str | int | timedelta


class WindowAssigner(ABC):
    """Picklable and without state. is_event_time: windows of event time, else of the clock."""

    is_event_time: bool = True

    @abstractmethod
    def assign_windows(self, element: Any, timestamp: int) -> Sequence[TimeWindow]:
        """`timestamp`: the element's, or the clock's if windows are not of event time."""

    @abstractmethod
    def window_at(self, start: int) -> TimeWindow:
        """The window of that start: what state and timers are kept by."""

    @abstractmethod
    def default_trigger(self) -> Trigger: ...


class AlignedWindows(WindowAssigner):
    """Windows that depend on the timestamp alone."""

    @abstractmethod
    def starts(self, timestamps: Int64Array) -> list[Int64Array]:
        """Starts of the windows of every timestamp: one array per window that an element belongs to."""


@dataclass(frozen=True)
class TumblingEventTimeWindows(AlignedWindows):
    """Windows of one size, side by side: [offset + n * size, offset + (n + 1) * size)."""

    size_ms: int
    offset_ms: int

    def __init__(self, size: Duration, offset: Duration | None = None) -> None:
        """An offset of "-8h" aligns windows of days to days of a time zone of +8."""
        object.__setattr__(self, "size_ms", parse_duration_ms(size))
        object.__setattr__(self, "offset_ms", _offset_ms(offset))
        if self.size_ms < 1:
            raise PipelineError(f"a window needs a size of at least 1 ms, not {size!r}")
        if abs(self.offset_ms) >= self.size_ms:
            raise PipelineError(f"the offset {offset!r} is not smaller than the window's size {size!r}")

    @classmethod
    def of(cls, size: Duration, offset: Duration | None = None) -> TumblingEventTimeWindows:
        """Flink's spelling."""
        return cls(size, offset)

    def __str__(self) -> str:
        return f"tumbling {format_duration(self.size_ms)}"

    def assign_windows(self, element: Any, timestamp: int) -> Sequence[TimeWindow]:
        return [self.window_at(timestamp - (timestamp - self.offset_ms) % self.size_ms)]

    def window_at(self, start: int) -> TimeWindow:
        return TimeWindow(start, start + self.size_ms)

    def starts(self, timestamps: Int64Array) -> list[Int64Array]:
        return [timestamps - (timestamps - self.offset_ms) % self.size_ms]

    def default_trigger(self) -> Trigger:
        return EventTimeTrigger()


def _offset_ms(offset: Duration | None) -> int:
    """Unlike other durations an offset may be negative."""
    if offset is None:
        return 0
    if isinstance(offset, str) and offset.strip().startswith("-"):
        return -parse_duration_ms(offset.strip()[1:])
    if isinstance(offset, int) and offset < 0:
        return offset
    if isinstance(offset, timedelta) and offset < timedelta(0):
        return -parse_duration_ms(-offset)
    return parse_duration_ms(offset)
