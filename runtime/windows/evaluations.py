"""What a window keeps of its elements, and what it makes of that when it fires.

Reduce and Aggregate keep one value per key and window, folded batch by batch; Process and Apply keep the elements.
A window function (process or apply) then makes results of what was kept; without one it is the result itself.
All methods work in the backend's current namespace, which is that of the window's contents (or of a slice of windows
that share slices).
"""

from __future__ import annotations

import copy
import typing
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from typing import Any, cast

from ...state.backend import KeyedStateBackend, ListState, ValueState
from ...state.descriptors import ListStateDescriptor, ValueStateDescriptor
from ...state.errors import StateError
from ...state.rows.handles import CachedValueState
from ...state.serialization.serializers import ATOMIC_TYPES, serializer_for
from ..batch import Int64Array
from ..functions import AggregateFunction, RuntimeContext, WindowContext, callable_of, close_function, open_function
from ..operators.running import state_type
from ..operators.user_code import is_immutable
from ..records.record_types import RecordType, RowType, record_type_of


class Evaluation(ABC):
    """State and function of a window operator's windows. Picklable until it is opened."""

    state_name = "window-contents"

    def __init__(self, function: Any, window_function: Any = None) -> None:
        """`window_function`: a ProcessWindowFunction, WindowFunction, or callable(key, context, elements)."""
        self.function = function
        self.window_function = window_function

    def open(self, context: RuntimeContext, backend: KeyedStateBackend, input_type: RecordType | None) -> None:
        self._set_namespace = backend.set_namespace
        self._set_key = backend.set_current_key
        self.create_state(backend, input_type)
        self.open_functions(context)

    def open_functions(self, context: RuntimeContext) -> None:
        open_function(self.function, context)
        if self.window_function is not None:
            self._call = _window_call(self.window_function)
            open_function(self.window_function, context)

    @abstractmethod
    def create_state(self, backend: KeyedStateBackend, input_type: RecordType | None) -> None: ...

    @abstractmethod
    def add(self, keys: Sequence[Any], rows: Sequence[Any], timestamps: Int64Array) -> list[int]:
        """Elements of the current namespace, each with its key and own timestamp. Leaves no current key.

        Positions of the elements that may be the first of their key and window; the first one is among them."""

    @abstractmethod
    def kept(self) -> list[Any]:
        """What the window function is given; empty when there is nothing. For the current key."""

    @abstractmethod
    def kept_of(self, elements: Sequence[Any]) -> list[Any]:
        """The same of these elements, whatever is in state. Where an evictor has left none, an aggregate has a result
        all the same, and a reduction has not (as in Flink)."""

    @abstractmethod
    def clear(self) -> None:
        """Forget what was kept. For the current key."""

    @abstractmethod
    def merge(self, target: int, sources: Sequence[int]) -> None:
        """What the source namespaces have of the current key comes to that of the target, behind it; nothing is left
        of it there. Leaves the target as the current namespace."""

    def results(self, key: Any, context: WindowContext) -> Iterable[Any] | None:
        """The user's iterable may be a generator: drain it before the key changes."""
        kept = self.kept()
        return self.results_of(key, context, kept) if kept else None

    def results_of(self, key: Any, context: WindowContext, kept: list[Any]) -> Iterable[Any] | None:
        if self.window_function is None:
            return kept
        produced: Iterable[Any] | None = self._call(key, context, kept)
        return produced

    def window_over(self, context: WindowContext) -> None:
        """Lets a ProcessWindowFunction remove its own state of the window."""
        clear = getattr(self.window_function, "clear", None)
        if callable(clear):
            clear(context)

    def close(self) -> None:
        close_function(self.function)
        close_function(self.window_function)


def _window_call(function: Any) -> Callable[[Any, WindowContext, list[Any]], Any]:
    if callable(getattr(function, "apply", None)):
        apply = function.apply
        return lambda key, context, elements: apply(key, context.window(), elements)
    return callable_of(function, "process")


