"""Polars expressions on the columns of a stream: with_columns, select, filter.

Batches go to polars without copying numbers and come back with the exact Arrow types of the stream's schema, which is
worked out when the pipeline is built, by evaluating the expressions on an empty frame. Columns that with_columns does
not touch stay the arrays they are. Expressions work row by row: what looks at other rows sees those of the batch
only, so an expression that reduces a column to one value is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from ...state.errors import PipelineError
from ..batch import Batch
from ..changelog import CHANGELOGS, EVERYTHING
from ..records.record_types import RecordType, SchemaType
from .operator import Operator
from .user_code import raise_user_error

_KEEP = "keep"


def with_columns_type(input_type: RecordType, expressions: Sequence[Any], named: Mapping[str, Any]) -> SchemaType:
    """The schema after with_columns. PipelineError for unknown columns and impossible expressions."""
    schema, frame = _empty(input_type)
    with _explained("with_columns"):
        new = frame.select(*expressions, **named)
        _check_row_by_row(frame, expressions, named)
    fields = {field.name: field for field in schema}
    fields.update({field.name: field for field in _fields_of(new, schema, frame)})
    return SchemaType(pa.schema(list(fields.values())))


def select_type(input_type: RecordType, expressions: Sequence[Any], named: Mapping[str, Any]) -> SchemaType:
    """The schema after select. PipelineError likewise."""
    schema, frame = _empty(input_type)
    with _explained("select"):
        new = frame.select(*expressions, **named)
        _check_row_by_row(frame, expressions, named)
    if not new.width:
        raise PipelineError("select: no columns are selected")
    return SchemaType(pa.schema(_fields_of(new, schema, frame)))


def _empty(input_type: RecordType) -> tuple[pa.Schema, pl.DataFrame]:
    if input_type.schema is None:
        raise PipelineError("expressions need columns: declare the type of the stream")
    with _explained("expressions"):
        return input_type.schema, _frame(input_type.schema.empty_table())


def _frame(columns: pa.RecordBatch | pa.Table) -> pl.DataFrame:
    frame = pl.from_arrow(columns)
    assert isinstance(frame, pl.DataFrame)
    return frame


@contextmanager
def _explained(what: str) -> Iterator[None]:
    try:
        yield
    except (pl.exceptions.PolarsError, TypeError, ValueError, pa.ArrowException) as error:
        raise PipelineError(f"{what}: {str(error).splitlines()[0]}") from error


def _check_row_by_row(frame: pl.DataFrame, expressions: Sequence[Any], named: Mapping[str, Any]) -> None:
    for expression in [*expressions, *named.values()]:
        if isinstance(expression, pl.Expr) and expression.meta.root_names() and frame.select(expression).height:
            raise PipelineError(
                f"{expression} makes one value of a whole column, but a batch is an accident of timing; "
                "use key_by, a window and agg"
            )


def _fields_of(new: pl.DataFrame, schema: pa.Schema, frame: pl.DataFrame) -> list[pa.Field]:
    fields = []
    for name, dtype in new.schema.items():
        if name in schema.names and frame.schema[name] == dtype:
            kind = schema.field(name).type
        else:
            kind = _plain_type(pa.table(new.select(name)).schema.field(0).type)
        if pa.types.is_null(kind):
            raise PipelineError(f"column {name!r} has no type; cast it to one")
        fields.append(pa.field(name, kind))
    return fields


def _plain_type(kind: pa.DataType) -> pa.DataType:
    """What penstock's schemas say for what polars calls by its own layouts."""
    types = pa.types
    if types.is_dictionary(kind) or types.is_large_string(kind) or str(kind) == "string_view":
        return pa.string()
    if types.is_large_binary(kind) or str(kind) == "binary_view":
        return pa.binary()
    if types.is_large_list(kind) or types.is_list(kind):
        return pa.list_(_plain_type(kind.value_type))
    if types.is_struct(kind):
        return pa.struct([field.with_type(_plain_type(field.type)) for field in kind])
    return pa.time64("us") if types.is_time(kind) else kind


