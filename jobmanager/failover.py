"""Failover by pipelined region: who restarts after a failure, and who goes on (docs/decisions/0018).

The *scope* are the subtasks that are being stopped, restored and started, from the failure until the job is RUNNING
again; for the first attempt all of them. A failure puts the regions of what has failed into it (regions.py); one that
is no subtask's (an enumerator's, say) concerns all. While the job is RESTARTING or STARTING the scope grows with each
further failure outside of it: those regions are stopped, too, and restart together with the first ones.

What is not in the scope *survives*: it keeps its attempt, its state, its channels and its open files, reads on and is
given splits. There are no checkpoints before all run again, so nothing that survivors write becomes visible meanwhile.

A scope of all subtasks is a full restart: enumerators are made anew, and what dead attempts left pending in the sinks
is removed. After a restart of some this cannot be done (survivors write under older attempts), so it is left until
the next full restart, or until the job ends (`left_pending`, ending.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property

from ..taskmanager.messages import SubtaskId
from .events import Event, SlotsDenied
from .execution_graph import ExecutionGraph
from .regions import Regions


class Failover:
    """Of one job, over all its attempts."""

    def __init__(self, graph: ExecutionGraph, *, by_region: bool) -> None:
        self._graph = graph
        self._by_region = by_region
        self.everyone = frozenset(graph.subtasks)
        self.scope = self.everyone
        """Empty while all run undisturbed."""
        self.left_pending = False
        """Dead subtasks may have left output in the sinks that was never handed to a checkpoint."""

    @cached_property
    def _regions(self) -> Regions:
        return Regions(self._graph.job_graph)

    @property
    def full(self) -> bool:
        return self.scope == self.everyone

    def grow(self, failed: Iterable[SubtaskId] | None) -> frozenset[SubtaskId]:
        """These have failed, None: all. Answers who comes into the scope by that."""
        wanted = self.everyone if failed is None or not self._by_region else self._regions.of(failed)
        new = wanted - self.scope
        self.scope |= wanted
        return new

    def all_run(self) -> None:
        self.scope = frozenset()

    def ordered(self) -> list[SubtaskId]:
        """The scope, in the order of the graph."""
        return [subtask for subtask in self._graph.subtasks if subtask in self.scope]

    def concerned(self, event: Event) -> list[SubtaskId] | None:
        """Whom an error concerns that is no subtask's, while some are being set up: those, if it is about that. None:
        all."""
        tag = getattr(event, "tag", ("",))
        return self.ordered() if isinstance(event, SlotsDenied) or tag[0] in ("restore", "slots") else None
