"""Pipelined regions: which subtasks must restart together (Flink's RestartPipelinedRegionFailoverStrategy).

Records under way between two subtasks exist nowhere else, so a subtask that is restarted from a checkpoint needs all
subtasks it is connected with, by whatever channels, to go back too. A region is a connected component of subtasks: a
keyed pipeline is one region; pipelines without a common edge, and the strands of one that only forwards, are many.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..runtime.graph.job_graph import JobGraph
from ..taskmanager.exchange.partitioners import connected
from ..taskmanager.messages import SubtaskId


class Regions:
    """Of one job graph, computed once: about one step per subtask and edge."""

    def __init__(self, graph: JobGraph) -> None:
        self._parent: dict[SubtaskId, SubtaskId] = {}
        parallelism = {vertex.id: vertex.parallelism for vertex in graph.vertices}
        for vertex in graph.vertices:
            for index in range(vertex.parallelism):
                subtask = SubtaskId(vertex.id, index)
                self._parent[subtask] = subtask
        for edge in graph.edges:
            sources, targets = parallelism[edge.source], parallelism[edge.target]
            for source in range(sources):
                reached = connected(edge.partitioning, source, sources, targets)
                for target in reached[:1] if source and len(reached) == targets else reached:
                    # who reaches all of them is joined with the first: source 0 reaches all, too, and joined them
                    self._join(SubtaskId(edge.source, source), SubtaskId(edge.target, target))
        self._members: dict[SubtaskId, list[SubtaskId]] = {}
        for subtask in self._parent:
            self._members.setdefault(self._root(subtask), []).append(subtask)

    def __len__(self) -> int:
        return len(self._members)

    def of(self, failed: Iterable[SubtaskId]) -> frozenset[SubtaskId]:
        """All subtasks that must restart when these have failed, themselves among them."""
        return frozenset(member for root in {self._root(s) for s in failed} for member in self._members[root])

    def _root(self, subtask: SubtaskId) -> SubtaskId:
        while (parent := self._parent[subtask]) != subtask:
            self._parent[subtask] = subtask = self._parent[parent]
        return subtask

    def _join(self, one: SubtaskId, other: SubtaskId) -> None:
        self._parent[self._root(one)] = self._root(other)
