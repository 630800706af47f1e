"""Setting up an attempt: from the entry in the log to deployed subtasks. The order is what keeps data safe.

    LOGGING      AttemptStarted(n) goes into the log. Whatever completion was on its way there stands before it now,
                 so what is restored is the last completion for good (PROTOCOLS 1, 6)
    READING      the metadata of that checkpoint; the plan of who takes over what (restore.py)
    COMMITTING   its committables, and all that are still waiting, are made visible ...
    CLEANING     ... then, if all subtasks restart, pending output of dead attempts is removed (later, if the job went
                 on after a savepoint newer than that checkpoint, which may hold some of it) ...
    SLOTS        ... and only then writers may start (PROTOCOLS 16), once all slots are there
    DEPLOYED     Deploy is sent to all that restart

Slots are asked for at the beginning, because they take longest. `advance` looks whether the step is over; the job
master calls it after every event. Errors are raised, and fail the attempt.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from functools import partial

from ..state.errors import DamagedCheckpointError, IncompatibleStateError, PenstockError
from ..state.ids import Attempt, CheckpointId, JobId
from ..state.savepoints.savepoint_store import is_savepoint, read_savepoint
from ..state.snapshots import CheckpointMetadata
from ..state.store.checkpoint_store import CheckpointStore, metadata_name
from ..state.store.job_log import AttemptStarted, JobLog
from ..state.store.objects import Program
from .events import RunBlocking, RunProgram, SendToSlot, SetTimer
from .execution_graph import SubtaskState
from .options import RestoreRequest
from .parts import Parts
from .restore import RestorePlan, commits_nothing, held_committables, keeping_committables, plan_restore


class Step(enum.Enum):
    LOGGING = enum.auto()
    READING = enum.auto()
    COMMITTING = enum.auto()
    CLEANING = enum.auto()
    SLOTS = enum.auto()
    DEPLOYED = enum.auto()


class AttemptSetup:
    """One at a time; knows over attempts whether this master has taken over what the log retains."""

    def __init__(self, parts: Parts, restore: RestoreRequest | None) -> None:
        self._parts = parts
        self._restore = restore
        self._commits_only = False
        """Nothing is to run any more."""
        self._took_over = False
        """The log's retained checkpoints, and the commits of the last one, are known to this master."""
        self._plan = RestorePlan()
        self._reusable: CheckpointId | None = None
        self._cleanups = 0
        self.step = Step.DEPLOYED

    @property
    def commits_known(self) -> bool:
        """What the last logged checkpoint promises has been handed to the committers."""
        return self._took_over

    def begin(self, now_ms: int) -> None:
        parts = self._parts
        self.step = Step.LOGGING
        attempt = Attempt(parts.log.state.attempt + 1)
        parts.orders.give(*parts.journal.append(AttemptStarted(attempt)))
        parts.orders.give(*parts.pool.ensure(parts.graph.slots_needed))
        parts.orders.give(SetTimer(now_ms + parts.options.slot_timeout_ms, ("slots", attempt)))

    def attempt_logged(self, record: AttemptStarted) -> None:
        parts = self._parts
        parts.graph.begin_attempt(record.attempt, parts.failover.ordered())
        self.step = Step.READING
        program = _read([c.metadata_name for c in parts.log.state.completed[-1 if self._took_over else 0 :]])
        if parts.log.state.last_completed is None and self._restore is not None:
            program = _read([self._restore.metadata_name])
        parts.orders.give(RunProgram(("restore", record.attempt), program))

    def read_only(self) -> None:
        """No attempt is to begin, but what the last checkpoint, or the savepoint that the job stopped with, promises
        must be committed."""
        self.step, self._commits_only = Step.READING, True
        state = self._parts.log.state
        savepoint = [state.savepoint.path] if state.savepoint is not None else []
        program = _read([*(c.metadata_name for c in state.completed), *savepoint])
        self._parts.orders.give(RunProgram(("restore", self._parts.graph.attempt), program))

    def read(self, found: Sequence[CheckpointMetadata], now_ms: int) -> None:
        """The last one is to be restored; none: the job starts afresh."""
        parts = self._parts
        ids = {completed.checkpoint_id for completed in parts.log.state.completed}
        own = [metadata for metadata in found if metadata.job_id == parts.job_id and metadata.checkpoint_id in ids]
        self._plan = RestorePlan()
        if found:
            self._plan = plan_restore(
                found[-1], parts.graph.job_graph, allow_non_restored_state=parts.options.allow_non_restored_state
            )
            parts.checkpointing.statistics.restored(found[-1].checkpoint_id, self._name_of(found[-1]), now_ms)
        parts.checkpointing.restored = self._plan.checkpoint_id
        if not self._took_over:
            if not self._commits_only:
                self._refuse_sinks_that_do_not_commit()
            parts.checkpointing.take_over(own)
            parts.orders.give(*parts.commits.add(self._plan.committables, now_ms))
            self._took_over = True
        self._reusable = found[-1].checkpoint_id if found[-1:] == own[-1:] and own else None
        if parts.graph.attempt > 1:
            retained = list(parts.checkpointing.retained.values())
            parts.checkpointing.deletions.begin(partial(parts.store.sweep, parts.graph.attempt, retained))
        self.step = Step.COMMITTING

    def _refuse_sinks_that_do_not_commit(self) -> None:
        """The check before the start does, too, but cannot load everything. IncompatibleStateError."""
        parts = self._parts
        operators = [operator for vertex in parts.graph.job_graph.vertices for operator in vertex.operators]
        names = {operator.id: operator.name for operator in operators}
        for operator_id, pending in self._plan.committables.items():
            sink = parts.sinks.get(operator_id)
            if pending and sink is not None and not parts.commits.takes(operator_id):
                raise IncompatibleStateError(commits_nothing(names[operator_id], sink, len(pending)))

    def _name_of(self, metadata: CheckpointMetadata) -> str:
        """Of what is restored."""
        restore = self._restore
        if restore is not None and metadata.job_id != self._parts.job_id and is_savepoint(restore.metadata_name):
            return restore.metadata_name
        return metadata_name(JobId(metadata.job_id), metadata.attempt, metadata.checkpoint_id)

    def cleaned(self) -> None:
        self._cleanups -= 1

    def advance(self) -> None:
        parts = self._parts
        if self.step is Step.COMMITTING and parts.commits.idle:
            self.step = Step.CLEANING
            if not parts.failover.full or parts.log.state.savepoint_is_newest:
                parts.failover.left_pending = True
            elif parts.graph.attempt > 1 or self._plan.checkpoint_id is not None:
                parts.failover.left_pending = False
                self._clean()
        if self.step is Step.CLEANING and not self._cleanups:
            self.step = Step.SLOTS
        if self.step is Step.SLOTS and parts.pool.has(parts.graph.slots_needed):
            self.step = Step.DEPLOYED
            self._deploy()

    def slots_timed_out(self, attempt: Attempt) -> None:
        parts = self._parts
        there, needed = parts.pool.slots, parts.graph.slots_needed
        if attempt == parts.log.state.attempt and self.step is not Step.DEPLOYED and not parts.pool.has(needed):
            raise PenstockError(
                f"{len(there)} of {len(needed)} slots were there after {parts.options.slot_timeout_ms // 1_000} s"
                + (f": {parts.pool.denial}" if parts.pool.denial else "")
            )

    @property
    def next_checkpoint_id(self) -> CheckpointId:
        """Above every id in the log, and above the one that was restored."""
        state = self._parts.log.state
        known = [state.subsumed, state.written, self._plan.checkpoint_id or 0]
        known += [completed.checkpoint_id for completed in state.completed]
        return CheckpointId(max(known) + 1)

    def _clean(self) -> None:
        parts = self._parts
        self._cleanups = len(parts.sinks)
        for operator_id, sink in parts.sinks.items():
            call = partial(sink.cleanup, parts.job_id, parts.graph.attempt)
            parts.orders.give(RunBlocking(("cleanup", parts.graph.attempt, operator_id), call))

    def _deploy(self) -> None:
        parts, graph = self._parts, self._parts.graph
        scope = parts.failover.ordered()
        graph.assign(parts.pool.slots, scope)
        if parts.failover.full:
            parts.sources.begin_attempt(self._plan)
            parts.alignments.begin_attempt()
        for subtask in scope:
            deploy = graph.deployment(
                subtask,
                generation=parts.orders.generation,
                job_id=parts.job_id,
                restore=tuple(self._plan.subtasks.get(subtask, ())),
                in_flight=self._plan.in_flight.get(subtask, ()),
                in_flight_ends=bool(self._plan.in_flight),
                reusable_checkpoint=self._reusable,
                peers=parts.pool.addresses,
            )
            graph.move(subtask, SubtaskState.DEPLOYING)
            parts.orders.give(SendToSlot(graph.slot_of(subtask), deploy))


