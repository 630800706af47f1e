"""What a window keeps of its elements, and what it makes of that when it fires.

Reduce and Aggregate keep one value per key and window, folded batch by batch; Process and Apply keep the elements.
A window function (process or apply) then makes results of what was kept; without one it is the result itself.
All methods work in the backend's current namespace, which is the window's.
"""

from __future__ import annotations

import typing
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ...state.backend import KeyedStateBackend, ListState, ValueState
from ...state.descriptors import ListStateDescriptor, ValueStateDescriptor
from ..functions import RuntimeContext, WindowContext, callable_of, close_function, open_function
from ..operators.running import state_type
from ..record_types import RecordType, record_type_of

_CONTENTS = "window-contents"


class Evaluation(ABC):
    """State and function of a window operator's windows. Picklable until it is opened."""

    def __init__(self, function: Any, window_function: Any = None) -> None:
        """`window_function`: a ProcessWindowFunction, WindowFunction, or callable(key, context, elements)."""
        self.function = function
        self.window_function = window_function

    def open(self, context: RuntimeContext, backend: KeyedStateBackend, input_type: RecordType | None) -> None:
        self.create_state(backend, input_type)
        open_function(self.function, context)
        if self.window_function is not None:
            self._call = _window_call(self.window_function)
            open_function(self.window_function, context)

    @abstractmethod
    def create_state(self, backend: KeyedStateBackend, input_type: RecordType | None) -> None: ...

    @abstractmethod
    def add(self, keys: Sequence[Any], rows: Sequence[Any]) -> list[int]:
        """Elements of the current namespace's window, each with its key. Leaves no current key.

        Positions of the elements that may be the first of their key and window; the first one is among them."""

    @abstractmethod
    def kept(self) -> list[Any]:
        """What the window function is given; empty when there is nothing. For the current key."""

    @abstractmethod
    def clear(self) -> None:
        """Forget what was kept. For the current key."""

    def results(self, key: Any, context: WindowContext) -> Iterable[Any] | None:
        """The user's iterable may be a generator: drain it before the key changes."""
        kept = self.kept()
        if self.window_function is None or not kept:
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


class Reduce(Evaluation):
    """Keeps the combination of all elements: a ReduceFunction or callable(a, b)."""

    def create_state(self, backend: KeyedStateBackend, input_type: RecordType | None) -> None:
        kind = None if input_type is None else state_type(input_type)
        self._state: ValueState[Any] = backend.value_state(ValueStateDescriptor(_CONTENTS, kind))
        self._reduce = callable_of(self.function, "reduce")

    def add(self, keys: Sequence[Any], rows: Sequence[Any]) -> list[int]:
        reduce = self._reduce
        first: list[int] = []

        def step(value: Any, position: int) -> Any:
            if value is None:
                first.append(position)
                return rows[position]
            return reduce(value, rows[position])

        self._state.fold(keys, range(len(rows)), step)
        return first

    def kept(self) -> list[Any]:
        value = self._state.value()
        return [] if value is None else [value]

    def clear(self) -> None:
        self._state.clear()


class Aggregate(Evaluation):
    """With an AggregateFunction. The state is typed if create_accumulator says what it returns."""

    def create_state(self, backend: KeyedStateBackend, input_type: RecordType | None) -> None:
        kind = _returned_type(self.function.create_accumulator)
        self._state: ValueState[Any] = backend.value_state(ValueStateDescriptor(_CONTENTS, kind))

    def add(self, keys: Sequence[Any], rows: Sequence[Any]) -> list[int]:
        create, add = self.function.create_accumulator, self.function.add
        first: list[int] = []

        def step(accumulator: Any, position: int) -> Any:
            if accumulator is None:
                first.append(position)
                accumulator = create()
            return add(rows[position], accumulator)

        self._state.fold(keys, range(len(rows)), step)
        return first

    def kept(self) -> list[Any]:
        accumulator = self._state.value()
        return [] if accumulator is None else [self.function.get_result(accumulator)]

    def clear(self) -> None:
        self._state.clear()


class Process(Evaluation):
    """All elements of the window to a ProcessWindowFunction or callable(key, context, elements)."""

    def __init__(self, window_function: Any) -> None:
        super().__init__(None, window_function)

    def create_state(self, backend: KeyedStateBackend, input_type: RecordType | None) -> None:
        kind = None if input_type is None else state_type(input_type)
        self._state: ListState[Any] = backend.list_state(ListStateDescriptor(_CONTENTS, kind))
        self._set_key = backend.set_current_key

    def add(self, keys: Sequence[Any], rows: Sequence[Any]) -> list[int]:
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
            self._set_key(key)
            self._state.add_all(own)
        return first

    def kept(self) -> list[Any]:
        return self._state.get()

    def clear(self) -> None:
        self._state.clear()


class Apply(Process):
    """All elements of the window to a WindowFunction or callable(key, window, elements)."""

    def open(self, context: RuntimeContext, backend: KeyedStateBackend, input_type: RecordType | None) -> None:
        super().open(context, backend, input_type)
        apply = callable_of(self.window_function, "apply")
        self._call = lambda key, window_context, elements: apply(key, window_context.window(), elements)


def _returned_type(function: Any) -> Any:
    try:
        annotation = typing.get_type_hints(function).get("return")
    except (NameError, TypeError):  # names only type checkers know; callables that have no annotations
        return None
    return None if annotation is None else state_type(record_type_of(annotation))
