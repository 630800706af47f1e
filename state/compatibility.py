"""Whether a checkpoint fits a job, from the checkpoint's metadata alone: nothing is downloaded and nothing started.

What a job declares is not in its graph, because functions declare their state in `open`. Whoever knows it, all or in
part (an operator whose state follows from its types, a function that was opened over an empty backend), asks
`check_compatibility` before the restore. What it does not know is checked again where it is declared, on the slot
(backend_meta.py), by the same rules and in the same words.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .backend_meta import BackendMeta, StateMeta, decode_meta
from .descriptors import MapStateDescriptor, StateDescriptor
from .errors import IncompatibleStateError
from .ids import OperatorId
from .key_signatures import annotated_signature, fits, show
from .serializers import serializer_for
from .snapshots import CANONICAL, CheckpointMetadata
from .type_descriptions import Description
from .type_evolution import differences

_ROW_BACKENDS = ("heap", "rocksdb", CANONICAL)
"""Those whose meta is a BackendMeta; the column store compares its own description (column_snapshots.py)."""


@dataclass(frozen=True, slots=True)
class DeclaredState:
    """What a descriptor asks for."""

    name: str
    kind: str
    """'value', 'list', 'map', 'reducing', 'aggregating'; of operator state its mode: 'split', 'union', 'broadcast'."""
    description: Description
    """Of values, elements, or a map's values."""
    keys: Any = None
    """Of a map: the signature of its keys, as far as it is declared."""

    @staticmethod
    def of(descriptor: StateDescriptor) -> DeclaredState:
        """StateError for an Arrow type that no state can have."""
        if isinstance(descriptor, MapStateDescriptor):
            described = serializer_for(descriptor.value_type).description
            return DeclaredState(descriptor.name, "map", described, annotated_signature(descriptor.key_type))
        return DeclaredState(descriptor.name, descriptor.kind, serializer_for(descriptor.type).description)


@dataclass(frozen=True, slots=True)
class DeclaredOperator:
    """What is known of the state of an operator."""

    name: str
    states: tuple[DeclaredState, ...] = ()
    """Of keyed state."""
    keys: Any = None
    """Signature of the stream's keys (key_signatures.py), if it is known."""
    operator_states: tuple[DeclaredState, ...] = ()


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a checkpoint does not fit: where, what, and what to do."""

    operator: str
    state: str
    """Its name; empty when it is about the operator's keys."""
    path: str
    """The field, 'amount.currency'; empty when it is about the whole value."""
    reason: str
    advice: str

    def __str__(self) -> str:
        subject = f"state '{self.state}' of operator '{self.operator}'" if self.state else f"operator '{self.operator}'"
        return f"{subject}: {self.reason}; {self.advice}"


def check_compatibility(metadata: CheckpointMetadata, declared: Mapping[OperatorId, DeclaredOperator]) -> list[Problem]:
    """All row state and operator state in a checkpoint that the declared types cannot read, each once, in the order of
    the operators. Operators and states that are only on one side are no problem of types (jobmanager/restore.py).
    DamagedCheckpointError when the metadata of keyed state cannot be read."""
    found: dict[Problem, None] = {}
    for operator_id, operator in declared.items():
        snapshots = [
            snapshot
            for subtask in metadata.subtasks
            for snapshot in subtask.operators
            if snapshot.operator_id == operator_id
        ]
        keyed = [handle for snapshot in snapshots for handle in snapshot.keyed if handle.backend in _ROW_BACKENDS]
        for data in dict.fromkeys(handle.meta for handle in keyed):
            found.update(dict.fromkeys(_problems(data, operator)))
        by_name = {state.name: state for state in operator.operator_states}
        for handle in (handle for snapshot in snapshots for handle in snapshot.lists if handle.name in by_name):
            was = StateMeta(0, handle.name, handle.mode, [handle.written_as])
            found.update(dict.fromkeys(_differing(was, by_name[handle.name], operator.name)))
    return list(found)


def _problems(data: bytes, operator: DeclaredOperator) -> Iterator[Problem]:
    try:
        meta: BackendMeta = decode_meta(data)
    except IncompatibleStateError as error:
        yield Problem(operator.name, "", "", str(error), "restore it with the version that wrote it")
        return
    if operator.keys is not None and meta.keys and not fits(operator.keys, meta.keys):
        reason = f"its keys were of type {_types(meta.keys)} and are now of type {show(operator.keys)}"
        yield Problem(operator.name, "", "", reason, "set the type of its keys back, or give the operator another uid")
    written = {state.name: state for state in meta.states}
    for state in operator.states:
        if state.name in written:
            yield from _differing(written[state.name], state, operator.name)


def _differing(was: StateMeta, now: DeclaredState, operator: str) -> Iterator[Problem]:
    if was.kind != now.kind:
        reason = f"it was a {was.kind} state and is now declared as a {now.kind} state"
        yield Problem(operator, now.name, "", reason, "declare it as it was, or give it another name")
        return
    for description in was.written_as:
        for each in differences(description, now.description):
            yield Problem(operator, now.name, each.path, each.reason, each.advice)
    if now.keys is not None and was.keys and not fits(now.keys, was.keys):
        reason = f"the keys of this map were of type {_types(was.keys)} and are now of type {show(now.keys)}"
        yield Problem(operator, now.name, "", reason, "set their type back, or give the state another name")


def _types(signatures: list[Any]) -> str:
    return " or ".join(map(show, signatures))
