"""One line that shows how a job is doing, where a person is watching.

It gives way to debuggers: a breakpoint takes the line away for the rest of the job, and with a debugger attached
there is none.
"""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ..jobmanager.events import JobStatus
from ..runtime.elements import MAX_WATERMARK, MIN_WATERMARK

if TYPE_CHECKING:
    from rich.live import Live

ERASED = "\r\x1b[2K"
"""To a terminal: the line is empty, and what follows begins it."""


class ProgressLine:
    """A context manager that is called with every status; it shows nothing unless stdout and stderr are terminals."""

    def __init__(self, sources: frozenset[str]) -> None:
        """`sources`: ids of the vertices that begin with a source."""
        self.sources = sources
        self._line: Live | None = None
        self._last: tuple[int, int] | None = None

    def __enter__(self) -> ProgressLine:
        if sys.stdout.isatty() and sys.stderr.isatty() and not _debugged():
            from rich.console import Console
            from rich.live import Live

            self._line = Live(console=Console(stderr=True), auto_refresh=False, transient=True)
            self._line.start()
            sys.breakpointhook = self._break
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()

    def give_way(self) -> None:
        """What follows is written in its place; the next status shows it again, below."""
        if self._line is not None:
            self._line.console.file.write(ERASED)
            self._line.console.file.flush()

    def _break(self, *arguments: Any, **settings: Any) -> None:
        import pdb

        self._remove()
        pdb.Pdb().set_trace(sys._getframe(1))

    def _remove(self) -> None:
        if self._line is not None:
            self._line.stop()
            self._line = None
            sys.breakpointhook = sys.__breakpointhook__

    def __call__(self, status: JobStatus, now_ms: int) -> None:
        if self._line is not None:
            self._line.update(progress_text(status, self.sources, self._rate(status, now_ms)), refresh=True)

    def _rate(self, status: JobStatus, now_ms: int) -> float:
        records = records_read(status, self.sources)
        last, self._last = self._last, (now_ms, records)
        if last is None or now_ms <= last[0]:
            return 0.0
        return max(0, records - last[1]) * 1000 / (now_ms - last[0])


def records_read(status: JobStatus, sources: frozenset[str]) -> int:
    """By all sources, in this attempt."""
    return sum(vertex.records_in for vertex in status.vertices if vertex.id in sources)


def progress_text(status: JobStatus, sources: frozenset[str], rate: float) -> str:
    parts = [status.state.value, f"{records_read(status, sources):,} records, {rate:,.0f}/s"]
    watermarks = [vertex.watermark for vertex in status.vertices if vertex.id in sources]
    if watermarks and MIN_WATERMARK < min(watermarks) < MAX_WATERMARK:
        parts.append(f"watermark {_time(min(watermarks))}")
    parts.append(f"{status.checkpoints.completed} checkpoints")
    if status.restarts:
        parts.append(f"{status.restarts} restarts")
    return " · ".join(parts)


def _time(timestamp: int) -> str:
    try:
        return datetime.fromtimestamp(timestamp / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return str(timestamp)


def _debugged() -> bool:
    hooked = sys.breakpointhook is not sys.__breakpointhook__ or "PYTHONBREAKPOINT" in os.environ
    return hooked or sys.gettrace() is not None
