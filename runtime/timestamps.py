"""Event timestamps: how a record's is found, a batch at a time.

Timestamps are int ms since the epoch. An assigner gives ints or aware datetimes, or names a column of integers (ms)
or of time-zone-aware Arrow timestamps of any unit. Fractions of a ms are cut off towards the past. Naive datetimes,
floats, bools and None are refused: each of them hides a mistake.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from ..state.errors import RecordTypeError
from .batch import Batch, Int64Array
from .fields import field_getter
from .functions import callable_of

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)
_UNITS_PER_MS = {"ms": 1, "us": 1_000, "ns": 1_000_000}


def assigned(batch: Batch, assigner: Callable[[Any, int], Any] | str | Any) -> Batch:
    """The batch with the timestamps that a callable(record, previous timestamp), an object with extract_timestamp,
    or the column of that name gives. RecordTypeError; a callable's own errors pass through."""
    if isinstance(assigner, str):
        if batch.has_columns:
            return batch.with_timestamps(_of_column(batch.columns(), assigner))
        rows = batch.rows()
        getter = field_getter(rows[0], assigner) if rows else None
        return batch.with_timestamps([] if getter is None else checked(list(map(getter, rows)), rows))
    function = callable_of(assigner, "extract_timestamp")
    rows = batch.rows()
    values = list(map(function, rows, batch.timestamp_list()))
    return batch.with_timestamps(checked(values, rows))


def checked(values: list[Any], rows: list[Any]) -> list[int]:
    """What an assigner gave, as int ms. RecordTypeError names the value."""
    kinds = set(map(type, values))
    if kinds == {int} and len(values) == len(rows):
        return values
    if len(values) < len(rows):
        raise RecordTypeError("the timestamp assigner raised StopIteration")
    return list(map(_milliseconds, values))


def _milliseconds(value: Any) -> int:
    if isinstance(value, datetime):
        if value.utcoffset() is None:
            raise RecordTypeError(f"the timestamp {value} is a naive datetime: give it a time zone, or use int ms")
        return (value - _EPOCH) // _MS
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        return int(value)
    raise RecordTypeError(f"the timestamp {value!r} is a {type(value).__name__}: use int ms or an aware datetime")


def _of_column(columns: pa.RecordBatch, name: str) -> Int64Array:
    if name not in columns.schema.names:
        raise RecordTypeError(f"there is no timestamp column {name!r}; there are {', '.join(columns.schema.names)}")
    column = columns.column(name)
    if column.null_count:
        raise RecordTypeError(f"the timestamp column {name!r} has {column.null_count} nulls; every record needs one")
    if pa.types.is_integer(column.type):
        return column.cast(pa.int64()).to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]
    if not pa.types.is_timestamp(column.type):
        raise RecordTypeError(f"the timestamp column {name!r} is of type {column.type}: use int ms or timestamps")
    if column.type.tz is None:
        raise RecordTypeError(f"the timestamp column {name!r} has no time zone: give it one, for example UTC")
    ticks: Int64Array = column.cast(pa.int64()).to_numpy(zero_copy_only=False)
    if column.type.unit == "s":
        return ticks * 1_000
    return ticks // _UNITS_PER_MS[column.type.unit]
