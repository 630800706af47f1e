"""What running subtasks report about themselves: their counters as they stand, and rates between two reports.

Rates are differences of two reports of the same subtask over the difference of their times on the slot's own clock,
so a report that was late on its way changes nothing. A slot that hangs sends none: its rates stay as they were, and
`reported_at_ms` says how old they are.

What slots ask of the object store is counted per process, over all attempts: the sum only grows, also when slots die.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from ..runtime.elements import MIN_WATERMARK
from ..runtime.graph.job_graph import Vertex
from ..state.ids import SlotId
from ..state.statistics import StateStatistics
from ..state.store.counted_objects import ObjectCounts, summed
from ..taskmanager.messages import SubtaskId, TaskReport
from .events import VertexStatus
from .execution_graph import ExecutionGraph
from .views import NEVER, SubtaskMetrics

SHORTEST_INTERVAL_NS = 500_000_000
"""A rate over less is noise: reports that follow closer on another (at a subtask's end) are measured from further
back."""
SLOTS_APART = 1_000
"""So many slots' counts are kept apart: more than report within a second. Of those that were heard before, the sum."""


class _Reported:
    """The last report of one subtask, and the one its rates are measured from."""

    __slots__ = ("base", "last", "received_ms")

    def __init__(self, first: TaskReport, now_ms: int) -> None:
        self.base: TaskReport | None = None
        """None: the beginning of the attempt."""
        self.last, self.received_ms = first, now_ms

    def received(self, report: TaskReport, now_ms: int) -> None:
        if self.base is None or self.last.at_ns - self.base.at_ns >= SHORTEST_INTERVAL_NS:
            self.base = self.last
        self.last, self.received_ms = report, now_ms

    def metrics(self) -> SubtaskMetrics:
        last, base = self.last, self.base
        lived_ms = last.busy_ms + last.idle_ms + last.backpressured_ms
        seconds = lived_ms / 1e3 if base is None else (last.at_ns - base.at_ns) / 1e9

        def rate(value: float, before: float) -> float:
            return max(0.0, (value - before) / seconds) if seconds > 0 else 0.0

        return SubtaskMetrics(
            records_in=last.records_in,
            records_out=last.records_out,
            bytes_in=last.bytes_in,
            bytes_out=last.bytes_out,
            busy_ms=last.busy_ms,
            idle_ms=last.idle_ms,
            backpressured_ms=last.backpressured_ms,
            records_in_rate=rate(last.records_in, base.records_in if base else 0),
            records_out_rate=rate(last.records_out, base.records_out if base else 0),
            bytes_in_rate=rate(last.bytes_in, base.bytes_in if base else 0),
            bytes_out_rate=rate(last.bytes_out, base.bytes_out if base else 0),
            busy_rate=rate(last.busy_ms, base.busy_ms if base else 0.0),
            idle_rate=rate(last.idle_ms, base.idle_ms if base else 0.0),
            backpressured_rate=rate(last.backpressured_ms, base.backpressured_ms if base else 0.0),
            watermark=last.watermark,
            counters={name: float(value) for name, value in last.counters.items()},
            reported_at_ms=self.received_ms,
            details=last.details,
        )


class TaskReports:
    """Of all subtasks, as long as they live."""

    def __init__(self) -> None:
        self._reports: dict[SubtaskId, _Reported] = {}
        self._objects: dict[SlotId, ObjectCounts] = {}
        """By slot, the one that was heard last at the end."""
        self._earlier = ObjectCounts()

    def forget(self, subtasks: Iterable[SubtaskId]) -> None:
        """They restart."""
        for subtask in subtasks:
            self._reports.pop(subtask, None)

    def received(self, report: TaskReport, now_ms: int) -> None:
        if report.objects is not None:
            self._objects.pop(report.objects.slot, None)
            self._objects[report.objects.slot] = report.objects.counts
            if len(self._objects) > SLOTS_APART:
                self._earlier = summed([self._earlier, self._objects.pop(next(iter(self._objects)))])
        reported = self._reports.get(report.subtask)
        if reported is None:
            self._reports[report.subtask] = _Reported(report, now_ms)
        else:
            reported.received(report, now_ms)

    def metrics(self, subtask: SubtaskId) -> SubtaskMetrics:
        """Zeros for one that has not reported yet."""
        reported = self._reports.get(subtask)
        return SubtaskMetrics() if reported is None else reported.metrics()

    def received_ms(self, subtask: SubtaskId) -> int:
        """When it was heard last; -1: never."""
        reported = self._reports.get(subtask)
        return NEVER if reported is None else reported.received_ms

    def states(self, subtask: SubtaskId) -> Mapping[str, StateStatistics]:
        """By operator id; none for one that has not reported yet."""
        reported = self._reports.get(subtask)
        return {} if reported is None else reported.last.details.states

    def objects(self) -> ObjectCounts:
        """What all slots of the job have asked of the object store."""
        return summed([self._earlier, *self._objects.values()])

    def vertices(self, graph: ExecutionGraph) -> tuple[VertexStatus, ...]:
        return tuple(self._vertex(vertex, graph) for vertex in graph.job_graph.vertices)

    def _vertex(self, vertex: Vertex, graph: ExecutionGraph) -> VertexStatus:
        subtasks = [SubtaskId(vertex.id, index) for index in range(vertex.parallelism)]
        reports = [self._reports[subtask].last for subtask in subtasks if subtask in self._reports]
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
