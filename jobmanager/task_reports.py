"""What running subtasks report about themselves, summed up per vertex for whoever looks at the job."""

from __future__ import annotations

from collections import Counter

from ..runtime.elements import MIN_WATERMARK
from ..runtime.graph.job_graph import Vertex
from ..taskmanager.messages import SubtaskId, TaskReport
from .events import VertexStatus
from .execution_graph import ExecutionGraph


class TaskReports:
    """The last report of every subtask of the current attempt."""

    def __init__(self) -> None:
        self._reports: dict[SubtaskId, TaskReport] = {}

    def clear(self) -> None:
        self._reports = {}

    def received(self, report: TaskReport) -> None:
        self._reports[report.subtask] = report

    def vertices(self, graph: ExecutionGraph) -> tuple[VertexStatus, ...]:
        return tuple(self._vertex(vertex, graph) for vertex in graph.job_graph.vertices)

    def _vertex(self, vertex: Vertex, graph: ExecutionGraph) -> VertexStatus:
        subtasks = [SubtaskId(vertex.id, index) for index in range(vertex.parallelism)]
        reports = [self._reports[subtask] for subtask in subtasks if subtask in self._reports]
        counters: Counter[str] = Counter()
        for report in reports:
            counters.update(report.counters)
        everyone = len(reports) == len(subtasks)
        return VertexStatus(
            id=vertex.id,
            name=vertex.name,
            parallelism=vertex.parallelism,
            subtask_states=tuple(graph.state(subtask).value for subtask in subtasks),
            records_in=sum(report.records_in for report in reports),
            records_out=sum(report.records_out for report in reports),
            bytes_in=sum(report.bytes_in for report in reports),
            bytes_out=sum(report.bytes_out for report in reports),
            watermark=min((report.watermark for report in reports), default=MIN_WATERMARK)
            if everyone
            else MIN_WATERMARK,
            busy_ms=sum(report.busy_ms for report in reports),
            idle_ms=sum(report.idle_ms for report in reports),
            backpressured_ms=sum(report.backpressured_ms for report in reports),
            counters=dict(counters),
        )
