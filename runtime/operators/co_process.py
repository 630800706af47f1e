"""Operators of two inputs: CoMap, CoFlatMap, CoProcess, and KeyedCoProcess with state and timers per key.

They are the operators of one input with a method per input (`methods`). Batches of the two inputs come in whatever
order they arrive in; the watermark is the minimum of both (taskmanager/exchange/gate.py).

A key means the same on both inputs, so both must have keys of one type: 1 of the one would otherwise be another key
than 1.0 of the other. What annotations say is compared when the pipeline is built (api/connected.py); the first keys
of both inputs here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...state.errors import KeyTypeError
from ..batch import Batch
from ..keys import KeySelector
from ..records.record_types import RecordType
from .keyed_process import KeyedProcessOperator
from .operator import Operator, OperatorContext, RestoredState
from .stateless import FlatMapOperator, MapOperator, ProcessOperator
from .user_code import keys_by, shown


class CoMapOperator(MapOperator):
    """Runs a CoMapFunction."""

    methods = ("map1", "map2")


class CoFlatMapOperator(FlatMapOperator):
    """Runs a CoFlatMapFunction."""

    methods = ("flat_map1", "flat_map2")


class CoProcessOperator(ProcessOperator):
    """Runs a CoProcessFunction on streams without keys."""

    methods = ("process_element1", "process_element2")


class KeysOfTwoInputs(Operator):
    """What operators have in common that find keys on both inputs."""

    selectors: tuple[KeySelector, KeySelector]
    _examples: tuple[Any, Any] = (None, None)
    """A key of each input, once there was one."""

    def keys(self, batch: Batch, input_index: int = 0) -> list[Any]:
        keys = keys_by(self.selectors[input_index], batch, self.context)
        if self._examples[input_index] is None and keys:
            self._compare(next((key for key in keys if key is not None), None), input_index)
        return keys

    def _compare(self, key: Any, input_index: int) -> None:
        first, second = self._examples = (key, self._examples[1]) if input_index == 0 else (self._examples[0], key)
        if _differ(first, second):
            raise KeyTypeError(
                f"operator '{self.context.operator_name}': the keys of its two inputs are of different types, "
                f"{shown(first)} and {shown(second)}; records meet only where their keys are equal, in type as well"
            )


class KeyedCoProcessOperator(KeysOfTwoInputs, KeyedProcessOperator):
    """Runs a KeyedCoProcessFunction (or a CoProcessFunction, whose state is then the key's)."""

    methods = ("process_element1", "process_element2")

    def __init__(
        self,
        function: Any,
        selectors: tuple[KeySelector, KeySelector],
        output_type: RecordType,
        side_tags: frozenset[str] = frozenset(),
    ) -> None:
        super().__init__(function, selectors[0], output_type, side_tags)
        self.selectors = selectors


class KeyedCoMapOperator(KeyedCoProcessOperator):
    """Runs a CoMapFunction with keyed state."""

    methods = ("map1", "map2")

    def open(self, context: OperatorContext, restored: RestoredState) -> None:
        super().open(context, restored)
        self._calls = [_giving_one(call) for call in self._calls]


class KeyedCoFlatMapOperator(KeyedCoProcessOperator):
    """Runs a CoFlatMapFunction with keyed state."""

    methods = ("flat_map1", "flat_map2")

    def open(self, context: OperatorContext, restored: RestoredState) -> None:
        super().open(context, restored)
        self._calls = [_without_context(call) for call in self._calls]


def _giving_one(call: Callable[[Any], Any]) -> Callable[[Any, Any], Any]:
    return lambda value, context: (call(value),)


def _without_context(call: Callable[[Any], Any]) -> Callable[[Any, Any], Any]:
    return lambda value, context: call(value)


def _differ(one: Any, other: Any) -> bool:
    """In type, at any position; None stands beside any type."""
    if one is None or other is None:
        return False
    if isinstance(one, tuple) and isinstance(other, tuple):
        return type(one) is not type(other) or len(one) != len(other) or any(map(_differ, one, other))
    return type(one) is not type(other)
