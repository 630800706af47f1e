"""The end of a job, whichever way it goes. One order for all, so that nothing that is logged is left uncommitted.

    SETTLING    completions on their way into the log get there, and all commits are confirmed (PROTOCOLS 10, 11).
                SUSPENDED waits for its last checkpoint before. Bounded in time, but for FINISHED, whose commits have
                a budget of their own. Until it is over a cancel is heeded, and bounds it anew
    STOPPING    FINISHED: FinishTasks, because everything is safe. All others: Cancel. Until all subtasks have ended;
                a slot that does not obey in time is discarded. And until no document of a checkpoint is being
                written any more, for nobody would remove it; bounded like SETTLING
    LOGGING     the entry Finished. SUSPENDED writes none: the job is not finished, and is continued from its log.
                (That it was asked for may stand there: requests.py)
    RESIGNING   the next master need not wait for our beat to fall silent
    CLEARING    what is not retained is deleted from the store; and if regions were restarted (failover.py), or the job
                did not finish, what its subtasks left pending is removed from the sinks. Bounded in time
    ENDED

A failed job stops its subtasks first and settles while they stop: they must not go on working for nothing.

Commits that a cancel or a stop could not wait for stay recorded in the last checkpoint, which is therefore retained:
whoever continues from it commits them. The job's exception history says so.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from functools import partial

from ..state.ids import Attempt, SlotId
from ..state.store.job_log import Finished
from ..taskmanager.messages import Cancel, FinishTasks, SubtaskId
from .commits import NotCommittedError
from .events import JobState, RunBlocking, RunProgram, SetTimer, Tag, TimerFired, WorkDone, WorkFailed
from .exception_history import TasksHungError
from .execution_graph import NOT_DEPLOYED, TERMINAL, SubtaskState
from .failures import Failures
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

    def __init__(self, parts: Parts, leader: Leadership, failures: Failures) -> None:
        self._parts = parts
        self._leader = leader
        self._failures = failures
        self.stage = Stage.NOT_BEGUN
        self.target = JobState.FINISHED
        self.failure: Exception | None = None
        self._overdue = False
        self._waited = False
        self._awaits_checkpoint = False
        self._resignation: Tag | None = None
        self._clearing = 0

    def may_become(self, target: JobState) -> bool:
        """Whether what is asked of the job comes in time: before its end has begun, or, to cancel it, before that has
        settled. (A failed job does not wait to settle, and is cancelled as it is.)"""
        settles = self.stage is Stage.SETTLING and self.target is not JobState.CANCELED
        return self.stage is Stage.NOT_BEGUN or (settles and target is JobState.CANCELED)

    def begin(
        self, target: JobState, now_ms: int, *, failure: Exception | None = None, awaits_checkpoint: bool = False
    ) -> None:
        """May be called again with another target, as long as subtasks are not stopped yet."""
        parts = self._parts
        self.target, self.failure, self._awaits_checkpoint = target, failure, awaits_checkpoint
        self._waited = self._overdue = False
        self.stage = Stage.SETTLING
        if target is JobState.FAILED:
            self._stop_tasks(now_ms)
        options = parts.options
        bound_ms = options.cancel_commit_timeout_ms if target is JobState.CANCELED else options.stop_timeout_ms
        parts.orders.give(SetTimer(now_ms + bound_ms, ("ending", target)))

    def overdue(self, target: JobState) -> None:
        if target is self.target:  # else another way to end was overruled
            self._waited, self._overdue = True, target is not JobState.FINISHED

    def no_checkpoint_to_await(self) -> None:
        """It is logged, or will never be."""
        self._awaits_checkpoint = False

    def advance(self, now_ms: int) -> None:
        """Do whatever can be done now."""
        parts = self._parts
        if self.stage is Stage.SETTLING and self._settled():
            self._stop_tasks(now_ms)
        written = self._waited or not parts.checkpointing.writes
        if self.stage is Stage.STOPPING and not parts.graph.outside(IDLE) and self._settled() and written:
            self._log_end(now_ms)

    def _settled(self) -> bool:
        parts = self._parts
        committed = parts.commits.idle or parts.commits.failure is not None
        return self._overdue or (committed and parts.journal.idle and not self._awaits_checkpoint)

    def _stop_tasks(self, now_ms: int) -> None:
        self.stage = Stage.STOPPING
        if self.target is JobState.FINISHED:
            parts = self._parts
            running = parts.graph.outside(IDLE)
            parts.orders.send(dict.fromkeys(parts.graph.slot_of(s) for s in running), FinishTasks)
            parts.orders.give(SetTimer(now_ms + parts.options.cancel_timeout_ms, ("cancel", parts.graph.attempt)))
        else:
            stop_tasks(self._parts, now_ms)

    def discard_disobedient(self, now_ms: int, *, finishing: bool) -> list[SubtaskId]:
        """Slots whose subtasks were told to end long enough ago, and did not. Answers whom they took with them of those
        that nobody had told to end. `finishing`: all are told to end, by FinishTasks."""
        parts, graph, timeout_ms = self._parts, self._parts.graph, self._parts.options.cancel_timeout_ms
        hung: dict[SlotId, list[SubtaskId]] = {}
        for subtask in graph.outside(IDLE):
            told = finishing or graph.state(subtask) is SubtaskState.CANCELING
            if told and graph.timeline(subtask).changed_ms + timeout_ms <= now_ms:
                hung.setdefault(graph.slot_of(subtask), []).append(subtask)
        others: list[SubtaskId] = []
        for slot, subtasks in hung.items():
            error = TasksHungError(subtasks, graph, timeout_ms, parts.pool.addresses.get(slot))
            self._failures.too_late(error, now_ms, None, is_root=True, is_last=finishing)
            parts.orders.give(*parts.pool.discard(slot, f"{subtasks[0]} did not end within {timeout_ms} ms"))
            for subtask in [each for each in graph.in_slot(slot) if graph.state(each) not in IDLE]:
                told = finishing or graph.state(subtask) is SubtaskState.CANCELING
                others += [] if told else [subtask]
                graph.move(subtask, SubtaskState.FAILED, f"its slot was discarded because of {subtasks[0]}")
        return others

    def _log_end(self, now_ms: int) -> None:
        parts = self._parts
        if self.target in (JobState.CANCELED, JobState.SUSPENDED) and not parts.commits.idle:
            self._failures.fatal(_not_committed(parts, self.target), now_ms)
        if self.target is JobState.SUSPENDED:
            self._resign(now_ms)
            return
        self.stage = Stage.LOGGING
        parts.orders.give(*parts.journal.append(Finished(self.target.value, retained=self._retains())))

    def _retains(self) -> bool:
        parts = self._parts
        options = parts.options.checkpoints
        if options is None or parts.log.state.last_completed is None:
            return False
        return {
            JobState.FINISHED: options.retain_on_finish,
            JobState.CANCELED: options.retain_on_cancel or not parts.commits.idle,
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
        self._clearing = 1
        finished = self.target is JobState.FINISHED
        held = parts.log.state.savepoint_is_newest and not finished
        if (parts.failover.left_pending or not finished) and parts.commits.idle and not held:
            self._clean_sinks()

    def _clean_sinks(self) -> None:
        """Nobody writes any more, and what counts is committed: what else is pending was left by dead subtasks, or by
        those that were stopped before a checkpoint could hold it. (Of a job that did not finish, a savepoint that was
        taken since the last checkpoint may hold it: then it stays.)"""
        parts = self._parts
        for sink in parts.sinks.values():
            call = partial(sink.cleanup, parts.job_id, Attempt(parts.log.state.attempt + 1))
            parts.orders.give(RunBlocking(("clear",), call))
        self._clearing += len(parts.sinks)
        parts.orders.give(SetTimer(parts.graph.now_ms + parts.options.stop_timeout_ms, ("clear",)))

    def cleared(self, *, overdue: bool = False) -> None:
        self._clearing -= 1
        if not self._clearing or overdue:
            self.stage = Stage.ENDED


def _not_committed(parts: Parts, target: JobState) -> NotCommittedError:
    last, how = parts.log.state.last_completed, "cancelled" if target is JobState.CANCELED else "stopped"
    holds = f"checkpoint {last.checkpoint_id}" if last is not None else "the checkpoint that it was restored from"
    stays = f"it stays recorded in {holds}, and is committed when the job is continued from it (-s latest)"
    if last is None and parts.checkpointing.restored is None:
        stays = "no checkpoint holds it, so it is lost"
    return NotCommittedError(f"the job was {how} before all of its output was committed: {parts.commits.late}; {stays}")


def stop_tasks(parts: Parts, now_ms: int, subtasks: Iterable[SubtaskId] | None = None) -> None:
    """Cancel these subtasks; None: all of them, and with that the attempt. Whatever checkpoint is under way ends."""
    graph = parts.graph
    scope = graph.subtasks if subtasks is None else tuple(subtasks)
    if subtasks is None:
        parts.sources.end_attempt()
        cancel_running(parts)
    else:
        parts.sources.failed(scope)
        _cancel(parts, scope)
    for subtask in scope:
        if graph.state(subtask) in NOT_DEPLOYED - {SubtaskState.CREATED}:
            graph.move(subtask, SubtaskState.CANCELED, "was not deployed")
        elif graph.state(subtask) not in IDLE | {SubtaskState.CANCELING}:
            graph.move(subtask, SubtaskState.CANCELING)
    parts.orders.give(SetTimer(now_ms + parts.options.cancel_timeout_ms, ("cancel", graph.attempt)))
    parts.checkpointing.end_attempt("the attempt has ended", now_ms)


def cancel_running(parts: Parts) -> None:
    """Cancel to every slot that runs anything."""
    running = parts.graph.outside(TERMINAL | NOT_DEPLOYED)
    parts.orders.send(dict.fromkeys(map(parts.graph.slot_of, running)), Cancel)


def _cancel(parts: Parts, subtasks: Iterable[SubtaskId]) -> None:
    """Cancel to the slots of these, if they run; what else runs there is not concerned."""
    graph = parts.graph
    by_slot: dict[SlotId, list[SubtaskId]] = {}
    for subtask in subtasks:
        if graph.state(subtask) not in TERMINAL | NOT_DEPLOYED:
            by_slot.setdefault(graph.slot_of(subtask), []).append(subtask)
    for slot, running in by_slot.items():
        parts.orders.send([slot], Cancel, tuple(running))
