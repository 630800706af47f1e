"""Errors as people want to read them: one clear sentence, and of a user's function its own frames, not ours."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..jobmanager.job_states import JobState
from ..runtime.tracebacks import user_traceback
from ..runtime.units import format_duration
from ..state.errors import PenstockError

if TYPE_CHECKING:
    from ..jobmanager.events import JobStatus

STUBBORN = 3
"""After so many restarts for the same failure it is said how to end them."""


def explain(error: BaseException) -> str:
    """What happened, for standard error: for an error of ours its sentence, else the user's own traceback."""
    if not isinstance(error, PenstockError):
        return user_traceback(error).rstrip()
    return "\n".join([*getattr(error, "__notes__", ()), f"error: {error}"])


def missing_module(script: str, error: ModuleNotFoundError, how: str) -> str:
    """`how`: where it is missing, and how it comes there."""
    if (error.name or "").startswith("penstock."):
        return f"{script} imports {error.name!r}, and penstock has no such module; README.md shows which there are"
    return f"{script} needs the module {error.name!r}, which is not {how}"


ENDS = (JobState.FINISHED, JobState.CANCELED, JobState.SUSPENDED)


class FailureReports:
    """What goes wrong while a job goes on: an attempt that fails and is followed by another, a checkpoint that fails.

    A job that is restarted again and again, or has no checkpoint to fall back on, looks well from outside. Each
    failed attempt is told, the user's frames only when they differ from those of the failure before.
    """

    def __init__(self) -> None:
        self._restarts = 0
        self._told: str | None = None
        self._trace = ""
        self._failed_checkpoint: str | None = None

    def text(self, status: JobStatus) -> str:
        """What is new in this status; empty when nothing is."""
        return "\n".join([*self._restart(status), *self._checkpoint(status), *self._finish(status)])

    def _restart(self, status: JobStatus) -> list[str]:
        if status.restarts == self._restarts:
            return []
        self._restarts = status.restarts
        pause, attempt = format_duration(status.restart_delay_ms or 0), status.attempt + 1
        self._told = status.last_failure
        sentence = f"{status.last_failure}; restarting in {pause}, attempt {attempt}"
        trace = (status.failure_traceback or "").rstrip()
        if trace == self._trace and status.restarts == STUBBORN:
            sentence += "; the same again and again: Ctrl-C stops it, -c restart-strategy.type=none fails at once"
        if trace == self._trace or "File " not in trace:
            return [sentence]
        self._trace = trace
        return [trace, sentence]

    def _checkpoint(self, status: JobStatus) -> list[str]:
        """Not once the job is on its way to its end: that a checkpoint is missing then is part of the result."""
        failure = status.checkpoints.last_failure
        if failure == self._failed_checkpoint or status.state is not JobState.RUNNING:
            return []
        self._failed_checkpoint = failure
        return [f"{failure}; the job goes on without it"]

    def _finish(self, status: JobStatus) -> list[str]:
        """What went wrong at an end that is none of a failed job: a function's close() that raised after the last
        record, when the results are complete, or output that was not committed when it was cancelled or stopped."""
        if status.state not in ENDS or status.last_failure in (None, self._told):
            return []
        self._told = status.last_failure
        complete = "; the results are complete" if status.state is JobState.FINISHED else ""
        return [(status.failure_traceback or "").rstrip(), f"{self._told}{complete}"]
