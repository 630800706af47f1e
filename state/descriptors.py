"""What a state is: its name, kind and types.

A descriptor is what a function asks its backend for. Types are Python types or annotations (dataclass, NamedTuple,
TypedDict, int, list[str], ...); without one the values are pickled: that works, is slower, and does not evolve.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar

from .errors import StateError
from .ttl_config import StateTtlConfig

# no slots: `ValueStateDescriptor[int]("count")` of a frozen dataclass with slots raises in Python 3.11
K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True)
class _Descriptor:
    """What all have: a name that is not empty, and a TTL or none."""

    kind: ClassVar[str]
    """As snapshots call it."""

    name: str

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise StateError(f"A state's name must be a non-empty str, not {self.name!r}.")
        ttl = getattr(self, "ttl", None)
        if ttl is not None and not isinstance(ttl, StateTtlConfig):
            raise StateError(f"state '{self.name}': ttl is a StateTtlConfig, not {ttl!r}; write StateTtlConfig('1h')")


@dataclass(frozen=True)
class ValueStateDescriptor(_Descriptor, Generic[V]):
    """One value per key. `default` is what `value()` gives while there is none; a mutable one is copied."""

    kind = "value"

    type: Any = None
    default: V | None = None
    ttl: StateTtlConfig | None = None


@dataclass(frozen=True)
class ListStateDescriptor(_Descriptor, Generic[V]):
    """A list per key; `type` is that of one element. With a TTL elements expire one by one."""

    kind = "list"

    type: Any = None
    ttl: StateTtlConfig | None = None


@dataclass(frozen=True)
class MapStateDescriptor(_Descriptor, Generic[K, V]):
    """A map per key. Its keys obey the rules of stream keys: hashable and of one type (key_encoding.py). With a TTL
    entries expire one by one."""

    kind = "map"

    key_type: Any = None
    value_type: Any = None
    ttl: StateTtlConfig | None = None


@dataclass(frozen=True)
class ReducingStateDescriptor(_Descriptor, Generic[V]):
    """One value per key, into which what is added is reduced: `reduce_function` is a callable(a, b) or an object with
    such a method `reduce`. Every value is of `type`. StateError when it is neither."""

    kind = "reducing"

    reduce_function: Any = field(default=None, compare=False)
    type: Any = None
    ttl: StateTtlConfig | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.reduce  # noqa: B018  refuses what is no function

    @property
    def reduce(self) -> Callable[[Any, Any], Any]:
        function = getattr(self.reduce_function, "reduce", None)
        if not callable(function) or callable(self.reduce_function):
            function = self.reduce_function
        if not callable(function):
            raise StateError(
                f"state '{self.name}': the reduce function is a callable(a, b) or has a method reduce, unlike "
                f"{self.reduce_function!r}"
            )
        return function  # type: ignore[no-any-return]


@dataclass(frozen=True)
class AggregatingStateDescriptor(_Descriptor, Generic[V]):
    """One accumulator per key: `aggregate_function` has create_accumulator(), add(value, accumulator) -> accumulator
    and get_result(accumulator), as an AggregateFunction. `type` is that of the accumulator. StateError when one of
    these is missing."""

    kind = "aggregating"

    aggregate_function: Any = field(default=None, compare=False)
    type: Any = None
    ttl: StateTtlConfig | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for method in ("create_accumulator", "add", "get_result"):
            if not callable(getattr(self.aggregate_function, method, None)):
                raise StateError(
                    f"state '{self.name}': the aggregate function has no method {method}(): {self.aggregate_function!r}"
                )


StateDescriptor = (
    ValueStateDescriptor[Any]
    | ListStateDescriptor[Any]
    | MapStateDescriptor[Any, Any]
    | ReducingStateDescriptor[Any]
    | AggregatingStateDescriptor[Any]
)
