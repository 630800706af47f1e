"""Alignment of sources, the part of a source subtask (the job master's: jobmanager/watermark_alignment.py).

Every update interval the subtask reports the lowest watermark of its active splits to the master, and the master
answers the lowest of all subtasks of the group. What is ahead of that by more than the drift is not read, until an
answer allows it:

- of a reader that can pause splits (SourceReader.pause_splits), each such split;
- else all splits, when the lowest of them is too far ahead. (Not when one is: a reader that reads one after the other
  might never come to the one that all wait for.)

Nobody waits for ever: the split that is the group's lowest is never too far ahead, and it is read. A subtask whose
splits are idle, or that has none, reports that it holds nobody back, as does one that has read all (once: if that is
lost the master still learns that its task has ended). Reports are repeated, so one that is lost, or comes to a new
master, costs an interval. Before the first answer nothing pauses.
So a split may be ahead by the drift, what was read within about two intervals, and a batch.

A split that pauses is not silent: it does not become idle by that, and goes on holding the watermark of its subtask.
"""

from __future__ import annotations

from collections.abc import Callable

from ..clock import Clock, Interval
from ..elements import MAX_WATERMARK
from ..event_time.watermarks import WatermarkAlignment
from ..metrics import MetricGroup


class SourceAlignment:
    """Which watermarks are allowed, and when to report."""

    def __init__(
        self,
        settings: WatermarkAlignment,
        report: Callable[[str, int | None], None],
        clock: Clock,
        metrics: MetricGroup,
    ) -> None:
        self.allowed = MAX_WATERMARK
        """What is further ahead is not to be read."""
        self.reports = Interval(settings.update_interval_ms, clock.now_ms())
        self._settings = settings
        self._report = report
        self._clock = clock
        self._paused_since_ns: int | None = None
        self._paused_ms = metrics.counter("alignment_paused_ms_total")

    def look(self, lowest: int | None, now_ms: int) -> None:
        """Report when it is time."""
        if self.reports.is_due(now_ms):
            self.report(lowest)

    def report(self, lowest: int | None) -> None:
        """lowest: watermark of the active splits; None: there are none."""
        self._count()
        self._report(self._settings.group, lowest)

    def announced(self, lowest: int | None) -> None:
        """Of the whole group; None: nobody holds the others back."""
        self.allowed = MAX_WATERMARK if lowest is None else min(lowest + self._settings.max_drift_ms, MAX_WATERMARK)

    def pauses(self, paused: bool) -> None:
        """Whether any split does."""
        self._count()
        if paused != (self._paused_since_ns is not None):
            self._paused_since_ns = self._clock.monotonic_ns() if paused else None

    def _count(self) -> None:
        if self._paused_since_ns is not None:
            passed_ms = (self._clock.monotonic_ns() - self._paused_since_ns) // 1_000_000
            self._paused_ms.inc(passed_ms)
            self._paused_since_ns += passed_ms * 1_000_000
