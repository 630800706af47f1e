"""What messages say: the nearest of the names that are there, and records."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

_NEAR = 0.6
"""Of 1: below, names are of different things."""
_SHOWN = 200


def nearest(name: str, names: Iterable[str]) -> str:
    """'; did you mean …?', to be put behind a message; empty if no name is near."""
    found = difflib.get_close_matches(name, [each for each in names if not each.startswith("_")], n=1, cutoff=_NEAR)
    return f"; did you mean {found[0]!r}?" if found else ""


def shown(value: Any) -> str:
    """A record in an error message."""
    try:
        text = repr(value)
    except Exception as error:  # a user's __repr__
        text = f"a {type(value).__name__} whose repr fails with {type(error).__name__}"
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


def with_options(function: Callable[P, R]) -> Callable[P, R]:
    """A function, or a method, that answers an option which it does not have with those that it has (TypeError)."""
    options = [name for name in inspect.signature(function).parameters if name != "self"]

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        for name in kwargs:
            if name not in options:
                called = function.__qualname__.removesuffix(".__init__").rpartition(".")[2]
                raise TypeError(f"{called}(…) has no option {name!r}{nearest(name, options) or ';'} "
                                f"there are {', '.join(options)}")  # fmt: skip
        return function(*args, **kwargs)

    return checked
