"""The states of a subtask, and what its time goes into. What leads from one to the other: task.py."""

from __future__ import annotations

import enum


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
