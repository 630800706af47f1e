"""A window with an evictor: it keeps its elements one by one, with their timestamps, and evaluates them when it fires.

At every firing the elements that the evictor leaves are what the window keeps.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast

from ...state.backend import KeyedStateBackend, ListState
from ...state.descriptors import ListStateDescriptor
from ..batch import NO_TIMESTAMP, Int64Array
from ..functions import RuntimeContext, WindowContext
from ..operators.running import state_type
from ..operators.user_code import check_produced
from ..records.record_types import RecordType
from .evaluations import Evaluation, Process, add_to_lists, merge_lists
from .evictors import Evictor, EvictorContext, TimestampedValue


class Evicting(Evaluation):
    """Another evaluation, of what an evictor leaves."""

    def __init__(self, evaluation: Evaluation, evictor: Evictor) -> None:
        super().__init__(evaluation.function, evaluation.window_function)
        self.evaluation = evaluation
        self.evictor = evictor

    def open_functions(self, context: RuntimeContext) -> None:
        self.evaluation.open_functions(context)

    def create_state(self, backend: KeyedStateBackend, input_type: RecordType | None) -> None:
        kind = None if input_type is None else state_type(input_type)
        timed = None if kind is None else tuple[int, kind]  # type: ignore[valid-type]
        self._state: ListState[Any] = backend.list_state(ListStateDescriptor(self.state_name, timed))

    def add(self, keys: Sequence[Any], rows: Sequence[Any], timestamps: Int64Array) -> list[int]:
        return add_to_lists(self._state, self._set_key, keys, list(zip(timestamps.tolist(), rows, strict=True)))

    def kept(self) -> list[Any]:
        return self.kept_of([value for _timestamp, value in self._state.get()])

    def kept_of(self, elements: Sequence[Any]) -> list[Any]:
        return self.evaluation.kept_of(elements)

    def clear(self) -> None:
        self._state.clear()

    def merge(self, target: int, sources: Sequence[int]) -> None:
        merge_lists(self._state, self._set_namespace, target, sources)

    def results(self, key: Any, context: WindowContext) -> Iterator[Any]:
        """What is evicted after the function is so when this has been drained."""
        stored = self._state.get()
        if not stored:
            return
        elements = self.elements_of(stored)
        window, ctx = context.window(), cast(EvictorContext, context)
        self.evictor.evict_before(elements, len(elements), window, ctx)
        kept = self.left_of(elements)
        if kept or isinstance(self.evaluation, Process):
            yield from _iterable(self.evaluation.results_of(key, context, kept))
        self.evictor.evict_after(elements, len(elements), window, ctx)
        if len(elements) < len(stored):
            self._state.update(self.stored_of(elements))

    def elements_of(self, stored: Sequence[Any]) -> list[TimestampedValue]:
        """As an evictor is given them."""
        return [TimestampedValue(row, None if at == NO_TIMESTAMP else at) for at, row in stored]

    def stored_of(self, elements: Sequence[TimestampedValue]) -> list[Any]:
        return [(NO_TIMESTAMP if at is None else at, row) for row, at in elements]

    def left_of(self, elements: Sequence[TimestampedValue]) -> list[Any]:
        """What a window function is given of what was not evicted."""
        return self.kept_of([each.value for each in elements])


def _iterable(produced: Iterable[Any] | None) -> Iterable[Any]:
    if produced is None:
        return ()
    check_produced(produced)
    return produced
