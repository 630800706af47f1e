"""What is asked of a job from outside, to stop or to be cancelled, until it can be heeded.

A request waits until this master leads and has handed to the committers what the last checkpoint promises: output
that is logged is committed before anything ends (PROTOCOLS 11). It does not wait for ever: when it is overdue the job
ends as it is, and one that another master leads, or that nobody can lead, is left alone.
"""

from __future__ import annotations

import enum

from . import leadership
from .attempt_setup import AttemptSetup
from .events import JobState, SetTimer
from .leadership import Leadership
from .parts import Parts


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

    def ask(self, target: JobState, now_ms: int) -> None:
        if self.target is None or target is JobState.CANCELED:
            self.target = target
            self._parts.orders.give(SetTimer(now_ms + self._parts.options.stop_timeout_ms, ("request",)))

    def overdue(self) -> None:
        self._overdue = True

    def verdict(self) -> Verdict:
        if self.target is None:
            return Verdict.WAIT
        if self._leader.phase is not leadership.Phase.LEADING:
            others = self._leader.phase is leadership.Phase.WATCHING and self._parts.log.state.leader is not None
            return Verdict.LEAVE if others or self._overdue else Verdict.WAIT
        return Verdict.HEED if self._setup.commits_known or self._overdue else Verdict.WAIT
