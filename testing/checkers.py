"""What must hold in every simulated run. Checkers only watch; what they find is a Violation.

- `LogChecker`, `StoreChecker`: the log is one legal sequence, written once, and no master believes another one; every
  object of a logged, not subsumed checkpoint is there, whole; what is left at the end is wanted.
- `CommitChecker`: nothing becomes visible that no logged checkpoint holds.
- `commit_what_is_recorded`: what a cancelled job did not commit stands in the checkpoint that it leaves.
- `PendingChecker`: what is not visible when the job has ended is not kept for it either.
- `ChannelChecker`: watermarks and barriers go forward on every channel, no record follows a watermark that had passed
  it, credit is neither lost nor made.
- `FailureChecker`: tasks and masters fail only of what was done to them.
- `check_output` (output_oracle.py): every record once, every window once, with what the oracle says.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator
from typing import Any

from ..jobmanager import events
from ..jobmanager.views import OperationState
from ..runtime.batch import NO_TIMESTAMP, Batch
from ..runtime.elements import MIN_WATERMARK, Barrier, EndOfInput, Watermark
from ..state.errors import (
    ConnectionLostError,
    DamagedCheckpointError,
    DeposedError,
    ObjectNotFound,
    ObjectStoreUnavailable,
    ProtocolError,
)
from ..state.ids import CheckpointId, SlotId
from ..state.savepoints.savepoint_store import read_savepoint
from ..state.snapshots import CheckpointMetadata
from ..state.store.checkpoint_store import CheckpointStore, attempt_of
from ..state.store.job_log import CheckpointCompleted, JobLog, LogEntry, LogState, SavepointTaken
from ..state.store.objects import Delete, Get, Put, PutFile, StoreOp, run_program
from ..taskmanager import messages
from ..taskmanager.exchange.gate import InputGate
from ..taskmanager.exchange.transport import Frame
from ..taskmanager.task import Task
from ..taskmanager.task_state import TaskState
from .lists import InjectedFailure
from .log_troubles import may_be_deleted
from .simulated_cluster import SimulatedCluster, SimulatedMaster
from .simulated_links import ChannelKey
from .simulated_store import SimulatedStore
from .simulated_warehouse import CommitFailed, Warehouse


class Violation(BaseException):
    """Something that must hold does not. No Exception, so that the engine under test does not handle it."""


class _Contents:
    """The store as it stands, for reading programs."""

    def __init__(self, objects: dict[str, bytes]) -> None:
        self._objects = objects

    def execute(self, op: StoreOp) -> Any:
        assert isinstance(op, Get)
        if op.name not in self._objects:
            raise ObjectNotFound(op.name)
        return self._objects[op.name]


class LogChecker:
    """Reads every entry as soon as it stands."""

    def __init__(self, store: SimulatedStore, cluster: SimulatedCluster) -> None:
        self.metadata: dict[CheckpointId, CheckpointMetadata] = {}
        """Of every completion ever logged."""
        self.entries: dict[int, LogEntry] = {}
        self.deleted: set[str] = set()
        """Names of entries that are gone because they are old."""
        self._contents = _Contents(store.objects)
        self._log = JobLog(cluster.job_id, lambda: "checker")
        self._cluster = cluster
        store.observers.append(self._written)

    @property
    def state(self) -> LogState:
        return self._log.state

    def _written(self, op: StoreOp, effective: bool) -> None:
        touched = op.names if isinstance(op, Delete) else (op.name,) if isinstance(op, Put | PutFile) else ()
        touched = tuple(name for name in touched if name.startswith(f"{self._cluster.job_id}/log/"))
        if not effective or not touched:
            return
        if isinstance(op, Delete):
            if not all(may_be_deleted(name, self.state.seq) for name in touched):
                raise Violation(f"an entry that may be needed is deleted by {op}")
            self.deleted.update(touched)
            return
        if not isinstance(op, Put) or not op.create_only:
            raise Violation(f"the log is changed by {op}")
        try:
            entries = run_program(self._log.read(), self._contents)
        except ProtocolError as error:
            raise Violation(f"the log: {error}") from error
        for entry in entries:
            self._cluster.time.note(f"  log {entry.seq}: {entry.record} by {entry.writer}")
            self.entries[entry.seq] = entry
            if isinstance(entry.record, CheckpointCompleted):
                program = CheckpointStore.read_metadata(entry.record.metadata_name)
                self.metadata[entry.record.checkpoint_id] = run_program(program, self._contents)
            elif isinstance(entry.record, SavepointTaken):
                savepoint = run_program(read_savepoint(entry.record.path), self._contents)
                self.metadata[entry.record.checkpoint_id] = savepoint

    def check_beliefs(self) -> None:
        """What every master has read or written stands in the log."""
        for master in self._cluster.masters:
            for entry in master.master.log.state.history:
                stands = self.entries.get(entry.seq)
                if stands != entry:
                    raise Violation(f"{master.process.name} believes {entry}, but there is {stands}")


class StoreChecker:
    """Every object that a restore may need is there, from the moment at which it may need it."""

    def __init__(self, store: SimulatedStore, log: LogChecker, cluster: SimulatedCluster) -> None:
        self._store = store
        self._log = log
        self._checked: CheckpointId | None = None
        self._before_end: set[str] | None = None
        """Objects of state that were there when the end of the job was logged."""
        self._clear_failed = False
        self._cluster = cluster
        store.observers.append(self._changed)
        cluster.error_observers.append(self._failed)

    def _needed(self) -> dict[str, int]:
        """Names and sizes of objects of all checkpoints that are logged and not subsumed; of packs, how far they are
        needed."""
        needed: dict[str, int] = {}
        for completed in self._log.state.completed:
            metadata = self._log.metadata[completed.checkpoint_id]
            needed[completed.metadata_name] = len(self._store.objects.get(completed.metadata_name, b""))
            for file in (file for subtask in metadata.subtasks for file in subtask.files()):
                needed[file.name] = max(needed.get(file.name, 0), (file.offset or 0) + file.size_bytes)
        return needed

    def _changed(self, op: StoreOp, effective: bool) -> None:
        if self._log.state.finished is not None:
            if self._before_end is None:
                own = (name for name in self._store.objects if name.startswith(f"{self._cluster.job_id}/"))
                self._before_end = {name for name in own if attempt_of(name) is not None}
            if isinstance(op, Delete) and effective:  # a put that comes late may bring it back, and nobody looks again
                self._before_end -= set(op.names)
            return
        last = self._log.state.last_completed
        fresh = last is not None and last.checkpoint_id != self._checked
        if last is None or not (fresh or isinstance(op, Delete | PutFile)):
            return
        self._checked = last.checkpoint_id
        for name, size in self._needed().items():
            data = self._store.objects.get(name)
            if data is None or len(data) < size or not size:
                found = "is missing" if data is None else f"has {len(data)} bytes instead of {size}"
                raise Violation(f"{name} {found}, and checkpoint {last.checkpoint_id} is the last; at {op}")

    def _failed(self, where: str, error: Exception) -> None:
        self._clear_failed |= where.endswith(" clear")

    def check_leftovers(self) -> None:
        """After the end what is retained is there, whole, and nothing else but what had not been written yet; a dead
        master clears nothing."""
        wrote_last = self._log.entries[self._log.state.seq].writer
        finished, cleared = self._log.state.finished, wrote_last in self._ended_writers()
        retained = self._needed() if finished is not None and finished.retained else {}
        for name, size in retained.items():
            if len(self._store.objects.get(name, b"")) < size or not size:
                raise Violation(f"{name} is gone after the end of the job, which retains a checkpoint that needs it")
        left = sorted(((self._before_end or set()) & self._store.objects.keys()) - retained.keys())
        if cleared and left and not self._clear_failed:
            raise Violation(f"{len(left)} objects are left after the end of the job, for example {left[0]}")

    def _ended_writers(self) -> set[str]:
        """Log writers of the masters that have come to the end of all they had to do."""
        done = (events.JobState.FINISHED, events.JobState.CANCELED)
        return {m.master.log.writer for m in self._cluster.masters if m.ended is not None and m.ended.state in done}


def check_savepoints(cluster: SimulatedCluster, store: SimulatedStore) -> int:
    """Whoever asked for a savepoint has an answer, and what is said to be one is whole. Answers how many there are."""
    taken = 0
    for master in cluster.masters:
        told = master.ended is not None and master.ended.state is not events.JobState.DEPOSED
        for operation in master.master.savepoints():
            if told and not operation.ended:
                raise Violation(f"{master.process.name} has ended, and {operation} has not")
            if operation.state is not OperationState.COMPLETED:
                continue
            taken += 1
            read_whole_savepoint(operation.path, store)
    return taken


def read_whole_savepoint(path: str, store: SimulatedStore) -> CheckpointMetadata:
    """Its document, which was said to be there, and so must be all of its files."""
    metadata = run_program(read_savepoint(path), _Contents(store.objects))
    for file in (file for subtask in metadata.subtasks for file in subtask.files()):
        if len(store.objects.get(file.name, b"")) != file.size_bytes:
            raise Violation(f"{path}: {file.name} is missing or cut short")
    return metadata


class CommitChecker:
    """Told of every transaction that is asked to become visible."""

    def __init__(self, log: LogChecker, held: Iterable[str] = ()) -> None:
        """`held`: by the savepoint that the job began with."""
        self._log = log
        self._allowed = set(held)
        self._known: set[CheckpointId] = set()

    def asked(self, name: str) -> None:
        for checkpoint_id, metadata in self._log.metadata.items():
            if checkpoint_id not in self._known:
                self._known.add(checkpoint_id)
                self._allowed.update(committables_of(metadata))
        if name not in self._allowed:
            raise Violation(f"transaction {name} is committed, and no logged checkpoint holds it")


def commit_what_is_recorded(log: LogChecker, warehouse: Warehouse) -> int:
    """As whoever continues a cancelled job does: its last checkpoint tells all that was not committed. Answers how many
    transactions that were."""
    finished, last = log.state.finished, log.state.last_completed
    assert finished is not None
    recorded = list(committables_of(log.metadata[last.checkpoint_id])) if last is not None else []
    left = [name for name in recorded if name not in warehouse.shown]
    if left and not finished.retained:
        raise Violation(f"the job was cancelled with output that is not committed, and nothing is retained: {finished}")
    warehouse.failing = 0.0
    warehouse.commit(recorded)
    return len(left)


class PendingChecker:
    """Transactions that dead subtasks left are aborted when the job has ended, if not before."""

    def __init__(self, warehouse: Warehouse, store: SimulatedStore, log: LogChecker, cluster: SimulatedCluster) -> None:
        self._warehouse = warehouse
        self._log = log
        self._cluster = cluster
        self._before_end: frozenset[str] | None = None
        """Pending when the end of the job was logged; what somebody prepares later is his who does not obey."""
        store.observers.append(self._changed)

    def _changed(self, op: StoreOp, effective: bool) -> None:
        if self._log.state.finished is not None and self._before_end is None:
            own = self._cluster.job_id
            self._before_end = frozenset(name for name, t in self._warehouse.pending.items() if t.job_id == own)

    def check(self) -> None:
        """For a job that one master led from its beginning to its end. (One that dies at its end cleans up nothing.)"""
        left = sorted((self._before_end or frozenset()) & self._warehouse.pending.keys())
        if left and len(self._cluster.masters) == 1:
            raise Violation(f"{len(left)} transactions are pending after the end of the job, for example {left[0]}")


def committables_of(metadata: CheckpointMetadata) -> Iterator[str]:
    for subtask in metadata.subtasks:
        for operator in subtask.operators:
            yield from (committable.decode() for committable in operator.committables)
    for pending in metadata.pending_commits.values():
        yield from (committable.decode() for committable in pending)


class ChannelChecker:
    """Watches every frame, and counts credit."""

    def __init__(self, cluster: SimulatedCluster, late_records: bool) -> None:
        self._cluster = cluster
        self._late_records = late_records
        self._watermarks: dict[ChannelKey, int] = {}
        self._barriers: dict[ChannelKey, int] = {}
        self._ended: set[ChannelKey] = set()
        cluster.network.observers.append(self._sent)

    def _sent(self, source: SlotId, target: SlotId, frame: Frame) -> None:
        key = (frame.attempt, frame.channel)
        watermark = self._watermarks.get(key, MIN_WATERMARK)
        match frame.element:
            case Watermark(timestamp):
                if timestamp <= watermark:
                    raise Violation(f"{key}: watermark {timestamp} after {watermark}")
                self._watermarks[key] = timestamp
            case Batch() as batch:
                if key in self._ended:
                    raise Violation(f"{key}: records after the end of input")
                times = batch.timestamps()
                passed = times[(times <= watermark) & (times != NO_TIMESTAMP)]
                if len(passed) and not self._late_records:
                    raise Violation(f"{key}: a record of {passed[0]} after watermark {watermark}")
            case Barrier(checkpoint_id):
                if checkpoint_id <= self._barriers.get(key, 0):
                    raise Violation(f"{key}: barrier {checkpoint_id} after {self._barriers[key]}")
                self._barriers[key] = checkpoint_id
            case EndOfInput():
                self._ended.add(key)

    def check_credit(self) -> None:
        """outstanding = on its way + queued + consumed and not granted + granted and on its way back."""
        network = self._cluster.network
        slots = self._cluster.slots
        receivers: dict[ChannelKey, tuple[SlotId, Task]] = {}
        for slot in slots:
            for task in slot.slot.tasks:
                if isinstance(task.input, InputGate) and task.state is not TaskState.CLOSED:
                    receivers.update({(task.attempt, c.id): (slot.slot.id, task) for c in task.input.channels})
        for slot in slots:
            for task in slot.slot.tasks:
                for output in task.writers.channels:
                    key = (task.attempt, output.id)
                    target, receiver = receivers.get(key, (None, None))
                    if receiver is None or target is None or not network.intact(slot.slot.id, target, task.attempt):
                        continue
                    assert isinstance(receiver.input, InputGate)
                    channel = next(c for c in receiver.input.channels if c.id == output.id)
                    found = (
                        network.frames_under_way[key] + channel.queued_bytes + channel.window.consumed
                        + network.grants_under_way[key]
                    )  # fmt: skip
                    if found != output.window.outstanding:
                        raise Violation(f"{key}: {output.window.outstanding} bytes outstanding, {found} accounted for")


Causes = tuple[type[Exception], ...]
EXPECTED: Causes = (InjectedFailure, ConnectionLostError, ObjectStoreUnavailable, CommitFailed, DeposedError)


class FailureChecker:
    """A failure that nobody caused is a bug."""

    def __init__(self, cluster: SimulatedCluster, of_models: Causes = ()) -> None:
        """`of_models`: what a pool of them may fail of."""
        self._cluster = cluster
        self._causes = (*EXPECTED, *of_models)
        cluster.message_observers.append(self._message)
        cluster.error_observers.append(self._error)
        cluster.end_observers.append(self._end)

    def _message(self, slot: SlotId, message: messages.FromSlot) -> None:
        if isinstance(message, messages.Failed):
            cause = pickle.loads(message.pickled_cause) if message.pickled_cause is not None else None
            if not _expected(cause, self._causes) and not self._outlived(message, cause):
                raise Violation(f"{message.subtask} in {slot} failed: {message.message}\n{message.traceback}")
        elif isinstance(message, messages.Decline) and not any(e.__name__ in message.reason for e in EXPECTED):
            raise Violation(f"{message.subtask} in {slot} declined {message.checkpoint_id}: {message.reason}")

    def _outlived(self, message: messages.Failed, cause: BaseException | None) -> bool:
        """A master that was deposed and has not noticed restores what its successor's checkpoints have replaced and
        deleted (PROTOCOLS 4: deletes cannot be fenced). It can write nothing, and finds out when it tries."""
        newest = max(master.master.log.state.attempt for master in self._cluster.masters)
        return isinstance(cause, DamagedCheckpointError) and message.attempt < newest

    def _error(self, where: str, error: Exception) -> None:
        if not _expected(error):
            raise Violation(f"{where}: {type(error).__name__}: {error}") from error

    def _end(self, master: SimulatedMaster, end: events.EndJob) -> None:
        silent = isinstance(end.failure, DeposedError | ObjectStoreUnavailable)
        stopped = end.state is events.JobState.SUSPENDED and (master.stop_requested or self._cluster.stop_remembered)
        left_alone = events.JobState.SUSPENDED  # by one that does not lead
        cancelled = end.state in (events.JobState.CANCELED, left_alone) and self._cluster.cancelled
        if end.state is not events.JobState.FINISHED and not silent and not stopped and not cancelled:
            raise Violation(f"{master.process.name} ended the job as {end.state.value}: {end.failure}")


def _expected(error: BaseException | None, causes: Causes = EXPECTED) -> bool:
    while error is not None:
        if isinstance(error, causes):
            return True
        error = error.__cause__
    return False
