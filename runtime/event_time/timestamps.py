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
import pyarrow.compute as pc

from ...state.errors import RecordTypeError
from ..batch import Batch, Int64Array
from ..functions import CallError, callable_of, called_on_each
from ..hints import shown
from ..records.fields import field_getter

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)
_UNITS_PER_MS = {"ms": 1, "us": 1_000, "ns": 1_000_000}


def assigned(batch: Batch, assigner: Callable[[Any, int], Any] | str | Any) -> Batch:
    """The batch with the timestamps that a callable(record, previous timestamp), an object with extract_timestamp,
    or the column of that name gives. RecordTypeError; CallError of what a callable raises. Both name the record."""
    if isinstance(assigner, str):
        if batch.has_columns:
            return batch.with_timestamps(_of_column(batch.columns(), assigner))
        rows = batch.rows()
        return batch.with_timestamps(checked(_of_field(rows, assigner), rows) if rows else [])
    function = callable_of(assigner, "extract_timestamp")
    rows = batch.rows()
    values = called_on_each(function, rows, batch.timestamp_list(), doing="in the timestamp assigner, on the record")
    return batch.with_timestamps(checked(values, rows))


def checked(values: list[Any], rows: list[Any]) -> list[int]:
    """What an assigner gave, as int ms. RecordTypeError names the value and the record."""
    if set(map(type, values)) == {int}:
        return values
    return list(map(_milliseconds, values, rows))


def _milliseconds(value: Any, row: Any) -> int:
    if isinstance(value, datetime):
        if value.utcoffset() is None:
            raise RecordTypeError(
                f"the timestamp {value} of the record {shown(row)} is a naive datetime: give it a time zone, or use "
                "int ms"
            )
        return (value - _EPOCH) // _MS
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        return int(value)
    if value is None:
        raise RecordTypeError(
            f"the record {shown(row)} has no timestamp: it is None, and every record needs one, int ms or an aware "
            "datetime; filter out those without one before"
        )
    raise RecordTypeError(
        f"the timestamp {value!r} of the record {shown(row)} is a {type(value).__name__}: use int ms or an aware "
        f"datetime{_REMEDIES.get(type(value), '')}"
    )


_REMEDIES = {
    float: "; of seconds: int(seconds * 1000)",
    str: "; of a text: datetime.fromisoformat(text), with a time zone",
}


def _of_field(rows: list[Any], name: str) -> list[Any]:
    try:
        return called_on_each(field_getter(rows[0], name), rows)
    except (RecordTypeError, CallError) as error:
        if isinstance(error, CallError) and not isinstance(error.cause, (AttributeError, LookupError, TypeError)):
            raise  # of a user's property
        without = rows[0] if isinstance(error, RecordTypeError) else error.record
        raise RecordTypeError(
            f"the record {shown(without)} has no field {name!r}, which is to be its timestamp; let the timestamp "
            "assigner be a function where some have none"
        ) from None


def _of_column(columns: pa.RecordBatch, name: str) -> Int64Array:
    if name not in columns.schema.names:
        raise RecordTypeError(f"there is no timestamp column {name!r}; there are {', '.join(columns.schema.names)}")
    column = columns.column(name)
    if column.null_count:
        first = columns.slice(pc.index(column.is_null(), True).as_py(), 1).to_pylist()[0]
        raise RecordTypeError(
            f"the timestamp column {name!r} has {column.null_count} nulls, the first in the record {shown(first)}; "
            "every record needs a timestamp"
        )
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
