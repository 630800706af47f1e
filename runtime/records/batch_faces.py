"""What functions over whole batches are given, and what is made of what they return."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from ...state.errors import RecordTypeError
from ..batch import Batch, Int64Array
from .record_types import RecordType

FACES = ("arrow", "polars", "numpy")


def given(columns: pa.RecordBatch, face: str) -> Any:
    """An Arrow record batch, a polars DataFrame, or a dict of numpy arrays."""
    if face == "polars":
        import polars as pl

        return pl.from_arrow(columns)
    if face == "numpy":
        return {
            name: column.to_numpy(zero_copy_only=False)
            for name, column in zip(columns.schema.names, columns.columns, strict=True)
        }
    return columns


def as_table(result: Any, operator: str) -> pa.Table:
    """RecordTypeError: it is no batch."""
    if hasattr(result, "to_arrow"):  # a polars frame, without importing polars where it is not used
        return result.to_arrow()
    if isinstance(result, pa.RecordBatch):
        return pa.Table.from_batches([result])
    if isinstance(result, dict):
        return pa.table({name: pa.array(values) for name, values in result.items()})
    if isinstance(result, pa.Table):
        return result
    raise RecordTypeError(
        f"operator '{operator}': the function returned a {type(result).__name__}; "
        "return an Arrow record batch or table, a polars DataFrame, or a dict of numpy arrays"
    )


def as_batch(table: pa.Table, timestamps: Int64Array, output_type: RecordType, operator: str) -> Batch:
    """Of the stream's type. `timestamps`: of what was given. With another number of records all get the newest of them,
    because nobody knows which came of which. RecordTypeError: the columns are not those of the type."""
    if table.num_rows != len(timestamps):
        timestamps = np.full(table.num_rows, timestamps.max(), np.int64)
    if output_type.schema is None:
        return Batch.of_rows(output_type, table.to_pylist(), timestamps)
    return Batch.of_columns(output_type, _typed(table, output_type.schema, operator), timestamps)


def _typed(table: pa.Table, schema: pa.Schema, operator: str) -> pa.RecordBatch:
    """Columns in the type's order, cast where nothing is lost by it."""
    if set(table.schema.names) != set(schema.names):
        raise RecordTypeError(
            f"operator '{operator}': the function returned columns {', '.join(table.schema.names)}, but the stream's "
            f"type has {', '.join(schema.names)}; return those, or say with output_type= what it returns"
        )
    try:
        cast = table.select(schema.names).cast(schema).combine_chunks()
    except (pa.ArrowException, ValueError) as error:
        raise RecordTypeError(f"operator '{operator}': the columns do not fit the stream's type: {error}") from error
    batches = cast.to_batches()
    return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=schema)
