"""What state an operator declares: it says so only when it is opened, so it is opened, over state that is empty.

For checks before a restore (state/compatibility.py): nothing of the checkpoint is needed. The `open` and `close` of
users' functions run, so whoever asks must be in a process that may run users' code, and has the code.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ...state.backend_factory import create_keyed_backend
from ...state.compatibility import DeclaredOperator, DeclaredState
from ...state.errors import StateError
from ...state.ids import Attempt, CheckpointId, OperatorId, new_nonce
from ...state.key_groups import KeyGroupRange
from ...state.key_signatures import annotated_signature
from ...state.keyed_backend import RowBackend
from ..batch import Batch
from ..clock import Clock
from ..elements import Watermark, WatermarkStatus
from ..metrics import MetricGroup
from ..operator_state import OperatorState
from .keyed import KeyedOperator
from .operator import Operator, OperatorContext, RestoredState

if TYPE_CHECKING:
    from ...state.checkpoint_store import Uploads


class _Nowhere:
    """An output that drops everything: nothing is processed here."""

    def emit(self, batch: Batch) -> None: ...

    def emit_side(self, tag: str, batch: Batch) -> None: ...

    def emit_watermark(self, watermark: Watermark) -> None: ...

    def emit_status(self, status: WatermarkStatus) -> None: ...


def declared_state(operator: Operator, operator_id: OperatorId, name: str, clock: Clock) -> DeclaredOperator:
    """The row state and operator state of an operator that was never opened; it is closed afterwards and of no
    further use. Raises what users' `open` raises; StateError for declarations that no state can have."""
    with tempfile.TemporaryDirectory(prefix="penstock-declared-") as directory:
        return _opened(operator, operator_id, name, clock, Path(directory))


def _opened(operator: Operator, operator_id: OperatorId, name: str, clock: Clock, directory: Path) -> DeclaredOperator:
    backends: list[RowBackend] = []

    def keyed_backend() -> RowBackend:
        groups = KeyGroupRange(0, 0)
        backend = create_keyed_backend(
            "heap", operator_name=name, key_groups=groups, max_parallelism=1, directory=directory, uploads=_uploads,
            now_ms=clock.now_ms,
        )  # fmt: skip
        assert isinstance(backend, RowBackend)
        backends.append(backend)
        return backend

    context = _context(operator_id, name, clock, directory, keyed_backend)
    try:
        operator.open(context, RestoredState())
        states = [DeclaredState.of(descriptor) for backend in backends for descriptor in backend.descriptors]
        lists = [replace(DeclaredState.of(each), kind=mode) for mode, each in context.operator_state.store.descriptors]
    finally:
        operator.close()
    keys = annotated_signature(operator.selector.key_type.kind) if isinstance(operator, KeyedOperator) else None
    return DeclaredOperator(name, tuple(states), keys, tuple(lists))


def _context(
    operator_id: OperatorId, name: str, clock: Clock, directory: Path, keyed_backend: Callable[[], RowBackend]
) -> OperatorContext:
    return OperatorContext(
        operator_id=operator_id,
        operator_name=name,
        task_name=name,
        subtask=0,
        parallelism=1,
        max_parallelism=1,
        attempt=Attempt(0),
        output=_Nowhere(),
        clock=clock,
        metrics=MetricGroup(clock),
        keyed_backend=keyed_backend,
        new_name=new_nonce,
        work_directory=directory,
        uploads=_uploads,
        operator_state=OperatorState(name, 0, (), _uploads),
    )


def _uploads(checkpoint: CheckpointId) -> Uploads:
    raise StateError("an operator that is opened for what it declares takes no checkpoints")
