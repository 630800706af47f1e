"""The job's log: one sequence of create-only objects that decides everything about a job (PROTOCOLS 1-5).

    <job>/log/00000000000000000001    LeaderElected(1)          by writer A
    <job>/log/00000000000000000002    AttemptStarted(1)         by A
    <job>/log/00000000000000000003    CheckpointCompleted(...)  by A
    <job>/log/00000000000000000004    LeaderElected(2)          by writer B: from here on A is deposed
    ...

A writer appends at the last sequence number it has read + 1. Whoever is first there has it; the other one reads what
stands there, and learns so that it is deposed. Taking over a job and completing a checkpoint are writes at the same
name, so an old master can never complete a checkpoint after a new one has read which to restore.

Who won is never read off the store's answer alone. A put that times out may have been done; one that answers
"already exists" may have met itself. Each append is therefore sealed with a nonce (documents.py), and read back when
in doubt (objects.py, create_once): mine = won, another's = lost, absent = try again. When the budget of tries is
spent the outcome is *unknown*: the append raises ObjectStoreUnavailable, and the entry may still appear, even later.
So until an entry of anybody stands at that place, nothing that the entry names may be deleted. Appending anything
resolves it: either the new entry is first, or the old one is found there, as an entry of the same writer.

`LogState` folds entries into what holds now, and refuses a sequence that cannot be: a generation or attempt that is
not the next one, an entry of a writer that does not lead, a completion of another attempt, anything after Finished.
An illegal entry is never written (append folds first), and one that is read raises ProtocolError with the history.

The log is found by asking for the next number until there is none; no listing, which stores may answer from the past.
Where to begin with that, and which old entries may be deleted: log_positions.py. One program of a `JobLog` runs at a
time: it remembers what it has read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Literal

import msgspec

from ..errors import DamagedCheckpointError, DeposedError, ObjectNotFound, ProtocolError
from ..ids import Attempt, CheckpointId, Generation, JobId
from .documents import seal, unseal
from .log_positions import is_milestone, newest, newest_after, next_milestone, read_hint
from .objects import Get, Program, create_once, with_retries

LOG_VERSION = 1
HISTORY = 20
"""Entries shown when the log turns out to be illegal: enough to see the takeover that went wrong."""


class LeaderElected(msgspec.Struct, frozen=True, tag=True):
    """The writer of this entry leads from here on."""

    generation: Generation


class AttemptStarted(msgspec.Struct, frozen=True, tag=True):
    attempt: Attempt


class CheckpointCompleted(msgspec.Struct, frozen=True, tag=True):
    """This entry, not the metadata object, completes a checkpoint."""

    attempt: Attempt
    checkpoint_id: CheckpointId
    metadata_name: str


class SubsumedUpTo(msgspec.Struct, frozen=True, tag=True):
    """Nobody restores this checkpoint or an earlier one any more; its objects may be deleted."""

    checkpoint_id: CheckpointId


class StopDecided(msgspec.Struct, frozen=True, tag=True):
    """cancel: the job is to end; a new leader goes on ending it, and starts no attempt.
    stop: it is to be suspended, and so does a new leader; who submits the job again continues it by a later attempt.
    savepoint: it is to finish with a savepoint; a new leader runs it, and then takes the savepoint."""

    action: Literal["cancel", "stop", "savepoint"]
    generation: int = 0
    """Of a stop: that of the leader. Submitted again after it, the job goes on."""
    request: str = ""
    """Of a savepoint: who asked for it."""
    path: str = ""
    drain: bool = False


class StopWithdrawn(msgspec.Struct, frozen=True, tag=True):
    """The savepoint with which the job was to stop has failed: the job goes on."""

    request: str


class SavepointTaken(msgspec.Struct, frozen=True, tag=True):
    """The savepoint with which the job stops is in the store: nothing is run any more, what it holds is committed."""

    attempt: Attempt
    checkpoint_id: CheckpointId
    path: str
    request: str


class SavepointWritten(msgspec.Struct, frozen=True, tag=True):
    """A savepoint after which the job goes on is in the store. Until a later checkpoint is completed it alone holds
    what sinks have prepared since the last one."""

    attempt: Attempt
    checkpoint_id: CheckpointId
    path: str


class Finished(msgspec.Struct, frozen=True, tag=True):
    """The last entry. `retained`: the completed checkpoints are kept, a new job may start from them."""

    state: Literal["FINISHED", "CANCELED", "FAILED"]
    retained: bool = False


LogRecord = (
    LeaderElected | AttemptStarted | CheckpointCompleted | SubsumedUpTo | StopDecided | StopWithdrawn | SavepointTaken
    | SavepointWritten | Finished
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class LogSummary:
    """What holds at a place in a log that goes on."""

    generation: Generation
    leader: str | None
    attempt: Attempt
    attempt_generation: Generation
    completed: tuple[CheckpointCompleted, ...]
    subsumed: CheckpointId
    stopping: StopDecided | None
    savepoint: SavepointTaken | None = None
    written: CheckpointId = CheckpointId(0)  # noqa: RUF009 - an int


@dataclass(frozen=True, slots=True)
class LogEntry:
    seq: int
    writer: str
    """The JobLog that wrote it."""
    record: LogRecord
    before: LogSummary | None = None
    """What held before it: whoever reads it need not read what stands before. None: of an older version."""


@dataclass(frozen=True, slots=True)
class Appended:
    entry: LogEntry


@dataclass(frozen=True, slots=True)
class Conflict:
    """Nothing was written: these entries stand there, already folded into the log's state. The last may be ours:
    an earlier append whose outcome was unknown."""

    entries: tuple[LogEntry, ...]


@dataclass(frozen=True, slots=True)
class LogState:
    """What the log says up to `seq`."""

    seq: int = 0
    generation: Generation = Generation(0)  # noqa: RUF009 - an int
    leader: str | None = None
    """The writer that leads."""
    attempt: Attempt = Attempt(0)  # noqa: RUF009
    attempt_generation: Generation = Generation(0)  # noqa: RUF009
    """The generation that started it: only that one completes its checkpoints."""
    completed: tuple[CheckpointCompleted, ...] = ()
    """Completed and not subsumed, oldest first. The last one is the one to restore."""
    subsumed: CheckpointId = CheckpointId(0)  # noqa: RUF009
    stopping: StopDecided | None = None
    savepoint: SavepointTaken | None = None
    """The one that the job stopped with."""
    written: CheckpointId = CheckpointId(0)  # noqa: RUF009
    """The newest savepoint that the job went on after."""
    finished: Finished | None = None
    history: tuple[LogEntry, ...] = field(default=(), compare=False)
    """The last entries that were read, for error messages."""

    @classmethod
    def at(cls, entry: LogEntry) -> LogState | None:
        """After this entry, by what it says itself; None: it does not."""
        if entry.before is None:
            return None
        before = {each.name: getattr(entry.before, each.name) for each in fields(LogSummary)}
        return cls(seq=entry.seq - 1, **before).apply(entry)

    @property
    def summary(self) -> LogSummary:
        return LogSummary(
            self.generation, self.leader, self.attempt, self.attempt_generation, self.completed, self.subsumed,
            self.stopping, self.savepoint, self.written,
        )  # fmt: skip

    @property
    def last_completed(self) -> CheckpointCompleted | None:
        return self.completed[-1] if self.completed else None

    @property
    def savepoint_is_newest(self) -> bool:
        """The job went on after a savepoint, and no later checkpoint is completed: what the savepoint alone holds of
        sinks' output must stay for whoever starts from it."""
        return self.written > (self.completed[-1].checkpoint_id if self.completed else 0)

    def apply(self, entry: LogEntry) -> LogState:
        """The state after the entry. ProtocolError with the history if it cannot stand here."""
        reason = self._why_illegal(entry)
        if reason is not None:
            lines = "\n".join(f"  {e.seq} {e.record} by {e.writer}" for e in (*self.history, entry))
            raise ProtocolError(f"The job's log is illegal at entry {entry.seq}: {reason}. The last entries:\n{lines}")
        state = replace(self, seq=entry.seq, history=(*self.history[-HISTORY + 1 :], entry))
        match entry.record:
            case LeaderElected(generation=generation):
                return replace(state, generation=generation, leader=entry.writer)
            case AttemptStarted(attempt=attempt):
                outlives = self.stopping is not None and self.stopping.action == "savepoint"
                stopping = self.stopping if outlives else None
                return replace(state, attempt=attempt, attempt_generation=self.generation, stopping=stopping)
            case CheckpointCompleted() as completed:
                return replace(state, completed=(*self.completed, completed))
            case SubsumedUpTo(checkpoint_id=subsumed):
                kept = tuple(c for c in self.completed if c.checkpoint_id > subsumed)
                return replace(state, subsumed=subsumed, completed=kept)
            case StopDecided() as stopping:
                return replace(state, stopping=stopping)
            case StopWithdrawn():
                return replace(state, stopping=None)
            case SavepointTaken() as savepoint:
                return replace(state, savepoint=savepoint, stopping=None)
            case SavepointWritten(checkpoint_id=written):
                return replace(state, written=max(self.written, written))
            case Finished() as finished:
                return replace(state, finished=finished)

    def _why_illegal(self, entry: LogEntry) -> str | None:
        record = entry.record
        if entry.seq != self.seq + 1:
            return f"entry {self.seq + 1} is expected"
        if self.finished is not None:
            return "the job has ended"
        if isinstance(record, LeaderElected):
            return None if record.generation == self.generation + 1 else f"generation {self.generation} is the last"
        if entry.writer != self.leader:
            return f"{self.leader} leads"
        match record:
            case AttemptStarted() | CheckpointCompleted() | StopWithdrawn() | SavepointWritten() if self.savepoint:
                return f"the job has stopped with {self.savepoint}"
            case StopWithdrawn() if self.stopping is None or self.stopping.action != "savepoint":
                return f"{self.stopping} is decided"
            case SavepointTaken():
                return self._why_not_taken(record)
            case AttemptStarted(attempt=attempt) if attempt != self.attempt + 1:
                return f"the last attempt is {self.attempt}"
            case AttemptStarted() if self.stopping is not None and self.stopping.action == "cancel":
                return "the job is being cancelled"
            case CheckpointCompleted() | SavepointWritten():
                return self._why_not_completed(record)
            case SubsumedUpTo(checkpoint_id=subsumed):
                last = self.last_completed
                if subsumed <= self.subsumed or last is None or subsumed >= last.checkpoint_id:
                    return f"{self.subsumed} is subsumed already and {last} is the last one to restore"
        return None

    def _why_not_taken(self, record: SavepointTaken) -> str | None:
        if (record.attempt, self.generation) != (self.attempt, self.attempt_generation):
            return f"attempt {self.attempt} of generation {self.attempt_generation} runs, {self.generation} leads"
        wanted = self.stopping is not None and self.stopping.action == "savepoint"
        return None if wanted and self.savepoint is None else f"{self.stopping} is decided"

    def _why_not_completed(self, record: CheckpointCompleted | SavepointWritten) -> str | None:
        if (record.attempt, self.generation) != (self.attempt, self.attempt_generation):
            return f"attempt {self.attempt} of generation {self.attempt_generation} runs, {self.generation} leads"
        newest = max(self.subsumed, *(c.checkpoint_id for c in self.completed), 0)
        late = isinstance(record, CheckpointCompleted) and record.checkpoint_id <= newest
        return f"checkpoint {newest} is completed" if late else None


