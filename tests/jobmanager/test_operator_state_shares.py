"""Who gets which part of operator state when a job starts from a checkpoint at the same, or another, parallelism."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.jobmanager.restore import lists_for, plan_restore
from penstock.runtime.graph.job_graph import ChainedOperator, JobGraph, Vertex
from penstock.state.errors import IncompatibleStateError
from penstock.state.ids import Attempt, CheckpointId, OperatorId, VertexId
from penstock.state.snapshots import (
    CheckpointMetadata,
    OperatorSnapshot,
    OperatorStateHandle,
    SubtaskSnapshot,
)
from penstock.taskmanager.messages import SubtaskId

OP = OperatorId("op")


def elements(handle: OperatorStateHandle) -> list[str]:
    """What the handle stands for; `inline` says whose it was."""
    return [f"{handle.inline.decode()}{number}" for number in range(handle.first, handle.first + handle.count)]


def old(counts: list[int], mode: str = "split", name: str = "list") -> dict[int, OperatorSnapshot]:
    return {
        i: OperatorSnapshot(OP, lists=(OperatorStateHandle(name, mode, n, inline=b"%d/" % i),))
        for i, n in enumerate(counts)
    }


def given_to(snapshots: dict[int, OperatorSnapshot], parallelism: int, before: int) -> list[list[str]]:
    return [
        [each for handle in lists_for(snapshots, i, parallelism, before) for each in elements(handle)]
        for i in range(parallelism)
    ]


@given(st.lists(st.integers(0, 20), min_size=1, max_size=9), st.integers(1, 9))
def test_every_element_of_a_list_goes_to_one_subtask_evenly_and_in_order(counts: list[int], after: int) -> None:
    shares = given_to(old(counts), after, len(counts))
    everything = [f"{i}/{number}" for i, n in enumerate(counts) for number in range(n)]
    assert [each for share in shares for each in share] == everything
    if after == len(counts):
        assert list(map(len, shares)) == counts, "its own"
    else:
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


@given(st.lists(st.integers(0, 5), min_size=1, max_size=9), st.integers(1, 9))
def test_everybody_gets_all_of_a_union_and_one_copy_of_a_broadcast_state(counts: list[int], after: int) -> None:
    everything = [f"{i}/{number}" for i, n in enumerate(counts) for number in range(n)]
    assert given_to(old(counts, "union"), after, len(counts)) == [everything] * after
    copies = given_to(old(counts, "broadcast"), after, len(counts))
    assert copies == [
        [f"{i % len(counts)}/{number}" for number in range(counts[i % len(counts)])] for i in range(after)
    ]


def test_lists_of_several_names_are_shared_one_by_one() -> None:
    both = {
        i: OperatorSnapshot(OP, lists=(*one.lists, *other.lists))
        for (i, one), other in zip(old([2, 2], name="a").items(), old([0, 4], name="b").values(), strict=True)
    }
    shares = [{handle.name: elements(handle) for handle in lists_for(both, i, 4, 2)} for i in range(4)]
    assert shares == [
        {"a": ["0/0"], "b": ["1/0"]},
        {"a": ["0/1"], "b": ["1/1"]},
        {"a": ["1/0"], "b": ["1/2"]},
        {"a": ["1/1"], "b": ["1/3"]},
    ]


def job(parallelism: int, operator: str = "op") -> JobGraph:
    chained = ChainedOperator(OperatorId(operator), operator, operator, "map", b"", None)
    return JobGraph("job", (Vertex(VertexId("new"), "new", (chained,), parallelism, 128),), ())


def checkpoint(snapshots: dict[int, OperatorSnapshot], parallelism: int) -> CheckpointMetadata:
    return CheckpointMetadata(
        "j", "job", Attempt(1), CheckpointId(1), 0, 1, {"old": parallelism}, {"old": 128},
        tuple(
            SubtaskSnapshot(VertexId("old"), i, (snapshots[i],) if i in snapshots else ()) for i in range(parallelism)
        ),
    )  # fmt: skip


@pytest.mark.parametrize("after", [1, 2, 3, 7])
def test_the_plan_hands_them_out(after: int) -> None:
    plan = plan_restore(checkpoint(old([3, 1, 2]), 3), job(after), allow_non_restored_state=False)
    found = [
        each
        for i in range(after)
        for restored in plan.subtasks[SubtaskId(VertexId("new"), i)]
        for snapshot in restored.snapshots
        for handle in snapshot.lists
        for each in elements(handle)
    ]
    assert found == ["0/0", "0/1", "0/2", "1/0", "2/0", "2/1"]


def test_a_subtask_that_left_nothing_still_gets_what_is_everybody_s() -> None:
    snapshots = old([1, 1], "union")
    del snapshots[1]
    plan = plan_restore(checkpoint(snapshots, 2), job(2), allow_non_restored_state=False)
    for i in range(2):
        (restored,) = plan.subtasks[SubtaskId(VertexId("new"), i)]
        assert [each for s in restored.snapshots for handle in s.lists for each in elements(handle)] == ["0/0"]


def test_operator_state_is_not_lost_silently() -> None:
    with pytest.raises(IncompatibleStateError, match="does not have: op"):
        plan_restore(checkpoint(old([1]), 1), job(1, "other"), allow_non_restored_state=False)
    empty = plan_restore(checkpoint(old([0]), 1), job(1, "other"), allow_non_restored_state=False)
    assert empty.subtasks == {}
