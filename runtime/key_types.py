"""Which values are keys, what they are normalised to, and that the keys of a stream are of one type.

Works on the list of a whole batch, position by position: one pass finds the set of types, and nothing more is done
where it is the one type that is known and needs no change (str, int, bytes, bool, UUID, date, Enum). None may stand
beside any type, at any position: it never equals another key.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
import warnings
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from functools import partial
from typing import Any
from uuid import UUID

import numpy as np

from ..state.errors import KeyTypeError
from ..state.key_encoding import key_fields, normal_decimal, refuse

_ABSTRACT = ("typing", "collections.abc")
"""Annotations from here (Any, Hashable) do not say which type the keys have."""
_NO_KINDS = (object, type(None), Enum)
_UNCHANGED = frozenset({str, bytes, int, bool, UUID, date})
_Normaliser = Callable[[list[Any]], list[Any]]


class KeyType:
    """The type of a stream's keys, or of one position of its composite keys: the annotation's, else the first key's."""

    def __init__(self, annotation: Any = None) -> None:
        """KeyTypeError for an annotation whose values can never be keys."""
        self.kind: type | None = None
        self._fast: set[type] = set()
        self._normaliser: _Normaliser | None = None
        self._positions: list[KeyType] = []
        _annotate(self, annotation)

    def differs_from(self, other: KeyType) -> bool:
        """Keys of the one are never keys of the other, as far as both are known."""
        if self.kind is None or other.kind is None:
            return False
        if self.kind is not other.kind:
            return True
        mine, others = self._positions, other._positions
        if not mine or not others:
            return False
        return len(mine) != len(others) or any(map(KeyType.differs_from, mine, others))

    def __str__(self) -> str:
        own = "unknown" if self.kind is None else self.kind.__name__
        return f"{own}[{', '.join(map(str, self._positions))}]" if self._positions else own

    def normalise(self, keys: list[Any]) -> list[Any]:
        """The normalised keys; the same list where there is nothing to change. KeyTypeError."""
        kinds = set(map(type, keys))
        if kinds == self._fast:
            return keys
        if any(issubclass(kind, np.generic) for kind in kinds):
            keys = [_python_value(key) if isinstance(key, np.generic) else key for key in keys]
            kinds = set(map(type, keys))
        with_none = type(None) in kinds
        kinds.discard(type(None))
        if not kinds:
            return keys
        self._agree(keys, kinds)
        if self._normaliser is None:
            return keys
        if not with_none:
            return self._normaliser(keys)
        present = iter(self._normaliser([key for key in keys if key is not None]))
        return [None if key is None else next(present) for key in keys]

    def _agree(self, keys: list[Any], kinds: set[type]) -> None:
        if self.kind is None:
            self.learn(next(type(key) for key in keys if key is not None))
        if len(kinds) == 1 and self.kind in kinds:
            return
        other = next(key for key in keys if key is not None and type(key) is not self.kind)
        assert self.kind is not None
        raise KeyTypeError(
            f"the keys of this stream are of type {self.kind.__name__}, but one is of type {type(other).__name__}: "
            f"{_shown(other)}; all keys of a stream are of one type (1, 1.0 and True are different)"
        )

    def learn(self, kind: type, positions: list[KeyType] | None = None) -> None:
        """From now on keys are of this type. KeyTypeError when it cannot be one."""
        self._normaliser = self._normaliser_of(kind)
        self.kind = kind
        self._positions = positions or []
        self._fast = {kind} if self._normaliser is None else set()

    def _normaliser_of(self, kind: type) -> _Normaliser | None:
        if kind in _UNCHANGED or issubclass(kind, Enum):
            return None
        if kind in _NORMALISERS:
            if kind is float:
                warnings.warn("float keys: values that should be equal may differ in the last bit", stacklevel=2)
            return _NORMALISERS[kind]
        if kind is tuple:
            return self._tuples
        fields = key_fields(kind)
        if fields is None:
            raise refuse(kind)
        if issubclass(kind, tuple):
            return self._tuples
        if not kind.__dataclass_params__.eq:  # type: ignore[attr-defined]
            raise KeyTypeError(f"{kind.__name__} cannot be a key: its instances do not compare by value (eq=False)")
        return partial(self._dataclasses, fields)

    def _tuples(self, keys: list[Any]) -> list[Any]:
        columns = self._columns(keys, set(map(len, keys)))
        if columns is None:
            return keys
        kind: Any = self.kind
        return list(zip(*columns, strict=True)) if kind is tuple else list(map(kind._make, zip(*columns, strict=True)))

    def _dataclasses(self, fields: tuple[str, ...], keys: list[Any]) -> list[Any]:
        columns = self._columns([tuple([getattr(key, name) for name in fields]) for key in keys], {len(fields)})
        if columns is None:
            return keys
        copies = []
        for key, values in zip(keys, zip(*columns, strict=True), strict=True):
            copy = object.__new__(type(key))
            for name, value in zip(fields, values, strict=True):
                object.__setattr__(copy, name, value)
            copies.append(copy)
        return copies

    def _columns(self, keys: list[tuple[Any, ...]], lengths: set[int]) -> list[list[Any]] | None:
        """Normalised values by position; None if nothing changes."""
        if not self._positions:
            self._positions = [KeyType() for _ in range(max(lengths))]
        if lengths != {len(self._positions)}:
            raise KeyTypeError(
                f"the keys of this stream are tuples of {len(self._positions)} values, but some have "
                f"{sorted(lengths - {len(self._positions)})}; all keys of a stream are of one type"
            )
        given = [list(column) for column in zip(*keys, strict=True)]
        columns = [position.normalise(column) for position, column in zip(self._positions, given, strict=True)]
        return None if all(new is old for new, old in zip(columns, given, strict=True)) else columns


