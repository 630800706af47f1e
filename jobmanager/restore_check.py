"""Whether a savepoint or checkpoint fits a job, before anything of the job runs.

Two things are looked at. Where its parts would go (restore.py): operators that are gone, another max parallelism. And
whether the state that the job's functions declare can be read: every operator that is found in the savepoint is opened
here, in this process, over the descriptions of its state and none of the rows, so that its declarations meet them by
the rules, and in the words, of a real restore. What functions declare later than in `open`, nobody knows before.

Opening calls the functions' own `open`. One that cannot be opened here (it needs a service, say) is no reason to
refuse: the check says which state it does not know of.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from ..runtime import options
from ..runtime.clock import SystemClock
from ..runtime.config import Configuration
from ..runtime.graph.job_graph import ChainedOperator, JobGraph, Vertex
from ..runtime.metrics import MetricGroup
from ..runtime.operator_state import OperatorState
from ..runtime.operators.operator import Operator, OperatorContext, RestoredState
from ..state.backend_factory import BackendOptions, create_keyed_backend
from ..state.column_snapshots import without_rows
from ..state.errors import IncompatibleStateError, ProtocolError, UserCodeError
from ..state.ids import Attempt, CheckpointId, OperatorId
from ..state.key_groups import KeyGroupRange
from ..state.operator_state import RestoredElements
from ..state.pickling import loads
from ..state.snapshots import CANONICAL, CheckpointMetadata, KeyedHandle, OperatorSnapshot
from .restore import not_in_job, plan_restore

_ROW_BACKENDS = ("heap", "rocksdb", CANONICAL)


@dataclass(slots=True)
class Fit:
    """What a check has found."""

    problems: list[str] = field(default_factory=list)
    """Why it cannot be restored, whatever is allowed."""
    dropped: list[OperatorId] = field(default_factory=list)
    """Operators that the job does not have: their state is dropped with -n, and without it the restore is refused."""
    empty: list[str] = field(default_factory=list)
    """Operators with state that begin without any, because the savepoint does not know them."""
    unknown: list[str] = field(default_factory=list)
    """Of which operators the state could not be compared, and why."""


def check_restore(metadata: CheckpointMetadata, job_graph: JobGraph, *, open_functions: bool = True) -> Fit:
    """`open_functions` False: only ids and parallelism are compared."""
    fit = Fit(dropped=not_in_job(metadata, job_graph))
    try:
        plan_restore(metadata, job_graph, allow_non_restored_state=True)
    except IncompatibleStateError as error:
        fit.problems.append(str(error))
    config = Configuration(dict(job_graph.config))
    for vertex in job_graph.vertices:
        for described in vertex.operators:
            _check_operator(metadata, vertex, described, config, fit, open_functions=open_functions)
    return fit


def _check_operator(
    metadata: CheckpointMetadata,
    vertex: Vertex,
    described: ChainedOperator,
    config: Configuration,
    fit: Fit,
    *,
    open_functions: bool,
) -> None:
    written = [each for subtask in metadata.subtasks for each in subtask.operators if each.operator_id == described.id]
    operator: Operator = loads(described.pickled)
    if not written and operator.stateful:
        fit.empty.append(described.name)
    if described.is_source or described.is_sink or not any(each.keyed or each.lists for each in written):
        return  # readers and writers are opened over what they read and write
    if _max_parallelism(metadata, described.id) != vertex.max_parallelism:
        return  # which is a problem already
    if not open_functions:
        fit.unknown.append(f"{described.name}: its functions were not opened")
        return
    try:
        _open(operator, vertex, described, written, config)
    except Exception as error:  # whatever a user's function needs
        cause = error.__cause__ if isinstance(error, UserCodeError) else error
        if isinstance(cause, IncompatibleStateError):
            where = "" if f"'{described.name}'" in str(cause) else f"operator '{described.name}': "
            fit.problems.append(f"{where}{cause}")
        else:
            fit.unknown.append(f"{described.name}: it cannot be opened here: {type(cause).__name__}: {cause}")


def _max_parallelism(metadata: CheckpointMetadata, operator_id: OperatorId) -> int | None:
    found = (s.vertex_id for s in metadata.subtasks if any(each.operator_id == operator_id for each in s.operators))
    return next((metadata.max_parallelism[vertex] for vertex in found), None)


def _open(
    operator: Operator,
    vertex: Vertex,
    described: ChainedOperator,
    written: Sequence[OperatorSnapshot],
    config: Configuration,
) -> None:
    with tempfile.TemporaryDirectory(prefix="penstock-check-") as name:
        directory = Path(name)
        restored = RestoredState(keyed=[(_described(h), directory) for each in written for h in each.keyed])
        context = _context(vertex, described, written, restored, config, directory)
        try:
            operator.open(context, restored)
        finally:
            _close(operator)


def _described(handle: KeyedHandle) -> KeyedHandle:
    return replace(handle, backend=CANONICAL, files={}) if handle.backend in _ROW_BACKENDS else without_rows(handle)


def _close(operator: Operator) -> None:
    try:
        operator.close()
    except Exception:  # what was half opened may not know how to close
        return


def _context(
    vertex: Vertex,
    described: ChainedOperator,
    written: Sequence[OperatorSnapshot],
    restored: RestoredState,
    config: Configuration,
    directory: Path,
) -> OperatorContext:
    """Of the only subtask, which has all key groups."""
    clock, generic_types = SystemClock(), config.get(options.GENERIC_TYPES)
    lists = {(state.name, state.mode): state for each in written for state in each.lists}
    elements = [RestoredElements(state.name, state.mode, state.written_as, []) for state in lists.values()]
    return OperatorContext(
        operator_id=described.id,
        operator_name=described.name,
        task_name=vertex.name,
        subtask=0,
        parallelism=1,
        max_parallelism=vertex.max_parallelism,
        attempt=Attempt(1),
        output=_Nowhere(),
        clock=clock,
        metrics=MetricGroup(clock),
        keyed_backend=partial(
            create_keyed_backend,
            "heap",
            operator_name=described.name,
            key_groups=KeyGroupRange(0, vertex.max_parallelism - 1),
            max_parallelism=vertex.max_parallelism,
            directory=directory,
            uploads=_no_uploads,
            now_ms=clock.now_ms,
            restored=restored.keyed,
            options=BackendOptions(generic_types=generic_types),
        ),
        new_name=lambda: "check",
        work_directory=directory,
        uploads=_no_uploads,
        operator_state=OperatorState(described.name, 0, elements, _no_uploads, generic_types=generic_types),
        job_parameters=config.get(options.JOB_PARAMETERS),
    )


def _no_uploads(checkpoint: CheckpointId) -> NoReturn:
    raise ProtocolError(f"checkpoint {checkpoint} of an operator that is only checked")


class _Nowhere:
    def emit(self, batch: Any) -> None: ...

    def emit_side(self, tag: str, batch: Any) -> None: ...

    def emit_watermark(self, watermark: Any) -> None: ...

    def emit_status(self, status: Any) -> None: ...
