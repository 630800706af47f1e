"""Which subtasks restart together."""

from __future__ import annotations

from pathlib import Path

import penstock as ps
from penstock.jobmanager.regions import Regions
from penstock.runtime.graph.job_graph import JobGraph
from penstock.taskmanager.messages import SubtaskId
from penstock.testing import ListSink


def subtasks(graph: JobGraph, name: str) -> list[SubtaskId]:
    vertex = next(vertex for vertex in graph.vertices if name in vertex.name)
    return [SubtaskId(vertex.id, index) for index in range(vertex.parallelism)]


def test_a_keyed_pipeline_is_one_region(tmp_path: Path) -> None:
    env = ps.StreamExecutionEnvironment().set_parallelism(3)
    env.from_sequence(1, 9).key_by(lambda n: n % 3).reduce(lambda a, b: a + b).sink_to(ListSink([]))
    graph = env.job_graph("keyed")
    regions = Regions(graph)
    everything = frozenset(SubtaskId(v.id, i) for v in graph.vertices for i in range(v.parallelism))
    assert len(regions) == 1
    assert regions.of([next(iter(everything))]) == everything


def test_strands_that_only_forward_are_regions_of_their_own() -> None:
    env = ps.StreamExecutionEnvironment().set_parallelism(3).disable_operator_chaining()
    env.from_sequence(1, 9, name="numbers").map(lambda n: n + 1, name="plus").sink_to(ListSink([]), name="out")
    graph = env.job_graph("forward")
    regions = Regions(graph)
    assert len(regions) == 3
    numbers, plus, out = (subtasks(graph, name) for name in ("numbers", "plus", "out"))
    assert regions.of([plus[1]]) == {numbers[1], plus[1], out[1]}
    assert regions.of([plus[1], out[2]]) == {numbers[1], plus[1], out[1], numbers[2], plus[2], out[2]}


def test_pipelines_without_a_common_edge_are_regions_of_their_own() -> None:
    env = ps.StreamExecutionEnvironment().set_parallelism(2)
    for name in ("one", "two"):
        env.from_sequence(1, 9, name=name).key_by(lambda n: n).reduce(lambda a, b: a).sink_to(
            ListSink([]), name=f"out {name}"
        )
    graph = env.job_graph("two")
    regions = Regions(graph)
    assert len(regions) == 2
    region = regions.of(subtasks(graph, "one")[:1])
    assert set(subtasks(graph, "one")) < region
    assert not region & set(subtasks(graph, "two"))
