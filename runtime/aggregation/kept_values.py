"""Aggregates that keep some values as they are: first, last, top_k, bottom_k, collect, count_distinct.

They run on rows. `collect` without a limit and `count_distinct` keep as much as there is: for columns of many different
values there is `approx_count_distinct` (sketches.py).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import GenericAlias
from typing import Any, ClassVar, Literal

import pyarrow as pa

from ...state.errors import PipelineError
from ..records.field_types import FieldType
from ..records.nested_types import ListOf
from .aggregate import Aggregate, field_of_column, type_of_column, value_type
from .aggregates import ordered_type


@dataclass(frozen=True)
class FirstOrLast(Aggregate):
    """The first or last value in the order of arrival, or in that of another column. State: None, or that column's
    value (or None) and the value."""

    column: str
    kind: Literal["first", "last"]
    by: str | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column,) if self.by is None else (self.column, self.by)

    def result_type(self, schema: pa.Schema) -> pa.DataType:
        if self.by is not None:
            ordered_type(schema, self.by, f"{self.kind} by a column")
        return type_of_column(schema, self.column)

    def result_field(self, fields: Mapping[str, FieldType]) -> FieldType:
        super().result_field(fields)
        return replace(field_of_column(fields, self.column), nullable=True)

    def state_type(self, fields: Mapping[str, FieldType]) -> Any:
        kinds = (type(None) if self.by is None else value_type(fields, self.by), value_type(fields, self.column))
        return GenericAlias(tuple, kinds) | None

    def create(self) -> None:
        return None

    def add(self, accumulator: Any, value: Any) -> Any:
        if self.by is None:
            if value is None or (accumulator is not None and self.kind == "first"):
                return accumulator
            return None, value
        value, by = value
        return accumulator if value is None or by is None else self.merge(accumulator, (by, value))

    def merge(self, one: Any, other: Any) -> Any:
        if one is None or other is None:
            return other if one is None else one
        if self.by is None:
            return one if self.kind == "first" else other
        if self.kind == "first":
            return other if _rank(other[0]) < _rank(one[0]) else one
        return one if _rank(other[0]) < _rank(one[0]) else other

    def result(self, accumulator: Any) -> Any:
        return None if accumulator is None else accumulator[1]


def first(column: str, *, by: str | None = None) -> Aggregate:
    """The value that arrived first; with `by`, that of the record with the least value in that column, for example its
    event time, whatever order records came in (of several the first to arrive)."""
    return FirstOrLast(column, "first", by)


def last(column: str, *, by: str | None = None) -> Aggregate:
    """The value that arrived last; with `by`, that of the record with the greatest value in that column (of several the
    last to arrive)."""
    return FirstOrLast(column, "last", by)


@dataclass(frozen=True)
class Best(Aggregate):
    """The k greatest or least values. State: they, in ascending order."""

    column: str
    k: int
    kind: Literal["top_k", "bottom_k"]

    def result_type(self, schema: pa.Schema) -> pa.DataType:
        return pa.list_(ordered_type(schema, self.column, self.kind))

    def result_field(self, fields: Mapping[str, FieldType]) -> FieldType:
        super().result_field(fields)
        return _list_of(fields, self.column)

    def state_type(self, fields: Mapping[str, FieldType]) -> Any:
        return GenericAlias(tuple, (value_type(fields, self.column), ...))

    def create(self) -> tuple[Any, ...]:
        return ()

    def add(self, accumulator: tuple[Any, ...], value: Any) -> tuple[Any, ...]:
        if value is None:
            return accumulator
        if len(accumulator) == self.k:
            if self.kind == "top_k":
                if not (value > accumulator[0] or value != value):
                    return accumulator
                accumulator = accumulator[1:]
            else:
                if not (value < accumulator[-1] or accumulator[-1] != accumulator[-1]):
                    return accumulator
                accumulator = accumulator[:-1]
        place = bisect_right(accumulator, _rank(value), key=_rank)
        return (*accumulator[:place], value, *accumulator[place:])

    def merge(self, one: tuple[Any, ...], other: tuple[Any, ...]) -> tuple[Any, ...]:
        for value in other:
            one = self.add(one, value)
        return one

    def result(self, accumulator: tuple[Any, ...]) -> list[Any] | None:
        return list(accumulator[::-1] if self.kind == "top_k" else accumulator) or None


def top_k(column: str, k: int) -> Aggregate:
    """A list of the k greatest values, the greatest first; of all if there are fewer. PipelineError for k < 1."""
    return Best(column, _at_least_one("top_k", column, "k", k), "top_k")


def bottom_k(column: str, k: int) -> Aggregate:
    """A list of the k least values, the least first; of all if there are fewer. PipelineError for k < 1."""
    return Best(column, _at_least_one("bottom_k", column, "k", k), "bottom_k")


@dataclass(frozen=True)
class Collect(Aggregate):
    """Values in the order of arrival."""

    column: str
    limit: int | None

    def result_type(self, schema: pa.Schema) -> pa.DataType:
        return pa.list_(type_of_column(schema, self.column))

    def result_field(self, fields: Mapping[str, FieldType]) -> FieldType:
        return _list_of(fields, self.column)

    def state_type(self, fields: Mapping[str, FieldType]) -> Any:
        return list[value_type(fields, self.column)]  # type: ignore[misc]

    def create(self) -> list[Any]:
        return []

    def add(self, accumulator: list[Any], value: Any) -> list[Any]:
        if value is not None and (self.limit is None or len(accumulator) < self.limit):
            accumulator.append(value)
        return accumulator

    def merge(self, one: list[Any], other: list[Any]) -> list[Any]:
        one += other if self.limit is None else other[: self.limit - len(one)]
        return one

    def result(self, accumulator: list[Any]) -> list[Any] | None:
        return accumulator[:] or None


@dataclass(frozen=True)
class CollectDistinct(Aggregate):
    """Different values in the order of their first arrival. State: a dict with them as keys; None stands for NaN."""

    column: str
    limit: int | None

    def result_type(self, schema: pa.Schema) -> pa.DataType:
        return pa.list_(comparable_type(schema, self.column, "collect of distinct values"))

    def result_field(self, fields: Mapping[str, FieldType]) -> FieldType:
        super().result_field(fields)
        return _list_of(fields, self.column)

    def state_type(self, fields: Mapping[str, FieldType]) -> Any:
        return dict[value_type(fields, self.column) | None, None]  # type: ignore[misc]

    def create(self) -> dict[Any, None]:
        return {}

    def add(self, accumulator: dict[Any, None], value: Any) -> dict[Any, None]:
        if value is not None and (self.limit is None or len(accumulator) < self.limit):
            accumulator[value if value == value else None] = None
        return accumulator

    def merge(self, one: dict[Any, None], other: dict[Any, None]) -> dict[Any, None]:
        for value in other:
            if self.limit is None or len(one) < self.limit:
                one[value] = None
        return one

    def result(self, accumulator: dict[Any, None]) -> list[Any] | None:
        return [math.nan if value is None else value for value in accumulator] or None


def collect(column: str, *, limit: int | None = None, distinct: bool = False) -> Aggregate:
    """A list of the values in the order of arrival: of all, or of the first `limit`. distinct: every value once.
    PipelineError for a limit below 1."""
    if limit is not None:
        _at_least_one("collect", column, "limit", limit)
    return CollectDistinct(column, limit) if distinct else Collect(column, limit)


@dataclass(frozen=True)
class CountDistinct(Aggregate):
    """State: a set of the values; None stands for NaN."""

    column: str
    nullable: ClassVar[bool] = False

    def result_type(self, schema: pa.Schema) -> pa.DataType:
        comparable_type(schema, self.column, "count_distinct")
        return pa.int64()

    def state_type(self, fields: Mapping[str, FieldType]) -> Any:
        return set[value_type(fields, self.column) | None]  # type: ignore[misc]

    def create(self) -> set[Any]:
        return set()

    def add(self, accumulator: set[Any], value: Any) -> set[Any]:
        if value is not None:
            accumulator.add(value if value == value else None)
        return accumulator

    def merge(self, one: set[Any], other: set[Any]) -> set[Any]:
        one |= other
        return one

    def result(self, accumulator: set[Any]) -> int:
        return len(accumulator)


def count_distinct(column: str) -> Aggregate:
    """Number of different values, exactly. State has them all."""
    return CountDistinct(column)


def comparable_type(schema: pa.Schema, column: str, what: str) -> pa.DataType:
    """Of a column whose values can be told apart. PipelineError."""
    kind = type_of_column(schema, column)
    if pa.types.is_nested(kind):
        raise PipelineError(
            f"{what} needs plain values, but column {column!r} is of type {kind}; map them to text or numbers first"
        )
    return kind


def _rank(value: Any) -> tuple[bool, Any]:
    """NaN is greater than every number."""
    return value != value, value


def _list_of(fields: Mapping[str, FieldType], column: str) -> FieldType:
    return ListOf(True, list, replace(field_of_column(fields, column), nullable=False))


def _at_least_one(what: str, column: str, parameter: str, number: Any) -> int:
    if type(number) is not int or number < 1:
        raise PipelineError(f"{what} of {column!r}: {parameter} is an int of at least 1, not {number!r}")
    return number
