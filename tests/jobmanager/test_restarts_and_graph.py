"""Restart strategies by tables; the execution graph's slots and states."""

from __future__ import annotations

import itertools

import pytest

from penstock.jobmanager.execution_graph import TRANSITIONS, ExecutionGraph, SubtaskState
from penstock.jobmanager.failures import error_of
from penstock.jobmanager.restarts import ExponentialDelay, FailureRate, FixedDelay, NoRestart, helped_by_restart
from penstock.runtime.graph.job_graph import ChainedOperator, Edge, JobGraph, Vertex
from penstock.runtime.graph.partitioning import Rebalance
from penstock.runtime.resources import NO_RESOURCES, Resources
from penstock.state.errors import MalformedRecordError, PipelineError, ProtocolError, UserCodeError
from penstock.state.ids import Attempt, Generation, JobId, OperatorId, SlotId, VertexId
from penstock.taskmanager.messages import Failed, SubtaskId

S = SubtaskState


@pytest.mark.parametrize(
    ("strategy", "failures_ms", "delay_ms"),
    [
        (NoRestart(), [0], None),
        (FixedDelay(2, 50), [0, 10], 50),
        (FixedDelay(2, 50), [0, 10, 20], None),
        (ExponentialDelay(100, 1_000), [0], 100),
        (ExponentialDelay(100, 1_000), [0, 200, 500], 400),
        (ExponentialDelay(100, 1_000), [0, 1, 2, 3, 4, 5, 6], 1_000),
        (ExponentialDelay(100, 1_000, quiet_ms=10_000), [0, 1, 2, 10_402], 100),
        (ExponentialDelay(100, 1_000, quiet_ms=10_000), [0, 1, 2, 10_401], 800),
        (ExponentialDelay(100, attempts=2), [0, 1], 200),
        (ExponentialDelay(100, attempts=2), [0, 1, 2], None),
        (ExponentialDelay(100, quiet_ms=1_000, attempts=2), [0, 1, 5_000], 100),
        (FailureRate(2, 1_000, 7), [0, 10], 7),
        (FailureRate(2, 1_000, 7), [0, 10, 20], None),
        (FailureRate(2, 1_000, 7), [0, 10, 1_000], 7),
    ],
)
def test_delays(strategy: NoRestart, failures_ms: list[int], delay_ms: int | None) -> None:
    assert strategy.delay_ms(failures_ms) == delay_ms


def test_what_comes_again_is_not_tried_again() -> None:
    assert helped_by_restart(ValueError("perhaps a service was down"))
    assert not helped_by_restart(PipelineError("no"))
    wrapped = UserCodeError("source: bad line", operator="source", subtask=0)
    wrapped.__cause__ = MalformedRecordError("line 3")
    assert not helped_by_restart(wrapped)


def test_an_unreadable_cause_leaves_the_text() -> None:
    failed = Failed(Attempt(1), SubtaskId(VertexId("v"), 0), "map", "ValueError: x", "", b"no pickle")
    assert str(error_of(failed)) == "ValueError: x"


def vertex(name: str, parallelism: int, group: str = "default", max_parallelism: int = 128) -> Vertex:
    operator = ChainedOperator(OperatorId(name), name, None, "map", b"", None)
    return Vertex(VertexId(name), name, (operator,), parallelism, max_parallelism, group)


def graph_of(*vertices: Vertex) -> ExecutionGraph:
    edges = [Edge(a.id, 0, None, b.id, 0, Rebalance()) for a, b in itertools.pairwise(vertices)]
    return ExecutionGraph(JobGraph("job", vertices, tuple(edges)))


def slots(*numbers: int) -> list[SlotId]:
    return [SlotId(f"slot-{n}") for n in numbers]


def plain(*numbers: int) -> dict[SlotId, Resources]:
    return dict.fromkeys(slots(*numbers), NO_RESOURCES)


def test_a_slot_takes_one_subtask_of_each_vertex_of_its_group() -> None:
    graph = graph_of(vertex("a", 2), vertex("b", 3), vertex("c", 1, "slow"))
    assert graph.slots_needed == (NO_RESOURCES,) * 4
    graph.begin_attempt(Attempt(1))
    graph.assign(plain(1, 2, 3, 4))
    assert [[str(s) for s in graph.in_slot(slot)] for slot in slots(1, 2, 3, 4)] == [
        ["a[0]", "b[0]"],
        ["a[1]", "b[1]"],
        ["b[2]"],
        ["c[0]"],
    ]


def test_surviving_slots_keep_their_subtasks() -> None:
    graph = graph_of(vertex("a", 3))
    graph.begin_attempt(Attempt(1))
    graph.assign(plain(1, 2, 3))
    for subtask in graph.subtasks:
        graph.move(subtask, S.CANCELED)
    graph.begin_attempt(Attempt(2))
    graph.assign(plain(1, 3, 9))
    assert [graph.slot_of(s) for s in graph.subtasks] == slots(1, 9, 3)


def test_deployments_name_the_slots_of_all_peers() -> None:
    graph = graph_of(vertex("a", 2), vertex("b", 1))
    graph.begin_attempt(Attempt(3))
    graph.assign(plain(1, 2))
    deploy = graph.deployment(
        graph.subtasks[2], generation=Generation(2), job_id=JobId("j"), restore=(), reusable_checkpoint=None, peers={}
    )
    assert deploy.inputs[0].sources == tuple(slots(1, 2))
    assert deploy.outputs == ()
    assert (deploy.generation, deploy.attempt, deploy.topological_index) == (2, 3, 1)
    first = graph.deployment(
        graph.subtasks[0], generation=Generation(2), job_id=JobId("j"), restore=(), reusable_checkpoint=None, peers={}
    )
    assert first.outputs[0].targets == tuple(slots(1))
    assert (first.target_parallelism, first.target_max_parallelism) == ({0: 1}, {0: 128})


def test_every_illegal_move_raises_with_the_history() -> None:
    for before, following in TRANSITIONS.items():
        for after in set(SubtaskState) - following:
            graph = graph_of(vertex("a", 1))
            graph._states[graph.subtasks[0]] = before
            with pytest.raises(ProtocolError, match=r"a\[0\] cannot become"):
                graph.move(graph.subtasks[0], after)


def test_reports_that_come_too_late_are_dropped() -> None:
    graph = graph_of(vertex("a", 1))
    graph.begin_attempt(Attempt(1))
    graph.assign(plain(1))
    (subtask,) = graph.subtasks
    graph.move(subtask, S.DEPLOYING)
    graph.move(subtask, S.CANCELING)
    assert not graph.report(subtask, S.INITIALIZING)
    assert graph.report(subtask, S.FAILED, "crossed the order")
    assert not graph.report(subtask, S.CANCELED)
    assert graph.history(subtask) == (
        "attempt 1 -> SCHEDULED (slot-1) -> DEPLOYING -> CANCELING -> FAILED (crossed the order)"
    )


def test_attempts_follow_each_other() -> None:
    graph = graph_of(vertex("a", 1))
    graph.begin_attempt(Attempt(1))
    graph.assign(plain(1))
    with pytest.raises(ProtocolError, match="still run"):
        graph.begin_attempt(Attempt(2))


def test_parallelism_above_max_parallelism_is_refused() -> None:
    with pytest.raises(PipelineError, match="a: parallelism 5 is above max parallelism 4"):
        graph_of(vertex("a", 5, max_parallelism=4))
