"""Windowed join and co_group: the records that two streams have of a key in a window, given to one function.

It is the window operators (runtime/windows) with two inputs: assigner and trigger see the records of both as they come,
as one stream, and so does an evictor; contents are kept per side (contents.py), each typed as its side is. A window
fires with what it has of both sides. That one of them has nothing is up to the function: a co_group function is given
an empty list, a join gives out what `how` says. What comes late of either side goes to that side's late output, and is
counted.

Aligned windows that are given out at their end and over with it are so for all keys at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from types import GeneratorType
from typing import Any, cast

from ...state.backend import KeyedStateBackend, ListState
from ...state.descriptors import ListStateDescriptor
from ..batch import NO_TIMESTAMP, Batch, Int64Array
from ..functions import RuntimeContext, WindowContext, callable_of
from ..keys import KeySelector
from ..operators.co_process import KeysOfTwoInputs
from ..operators.keyed import ROWS_AT_ONCE
from ..operators.running import state_type
from ..operators.user_code import raise_user_error, shown
from ..records.record_types import RecordType
from ..windows.assigner import AlignedWindows, WindowAssigner
from ..windows.building import given_out_at_end, operator_class
from ..windows.custom_windows import CustomWindowOperator, MergingWindowOperator
from ..windows.evaluations import Evaluation, add_to_lists
from ..windows.evicting import Evicting
from ..windows.evictors import Evictor, TimestampedValue
from ..windows.session_operator import SessionOperator
from ..windows.trigger import Trigger
from ..windows.window_operator import WindowOperator
from .contents import Contents
from .functions import LEFT, gives_what_may_change

Types = tuple[RecordType, RecordType]
_NAMES = ("left", "right")


class Sides(Evaluation):
    """Keeps the elements of both sides for a CoGroupFunction, or callable(left elements, right elements)."""

    side = LEFT
    """Where what is added comes from."""

    def __init__(self, function: Any, types: Types) -> None:
        super().__init__(function)
        self.types = types

    def create_state(self, backend: KeyedStateBackend, input_type: RecordType | None) -> None:
        self._contents = [Contents(backend, name, kind) for name, kind in zip(_NAMES, self.types, strict=True)]

    def open_functions(self, context: RuntimeContext) -> None:
        super().open_functions(context)
        self._co_group = callable_of(self.function, "co_group")

    def add(self, keys: Sequence[Any], rows: Sequence[Any], timestamps: Int64Array) -> list[int]:
        return self._contents[self.side].add(keys, rows)

    def kept(self) -> list[Any]:
        groups = [contents.get() for contents in self._contents]
        return groups if any(groups) else []

    def take_all(self, keys: Sequence[Any]) -> Iterable[tuple[Sequence[Any], ...]]:
        """What both sides have of each of the keys; they have nothing afterwards. Leaves no current key."""
        return zip(*[contents.take_all(keys) for contents in self._contents], strict=True)

    def kept_of(self, elements: Sequence[Any]) -> list[Any]:
        """elements: (side, record)."""
        return [[record for of, record in elements if of == side] for side in range(2)]

    def results_of(self, key: Any, context: WindowContext, kept: list[Any]) -> Iterable[Any] | None:
        produced: Iterable[Any] | None = self._co_group(*kept)
        return produced

    def clear(self) -> None:
        for contents in self._contents:
            contents.clear()

    def merge(self, target: int, sources: Sequence[int]) -> None:
        moved: list[list[Any]] = [[] for _ in self._contents]
        for namespace in sources:
            self._set_namespace(namespace)
            for rows, contents in zip(moved, self._contents, strict=True):
                rows += contents.get()
                contents.clear()
        self._set_namespace(target)
        for rows, contents in zip(moved, self._contents, strict=True):
            contents.extend(rows)


class _Sided(TimestampedValue):
    """An element as an evictor is given it, that knows where it came from."""

    side: int


class EvictingSides(Evicting):
    """Both sides in one list, in the order they came: (is it of the left, timestamp, left record, right record)."""

    evaluation: Sides
    side = LEFT

    def create_state(self, backend: KeyedStateBackend, input_type: RecordType | None) -> None:
        left, right = map(state_type, self.evaluation.types)
        known = left is not None and right is not None
        kind = tuple[bool, int, left | None, right | None] if known else None  # type: ignore[valid-type]
        self._state: ListState[Any] = backend.list_state(ListStateDescriptor(self.state_name, kind))

    def add(self, keys: Sequence[Any], rows: Sequence[Any], timestamps: Int64Array) -> list[int]:
        entries = [_entry(self.side, at, row) for at, row in zip(timestamps.tolist(), rows, strict=True)]
        return add_to_lists(self._state, self._set_key, keys, entries)

    def kept(self) -> list[Any]:
        return self.left_of(self.elements_of(self._state.get()))

    def elements_of(self, stored: Sequence[Any]) -> list[TimestampedValue]:
        elements = []
        for is_left, at, left, right in stored:
            element = _Sided(left if is_left else right, None if at == NO_TIMESTAMP else at)
            element.side = int(not is_left)
            elements.append(element)
        return cast(list[TimestampedValue], elements)

    def stored_of(self, elements: Sequence[TimestampedValue]) -> list[Any]:
        return [
            _entry(each.side, NO_TIMESTAMP if each.timestamp is None else each.timestamp, each.value)
            for each in cast(Sequence[_Sided], elements)
        ]

    def left_of(self, elements: Sequence[TimestampedValue]) -> list[Any]:
        return self.kept_of([(each.side, each.value) for each in cast(Sequence[_Sided], elements)])


def _entry(side: int, at: int, row: Any) -> tuple[bool, int, Any, Any]:
    return (True, at, row, None) if side == LEFT else (False, at, None, row)


class _OfTwoInputs(KeysOfTwoInputs, WindowOperator):
    """What makes a window operator one of two inputs."""

    evaluation: Sides | EvictingSides

    def __init__(
        self,
        selectors: tuple[KeySelector, KeySelector],
        *of_windows: Any,
        late_tags: tuple[str | None, str | None] = (None, None),
        **options: Any,
    ) -> None:
        super().__init__(selectors[0], *of_windows, **options)
        self.selectors = selectors
        self.late_tags = late_tags
        self.side_tags |= {tag for tag in late_tags if tag is not None}
        sides = self.evaluation if isinstance(self.evaluation, Sides) else self.evaluation.evaluation
        self._apart = gives_what_may_change(sides.function, sides.types)

    def process_batch(self, batch: Batch, input_index: int) -> None:
        self.evaluation.side = input_index
        self.late_tag = self.late_tags[input_index]
        super().process_batch(batch, input_index)

    def _give_out(self, keep: bool) -> None:
        """keep: says nothing here, for a function is given lists of its own."""
        self._take(self.evaluation.results(self._at_hand.key, self._at_hand))

    def _take(self, produced: Iterable[Any] | None) -> None:
        """What the window at hand gives. A product may be large: it goes on piece by piece."""
        if produced is None:
            return
        collector, timestamp = self._at_hand.collector, self._at_hand.window().max_timestamp()
        if type(produced) is not GeneratorType:
            collector.take(produced, timestamp, apart=self._apart)
            return
        while part := list(islice(produced, ROWS_AT_ONCE)):
            collector.take(part, timestamp, apart=self._apart)
            if collector.held >= ROWS_AT_ONCE:
                collector.emit()


class WindowJoinOperator(_OfTwoInputs):
    """Aligned windows."""


class WindowJoinAtEndOperator(WindowJoinOperator):
    """Those with the trigger they come with, and without an evictor."""

    evaluation: Sides

    def _on_timers(self, timestamp: int, keys: list[Any], number: int, event_time: bool) -> None:
        window = cast(AlignedWindows, self.assigner).window_at(number)
        if timestamp != self._cleanup_time(window):
            super()._on_timers(timestamp, keys, number, event_time)
            return
        self.backend.set_namespace(number)
        groups = self.evaluation.take_all(keys)
        if timestamp > window.max_timestamp():
            return
        for key, sides in zip(keys, groups, strict=True):
            self._at_hand.move_to(key, window, number, number)
            try:
                self._take(self.evaluation.results_of(key, self._at_hand, [*sides]))
            except Exception as error:
                raise_user_error(self.context, error, f"in {window} of key {shown(key)}")


class SessionJoinOperator(_OfTwoInputs, SessionOperator):
    """Sessions with the trigger they come with."""


class CustomWindowJoinOperator(_OfTwoInputs, CustomWindowOperator):
    """A user's own windows."""


