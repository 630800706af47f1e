"""What a state is: its name, kind and types.

A descriptor is what a function asks its backend for. Types are Python types or annotations (dataclass, NamedTuple,
TypedDict, int, list[str], ...); without one the values are pickled: that works, is slower, and does not evolve.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from .errors import StateError

# no slots: `ValueStateDescriptor[int]("count")` of a frozen dataclass with slots raises in Python 3.11
K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True)
class ValueStateDescriptor(Generic[V]):
    """One value per key. `default` is what `value()` gives while there is none; a mutable one is copied."""

    name: str
    type: Any = None
    default: V | None = None

    def __post_init__(self) -> None:
        _check_name(self.name)


@dataclass(frozen=True)
class ListStateDescriptor(Generic[V]):
    """A list per key; `type` is that of one element."""

    name: str
    type: Any = None

    def __post_init__(self) -> None:
        _check_name(self.name)


@dataclass(frozen=True)
class MapStateDescriptor(Generic[K, V]):
    """A map per key. Its keys obey the rules of stream keys: hashable and of one type (key_encoding.py)."""

    name: str
    key_type: Any = None
    value_type: Any = None

    def __post_init__(self) -> None:
        _check_name(self.name)


StateDescriptor = ValueStateDescriptor[Any] | ListStateDescriptor[Any] | MapStateDescriptor[Any, Any]


def _check_name(name: object) -> None:
    if not isinstance(name, str) or not name:
        raise StateError(f"A state's name must be a non-empty str, not {name!r}.")
