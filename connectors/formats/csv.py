"""CSV as columns, through Arrow's parser.

Column types come from the record type; without one they are inferred from the front of one file when the pipeline
is built, and hold for all files from then on. What does not fit them makes its line malformed, as do a wrong number
of fields, an empty field that is not optional, and a quote that is not closed on its line (`multiline=True` allows
line breaks within quotes; files are then read whole, because nobody can tell from the middle whether a quote is open).
A header that lacks a column is an error under every policy: it would make every line of the file malformed.

Empty fields and NA, N/A, NULL, null, #N/A are nulls, but never in text columns (unless `nulls` says so): an empty text
is an empty text.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any
from uuid import UUID

import pyarrow as pa
import pyarrow.csv as arrow_csv

from ...runtime.batch import Batch
from ...runtime.records.annotations import field_type_of
from ...runtime.records.record_types import RecordType, RowType, SchemaType, record_type_of
from ...state.errors import MalformedRecordError, PipelineError
from .base import COLUMN_ROWS, FileRange, FormatWriter, check_named_columns, example_needed
from .lines import BlockDecoder, LineFormat, read_header

_NULLS = ["", "NA", "N/A", "NULL", "null", "#N/A"]
_INFERENCE_BYTES = 1 << 20
_UUID = pa.binary(16)


class Csv(LineFormat):
    """type: annotation with fields or a pa.Schema; None gives dict rows.

    columns: without a type, the columns to read, either by name or as {name: type}; without a header the names of
    all columns in order. nulls: texts that mean null, in every column that can be null.
    """

    extension = "csv"
    batch_rows = COLUMN_ROWS

    def __init__(
        self,
        type: Any = None,
        *,
        header: bool = True,
        delimiter: str = ",",
        quote: str | None = '"',
        multiline: bool = False,
        columns: Sequence[str] | Mapping[str, Any] | None = None,
        nulls: Sequence[str] | None = None,
    ) -> None:
        if type is not None and columns is not None:
            raise PipelineError("Csv takes a type or columns, not both")
        self.has_header = header
        self.delimiter = delimiter
        self.multiline = multiline
        self.splittable = not multiline
        self.quote = quote.encode() if multiline and quote else None
        self.columns = columns
        self.quote_char = quote or ""
        self._nulls = None if nulls is None else list(nulls)
        self._record_type: RecordType | None = None
        if type is not None:
            self._record_type = _row_type(record_type_of(type), type)
        elif isinstance(columns, Mapping):
            fields = [pa.field(name, _arrow_type(kind, name)) for name, kind in columns.items()]
            self._record_type = _row_type(SchemaType(pa.schema(fields)), columns)

    @property
    def record_type(self) -> RecordType:
        if self._record_type is None:
            raise example_needed("Csv")
        return self._record_type

    def bind(self, example: FileRange | None) -> Csv:
        if self._record_type is not None:
            return self
        if example is None:
            raise example_needed("Csv")
        header, start = read_header(self, example)
        with example.open() as file:
            file.read(start)
            head: bytes = file.read(_INFERENCE_BYTES)
        if len(head) == _INFERENCE_BYTES:
            head = head[: head.rfind(b"\n") + 1] or head
        names = self._file_columns(example.path, header)
        wanted = list(self.columns) if self.columns is not None and self.has_header else None
        bound = Csv(
            header=self.has_header,
            delimiter=self.delimiter,
            quote=self.quote_char or None,
            multiline=self.multiline,
            columns=_inferred(self, names, wanted, head, example.path),
            nulls=self._nulls,
        )
        if not self.has_header and names is None:
            bound.columns = list(bound.record_type.schema.names)  # type: ignore[union-attr]
        return bound

    def block_decoder(self, path: str, header: bytes | None) -> BlockDecoder:
        names = self._file_columns(path, header)
        schema: pa.Schema = self.record_type.schema
        if self.has_header and header and header.strip():
            missing = [name for name in schema.names if name not in (names or ())]
            if missing:
                raise MalformedRecordError(f"{path}, line 1: the header has no column {missing[0]!r}, only {names}")
        return _Decoder(self, names or schema.names, self.record_type).decode

    def _file_columns(self, path: str, header: bytes | None) -> list[str] | None:
        """The names of a file's columns, in its order; None if nothing says them."""
        if not self.has_header:
            if self._record_type is not None:
                return list(self.record_type.schema.names)  # type: ignore[union-attr]
            return list(self.columns) if self.columns is not None else None
        try:
            text = (header or b"").decode("utf-8")
        except UnicodeDecodeError as error:
            raise MalformedRecordError(f"{path}, line 1: the header is not UTF-8: {error}") from error
        quoting: dict[str, Any] = {"quotechar": self.quote_char} if self.quote_char else {"quoting": csv.QUOTE_NONE}
        names = next(csv.reader(text.splitlines(keepends=True), delimiter=self.delimiter, **quoting), [])
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise MalformedRecordError(f"{path}, line 1: the header has two columns {twice!r}")
        return names

    def read_block(self, block: bytes, names: list[str] | None, types: Mapping[str, pa.DataType] | None,
                   wanted: list[str] | None) -> pa.Table:  # fmt: skip
        return arrow_csv.read_csv(
            pa.BufferReader(block),
            read_options=arrow_csv.ReadOptions(
                use_threads=False,
                block_size=len(block) + 1,
                column_names=names,
                autogenerate_column_names=names is None,
            ),
            parse_options=arrow_csv.ParseOptions(
                delimiter=self.delimiter, quote_char=self.quote_char or False, newlines_in_values=self.multiline
            ),
            convert_options=arrow_csv.ConvertOptions(
                column_types=types,
                include_columns=wanted,
                null_values=_NULLS if self._nulls is None else self._nulls,
                strings_can_be_null=self._nulls is not None,
                quoted_strings_can_be_null=False,
            ),
        )

    def check_writable(self, record_type: RecordType) -> None:
        for field in check_named_columns("Csv", record_type):
            _check_flat(field)

    def create_writer(self, file: IO[bytes], record_type: RecordType) -> FormatWriter:
        return _CsvWriter(file, self.has_header, self.delimiter, check_named_columns("Csv", record_type))


