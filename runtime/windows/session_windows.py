"""Sessions: windows of a key that go on as long as its elements are no further apart than a gap."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

from ..functions import callable_of
from ..units import format_duration
from .assigner import Duration, MergingWindowAssigner, length_ms
from .event_time_triggers import EventTimeTrigger
from .processing_time_triggers import ProcessingTimeTrigger
from .trigger import Trigger
from .windows import TimeWindow


class SessionWindowTimeGapExtractor(ABC):
    """A gap for every element. A plain callable(element) does as well."""

    @abstractmethod
    def extract(self, element: Any) -> Duration:
        """In ms; a timedelta or a text like "5s" is welcome too. At least 1 ms."""


@dataclass(frozen=True)
class SessionWindows(MergingWindowAssigner):
    """An element's window is [timestamp, timestamp + gap); windows that overlap or touch become one."""

    window_type = TimeWindow
    gap_ms: int | None
    gap_of: Any = None
    """Where every element has a gap of its own."""

    def __init__(self, gap: Duration | Callable[[Any], Any] | SessionWindowTimeGapExtractor) -> None:
        """gap: a duration; or what gives one for each element."""
        dynamic = callable(gap) or hasattr(gap, "extract")
        object.__setattr__(self, "gap_ms", None if dynamic else length_ms(gap, "the gap of sessions"))  # type: ignore[arg-type]
        object.__setattr__(self, "gap_of", gap if dynamic else None)

    @classmethod
    def with_gap(cls, gap: Duration) -> Self:
        """Flink's spelling."""
        return cls(gap)

    @classmethod
    def with_dynamic_gap(cls, extractor: Callable[[Any], Any] | SessionWindowTimeGapExtractor) -> Self:
        """Flink's spelling."""
        return cls(extractor)

    def __str__(self) -> str:
        gap = "of their own" if self.gap_ms is None else format_duration(self.gap_ms)
        return f"sessions with gaps {gap}"

    def gap(self, element: Any) -> int:
        """Of an element, ms. PipelineError when what the user's function gives is none."""
        if self.gap_ms is not None:
            return self.gap_ms
        given = callable_of(self.gap_of, "extract")(element)
        return given if type(given) is int and given > 0 else length_ms(given, "the gap of an element")

    def assign_windows(self, element: Any, timestamp: int) -> Sequence[TimeWindow]:
        return [TimeWindow(timestamp, timestamp + self.gap(element))]

    def merge_windows(self, windows: Sequence[Any]) -> Iterable[tuple[Sequence[Any], Any]]:
        return merged_time_windows(windows)


def merged_time_windows(windows: Iterable[TimeWindow]) -> list[tuple[list[TimeWindow], TimeWindow]]:
    """Those that overlap or touch, and what covers them; in the order of time."""
    merged: list[tuple[list[TimeWindow], TimeWindow]] = []
    for window in sorted(windows):
        if merged and merged[-1][1].intersects(window):
            members, cover = merged[-1]
            members.append(window)
            merged[-1] = members, cover.cover(window)
        else:
            merged.append(([window], window))
    return [(members, cover) for members, cover in merged if len(members) > 1]


class EventTimeSessionWindows(SessionWindows):
    """Sessions of event time."""

    def default_trigger(self) -> Trigger:
        return EventTimeTrigger()


class ProcessingTimeSessionWindows(SessionWindows):
    """Sessions by the clock: of elements that arrive no further apart than the gap."""

    is_event_time = False

    def default_trigger(self) -> Trigger:
        return ProcessingTimeTrigger()
