"""Reducing and aggregating state: value state that a function of the descriptor folds into."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from ..backend import AggregatingState, ReducingState, ValueState

V = TypeVar("V")
R = TypeVar("R")


class FoldedReducingState(ReducingState[V], Generic[V]):
    """The value is what was added, reduced."""

    def __init__(self, values: ValueState[V], reduce: Callable[[V, V], V]) -> None:
        self._values = values
        self._reduce = reduce

    def get(self) -> V | None:
        return self._values.value()

    def add(self, value: V) -> None:
        known = self._values.value()
        self._values.update(value if known is None else self._reduce(known, value))

    def clear(self) -> None:
        self._values.clear()


class FoldedAggregatingState(AggregatingState[V, R], Generic[V, R]):
    """The value is an accumulator."""

    def __init__(self, accumulators: ValueState[Any], function: Any) -> None:
        """function: with create_accumulator, add and get_result, as an AggregateFunction."""
        self._accumulators = accumulators
        self._function = function

    def get(self) -> R | None:
        accumulator = self._accumulators.value()
        if accumulator is None:
            return None
        result: R = self._function.get_result(accumulator)
        return result

    def add(self, value: V) -> None:
        accumulator = self._accumulators.value()
        if accumulator is None:
            accumulator = self._function.create_accumulator()
        self._accumulators.update(self._function.add(value, accumulator))

    def accumulator(self) -> Any:
        """As it is in state; None when nothing was added."""
        return self._accumulators.value()

    def merge(self, accumulator: Any) -> None:
        """Take in what was aggregated elsewhere."""
        own = self._accumulators.value()
        self._accumulators.update(accumulator if own is None else self._function.merge(own, accumulator))

    def clear(self) -> None:
        self._accumulators.clear()
