"""Operator state as user functions see it: CheckpointedFunction, and what calls it.

A function class, a sink's writer or a source's reader that is a CheckpointedFunction as well is called

    initialize_state   before open(), once per subtask and attempt: it gets its states, restored or empty
    snapshot_state     at every barrier, on the slot's thread, before anything of the operator is frozen

What is in the states when snapshot_state returns is in the checkpoint (state/operator_state.py says what a state
is, and how it is handed out again). Every operator has one `OperatorState` in its context; the chain, and nobody
else, takes its snapshots (Operator.take_snapshot), so that operators need not know of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..state.errors import StateError, UserCodeError
from ..state.ids import CheckpointId
from ..state.operator_state import OperatorStateBackend, OperatorStateStore, RestoredElements
from ..state.snapshots import OperatorSnapshot
from ..state.store.objects import Program

if TYPE_CHECKING:
    from ..state.store.checkpoint_store import Uploads
    from .functions import RuntimeContext


class FunctionInitializationContext:
    """What initialize_state is given."""

    def __init__(self, store: OperatorStateStore, keyed: RuntimeContext | None, restored: bool) -> None:
        self._store, self._keyed, self._restored = store, keyed, restored

    def is_restored(self) -> bool:
        """Whether the operator goes on from a checkpoint; False at the first start, and where it is new."""
        return self._restored

    def get_operator_state_store(self) -> OperatorStateStore:
        return self._store

    def get_keyed_state_store(self) -> RuntimeContext:
        """get_state and the like, as in open(). StateError in connectors, which have no keys."""
        if self._keyed is None:
            raise StateError("sources and sinks have no keyed state")
        return self._keyed


class FunctionSnapshotContext:
    """What snapshot_state is given."""

    def __init__(self, checkpoint_id: CheckpointId) -> None:
        self._checkpoint_id = checkpoint_id

    def get_checkpoint_id(self) -> int:
        return self._checkpoint_id


class CheckpointedFunction(ABC):
    """Add it to any function class to have operator state. (Flink's CheckpointedFunction.)"""

    @abstractmethod
    def snapshot_state(self, context: FunctionSnapshotContext) -> None:
        """Put into the states what the checkpoint is to hold. Short: the subtask waits for it."""

    @abstractmethod
    def initialize_state(self, context: FunctionInitializationContext) -> None:
        """Get the states from `context.get_operator_state_store()`; in a restored job they hold something."""


class OperatorState:
    """Operator state of one operator in one subtask, and who of its users' code keeps something there."""

    def __init__(
        self,
        operator_name: str,
        subtask: int,
        restored: Sequence[RestoredElements],
        uploads: Callable[[CheckpointId], Uploads],
        *,
        is_restored: bool = False,
        generic_types: bool = True,
    ) -> None:
        self._operator, self._subtask = operator_name, subtask
        self.store = OperatorStateBackend(operator_name, subtask, restored, generic_types=generic_types)
        self._uploads = uploads
        self._is_restored = is_restored
        self._checkpointed: list[CheckpointedFunction] = []

    def initialize(self, candidate: object, keyed: RuntimeContext | None = None) -> None:
        """Does nothing with what is no CheckpointedFunction."""
        if isinstance(candidate, CheckpointedFunction):
            candidate.initialize_state(FunctionInitializationContext(self.store, keyed, self._is_restored))
            self._checkpointed.append(candidate)

    @property
    def changes_in_place(self) -> bool:
        """What functions hand on may be objects of operator state, which go on changing."""
        return self.store.changes_in_place

    def prepare(self, checkpoint_id: CheckpointId) -> None:
        """The barrier is here: functions fill their states."""
        for function in self._checkpointed:
            try:
                function.snapshot_state(FunctionSnapshotContext(checkpoint_id))
            except Exception as error:
                raise UserCodeError(
                    f"operator '{self._operator}', subtask {self._subtask}: {type(error).__name__}: {error} "
                    f"(in snapshot_state(), for checkpoint {checkpoint_id})",
                    operator=self._operator,
                    subtask=self._subtask,
                ) from error

    def is_empty(self) -> bool:
        return not self._checkpointed and self.store.is_empty()

    def added_to(self, program: Program[OperatorSnapshot], checkpoint_id: CheckpointId) -> Program[OperatorSnapshot]:
        """Freezes the states now; the program gives the operator's snapshot with their handles."""
        return _with_lists(program, self.store.snapshot(lambda: self._uploads(checkpoint_id)))


def _with_lists(program: Program[OperatorSnapshot], lists: Program[Any]) -> Program[OperatorSnapshot]:
    snapshot = yield from program
    return replace(snapshot, lists=(yield from lists))
