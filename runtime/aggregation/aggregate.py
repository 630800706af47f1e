"""What an aggregate of `.agg(departures=ps.count(), mean=ps.avg("delay"))` is.

An aggregate folds values into an accumulator, combines accumulators, and makes a result of one: that is its row face,
plain Python. Some can be folded in columns as well (accumulators.py): they say with which accumulators, and
vectorised windows share these between aggregates. Both faces give the same results, to the last bit.

Accumulators are plain values, and what they consist of has a Python type: so they are typed state, in every backend, in
checkpoints and savepoints. Those that cannot change in place are written beside the slot's thread.

What holds for all of them:

    null         left out, as in SQL; an aggregate that saw no value is null, but what counts (`count()`, which counts
                 rows, `count_distinct`, `approx_count_distinct`, `histogram`) gives zeros
    integers     sums are 64 bits wide; leaving them is an AggregateError. avg is the sum divided once, as a float
    floats       added in the order of the records
    NaN          makes sum, avg, stddev, variance and percentiles NaN; greater than every number for min, max, top_k,
                 bottom_k and histogram, as in DuckDB and Postgres; one value for distinct counts and `collect`
    infinite     makes stddev and variance NaN; counts as 1e300 where a percentile is approximate
    order        that of arrival. Where windows merge (sessions) or are put together from slices (sliding windows), what
                 lies in the earlier one comes first
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import pyarrow as pa

from ...state.columns.accumulator_spec import AccumulatorSpec, Word
from ...state.errors import PipelineError
from ..records.annotations import arrow_field_type
from ..records.field_types import FieldType

_HAVE_INSIDES = (dict, list, set, tuple, object)


class Aggregate(ABC):
    """One named result of a group."""

    column: str | None
    nullable: ClassVar[bool] = True
    """Null when it has seen no value."""

    @property
    def columns(self) -> tuple[str, ...]:
        """What `add` is given of a record: the value of one column, a tuple of several, of none the record."""
        return () if self.column is None else (self.column,)

    def specs(self, schema: pa.Schema) -> tuple[AccumulatorSpec, ...] | None:
        """The accumulators it needs in columns, None if it can only be computed on rows. PipelineError when the column
        is not there or cannot be aggregated at all."""
        self.result_type(schema)
        return None

    def finish(self, accumulated: Sequence[pa.Array], result_type: pa.DataType) -> pa.Array:
        """Results of many groups, from the values of `specs`."""
        raise NotImplementedError(f"{self} has no accumulators in columns")

    @abstractmethod
    def result_type(self, schema: pa.Schema) -> pa.DataType:
        """PipelineError as for `specs`."""

    def result_field(self, fields: Mapping[str, FieldType]) -> FieldType:
        """The type of its results on rows. PipelineError as for `specs`."""
        schema = pa.schema([(name, field.arrow) for name, field in fields.items()])
        return arrow_field_type(self.result_type(schema), self.nullable)

    def of(self, fields: Mapping[str, FieldType]) -> Aggregate:
        """The same, of records with these fields: its accumulators are exactly of the type for state."""
        return self

    @abstractmethod
    def state_type(self, fields: Mapping[str, FieldType]) -> Any:
        """The type of its accumulators; Any where nothing is known of the values in them."""

    @abstractmethod
    def create(self) -> Any:
        """An empty accumulator."""

    @abstractmethod
    def add(self, accumulator: Any, value: Any) -> Any:
        """The new accumulator; may be the given one, changed."""

    @abstractmethod
    def merge(self, one: Any, other: Any) -> Any:
        """Of two accumulators, what `other` has seen behind the rest; either may be changed."""

    def result(self, accumulator: Any) -> Any:
        """Nothing of the accumulator that could change may be in it."""
        return accumulator


def type_of_column(schema: pa.Schema, column: str | None) -> pa.DataType:
    if column not in schema.names:
        raise PipelineError(f"no column {column!r} to aggregate; there are {', '.join(schema.names)}")
    kind: pa.DataType = schema.field(column).type
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def field_of_column(fields: Mapping[str, FieldType], column: str) -> FieldType:
    if column not in fields:
        raise PipelineError(f"no column {column!r} to aggregate; there are {', '.join(fields)}")
    return fields[column]


def number_word(schema: pa.Schema, column: str, what: str) -> Word:
    """What its numbers are folded as."""
    kind = type_of_column(schema, column)
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return "int64"
    if pa.types.is_floating(kind):
        return "float64"
    hint = "cast it first"
    if pa.types.is_string(kind):
        hint += "; if it holds Decimals, these are stored as text: use floats, or whole numbers (cents)"
    raise PipelineError(f"{what} needs numbers, but column {column!r} is of type {kind}; {hint}")


def number_type(fields: Mapping[str, FieldType], column: str) -> Any:
    """Of a number in state: float or int."""
    if column not in fields:
        return Any
    return float if pa.types.is_floating(fields[column].arrow) else int


def value_type(fields: Mapping[str, FieldType], column: str) -> Any:
    """Of a column's value in state."""
    kind: Any = fields[column].python if column in fields else object
    return Any if kind in _HAVE_INSIDES else kind


def as_float(value: Any) -> float:
    """TypeError for text, even if it looks like a number."""
    if type(value) is float:
        return value
    if isinstance(value, str | bytes):
        raise TypeError(f"{value!r} is no number")
    return float(value)
