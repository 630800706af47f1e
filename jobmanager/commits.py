"""The second phase of every sink: committables of logged checkpoints are made visible, in order, until it worked.

Committing belongs to the job, not to an attempt (PROTOCOLS 16). What a checkpoint's writers have prepared is queued
here once the checkpoint is in the log, never before. Each sink commits one checkpoint at a time, oldest first, so
output appears in the order in which it was written. A failed commit is tried again, with a growing pause; when the
budget is used up the job must fail, because it cannot keep what its log promises. A call that has not returned in time
is a try that failed: the next one begins beside it, and what it answers after all is not heeded.

An attempt that fails does not touch the queue; the next one deploys only when the queue is empty, so commits of the
restored checkpoint come before writers start. Until a commit is confirmed its committables are `pending()`, and are
written into the metadata of later checkpoints: a master that takes over commits them again. Committers are
idempotent, so committing twice is safe, and forgetting is not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

from ..runtime.connector import Committer
from ..state.errors import JobFailedError, PenstockError
from ..state.ids import OperatorId
from .events import Command, RunBlocking, SetTimer, Tag
from .options import JobMasterOptions
from .restarts import helped_by_restart

MAX_PAUSE_MS = 30_000
MAX_QUEUED = 100
"""Checkpoints of one sink that wait for their commit. A sink that is so far behind never catches up."""


@dataclass(slots=True)
class _SinkQueue:
    name: str
    committer: Committer
    waiting: deque[tuple[bytes, ...]] = field(default_factory=deque)
    """The first is being committed."""
    number: int = 0
    """Of the first: with the number of its failures it tells late answers and timers from expected ones."""
    failures: int = 0
    trouble: str = ""
    """What the last try failed with."""


class NotCommittedError(PenstockError):
    """The job has ended before all that its checkpoints promise was visible."""


class Commits:
    """Methods answer the commands to carry out; `failure` is set when a sink's budget is used up."""

    def __init__(self, sinks: Mapping[OperatorId, tuple[str, Committer]], options: JobMasterOptions) -> None:
        """`sinks`: name and committer of every sink that has one."""
        self._options = options
        self._queues = {operator_id: _SinkQueue(name, committer) for operator_id, (name, committer) in sinks.items()}
        self.failure: JobFailedError | None = None

    @property
    def idle(self) -> bool:
        return not any(queue.waiting for queue in self._queues.values())

    @property
    def late(self) -> str:
        """The sinks whose commits are not confirmed, each with what keeps it; empty: none."""
        late = [queue for queue in self._queues.values() if queue.waiting]
        return "; ".join(f"sink {queue.name}: {queue.trouble or 'its commit has not returned'}" for queue in late)

    def pending(self) -> dict[str, tuple[bytes, ...]]:
        return {
            operator_id: tuple(committable for entry in queue.waiting for committable in entry)
            for operator_id, queue in self._queues.items()
            if queue.waiting
        }

    def takes(self, operator_id: OperatorId) -> bool:
        """It is a sink that commits."""
        return operator_id in self._queues

    def add(self, committables: Mapping[OperatorId, tuple[bytes, ...]], now_ms: int) -> list[Command]:
        """Of one checkpoint that is in the log. What already waits is not queued again."""
        commands: list[Command] = []
        for operator_id, found in committables.items():
            queue = self._queues.get(operator_id)
            if queue is None:  # no committer, or the sink is gone and that was allowed
                continue
            known = {committable for entry in queue.waiting for committable in entry}
            new = tuple(committable for committable in found if committable not in known)
            if not new:
                continue
            queue.waiting.append(new)
            if len(queue.waiting) > MAX_QUEUED:
                self._give_up(queue, f"{MAX_QUEUED} checkpoints wait to be committed", None)
            elif len(queue.waiting) == 1:
                commands += self._commit(operator_id, queue, now_ms)
        return commands

    def done(self, operator_id: OperatorId, number: int, failures: int, now_ms: int) -> list[Command]:
        """`failures`: how many tries had failed before the one that answers."""
        queue = self._queues[operator_id]
        if (number, failures) != (queue.number, queue.failures):
            return []
        queue.waiting.popleft()
        queue.number, queue.failures, queue.trouble = number + 1, 0, ""
        return self._commit(operator_id, queue, now_ms) if queue.waiting else []

    def failed(
        self, operator_id: OperatorId, number: int, failures: int, error: Exception, now_ms: int
    ) -> list[Command]:
        queue = self._queues[operator_id]
        if (number, failures) != (queue.number, queue.failures):
            return []
        queue.failures += 1
        queue.trouble = f"the last of {queue.failures} tries to commit failed with {error}"
        if queue.failures >= self._options.commit_attempts or not helped_by_restart(error):
            self._give_up(queue, f"committing failed {queue.failures} times, last with {error}", error)
            return []
        pause_ms = min(self._options.commit_retry_ms * 2 ** (queue.failures - 1), MAX_PAUSE_MS)
        return [SetTimer(now_ms + pause_ms, ("commit again", operator_id, number))]

    def timer_fired(self, tag: Tag, now_ms: int) -> list[Command]:
        """The pause after a failure is over, or a call takes too long."""
        match tag:
            case ("commit again", operator_id, number):
                queue = self._queues[operator_id]
                if number == queue.number and self.failure is None:
                    return self._commit(operator_id, queue, now_ms)
            case ("commit overdue", operator_id, number, failures) if self.failure is None:
                error = TimeoutError(f"it has not returned within {self._options.commit_timeout_ms / 1_000:g} s")
                return self.failed(operator_id, number, failures, error, now_ms)
        return []

    def _commit(self, operator_id: OperatorId, queue: _SinkQueue, now_ms: int) -> list[Command]:
        which = (operator_id, queue.number, queue.failures)
        return [
            RunBlocking(("commit", *which), partial(queue.committer.commit, queue.waiting[0])),
            SetTimer(now_ms + self._options.commit_timeout_ms, ("commit overdue", *which)),
        ]

    def _give_up(self, queue: _SinkQueue, why: str, cause: Exception | None) -> None:
        self.failure = JobFailedError(f"sink {queue.name}: {why}")
        self.failure.__cause__ = cause
