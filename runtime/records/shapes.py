"""Shapes: how rows of a class come apart into lists of field values, and are put together again.

Putting together restores the state of an object and never calls its `__init__` or `__post_init__`: the record has
been made already, making it again could change it. The loops are compiled per class (as dataclasses are), because a
literal attribute access costs a third of a call of attrgetter, and this runs for every record.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from types import MemberDescriptorType
from typing import Any

from ...state.errors import RecordTypeError

Columns = Sequence[Sequence[Any]]


class Shape:
    """A class of rows and the names of its fields."""

    frozen = False
    """Fields of an object cannot be set."""

    def __init__(self, python: type, names: tuple[str, ...]) -> None:
        self.python = python
        self.names = names
        lists = ", ".join(f"[r{self._access(i)} for r in rows]" for i in range(len(names)))
        self._take_apart: Callable[[Sequence[Any]], Columns] = eval(f"lambda rows: ({lists},)")
        self.put_together: Callable[..., list[Any]] = self._maker()

    @property
    def name(self) -> str:
        return self.python.__name__

    def take_apart(self, rows: Sequence[Any]) -> Columns:
        try:
            return self._take_apart(rows)
        except (AttributeError, KeyError, IndexError) as error:
            raise RecordTypeError(f"a record of {self.name} lacks a field: {error}") from None

    def _access(self, field: int) -> str:
        raise NotImplementedError

    def _maker(self) -> Callable[..., list[Any]]:
        raise NotImplementedError

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and (other.python, other.names) == (self.python, self.names)

    def __hash__(self) -> int:
        return hash((self.python, self.names))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.python, self.names)


class DataclassShape(Shape):
    """Dataclasses with or without slots, frozen or not, whatever their __init__ does."""

    def __init__(self, python: type, names: tuple[str, ...]) -> None:
        super().__init__(python, names)
        self.frozen = python.__dataclass_params__.frozen  # type: ignore[attr-defined]

    def _access(self, field: int) -> str:
        return f".{self.names[field]}"

    def _maker(self) -> Callable[..., list[Any]]:
        setters: dict[str, Any] = {"new": partial(object.__new__, self.python)}
        plain = not any("__setattr__" in vars(base) for base in self.python.__mro__[:-1])
        slots = {n for n in self.names if isinstance(getattr(self.python, n, None), MemberDescriptorType)}
        values = ", ".join(f"v{i}" for i in range(len(self.names)))
        lines = [f"def make({', '.join(f'c{i}' for i in range(len(self.names)))}):", " rows = []"]
        lines.append(f" for {values}, in zip({', '.join(f'c{i}' for i in range(len(self.names)))}):")
        lines.append("  o = new()")
        if not plain and slots != set(self.names):
            lines.append("  state = o.__dict__")
        for i, name in enumerate(self.names):
            if plain:
                lines.append(f"  o.{name} = v{i}")
            elif name in slots:
                setters[f"s{i}"] = getattr(self.python, name).__set__
                lines.append(f"  s{i}(o, v{i})")
            else:
                lines.append(f"  state[{name!r}] = v{i}")
        lines += ["  rows.append(o)", " return rows"]
        exec("\n".join(lines), setters)
        return setters["make"]  # type: ignore[no-any-return]


class TupleShape(Shape):
    """NamedTuples, and plain tuples of fixed length."""

    frozen = True

    def _access(self, field: int) -> str:
        return f"[{field}]"

    def take_apart(self, rows: Sequence[Any]) -> Columns:
        if set(map(len, rows)) - {len(self.names)}:
            raise RecordTypeError(f"a record of {self.name} has not exactly {len(self.names)} fields")
        return super().take_apart(rows)

    def _maker(self) -> Callable[..., list[Any]]:
        if self.python is tuple:
            return lambda *columns: list(zip(*columns, strict=True))
        make = partial(tuple.__new__, self.python)
        return lambda *columns: list(map(make, zip(*columns, strict=True)))


class DictShape(Shape):
    """Dicts that have exactly these keys."""

    def __init__(self, python: type, names: tuple[str, ...], title: str = "dict") -> None:
        super().__init__(python, names)
        self.title = title

    @property
    def name(self) -> str:
        return self.title

    def _access(self, field: int) -> str:
        return f"[{self.names[field]!r}]"

    def take_apart(self, rows: Sequence[Any]) -> Columns:
        columns = super().take_apart(rows)
        if set(map(len, rows)) - {len(self.names)}:
            extra = next(row.keys() - set(self.names) for row in rows if len(row) != len(self.names))
            raise RecordTypeError(f"a record of {self.name} has fields that are not declared: {sorted(extra, key=str)}")
        return columns

    def _maker(self) -> Callable[..., list[Any]]:
        values = ", ".join(f"v{i}" for i in range(len(self.names)))
        pairs = ", ".join(f"{name!r}: v{i}" for i, name in enumerate(self.names))
        return eval(f"lambda *columns: [{{{pairs}}} for {values}, in zip(*columns)]")  # type: ignore[no-any-return]

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.python, self.names, self.title)


def dataclass_shape(cls: type) -> DataclassShape | str:
    """The shape of a dataclass, or why its objects cannot be restored exactly from their fields."""
    for name in ("__new__", "__reduce__", "__reduce_ex__", "__getnewargs__", "__getnewargs_ex__"):
        if getattr(cls, name, None) is not getattr(object, name, None):
            return f"{cls.__name__} defines {name}"
    names = tuple(field.name for field in dataclasses.fields(cls))
    for name in names:
        attribute = getattr(cls, name, None)
        if hasattr(attribute, "__set__") and not isinstance(attribute, MemberDescriptorType):
            return f"{cls.__name__}.{name} is a property"
    return DataclassShape(cls, names) if names else f"{cls.__name__} has no fields"
