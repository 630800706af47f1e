"""The end of a job, whichever way it goes. One order for all, so that nothing that is logged is left uncommitted.

    SETTLING    completions on their way into the log get there, and all commits are confirmed (PROTOCOLS 10, 11).
                SUSPENDED waits for its last checkpoint before. Bounded in time, but for FINISHED, whose commits have
                a budget of their own
    STOPPING    FINISHED: FinishTasks, because everything is safe. All others: Cancel. Until all subtasks have ended;
                a slot that does not obey in time is discarded
    LOGGING     the entry Finished. SUSPENDED writes none: the job is not finished, and is continued from its log
    RESIGNING   the next master need not wait for our beat to fall silent
    CLEARING    what is not retained is deleted from the store
    ENDED

A failed job stops its subtasks first and settles while they stop: they must not go on working for nothing.
"""

from __future__ import annotations

import enum

from ..state.job_log import Finished, StopDecided
from ..taskmanager.messages import Cancel, FinishTasks
from .events import JobState, RunProgram, SetTimer, Tag, TimerFired, WorkDone, WorkFailed
from .execution_graph import NOT_DEPLOYED, TERMINAL, SubtaskState
from .leadership import Leadership
from .parts import Parts

IDLE = TERMINAL | {SubtaskState.CREATED}


class Stage(enum.Enum):
    NOT_BEGUN = enum.auto()
    SETTLING = enum.auto()
    STOPPING = enum.auto()
    LOGGING = enum.auto()
    RESIGNING = enum.auto()
    CLEARING = enum.auto()
    ENDED = enum.auto()


class Ending:
    """Where the job is on its way to its end."""

    def __init__(self, parts: Parts, leader: Leadership) -> None:
        self._parts = parts
        self._leader = leader
        self.stage = Stage.NOT_BEGUN
        self.target = JobState.FINISHED
        self.failure: Exception | None = None
        self._overdue = False
        self._awaits_checkpoint = False
        self._resignation: Tag | None = None

    def begin(
        self, target: JobState, now_ms: int, *, failure: Exception | None = None, awaits_checkpoint: bool = False
    ) -> None:
        """May be called again with another target, as long as subtasks are not stopped yet."""
        parts = self._parts
        self.target, self.failure, self._awaits_checkpoint = target, failure, awaits_checkpoint
        self.stage = Stage.SETTLING
        if target is JobState.CANCELED and parts.log.state.stopping is None:
            parts.orders.give(*parts.journal.append(StopDecided("cancel")))
        if target is JobState.FAILED:
            self._stop_tasks(now_ms)
        parts.orders.give(SetTimer(now_ms + parts.options.stop_timeout_ms, ("ending", target)))

    def overdue(self, target: JobState) -> None:
        self._overdue = target is self.target and target is not JobState.FINISHED

    def no_checkpoint_to_await(self) -> None:
        """It is logged, or will never be."""
        self._awaits_checkpoint = False

    def advance(self, now_ms: int) -> None:
        """Do whatever can be done now."""
        parts = self._parts
        if self.stage is Stage.SETTLING and self._settled():
            self._stop_tasks(now_ms)
        if self.stage is Stage.STOPPING and not parts.graph.outside(IDLE) and self._settled():
            self._log_end(now_ms)

    def _settled(self) -> bool:
        parts = self._parts
        committed = parts.commits.idle or parts.commits.failure is not None
        return self._overdue or (committed and parts.journal.idle and not self._awaits_checkpoint)

    def _stop_tasks(self, now_ms: int) -> None:
        self.stage = Stage.STOPPING
        if self.target is JobState.FINISHED:
            parts = self._parts
            running = parts.graph.outside(TERMINAL)
            parts.orders.send(dict.fromkeys(parts.graph.slot_of(s) for s in running), FinishTasks)
            parts.orders.give(SetTimer(now_ms + parts.options.cancel_timeout_ms, ("cancel", parts.graph.attempt)))
        else:
            stop_tasks(self._parts, now_ms)

    def _log_end(self, now_ms: int) -> None:
        if self.target is JobState.SUSPENDED:
            self._resign(now_ms)
            return
        self.stage = Stage.LOGGING
        parts = self._parts
        parts.orders.give(*parts.journal.append(Finished(self.target.value, retained=self._retains())))

    def _retains(self) -> bool:
        parts = self._parts
        options = parts.options.checkpoints
        if options is None or parts.log.state.last_completed is None:
            return False
        return {
            JobState.FINISHED: options.retain_on_finish,
            JobState.CANCELED: options.retain_on_cancel,
            JobState.FAILED: True,
        }[self.target]

    def logged(self, now_ms: int) -> None:
        """The entry Finished is in the log, or cannot be written: then the next master will end the job."""
        self._resign(now_ms)

    def _resign(self, now_ms: int) -> None:
        self.stage = Stage.RESIGNING
        commands = self._leader.resign(now_ms)
        for command in commands:
            if isinstance(command, RunProgram):
                self._resignation = command.tag
                self._parts.orders.give(command)
        if not commands:
            self.stage = Stage.ENDED

    def resigned(self, event: WorkDone | WorkFailed | TimerFired) -> None:
        """An answer to leadership: perhaps to the last thing it had to say."""
        if self.stage is not Stage.RESIGNING or event.tag != self._resignation:
            return
        parts = self._parts
        if parts.log.state.finished is None:
            self.stage = Stage.ENDED
            return
        self.stage = Stage.CLEARING
        if not parts.log.state.finished.retained:
            parts.checkpointing.statistics.discarded_all()
        retained = list(parts.checkpointing.retained.values()) if parts.log.state.finished.retained else []
        parts.orders.give(RunProgram(("clear",), parts.store.clear(retained)))

    def cleared(self) -> None:
        self.stage = Stage.ENDED


def stop_tasks(parts: Parts, now_ms: int) -> None:
    """End the attempt: Cancel to every slot that runs anything of it."""
    graph = parts.graph
    parts.sources.end_attempt()
    cancel_running(parts)
    for subtask in graph.outside(IDLE | {SubtaskState.CANCELING}):
        if graph.state(subtask) in NOT_DEPLOYED:
            graph.move(subtask, SubtaskState.CANCELED, "was not deployed")
        else:
            graph.move(subtask, SubtaskState.CANCELING)
    parts.orders.give(SetTimer(now_ms + parts.options.cancel_timeout_ms, ("cancel", graph.attempt)))
    parts.checkpointing.end_attempt("the attempt has ended", now_ms)


def cancel_running(parts: Parts) -> None:
    """Cancel to every slot that runs anything."""
    running = parts.graph.outside(TERMINAL | NOT_DEPLOYED)
    parts.orders.send(dict.fromkeys(map(parts.graph.slot_of, running)), Cancel)


def discard_disobedient(parts: Parts) -> None:
    """Slots whose subtasks were told to end and did not."""
    graph = parts.graph
    for subtask in graph.outside(IDLE):
        slot = graph.slot_of(subtask)
        parts.orders.give(
            *parts.pool.discard(slot, f"{subtask} did not end within {parts.options.cancel_timeout_ms} ms")
        )
        graph.move(subtask, SubtaskState.FAILED, "did not end in time")
