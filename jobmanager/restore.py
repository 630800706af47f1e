"""Which part of a checkpoint goes where, when a job starts from it, perhaps at another parallelism.

Per operator, because chaining may differ between the job that wrote the checkpoint and the one that reads it:

| state            | same parallelism              | another parallelism                                              |
|------------------|-------------------------------|------------------------------------------------------------------|
| keyed            | subtask i's to subtask i      | to every new subtask whose key groups overlap the handle's       |
| operator_state   | subtask i's to subtask i      | old subtask i's to new subtask i mod parallelism: each to one    |
| splits           | subtask i's to subtask i      | evenly to all new subtasks, at once: a split that was read in    |
|                  |                               | part holds the watermark back from the start (PROTOCOLS 12)      |
| watermark        | subtask i's to subtask i      | the minimum over all old subtasks to everyone (PROTOCOLS 12);    |
|                  |                               | idle only if all were                                            |
| committables     | to the committer, before anything else, with those still pending from earlier checkpoints        |

Refused, with the operator's name: keyed state at another max parallelism (its key groups are cut differently), and
state of an operator that no longer exists, unless that is allowed explicitly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from ..runtime.graph.job_graph import JobGraph, Vertex
from ..state.errors import IncompatibleStateError
from ..state.ids import CheckpointId, OperatorId
from ..state.key_groups import KeyGroupRange
from ..state.snapshots import CheckpointMetadata, KeyedHandle, OperatorSnapshot
from ..taskmanager.messages import RestoreOperator, SubtaskId


@dataclass(slots=True)
class RestorePlan:
    """Empty for a job that starts afresh."""

    checkpoint_id: CheckpointId | None = None
    subtasks: dict[SubtaskId, list[RestoreOperator]] = field(default_factory=dict)
    enumerators: dict[OperatorId, bytes] = field(default_factory=dict)
    committables: dict[OperatorId, tuple[bytes, ...]] = field(default_factory=dict)
    """Of earlier checkpoints first."""


@dataclass(slots=True)
class _OldOperator:
    """What a checkpoint holds of one operator."""

    max_parallelism: int
    snapshots: dict[int, OperatorSnapshot] = field(default_factory=dict)
    """Old subtask -> snapshot."""
    parallelism: int = 0


def plan_restore(metadata: CheckpointMetadata, job_graph: JobGraph, *, allow_non_restored_state: bool) -> RestorePlan:
    """IncompatibleStateError lists everything that does not fit."""
    old = _by_operator(metadata)
    plan = RestorePlan(metadata.checkpoint_id, committables=_committables(metadata))
    known = {operator.id for vertex in job_graph.vertices for operator in vertex.operators}
    problems: list[str] = []
    if not allow_non_restored_state:
        lost = sorted(_holding_something(old, metadata) - known)
        if lost:
            problems.append(
                f"it holds state of operators that the job does not have: {', '.join(lost)}; "
                "give operators the uids they had, or allow non-restored state (-n) to drop it"
            )
    for vertex in job_graph.vertices:
        for operator in vertex.operators:
            if operator.id in metadata.enumerators:
                plan.enumerators[operator.id] = metadata.enumerators[operator.id]
            if operator.id not in old:
                continue
            found = old[operator.id]
            if vertex.max_parallelism != found.max_parallelism and any(s.keyed for s in found.snapshots.values()):
                problems.append(
                    f"{operator.name}: its keyed state was written at max parallelism {found.max_parallelism}, "
                    f"the job has {vertex.max_parallelism}; set it back"
                )
                continue
            _distribute(plan, vertex, operator.id, found)
    if problems:
        raise IncompatibleStateError(
            f"checkpoint {metadata.checkpoint_id} of job {metadata.job_name!r} does not fit: {'; '.join(problems)}"
        )
    return plan


def _by_operator(metadata: CheckpointMetadata) -> dict[OperatorId, _OldOperator]:
    operators: dict[OperatorId, _OldOperator] = {}
    for subtask in metadata.subtasks:
        for snapshot in subtask.operators:
            old = operators.setdefault(snapshot.operator_id, _OldOperator(metadata.max_parallelism[subtask.vertex_id]))
            old.snapshots[subtask.subtask] = snapshot
            old.parallelism = metadata.parallelism[subtask.vertex_id]
    return operators


def _holding_something(old: dict[OperatorId, _OldOperator], metadata: CheckpointMetadata) -> set[str]:
    holding = {
        operator_id
        for operator_id, found in old.items()
        for snapshot in found.snapshots.values()
        if snapshot.keyed or snapshot.operator_state is not None or snapshot.splits or snapshot.committables
    }
    pending = {operator_id for operator_id, committables in metadata.pending_commits.items() if committables}
    return holding | set(metadata.enumerators) | pending


def _committables(metadata: CheckpointMetadata) -> dict[OperatorId, tuple[bytes, ...]]:
    found: dict[OperatorId, dict[bytes, None]] = {}
    for name, committables in metadata.pending_commits.items():
        found.setdefault(OperatorId(name), {}).update(dict.fromkeys(committables))
    for subtask in metadata.subtasks:
        for snapshot in subtask.operators:
            if snapshot.committables:
                found.setdefault(snapshot.operator_id, {}).update(dict.fromkeys(snapshot.committables))
    return {operator_id: tuple(committables) for operator_id, committables in found.items()}


def _distribute(plan: RestorePlan, vertex: Vertex, operator_id: OperatorId, old: _OldOperator) -> None:
    if vertex.parallelism == old.parallelism:
        for index, snapshot in old.snapshots.items():
            _give(plan, SubtaskId(vertex.id, index), operator_id, [replace(snapshot, committables=())])
        return
    ordered = [snapshot for _, snapshot in sorted(old.snapshots.items())]
    splits = [split for snapshot in ordered for split in snapshot.splits]
    watermark = min(snapshot.watermark for snapshot in ordered)
    idle = all(snapshot.idle for snapshot in ordered)
    for index in range(vertex.parallelism):
        groups = KeyGroupRange.of_subtask(index, vertex.parallelism, vertex.max_parallelism)
        parts = [
            OperatorSnapshot(operator_id, _overlapping(snapshot, groups), state, watermark, idle)
            for i, snapshot in enumerate(ordered)
            if (state := snapshot.operator_state if i % vertex.parallelism == index else None) is not None
            or _overlapping(snapshot, groups)
        ]
        own_splits = tuple(splits[index :: vertex.parallelism])
        time_and_splits = OperatorSnapshot(operator_id, watermark=watermark, idle=idle, splits=own_splits)
        _give(plan, SubtaskId(vertex.id, index), operator_id, [*parts, time_and_splits])


def _overlapping(snapshot: OperatorSnapshot, groups: KeyGroupRange) -> tuple[KeyedHandle, ...]:
    return tuple(h for h in snapshot.keyed if h.first_key_group <= groups.last and h.last_key_group >= groups.first)


def _give(
    plan: RestorePlan, subtask: SubtaskId, operator_id: OperatorId, snapshots: Sequence[OperatorSnapshot]
) -> None:
    plan.subtasks.setdefault(subtask, []).append(RestoreOperator(operator_id, tuple(snapshots)))