class Folding(Evaluation):
    """Keeps one value for all elements: of contents that can be combined with others'."""

    _state: ValueState[Any]

    def open(self, context: RuntimeContext, backend: KeyedStateBackend, input_type: RecordType | None) -> None:
        super().open(context, backend, input_type)
        self._cells = cast(CachedValueState[Any], self._state)

    @property
    @abstractmethod
    def can_merge(self) -> bool:
        """Contents can be combined."""

    @property
    @abstractmethod
    def combined(self) -> Callable[[Any, Any], Any]:
        """Of two contents; either may be changed."""

    @abstractmethod
    def finished(self, contents: Any) -> Any:
        """What contents give, or a function is given."""

    def contents_of(self, keys: Sequence[Any]) -> list[Any]:
        """What each of these keys has in the current namespace, None where there is nothing; only to be looked at.
        Leaves no current key."""
        return self._cells.values_of(keys)

    def clear_all(self, keys: Sequence[Any]) -> None:
        """Forget what these keys have. Leaves no current key."""
        self._cells.clear_all(keys)

    def kept(self) -> list[Any]:
        contents = self._state.value()
        return [] if contents is None else [self.finished(contents)]

    def kept_of_parts(self, parts: Sequence[Any]) -> list[Any]:
        """Of contents that are left as they are."""
        own = [part for part in parts if part is not None]
        if self._cells.changes_in_place:
            own = list(map(_own, own))
        return [self.finished(reduce(self.combined, own))] if own else []

    def clear(self) -> None:
        self._state.clear()

    def merge(self, target: int, sources: Sequence[int]) -> None:
        parts = []
        for namespace in sources:
            self._set_namespace(namespace)
            part = self._state.value()
            if part is not None:
                self._state.clear()
                parts.append(part)
        self._set_namespace(target)
        if parts:
            total = self._state.value()
            for part in parts:
                total = part if total is None else self.combined(total, part)
            self._state.update(total)


class Reduce(Folding):
    """Keeps the combination of all elements: a ReduceFunction or callable(a, b)."""

    can_merge = True

    def create_state(self, backend: KeyedStateBackend, input_type: RecordType | None) -> None:
        kind = None if input_type is None else state_type(input_type)
        self._state = backend.value_state(ValueStateDescriptor(self.state_name, kind))

    def open_functions(self, context: RuntimeContext) -> None:
        super().open_functions(context)
        self._reduce = callable_of(self.function, "reduce")

    def add(self, keys: Sequence[Any], rows: Sequence[Any], timestamps: Int64Array) -> list[int]:
        reduce = self._reduce
        first: list[int] = []

        def step(value: Any, position: int) -> Any:
            if value is None:
                first.append(position)
                return rows[position]
            return reduce(value, rows[position])

        self._state.fold(keys, range(len(rows)), step)
        return first

    @property
    def combined(self) -> Callable[[Any, Any], Any]:
        return self._reduce

    def finished(self, contents: Any) -> Any:
        return contents

    def kept_of(self, elements: Sequence[Any]) -> list[Any]:
        if not elements:
            return []
        total = elements[0]
        for element in elements[1:]:
            total = self._reduce(total, element)
        return [total]


class Aggregate(Folding):
    """With an AggregateFunction. The state is typed if create_accumulator says what it returns, or the function has an
    `accumulator_type`: found out where the function was written, since the names of its annotation may mean nothing in
    another process."""

    def __init__(self, function: Any, window_function: Any = None) -> None:
        super().__init__(function, window_function)
        self._kind = accumulator_type(function)

    def create_state(self, backend: KeyedStateBackend, input_type: RecordType | None) -> None:
        self._state = backend.value_state(ValueStateDescriptor(self.state_name, self._kind))
        self._serializer = serializer_for(self._kind)
        self._looked_at = self._serializer.generic or self._serializer.type_is_all

    @property
    def can_merge(self) -> bool:
        own = getattr(type(self.function), "merge", None) or getattr(self.function, "merge", None)
        return callable(own) and own is not AggregateFunction.merge

    def add(self, keys: Sequence[Any], rows: Sequence[Any], timestamps: Int64Array) -> list[int]:
        first = self._cells.accumulate(keys, rows, self.function.create_accumulator, self.function.add)
        if not self._looked_at:
            self._look_at(self._cells.values_of(list(dict.fromkeys(keys))))
        return first

    def _look_at(self, accumulators: Sequence[Any]) -> None:
        """Whether the parts of the first accumulators are what was declared: the next snapshot, which asks all of them,
        may be long after. StateError."""
        self._looked_at = True
        there = [each for each in accumulators if each is not None]
        try:
            self._serializer.encode_all(there)
            if not self._cells.changes_in_place and any(map(_may_change, there)):  # written as a tuple would be
                raise StateError(f"{next(filter(_may_change, there))!r} can change in place, and is not declared so")
        except StateError as error:
            raise StateError(
                f"the accumulator {error}; give what create_accumulator() is annotated with, for example with int(…) "
                "of a NumPy number, or leave it without an annotation"
            ) from error

    @property
    def combined(self) -> Callable[[Any, Any], Any]:
        merge: Callable[[Any, Any], Any] = self.function.merge
        return merge

    def finished(self, contents: Any) -> Any:
        return self.function.get_result(contents)

    def kept_of(self, elements: Sequence[Any]) -> list[Any]:
        accumulator = self.function.create_accumulator()
        for element in elements:
            accumulator = self.function.add(element, accumulator)
        return [self.function.get_result(accumulator)]


