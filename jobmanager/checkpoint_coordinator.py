"""The checkpoint coordinator: when a checkpoint is triggered, when it is complete, when it is given up.

Life of a checkpoint, and what moves it:

    TRIGGERED      tick: it is due and all subtasks answer barriers. Barriers are on their way
    ACKNOWLEDGED   the last subtask's acknowledgement. Its metadata is to be written
    WRITTEN        the metadata is in the store. Its completion is to be logged
    COMPLETED      the completion is in the log: only now it counts (PROTOCOLS 1)
    ABORTED        declined, timed out, its attempt failed, or subsumed by a younger one

A checkpoint in WRITTEN cannot be aborted any more: the entry may be in the log already, and only the log says so.
Whoever chooses what to restore waits for that (`undecided`). One checkpoint at a time is between ACKNOWLEDGED and
COMPLETED, so that the metadata of the next one can say which commits are still pending from this one. Completing a
checkpoint aborts all older ones: their output is in the younger one's committables, because a writer hands a
committable out until it was told that a checkpoint with it is complete.

An acknowledgement is answered in four ways: it COMPLETES, or is one of those still PENDING, or a DUPLICATE, or
belongs to an UNKNOWN (aborted, subsumed, foreign) checkpoint: then its uploads are garbage.

Failed checkpoints in a row are counted; above the tolerated number the attempt fails.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from ..runtime.elements import Savepoint
from ..state.errors import ProtocolError
from ..state.ids import Attempt, CheckpointId, OperatorId
from ..state.snapshots import SubtaskSnapshot
from ..taskmanager.messages import SubtaskId
from .events import CheckpointStatus
from .options import CheckpointOptions


class CheckpointState(enum.Enum):
    """One checkpoint of one attempt, and what was collected for it."""

    TRIGGERED = "TRIGGERED"
    ACKNOWLEDGED = "ACKNOWLEDGED"
    WRITTEN = "WRITTEN"
    COMPLETED = "COMPLETED"
    ABORTED = "ABORTED"


C = CheckpointState

TRANSITIONS: dict[CheckpointState, frozenset[CheckpointState]] = {
    C.TRIGGERED: frozenset({C.ACKNOWLEDGED, C.ABORTED}),
    C.ACKNOWLEDGED: frozenset({C.WRITTEN, C.ABORTED}),
    C.WRITTEN: frozenset({C.COMPLETED}),
    C.COMPLETED: frozenset(),
    C.ABORTED: frozenset(),
}


class AckOutcome(enum.Enum):
    COMPLETES = "completes"
    PENDING = "pending"
    DUPLICATE = "duplicate"
    UNKNOWN = "unknown"


class Purpose(enum.Enum):
    PERIODIC = "periodic"
    FINAL = "final"
    """All subtasks are drained: the job ends with it."""
    STOP = "stop"
    """The job is suspended after it."""
    SAVEPOINT = "savepoint"
    """Somebody asked for it; perhaps the job ends with it (savepoints.py)."""


@dataclass(slots=True)
class Checkpoint:
    """A checkpoint under way."""

    id: CheckpointId
    attempt: Attempt
    purpose: Purpose
    triggered_at_ms: int
    persist: bool
    waiting_for: set[SubtaskId]
    savepoint: Savepoint | None = None
    state: CheckpointState = C.TRIGGERED
    history: list[str] = field(default_factory=list)
    snapshots: dict[SubtaskId, SubtaskSnapshot] = field(default_factory=dict)
    enumerators: dict[str, bytes] = field(default_factory=dict)
    metadata_name: str | None = None

    def committables(self) -> dict[OperatorId, tuple[bytes, ...]]:
        found: dict[OperatorId, tuple[bytes, ...]] = {}
        for subtask in sorted(self.snapshots, key=lambda s: (s.vertex, s.index)):
            for operator in self.snapshots[subtask].operators:
                if operator.committables:
                    found[operator.operator_id] = found.get(operator.operator_id, ()) + operator.committables
        return found


@dataclass(frozen=True, slots=True)
class Trigger:
    checkpoint: Checkpoint


@dataclass(frozen=True, slots=True)
class Persist:
    """All acknowledgements are in: write the metadata, then log the completion (not for `persist=False`)."""

    checkpoint: Checkpoint


@dataclass(frozen=True, slots=True)
class Abort:
    checkpoint: Checkpoint
    reason: str


@dataclass(frozen=True, slots=True)
class FailAttempt:
    reason: str


Decision = Trigger | Persist | Abort | FailAttempt

FIRST_RETRY_MS = 1_000
"""Before a final or last checkpoint that failed is tried again."""


class CheckpointCoordinator:
    """Of one job, over all its attempts. Methods answer decisions; times are those of the job master."""

    def __init__(self, options: CheckpointOptions | None, subtasks: Iterable[SubtaskId]) -> None:
        self._enabled = options is not None
        self.options = options or CheckpointOptions()
        self._subtasks = frozenset(subtasks)
        self._active: dict[CheckpointId, Checkpoint] = {}
        """In TRIGGERED, ACKNOWLEDGED or WRITTEN, oldest first."""
        self._queue: list[Checkpoint] = []
        """In ACKNOWLEDGED or WRITTEN; the first one is being persisted."""
        self._attempt = Attempt(0)
        self._next_id = CheckpointId(1)
        self._due_ms = 0
        self._savepoints: deque[Savepoint] = deque()
        """Asked for, and not triggered yet."""
        self._wanted: Purpose | None = None
        self._quiet = True
        """No triggers: no attempt runs, or the checkpoint that was wanted is complete."""
        self._failures_in_a_row = 0
        self.triggered = self.completed = self.failed = 0
        self.last_completed: Checkpoint | None = None
        self.last_duration_ms = 0
        self.last_failure: str | None = None

    # ---- attempts

    def begin_attempt(self, attempt: Attempt, next_id: CheckpointId, now_ms: int) -> None:
        """All subtasks run. Ids go on above every id in the log."""
        if self._active:
            raise ProtocolError(f"attempt {attempt} begins while checkpoints {list(self._active)} are undecided")
        self._attempt, self._next_id = attempt, CheckpointId(max(next_id, self._next_id))
        self._due_ms = now_ms + self.options.interval_ms
        self._wanted, self._quiet = None, False
        self._failures_in_a_row = 0

    def end_attempt(self, reason: str) -> list[Decision]:
        """It failed or is being stopped: abort what can be aborted."""
        self._quiet = True
        return [self._abort(c, reason) for c in list(self._active.values()) if c.state is not C.WRITTEN]

    @property
    def undecided(self) -> bool:
        """A completion is on its way into the log."""
        return any(checkpoint.state is C.WRITTEN for checkpoint in self._active.values())

    def find(self, attempt: Attempt, checkpoint_id: CheckpointId) -> Checkpoint | None:
        """One that is neither completed nor aborted."""
        checkpoint = self._active.get(checkpoint_id)
        return checkpoint if checkpoint is not None and checkpoint.attempt == attempt else None

    # ---- triggers

    def want(self, purpose: Purpose, now_ms: int) -> None:
        """A checkpoint of that purpose as soon as none is active; no periodic ones any more."""
        if self._wanted is not purpose:
            self._wanted, self._due_ms = purpose, now_ms

    def want_now(self, now_ms: int) -> None:
        """A periodic one as soon as it is its turn, as if the interval were over."""
        self._due_ms = min(self._due_ms, now_ms)

    def why_none(self, *, runs: bool) -> str | None:
        """Why a checkpoint that somebody asks for cannot be. `runs`: all subtasks run, and the job is not to end."""
        if not self._enabled:
            return "the job takes no checkpoints: execution.checkpointing.interval is 0"
        if not runs or self._stops:
            return "the job is not running: not all of its subtasks are, or it is being ended"
        return None

    def want_savepoint(self, savepoint: Savepoint) -> None:
        """As soon as it is its turn: no pause is kept for it. While it is under way no checkpoint begins."""
        self._savepoints.append(savepoint)

    def drop_savepoints(self) -> list[Savepoint]:
        """Those that were not triggered."""
        dropped = list(self._savepoints)
        self._savepoints.clear()
        return dropped

    def tick(self, now_ms: int, *, ready: bool) -> list[Decision]:
        """`ready`: all subtasks are running or drained."""
        decisions: list[Decision] = []
        for checkpoint in list(self._active.values()):
            expired = now_ms >= checkpoint.triggered_at_ms + self.options.timeout_ms
            if checkpoint.state is C.TRIGGERED and expired:
                missing = sorted(map(str, checkpoint.waiting_for))
                decisions += self._fail(checkpoint, f"timed out, not acknowledged by {', '.join(missing[:5])}", now_ms)
        if ready and self._savepoints and self._may_take_savepoint():
            decisions.append(self._trigger(Purpose.SAVEPOINT, now_ms, self._savepoints.popleft()))
        if ready and self._may_trigger() and now_ms >= self._due_ms:
            decisions.append(self._trigger(self._wanted or Purpose.PERIODIC, now_ms))
        return decisions

    def next_tick_ms(self, *, ready: bool) -> int | None:
        """When `tick` has something to do next by time alone; None: not before something else happens. Subtasks that
        are not ready never will be in this attempt, which is failing or being stopped."""
        times = [c.triggered_at_ms + self.options.timeout_ms for c in self._active.values() if c.state is C.TRIGGERED]
        if ready and self._savepoints and self._may_take_savepoint():
            times.append(0)
        if ready and self._may_trigger():
            times.append(self._due_ms)
        return min(times, default=None)

    def _may_trigger(self) -> bool:
        """Whether only time is missing, and subtasks that are ready. Not while a savepoint is under way: were one that
        was triggered after it complete before it, the savepoint would take over its pending commits, of records that
        it does not hold."""
        if self._quiet or any(checkpoint.savepoint is not None for checkpoint in self._active.values()):
            return False
        if self._wanted is not None:
            return not self._active
        return self._enabled and len(self._active) < self.options.max_concurrent

    def _may_take_savepoint(self) -> bool:
        return not (self._quiet or self._stops or self._wanted) and len(self._active) < self.options.max_concurrent

    @property
    def _stops(self) -> bool:
        """A savepoint is under way with which the job ends: nothing comes after it."""
        return any(c.savepoint is not None and c.savepoint.stop for c in self._active.values())

    def _trigger(self, purpose: Purpose, now_ms: int, savepoint: Savepoint | None = None) -> Decision:
        persist = self._enabled or savepoint is not None
        checkpoint = Checkpoint(self._next_id, self._attempt, purpose, now_ms, persist, set(self._subtasks), savepoint)
        self._active[checkpoint.id] = checkpoint
        self._next_id = CheckpointId(self._next_id + 1)
        if savepoint is None:
            self._due_ms = now_ms + self.options.interval_ms
        self.triggered += 1
        return Trigger(checkpoint)

    # ---- answers of subtasks

    def acknowledge(
        self, checkpoint_id: CheckpointId, subtask: SubtaskId, snapshot: SubtaskSnapshot
    ) -> tuple[AckOutcome, list[Decision]]:
        checkpoint = self._active.get(checkpoint_id)
        if checkpoint is None:
            return AckOutcome.UNKNOWN, []
        if subtask in checkpoint.snapshots:
            return AckOutcome.DUPLICATE, []
        checkpoint.waiting_for.discard(subtask)
        checkpoint.snapshots[subtask] = snapshot
        if checkpoint.waiting_for:
            return AckOutcome.PENDING, []
        self._move(checkpoint, C.ACKNOWLEDGED)
        self._queue.append(checkpoint)
        return AckOutcome.COMPLETES, self._persist_first() if len(self._queue) == 1 else []

    def decline(self, checkpoint_id: CheckpointId, subtask: SubtaskId, reason: str, now_ms: int) -> list[Decision]:
        checkpoint = self._active.get(checkpoint_id)
        if checkpoint is None or checkpoint.state is not C.TRIGGERED:
            return []
        return self._fail(checkpoint, f"declined by {subtask}: {reason}", now_ms)

    # ---- persisting

    def written(self, checkpoint: Checkpoint, metadata_name: str) -> bool:
        """The metadata is in the store. False if the checkpoint was aborted meanwhile."""
        if checkpoint.state is not C.ACKNOWLEDGED:
            return False
        checkpoint.metadata_name = metadata_name
        self._move(checkpoint, C.WRITTEN)
        return True

    def not_written(self, checkpoint: Checkpoint, error: Exception, now_ms: int) -> list[Decision]:
        if checkpoint.state is not C.ACKNOWLEDGED:
            return []
        return self._fail(checkpoint, f"its metadata could not be written: {error}", now_ms)

    def collected(self, checkpoint: Checkpoint) -> None:
        """One without state (`persist=False`) is complete with its last acknowledgement."""
        self._forget(checkpoint)
        self._quiet = True

    def taken(self, checkpoint: Checkpoint) -> list[Decision]:
        """A savepoint counts; nothing follows from it for other checkpoints, but after one with which the job stops
        there are none: older ones that are still under way are given up."""
        self._move(checkpoint, C.COMPLETED)
        stops = checkpoint.savepoint is not None and checkpoint.savepoint.stop
        self._quiet = self._quiet or stops
        self._forget(checkpoint)
        older = list(self._active.values()) if stops else []
        return [self._abort(c, "the job has stopped with a savepoint") for c in older] + self._persist_first()

    def logged(self, checkpoint: Checkpoint, now_ms: int) -> list[Decision]:
        """The completion is in the log."""
        self._move(checkpoint, C.COMPLETED)
        self._forget(checkpoint)
        self.completed += 1
        self._failures_in_a_row = 0
        self.last_completed, self.last_duration_ms = checkpoint, now_ms - checkpoint.triggered_at_ms
        self._quiet = self._quiet or self._wanted is checkpoint.purpose
        self._due_ms = max(self._due_ms, now_ms + self.options.min_pause_ms)
        older = [c for c in self._active.values() if c.id < checkpoint.id and c.savepoint is None]
        return [self._abort(c, f"subsumed by checkpoint {checkpoint.id}") for c in older] + self._persist_first()

    def status(self, restored: CheckpointId | None) -> CheckpointStatus:
        last = self.last_completed
        return CheckpointStatus(
            triggered=self.triggered,
            completed=self.completed,
            failed=self.failed,
            in_progress=len(self._active),
            last_completed=last.id if last else restored,
            last_metadata_name=last.metadata_name if last else None,
            last_duration_ms=self.last_duration_ms,
            last_uploaded_bytes=sum(s.uploaded_bytes for s in last.snapshots.values()) if last else 0,
            last_failure=self.last_failure,
            restored=restored,
        )

    # ---- inside

    def _persist_first(self) -> list[Decision]:
        return [Persist(self._queue[0])] if self._queue else []

    def _fail(self, checkpoint: Checkpoint, reason: str, now_ms: int) -> list[Decision]:
        self.failed += 1
        self._failures_in_a_row += checkpoint.savepoint is None
        self.last_failure = f"checkpoint {checkpoint.id} {reason}"
        pause_ms = FIRST_RETRY_MS if self._wanted is not None else self.options.min_pause_ms
        if checkpoint.savepoint is None:
            self._due_ms = max(self._due_ms if self._wanted is None else 0, now_ms + pause_ms)
        was_first = bool(self._queue) and self._queue[0] is checkpoint
        decisions: list[Decision] = [self._abort(checkpoint, reason)]
        if was_first:
            decisions += self._persist_first()
        tolerated = self.options.tolerable_failures
        if checkpoint.savepoint is None and tolerated is not None and self._failures_in_a_row > tolerated:
            decisions.append(FailAttempt(f"{self._failures_in_a_row} checkpoints failed in a row: {self.last_failure}"))
        return decisions

    def _abort(self, checkpoint: Checkpoint, reason: str) -> Abort:
        self._move(checkpoint, C.ABORTED, reason)
        self._forget(checkpoint)
        return Abort(checkpoint, reason)

    def _forget(self, checkpoint: Checkpoint) -> None:
        self._active.pop(checkpoint.id, None)
        if checkpoint in self._queue:
            self._queue.remove(checkpoint)

    def _move(self, checkpoint: Checkpoint, state: CheckpointState, why: str = "") -> None:
        if state not in TRANSITIONS[checkpoint.state]:
            raise ProtocolError(
                f"checkpoint {checkpoint.id} of attempt {checkpoint.attempt} cannot become {state.value}: "
                f"{checkpoint.state.value} after {', '.join(checkpoint.history) or 'nothing'}"
            )
        checkpoint.history.append(checkpoint.state.value)
        checkpoint.state = state
        if why:
            checkpoint.history.append(why)
