"""Windows over a whole stream, without keys: functions that are given no key, and how they are called."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, TypeAlias

from ..functions import (
    Function,
    ProcessWindowFunction,
    RuntimeContext,
    WindowContext,
    callable_of,
    close_function,
    open_function,
)


class ProcessAllWindowFunction(Function, ABC):
    """All elements of a window (or, after aggregate or reduce, its one result) to any number of results."""

    Context: TypeAlias = WindowContext

    @abstractmethod
    def process(self, context: WindowContext, elements: Iterable[Any]) -> Iterable[Any] | None: ...

    def clear(self, context: WindowContext) -> None:
        """The window is over: remove what was put into window_state."""


class AllWindowFunction(Function, ABC):
    """All elements of a window to any number of results, without a context."""

    @abstractmethod
    def apply(self, window: Any, inputs: Iterable[Any]) -> Iterable[Any] | None: ...


class WithoutKey(ProcessWindowFunction):
    """A function of windows without keys, as the window operator calls it."""

    def __init__(self, function: Any, method: str) -> None:
        """method: 'process', of (context, elements), or 'apply', of (window, elements)."""
        self.function = function
        self.takes_window = callable(getattr(function, "apply", None)) or method == "apply"

    def open(self, runtime_context: RuntimeContext) -> None:
        self._call = callable_of(self.function, "apply" if self.takes_window else "process")
        open_function(self.function, runtime_context)

    def process(self, key: Any, context: WindowContext, elements: Iterable[Any]) -> Iterable[Any] | None:
        produced: Iterable[Any] | None = self._call(context.window() if self.takes_window else context, elements)
        return produced

    def clear(self, context: WindowContext) -> None:
        clear = getattr(self.function, "clear", None)
        if callable(clear):
            clear(context)

    def close(self) -> None:
        close_function(self.function)


def no_key(record: Any) -> None:
    """The key of every record of a stream without keys."""
