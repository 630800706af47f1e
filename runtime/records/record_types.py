"""Record types: from a Python annotation to Arrow columns and back, without changing a record.

A stream's record type is known (from an annotation or a schema) or explicitly opaque. A known type has an Arrow
schema, and converts a list of rows to columns and back; both directions are exact: a value that is not exactly of
the annotated type (a subclass, an int where a float is declared, None where it is not optional) is a
RecordTypeError, because a typed edge must not change a record (PROTOCOLS 14). Opaque records travel as pickle 5 of
the whole list.

What a row is: for a dataclass, NamedTuple, TypedDict or tuple[A, B] an instance of it, one column per field; for a
pa.Schema a dict; for a scalar annotation (int, str, float, bool, bytes, Decimal, datetime, date, timedelta, UUID,
Enum, list, dict, ...) and Optional of everything, the value itself, in one column named `value`. The one thing that
is not kept is the order of a dict row's keys: it becomes the schema's.
"""

from __future__ import annotations

import copy
import pickle
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pyarrow as pa

from ...state.errors import RecordTypeError
from .annotations import NotTyped, arrow_field_type, field_type_of
from .field_types import FieldType
from .nested_types import Struct
from .shapes import DictShape

_ATOMS = frozenset({int, float, str, bool, bytes, type(None), complex})


class RecordType(ABC):
    """How the records of one stream look. Equal types compare equal; instances are picklable and immutable."""

    schema: pa.Schema | None
    """Arrow schema of the columns; None for opaque records."""

    @property
    def opaque(self) -> bool:
        return self.schema is None

    @abstractmethod
    def to_columns(self, rows: list[Any]) -> pa.RecordBatch:
        """Raises RecordTypeError naming the field and both types."""

    @abstractmethod
    def to_rows(self, columns: pa.RecordBatch) -> list[Any]: ...

    @abstractmethod
    def copy_rows(self, rows: list[Any]) -> list[Any]:
        """Rows another branch may change freely; the same list where records are immutable (PROTOCOLS 24)."""


@dataclass(frozen=True)
class OpaqueType(RecordType):
    """Records of any kind, carried as pickles. `reason` says why there are no columns (for describe())."""

    reason: str = field(default="its type is not declared", compare=False)
    schema = None

    def __str__(self) -> str:
        return "opaque"

    def to_columns(self, rows: list[Any]) -> pa.RecordBatch:
        raise RecordTypeError(f"these records have no columns, because {self.reason}; declare the stream's type")

    def to_rows(self, columns: pa.RecordBatch) -> list[Any]:
        raise RecordTypeError(f"these records have no columns, because {self.reason}; declare the stream's type")

    def copy_rows(self, rows: list[Any]) -> list[Any]:
        return rows if set(map(type, rows)) <= _ATOMS else _deep_copy(rows)


OPAQUE = OpaqueType()


@dataclass(frozen=True)
class ScalarType(RecordType):
    """Records that are one value, in one column."""

    value: FieldType
    column: str = "value"

    def __str__(self) -> str:
        return str(self.value)

    @cached_property
    def schema(self) -> pa.Schema:  # type: ignore[override]
        return pa.schema([pa.field(self.column, self.value.arrow, self.value.nullable)])

    def to_columns(self, rows: list[Any]) -> pa.RecordBatch:
        return pa.RecordBatch.from_arrays([self.value.encode(rows, "the record")], schema=self.schema)

    def to_rows(self, columns: pa.RecordBatch) -> list[Any]:
        return self.value.decode(columns.column(0), "the record")

    def copy_rows(self, rows: list[Any]) -> list[Any]:
        return rows if self.value.immutable else _deep_copy(rows)


@dataclass(frozen=True)
class RowType(RecordType):
    """Records with fields, one column each."""

    struct: Struct

    def __str__(self) -> str:
        names = zip(self.struct.shape.names, self.struct.fields, strict=True)
        return f"{self.struct.name}({', '.join(f'{name}: {field}' for name, field in names)})"

    @cached_property
    def schema(self) -> pa.Schema:  # type: ignore[override]
        return pa.schema(self.struct.arrow_fields)

    def to_columns(self, rows: list[Any]) -> pa.RecordBatch:
        wrong = set(map(type, rows)) - {self.struct.python}
        if wrong:
            names = ", ".join(sorted(t.__name__ for t in wrong))
            raise RecordTypeError(f"the stream's records are declared {self.struct.name}, but there is a {names}")
        return pa.RecordBatch.from_arrays(self.struct.encode_fields(rows), schema=self.schema)

    def to_rows(self, columns: pa.RecordBatch) -> list[Any]:
        return self.struct.decode_fields(columns.columns)

    def copy_rows(self, rows: list[Any]) -> list[Any]:
        struct = self.struct
        if struct.immutable:
            return rows
        if all(f.immutable for f in struct.fields) and set(map(type, rows)) <= {struct.python}:
            return struct.shape.put_together(*struct.shape.take_apart(rows))
        return _deep_copy(rows)


class SchemaType(RowType):
    """Dict rows of an Arrow schema."""

    def __init__(self, schema: pa.Schema) -> None:
        if len(set(schema.names)) < len(schema.names) or not schema.names:
            raise RecordTypeError(f"a schema needs columns with different names, not {schema.names}")
        fields = tuple(arrow_field_type(f.type, f.nullable) for f in schema)
        super().__init__(Struct(False, DictShape(dict, tuple(schema.names)), fields))

    def __reduce__(self) -> tuple[Any, ...]:
        return SchemaType, (self.schema,)


def record_type_of(annotation: Any, name: str = "value") -> RecordType:
    """The record type an annotation means; opaque, with the reason, where its values cannot be carried exactly.

    annotation: a class, a typing construct, a pa.Schema, a pa.DataType or a RecordType.
    name: column of a scalar type.
    """
    if isinstance(annotation, RecordType):
        return annotation
    if isinstance(annotation, pa.Schema):
        return SchemaType(annotation)
    try:
        value = field_type_of(annotation)
    except NotTyped as reason:
        return OpaqueType(str(reason))
    if isinstance(value, Struct) and not value.nullable:
        return RowType(value)
    return ScalarType(value, name)


def _deep_copy(rows: list[Any]) -> list[Any]:
    """Pickle is several times faster than deepcopy; what it cannot handle, deepcopy usually can."""
    try:
        return pickle.loads(pickle.dumps(rows, protocol=5))  # type: ignore[no-any-return]
    except (pickle.PicklingError, AttributeError, TypeError):
        return copy.deepcopy(rows)