def _read(names: Sequence[str]) -> Program[list[CheckpointMetadata]]:
    """All of them; the last one must be readable, damaged older ones are left out."""
    found = []
    for name in names:
        try:
            read = _read_savepoint(name) if is_savepoint(name) else CheckpointStore.read_metadata(name)
            found.append((yield from read))
        except DamagedCheckpointError:
            if name == names[-1]:
                raise
    return found


def _read_savepoint(path: str) -> Program[CheckpointMetadata]:
    """Without what its job has committed itself, as far as that job's log is here and says so (PROTOCOLS 11): all of it
    if it finished, else what the job's last checkpoint, if that is later, does not hold any more."""
    metadata = yield from read_savepoint(path)
    log = JobLog(JobId(metadata.job_id), lambda: "reader")
    yield from log.read_newest()
    finished, last = log.state.finished, log.state.last_completed
    if finished is not None and finished.state == "FINISHED":
        return keeping_committables(metadata, frozenset())
    if last is None or last.checkpoint_id <= metadata.checkpoint_id:
        return metadata
    try:
        newest = yield from CheckpointStore.read_metadata(last.metadata_name)
    except DamagedCheckpointError:  # deleted with its job, perhaps: committing again is harmless for most sinks
        return metadata
    return keeping_committables(metadata, held_committables(newest))
