"""The states of a subtask, and what its time goes into. What leads from one to the other: task.py."""

from __future__ import annotations

import enum

from ..runtime.clock import Clock


class TaskState(enum.Enum):
    INITIALIZING = enum.auto()
    READY = enum.auto()
    RUNNING = enum.auto()
    DRAINED = enum.auto()
    CLOSING = enum.auto()
    CLOSED = enum.auto()


class Occupation(enum.Enum):
    """What a subtask's time went into; names as in Flink's metrics."""

    BUSY = enum.auto()
    IDLE = enum.auto()
    BACKPRESSURED = enum.auto()


class TimeSpent:
    """How long a subtask was at what. What it is at, it says itself (`at`)."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._spent_ns = dict.fromkeys(Occupation, 0)
        self.at = Occupation.IDLE
        self.begin()

    def begin(self) -> None:
        """What was before does not count."""
        self._mark_ns = self._clock.monotonic_ns()

    def account(self) -> int:
        """The time since the last look goes into what it is at. Gives the time (monotonic)."""
        before_ns = self._mark_ns
        self.begin()
        self._spent_ns[self.at] += self._mark_ns - before_ns
        return self._mark_ns

    def ms(self, occupation: Occupation) -> float:
        return self._spent_ns[occupation] / 1e6
