"""When something came into each of its states: a job, or one attempt of a subtask."""

from __future__ import annotations

import enum


class Timeline:
    """The time of the last entry into each state. Times are those of the job master, ms since the epoch."""

    __slots__ = ("_entered", "changed_ms")

    def __init__(self) -> None:
        self._entered: dict[str, int] = {}
        self.changed_ms = -1
        """Of the last change; -1: there was none."""

    def enter(self, state: enum.Enum, now_ms: int) -> None:
        # Out and in again: the order of the entries is that of time.
        self._entered.pop(state.value, None)
        self._entered[state.value] = self.changed_ms = now_ms

    def entered(self) -> dict[str, int]:
        """State -> time, in the order of time; states that it was never in are missing."""
        return dict(self._entered)
