"""Record types: from a Python annotation to Arrow columns and back, without changing a record.

A stream's record type is known (from an annotation or a schema) or explicitly opaque. A known type has an Arrow
schema, and converts a list of rows to columns and back; both directions are exact: a value that is not exactly of
the annotated type (a subclass, an int where a float is declared, None where it is not optional) is a
RecordTypeError, because a typed edge must not change a record (PROTOCOLS 14). Opaque records travel as pickle 5 of
the whole list.

What a row is: for a dataclass, NamedTuple or TypedDict an instance of it; for a pa.Schema a dict; for a scalar
annotation (int, str, float, bool, bytes, Decimal, datetime, date, UUID, Enum, ...) and Optional of them, the value
itself, in one column named `value`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import pyarrow as pa


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
