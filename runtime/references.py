"""What a user's function uses: its closure, globals, defaults and attributes, by the names it uses them under.

Two things need to know: the message about a function that cannot be serialised says which of them is to blame, and
an operator learns from them which side outputs its function may write to.
"""

from __future__ import annotations

import functools
import inspect
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any


def references(value: Any) -> Iterator[tuple[str, Any]]:
    """(name, value) of everything that is serialised together with `value`."""
    if isinstance(value, types.MethodType):
        yield "self", value.__self__
        value = value.__func__
    if isinstance(value, functools.partial):
        yield "the function of a partial", value.func
        yield from ((f"argument {index}", argument) for index, argument in enumerate(value.args))
        yield from value.keywords.items()
    elif isinstance(value, types.FunctionType):
        yield from _of_function(value)
    elif isinstance(value, type):
        if _travels_by_value(value):
            yield from (
                (name, member) for name, member in vars(value).items() if isinstance(member, types.FunctionType)
            )
    elif isinstance(value, dict):
        yield from ((repr(key), item) for key, item in value.items())
    elif isinstance(value, (list, tuple, set, frozenset)):
        yield from ((f"item {index}", item) for index, item in enumerate(value))
    elif not isinstance(value, types.ModuleType):
        yield from getattr(value, "__dict__", {}).items()
        if not isinstance(value, types.BuiltinFunctionType):
            yield "its class", type(value)


def _travels_by_value(value: Any) -> bool:
    """Defined in the script, or inside a function; anything else is imported where it is needed."""
    module = sys.modules.get(value.__module__)
    return value.__module__ == "__main__" or module is None or not hasattr(module, value.__qualname__.split(".")[0])


def _of_function(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    names = function.__code__.co_freevars
    for name, cell in zip(names, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # a name that is not bound yet
            continue
    for name in sorted(_global_names(function.__code__)):
        if name in function.__globals__:
            yield name, function.__globals__[name]
    for parameter in inspect.signature(function).parameters.values():
        if parameter.default is not inspect.Parameter.empty:
            yield parameter.name, parameter.default


def _global_names(code: types.CodeType) -> set[str]:
    """Also those used only by functions inside: lambdas, comprehensions."""
    inner = (constant for constant in code.co_consts if isinstance(constant, types.CodeType))
    return set(code.co_names).union(*map(_global_names, inner))


def culprit(value: Any, fails: Callable[[Any], bool], depth: int = 5) -> tuple[str, Any] | None:
    """The innermost named thing in `value` for which `fails` says yes; None if it is `value` itself."""
    if depth == 0:
        return None
    for name, used in references(value):
        if isinstance(used, types.ModuleType) or not fails(used):
            continue
        return culprit(used, fails, depth - 1) or (name, used)
    return None
