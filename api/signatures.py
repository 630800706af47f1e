"""What a function says about itself: what it returns, whether it yields, which side outputs it names.

The annotation of a function gives the type of its output stream; a class used as a function gives itself. Without
an annotation the output is opaque. A function may be a plain one, a lambda, a partial, a callable object, a class
or one of the function classes (MapFunction, ...), where the named method is what counts.
"""

from __future__ import annotations

import collections.abc
import functools
import inspect
import sys
import types
import typing
from typing import Any, get_args, get_origin

from ..runtime.functions import OutputTag
from ..runtime.records.record_types import OpaqueType, RecordType, record_type_of
from ..runtime.references import references

UNKNOWN: Any = object()
"""There is no annotation, or it cannot be evaluated."""

_ITERABLES = (
    collections.abc.Iterable, collections.abc.Iterator, collections.abc.Generator, collections.abc.Sequence,
    collections.abc.Collection, list, tuple, set, frozenset,
)  # fmt: skip


def user_frame() -> types.FrameType | None:
    """The innermost frame outside of penstock: the line of the pipeline that is being built."""
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__", "").startswith("penstock."):
        frame = frame.f_back
    return frame


def implementation(function: Any, method: str) -> Any:
    """The function that holds the code: the method of a function object, the body of a callable one."""
    function = getattr(function, method, function)
    while isinstance(function, functools.partial):
        function = function.func
    if inspect.isfunction(function) or inspect.ismethod(function) or inspect.isclass(function):
        return function
    return type(function).__call__ if callable(function) else function


def is_async(function: Any, method: str) -> bool:
    body = implementation(function, method)
    return inspect.iscoroutinefunction(body) or inspect.isasyncgenfunction(body)


def yields(function: Any, method: str) -> bool:
    return inspect.isgeneratorfunction(implementation(function, method))


def display_name(function: Any) -> str:
    """A name for messages and default operator names; empty for lambdas."""
    while isinstance(function, functools.partial):
        function = function.func
    name = getattr(function, "__name__", type(function).__name__)
    return "" if name == "<lambda>" else str(name)


def return_annotation(function: Any, method: str) -> Any:
    """What one call returns; UNKNOWN without an annotation that can be evaluated."""
    body = implementation(function, method)
    if inspect.isclass(body):
        return body
    frame = user_frame()
    try:
        hints = typing.get_type_hints(
            body, localns=None if frame is None else dict(frame.f_locals), include_extras=True
        )
    except Exception:  # names that are not there (yet), or no function at all
        return UNKNOWN
    return hints.get("return", UNKNOWN)


def element_annotation(annotation: Any) -> Any:
    """What is yielded, of an annotation like Iterator[X]; records for side outputs (tuple[OutputTag, Y]) left out."""
    if annotation is UNKNOWN or annotation is None or annotation is type(None):
        return UNKNOWN
    if _is_union(annotation):
        members = [element_annotation(member) for member in get_args(annotation) if member is not type(None)]
        return members[0] if len(members) == 1 else UNKNOWN
    if get_origin(annotation) not in _ITERABLES or not get_args(annotation):
        return UNKNOWN
    arguments = get_args(annotation)
    if get_origin(annotation) is tuple and arguments[1:] != (...,):
        return UNKNOWN
    return _without_tagged(arguments[0])


def _without_tagged(annotation: Any) -> Any:
    if not _is_union(annotation):
        return UNKNOWN if _is_tagged(annotation) else annotation
    kept = [member for member in get_args(annotation) if not _is_tagged(member)]
    return typing.Union[tuple(kept)] if kept else UNKNOWN  # noqa: UP007 (members are values here)


def _is_union(annotation: Any) -> bool:
    return get_origin(annotation) in (typing.Union, types.UnionType)


def _is_tagged(annotation: Any) -> bool:
    first = get_args(annotation)[:1] if get_origin(annotation) is tuple else ()
    return bool(first) and (first[0] is OutputTag or get_origin(first[0]) is OutputTag)


def output_tags(function: Any, method: str) -> frozenset[str]:
    """Names of the side outputs a function refers to: OutputTags among its globals, closure, attributes and methods."""
    roots = [function, getattr(function, method, None)]
    if not inspect.isfunction(function):
        roots += [member for _, member in inspect.getmembers(type(function), inspect.isfunction)]
    found: set[str] = set()
    for root in roots:
        for _, used in references(root):
            if isinstance(used, OutputTag):
                found.add(used.name)
            elif isinstance(used, (types.FunctionType, list, tuple, dict)):
                found |= {inner.name for _, inner in references(used) if isinstance(inner, OutputTag)}
    return frozenset(found)


def returned_type(function: Any, method: str, output_type: Any) -> RecordType:
    if output_type is not None:
        return record_type_of(output_type)
    return _of_annotation(return_annotation(function, method), function, "returns")


def yielded_type(function: Any, method: str, output_type: Any) -> RecordType:
    if output_type is not None:
        return record_type_of(output_type)
    return _of_annotation(element_annotation(return_annotation(function, method)), function, "yields")


def _of_annotation(annotation: Any, function: Any, verb: str) -> RecordType:
    if annotation is UNKNOWN:
        return OpaqueType(f"'{display_name(function) or 'lambda'}' is not annotated with what it {verb}")
    return record_type_of(annotation)
