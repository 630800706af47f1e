"""What is told of the state of a job that runs: which states there are, and what a key has in one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from typing_extensions import TypedDict

from ...state.key_signatures import Signature, merged, show
from ...state.rows.cell_reads import readable
from ...state.statistics import StateStatistics
from ..gateway import StateAnswer, StateQuestion
from ..views import JobView, OperatorView

State = TypedDict(
    "State",
    {
        "operator": str,
        "operator-name": str,
        "name": str,
        "kind": str,
        "key": str,
        "map-key": str | None,
        "type": str,
        "entries": int,
        "bytes": int,
    },
)
"""`operator`: its id, which is its uid if it has one. Types as one would write them; of keys empty as long as none has
come. `map-key`: null but for maps."""


class States(TypedDict):
    states: list[State]


class KeyedValue(TypedDict):
    """`found`: the key has something there, and if a map's entry was asked for, there is one; else `value` is null.
    `truncated`: `value` has only the first elements or entries."""

    operator: str
    subtask: int
    name: str
    kind: str
    namespace: int
    found: bool
    value: Any
    truncated: bool


def states(view: JobView) -> States:
    return {"states": [state for vertex in view.vertices for each in vertex.operators for state in _of(view, each)]}


def _of(view: JobView, operator: OperatorView) -> Iterator[State]:
    reported = _reported(view, operator)
    names = dict.fromkeys(name for each in reported for name in each.states)
    for name in sorted(names):
        named = [each.states[name] for each in reported if name in each.states]
        yield {
            "operator": operator.id,
            "operator-name": operator.name,
            "name": name,
            "kind": named[0].kind,
            "key": _types(each.keys for each in reported),
            "map-key": _types(each.keys for each in named) if named[0].kind == "map" else None,
            "type": named[0].type,
            "entries": sum(each.entries for each in named),
            "bytes": sum(each.bytes for each in named),
        }


def keyed_value(question: StateQuestion, answer: StateAnswer) -> KeyedValue:
    value, truncated = readable(answer.cell, entry=question.entry is not None)
    return {
        "operator": answer.operator,
        "subtask": answer.subtask,
        "name": question.state,
        "kind": answer.cell.kind,
        "namespace": question.namespace,
        "found": bool(answer.cell.rows),
        "value": value,
        "truncated": truncated,
    }


def _reported(view: JobView, operator: OperatorView) -> list[StateStatistics]:
    found = (s.metrics.details.states.get(operator.id) for vertex in view.vertices for s in vertex.subtasks)
    return [each for each in found if each is not None]


def _types(signatures: Iterable[Iterable[Signature]]) -> str:
    return " or ".join(map(show, merged(signatures)))