class _Decoder:
    """Blocks of one file to batches of the record type."""

    def __init__(self, csv_format: Csv, names: list[str], record_type: RecordType) -> None:
        self._format = csv_format
        self._names = names
        self._record_type = record_type
        self._schema = check_named_columns("Csv", record_type)
        self._types = {f.name: pa.string() if f.type == _UUID else f.type for f in self._schema}
        self._uuids = [i for i, f in enumerate(self._schema) if f.type == _UUID]

    def decode(self, block: bytes, lines: int) -> Batch:
        if not block.strip():
            return Batch.of_columns(self._record_type, pa.RecordBatch.from_pylist([], schema=self._schema))
        self._check_quotes(block)
        try:
            table = self._format.read_block(block, self._names, self._types, self._schema.names)
        except pa.ArrowInvalid as error:
            raise ValueError(self._explained(str(error))) from None
        if table.num_rows != lines and not self._format.multiline:
            blank = sum(not line.strip() for line in block.split(b"\n")) - block.endswith(b"\n")
            if table.num_rows != lines - blank:
                raise ValueError("a carriage return or line break is inside the line")
        arrays = [column.combine_chunks() for column in table.columns]
        for i in self._uuids:
            arrays[i] = pa.array([None if v is None else UUID(v).bytes for v in arrays[i].to_pylist()], _UUID)
        for array, field in zip(arrays, self._schema, strict=True):
            if array.null_count and not field.nullable:
                raise ValueError(f"column {field.name!r} is empty, and not optional")
        return Batch.of_columns(self._record_type, pa.RecordBatch.from_arrays(arrays, schema=self._schema))

    def _check_quotes(self, block: bytes) -> None:
        quote = self._format.quote_char.encode()
        if self._format.multiline or not quote or quote not in block:
            return
        if any(line.count(quote) % 2 for line in block.split(b"\n")):
            raise ValueError("a quote is not closed on its line (multiline=True reads line breaks within quotes)")

    def _explained(self, message: str) -> str:
        """Arrow's message with the column's name, and without numbers that count within the block."""
        message = re.sub(r"Row #\d+: ", "", message.split("\n", 1)[0])
        if zoneless := re.search(r"expected a zone offset in ('[^']*')", message):
            where = message.split(":")[0]
            message = f"{where}: {zoneless[1]} has no time zone, like a Z at its end; read it as str to give it one"
        column = re.match(r"In CSV column #(\d+): (?:CSV )?(.*)", message)
        return f"column {self._names[int(column[1])]!r}: {column[2]}" if column else message


def _inferred(
    csv_format: Csv, names: list[str] | None, wanted: list[str] | None, head: bytes, path: str
) -> dict[str, pa.DataType]:
    missing = [name for name in wanted or () if names is not None and name not in names]
    if missing:
        raise PipelineError(f"{path} has no column {missing[0]!r}, only {names}")
    if not head.strip():
        if not names:
            raise PipelineError(f"{path} is empty: Csv cannot take its columns from it; give it a type or columns")
        return {name: pa.string() for name in wanted or names}
    try:
        schema = csv_format.read_block(head, names, None, wanted).schema
    except pa.ArrowInvalid as error:
        raise PipelineError(f"the column types of {path} cannot be inferred: {error}; give Csv a type") from error
    return {field.name: pa.string() if pa.types.is_null(field.type) else field.type for field in schema}


def _arrow_type(kind: Any, name: str) -> pa.DataType:
    if isinstance(kind, pa.DataType):
        return kind
    try:
        return field_type_of(kind).arrow
    except Exception as error:
        raise PipelineError(f"column {name!r} of Csv: {error}") from error


def _row_type(record_type: RecordType, declared: Any) -> RecordType:
    if not isinstance(record_type, RowType):
        raise PipelineError(f"Csv needs a type with named fields, not {declared}: {record_type}")
    for field in record_type.schema:
        _check_flat(field)
    return record_type


def _check_flat(field: pa.Field) -> None:
    if pa.types.is_nested(field.type) or (pa.types.is_binary(field.type) or pa.types.is_duration(field.type)):
        raise PipelineError(f"Csv cannot hold field {field.name!r} of type {field.type}; use Json or Parquet")


class _CsvWriter(FormatWriter):
    def __init__(self, file: IO[bytes], header: bool, delimiter: str, schema: pa.Schema) -> None:
        self._file = file
        self._header = header
        self._options: Callable[[bool], arrow_csv.WriteOptions] = lambda h: arrow_csv.WriteOptions(
            include_header=h, delimiter=delimiter
        )
        self._uuids = [i for i, field in enumerate(schema) if field.type == _UUID]

    def write(self, batch: Batch) -> None:
        columns = batch.columns()
        for i in self._uuids:
            texts = [None if v is None else str(UUID(bytes=v)) for v in columns.column(i).to_pylist()]
            columns = columns.set_column(i, columns.schema.names[i], pa.array(texts, pa.string()))
        arrow_csv.write_csv(columns, self._file, self._options(self._header))
        self._header = False
