"""NDJSON: one JSON value a line, through msgspec.

Without a type a line becomes what json.loads would give (records are opaque then). With a type it becomes an object of
it, checked: missing fields without default, wrong types and naive datetimes make the line malformed, unknown fields
are ignored. Aware datetimes are read as UTC, because only those are exact as columns. Enums are written and read by
value, bytes as base64; NaN and infinities are written as null, because JSON has no others.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import UTC
from typing import IO, Any, NotRequired, TypedDict, get_type_hints

import msgspec
import pyarrow as pa

from ...runtime.batch import Batch
from ...runtime.records.field_types import Timestamp
from ...runtime.records.nested_types import Struct
from ...runtime.records.record_types import OpaqueType, RecordType, RowType, SchemaType, record_type_of
from ...runtime.records.shapes import TupleShape
from ...state.errors import PipelineError, RecordTypeError
from .base import FormatWriter
from .lines import BlockDecoder, LineFormat

Rows = list[Any]


class Json(LineFormat):
    """type: annotation of the records, a pa.Schema, or None for dicts."""

    extension = "json"

    def __init__(self, type: Any = None) -> None:
        self.type = type
        self._record_type = OpaqueType("Json() has no type") if type is None else record_type_of(type)
        try:
            _object_decoder(type, self._record_type)
        except TypeError as error:
            raise PipelineError(f"Json cannot read records of type {type}: {error}") from error

    @property
    def record_type(self) -> RecordType:
        return self._record_type

    def block_decoder(self, path: str, header: bytes | None) -> BlockDecoder:
        decode = _object_decoder(self.type, self._record_type)
        to_utc = _utc_normaliser(self._record_type)
        record_type = self._record_type

        def decode_block(block: bytes, lines: int) -> Batch:
            rows = [decode(line) for line in block.split(b"\n") if line and not line.isspace()]
            return Batch.of_rows(record_type, to_utc(rows))

        return decode_block

    def create_writer(self, file: IO[bytes], record_type: RecordType) -> FormatWriter:
        return _JsonWriter(file, record_type)


def _object_decoder(annotation: Any, record_type: RecordType) -> Callable[[bytes], Any]:
    if annotation is None:
        return msgspec.json.Decoder().decode
    if isinstance(record_type, SchemaType):
        return _schema_decoder(record_type)
    if isinstance(record_type, RowType) and isinstance(record_type.struct.shape, TupleShape):
        cls = record_type.struct.python
        if cls is not tuple:
            return _named_tuple_decoder(cls)
    return msgspec.json.Decoder(annotation).decode


def _named_tuple_decoder(cls: type) -> Callable[[bytes], Any]:
    """msgspec reads NamedTuples from arrays only; a line holds an object."""
    defaults: dict[str, Any] = cls._field_defaults  # type: ignore[attr-defined]
    hints = get_type_hints(cls)
    fields = {name: NotRequired[hint] if name in defaults else hint for name, hint in hints.items()}
    decode = msgspec.json.Decoder(TypedDict(cls.__name__, fields)).decode  # type: ignore[operator]
    return lambda line: cls(**decode(line))


def _schema_decoder(record_type: SchemaType) -> Callable[[bytes], Any]:
    """Fields that are absent are null, where the schema allows it."""
    nothing: dict[str, Any] = {}
    fields: dict[str, Any] = {}
    for name, field in zip(record_type.struct.shape.names, record_type.struct.fields, strict=True):
        python = Any if field.python is object else field.python
        fields[name] = NotRequired[python | None] if field.nullable else python
        nothing[name] = None
    decode = msgspec.json.Decoder(TypedDict("Row", fields)).decode  # type: ignore[operator]
    return lambda line: {**nothing, **decode(line)}


def _utc_normaliser(record_type: RecordType) -> Callable[[Rows], Rows]:
    """Turns the datetimes of fields into UTC. Nested ones are left as they are."""
    struct = record_type.struct if isinstance(record_type, RowType) else None
    if struct is None:
        return lambda rows: rows
    times = [i for i, f in enumerate(struct.fields) if isinstance(f, Timestamp) and f.zone is UTC]
    if not times:
        return lambda rows: rows
    return lambda rows: _in_utc(struct, times, rows)


def _in_utc(struct: Struct, times: list[int], rows: Rows) -> Rows:
    columns = list(struct.shape.take_apart(rows))
    changed = False
    for i in times:
        if any(value is not None and value.tzinfo is not UTC for value in columns[i]):
            if any(value is not None and value.tzinfo is None for value in columns[i]):
                raise ValueError(f"field {struct.shape.names[i]!r} has a time without a zone")
            columns[i] = [None if value is None else value.astimezone(UTC) for value in columns[i]]
            changed = True
    return struct.shape.put_together(*columns) if changed else rows


class _JsonWriter(FormatWriter):
    def __init__(self, file: IO[bytes], record_type: RecordType) -> None:
        self._file = file
        self._encode = msgspec.json.Encoder(enc_hook=_plain_value).encode_lines
        shape = record_type.struct.shape if isinstance(record_type, RowType) else None
        self._names = shape.names if isinstance(shape, TupleShape) and shape.python is not tuple else None

    def write(self, batch: Batch) -> None:
        rows = batch.rows()
        if self._names is not None:
            rows = [dict(zip(self._names, row, strict=True)) for row in rows]
        elif batch.record_type.opaque and any(hasattr(row, "_asdict") for row in rows):
            rows = [row._asdict() if hasattr(row, "_asdict") else row for row in rows]
        try:
            self._file.write(self._encode(rows))
        except (TypeError, msgspec.EncodeError, ValueError) as error:
            raise RecordTypeError(f"a record cannot be written as JSON: {error}") from error


def _plain_value(value: Any) -> Any:
    """numpy scalars and Arrow values as Python's; what msgspec cannot write otherwise is an error."""
    if hasattr(value, "item") and type(value).__module__ == "numpy":
        return value.item()
    if isinstance(value, pa.Scalar):
        return value.as_py()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    raise TypeError(f"objects of type {type(value).__name__} have no JSON form")
