"""The job master: leads one job from submission to its end. Pure: events in, commands out, time passed in.

It ties together what decides in its own file: leadership, the execution graph, the setting up of an attempt,
checkpoints, sources, commits, restarts. Here is the life of the job:

    CREATED     become leader, read the log (leadership.py)
    STARTING    an attempt is logged, restored, deployed (attempt_setup.py); Start when all subtasks are initialized
    RUNNING     all subtasks run; checkpoints are triggered. When all are drained: the final checkpoint (PROTOCOLS 10)
    FINISHING   it is logged (or, without checkpointing, all committables are here). From now on subtasks are not
                needed any more: whatever happens to them, the output is safe. All commits -> FinishTasks -> Finished
    RESTARTING  a subtask failed or a slot was lost: the subtasks that must restart with it are cancelled, slots that
                do not obey in time are discarded; after the strategy's delay the next attempt begins. All others go
                on, here and in STARTING, and whatever they say is heeded (failover.py)
    FAILING, CANCELING, SUSPENDING    the job is being ended (ending.py)

What wins on a race. A failure of what is being ended, or restarted, changes nothing. Requests to end the job
are heeded once the commits of the last logged checkpoint are known; once FINISHING a stop comes too late, and a cancel
when all is committed. Whoever is deposed cancels what it can reach and writes nothing. A completion that is on its way
into the log when its attempt fails counts if it gets there: the next attempt begins only after the log is written up to
that point. Messages of a subtask's former life, and answers of programs begun for an attempt that is over, are
recognised by their attempt and dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from ..runtime.graph.job_graph import JobGraph
from ..state.errors import DeposedError, PenstockError, ProtocolError
from ..state.ids import Generation, JobId, SlotId
from ..state.store import job_log
from ..state.store.job_log import LogRecord
from ..taskmanager import messages
from ..taskmanager.messages import SubtaskId
from . import events, leadership
from .answers import Answers
from .attempt_setup import AttemptSetup
from .checkpoint_coordinator import Checkpoint, Purpose
from .ending import IDLE, Ending, Stage, cancel_running, stop_tasks
from .events import Command, Event, JobState, JobStatus, Tag
from .exception_history import ExceptionHistory, MasterLostError, SlotLostError
from .execution_graph import ANSWERS_BARRIERS, TERMINAL, SubtaskState
from .failures import Failures, error_of, job_failed, no_slots
from .job_states import ENDING_STATES, TRANSITIONS
from .job_view import JobObserver
from .leadership import Leadership
from .options import JobMasterOptions, RestoreRequest
from .parts import make_parts
from .process_identity import is_dead
from .requests import Requests, Verdict
from .views import JobOverview, JobView, SavepointOperation

J = JobState


class JobMaster:
    """`start` once, then `handle` every event; both answer the commands to carry out. After EndJob nothing follows."""

    def __init__(
        self,
        job_graph: JobGraph,
        *,
        job_id: JobId,
        options: JobMasterOptions,
        new_name: Callable[[], str],
        restore: RestoreRequest | None = None,
        process: str = "",
        is_dead: Callable[[str], bool] = is_dead,
    ) -> None:
        """`new_name` gives names that nobody else uses; `process`, `is_dead`: see leadership.py. Raises for what cannot
        be led at all: PipelineError, and what a connector raises when it is unpickled."""
        self.job_graph = job_graph
        self.state = JobState.CREATED
        self._parts = make_parts(job_graph, job_id, options, new_name)
        beats = {"lease_ms": options.lease_ms, "beat_interval_ms": options.beat_interval_ms}
        self._leader = Leadership(job_id, self._parts.log, **beats, process=process, is_dead=is_dead)
        self._setup = AttemptSetup(self._parts, restore)
        history = ExceptionHistory(self._parts.graph, self._parts.pool, options.exceptions_kept)
        self.failures = Failures(options.restarts, history)
        self._ending = Ending(self._parts, self._leader, self.failures)
        self._answers = Answers(self._parts, self._setup, self._ending)
        self._requests = Requests(self._parts, self._leader, self._setup)
        self._observer = JobObserver(self._parts, self.failures)
        self._restart_at_ms = 0

    def start(self, now_ms: int) -> list[Command]:
        self._observer.timeline.enter(self.state, now_ms)
        self._parts.graph.now_ms = now_ms
        self._lead(self._leader.start(now_ms), now_ms)
        return self._parts.orders.take()

    def handle(self, event: Event, now_ms: int) -> list[Command]:
        """ProtocolError is a bug of penstock, and the only thing raised."""
        if self.state.is_terminal:
            return []
        self._parts.graph.now_ms = now_ms
        for action in (partial(self._receive, event, now_ms), partial(self._advance, now_ms)):
            try:
                action()
            except ProtocolError:
                raise
            except PenstockError as error:
                concerned = self._parts.failover.concerned(event) if self.state is J.STARTING else None
                self._attempt_failed(error, now_ms, concerned)
                self._advance(now_ms)
        return self._parts.orders.take()

    def abandon(self, now_ms: int) -> list[Command]:
        """The process lets go of the job as it is, and feeds no more events: tell the next master not to wait."""
        self._lead(self._leader.resign(now_ms), now_ms)
        return self._parts.orders.take()

    @property
    def log(self) -> job_log.JobLog:
        return self._parts.log

    @property
    def generation(self) -> Generation:
        """Of its own leadership; the log may tell of a successor's already."""
        return self._parts.orders.generation

    def status(self) -> JobStatus:
        return self._observer.status(self.state)

    def view(self, now_ms: int) -> JobView:
        """Everything about the job that can be seen. Costs in proportion to its subtasks."""
        return self._observer.view(self.state, now_ms)

    def savepoints(self) -> tuple[SavepointOperation, ...]:
        return self._parts.checkpointing.savepoints.operations()

    def overview(self, now_ms: int) -> JobOverview:
        return self._observer.overview(self.state)

    def _receive(self, event: Event, now_ms: int) -> None:
        parts = self._parts
        match event:
            case events.SlotMessage(slot, message):
                if message.attempt == parts.graph.attempt_of(message.subtask) and slot in parts.pool:
                    self._slot_says(message, now_ms)
            case events.WorkDone() | events.WorkFailed() | events.TimerFired() if event.tag[0] == leadership.TAG:
                self._lead(self._leader.handle(event, now_ms), now_ms)
                self._ending.resigned(event)
            case events.WorkDone(tag, result):
                record = self._answers.done(tag, result, now_ms)
                if record is not None:
                    self._logged(record, now_ms)
            case events.WorkFailed(tag, error):
                refused = self._answers.failed(tag, error, now_ms)
                if refused is not None:
                    self._log_refused(refused, now_ms)
            case events.TimerFired(tag):
                self._timer_fired(tag, now_ms)
            case events.SlotOffered():
                parts.pool.offered(event)
            case events.SlotsDenied(reason, never):
                parts.pool.denied(reason)
                if self.state is J.STARTING:
                    raise no_slots(reason, self.job_graph, hopeless=never and parts.log.state.attempt == 1)
            case events.SlotLost(slot, reason):
                self._slot_lost(slot, reason, now_ms)
            case events.CancelRequested():
                self._requests.ask(J.CANCELED, now_ms)
            case events.SavepointRequested() | events.CheckpointRequested():
                runs = self.state is J.RUNNING and self._requests.target is None
                parts.checkpointing.requested(event, now_ms, runs=runs)
            case events.StateRequested():
                parts.queries.ask(event, now_ms)
            case events.StopRequested(remember):
                target = J.SUSPENDED if parts.options.checkpoints is not None else J.CANCELED
                self._requests.ask(target, now_ms, remember=remember)

    def _slot_says(self, message: messages.FromSlot, now_ms: int) -> None:
        parts, graph = self._parts, self._parts.graph
        match message:
            case messages.Acknowledge():
                collected = parts.checkpointing.acknowledged(message, now_ms)
                if collected is not None:
                    parts.orders.give(*parts.commits.add(collected.committables(), now_ms))
                    self._complete(collected, now_ms)
            case messages.Initialized(subtask=subtask):
                graph.report(subtask, SubtaskState.INITIALIZING)
                starting = parts.failover.ordered()
                if graph.all_in({SubtaskState.INITIALIZING}, starting):
                    parts.orders.send(dict.fromkeys(map(graph.slot_of, starting)), messages.Start)
            case messages.Running(subtask=subtask):
                if graph.report(subtask, SubtaskState.RUNNING):
                    parts.sources.restarted(subtask)
                if self.state is J.STARTING and graph.all_in(ANSWERS_BARRIERS):
                    self._move(J.RUNNING)
                    parts.failover.all_run()
                    parts.checkpointing.begin_attempt(self._setup.next_checkpoint_id, now_ms)
            case messages.Drained(subtask=subtask):
                graph.report(subtask, SubtaskState.DRAINED)
            case messages.Finished() | messages.Canceled():
                self._subtask_ended(message, now_ms)
            case messages.Failed(subtask=subtask):
                if graph.report(subtask, SubtaskState.FAILED, message.message):
                    self._attempt_failed(error_of(message), now_ms, [subtask], message)
            case _:
                self._answers.told(message, now_ms)

    def _subtask_ended(self, message: messages.Finished | messages.Canceled, now_ms: int) -> None:
        graph, subtask = self._parts.graph, message.subtask
        state = SubtaskState.FINISHED if isinstance(message, messages.Finished) else SubtaskState.CANCELED
        asked = graph.state(subtask) is SubtaskState.CANCELING or self.state is J.FINISHING
        if graph.report(subtask, state, "" if asked else "unasked") and not asked:
            self._attempt_failed(PenstockError(f"{subtask} became {state.value} unasked"), now_ms, [subtask])

    def _timer_fired(self, tag: Tag, now_ms: int) -> None:
        parts = self._parts
        match tag:
            case ("checkpoint", at_ms) if self.state in (J.RUNNING, J.SUSPENDING):
                parts.checkpointing.timer_fired(at_ms, now_ms)
            case ("cancel", attempt) if attempt == parts.graph.attempt:
                lost = self._ending.discard_disobedient(now_ms, finishing=self.state is J.FINISHING)
                if lost:
                    self._attempt_failed(PenstockError("a slot that hung was discarded"), now_ms, lost)
            case ("slots", attempt) if self.state is J.STARTING:
                self._setup.slots_timed_out(attempt)
            case ("request",):
                self._requests.overdue()
            case _:
                self._answers.due(tag, now_ms)

    def _slot_lost(self, slot: SlotId, reason: str, now_ms: int) -> None:
        parts, graph = self._parts, self._parts.graph
        error = SlotLostError(slot, reason, parts.pool.addresses.get(slot))
        if not parts.pool.lost(slot):
            return
        lost = [s for s in graph.in_slot(slot) if graph.state(s) not in TERMINAL | {SubtaskState.CREATED}]
        for subtask in lost:
            graph.move(subtask, SubtaskState.FAILED, str(error))
        if lost:
            self._attempt_failed(error, now_ms, lost)
        if self.state in (J.STARTING, J.RESTARTING):  # it is found while the restart's delay runs
            parts.orders.give(*parts.pool.ensure(graph.slots_needed))

    # ---- leadership and the log

    def _lead(self, commands: list[leadership.LeadershipCommand], now_ms: int) -> None:
        for command in commands:
            match command:
                case leadership.StartLeading(generation, lost):
                    if lost:
                        self.failures.exceptions.add(MasterLostError(generation, lost), now_ms)
                    self._parts.orders.generation = generation
                    self._parts.journal.leads()
                    if self._requests.take_over():
                        self._setup.read_only()
                    else:
                        self._begin_attempt(now_ms)
                case leadership.StopLeading(reason):
                    self._abandon(reason)
                case leadership.NothingToLead(finished):
                    self._end(JobState(finished.state), None)
                case _:
                    self._parts.orders.give(command)

    def _logged(self, record: LogRecord, now_ms: int) -> None:
        match record:
            case job_log.AttemptStarted() if self.state is J.STARTING:
                self._setup.attempt_logged(record)
            case job_log.CheckpointCompleted():
                self._complete(self._parts.checkpointing.completion_logged(record, now_ms), now_ms)
            case job_log.SubsumedUpTo():
                self._parts.checkpointing.subsumption_logged(record)
            case job_log.StopDecided():
                self._parts.checkpointing.stop_logged(record, now_ms)
            case job_log.SavepointWritten():
                self._parts.checkpointing.savepoint_logged(record, now_ms)
            case job_log.SavepointTaken():
                self._parts.checkpointing.savepoint_logged(record, now_ms)
                if self.state in (J.RUNNING, J.RESTARTING):
                    self._begin_ending(J.FINISHED, now_ms)
            case job_log.Finished():
                self._ending.logged(now_ms)

    def _log_refused(self, error: Exception, now_ms: int) -> None:
        """The store or the log will not take this entry, ever."""
        if isinstance(error, DeposedError):
            self._abandon(error)
            return
        self._parts.journal.stop()
        if self._ending.stage is Stage.LOGGING:
            self._ending.failure = self._ending.failure or error
            self._ending.logged(now_ms)
        elif self.state is not J.FAILING:
            self.failures.fatal(error, now_ms)
            self._begin_ending(J.FAILED, now_ms, failure=error)

    def _abandon(self, reason: Exception) -> None:
        """Stop everything at once and write nothing more: another master leads, or the store is out of reach."""
        self._parts.journal.stop()
        cancel_running(self._parts)
        self.failures.fatal(reason, self._parts.graph.now_ms)
        self._end(J.DEPOSED if isinstance(reason, DeposedError) else J.FAILED, reason)

    # ---- the life of the job

    def _advance(self, now_ms: int) -> None:
        """Whatever has become possible by the last event."""
        if self._parts.commits.failure and self.state in (J.STARTING, J.RUNNING, J.RESTARTING, J.FINISHING):
            self.failures.fatal(self._parts.commits.failure, now_ms)
            self._begin_ending(J.FAILED, now_ms, failure=self._parts.commits.failure)
        self._heed_request(now_ms)
        if self.state.is_terminal:
            return
        self._parts.queries.look()
        graph = self._parts.graph
        if self.state is J.STARTING:
            self._setup.advance()
        elif self.state is J.RUNNING and graph.all_in({SubtaskState.DRAINED}):
            self._parts.checkpointing.want(Purpose.FINAL, now_ms)
        elif self.state is J.RESTARTING and now_ms >= self._restart_at_ms and self._attempt_is_over():
            self._begin_attempt(now_ms)
        self._ending.advance(now_ms)
        if self._ending.stage is Stage.ENDED:
            self._end(self._ending.target, self._ending.failure)

    def _attempt_is_over(self) -> bool:
        """For those that restart. And what was on its way into the log (perhaps a completion) is there."""
        return self._parts.graph.all_in(IDLE, self._parts.failover.scope) and self._parts.journal.idle

    def _begin_attempt(self, now_ms: int) -> None:
        self._move(J.STARTING)
        self._parts.reports.forget(self._parts.failover.scope)
        self._setup.begin(now_ms)

    def _complete(self, checkpoint: Checkpoint, now_ms: int) -> None:
        """A checkpoint counts now. Perhaps it was the one that the job waited for."""
        if checkpoint.purpose is Purpose.FINAL and self.state in (J.RUNNING, J.SUSPENDING):
            self._begin_ending(J.FINISHED, now_ms)
        elif checkpoint.purpose is Purpose.STOP:
            self._ending.no_checkpoint_to_await()

    def _attempt_failed(
        self,
        error: Exception,
        now_ms: int,
        subtasks: Iterable[SubtaskId] | None,
        failed: messages.Failed | None = None,
    ) -> None:
        """`subtasks`: who has failed; None: all. A failure of what is being restarted or ended changes nothing."""
        failover = self._parts.failover
        if self.state is J.SUSPENDING:
            self._ending.no_checkpoint_to_await()
        if self.state not in (J.STARTING, J.RUNNING):
            unasked = self.state is J.FINISHING or (self.state is J.SUSPENDING and self._ending.stage is Stage.SETTLING)
            self.failures.too_late(error, now_ms, failed, is_root=unasked, is_last=self.state is J.FINISHING)
            if self.state is J.RESTARTING and failover.grow(subtasks):
                self._stop_scope(now_ms)
            return
        delay_ms = self.failures.delay_ms(error, now_ms, failed)
        if delay_ms is None:
            self._begin_ending(J.FAILED, now_ms, failure=job_failed(error))
            return
        failover.grow(subtasks)
        self._move(J.RESTARTING)
        self._restart_at_ms = now_ms + delay_ms
        self._parts.orders.give(events.SetTimer(self._restart_at_ms, ("restart",)))
        self._stop_scope(now_ms)

    def _stop_scope(self, now_ms: int) -> None:
        failover = self._parts.failover
        stop_tasks(self._parts, now_ms, None if failover.full else failover.ordered())

    def _heed_request(self, now_ms: int) -> None:
        target = self._requests.target
        if target is None or self.state.is_terminal or not self._ending.may_become(target):
            return
        match self._requests.verdict():
            case Verdict.LEAVE:
                self._end(J.SUSPENDED, None)
            case Verdict.HEED:
                self._requests.decide()
                last_checkpoint = target is J.SUSPENDED and self.state is J.RUNNING
                self._begin_ending(target, now_ms, awaits_checkpoint=last_checkpoint)
                if last_checkpoint:
                    self._parts.checkpointing.want(Purpose.STOP, now_ms)

    def _begin_ending(
        self, target: JobState, now_ms: int, *, failure: Exception | None = None, awaits_checkpoint: bool = False
    ) -> None:
        self._move(ENDING_STATES[target])
        self.failures.last = str(failure) if failure else self.failures.last
        self._ending.begin(target, now_ms, failure=failure, awaits_checkpoint=awaits_checkpoint)

    def _end(self, state: JobState, failure: Exception | None) -> None:
        self._move(state)
        self._parts.checkpointing.job_ended(state.value, self._parts.graph.now_ms)
        self._parts.orders.give(*self._parts.pool.release_all(), events.EndJob(state, failure))

    def _move(self, state: JobState) -> None:
        if state not in TRANSITIONS[self.state]:
            raise ProtocolError(f"job {self._parts.job_id} cannot become {state.value} from {self.state.value}")
        self.state = state
        self._observer.timeline.enter(state, self._parts.graph.now_ms)
