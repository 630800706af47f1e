"""The states of a job, and which may follow which. What leads from one to the other: job_master.py, ending.py."""

from __future__ import annotations

import enum


class JobState(enum.Enum):
    """As shown to users."""

    CREATED = "CREATED"
    """Becoming leader, reading the job's log."""
    STARTING = "STARTING"
    """An attempt is being set up: logged, slots acquired, state restored, subtasks deployed."""
    RUNNING = "RUNNING"
    FINISHING = "FINISHING"
    """Everything is read and safe; the last commits and the subtasks' ends are awaited."""
    RESTARTING = "RESTARTING"
    """An attempt failed: its subtasks are being stopped, or the delay of the restart strategy runs."""
    SUSPENDING = "SUSPENDING"
    CANCELING = "CANCELING"
    FAILING = "FAILING"
    FINISHED = "FINISHED"
    CANCELED = "CANCELED"
    SUSPENDED = "SUSPENDED"
    """Stopped, and to be continued from its last checkpoint."""
    FAILED = "FAILED"
    DEPOSED = "DEPOSED"
    """Another master leads the job: this one has stopped without writing anything more."""

    @property
    def is_terminal(self) -> bool:
        return self in TERMINAL_STATES


TERMINAL_STATES = frozenset(
    {JobState.FINISHED, JobState.CANCELED, JobState.SUSPENDED, JobState.FAILED, JobState.DEPOSED}
)

J = JobState

ENDING_STATES = {
    J.FINISHED: J.FINISHING, J.FAILED: J.FAILING, J.CANCELED: J.CANCELING, J.SUSPENDED: J.SUSPENDING,
}  # fmt: skip
LOST = frozenset({J.DEPOSED, J.FAILED})
"""Where a master ends at any time, if another one leads or the store is out of reach."""

TRANSITIONS: dict[JobState, frozenset[JobState]] = {
    J.CREATED: LOST | {J.STARTING, J.FINISHING, J.CANCELING, J.SUSPENDING, J.FINISHED, J.CANCELED, J.SUSPENDED},
    J.STARTING: LOST | {J.RUNNING, J.RESTARTING, J.SUSPENDING, J.CANCELING, J.FAILING},
    J.RUNNING: LOST | {J.FINISHING, J.RESTARTING, J.SUSPENDING, J.CANCELING, J.FAILING},
    J.FINISHING: LOST | {J.FINISHED, J.CANCELING, J.FAILING},
    J.RESTARTING: LOST | {J.STARTING, J.FINISHING, J.SUSPENDING, J.CANCELING, J.FAILING},
    J.SUSPENDING: LOST | {J.SUSPENDED, J.FINISHING, J.CANCELING, J.FAILING},
    J.CANCELING: LOST | {J.CANCELED, J.FAILING},
    J.FAILING: LOST,
    **{state: frozenset[JobState]() for state in TERMINAL_STATES},
}