class JobLog:
    """One writer's view of a job's log. `new_name` gives names that nobody else uses."""

    def __init__(self, job_id: JobId, new_name: Callable[[], str]) -> None:
        self.job_id = job_id
        self.writer = new_name()
        self.state = LogState()
        """Of everything read or written so far."""
        self.trimmed = 0
        """How far entries are known to be deleted, by the hint."""
        self._new_name = new_name

    @property
    def leads(self) -> bool:
        """As far as this log has been read, its writer is the leader."""
        return self.state.leader == self.writer

    def read_newest(self) -> Program[bool]:
        """What `read` does, but it begins near the end if nothing was read before. Whether there was anything new."""
        before = self.state.seq
        if not before:
            hint = yield from read_hint(self.job_id)
            self.trimmed = hint.trimmed if hint is not None else 0
            if hint is not None and hint.seq > 0 and (yield from self._stands(hint.seq)):
                yield from self._begin_at((yield from newest_after(self._stands, hint.seq)))
            elif (yield from self._stands(1)):
                yield from self._begin_at((yield from newest(self._stands)))
        yield from self.read()
        return self.state.seq != before

    def read(self) -> Program[list[LogEntry]]:
        """The entries after those already read or written here, in order; in the end they are folded into `state`, not
        before: one of ours that was written where entries are deleted must not be believed. Where some of them are
        deleted: the newest ones only."""
        entries: list[LogEntry] = []
        state = self.state
        while True:
            seq = state.seq
            entry = yield from self._entry(seq + 1)
            if entry is None:
                if is_milestone(seq + 1) or not (yield from self._stands(next_milestone(seq))):
                    self.state = state
                    return entries
                entry = yield from self._entry(seq + 1)  # it may have come to stand since we asked
            if entry is not None and _fits(state, entry):
                state = state.apply(entry)
                entries.append(entry)
                continue
            entries = yield from self._begin_at((yield from newest(self._stands)))
            state = self.state
            if state.seq <= seq:
                raise DamagedCheckpointError(
                    f"{log_entry_name(self.job_id, seq + 1)} is missing, and later ones stand."
                )

    def _entry(self, seq: int) -> Program[LogEntry | None]:
        name = log_entry_name(self.job_id, seq)
        try:
            data = yield from with_retries(Get(name))
        except ObjectNotFound:
            return None
        return unseal(name, "log entry", LOG_VERSION, data, LogEntry)

    def _stands(self, seq: int) -> Program[bool]:
        return (yield from self._entry(seq)) is not None

    def _begin_at(self, seq: int) -> Program[list[LogEntry]]:
        """Forget what was read. Nothing is begun if the entry is of a version that does not say what held before."""
        entry = yield from self._entry(seq)
        state = LogState.at(entry) if entry is not None else None
        if entry is None or state is None:
            self.state = LogState()
            return []
        self.state = state
        return [entry]

    def append(self, record: LogRecord) -> Program[Appended | Conflict]:
        """Write the next entry, unless somebody (see Conflict) has written it.

        ObjectStoreUnavailable: unknown whether it is written, see above. ProtocolError: it would be illegal here."""
        entry = LogEntry(self.state.seq + 1, self.writer, record, self.state.summary)
        state = self.state.apply(entry)
        data = seal("log entry", LOG_VERSION, self._new_name(), entry)
        standing = yield from create_once(log_entry_name(self.job_id, entry.seq), data)
        if standing == data and (is_milestone(entry.seq) or not (yield from self._stands(next_milestone(entry.seq)))):
            self.state = state
            return Appended(entry)
        return Conflict(tuple((yield from self.read())))

    def append_as_leader(self, record: LogRecord) -> Program[LogEntry]:
        """Append on behalf of the leading master. DeposedError if another one leads by now.

        An equal record of ours that turns out to stand there already (an append of unknown outcome, tried again by
        the caller) counts: nothing is written twice."""
        while True:
            if not self.leads:
                raise DeposedError(f"Job {self.job_id}: generation {self.state.generation} has taken over.")
            answer = yield from self.append(record)
            if isinstance(answer, Appended):
                return answer.entry
            for entry in answer.entries:
                if entry.writer == self.writer and entry.record == record:
                    return entry


def _fits(state: LogState, entry: LogEntry) -> bool:
    """False if what was read last is not what this entry follows: it was written where entries are deleted."""
    if entry.before in (None, state.summary):
        return True
    if is_milestone(state.seq):
        state.apply(entry)  # which says more, if it finds something illegal
        raise ProtocolError(f"Entry {entry.seq} of the job's log says that before it {entry.before} held.")
    return False


def log_entry_name(job_id: JobId, seq: int) -> str:
    return f"{job_id}/log/{seq:020}"
