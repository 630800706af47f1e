"""The aggregates of `.agg(departures=count(), mean=avg("delay"))`, for both faces of a stream.

An aggregate says which accumulators it needs (accumulators.py) and makes a result of them; vectorised windows share
accumulators between aggregates. `RowAggregates` is the same in plain Python, for streams whose key is a function.
Both give the same results, to the last bit:

    null         left out, as in SQL; an aggregate that saw no value is null, `count()` counts rows
    integers     sums are 64 bits wide; leaving them is an AggregateError. avg is the sum divided once, as a float
    floats       added in the order of the records
    NaN          makes sum and avg NaN; greater than every number for min and max, as in DuckDB and Postgres
"""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa

from ..state.accumulator_spec import AccumulatorSpec, Word, overflow_error
from ..state.errors import PipelineError
from .fields import field_getter
from .functions import AggregateFunction

_INT_MIN, _INT_MAX = -(2**63), 2**63 - 1


class Aggregate(ABC):
    """One named result of a group."""

    column: str | None
    nullable: ClassVar[bool] = True
    """Null when it has seen no value."""

    @abstractmethod
    def specs(self, schema: pa.Schema) -> tuple[AccumulatorSpec, ...]:
        """The accumulators it needs. PipelineError when the column is not there or cannot be aggregated."""

    @abstractmethod
    def result_type(self, schema: pa.Schema) -> pa.DataType: ...

    @abstractmethod
    def finish(self, accumulated: Sequence[pa.Array], result_type: pa.DataType) -> pa.Array:
        """Results of many groups, from the values of `specs`."""

    @abstractmethod
    def create(self) -> Any:
        """An empty accumulator of the row face."""

    @abstractmethod
    def add(self, accumulator: Any, value: Any) -> Any: ...

    @abstractmethod
    def merge(self, one: Any, other: Any) -> Any: ...

    def result(self, accumulator: Any) -> Any:
        return accumulator

    def _type_of_column(self, schema: pa.Schema) -> pa.DataType:
        if self.column not in schema.names:
            raise PipelineError(f"no column {self.column!r} to aggregate; there are {', '.join(schema.names)}")
        kind: pa.DataType = schema.field(self.column).type
        return kind.value_type if pa.types.is_dictionary(kind) else kind

    def _number_word(self, schema: pa.Schema, what: str) -> Word:
        kind = self._type_of_column(schema)
        if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
            return "int64"
        if pa.types.is_floating(kind):
            return "float64"
        raise PipelineError(f"{what} needs numbers, but column {self.column!r} is of type {kind}; cast it first")


@dataclass(frozen=True)
class Count(Aggregate):
    """Records, or those with a value in the column. Never null."""

    column: str | None = None
    nullable: ClassVar[bool] = False

    def specs(self, schema: pa.Schema) -> tuple[AccumulatorSpec, ...]:
        if self.column is not None:
            self._type_of_column(schema)
        return (AccumulatorSpec("count", self.column, "int64"),)

    def result_type(self, schema: pa.Schema) -> pa.DataType:
        return pa.int64()

    def finish(self, accumulated: Sequence[pa.Array], result_type: pa.DataType) -> pa.Array:
        return accumulated[0]

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
        return (AccumulatorSpec("sum", self.column, self._number_word(schema, "sum")),)

    def result_type(self, schema: pa.Schema) -> pa.DataType:
        return pa.int64() if self._number_word(schema, "sum") == "int64" else pa.float64()

    def finish(self, accumulated: Sequence[pa.Array], result_type: pa.DataType) -> pa.Array:
        return accumulated[0]

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
    """The least or the greatest value."""

    column: str
    kind: Literal["min", "max"]

    def specs(self, schema: pa.Schema) -> tuple[AccumulatorSpec, ...]:
        kind = self._type_of_column(schema)
        if not pa.types.is_primitive(kind):
            raise PipelineError(
                f"{self.kind} needs numbers or times, but column {self.column!r} is of type {kind}; "
                "use .aggregate() with a function"
            )
        return (AccumulatorSpec(self.kind, self.column, "float64" if pa.types.is_floating(kind) else "int64"),)

    def result_type(self, schema: pa.Schema) -> pa.DataType:
        return self._type_of_column(schema)

    def finish(self, accumulated: Sequence[pa.Array], result_type: pa.DataType) -> pa.Array:
        words, types = accumulated[0], pa.types
        if types.is_integer(result_type) or types.is_floating(result_type) or types.is_boolean(result_type):
            return words.cast(result_type)
        return (words if result_type.bit_width == 64 else words.cast(pa.int32())).view(result_type)

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

    def specs(self, schema: pa.Schema) -> tuple[AccumulatorSpec, ...]:
        word = self._number_word(schema, "avg")
        return AccumulatorSpec("sum", self.column, word), AccumulatorSpec("count", self.column, "int64")

    def result_type(self, schema: pa.Schema) -> pa.DataType:
        return pa.float64()

    def finish(self, accumulated: Sequence[pa.Array], result_type: pa.DataType) -> pa.Array:
        totals = accumulated[0].cast(pa.float64(), safe=False).fill_null(0.0).to_numpy()
        counts = accumulated[1].to_numpy()
        with np.errstate(invalid="ignore"):
            return pa.array(totals / counts, mask=counts == 0)

    def create(self) -> tuple[Any, int]:
        return 0, 0

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


class RowAggregates(AggregateFunction):
    """All aggregates of an `.agg()` over Python records; the result is a tuple in the order of the names."""

    def __init__(self, aggregates: Mapping[str, Aggregate]) -> None:
        self.names = tuple(aggregates)
        self._aggregates = tuple(aggregates.values())
        self._record_type: type | None = None
        self._getters: list[Callable[[Any], Any]] = []

    def create_accumulator(self) -> list[Any]:
        return [aggregate.create() for aggregate in self._aggregates]

    def add(self, value: Any, accumulator: list[Any]) -> list[Any]:
        if type(value) is not self._record_type:
            self._record_type = type(value)
            self._getters = [_getter(value, aggregate.column) for aggregate in self._aggregates]
        for i, aggregate in enumerate(self._aggregates):
            accumulator[i] = aggregate.add(accumulator[i], self._getters[i](value))
        return accumulator

    def get_result(self, accumulator: list[Any]) -> tuple[Any, ...]:
        return tuple([each.result(part) for each, part in zip(self._aggregates, accumulator, strict=True)])

    def merge(self, acc_a: list[Any], acc_b: list[Any]) -> list[Any]:
        return [each.merge(a, b) for each, a, b in zip(self._aggregates, acc_a, acc_b, strict=True)]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_record_type": None, "_getters": []}


def _getter(record: Any, column: str | None) -> Callable[[Any], Any]:
    return (lambda row: row) if column is None else field_getter(record, column)


__all__ = ["Aggregate", "RowAggregates", "avg", "count", "max", "min", "sum"]
