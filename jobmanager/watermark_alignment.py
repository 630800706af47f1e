"""Alignment of sources, the master's part (FLIP-182, FLIP-217; of a source: runtime/operators/source_alignment.py).

    ReportWatermark   a source subtask of a group says, every update interval, where it is
    AlignWatermark    the answer, to that subtask alone: the lowest of all subtasks of the group

The source adds its drift and pauses what is ahead. There are no timers here, and nothing is sent unasked: whoever
pauses asks again, so a message that is lost costs one interval. The group is known by its reports alone. A subtask
that has not reported yet holds nobody back, one that says that it has nothing to read for now (None) neither, nor one
that has read all (Drained). One that is being restarted stands where it stood, so that the others do not run away from
it; when it runs it reports where it was restored. When all restart, be it under another master, the group begins anew.
"""

from __future__ import annotations

from ..taskmanager.messages import AlignWatermark, ReportWatermark, SubtaskId
from .execution_graph import ExecutionGraph, SubtaskState
from .orders import Orders

_ENDED = frozenset({SubtaskState.DRAINED, SubtaskState.FINISHED})


class WatermarkAlignments:
    """All groups of one job."""

    def __init__(self, graph: ExecutionGraph, orders: Orders) -> None:
        self._graph = graph
        self._orders = orders
        self._groups: dict[str, dict[SubtaskId, int]] = {}
        """Watermarks of those who hold the others back."""

    def begin_attempt(self) -> None:
        """All subtasks restart."""
        self._groups.clear()

    def reported(self, report: ReportWatermark) -> None:
        group = self._groups.setdefault(report.group, {})
        if report.watermark is None:
            group.pop(report.subtask, None)
        else:
            group[report.subtask] = report.watermark
        lowest = min((at for subtask, at in group.items() if self._holds(subtask)), default=None)
        self._orders.send([self._graph.slot_of(report.subtask)], AlignWatermark, report.subtask, lowest)

    def _holds(self, subtask: SubtaskId) -> bool:
        return self._graph.state(subtask) not in _ENDED
