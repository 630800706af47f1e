"""All sources of a job: their enumerators, discovery, and assignments on their way out.

Enumerators live from one restart of the whole job to the next: when only some readers restart, the others must not
notice. `attempt` is the one they were made in; answers of their discovery are recognised by it.

What holds for one source is in splits.py. An error of a connector's enumerator fails the attempt, as one of the
source's own subtasks would.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from ..runtime.connector import Source
from ..runtime.graph.job_graph import JobGraph
from ..state.errors import PenstockError, UserCodeError
from ..state.ids import CheckpointId, OperatorId, SlotId, VertexId
from ..state.serialization import pickling
from ..taskmanager.messages import AssignSplits, SubtaskId
from .events import RunBlocking, SetTimer
from .execution_graph import ANSWERS_BARRIERS, ExecutionGraph
from .orders import Orders
from .restore import RestorePlan
from .splits import Assignment, SplitCoordinator


class Sources:
    """Methods raise UserCodeError (or what the connector raised of our own errors), naming the source."""

    def __init__(self, job_graph: JobGraph, graph: ExecutionGraph, orders: Orders) -> None:
        self._graph = graph
        self._orders = orders
        self._vertices: dict[OperatorId, VertexId] = {}
        self._names: dict[OperatorId, str] = {}
        self._sources: dict[OperatorId, Source[Any]] = {}
        for vertex in job_graph.vertices:
            for operator in vertex.operators:
                if operator.id in job_graph.pickled_sources:
                    self._vertices[operator.id], self._names[operator.id] = vertex.id, operator.name
                    self._sources[operator.id] = pickling.loads(job_graph.pickled_sources[operator.id])
        self._coordinators: dict[OperatorId, SplitCoordinator] = {}
        self.attempt = graph.attempt

    @property
    def bounded(self) -> bool:
        """All of them end."""
        return all(source.bounded for source in self._sources.values())

    def slots(self) -> list[SlotId]:
        """That run a source subtask."""
        vertices = set(self._vertices.values())
        return list(dict.fromkeys(self._graph.slot_of(s) for s in self._graph.subtasks if s.vertex in vertices))

    def begin_attempt(self, plan: RestorePlan) -> None:
        self._coordinators, self.attempt = {}, self._graph.attempt
        for operator_id, source in self._sources.items():
            with self._named(operator_id):
                self._coordinators[operator_id] = SplitCoordinator(
                    source,
                    operator_id,
                    self._graph.vertices[self._vertices[operator_id]].parallelism,
                    plan.enumerators.get(operator_id),
                )
        for operator_id in self._coordinators:
            self.discover(operator_id)

    def end_attempt(self) -> None:
        self._coordinators = {}

    def failed(self, subtasks: Iterable[SubtaskId]) -> None:
        """They are being stopped, while others go on."""
        for subtask in subtasks:
            for operator_id in self._of(subtask):
                self._coordinators[operator_id].failed(subtask.index)

    def restarted(self, subtask: SubtaskId) -> None:
        """It runs, restored from the last completed checkpoint, with enumerators that have gone on."""
        for operator_id in self._of(subtask):
            self._assign(operator_id, self._coordinators[operator_id].restarted(subtask.index))

    def completed(self, checkpoint_id: CheckpointId) -> None:
        """It is in the log."""
        for coordinator in self._coordinators.values():
            coordinator.completed(checkpoint_id)

    def _of(self, subtask: SubtaskId) -> list[OperatorId]:
        return [operator_id for operator_id in self._coordinators if self._vertices[operator_id] == subtask.vertex]

    def discover(self, operator_id: OperatorId) -> None:
        """On a helper thread; the answer comes back to `discovered` or `discovery_failed`."""
        if operator_id in self._coordinators:
            call = self._coordinators[operator_id].discovery()
            self._orders.give(RunBlocking(("discover", self.attempt, operator_id), call))

    def discovered(self, operator_id: OperatorId, found: Any, now_ms: int) -> None:
        coordinator = self._coordinators.get(operator_id)
        if coordinator is None:  # the attempt has ended
            return
        with self._named(operator_id):
            self._assign(operator_id, coordinator.discovered(found))
        interval_ms = coordinator.discovery_interval_ms
        if interval_ms is not None:
            self._orders.give(SetTimer(now_ms + interval_ms, ("discover", self.attempt, operator_id)))

    def discovery_failed(self, operator_id: OperatorId, error: Exception) -> None:
        if operator_id in self._coordinators:
            with self._named(operator_id):
                raise error

    def request(self, subtask: SubtaskId, operator_id: OperatorId) -> None:
        if operator_id in self._coordinators and self._graph.state(subtask) in ANSWERS_BARRIERS:
            with self._named(operator_id):
                self._assign(operator_id, self._coordinators[operator_id].requested(subtask.index))

    def snapshot(self, checkpoint_id: CheckpointId) -> dict[str, bytes]:
        """Enumerators' states. No split changes hands until `injected` by all, or `released`."""
        states: dict[str, bytes] = {}
        for operator_id, coordinator in self._coordinators.items():
            with self._named(operator_id):
                states[operator_id] = coordinator.snapshot(checkpoint_id)
        return states

    def injected(self, subtask: SubtaskId, checkpoint_id: CheckpointId) -> None:
        for operator_id in self._of(subtask):
            with self._named(operator_id):
                self._assign(operator_id, self._coordinators[operator_id].injected(checkpoint_id, subtask.index))

    def released(self, checkpoint_id: CheckpointId) -> None:
        for operator_id, coordinator in self._coordinators.items():
            with self._named(operator_id):
                self._assign(operator_id, coordinator.released(checkpoint_id))

    def _assign(self, operator_id: OperatorId, assignments: Iterable[Assignment]) -> None:
        for assignment in assignments:
            subtask = SubtaskId(self._vertices[operator_id], assignment.subtask)
            if self._graph.state(subtask) in ANSWERS_BARRIERS:
                slot = self._graph.slot_of(subtask)
                self._orders.send([slot], AssignSplits, subtask, operator_id, assignment.splits, assignment.last)

    @contextmanager
    def _named(self, operator_id: OperatorId) -> Iterator[None]:
        try:
            yield
        except PenstockError:
            raise
        except Exception as error:
            name = self._names[operator_id]
            raise UserCodeError(f"split enumerator of {name}: {error}", operator=name, subtask=0) from error
