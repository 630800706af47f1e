"""One line that shows how a job is doing, where a person is watching."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING

from ..jobmanager.events import JobStatus
from ..runtime.elements import MAX_WATERMARK, MIN_WATERMARK

if TYPE_CHECKING:
    from rich.status import Status


class ProgressLine:
    """A context manager that is called with every status; it shows nothing unless stdout and stderr are terminals."""

    def __init__(self) -> None:
        self._line: Status | None = None
        self._last: tuple[int, int] | None = None

    def __enter__(self) -> ProgressLine:
        if sys.stdout.isatty() and sys.stderr.isatty():
            from rich.console import Console

            self._line = Console(stderr=True).status("starting")
            self._line.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._line is not None:
            self._line.stop()

    def __call__(self, status: JobStatus, now_ms: int) -> None:
        if self._line is not None:
            self._line.update(progress_text(status, self._rate(status, now_ms)))

    def _rate(self, status: JobStatus, now_ms: int) -> float:
        records = records_read(status)
        last, self._last = self._last, (now_ms, records)
        if last is None or now_ms <= last[0]:
            return 0.0
        return max(0, records - last[1]) * 1000 / (now_ms - last[0])


def records_read(status: JobStatus) -> int:
    """What the sources have given out in this attempt."""
    return sum(vertex.records_out for vertex in status.vertices[:1])


def progress_text(status: JobStatus, rate: float) -> str:
    parts = [status.state.value, f"{records_read(status):,} records, {rate:,.0f}/s"]
    watermarks = [vertex.watermark for vertex in status.vertices if MIN_WATERMARK < vertex.watermark < MAX_WATERMARK]
    if watermarks:
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
