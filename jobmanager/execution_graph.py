"""The execution graph: what runs of a job graph, in which slot, and in which state.

Every vertex has `parallelism` subtasks. A failure ends those that must restart together, and the next attempt begins
with fresh ones in their place; all others keep the attempt that they were deployed with. Slot sharing puts one subtask
of each vertex of a slot sharing group into one slot, so a group needs as many slots as its widest vertex, and the job
needs the sum over its groups. All slots of a group have the resources that it asks for.

A subtask's life, and who moves it:

    CREATED       begin_attempt
    SCHEDULED     it has a slot
    DEPLOYING     Deploy is sent
    INITIALIZING  the slot answered Initialized: its state is open; it waits for all others' (Start)
    RUNNING       the slot answered Running
    DRAINED       end of input reached; barriers are still acknowledged (PROTOCOLS 10)
    FINISHED      after FinishTasks
    CANCELING     Cancel is sent
    CANCELED      the slot answered, or there was nothing to stop
    FAILED        the task failed, or its slot was lost or did not obey

A slot's answers may cross the master's orders: a task can fail, or be canceled by its slot, at any moment of its
life, and it can report progress (Initialized, Running, Drained) after it was told to stop. Reports of a subtask that
is being stopped are dropped; any other move that is not in the table is a bug and raises with the subtask's history.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping

from ..runtime.graph.job_graph import JobGraph, Vertex
from ..runtime.resources import NO_RESOURCES, Resources
from ..state.errors import PipelineError, ProtocolError
from ..state.ids import Attempt, CheckpointId, Generation, JobId, SlotId
from ..state.snapshots import InFlightHandle
from ..taskmanager.messages import Deploy, InputEdge, OutputEdge, RestoreOperator, SlotAddress, SubtaskId
from .history import Timeline


class SubtaskState(enum.Enum):
    CREATED = "CREATED"
    SCHEDULED = "SCHEDULED"
    DEPLOYING = "DEPLOYING"
    INITIALIZING = "INITIALIZING"
    RUNNING = "RUNNING"
    DRAINED = "DRAINED"
    FINISHED = "FINISHED"
    CANCELING = "CANCELING"
    CANCELED = "CANCELED"
    FAILED = "FAILED"


S = SubtaskState

TRANSITIONS: dict[SubtaskState, frozenset[SubtaskState]] = {
    S.CREATED: frozenset({S.SCHEDULED, S.CANCELED}),
    S.SCHEDULED: frozenset({S.DEPLOYING, S.CANCELED, S.FAILED}),
    S.DEPLOYING: frozenset({S.INITIALIZING, S.CANCELING, S.CANCELED, S.FAILED}),
    S.INITIALIZING: frozenset({S.RUNNING, S.CANCELING, S.CANCELED, S.FAILED}),
    S.RUNNING: frozenset({S.DRAINED, S.FINISHED, S.CANCELING, S.CANCELED, S.FAILED}),
    S.DRAINED: frozenset({S.FINISHED, S.CANCELING, S.CANCELED, S.FAILED}),
    S.CANCELING: frozenset({S.CANCELED, S.FINISHED, S.FAILED}),
    S.FINISHED: frozenset(),
    S.CANCELED: frozenset(),
    S.FAILED: frozenset(),
}
TERMINAL = frozenset(state for state, following in TRANSITIONS.items() if not following)
NOT_DEPLOYED = frozenset({S.CREATED, S.SCHEDULED})
PROGRESS = frozenset({S.INITIALIZING, S.RUNNING, S.DRAINED})
ANSWERS_BARRIERS = frozenset({S.RUNNING, S.DRAINED})


class ExecutionGraph:
    """All subtasks as they are now. Changes only by its methods; says nothing to anybody."""

    def __init__(self, job_graph: JobGraph) -> None:
        for vertex in job_graph.vertices:
            if vertex.parallelism > vertex.max_parallelism:
                raise PipelineError(
                    f"{vertex.name}: parallelism {vertex.parallelism} is above max parallelism {vertex.max_parallelism}"
                )
        self.job_graph = job_graph
        self.vertices = {vertex.id: vertex for vertex in job_graph.vertices}
        self.subtasks = tuple(SubtaskId(v.id, index) for v in job_graph.vertices for index in range(v.parallelism))
        self.attempt = Attempt(0)
        """The job's newest."""
        self._attempts = dict.fromkeys(self.subtasks, self.attempt)
        self.now_ms = 0
        """Of the event that is being handled: when what happens now is said to have happened."""
        self._timelines: dict[SubtaskId, Timeline] = {subtask: Timeline() for subtask in self.subtasks}
        self._states = dict.fromkeys(self.subtasks, S.CREATED)
        self._history: dict[SubtaskId, list[str]] = {subtask: [] for subtask in self.subtasks}
        self._positions = self._count_positions()
        self._slots: list[SlotId | None] = [None] * (max(self._positions.values(), default=-1) + 1)
        self.slots_needed = self._count_slots()
        """What each place in the row of slots asks for."""

    def _count_positions(self) -> dict[SubtaskId, int]:
        """Where in the row of slots each subtask has its place: group after group, subtask i in the group's i-th."""
        widths: dict[str, int] = {}
        for vertex in self.job_graph.vertices:
            group = vertex.slot_sharing_group
            widths[group] = max(widths.get(group, 0), vertex.parallelism)
        starts, start = {}, 0
        for group, width in widths.items():
            starts[group], start = start, start + width
        return {s: starts[self.vertices[s.vertex].slot_sharing_group] + s.index for s in self.subtasks}

    def _count_slots(self) -> tuple[Resources, ...]:
        needed = [NO_RESOURCES] * len(self._slots)
        for subtask, position in self._positions.items():
            needed[position] = self.vertices[subtask.vertex].resources
        return tuple(needed)

    # ---- slots

    def slot_or_none(self, subtask: SubtaskId) -> SlotId | None:
        return self._slots[self._positions[subtask]]

    def slot_of(self, subtask: SubtaskId) -> SlotId:
        slot = self.slot_or_none(subtask)
        if slot is None:
            raise ProtocolError(f"subtask {subtask} has no slot: {self.history(subtask)}")
        return slot

    def in_slot(self, slot: SlotId) -> list[SubtaskId]:
        return [s for s in self.subtasks if self._slots[self._positions[s]] == slot]

    # ---- attempts

    def attempt_of(self, subtask: SubtaskId) -> Attempt:
        """The one it was deployed with."""
        return self._attempts[subtask]

    def begin_attempt(self, attempt: Attempt, subtasks: Iterable[SubtaskId] | None = None) -> None:
        """Of these subtasks; None: of all."""
        scope = self.subtasks if subtasks is None else tuple(subtasks)
        running = [each for each in scope if self._states[each] not in TERMINAL | {S.CREATED}]
        if running or attempt <= self.attempt:
            raise ProtocolError(f"attempt {attempt} begins after {self.attempt} while {running[:3]} still run")
        self.attempt = attempt
        for subtask in scope:
            self._attempts[subtask] = attempt
            self._states[subtask] = S.CREATED
            self._history[subtask] = [f"attempt {attempt}"]
            self._timelines[subtask] = Timeline()
            self._timelines[subtask].enter(S.CREATED, self.now_ms)

    def assign(self, slots: Mapping[SlotId, Resources], subtasks: Iterable[SubtaskId] | None = None) -> None:
        """Give these subtasks (None: all) a slot that has what they ask for. Slots that were here before keep their
        place, and with it their subtasks."""
        kept = [slot if slot in slots else None for slot in self._slots]
        free: dict[Resources, list[SlotId]] = {}
        for slot, resources in slots.items():
            if slot not in kept:
                free.setdefault(resources, []).append(slot)
        left = {resources: iter(own) for resources, own in free.items()}
        self._slots = [
            slot or next(left.get(wanted, iter(())), None) for slot, wanted in zip(kept, self.slots_needed, strict=True)
        ]
        for subtask in self.subtasks if subtasks is None else subtasks:
            self.move(subtask, S.SCHEDULED, str(self.slot_of(subtask)))

    # ---- states

    def state(self, subtask: SubtaskId) -> SubtaskState:
        return self._states[subtask]

    def all_in(self, states: Iterable[SubtaskState], subtasks: Iterable[SubtaskId] | None = None) -> bool:
        """Of these subtasks; None: of all."""
        wanted = frozenset(states)
        return all(self._states[subtask] in wanted for subtask in (self.subtasks if subtasks is None else subtasks))

    def outside(self, states: Iterable[SubtaskState]) -> list[SubtaskId]:
        unwanted = frozenset(states)
        return [subtask for subtask, state in self._states.items() if state not in unwanted]

    def move(self, subtask: SubtaskId, state: SubtaskState, why: str = "") -> None:
        if state not in TRANSITIONS[self._states[subtask]]:
            raise ProtocolError(f"subtask {subtask} cannot become {state.value} ({why}): {self.history(subtask)}")
        self._states[subtask] = state
        self._timelines[subtask].enter(state, self.now_ms)
        self._history[subtask].append(f"{state.value} ({why})" if why else state.value)

    def report(self, subtask: SubtaskId, state: SubtaskState, why: str = "") -> bool:
        """A slot's word. False if it came too late to matter: the subtask has ended, or is being stopped."""
        current = self._states[subtask]
        if current in TERMINAL or (current is S.CANCELING and state in PROGRESS):
            return False
        self.move(subtask, state, why)
        return True

    def history(self, subtask: SubtaskId) -> str:
        return " -> ".join(self._history[subtask])

    def timeline(self, subtask: SubtaskId) -> Timeline:
        """Of its attempt."""
        return self._timelines[subtask]

    # ---- what is sent to slots

    def deployment(
        self,
        subtask: SubtaskId,
        *,
        generation: Generation,
        job_id: JobId,
        restore: tuple[RestoreOperator, ...],
        in_flight: tuple[InFlightHandle, ...] = (),
        in_flight_ends: bool = False,
        reusable_checkpoint: CheckpointId | None,
        peers: dict[SlotId, SlotAddress],
    ) -> Deploy:
        graph, vertex = self.job_graph, self.vertices[subtask.vertex]
        leaving = [(i, edge) for i, edge in enumerate(graph.edges) if edge.source == vertex.id]
        arriving = [(i, edge) for i, edge in enumerate(graph.edges) if edge.target == vertex.id]
        return Deploy(
            generation=generation,
            attempt=self.attempt_of(subtask),
            job_id=job_id,
            job_name=graph.job_name,
            vertex=vertex,
            index=subtask.index,
            inputs=tuple(
                InputEdge(
                    i,
                    edge.input_index,
                    edge.partitioning,
                    self._slots_of(self.vertices[edge.source]),
                    graph.name_of(edge),
                    graph.sender_of(edge),
                )
                for i, edge in arriving
            ),
            outputs=tuple(
                OutputEdge(
                    i, e.operator, e.tag, e.partitioning, self._slots_of(self.vertices[e.target]), graph.name_of(e)
                )
                for i, e in leaving
            ),
            target_parallelism={i: self.vertices[edge.target].parallelism for i, edge in leaving},
            target_max_parallelism={i: self.vertices[edge.target].max_parallelism for i, edge in leaving},
            topological_index=self.job_graph.vertices.index(vertex),
            restore=restore,
            in_flight=in_flight,
            in_flight_ends=in_flight_ends,
            reusable_checkpoint=reusable_checkpoint,
            config=graph.config,
            peers=peers,
        )

    def _slots_of(self, vertex: Vertex) -> tuple[SlotId, ...]:
        return tuple(self.slot_of(SubtaskId(vertex.id, index)) for index in range(vertex.parallelism))
