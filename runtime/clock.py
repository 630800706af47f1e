"""Time as an argument: the engine never asks the machine for the time, it asks the clock it was given.

The simulator and the tests hand in a clock they set; everything else uses `SystemClock`.
"""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Time as an argument: the system's, a test's, or the simulator's."""

    def now_ms(self) -> int:
        """Wall-clock time in ms since the epoch: processing time, timestamps shown to people."""
        ...

    def monotonic_ns(self) -> int:
        """A clock that never jumps, in ns: timeouts, durations, slices."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic_ns(self) -> int:
        return time.monotonic_ns()


class Interval:
    """Something that is to happen again and again, by the wall clock, which may be set back."""

    __slots__ = ("_due_ms", "_every_ms")

    def __init__(self, every_ms: int, first_ms: int) -> None:
        self._every_ms = every_ms
        self._due_ms = first_ms

    def next_ms(self, now_ms: int) -> int:
        """When it is to happen: an interval from now at the latest."""
        self._due_ms = min(self._due_ms, now_ms + self._every_ms)
        return self._due_ms

    def is_due(self, now_ms: int) -> bool:
        """If so, the next time is an interval later."""
        due = now_ms >= self.next_ms(now_ms)
        if due:
            self._due_ms = now_ms + self._every_ms
        return due
