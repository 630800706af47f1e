"""Tumbling and sliding windows, of event time and of the clock."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import gcd
from typing import Self

import numpy as np

from ...state.errors import PipelineError
from ..batch import Int64Array
from ..units import format_duration
from .assigner import NO_WINDOW, AlignedWindows, Duration, length_ms, offset_ms
from .event_time_triggers import EventTimeTrigger
from .processing_time_triggers import ProcessingTimeTrigger
from .trigger import Trigger
from .windows import TimeWindow


@dataclass(frozen=True)
class _Tumbling(AlignedWindows):
    """Windows of one size, side by side: [offset + n * size, offset + (n + 1) * size)."""

    window_type = TimeWindow
    size_ms: int
    offset_ms: int

    def __init__(self, size: Duration, offset: Duration | None = None) -> None:
        """An offset of "-8h" aligns windows of days to days of a time zone of +8."""
        object.__setattr__(self, "size_ms", length_ms(size, "a window's size"))
        object.__setattr__(self, "offset_ms", offset_ms(offset))
        if abs(self.offset_ms) >= self.size_ms:
            raise PipelineError(f"the offset {offset!r} is not smaller than the window's size {size!r}")

    @classmethod
    def of(cls, size: Duration, offset: Duration | None = None) -> Self:
        """Flink's spelling."""
        return cls(size, offset)

    def __str__(self) -> str:
        return f"tumbling {format_duration(self.size_ms)}"

    def window_at(self, start: int) -> TimeWindow:
        return TimeWindow(start, start + self.size_ms)

    def starts(self, timestamps: Int64Array) -> list[Int64Array]:
        return [timestamps - (timestamps - self.offset_ms) % self.size_ms]


class TumblingEventTimeWindows(_Tumbling):
    """Windows of one size, side by side: [offset + n * size, offset + (n + 1) * size)."""

    def default_trigger(self) -> Trigger:
        return EventTimeTrigger()


class TumblingProcessingTimeWindows(_Tumbling):
    """The same by the clock: a record belongs to the window in which it arrives."""

    is_event_time = False

    def default_trigger(self) -> Trigger:
        return ProcessingTimeTrigger()


@dataclass(frozen=True)
class SlidingWindows(AlignedWindows):
    """Windows of one size, of which one begins at every offset + n * slide. With a slide above the size there are gaps,
    whose elements belong to no window."""

    window_type = TimeWindow
    size_ms: int
    slide_ms: int
    offset_ms: int
    slice_ms: int = field(init=False)
    """What all windows are made of: each of them covers a slice of this length wholly or not at all."""

    def __init__(self, size: Duration, slide: Duration, offset: Duration | None = None) -> None:
        object.__setattr__(self, "size_ms", length_ms(size, "a window's size"))
        object.__setattr__(self, "slide_ms", length_ms(slide, "a window's slide"))
        object.__setattr__(self, "offset_ms", offset_ms(offset))
        object.__setattr__(self, "slice_ms", gcd(self.size_ms, self.slide_ms))
        if abs(self.offset_ms) >= self.slide_ms:
            raise PipelineError(f"the offset {offset!r} is not smaller than the window's slide {slide!r}")

    @classmethod
    def of(cls, size: Duration, slide: Duration, offset: Duration | None = None) -> Self:
        """Flink's spelling."""
        return cls(size, slide, offset)

    def __str__(self) -> str:
        return f"sliding {format_duration(self.size_ms)} every {format_duration(self.slide_ms)}"

    def window_at(self, start: int) -> TimeWindow:
        return TimeWindow(start, start + self.size_ms)

    def starts(self, timestamps: Int64Array) -> list[Int64Array]:
        latest = timestamps - (timestamps - self.offset_ms) % self.slide_ms
        found = []
        for back in range(0, self.size_ms, self.slide_ms):
            starts = latest - back
            if back + self.slide_ms > self.size_ms:
                starts = np.where(starts + self.size_ms > timestamps, starts, NO_WINDOW)
            found.append(starts)
        return found

    def slices(self, timestamps: Int64Array) -> Int64Array:
        """Start of every timestamp's slice."""
        return timestamps - (timestamps - self.offset_ms) % self.slice_ms

    def first_start(self, slice_start: int) -> int:
        """Of the earliest window that covers the slice."""
        earliest = slice_start + self.slice_ms - self.size_ms
        return earliest + (self.offset_ms - earliest) % self.slide_ms


class SlidingEventTimeWindows(SlidingWindows):
    """Windows of one size, of which one begins at every offset + n * slide."""

    def default_trigger(self) -> Trigger:
        return EventTimeTrigger()


class SlidingProcessingTimeWindows(SlidingWindows):
    """The same by the clock."""

    is_event_time = False

    def default_trigger(self) -> Trigger:
        return ProcessingTimeTrigger()
