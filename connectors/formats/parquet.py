"""Parquet as columns. A range of bytes owns the row groups that start in it; a position is (row group, rows read).

Without a type the columns are those of a file that exists when the pipeline is built, and rows are dicts. With a type
every file must have its fields as columns, of the same or a narrower type (int32 for int, float32 for float).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ...runtime.batch import Batch
from ...runtime.records.record_types import RecordType, RowType, record_type_of
from ...state.errors import MalformedRecordError, PipelineError
from .base import (
    COLUMN_ROWS,
    Chunk,
    FileRange,
    Format,
    FormatReader,
    FormatWriter,
    Position,
    check_named_columns,
    example_needed,
)

_GROUP_ROWS = 131_072
_GROUP_BYTES = 64 << 20
"""A row group is written when it has so many rows or bytes: large enough to read well, small enough to hold."""


class Parquet(Format):
    """type: annotation with fields or a pa.Schema; columns: without a type, the columns to read."""

    extension = "parquet"
    batch_rows = COLUMN_ROWS

    def __init__(self, type: Any = None, *, columns: Sequence[str] | None = None, compression: str = "zstd") -> None:
        if type is not None and columns is not None:
            raise PipelineError("Parquet takes a type or columns, not both")
        self.columns = None if columns is None else list(columns)
        self.compression = compression
        self._record_type: RecordType | None = None
        if type is not None:
            self._record_type = record_type_of(type)
            if not isinstance(self._record_type, RowType):
                raise PipelineError(f"Parquet needs a type with named fields, not {type}: {self._record_type}")

    @property
    def record_type(self) -> RecordType:
        if self._record_type is None:
            raise example_needed("Parquet")
        return self._record_type

    def bind(self, example: FileRange | None) -> Parquet:
        if self._record_type is not None:
            if example is not None:
                self._check_columns(example.path, _file_schema(example), PipelineError)
            return self
        if example is None:
            raise example_needed("Parquet")
        schema = _file_schema(example)
        for name in self.columns or ():
            if name not in schema.names:
                raise PipelineError(f"{example.path} has no column {name!r}, only {schema.names}")
        fields = [schema.field(name) for name in self.columns or schema.names]
        return Parquet(pa.schema([f.remove_metadata() for f in fields]), compression=self.compression)

    def open(self, part: FileRange, position: Position | None) -> FormatReader:
        return _ParquetReader(self, part, position)

    def check_writable(self, record_type: RecordType) -> None:
        check_named_columns("Parquet", record_type)

    def create_writer(self, file: IO[bytes], record_type: RecordType) -> FormatWriter:
        return _ParquetWriter(file, check_named_columns("Parquet", record_type), self.compression)

    def _check_columns(self, path: str, found: pa.Schema, error: type[Exception]) -> None:
        for field in self.record_type.schema or ():
            index = found.get_field_index(field.name)
            if index < 0:
                raise error(f"{path} has no column {field.name!r}, only {found.names}")
            if not _fits(found.field(index).type, field.type):
                kind = found.field(index).type
                raise error(f"column {field.name!r} of {path} is {kind}, which does not fit {field.type}")


def _file_schema(part: FileRange) -> pa.Schema:
    try:
        with part.open() as file:
            return pq.read_schema(file)
    except pa.ArrowException as error:
        raise PipelineError(f"{part.path} is no Parquet file: {error}") from error


def _fits(found: pa.DataType, wanted: pa.DataType) -> bool:
    """Every value of `found` has exactly one equal value in `wanted`."""
    kinds = pa.types
    if found == wanted:
        return True
    if kinds.is_dictionary(found):
        return _fits(found.value_type, wanted)
    if kinds.is_decimal(found):
        return bool(wanted == pa.string())  # how Decimal fields are carried
    for same in (kinds.is_integer, kinds.is_floating, _is_text, _is_bytes, kinds.is_date):
        if same(found) and same(wanted):
            return True
    if kinds.is_timestamp(found) and kinds.is_timestamp(wanted):
        return bool((found.tz is None) == (wanted.tz is None))
    return bool(kinds.is_nested(found)) and _castable(found, wanted)


def _is_text(kind: pa.DataType) -> bool:
    return any(is_kind(kind) for is_kind in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view))


def _is_bytes(kind: pa.DataType) -> bool:
    kinds = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary)
    return any(is_kind(kind) for is_kind in kinds)


def _castable(found: pa.DataType, wanted: pa.DataType) -> bool:
    try:
        pa.nulls(0, found).cast(wanted)
    except pa.ArrowException:
        return False
    return type(found) is type(wanted)


class _ParquetReader(FormatReader):
    def __init__(self, parquet: Parquet, part: FileRange, position: Position | None) -> None:
        self._part = part
        self._record_type = parquet.record_type
        self._schema: pa.Schema = parquet.record_type.schema
        self._file = part.open()
        try:
            self._parquet = pq.ParquetFile(self._file)
        except pa.ArrowException as error:
            raise MalformedRecordError(f"{part.path} is no complete Parquet file: {error}") from error
        parquet._check_columns(part.path, self._parquet.schema_arrow, MalformedRecordError)
        self._groups = [i for i in range(self._parquet.num_row_groups) if self._owns(i)]
        self.position = position or (self._groups[0] if self._groups else 0, 0)
        self._batches: Iterator[pa.RecordBatch] | None = None
        self._rest: pa.RecordBatch | None = None

    def _owns(self, group: int) -> bool:
        if self._part.compressed:
            return True
        columns = self._parquet.metadata.row_group(group)
        first = columns.column(0)
        start = first.data_page_offset
        if first.dictionary_page_offset is not None:
            start = min(start, first.dictionary_page_offset)
        return bool(self._part.start <= start < self._part.end)

    def read(self, max_rows: int) -> Chunk | None:
        try:
            columns = self._next_batch(max_rows)
        except (pa.ArrowException, OSError) as error:
            raise MalformedRecordError(f"{self._part.path}, row group {self.position[0]}: {error}") from error
        if columns is None:
            return None
        if columns.num_rows > max_rows:
            self._rest = columns.slice(max_rows)
            columns = columns.slice(0, max_rows)
        self.position = (self.position[0], self.position[1] + columns.num_rows)
        return Chunk(Batch.of_columns(self._record_type, self._fitted(columns)), [])

    def close(self) -> None:
        self._parquet.close()
        self._file.close()

    def _next_batch(self, max_rows: int) -> pa.RecordBatch | None:
        if self._rest is not None:
            rest, self._rest = self._rest, None
            return rest
        while True:
            group, done = self.position
            if group not in self._groups:
                return None
            if self._batches is None:
                names = self._schema.names
                self._batches = self._parquet.iter_batches(COLUMN_ROWS, [group], names, use_threads=False)
                batch = self._skip(self._batches, done)
            else:
                batch = next(self._batches, None)
            if batch is not None and batch.num_rows:
                return batch
            if batch is None:
                self._batches = None
                self.position = (group + 1, 0)

    @staticmethod
    def _skip(batches: Iterator[pa.RecordBatch], rows: int) -> pa.RecordBatch | None:
        """What follows behind the first `rows` rows of a group: decoding the front again is all a restore costs."""
        for batch in batches:
            if rows < batch.num_rows:
                return batch.slice(rows)
            rows -= batch.num_rows
        return None

    def _fitted(self, columns: pa.RecordBatch) -> pa.RecordBatch:
        if columns.schema.equals(self._schema):
            return columns
        arrays = []
        for field in self._schema:
            array = columns.column(columns.schema.get_field_index(field.name))
            if array.null_count and not field.nullable:
                raise MalformedRecordError(f"column {field.name!r} of {self._part.path} has nulls, and is not optional")
            try:
                arrays.append(array if array.type == field.type else pc.cast(array, field.type))
            except pa.ArrowInvalid as error:
                raise MalformedRecordError(f"column {field.name!r} of {self._part.path}: {error}") from error
        return pa.RecordBatch.from_arrays(arrays, schema=self._schema)


class _ParquetWriter(FormatWriter):
    def __init__(self, file: IO[bytes], schema: pa.Schema, compression: str) -> None:
        self._writer = pq.ParquetWriter(file, schema, compression=compression)
        self._held: list[pa.RecordBatch] = []
        self._rows = 0
        self._bytes = 0

    @property
    def buffered_bytes(self) -> int:
        return self._bytes

    def write(self, batch: Batch) -> None:
        columns = batch.columns()
        self._held.append(columns)
        self._rows += columns.num_rows
        self._bytes += columns.nbytes
        if self._rows >= _GROUP_ROWS or self._bytes >= _GROUP_BYTES:
            self._flush()

    def finish(self) -> None:
        self._flush()
        self._writer.close()

    def discard(self) -> None:
        """pyarrow would write the footer when the writer is collected, into a file that is closed by then."""
        try:
            self._writer.close()
        except OSError:  # as on a full disk, which may be why the file is given up
            pass

    def _flush(self) -> None:
        if self._held:
            self._writer.write_table(pa.Table.from_batches(self._held), row_group_size=_GROUP_ROWS)
        self._held, self._rows, self._bytes = [], 0, 0
