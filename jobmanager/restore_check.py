"""Whether a savepoint or checkpoint fits a job, before anything of the job runs: the one check there is.

    penstock savepoint check     asks for all of it (api/commands/savepoint_check.py)
    a job in this process        before it exists (local_job.py)
    a submission to a cluster    before it exists, in a process of its own (cluster/restore_process.py)

Two things are looked at. Where its parts would go (restore.py): operators that are gone, another max parallelism. And
whether the state that the job's functions declare can be read: every operator that is found in the savepoint is opened
here, in this process, over the descriptions of its state and none of the rows, so that its declarations meet them by
the rules, and in the words, of a real restore. What functions declare later than in `open`, nobody knows before; and
what has changed between the check and the restore is found by the restore, in the same words.

Readers and writers are not opened, for they reach for what a running job is at. A source is asked to read its
positions, and its strategy the state of its watermark generators; a sink whether it commits at all, if commits are
pending.

Opening calls the functions' own `open`, and `close` after it. One that cannot be opened here (it needs a service, say)
is no reason to refuse: the check says which state it does not know of.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from pickle import PickleError
from typing import Any, NoReturn

from msgspec import MsgspecError

from ..runtime.clock import SystemClock
from ..runtime.configuration import options
from ..runtime.configuration.config import Configuration
from ..runtime.graph.job_graph import ChainedOperator, JobGraph, Vertex
from ..runtime.metrics import MetricGroup
from ..runtime.operator_state import OperatorState
from ..runtime.operators.operator import Operator, OperatorContext, RestoredState
from ..runtime.operators.sink import SinkOperator
from ..runtime.operators.source import SourceOperator
from ..state.backend_factory import BackendOptions, create_keyed_backend
from ..state.columns.column_snapshots import without_rows
from ..state.errors import IncompatibleStateError, PenstockError, ProtocolError, UserCodeError
from ..state.ids import Attempt, CheckpointId, OperatorId
from ..state.key_groups import KeyGroupRange
from ..state.key_signatures import Signature
from ..state.operator_state import RestoredElements
from ..state.rows.backend_meta import StateRegistry
from ..state.savepoints.stored_state import states_of
from ..state.serialization.pickling import loads
from ..state.serialization.type_descriptions import Description
from ..state.snapshots import CANONICAL, CheckpointMetadata, KeyedHandle, OperatorSnapshot, SplitSnapshot
from .restore import all_committables, commits_nothing, not_in_job, plan_and_problems, refused_to_drop

_MISREAD = (
    PenstockError, ValueError, TypeError, LookupError, AttributeError, EOFError, PickleError, MsgspecError
)  # fmt: skip
"""What reading bytes of somebody else raises."""
_ROW_BACKENDS = ("heap", "rocksdb", CANONICAL)


@dataclass(frozen=True, slots=True)
class Dropped:
    """An operator that the job does not have, and what is in the savepoint of it."""

    operator: OperatorId
    states: tuple[str, ...]
    """Names of states."""
    more: tuple[str, ...]
    """What else, in words."""

    def __str__(self) -> str:
        held = [f"state {', '.join(map(repr, self.states))}"] if self.states else []
        return f"{self.operator} ({', '.join((*held, *self.more)) or 'no rows'})"


@dataclass(slots=True)
class Fit:
    """What a check has found."""

    checkpoint: str
    """Which one, in words."""
    problems: list[str] = field(default_factory=list)
    """Why it cannot be restored, whatever is allowed."""
    dropped: list[Dropped] = field(default_factory=list)
    """What -n drops; without it the restore is refused."""
    empty: list[str] = field(default_factory=list)
    """Operators with state that begin without any, because the savepoint does not know them."""
    unknown: list[str] = field(default_factory=list)
    """Of which operators the state could not be compared, and why."""

    def refusal(self, *, may_drop: bool) -> str | None:
        """Why it is not restored, all reasons at once; None: it is."""
        reasons = list(self.problems)
        if self.dropped and not may_drop:
            reasons.append(refused_to_drop(self.dropped))
        if not reasons:
            return None
        told = f" {reasons[0]}" if len(reasons) == 1 else "".join(f"\n  {reason}" for reason in reasons)
        return f"{self.checkpoint} does not fit:{told}"

    def notes(self) -> list[str]:
        """For who restores it nevertheless, or can."""
        return [
            *(f"dropped of {self.checkpoint}: operator {each}" for each in self.dropped),
            *(f"not compared with {self.checkpoint} before the start: {reason}" for reason in self.unknown),
        ]


def require_fit(metadata: CheckpointMetadata, job_graph: JobGraph, config: Configuration) -> list[str]:
    """What its user should know. IncompatibleStateError: the job cannot go on from it, and why."""
    fit = check_restore(metadata, job_graph, open_functions=config.get(options.CHECK_FUNCTIONS))
    refusal = fit.refusal(may_drop=config.get(options.ALLOW_NON_RESTORED))
    if refusal is not None:
        raise IncompatibleStateError(refusal)
    return fit.notes()


def check_restore(metadata: CheckpointMetadata, job_graph: JobGraph, *, open_functions: bool = True) -> Fit:
    """`open_functions` False: only ids and parallelism are compared."""
    fit = Fit(f"checkpoint {metadata.checkpoint_id} of job '{metadata.job_name}'")
    fit.problems += plan_and_problems(metadata, job_graph)[1]
    fit.dropped += [_dropped(metadata, operator_id) for operator_id in not_in_job(metadata, job_graph)]
    config = Configuration(dict(job_graph.config))
    for vertex in job_graph.vertices:
        for described in vertex.operators:
            _check_operator(metadata, vertex, described, config, fit, open_functions=open_functions)
    return fit


def _dropped(metadata: CheckpointMetadata, operator_id: OperatorId) -> Dropped:
    found = _written(metadata, operator_id)
    states = tuple(state.name for state in states_of(metadata) if state.operator == operator_id)
    splits = sum(len(each.splits) for each in found)
    commits = len(all_committables(metadata).get(operator_id, ()))
    more = {
        "how far its source was read": splits or operator_id in metadata.enumerators,
        "watermarks": any(each.operator_state is not None for each in found),
        f"{commits} commits of its sink, which may not be done": commits,
    }
    return Dropped(operator_id, states, tuple(what for what, there in more.items() if there))


def _written(metadata: CheckpointMetadata, operator_id: OperatorId) -> list[OperatorSnapshot]:
    return [each for subtask in metadata.subtasks for each in subtask.operators if each.operator_id == operator_id]


def _check_operator(
    metadata: CheckpointMetadata,
    vertex: Vertex,
    described: ChainedOperator,
    config: Configuration,
    fit: Fit,
    *,
    open_functions: bool,
) -> None:
    written = _written(metadata, described.id)
    try:
        operator: Operator = loads(described.pickled)
    except Exception as error:  # whatever its modules raise
        if written:
            fit.unknown.append(f"{described.name}: it cannot be loaded here: {type(error).__name__}: {error}")
        return
    if not written and operator.stateful:
        fit.empty.append(described.name)
    if described.is_source or described.is_sink:
        _check_connector(metadata, described, operator, written, fit, asked=open_functions)
        return
    if not any(each.keyed or each.lists for each in written):
        return
    if _max_parallelism(metadata, described.id) != vertex.max_parallelism:
        return  # which is a problem already
    if not open_functions:
        fit.unknown.append(f"{described.name}: its functions were not opened")
        return
    misfits: list[str] = []
    try:
        _open(operator, vertex, described, written, config, misfits)
    except Exception as error:  # whatever a user's function needs
        cause = error.__cause__ if isinstance(error, UserCodeError) else error
        if isinstance(cause, IncompatibleStateError):
            where = "" if f"'{described.name}'" in str(cause) else f"operator '{described.name}': "
            misfits.append(f"{where}{cause}")
        else:
            fit.unknown.append(f"{described.name}: it cannot be opened here: {type(cause).__name__}: {cause}")
    fit.problems += misfits


def _check_connector(
    metadata: CheckpointMetadata,
    described: ChainedOperator,
    operator: Operator,
    written: Sequence[OperatorSnapshot],
    fit: Fit,
    *,
    asked: bool,
) -> None:
    names = sorted({state.name for each in written for state in each.lists})
    if names:
        states = ", ".join(map(repr, names))
        fit.unknown.append(f"{described.name}: operator state {states}, which its connector declares when it starts")
    if isinstance(operator, SourceOperator):
        positions = [split for each in written for split in each.splits]
        if not asked and (positions or described.id in metadata.enumerators):
            fit.unknown.append(f"{described.name}: its source was not asked to read its positions")
        elif asked:
            _ask_source(operator, positions, metadata.enumerators.get(described.id), described.name, fit)
    commits = all_committables(metadata).get(described.id, ())
    if isinstance(operator, SinkOperator) and commits:
        _ask_sink(operator, len(commits), described.name, fit)


def _ask_sink(operator: SinkOperator, commits: int, name: str, fit: Fit) -> None:
    try:
        committer = operator.sink.create_committer()
    except Exception as error:  # whatever a connector needs
        fit.unknown.append(f"{name}: whether it commits cannot be found out here: {type(error).__name__}: {error}")
        return
    if committer is None:
        fit.problems.append(commits_nothing(name, operator.sink, commits))


def _ask_source(
    operator: SourceOperator, positions: Sequence[SplitSnapshot], enumerator: bytes | None, name: str, fit: Fit
) -> None:
    source, strategy = operator.source, operator.strategy
    trying = f"a {type(source).__name__} cannot go on where the source of that id was"
    try:
        if enumerator is not None:
            source.create_enumerator(enumerator)
        for split in positions:
            source.decode_split(split.state)
        trying = "its watermark generator cannot go on"
        for split in positions:
            strategy.create_generator(split.watermark_state)
    except _MISREAD as error:
        anew = "to begin anew give it another uid, and drop what was read before (-n)"
        fit.problems.append(f"operator '{name}': {trying}: {type(error).__name__}: {error}; {anew}")
    except Exception as error:  # whatever a connector needs
        fit.unknown.append(f"{name}: its positions cannot be read here: {type(error).__name__}: {error}")


def _max_parallelism(metadata: CheckpointMetadata, operator_id: OperatorId) -> int | None:
    found = (s.vertex_id for s in metadata.subtasks if any(each.operator_id == operator_id for each in s.operators))
    return next((metadata.max_parallelism[vertex] for vertex in found), None)


def _open(
    operator: Operator,
    vertex: Vertex,
    described: ChainedOperator,
    written: Sequence[OperatorSnapshot],
    config: Configuration,
    misfits: list[str],
) -> None:
    with tempfile.TemporaryDirectory(prefix="penstock-check-") as name:
        directory = Path(name)
        restored = RestoredState(keyed=[(_described(h), directory) for each in written for h in each.keyed])
        registry = _Noting(described.name, vertex.max_parallelism, misfits)
        context = _context(vertex, described, written, restored, config, directory, registry)
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
    registry: StateRegistry,
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
            registry=registry,
        ),
        new_name=lambda: "check",
        work_directory=directory,
        uploads=_no_uploads,
        operator_state=OperatorState(described.name, 0, elements, _no_uploads, generic_types=generic_types),
        job_parameters=config.get(options.JOB_PARAMETERS),
    )


class _Noting(StateRegistry):
    """Notes what does not fit and goes on as if that state were new, so that all misfits are found at once."""

    def __init__(self, operator_name: str, max_parallelism: int, misfits: list[str]) -> None:
        super().__init__(operator_name, max_parallelism)
        self._misfits = misfits

    def declare(self, name: str, kind: str, description: Description = None, keys: Signature = None) -> int:
        try:
            return super().declare(name, kind, description, keys)
        except IncompatibleStateError as error:
            self._misfits.append(str(error))
            self.forget(name)
            return super().declare(name, kind, description, keys)


def _no_uploads(checkpoint: CheckpointId) -> NoReturn:
    raise ProtocolError(f"checkpoint {checkpoint} of an operator that is only checked")


class _Nowhere:
    def emit(self, batch: Any) -> None: ...

    def emit_side(self, tag: str, batch: Any) -> None: ...

    def emit_watermark(self, watermark: Any) -> None: ...

    def emit_status(self, status: Any) -> None: ...

    def emit_at_once(self, element: Any) -> None: ...
