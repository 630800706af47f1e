"""Records, bytes and shares of time of subtasks: the `metrics` object that job, vertex and subtask carry alike."""

from __future__ import annotations

from collections.abc import Sequence

from typing_extensions import TypedDict

from ..views import NEVER, SubtaskView

IoMetrics = TypedDict(
    "IoMetrics",
    {
        "read-bytes": int,
        "read-bytes-complete": bool,
        "write-bytes": int,
        "write-bytes-complete": bool,
        "read-records": int,
        "read-records-complete": bool,
        "write-records": int,
        "write-records-complete": bool,
        "accumulated-backpressured-time": int,
        "accumulated-idle-time": int,
        "accumulated-busy-time": float,
    },
)
COUNTED = (
    "read-bytes", "write-bytes", "read-records", "write-records", "accumulated-backpressured-time",
    "accumulated-idle-time", "accumulated-busy-time",
)  # fmt: skip
"""Those that are numbers: what is aggregated over subtasks."""


def io_metrics(subtasks: Sequence[SubtaskView]) -> IoMetrics:
    """Sums. `complete`: every one of them has reported."""
    metrics = [subtask.metrics for subtask in subtasks]
    complete = all(one.reported_at_ms != NEVER for one in metrics)
    return {
        "read-bytes": sum(one.bytes_in for one in metrics),
        "read-bytes-complete": complete,
        "write-bytes": sum(one.bytes_out for one in metrics),
        "write-bytes-complete": complete,
        "read-records": sum(one.records_in for one in metrics),
        "read-records-complete": complete,
        "write-records": sum(one.records_out for one in metrics),
        "write-records-complete": complete,
        "accumulated-backpressured-time": int(sum(one.backpressured_ms for one in metrics)),
        "accumulated-idle-time": int(sum(one.idle_ms for one in metrics)),
        "accumulated-busy-time": float(sum(one.busy_ms for one in metrics)),
    }


def counted(subtask: SubtaskView) -> dict[str, float]:
    """COUNTED -> number, of one subtask."""
    one = subtask.metrics
    return {
        "read-bytes": one.bytes_in,
        "write-bytes": one.bytes_out,
        "read-records": one.records_in,
        "write-records": one.records_out,
        "accumulated-backpressured-time": int(one.backpressured_ms),
        "accumulated-idle-time": int(one.idle_ms),
        "accumulated-busy-time": float(one.busy_ms),
    }
