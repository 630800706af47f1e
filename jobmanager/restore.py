"""Which part of a checkpoint goes where, when a job starts from it, perhaps at another parallelism.

Per operator, because chaining may differ between the job that wrote the checkpoint and the one that reads it:

| state            | same parallelism              | another parallelism                                              |
|------------------|-------------------------------|------------------------------------------------------------------|
| keyed            | subtask i's to subtask i      | to every new subtask whose key groups overlap the handle's       |
| operator_state   | subtask i's to subtask i      | old subtask i's to new subtask i mod parallelism: each to one    |
| splits           | subtask i's to subtask i      | evenly to all new subtasks, at once: a split that was read in    |
|                  |                               | part holds the watermark back from the start (PROTOCOLS 12)      |
| list             | subtask i's to subtask i      | all elements, in order, in even contiguous ranges                |
| union list       | all elements of all old subtasks to everyone                                                     |
| broadcast        | subtask i's to subtask i      | old subtask i mod the old parallelism's to new subtask i: all    |
|                  |                               | copies are equal                                                 |
| watermark        | subtask i's to subtask i      | the minimum over all old subtasks to everyone (PROTOCOLS 12);    |
|                  |                               | idle only if all were                                            |
| in-flight data   | to a successor of the subtask that sent it, which sends it again (taskmanager/in_flight.py)      |
| committables     | to the committer, before anything else, with those still pending from earlier checkpoints        |

Refused, with the operator's name: keyed state at another max parallelism (its key groups are cut differently), what
only a source or a sink can take over if the operator is none any more, and state of an operator that no longer exists,
unless that is allowed explicitly.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ..runtime.connector import Sink
from ..runtime.graph.job_graph import ChainedOperator, JobGraph, Vertex, edge_name
from ..state.errors import IncompatibleStateError
from ..state.ids import CheckpointId, OperatorId
from ..state.key_groups import KeyGroupRange
from ..state.snapshots import CheckpointMetadata, InFlightHandle, KeyedHandle, OperatorSnapshot, OperatorStateHandle
from ..taskmanager.in_flight import sending_order
from ..taskmanager.messages import RestoreOperator, SubtaskId

_Lists = tuple[OperatorStateHandle, ...]


@dataclass(slots=True)
class RestorePlan:
    """Empty for a job that starts afresh."""

    checkpoint_id: CheckpointId | None = None
    subtasks: dict[SubtaskId, list[RestoreOperator]] = field(default_factory=dict)
    enumerators: dict[OperatorId, bytes] = field(default_factory=dict)
    committables: dict[OperatorId, tuple[bytes, ...]] = field(default_factory=dict)
    """Of earlier checkpoints first."""
    in_flight: dict[SubtaskId, tuple[InFlightHandle, ...]] = field(default_factory=dict)
    """In the order in which it is to be sent again."""


@dataclass(slots=True)
class _OldOperator:
    """What a checkpoint holds of one operator."""

    max_parallelism: int
    snapshots: dict[int, OperatorSnapshot] = field(default_factory=dict)
    """Old subtask -> snapshot."""
    parallelism: int = 0


def plan_restore(metadata: CheckpointMetadata, job_graph: JobGraph, *, allow_non_restored_state: bool) -> RestorePlan:
    """IncompatibleStateError lists everything that does not fit."""
    plan, problems = plan_and_problems(metadata, job_graph)
    lost = not_in_job(metadata, job_graph)
    if lost and not allow_non_restored_state:
        problems.insert(0, refused_to_drop(lost))
    if problems:
        raise IncompatibleStateError(
            f"checkpoint {metadata.checkpoint_id} of job {metadata.job_name!r} does not fit: {'; '.join(problems)}"
        )
    return plan


def refused_to_drop(operators: Iterable[object]) -> str:
    return (
        f"it holds state of operators that the job does not have: {', '.join(map(str, operators))}; "
        "give operators the uids they had, or allow non-restored state (-n) to drop it"
    )


def plan_and_problems(metadata: CheckpointMetadata, job_graph: JobGraph) -> tuple[RestorePlan, list[str]]:
    """What of a checkpoint goes where if what the job does not have is dropped, and what does not fit even then."""
    old = _by_operator(metadata)
    plan = RestorePlan(metadata.checkpoint_id, committables=all_committables(metadata))
    problems: list[str] = []
    for vertex in job_graph.vertices:
        for operator in vertex.operators:
            problems += _other_role(operator, old.get(operator.id), metadata, plan.committables)
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
    problems += _send_again(plan, metadata, job_graph)
    return plan, problems


def _other_role(
    operator: ChainedOperator,
    old: _OldOperator | None,
    metadata: CheckpointMetadata,
    committables: Mapping[OperatorId, tuple[bytes, ...]],
) -> list[str]:
    """What would go lost without a word, because the operator is not what it was."""
    splits = old is not None and any(snapshot.splits for snapshot in old.snapshots.values())
    lost = {}
    if not operator.is_source and (splits or operator.id in metadata.enumerators):
        lost["a source"] = "what it had read would be forgotten"
    if not operator.is_sink and committables.get(operator.id):
        lost["a sink"] = f"its {len(committables[operator.id])} commits would not be done"
    return [
        f"operator '{operator.id}' was {was} and is now '{operator.name}', so {what}; give that another uid, and drop "
        "it (-n) if it is to go"
        for was, what in lost.items()
    ]


def commits_nothing(name: str, sink: Sink, commits: int) -> str:
    """Why a sink without a committer cannot follow one whose commits are pending."""
    return (
        f"operator '{name}': a {type(sink).__name__} commits nothing, and {commits} commits of the sink of that id are "
        "pending; give it another uid, and drop them (-n) if they are to go"
    )


def held_committables(metadata: CheckpointMetadata) -> frozenset[bytes]:
    """What was perhaps not committed yet when the checkpoint was taken."""
    return frozenset(each for committables in all_committables(metadata).values() for each in committables)


def keeping_committables(metadata: CheckpointMetadata, kept: frozenset[bytes]) -> CheckpointMetadata:
    """The same, with no other ones to commit."""

    def only(committables: tuple[bytes, ...]) -> tuple[bytes, ...]:
        return tuple(each for each in committables if each in kept)

    subtasks = [
        replace(subtask, operators=tuple(replace(o, committables=only(o.committables)) for o in subtask.operators))
        for subtask in metadata.subtasks
    ]
    pending = {operator_id: only(committables) for operator_id, committables in metadata.pending_commits.items()}
    return replace(metadata, subtasks=tuple(subtasks), pending_commits=pending)


def not_in_job(metadata: CheckpointMetadata, job_graph: JobGraph) -> list[OperatorId]:
    """Operators of which the checkpoint holds something, and that the job does not have: their state is dropped where
    that is allowed."""
    known = {operator.id for vertex in job_graph.vertices for operator in vertex.operators}
    return [OperatorId(name) for name in sorted(_holding_something(_by_operator(metadata), metadata) - known)]


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
        if snapshot.keyed
        or snapshot.operator_state is not None
        or snapshot.splits
        or snapshot.committables
        or any(state.count for state in snapshot.lists)
    }
    pending = {operator_id for operator_id, committables in metadata.pending_commits.items() if committables}
    return holding | set(metadata.enumerators) | pending


def all_committables(metadata: CheckpointMetadata) -> dict[OperatorId, tuple[bytes, ...]]:
    """By sink, those of earlier checkpoints first."""
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
        for index in range(vertex.parallelism):
            snapshot = old.snapshots.get(index) or OperatorSnapshot(operator_id)
            lists = lists_for(old.snapshots, index, vertex.parallelism, old.parallelism)
            _give(plan, SubtaskId(vertex.id, index), operator_id, [replace(snapshot, committables=(), lists=lists)])
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
        lists = lists_for(old.snapshots, index, vertex.parallelism, old.parallelism)
        unkeyed = OperatorSnapshot(operator_id, watermark=watermark, idle=idle, splits=own_splits, lists=lists)
        _give(plan, SubtaskId(vertex.id, index), operator_id, [*parts, unkeyed])


def lists_for(old: Mapping[int, OperatorSnapshot], subtask: int, parallelism: int, old_parallelism: int) -> _Lists:
    """The operator state that a new subtask gets of the old subtasks' snapshots."""
    ordered = [snapshot for _, snapshot in sorted(old.items())]
    union = [state for snapshot in ordered for state in snapshot.lists if state.mode == "union"]
    copies = [copy for snapshot in ordered if (copy := [s for s in snapshot.lists if s.mode == "broadcast"])]
    everywhere = [*(copies[subtask % len(copies)] if copies else ()), *union]
    if parallelism == old_parallelism:
        own = old[subtask].lists if subtask in old else ()
        return (*everywhere, *(state for state in own if state.mode == "split"))
    split: dict[str, list[OperatorStateHandle]] = {}
    for state in (state for snapshot in ordered for state in snapshot.lists if state.mode == "split"):
        split.setdefault(state.name, []).append(state)
    return (*everywhere, *(part for states in split.values() for part in _share(states, subtask, parallelism)))


