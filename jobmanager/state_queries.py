"""Questions for the state of a job that runs: what does this key have in that state now? (Queryable state.)

    StateRequested   somebody asks, with the key as text. What the operator's subtasks report of their keys says which
                     key that is; its key group says whose it is
    ReadState        goes to the slot of that subtask, which answers between two slices of its work
    StateRead        the slot's answer: rows, or why there are none
    AnswerState      the loop hands it to whoever asked

What is answered is the state as it is: records that no checkpoint holds yet have changed it, and after a failure the
job goes back behind it. Asking changes nothing and is in no log.

Every question is answered once, unless the job ends before (then its loop says so): at once if it cannot be asked, by
the slot, when its subtask is stopped, or when the slot has not answered in time (a function may hold its thread).
Whatever a subtask of another attempt says is dropped before it comes here. At most MOST_OPEN wait at a time, because an
answer may take a MiB; who is refused, or hears that the subtask does not run, may ask again (503).
"""

from __future__ import annotations

from dataclasses import dataclass

from ..runtime.graph.job_graph import ChainedOperator, Vertex
from ..state.errors import PenstockError
from ..state.ids import Attempt, OperatorId
from ..state.key_groups import key_group, subtask_of
from ..state.key_signatures import merged
from ..state.rows.cell_reads import CellRead, CellRows
from ..state.savepoints.written_keys import key_of_text
from ..taskmanager.messages import ReadState, StateRead, SubtaskId
from .events import AnswerState, SetTimer, StateRequested
from .execution_graph import ANSWERS_BARRIERS, ExecutionGraph, SubtaskState
from .gateway import RefusedError, StateAnswer, StateQuestion, UnavailableError, UnknownError
from .orders import Orders
from .task_reports import TaskReports

TAG = "state"
MOST_OPEN = 16
TIMEOUT_MS = 5_000
"""A slice takes some ten ms; a function that holds the slot's thread for longer holds up its checkpoints, too."""


@dataclass(frozen=True, slots=True)
class _Open:
    subtask: SubtaskId
    attempt: Attempt
    operator: OperatorId


class StateQueries:
    """Of one job, over all its attempts."""

    def __init__(self, graph: ExecutionGraph, orders: Orders, reports: TaskReports) -> None:
        self._graph = graph
        self._orders = orders
        self._reports = reports
        self._open: dict[int, _Open] = {}

    def ask(self, event: StateRequested, now_ms: int) -> None:
        try:
            if len(self._open) >= MOST_OPEN:
                raise UnavailableError(f"{MOST_OPEN} questions for the job's state wait already; try again")
            subtask, operator, read = self._route(event.question)
        except PenstockError as error:
            self._orders.give(AnswerState(event.number, error))
            return
        self._open[event.number] = _Open(subtask, self._graph.attempt_of(subtask), operator)
        self._orders.send([self._graph.slot_of(subtask)], ReadState, subtask, event.number, operator, read)
        self._orders.give(SetTimer(now_ms + TIMEOUT_MS, (TAG, event.number)))

    def answered(self, message: StateRead) -> None:
        asked = self._open.get(message.number)
        if asked is None:  # it was given up
            return
        if isinstance(message.found, CellRows):
            self._answer(message.number, StateAnswer(asked.operator, asked.subtask.index, message.found))
        else:
            self._answer(message.number, (UnknownError if message.unknown else RefusedError)(message.found))

    def overdue(self, number: int) -> None:
        if number in self._open:
            subtask = self._open[number].subtask
            self._give_up(number, f"{subtask} has not answered within {TIMEOUT_MS / 1_000:g} s: a function holds it up")

    def look(self) -> None:
        """Whose subtask does not run any more."""
        for number, asked in list(self._open.items()):
            if self._graph.attempt_of(asked.subtask) != asked.attempt or not self._runs(asked.subtask):
                self._give_up(number, f"{asked.subtask} was stopped before it answered")

    def _runs(self, subtask: SubtaskId) -> bool:
        return self._graph.state(subtask) in ANSWERS_BARRIERS

    def _give_up(self, number: int, why: str) -> None:
        self._answer(number, UnavailableError(f"{why}; try again"))

    def _answer(self, number: int, answer: StateAnswer | PenstockError) -> None:
        del self._open[number]
        self._orders.give(AnswerState(number, answer))

    # ---- whose it is

    def _route(self, question: StateQuestion) -> tuple[SubtaskId, OperatorId, CellRead]:
        """KeyTypeError, and the gateway's errors."""
        vertex, operator = self._find(question.operator)
        subtasks = [SubtaskId(vertex.id, index) for index in range(vertex.parallelism)]
        reported = [states[operator.id] for each in subtasks if operator.id in (states := self._reports.states(each))]
        keys = merged(each.keys for each in reported)
        if not keys and not all(map(self._has_reported, subtasks)):
            raise UnavailableError(f"not all subtasks of operator '{operator.name}' have reported yet; try again")
        key, encoded = key_of_text(question.key, keys)
        entry = None
        if question.entry is not None:
            named = (each.states.get(question.state) for each in reported)
            _entry, entry = key_of_text(question.entry, merged(each.keys for each in named if each is not None))
        group = key_group(key, vertex.max_parallelism)
        subtask = subtasks[subtask_of(group, vertex.parallelism, vertex.max_parallelism)]
        if not self._runs(subtask):
            raise UnavailableError(f"{subtask} is {self._graph.state(subtask).value} at the moment; try again")
        return subtask, operator.id, CellRead(question.state, encoded, question.namespace, entry)

    def _find(self, text: str) -> tuple[Vertex, ChainedOperator]:
        """By id, uid, or name if only one has it."""
        every = [(vertex, each) for vertex in self._graph.job_graph.vertices for each in vertex.operators]
        for found in (
            [pair for pair in every if text in (pair[1].id, pair[1].uid)],
            [pair for pair in every if text == pair[1].name],
        ):
            if len(found) == 1:
                return found[0]
            if found:
                raise RefusedError(f"several operators are called '{text}': {', '.join(o.id for _v, o in found)}")
        keyed = ", ".join(f"'{name}'" for name in self._keyed())
        raise UnknownError(f"the job has no operator '{text}'; those with state by key: {keyed or 'none'}")

    def _keyed(self) -> list[str]:
        """Operators that have."""
        found = {
            name for each in self._graph.subtasks for name, held in self._reports.states(each).items() if held.states
        }
        return sorted(found)

    def _has_reported(self, subtask: SubtaskId) -> bool:
        """Since it runs. While its state was restored it could not know what is in it."""
        began_ms = self._graph.timeline(subtask).entered().get(SubtaskState.RUNNING.value, self._graph.now_ms)
        return self._reports.received_ms(subtask) > began_ms
