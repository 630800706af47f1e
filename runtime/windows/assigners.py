"""The window assigners there are; assigner.py says what one is."""

from __future__ import annotations

from .assigner import AlignedWindows, MergingWindowAssigner, WindowAssigner
from .calendar_windows import CalendarEventTimeWindows, CalendarProcessingTimeWindows
from .global_windows import GlobalWindows
from .session_windows import EventTimeSessionWindows, ProcessingTimeSessionWindows, SessionWindowTimeGapExtractor
from .time_windows import (
    SlidingEventTimeWindows,
    SlidingProcessingTimeWindows,
    TumblingEventTimeWindows,
    TumblingProcessingTimeWindows,
)
from .windows import GlobalWindow, TimeWindow

__all__ = [
    "AlignedWindows",
    "CalendarEventTimeWindows",
    "CalendarProcessingTimeWindows",
    "EventTimeSessionWindows",
    "GlobalWindow",
    "GlobalWindows",
    "MergingWindowAssigner",
    "ProcessingTimeSessionWindows",
    "SessionWindowTimeGapExtractor",
    "SlidingEventTimeWindows",
    "SlidingProcessingTimeWindows",
    "TimeWindow",
    "TumblingEventTimeWindows",
    "TumblingProcessingTimeWindows",
    "WindowAssigner",
]
