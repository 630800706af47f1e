"""Checkpoints in the life of a job: what the coordinator decides becomes messages, programs and log entries.

The way of a checkpoint (who does it in brackets):

    trigger: snapshot the enumerators, hold splits back, send TriggerCheckpoint      (splits.py, here)
    all acknowledged -> write the metadata, with commits that are still pending      (store program)
    metadata written -> log CheckpointCompleted                                      (journal)
    logged           -> tell the slots, commit its committables, and only then
                        log SubsumedUpTo for older ones                              (journal)
    logged           -> delete what nothing refers to any more                       (store program)

A savepoint goes the same way up to its document. Then SavepointWritten is logged, and slots hear that it is over; or,
if the job stops with it, SavepointTaken is, and only that counts (savepoints.py).

A deletion that fails is begun again (deletions.py). Files of an aborted checkpoint are deleted by the subtasks that
wrote them (taskmanager/discarded.py), its metadata here; savepoint_remains.py removes what a failed savepoint has left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from ..state.errors import CheckpointError, ProtocolError
from ..state.ids import Attempt, CheckpointId, JobId, SlotId
from ..state.savepoints.savepoint_store import write_savepoint
from ..state.snapshots import CheckpointMetadata
from ..state.store.checkpoint_store import CheckpointStore, metadata_name
from ..state.store.job_log import CheckpointCompleted as CheckpointLogged
from ..state.store.job_log import SavepointTaken, SavepointWritten, StopDecided, SubsumedUpTo
from ..state.store.retained_checkpoints import RetainedCheckpoints
from ..taskmanager.messages import (
    AbortCheckpoint,
    Acknowledge,
    BarrierInjected,
    CheckpointCompleted,
    Decline,
    TriggerCheckpoint,
)
from .checkpoint_coordinator import (
    Abort,
    AckOutcome,
    Checkpoint,
    CheckpointCoordinator,
    Decision,
    FailAttempt,
    Persist,
    Purpose,
    Trigger,
)
from .checkpoint_statistics import CheckpointStatistics
from .commits import Commits
from .deletions import Deletions
from .events import CheckpointRequested, CheckpointStatus, RunProgram, SavepointRequested, SetTimer
from .execution_graph import ANSWERS_BARRIERS, ExecutionGraph
from .journal import Journal
from .options import JobMasterOptions
from .orders import Orders
from .requested_checkpoints import RequestedCheckpoints
from .savepoint_remains import SavepointRemains
from .savepoints import Savepoints, fails_the_attempt
from .sources import Sources


class Checkpointing:
    """Of one job, over all its attempts. Raises CheckpointError when an attempt must fail because of checkpoints."""

    def __init__(
        self,
        job_id: JobId,
        options: JobMasterOptions,
        graph: ExecutionGraph,
        orders: Orders,
        store: CheckpointStore,
        journal: Journal,
        sources: Sources,
        commits: Commits,
        new_name: Callable[[], str],
    ) -> None:
        self._job_id = job_id
        self._new_name = new_name
        self._graph = graph
        self._orders = orders
        self._store = store
        self._journal = journal
        self._sources = sources
        self._commits = commits
        self.coordinator = CheckpointCoordinator(options.checkpoints, graph.subtasks)
        self.statistics = CheckpointStatistics(graph.job_graph, options.storage)
        self._options = self.coordinator.options
        self.deletions = Deletions(orders)
        self._remains = SavepointRemains(self.deletions)
        self.savepoints = Savepoints(
            job_id, options.savepoints_directory, self.coordinator, journal, self._remains, new_name
        )
        self.on_request = RequestedCheckpoints()
        self.retained: dict[CheckpointId, CheckpointMetadata] = {}
        """Own checkpoints that are in the log and not subsumed."""
        self._files = RetainedCheckpoints(job_id, self._options.retained)
        self._written: dict[CheckpointId, CheckpointMetadata] = {}
        self._writing: set[tuple[Attempt, CheckpointId]] = set()
        self.restored: CheckpointId | None = None
        self._timer_ms: int | None = None

    def take_over(self, completed: Iterable[CheckpointMetadata]) -> None:
        """What the log retains, read by a master that has just become leader."""
        self.retained = {metadata.checkpoint_id: metadata for metadata in completed}
        self._files = RetainedCheckpoints(self._job_id, self._options.retained, self.retained.values())

    # ---- attempts

    def begin_attempt(self, next_id: CheckpointId, now_ms: int) -> None:
        self._remains.attempt_begins()
        self.coordinator.begin_attempt(self._graph.attempt, next_id, now_ms)
        self._set_timer(now_ms)

    def end_attempt(self, reason: str, now_ms: int) -> None:
        self._carry_out(self.coordinator.end_attempt(reason), now_ms, attempt_ends=True)
        self._orders.give(*self.savepoints.attempt_ended(reason, now_ms))
        self.on_request.attempt_ended(reason, now_ms)

    def job_ended(self, state: str, now_ms: int) -> None:
        """Nobody goes on with what is still asked for. (The end, too, may have come under a master before.)"""
        taken = self._journal.savepoint
        if taken is not None:
            self.savepoints.taken_over(taken)
        self.savepoints.job_ended(state, now_ms)
        self.on_request.job_ended(state, now_ms)
        self._remains.again()

    def want(self, purpose: Purpose, now_ms: int) -> None:
        self.coordinator.want(purpose, now_ms)
        self.tick(now_ms)

    def tick(self, now_ms: int) -> None:
        self._carry_out(self.coordinator.tick(now_ms, ready=self._ready), now_ms)
        self._set_timer(now_ms)

    @property
    def writes(self) -> bool:
        """A document is being written, perhaps of one that was given up: then it is removed once it is there."""
        return bool(self._writing)

    def status(self) -> CheckpointStatus:
        return self.coordinator.status(self.restored)

    # ---- what slots say

    def injected(self, message: BarrierInjected) -> None:
        self._sources.injected(message.subtask, message.checkpoint_id)

    def acknowledged(self, message: Acknowledge, now_ms: int) -> Checkpoint | None:
        """A checkpoint that is complete by this alone, because nothing of it is persisted."""
        outcome, decisions = self.coordinator.acknowledge(message.checkpoint_id, message.subtask, message.snapshot)
        if outcome in (AckOutcome.PENDING, AckOutcome.COMPLETES):
            self.statistics.acknowledged(message.checkpoint_id, message.subtask, now_ms)
        else:
            self._remains.came_late(message.checkpoint_id)
        if outcome is not AckOutcome.COMPLETES:
            return None
        for decision in decisions:
            if isinstance(decision, Persist) and not decision.checkpoint.persist:
                self.coordinator.collected(decision.checkpoint)
                return decision.checkpoint
        self._carry_out(decisions, now_ms)
        return None

    def declined(self, message: Decline, now_ms: int) -> None:
        self._carry_out(
            self.coordinator.decline(message.checkpoint_id, message.subtask, message.reason, now_ms), now_ms
        )
        self._set_timer(now_ms)

    # ---- what the store says

    def metadata_written(
        self, attempt: Attempt, checkpoint_id: CheckpointId, savepoint_path: str | None, name: str, now_ms: int
    ) -> None:
        """`savepoint_path`: None if it is a checkpoint's."""
        self._writing.discard((attempt, checkpoint_id))
        checkpoint = self.coordinator.find(attempt, checkpoint_id)
        savepoint = None if checkpoint is None else checkpoint.savepoint
        if savepoint is not None and savepoint.stop and self.savepoints.overruled:
            error = CheckpointError("the job is being ended in another way")
            self.metadata_failed(attempt, checkpoint_id, savepoint_path, error, now_ms)
            return
        if checkpoint is None or not self.coordinator.written(checkpoint, name):
            self._delete_document(attempt, checkpoint_id, savepoint_path)
            return
        if savepoint is None:
            record = CheckpointLogged(checkpoint.attempt, checkpoint.id, name)
            self._orders.give(*self._journal.append(record))
        elif savepoint.stop:
            request = self.savepoints.request_of(savepoint.path)
            record_taken = SavepointTaken(checkpoint.attempt, checkpoint.id, savepoint.path, request)
            self._orders.give(*self._journal.append(record_taken))
        else:
            written = SavepointWritten(checkpoint.attempt, checkpoint.id, savepoint.path)
            self._orders.give(*self._journal.append(written))

    def requested(self, event: SavepointRequested | CheckpointRequested, now_ms: int, *, runs: bool) -> None:
        """`runs`: all subtasks run, and nobody wants the job to end."""
        match event:
            case SavepointRequested():
                self._orders.give(*self.savepoints.request(event, now_ms, runs=runs))
            case CheckpointRequested(request):
                if self.on_request.request(request, now_ms, refused=self.coordinator.why_none(runs=runs)):
                    self.coordinator.want_now(now_ms)
        self.tick(now_ms)

    def stop_logged(self, record: StopDecided, now_ms: int) -> None:
        """Of the ways to end a job this one is a checkpoint's business."""
        if record.action == "savepoint":
            self.savepoints.decided(record)
            self.tick(now_ms)

    def savepoint_logged(self, record: SavepointTaken | SavepointWritten, now_ms: int) -> None:
        """If the job stops with it, what it holds is committed, and nothing else is. Else nothing follows from it."""
        checkpoint = self.coordinator.find(record.attempt, record.checkpoint_id)
        if checkpoint is None or checkpoint.savepoint is None:
            raise ProtocolError(f"{record} is logged, but the savepoint was given up")
        if isinstance(record, SavepointTaken):
            self._orders.send(self._live_slots(), CheckpointCompleted, checkpoint.id)
            self._orders.give(*self._commits.add(checkpoint.committables(), now_ms))
        else:
            self._orders.send(self._live_slots(), AbortCheckpoint, checkpoint.id)
        self._written.pop(checkpoint.id, None)
        self._delete(self._files.abort(checkpoint.id))  # it keeps no file of theirs
        self._sources.released(checkpoint.id)
        self.statistics.completed(checkpoint, now_ms)
        self.savepoints.taken(checkpoint.savepoint.path, now_ms)
        self._carry_out(self.coordinator.taken(checkpoint), now_ms)
        self._set_timer(now_ms)

    def metadata_failed(
        self, attempt: Attempt, checkpoint_id: CheckpointId, savepoint_path: str | None, error: Exception, now_ms: int
    ) -> None:
        self._writing.discard((attempt, checkpoint_id))
        self._delete_document(attempt, checkpoint_id, savepoint_path)
        checkpoint = self.coordinator.find(attempt, checkpoint_id)
        if checkpoint is not None:
            self._carry_out(self.coordinator.not_written(checkpoint, error, now_ms), now_ms)
            self._set_timer(now_ms)

    def completion_logged(self, record: CheckpointLogged, now_ms: int) -> Checkpoint:
        """The checkpoint counts: its attempt may have failed meanwhile, but it will be what is restored."""
        checkpoint = self.coordinator.find(record.attempt, record.checkpoint_id)
        if checkpoint is None:
            raise ProtocolError(f"{record} is logged, but the checkpoint was given up")
        metadata = self._written.pop(record.checkpoint_id)
        self._sources.completed(checkpoint.id)
        self._orders.send(self._live_slots(), CheckpointCompleted, checkpoint.id)
        self._orders.give(*self._commits.add(checkpoint.committables(), now_ms))
        self.retained[checkpoint.id] = metadata
        self.statistics.completed(checkpoint, now_ms)
        self.on_request.completed(checkpoint.id, now_ms)
        superfluous = self._files.complete(metadata)
        if superfluous is not None:
            self._orders.give(*self._journal.append(SubsumedUpTo(superfluous)))
        self._carry_out(self.coordinator.logged(checkpoint, now_ms), now_ms)
        self.deletions.again()
        self._set_timer(now_ms)
        return checkpoint

    def subsumption_logged(self, record: SubsumedUpTo) -> None:
        self.retained = {i: metadata for i, metadata in self.retained.items() if i > record.checkpoint_id}
        self.statistics.discarded(record.checkpoint_id)
        self._delete(self._files.subsume(record.checkpoint_id))

    # ---- decisions

    def _carry_out(self, decisions: Iterable[Decision], now_ms: int, *, attempt_ends: bool = False) -> None:
        for decision in decisions:
            match decision:
                case Trigger(checkpoint):
                    self._trigger(checkpoint)
                case Persist(checkpoint):
                    self._persist(checkpoint, now_ms)
                case Abort(checkpoint, reason):
                    self.statistics.failed(checkpoint, reason, now_ms)
                    self.on_request.failed(checkpoint.id, reason, now_ms)
                    self._abort(checkpoint)
                    if checkpoint.savepoint is not None:
                        self._orders.give(*self.savepoints.failed(checkpoint, reason, now_ms))
                        fatal = fails_the_attempt(checkpoint.savepoint, reason)
                        if fatal is not None and not attempt_ends:
                            raise fatal
                case FailAttempt(reason):
                    raise CheckpointError(reason)

    def _trigger(self, checkpoint: Checkpoint) -> None:
        self.statistics.triggered(checkpoint)
        if checkpoint.persist and checkpoint.savepoint is None:
            self.on_request.triggered(checkpoint.id)
        self._files.begin(checkpoint.id)
        checkpoint.enumerators = self._sources.snapshot(checkpoint.id)
        self._orders.send(
            self._sources.slots(), TriggerCheckpoint, checkpoint.id, checkpoint.triggered_at_ms,
            self._options.exactly_once or checkpoint.savepoint is not None, checkpoint.persist,
            self._unaligned_after_ms(checkpoint), checkpoint.savepoint,
        )  # fmt: skip

    def _unaligned_after_ms(self, checkpoint: Checkpoint) -> int | None:
        """With the last checkpoint of a job nothing is to remain under way."""
        periodic = checkpoint.purpose is Purpose.PERIODIC and checkpoint.persist
        return self._options.unaligned_after_ms if periodic else None

    def _persist(self, checkpoint: Checkpoint, now_ms: int) -> None:
        gone = self._files.claim(checkpoint.id, checkpoint.snapshots.values())
        if gone:
            error = CheckpointError(f"it refers to {gone[0]}, which was deleted with the checkpoint that it came from")
            self._carry_out(self.coordinator.not_written(checkpoint, error, now_ms), now_ms)
            return
        metadata = self._metadata(checkpoint, now_ms)
        self._written[checkpoint.id] = metadata
        self._writing.add((checkpoint.attempt, checkpoint.id))
        path = None if checkpoint.savepoint is None else checkpoint.savepoint.path
        tag = ("metadata", checkpoint.attempt, checkpoint.id, path)
        if path is None:
            self._orders.give(RunProgram(tag, self._store.write_metadata(metadata)))
        else:
            self._orders.give(RunProgram(tag, write_savepoint(path, metadata, self._new_name())))

    def _metadata(self, checkpoint: Checkpoint, now_ms: int) -> CheckpointMetadata:
        vertices = self._graph.job_graph.vertices
        return CheckpointMetadata(
            job_id=self._job_id,
            job_name=self._graph.job_graph.job_name,
            attempt=checkpoint.attempt,
            checkpoint_id=checkpoint.id,
            triggered_at_ms=checkpoint.triggered_at_ms,
            completed_at_ms=now_ms,
            parallelism={vertex.id: vertex.parallelism for vertex in vertices},
            max_parallelism={vertex.id: vertex.max_parallelism for vertex in vertices},
            subtasks=tuple(checkpoint.snapshots[subtask] for subtask in self._graph.subtasks),
            enumerators=checkpoint.enumerators,
            pending_commits=self._commits.pending(),
        )

    def _abort(self, checkpoint: Checkpoint) -> None:
        if checkpoint.savepoint is not None:
            self._remains.given_up(checkpoint.savepoint.path, checkpoint.id)
        self._written.pop(checkpoint.id, None)
        self._orders.send(self._live_slots(), AbortCheckpoint, checkpoint.id)
        self._sources.released(checkpoint.id)
        self._delete(self._files.abort(checkpoint.id))

    # ---- inside

    def _live_slots(self) -> list[SlotId]:
        """Whose subtasks run: those that are being stopped need not know."""
        running = [s for s in self._graph.subtasks if self._graph.state(s) in ANSWERS_BARRIERS]
        return list(dict.fromkeys(self._graph.slot_of(subtask) for subtask in running))

    def _delete(self, names: tuple[str, ...]) -> None:
        if names:
            self.deletions.begin(partial(self._store.delete, names))

    def _delete_document(self, attempt: Attempt, checkpoint_id: CheckpointId, savepoint_path: str | None) -> None:
        """It was given up before it was known to be written, so it counts for nobody; it may be there all the same."""
        if savepoint_path is not None:
            self._remains.remove(savepoint_path)
        else:
            self._delete((metadata_name(self._job_id, attempt, checkpoint_id),))

    @property
    def _ready(self) -> bool:
        return self._graph.all_in(ANSWERS_BARRIERS)

    def _set_timer(self, now_ms: int) -> None:
        at_ms = self.coordinator.next_tick_ms(ready=self._ready)
        if at_ms is None or (self._timer_ms is not None and now_ms < self._timer_ms <= at_ms):
            return  # nothing to wait for, or a timer that fires early enough is set
        self._timer_ms = at_ms
        self._orders.give(SetTimer(at_ms, ("checkpoint", at_ms)))

    def timer_fired(self, at_ms: Any, now_ms: int) -> None:
        if at_ms == self._timer_ms:
            self._timer_ms = None
        self.tick(now_ms)
