"""What is asked of a job from outside, to stop or to be cancelled, until it can be heeded.

A request waits until this master leads and has handed to the committers what the last checkpoint promises: output
that is logged is committed before anything ends (PROTOCOLS 11). It does not wait for ever: when it is overdue the job
ends as it is, and one that another master leads, or that nobody can lead, is left alone. What goes into the log when it
is heeded, a cancel and a stop that is to be remembered, binds the masters that follow.
"""

from __future__ import annotations

import enum

from ..state.store.job_log import StopDecided
from . import leadership
from .attempt_setup import AttemptSetup
from .events import JobState, SetTimer
from .leadership import Leadership
from .options import JobMasterOptions
from .parts import Parts


def is_over(decided: StopDecided, options: JobMasterOptions) -> bool:
    """The job was submitted again after this stop."""
    return decided.action == "stop" and decided.generation <= options.continues


class Verdict(enum.Enum):
    WAIT = enum.auto()
    """Nothing is asked, or it is too early."""
    LEAVE = enum.auto()
    """The job is not ours to change."""
    HEED = enum.auto()


class Requests:
    """The last one counts, but nothing overrules a cancel."""

    def __init__(self, parts: Parts, leader: Leadership, setup: AttemptSetup) -> None:
        self._parts = parts
        self._leader = leader
        self._setup = setup
        self._overdue = False
        self.target: JobState | None = None
        """Where the job is to end."""
        self.remember = False
        """A stop is to outlive this master."""

    def ask(self, target: JobState, now_ms: int, *, remember: bool = False) -> None:
        self.remember |= remember
        if self.target is None or target is JobState.CANCELED:
            self.target = target
            self._parts.orders.give(SetTimer(now_ms + self._parts.options.stop_timeout_ms, ("request",)))

    def take_over(self) -> bool:
        """What the log says that an earlier master was asked and did not live to carry out; False: nothing."""
        state = self._parts.log.state
        if state.savepoint is not None:  # it has stopped with it, and has only to finish
            self._parts.checkpointing.savepoints.taken_over(state.savepoint)
            self.target = JobState.FINISHED
            return True
        decided = state.stopping
        if decided is not None and decided.action == "savepoint":
            self._parts.checkpointing.savepoints.decided(decided)
            return False
        if decided is None or is_over(decided, self._parts.options):
            return False
        if self.target is not JobState.CANCELED:
            self.target = JobState.CANCELED if decided.action == "cancel" else JobState.SUSPENDED
        return True

    def decide(self) -> None:
        """It is heeded now: into the log, as far as it is for later masters and does not stand there."""
        parts, decided = self._parts, self._parts.log.state.stopping
        if decided is not None and (decided.action == "savepoint" or is_over(decided, parts.options)):
            decided = None
        overruling: StopDecided | None = None
        if self.target is JobState.CANCELED and (decided is None or decided.action == "stop"):
            overruling = StopDecided("cancel")
        elif self.target is JobState.SUSPENDED and self.remember and decided is None:
            overruling = StopDecided("stop", parts.orders.generation)
        if overruling is not None:
            parts.checkpointing.savepoints.overruled = True
            parts.orders.give(*parts.journal.append(overruling))

    def overdue(self) -> None:
        self._overdue = True

    def verdict(self) -> Verdict:
        if self.target is None:
            return Verdict.WAIT
        if self._leader.phase is not leadership.Phase.LEADING:
            others = self._leader.phase is leadership.Phase.WATCHING and self._parts.log.state.leader is not None
            return Verdict.LEAVE if others or self._overdue else Verdict.WAIT
        return Verdict.HEED if self._setup.commits_known or self._overdue else Verdict.WAIT
