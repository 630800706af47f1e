"""Savepoints of a job: what people ask for, by request id, and what became of it (Flink's savepoint and stop handlers).

    IN_PROGRESS   asked for. A plain one waits for its turn between checkpoints; one with which the job stops is written
                  into the log first
    COMPLETED     its document is in the store, and the log says so
    FAILED        refused, declined, timed out, or the attempt failed, or the job is being ended: the job goes on

A request id that is known already gets the same answer, and no second savepoint.

A plain savepoint changes nothing in the job: no commits, nothing that later checkpoints may refer to. Slots hear of its
end as of an aborted checkpoint's, because for them nothing follows from it: committables go on being handed out. Its
entry SavepointWritten only keeps what it names in the sinks: should the job fail before its next checkpoint, or be
ended, that output is in no other checkpoint, and must not be removed as that of a dead attempt.

To stop with a savepoint is a decision that outlives the master (PROTOCOLS 11):

    StopDecided("savepoint", ...)   logged before anything is done. A leader that finds it goes on with it as soon as
                                    the job runs again, in a directory of its own, and removes the one before
    SavepointTaken                  logged when the document is in the store. From here on the job can only finish:
                                    the savepoint's committables are committed, and nothing is run any more, by
                                    whichever master
    StopWithdrawn                   logged when it failed: the job goes on, and nobody tries again by himself

Behind the barrier of a stop sources give out nothing until they hear that it was aborted. With drain event time has
ended before the barrier, which nothing can take back: then the attempt fails, and the job restarts from its last
checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from ..runtime.elements import Savepoint
from ..state.errors import CheckpointError
from ..state.ids import JobId
from ..state.savepoints.savepoint_store import savepoint_path
from ..state.store.job_log import SavepointTaken, StopDecided, StopWithdrawn
from .checkpoint_coordinator import Checkpoint, CheckpointCoordinator
from .events import Command, SavepointRequested
from .journal import Journal
from .operations import UNDER_WAY, still_known, too_many
from .savepoint_remains import SavepointRemains
from .views import OperationState, SavepointOperation

NO_TARGET = "nowhere to put it: name a target directory, or set state.savepoints.dir"


class Savepoints:
    """Of one job, over all its attempts. `new_name`: hex that nobody else uses."""

    def __init__(
        self,
        job_id: JobId,
        directory: str | None,
        coordinator: CheckpointCoordinator,
        journal: Journal,
        remains: SavepointRemains,
        new_name: Callable[[], str],
    ) -> None:
        self._job_id = job_id
        self._directory = directory
        self._coordinator = coordinator
        self._journal = journal
        self._remains = remains
        self._new_name = new_name
        self._operations: dict[str, SavepointOperation] = {}
        self.overruled = False
        """The job is to end in another way, by a cancel or a stop that is to be remembered, and the log says so: a stop
        with a savepoint need not be taken back, and must not be completed."""

    def operations(self) -> tuple[SavepointOperation, ...]:
        """As asked, in order."""
        return tuple(self._operations.values())

    # ---- what is asked

    def request(self, event: SavepointRequested, now_ms: int, *, runs: bool) -> list[Command]:
        """`runs`: all subtasks run, and nobody wants the job to end."""
        self._operations = still_known(self._operations, now_ms)
        if event.request in self._operations:
            return []
        full = too_many(self._operations)
        target = event.target or self._directory
        operation = SavepointOperation(event.request, "", event.stop, event.drain, OperationState.IN_PROGRESS, now_ms)
        self._operations[event.request] = operation
        if target is None:
            self._fail(operation, NO_TARGET, now_ms)
        elif full:
            self._fail(operation, f"{UNDER_WAY} savepoints of the job are waiting already", now_ms)
        elif not runs:
            self._fail(operation, "the job is not running: not all of its subtasks are, or it is being ended", now_ms)
        elif event.stop and any(each.stop and not each.ended for each in self._others(operation)):
            self._fail(operation, "the job is being stopped with another savepoint", now_ms)
        else:
            path = savepoint_path(target, self._job_id, self._new_name())
            self._operations[event.request] = replace(operation, path=path)
            if event.stop:
                return self._journal.append(StopDecided("savepoint", 0, event.request, path, event.drain))
            self._coordinator.want_savepoint(Savepoint(path))
        return []

    def decided(self, record: StopDecided) -> None:
        """The stop is in the log: now, or by a master before. That one may have written the document, or may be about
        to: then this one needs a directory of its own. (It is not in the log, and cannot come there any more.)"""
        path = record.path
        if self._of(path) is None:
            self._remains.given_up(path, None)
            path = savepoint_path(path.rpartition("/")[0], self._job_id, self._new_name())
            operation = SavepointOperation(record.request, path, True, record.drain, OperationState.IN_PROGRESS)
            self._operations[record.request] = operation
        self._coordinator.want_savepoint(Savepoint(path, stop=True, drain=record.drain))

    def request_of(self, path: str) -> str:
        operation = self._of(path)
        return operation.request if operation is not None else ""

    # ---- what becomes of it

    def taken(self, path: str, now_ms: int) -> None:
        operation = self._of(path)
        if operation is not None:
            self._operations[operation.request] = replace(operation, state=OperationState.COMPLETED, ended_ms=now_ms)

    def taken_over(self, record: SavepointTaken) -> None:
        """By a master before, who did not live to finish the job, or to say so."""
        operation = SavepointOperation(record.request, record.path, True, False, OperationState.COMPLETED)
        self._operations.setdefault(record.request, operation)

    def failed(self, checkpoint: Checkpoint, reason: str, now_ms: int) -> list[Command]:
        """It was given up. CheckpointError: and the attempt cannot go on."""
        savepoint = checkpoint.savepoint
        assert savepoint is not None
        return self._given_up(savepoint, reason, now_ms)

    def attempt_ended(self, reason: str, now_ms: int) -> list[Command]:
        """What was still waiting for its turn. (What was under way was aborted.)"""
        commands = []
        for savepoint in self._coordinator.drop_savepoints():
            commands += self._given_up(savepoint, reason, now_ms)
        return commands

    def job_ended(self, state: str, now_ms: int) -> None:
        """Nobody goes on with what is still asked for."""
        for operation in self.operations():
            if not operation.ended:
                self._fail(operation, f"the job has ended before: {state}", now_ms)

    def _given_up(self, savepoint: Savepoint, reason: str, now_ms: int) -> list[Command]:
        operation = self._of(savepoint.path)
        if operation is not None:
            self._fail(operation, reason, now_ms)
        if not savepoint.stop or self.overruled:
            return []
        return self._journal.append(StopWithdrawn(self.request_of(savepoint.path)))

    def _fail(self, operation: SavepointOperation, reason: str, now_ms: int) -> None:
        self._operations[operation.request] = replace(
            operation, state=OperationState.FAILED, failure=reason, ended_ms=now_ms
        )

    def _of(self, path: str) -> SavepointOperation | None:
        return next((each for each in self._operations.values() if each.path == path), None)

    def _others(self, operation: SavepointOperation) -> Iterable[SavepointOperation]:
        return (each for each in self._operations.values() if each.request != operation.request)


def fails_the_attempt(savepoint: Savepoint, reason: str) -> CheckpointError | None:
    """Event time has ended, perhaps, and nothing can take that back."""
    if not savepoint.drain:
        return None
    return CheckpointError(f"the savepoint with which the job was to be drained failed, so it goes back: {reason}")
