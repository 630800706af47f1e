"""Window assigners: which windows an element belongs to.

Three kinds, by who can say what a window is called. State and timers are kept under a window's *number*, an int64.

    AlignedWindows          cut time itself into windows, the same for every key: a whole batch is assigned at once, as
                            arrays of window starts. A window's number is its start
    MergingWindowAssigner   windows of a key that meet become one (sessions)
    WindowAssigner          a user's own: asked element by element

Windows of the last two get their numbers from a set of the key's open windows, which is state (window_set.py).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any, Self

import numpy as np

from ...state.errors import ConfigurationError, PipelineError
from ..batch import Int64Array
from ..units import parse_duration_ms
from .trigger import Trigger

Duration = str | int | timedelta

NO_WINDOW = -(1 << 63)
"""In arrays of window starts: this element has no (further) window."""


class WindowAssigner(ABC):
    """Picklable and without state. is_event_time: windows of event time, else of the clock."""

    is_event_time: bool = True

    window_type: Any = None
    """What windows are, TimeWindow for example: how they are written to state. None: anything; they are pickled."""

    def __class_getitem__(cls, parameters: Any) -> type[Self]:
        """Type parameters as PyFlink's classes have them: welcome, and ignored."""
        return cls

    @abstractmethod
    def assign_windows(self, element: Any, timestamp: int) -> Sequence[Any]:
        """`timestamp`: the element's, or the clock's if windows are not of event time."""

    @abstractmethod
    def default_trigger(self) -> Trigger: ...


class AlignedWindows(WindowAssigner):
    """Windows that depend on the timestamp alone."""

    @abstractmethod
    def starts(self, timestamps: Int64Array) -> list[Int64Array]:
        """Starts of the windows of every timestamp: one array per window that an element belongs to, the latest
        windows first; NO_WINDOW where there is none."""

    @abstractmethod
    def window_at(self, start: int) -> Any:
        """The window of that start: what state and timers are kept by."""

    def assign_windows(self, element: Any, timestamp: int) -> Sequence[Any]:
        starts = [int(array[0]) for array in self.starts(np.array([timestamp], np.int64))]
        return [self.window_at(start) for start in starts if start != NO_WINDOW]


class MergingWindowAssigner(WindowAssigner):
    """Gives every element a window of its own, which is then merged with those it meets."""

    @abstractmethod
    def merge_windows(self, windows: Sequence[Any]) -> Iterable[tuple[Sequence[Any], Any]]:
        """(windows, what they become) for all that are to be merged. The others are left as they are."""


def length_ms(value: Duration, what: str) -> int:
    """PipelineError unless it is at least 1 ms. `what`: "a window's size"."""
    try:
        length = offset_ms(value)
    except ConfigurationError as error:
        raise PipelineError(f"{what}: {error}") from None
    if length < 1:
        raise PipelineError(f"{what} is at least 1 ms, not {value!r}")
    return length


def offset_ms(offset: Duration | None) -> int:
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
