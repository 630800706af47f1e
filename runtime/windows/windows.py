"""What a window is: a stretch of time, or all there is.

A user's own assigner may have windows of its own type: anything that is hashable and has `max_timestamp()`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

MAX_TIMESTAMP = (1 << 63) - 1


class TimeWindow(NamedTuple):
    """[start, end) in ms."""

    start: int
    end: int

    def max_timestamp(self) -> int:
        """The last ms in it."""
        return self.end - 1

    def intersects(self, other: TimeWindow) -> bool:
        """They overlap, or one begins where the other ends."""
        return self.start <= other.end and self.end >= other.start

    def cover(self, other: TimeWindow) -> TimeWindow:
        """The smallest window that holds both."""
        return TimeWindow(min(self.start, other.start), max(self.end, other.end))


@dataclass(frozen=True, slots=True)
class GlobalWindow:
    """The one window of everything; it never ends."""

    def max_timestamp(self) -> int:
        return MAX_TIMESTAMP
