"""Methods that are not there: what to call instead, or before.

A method that belongs to a keyed stream, asked of one without keys, and an operation that is not complete yet, like a
window without a function, are what everybody meets first. An AttributeError as ever, which says what to do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from ..runtime.hints import nearest


def _missing(asked: Any, name: str) -> NoReturn:
    raise AttributeError(_why(asked, name), name=name)


class Guiding:
    """Base of what pipelines are written with."""

    _way_on: ClassVar[str] = ""
    """What to do where a method is missing that other streams have."""

    if not TYPE_CHECKING:  # for type checkers what is missing stays missing
        __getattr__ = _missing


def _why(asked: Any, name: str) -> str:
    from .keyed import KeyedStream

    kind = type(asked)
    if not name.startswith("_"):
        if kind._way_on and hasattr(KeyedStream, name):
            return f"{kind.__name__} has no {name}(…): {kind._way_on}"
        if issubclass(KeyedStream, kind) and hasattr(KeyedStream, name):
            return _without_keys(name)
        if near := nearest(name, dir(kind)):
            return f"{kind.__name__} has no {name!r}{near}"
    return f"{kind.__name__!r} object has no attribute {name!r}"


def _without_keys(name: str) -> str:
    all_windows = {"window": "window_all(…)", "count_window": "count_window_all(…)"}.get(name)
    instead = f"; windows over all records, without keys, are {all_windows}" if all_windows else ""
    return (
        f"{name}(…) needs a stream with keys: call key_by(…) right before it (what a map, a filter or another function "
        f"gives has no keys any more){instead}"
    )
