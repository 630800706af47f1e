"""Questions for keyed state, answered by the slot that has it, between two slices (jobmanager/state_queries.py)."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ..state.errors import PenstockError
from ..state.rows.cell_reads import CellRows, NoSuchStateError
from .messages import ReadState, StateRead
from .task import Task


def read_state(order: ReadState, tasks: Iterable[Task], send: Callable[[StateRead], None]) -> None:
    """Nothing is said where that subtask does not run any more: its master learns that without this. Whatever goes
    wrong is the answer, and no failure of the task."""
    for task in tasks:
        if task.id == order.subtask and task.active:
            send(StateRead(task.attempt, task.id, order.number, *_found(task, order)))


def _found(task: Task, order: ReadState) -> tuple[CellRows | str, bool]:
    operators = zip(task.chain.described, task.chain.operators, strict=True)
    try:
        operator = next(operator for described, operator in operators if described.id == order.operator_id)
        return operator.read_state(order.read), False
    except PenstockError as error:
        return str(error), isinstance(error, NoSuchStateError)
    except Exception as error:  # of a value, say, that its function has made what cannot be encoded
        return f"it cannot be read: {error!r}", False