def _column(frame: pl.DataFrame, field: pa.Field) -> pa.Array:
    """A column as one Arrow array of exactly the field's type."""
    array = frame.get_column(field.name).to_arrow(compat_level=pl.CompatLevel.oldest())
    if pa.types.is_dictionary(array.type) and not pa.types.is_dictionary(field.type):
        array = array.dictionary_decode()
    return array if array.type == field.type else array.cast(field.type)


class _ExpressionOperator(Operator):
    """Evaluates expressions; what goes wrong in there is the user's."""

    face = "columns"
    accepted_modes = EVERYTHING

    def _fail(self, error: Exception, batch: Batch) -> NoReturn:
        raise_user_error(self.context, error, f"on a batch of {len(batch)} records")

    def _emit(self, batch: Batch, columns: pa.RecordBatch) -> None:
        result = Batch.of_columns(self.output_type, columns, batch.timestamps() if batch.has_timestamps else None)
        result.row_kinds = batch.row_kinds
        self.output.emit(result)


class WithColumnsOperator(_ExpressionOperator):
    """Adds and replaces columns."""

    def __init__(
        self,
        expressions: Sequence[Any],
        named: Mapping[str, Any],
        input_type: RecordType,
        output_type: SchemaType | None = None,
    ) -> None:
        self._expressions = tuple(expressions)
        self._named = dict(named)
        self.output_type = output_type or with_columns_type(input_type, expressions, named)
        self._new = frozenset(_empty(input_type)[1].select(*expressions, **named).columns)

    def process_batch(self, batch: Batch, input_index: int) -> None:
        columns = batch.columns()
        schema = self.output_type.schema
        assert schema is not None
        try:
            frame = _frame(columns).with_columns(*self._expressions, **self._named)
            arrays = [
                _column(frame, field) if field.name in self._new else columns.column(field.name) for field in schema
            ]
        except Exception as error:
            self._fail(error, batch)
        self._emit(batch, pa.RecordBatch.from_arrays(arrays, schema=schema))


class SelectOperator(_ExpressionOperator):
    """Makes other columns of the columns."""

    def __init__(
        self,
        expressions: Sequence[Any],
        named: Mapping[str, Any],
        input_type: RecordType,
        output_type: SchemaType | None = None,
    ) -> None:
        self._expressions = tuple(expressions)
        self._named = dict(named)
        self.output_type = output_type or select_type(input_type, expressions, named)

    def process_batch(self, batch: Batch, input_index: int) -> None:
        schema = self.output_type.schema
        assert schema is not None
        try:
            # with_columns repeats constants for every row, and refuses anything else of another length
            frame = _frame(batch.columns()).with_columns(*self._expressions, **self._named)
            arrays = [_column(frame, field) for field in schema]
        except Exception as error:
            self._fail(error, batch)
        self._emit(batch, pa.RecordBatch.from_arrays(arrays, schema=schema))


class FilterExpressionOperator(_ExpressionOperator):
    """Passes on the records for which the expression is true; null is not true."""

    accepted_modes = CHANGELOGS
    """Of upserts the one that no longer passes would leave behind the one that did."""

    def __init__(self, expression: Any, record_type: RecordType) -> None:
        """PipelineError when the expression is not one boolean of known columns."""
        self._expression = expression
        self.output_type = record_type
        _schema, frame = _empty(record_type)
        with _explained("filter"):
            kept = frame.select(expression)
        if kept.width != 1 or kept.dtypes[0] != pl.Boolean:
            raise PipelineError(f"filter needs a boolean expression, but {expression} gives {kept.schema}")
        _check_row_by_row(frame, [expression], {})

    def process_batch(self, batch: Batch, input_index: int) -> None:
        kept = self._kept(batch)
        if len(kept) == len(batch):
            self.output.emit(batch)
        elif len(kept):
            self.output.emit(batch.take(kept))

    def _kept(self, batch: Batch) -> npt.NDArray[np.int64]:
        try:
            frame = _frame(batch.columns())
            flags = frame.select(pl.when(self._expression).then(True).otherwise(False).alias(_KEEP)).get_column(_KEEP)
            if len(flags) not in (1, len(batch)):
                raise ValueError(f"{self._expression} gives {len(flags)} values for {len(batch)} records")
        except Exception as error:
            self._fail(error, batch)
        return np.flatnonzero(np.broadcast_to(flags.to_numpy(), len(batch)))
