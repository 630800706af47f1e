"""Checkpoints that people ask for, besides those of the interval, by request id (Flink's checkpoint trigger).

    IN_PROGRESS   asked for; the next checkpoint that is triggered, at the latest when the one under way has ended and
                  the pause after it is over, serves all who wait
    COMPLETED     that checkpoint is in the log
    FAILED        refused, declined, timed out, or the attempt failed: the job goes on with its interval

It is an ordinary checkpoint in every respect: it can be restored, subsumes older ones, counts when it fails. A request
id that is known already gets the same answer, and no second checkpoint. Requests do not outlive the master.
"""

from __future__ import annotations

from dataclasses import replace

from ..state.ids import CheckpointId
from .operations import UNDER_WAY, still_known, too_many
from .views import NEVER, CheckpointOperation, OperationState


class RequestedCheckpoints:
    """Of one job, over all its attempts."""

    def __init__(self) -> None:
        self._operations: dict[str, CheckpointOperation] = {}

    def operations(self) -> tuple[CheckpointOperation, ...]:
        """As asked, in order."""
        return tuple(self._operations.values())

    def request(self, request: str, now_ms: int, *, refused: str | None) -> bool:
        """Whether a checkpoint is to be triggered for it. `refused`: why there will be none."""
        self._operations = still_known(self._operations, now_ms)
        if request in self._operations:
            return False
        if refused is None and too_many(self._operations):
            refused = f"{UNDER_WAY} requests wait for a checkpoint already"
        operation = CheckpointOperation(request, OperationState.IN_PROGRESS, now_ms)
        self._operations[request] = operation
        if refused is not None:
            self._fail(operation, refused, now_ms)
        return refused is None

    def triggered(self, checkpoint_id: CheckpointId) -> None:
        for operation in self._under_way(NEVER):
            self._operations[operation.request] = replace(operation, checkpoint_id=checkpoint_id)

    def completed(self, checkpoint_id: CheckpointId, now_ms: int) -> None:
        for operation in self._under_way(checkpoint_id):
            done = replace(operation, state=OperationState.COMPLETED, ended_ms=now_ms)
            self._operations[operation.request] = done

    def failed(self, checkpoint_id: CheckpointId, reason: str, now_ms: int) -> None:
        for operation in self._under_way(checkpoint_id):
            self._fail(operation, reason, now_ms)

    def attempt_ended(self, reason: str, now_ms: int) -> None:
        """For those who wait there is no checkpoint. (What was under way was aborted, or is on its way to the log.)"""
        for operation in self._under_way(NEVER):
            self._fail(operation, reason, now_ms)

    def job_ended(self, state: str, now_ms: int) -> None:
        for operation in self.operations():
            if not operation.ended:
                self._fail(operation, f"the job has ended before: {state}", now_ms)

    def _under_way(self, checkpoint_id: int) -> list[CheckpointOperation]:
        return [each for each in self.operations() if not each.ended and each.checkpoint_id == checkpoint_id]

    def _fail(self, operation: CheckpointOperation, reason: str, now_ms: int) -> None:
        failed = replace(operation, state=OperationState.FAILED, failure=reason, ended_ms=now_ms)
        self._operations[operation.request] = failed