class MergingWindowJoinOperator(_OfTwoInputs, MergingWindowOperator):
    """Other windows that merge."""


_OF_TWO: dict[type[WindowOperator], type[_OfTwoInputs]] = {
    WindowOperator: WindowJoinOperator,
    SessionOperator: SessionJoinOperator,
    CustomWindowOperator: CustomWindowJoinOperator,
    MergingWindowOperator: MergingWindowJoinOperator,
}


def window_join_operator(
    selectors: tuple[KeySelector, KeySelector],
    assigner: WindowAssigner,
    function: Any,
    types: Types,
    output_type: RecordType,
    *,
    trigger: Trigger | None = None,
    evictor: Evictor | None = None,
    **options: Any,
) -> WindowOperator:
    """function: a CoGroupFunction (PairsOf for a join), or a callable like its method. types: of the two sides.
    `options`: late_tags, and what WindowOperator takes. PipelineError when these do not go together."""
    sides = Sides(function, types)
    kind = _OF_TWO[operator_class(assigner, sides, trigger, evictor)]
    if kind is WindowJoinOperator and evictor is None and given_out_at_end(assigner, trigger):
        kind = WindowJoinAtEndOperator
    evaluation = sides if evictor is None else EvictingSides(sides, evictor)
    return kind(selectors, assigner, evaluation, output_type, trigger=trigger, **options)