def _annotate(key_type: KeyType, annotation: Any) -> None:
    origin = typing.get_origin(annotation)
    arguments = typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        others = [each for each in arguments if each is not type(None)]
        if len(others) == 1:
            _annotate(key_type, others[0])
    elif origin is tuple and arguments and Ellipsis not in arguments:
        key_type.learn(tuple, [KeyType(each) for each in arguments])
    elif origin is not None and isinstance(origin, type):
        key_type.learn(origin)
    elif isinstance(annotation, type) and annotation.__module__ not in _ABSTRACT and annotation not in _NO_KINDS:
        key_type.learn(annotation, _field_types(annotation))


def _field_types(kind: type) -> list[KeyType] | None:
    fields = None if issubclass(kind, Enum) else key_fields(kind) if _composite(kind) else None
    if fields is None:
        return None
    try:
        hints = typing.get_type_hints(kind)
    except NameError:  # annotations of names that exist for type checkers only
        hints = {}
    return [KeyType(hints.get(name)) for name in fields]


def _composite(kind: type) -> bool:
    return (issubclass(kind, tuple) and kind is not tuple) or dataclasses.is_dataclass(kind)


def _floats(keys: list[Any]) -> list[Any]:
    if any(map(math.isnan, keys)):
        raise KeyTypeError("NaN cannot be a key: it is not equal to itself")
    return [key + 0.0 for key in keys]  # -0.0 + 0.0 is 0.0


def _decimals(keys: list[Any]) -> list[Any]:
    if any(key.is_nan() for key in keys):
        raise KeyTypeError("NaN cannot be a key: it is not equal to itself")
    return [normal_decimal(key) for key in keys]


def _datetimes(keys: list[Any]) -> list[Any]:
    for key in keys:
        if key.utcoffset() is None:
            raise KeyTypeError(f"the naive datetime {key} cannot be a key: give it a time zone")
    return [key.astimezone(UTC) for key in keys]


_NORMALISERS: dict[type, _Normaliser] = {float: _floats, Decimal: _decimals, datetime: _datetimes}


def _python_value(key: Any) -> Any:
    if isinstance(key, (np.datetime64, np.timedelta64)):
        raise KeyTypeError(
            f"{type(key).__name__} cannot be a key: it has no time zone; use an aware datetime or an int"
        )
    return key.item()


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else text[:97] + "..."


def normalised(keys: Iterable[Any], annotation: Any = None) -> list[Any]:
    """Keys of one stream, normalised at once: for tests and tools."""
    return KeyType(annotation).normalise(list(keys))