def _share(states: list[OperatorStateHandle], subtask: int, parallelism: int) -> Iterator[OperatorStateHandle]:
    """The subtask's even share of the elements of a list, which lie in these parts, one after the other."""
    total = sum(state.count for state in states)
    begin, end = total * subtask // parallelism, total * (subtask + 1) // parallelism
    position = 0
    for state in states:
        first, last = max(begin, position), min(end, position + state.count)
        if first < last:
            yield replace(state, first=state.first + first - position, count=last - first)
        position += state.count


def _send_again(plan: RestorePlan, metadata: CheckpointMetadata, job_graph: JobGraph) -> list[str]:
    """Old subtask i's to new subtask i mod parallelism. Answers what has no sender, or nobody to go to, any more."""
    senders = {operator.id: vertex for vertex in job_graph.vertices for operator in vertex.operators}
    edges = {job_graph.name_of(edge) for edge in job_graph.edges} | _chained_edges(job_graph) | {""}
    found: dict[SubtaskId, list[InFlightHandle]] = {}
    homeless: dict[str, None] = {}
    for handle in (handle for subtask in metadata.subtasks for handle in subtask.in_flight):
        vertex = senders.get(handle.operator_id)
        if vertex is None or handle.edge not in edges:
            homeless[handle.edge or handle.operator_id] = None
        else:
            found.setdefault(SubtaskId(vertex.id, handle.source % vertex.parallelism), []).append(handle)
    plan.in_flight = {subtask: tuple(sending_order(handles)) for subtask, handles in found.items()}
    return [
        f"records were under way on '{edge}', which the job does not have any more; take a savepoint of the old job "
        "before you change it, or an aligned checkpoint"
        for edge in homeless
    ]


def _chained_edges(job_graph: JobGraph) -> set[str]:
    return {
        edge_name(vertex.operators[operator.parent].id, operator.tag, operator.id, 0)
        for vertex in job_graph.vertices
        for operator in vertex.operators
        if operator.parent is not None
    }


def _overlapping(snapshot: OperatorSnapshot, groups: KeyGroupRange) -> tuple[KeyedHandle, ...]:
    return tuple(h for h in snapshot.keyed if h.first_key_group <= groups.last and h.last_key_group >= groups.first)


def _give(
    plan: RestorePlan, subtask: SubtaskId, operator_id: OperatorId, snapshots: Sequence[OperatorSnapshot]
) -> None:
    plan.subtasks.setdefault(subtask, []).append(RestoreOperator(operator_id, tuple(snapshots)))
