"""The aggregates that every query has, count, sum, min, max and avg; and all of an `.agg()` over Python records.

What holds for all aggregates is said in aggregate.py; the others are in distributions.py, kept_values.py and
sketches.py.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import GenericAlias
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa

from ...state.columns.accumulator_spec import AccumulatorSpec, overflow_error
from ...state.errors import PipelineError
from ..functions import AggregateFunction
from ..records.field_types import FieldType
from ..records.fields import fields_getter
from .aggregate import Aggregate, field_of_column, number_type, number_word, type_of_column, value_type

_INT_MIN, _INT_MAX = -(2**63), 2**63 - 1


@dataclass(frozen=True)
class Count(Aggregate):
    """Records, or those with a value in the column. Never null."""

    column: str | None = None
    nullable: ClassVar[bool] = False

    def specs(self, schema: pa.Schema) -> tuple[AccumulatorSpec, ...]:
        self.result_type(schema)
        return (AccumulatorSpec("count", self.column, "int64"),)

    def result_type(self, schema: pa.Schema) -> pa.DataType:
        if self.column is not None:
            type_of_column(schema, self.column)
        return pa.int64()

    def finish(self, accumulated: Sequence[pa.Array], result_type: pa.DataType) -> pa.Array:
        return accumulated[0]

    def state_type(self, fields: Mapping[str, FieldType]) -> Any:
        return int

    def create(self) -> int:
        return 0

    def add(self, accumulator: int, value: Any) -> int:
        return accumulator + (self.column is None or value is not None)

    def merge(self, one: int, other: int) -> int:
        return one + other


@dataclass(frozen=True)
class Sum(Aggregate):
    """Of a number column. AggregateError when whole numbers leave 64 bits."""

    column: str

    def specs(self, schema: pa.Schema) -> tuple[AccumulatorSpec, ...]:
        return (AccumulatorSpec("sum", self.column, number_word(schema, self.column, "sum")),)

    def result_type(self, schema: pa.Schema) -> pa.DataType:
        return pa.int64() if number_word(schema, self.column, "sum") == "int64" else pa.float64()

    def finish(self, accumulated: Sequence[pa.Array], result_type: pa.DataType) -> pa.Array:
        return accumulated[0]

    def state_type(self, fields: Mapping[str, FieldType]) -> Any:
        return number_type(fields, self.column) | None

    def create(self) -> None:
        return None

    def add(self, accumulator: Any, value: Any) -> Any:
        if value is None:
            return accumulator
        return self._checked(0 + value if accumulator is None else accumulator + value)

    def merge(self, one: Any, other: Any) -> Any:
        return self.add(one, other)

    def _checked(self, total: Any) -> Any:
        if type(total) is int and not _INT_MIN <= total <= _INT_MAX:
            raise overflow_error(self.column)
        return total


@dataclass(frozen=True)
class Extreme(Aggregate):
    """The least or the greatest value. Of numbers and times on both faces, of text and the like on rows."""

    column: str
    kind: Literal["min", "max"]

    def specs(self, schema: pa.Schema) -> tuple[AccumulatorSpec, ...] | None:
        kind = self.result_type(schema)
        if not pa.types.is_primitive(kind):
            return None
        return (AccumulatorSpec(self.kind, self.column, "float64" if pa.types.is_floating(kind) else "int64"),)

    def result_type(self, schema: pa.Schema) -> pa.DataType:
        return ordered_type(schema, self.column, self.kind)

    def result_field(self, fields: Mapping[str, FieldType]) -> FieldType:
        super().result_field(fields)
        return replace(field_of_column(fields, self.column), nullable=True)

    def finish(self, accumulated: Sequence[pa.Array], result_type: pa.DataType) -> pa.Array:
        words, types = accumulated[0], pa.types
        if types.is_integer(result_type) or types.is_floating(result_type) or types.is_boolean(result_type):
            return words.cast(result_type)
        return (words if result_type.bit_width == 64 else words.cast(pa.int32())).view(result_type)

    def state_type(self, fields: Mapping[str, FieldType]) -> Any:
        return value_type(fields, self.column) | None

    def create(self) -> None:
        return None

    def add(self, accumulator: Any, value: Any) -> Any:
        if value is None:
            return accumulator
        if accumulator is None:
            return value
        better: Callable[[Any, Any], bool] = operator.lt if self.kind == "min" else operator.gt
        undefined = value if self.kind == "max" else accumulator
        return value if better(value, accumulator) or undefined != undefined else accumulator

    def merge(self, one: Any, other: Any) -> Any:
        return self.add(one, other)


@dataclass(frozen=True)
class Avg(Aggregate):
    """Sum by count, as a float."""

    column: str
    zero: float = 0
    """The sum of no values; 0.0 of floats."""

    def of(self, fields: Mapping[str, FieldType]) -> Aggregate:
        return replace(self, zero=0.0) if number_type(fields, self.column) is float else self

    def specs(self, schema: pa.Schema) -> tuple[AccumulatorSpec, ...]:
        word = number_word(schema, self.column, "avg")
        return AccumulatorSpec("sum", self.column, word), AccumulatorSpec("count", self.column, "int64")

    def result_type(self, schema: pa.Schema) -> pa.DataType:
        number_word(schema, self.column, "avg")
        return pa.float64()

    def finish(self, accumulated: Sequence[pa.Array], result_type: pa.DataType) -> pa.Array:
        totals = accumulated[0].cast(pa.float64(), safe=False).fill_null(0.0).to_numpy()
        counts = accumulated[1].to_numpy()
        with np.errstate(invalid="ignore"):
            return pa.array(totals / counts, mask=counts == 0)

    def state_type(self, fields: Mapping[str, FieldType]) -> Any:
        return GenericAlias(tuple, (number_type(fields, self.column), int))

    def create(self) -> tuple[Any, int]:
        return self.zero, 0

    def add(self, accumulator: tuple[Any, int], value: Any) -> tuple[Any, int]:
        if value is None:
            return accumulator
        return self.merge(accumulator, (value, 1))

    def merge(self, one: tuple[Any, int], other: tuple[Any, int]) -> tuple[Any, int]:
        total = one[0] + other[0]
        if type(total) is int and not _INT_MIN <= total <= _INT_MAX:
            raise overflow_error(self.column)
        return total, one[1] + other[1]

    def result(self, accumulator: tuple[Any, int]) -> float | None:
        total, count = accumulator
        return float(total) / count if count else None


def count(column: str | None = None) -> Aggregate:
    """Number of rows; of those whose column is not null, where one is named."""
    return Count(column)


def sum(column: str) -> Aggregate:
    return Sum(column)


def min(column: str) -> Aggregate:
    return Extreme(column, "min")


def max(column: str) -> Aggregate:
    return Extreme(column, "max")


def avg(column: str) -> Aggregate:
    return Avg(column)


def ordered_type(schema: pa.Schema, column: str, what: str) -> pa.DataType:
    """Of a column whose values can be compared. PipelineError."""
    kind = type_of_column(schema, column)
    if pa.types.is_nested(kind) or pa.types.is_null(kind):
        raise PipelineError(
            f"{what} needs values that have an order, but column {column!r} is of type {kind}; "
            "use .aggregate() with a function"
        )
    return kind


class RowAggregates(AggregateFunction):
    """All aggregates of an `.agg()` over Python records; the result is a tuple in the order of the names."""

    def __init__(self, aggregates: Mapping[str, Aggregate], fields: Mapping[str, FieldType] | None = None) -> None:
        """fields: of the records; without them accumulators are pickled."""
        self.names = tuple(aggregates)
        self._aggregates = tuple(aggregates.values())
        if fields is not None:
            self._aggregates = tuple([each.of(fields) for each in self._aggregates])
        self._record_type: type | None = None
        self._getters: list[Callable[[Any], Any]] = []
        self.accumulator_type: Any = None
        if fields is not None:
            kinds = tuple([each.state_type(fields) for each in self._aggregates])
            self.accumulator_type = GenericAlias(tuple, kinds)

    def create_accumulator(self) -> Any:
        return tuple([aggregate.create() for aggregate in self._aggregates])

    def add(self, value: Any, accumulator: tuple[Any, ...]) -> tuple[Any, ...]:
        if type(value) is not self._record_type:
            self._record_type = type(value)
            self._getters = [_getter(value, aggregate.columns) for aggregate in self._aggregates]
        parts = zip(self._aggregates, accumulator, self._getters, strict=True)
        return tuple([each.add(part, get(value)) for each, part, get in parts])

    def get_result(self, accumulator: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple([each.result(part) for each, part in zip(self._aggregates, accumulator, strict=True)])

    def merge(self, acc_a: tuple[Any, ...], acc_b: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple([each.merge(a, b) for each, a, b in zip(self._aggregates, acc_a, acc_b, strict=True)])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_record_type": None, "_getters": []}


def _getter(record: Any, columns: tuple[str, ...]) -> Callable[[Any], Any]:
    return fields_getter(record, columns) if columns else lambda row: row


__all__ = ["Aggregate", "RowAggregates", "avg", "count", "max", "min", "sum"]
