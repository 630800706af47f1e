"""Operations that take a while: what is answered when they are asked for, and when their end is asked for.

One that failed is COMPLETED, with `failure-cause`, as Flink says it.
"""

from __future__ import annotations

from typing import Literal, NotRequired

from typing_extensions import TypedDict

from ...state.errors import CheckpointError
from ..views import CheckpointOperation, DisposalOperation, OperationState, SavepointOperation
from .wire_failures import FailureCause, failure_cause


class QueueStatus(TypedDict):
    id: Literal["IN_PROGRESS", "COMPLETED"]


Triggered = TypedDict("Triggered", {"request-id": str})
Savepoint = TypedDict("Savepoint", {"location": NotRequired[str], "failure-cause": NotRequired[FailureCause]})
TriggeredCheckpoint = TypedDict(
    "TriggeredCheckpoint", {"checkpointId": NotRequired[int], "failure-cause": NotRequired[FailureCause]}
)
Disposal = TypedDict("Disposal", {"failure-cause": NotRequired[FailureCause]})


class SavepointStatus(TypedDict):
    status: QueueStatus
    operation: Savepoint | None


class CheckpointStatus(TypedDict):
    status: QueueStatus
    operation: TriggeredCheckpoint | None


class DisposalStatus(TypedDict):
    status: QueueStatus
    operation: Disposal | None


_FAILED = f"{CheckpointError.__module__}.{CheckpointError.__qualname__}"


def savepoint_status(operation: SavepointOperation) -> SavepointStatus:
    match operation.state:
        case OperationState.IN_PROGRESS:
            return {"status": {"id": "IN_PROGRESS"}, "operation": None}
        case OperationState.COMPLETED:
            return {"status": {"id": "COMPLETED"}, "operation": {"location": operation.path}}
        case OperationState.FAILED:
            return {"status": {"id": "COMPLETED"}, "operation": {"failure-cause": _cause(operation.failure)}}


def checkpoint_status(operation: CheckpointOperation) -> CheckpointStatus:
    match operation.state:
        case OperationState.IN_PROGRESS:
            return {"status": {"id": "IN_PROGRESS"}, "operation": None}
        case OperationState.COMPLETED:
            return {"status": {"id": "COMPLETED"}, "operation": {"checkpointId": operation.checkpoint_id}}
        case OperationState.FAILED:
            return {"status": {"id": "COMPLETED"}, "operation": {"failure-cause": _cause(operation.failure)}}


def disposal_status(operation: DisposalOperation) -> DisposalStatus:
    match operation.state:
        case OperationState.IN_PROGRESS:
            return {"status": {"id": "IN_PROGRESS"}, "operation": None}
        case OperationState.COMPLETED:
            return {"status": {"id": "COMPLETED"}, "operation": {}}
        case OperationState.FAILED:
            return {"status": {"id": "COMPLETED"}, "operation": {"failure-cause": _cause(operation.failure)}}


def _cause(failure: str | None) -> FailureCause:
    return failure_cause(_FAILED, failure or "it failed; the job manager's log says why")