class Process(Evaluation):
    """All elements of the window to a ProcessWindowFunction or callable(key, context, elements)."""

    def __init__(self, window_function: Any) -> None:
        super().__init__(None, window_function)

    def create_state(self, backend: KeyedStateBackend, input_type: RecordType | None) -> None:
        kind = None if input_type is None else state_type(input_type)
        self._state: ListState[Any] = backend.list_state(ListStateDescriptor(self.state_name, kind))

    def add(self, keys: Sequence[Any], rows: Sequence[Any], timestamps: Int64Array) -> list[int]:
        return add_to_lists(self._state, self._set_key, keys, rows)

    def kept(self) -> list[Any]:
        return self._state.get()

    def kept_of(self, elements: Sequence[Any]) -> list[Any]:
        return list(elements)

    def clear(self) -> None:
        self._state.clear()

    def merge(self, target: int, sources: Sequence[int]) -> None:
        merge_lists(self._state, self._set_namespace, target, sources)


class Apply(Process):
    """All elements of the window to a WindowFunction or callable(key, window, elements)."""

    def open_functions(self, context: RuntimeContext) -> None:
        super().open_functions(context)
        apply = callable_of(self.window_function, "apply")
        self._call = lambda key, window_context, elements: apply(key, window_context.window(), elements)


def add_to_lists(
    state: ListState[Any], set_key: Callable[[Any], None], keys: Sequence[Any], rows: Sequence[Any]
) -> list[int]:
    """Every row to its key's list. Positions of each key's first row."""
    elements: dict[Any, list[Any]] = {}
    first: list[int] = []
    for position, (key, row) in enumerate(zip(keys, rows, strict=True)):
        own = elements.get(key)
        if own is None:
            elements[key] = [row]
            first.append(position)
        else:
            own.append(row)
    for key, own in elements.items():
        set_key(key)
        state.add_all(own)
    return first


def merge_lists(
    state: ListState[Any], set_namespace: Callable[[int], None], target: int, sources: Sequence[int]
) -> None:
    moved: list[Any] = []
    for namespace in sources:
        set_namespace(namespace)
        elements = state.get()
        if elements:
            moved += elements
            state.clear()
    set_namespace(target)
    state.add_all(moved)


def _own(value: Any) -> Any:
    """A copy, where it can change."""
    if type(value) is list:
        flat = ATOMIC_TYPES.issuperset(map(type, value))
        return value.copy() if flat else [_own(item) for item in value]
    if type(value) is tuple:
        return value if ATOMIC_TYPES.issuperset(map(type, value)) else tuple([_own(item) for item in value])
    if type(value) is dict:
        flat = ATOMIC_TYPES.issuperset(map(type, value.values()))
        return value.copy() if flat else {key: _own(item) for key, item in value.items()}
    if type(value) is set:  # what is in it cannot change
        return value.copy()
    return value if is_immutable(value) else copy.deepcopy(value)


def _may_change(value: Any) -> bool:
    return isinstance(value, list | dict | set) or (isinstance(value, tuple) and any(map(_may_change, value)))


def accumulator_type(function: Any) -> Any:
    """The annotation for state that holds an AggregateFunction's accumulators; None if there is none."""
    return getattr(function, "accumulator_type", None) or _returned_type(function.create_accumulator)


def _returned_type(function: Any) -> Any:
    try:
        annotation = typing.get_type_hints(function).get("return")
    except (NameError, TypeError):  # names only type checkers know; callables that have no annotations
        return None
    if annotation is None:
        return None
    record_type = record_type_of(annotation)
    if isinstance(record_type, RowType) and record_type.struct.python is tuple and record_type.struct.immutable:
        return annotation
    return state_type(record_type)
