"""Field types: how the values of one field become an Arrow array and back, exactly.

`encode` checks the exact types of all values at once (`set(map(type, values))`) and refuses everything that would
come back as something else; `decode` gives back what was encoded. None is accepted where the field is nullable.
A value is carried by the Arrow type a person would expect, so that vectorised operators see useful columns:
Decimal as text (an Arrow decimal has one scale per column and would change 1.0 into 1.00), aware datetimes as
UTC timestamps (so only UTC ones are accepted: another offset would be lost; `fold` means nothing in UTC and is not
kept), enums by member name.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import Enum
from functools import cached_property
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...state.errors import RecordTypeError

NoneType = type(None)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
OBJECT_HINT = "declare it as `object`, so that the records are carried as they are"


@dataclass(frozen=True)
class FieldType(ABC):
    """One field's type. Immutable, picklable, equal by value."""

    nullable: bool

    @property
    @abstractmethod
    def python(self) -> type: ...

    @property
    @abstractmethod
    def arrow(self) -> pa.DataType: ...

    @property
    def immutable(self) -> bool:
        """No value of this type can be changed in place, nor anything in it."""
        return True

    def __str__(self) -> str:
        return f"{self.name} | None" if self.nullable else self.name

    @property
    def name(self) -> str:
        return self.python.__name__

    def encode(self, values: Sequence[Any], where: str) -> pa.Array:
        """RecordTypeError names `where`, the declared type and the value's."""
        types = set(map(type, values))
        types.discard(self.python)
        try:
            if not types:
                return self._encode(values, where)
            if types == {NoneType} and self.nullable:
                return self._encode_with_nulls(values, where)
        except (pa.ArrowException, OverflowError, UnicodeError) as error:
            raise RecordTypeError(f"{where} cannot be carried as {self.arrow}: {error}; {OBJECT_HINT}") from error
        wrong = next(v for v in values if type(v) in types and not (v is None and self.nullable))
        raise RecordTypeError(f"{where} is declared {self}, but a record has a {type(wrong).__name__}: {_short(wrong)}")

    def decode(self, array: pa.Array, where: str) -> list[Any]:
        if array.null_count == 0:
            return self._decode(array, where)
        if not self.nullable:
            raise RecordTypeError(f"{where} is declared {self}, but a column has a null; declare it as {self} | None")
        present = iter(self._decode(array.drop_null(), where))
        return [next(present) if valid else None for valid in array.is_valid().to_pylist()]

    @abstractmethod
    def _encode(self, values: Sequence[Any], where: str) -> pa.Array:
        """Values are all exactly of type `python`."""

    @abstractmethod
    def _decode(self, array: pa.Array, where: str) -> list[Any]:
        """The array has no nulls."""

    def _encode_with_nulls(self, values: Sequence[Any], where: str) -> pa.Array:
        present = [v for v in values if v is not None]
        position = iter(range(len(present)))
        indices = pa.array([None if v is None else next(position) for v in values], pa.int64())
        return self._encode(present, where).take(indices)


@dataclass(frozen=True)
class Plain(FieldType):
    """Values that Arrow carries exactly as they are."""

    python_type: type
    arrow_type: pa.DataType

    @property
    def python(self) -> type:
        return self.python_type

    @property
    def arrow(self) -> pa.DataType:
        return self.arrow_type

    def _encode(self, values: Sequence[Any], where: str) -> pa.Array:
        return pa.array(values, self.arrow_type)

    _encode_with_nulls = _encode

    def decode(self, array: pa.Array, where: str) -> list[Any]:
        if not (array.null_count and self.nullable):
            return super().decode(array, where)
        if self.python_type in _TEXTUAL:
            return array.to_pylist()  # type: ignore[no-any-return]
        filled = pc.fill_null(array, pa.scalar(0, pa.int64()).cast(self.arrow_type)) if self._has_zero else array
        values = self._decode(filled, where)
        if self._has_zero:
            for i in np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False)).tolist():
                values[i] = None
        return values  # numpy's missing dates and durations are None already

    @property
    def _has_zero(self) -> bool:
        return self.python_type in (int, float, bool)

    def _decode(self, array: pa.Array, where: str) -> list[Any]:
        if self.python_type in _TEXTUAL:
            return array.to_pylist()  # type: ignore[no-any-return]
        return array.to_numpy(zero_copy_only=False).tolist()  # type: ignore[no-any-return]


_TEXTUAL = (str, bytes)


@dataclass(frozen=True)
class Converted(FieldType):
    """Values carried as another scalar: both directions are plain functions that lose nothing."""

    python_type: type
    arrow_type: pa.DataType
    to_arrow: Callable[[Any], Any]
    from_arrow: Callable[[Any], Any]

    @property
    def python(self) -> type:
        return self.python_type

    @property
    def arrow(self) -> pa.DataType:
        return self.arrow_type

    def _encode(self, values: Sequence[Any], where: str) -> pa.Array:
        return pa.array(list(map(self.to_arrow, values)), self.arrow_type)

    def _decode(self, array: pa.Array, where: str) -> list[Any]:
        return list(map(self.from_arrow, array.to_pylist()))


def _uuid_bytes(value: UUID) -> bytes:
    return value.bytes


def _uuid(data: bytes) -> UUID:
    return UUID(bytes=data)


def uuid_type(nullable: bool) -> FieldType:
    return Converted(nullable, UUID, pa.binary(16), _uuid_bytes, _uuid)


def decimal_type(nullable: bool) -> FieldType:
    return Converted(nullable, Decimal, pa.string(), str, Decimal)


@dataclass(frozen=True)
class Members(FieldType):
    """An Enum by member name."""

    enum: type[Enum]

    @property
    def python(self) -> type:
        return self.enum

    @property
    def arrow(self) -> pa.DataType:
        return pa.string()

    def _encode(self, values: Sequence[Any], where: str) -> pa.Array:
        return pa.array([v._name_ for v in values], pa.string())

    def _decode(self, array: pa.Array, where: str) -> list[Any]:
        members = self.enum.__members__
        try:
            return [members[name] for name in array.to_pylist()]
        except KeyError as error:
            raise RecordTypeError(f"{where}: {self.enum.__name__} has no member {error}") from None


@dataclass(frozen=True)
class Timestamp(FieldType):
    """datetime. With a zone: aware ones of exactly that zone; without: naive ones."""

    unit: str
    zone_name: str | None

    @property
    def python(self) -> type:
        return datetime

    @property
    def arrow(self) -> pa.DataType:
        return pa.timestamp(self.unit, self.zone_name)

    @cached_property
    def zone(self) -> tzinfo | None:
        return None if self.zone_name is None else _zone(self.zone_name)

    def _encode(self, values: Sequence[Any], where: str) -> pa.Array:
        zone = self.zone
        for value in values:
            if value.tzinfo is not zone and value.tzinfo != zone:
                expected = "naive datetimes" if zone is None else f"datetimes with tzinfo {zone}"
                raise RecordTypeError(
                    f"{where} carries {expected} only, but a record has {_short(value)}: its zone would be lost; "
                    f"convert it with .astimezone(), or {OBJECT_HINT}"
                )
        array = pa.array(values, pa.timestamp("us", self.zone_name)).cast(self.arrow)
        if zone not in (None, UTC) and self._decode(array, where) != list(values):
            raise RecordTypeError(f"{where} has a datetime that does not exist in {zone} (clocks were put forward)")
        return array

    def _decode(self, array: pa.Array, where: str) -> list[Any]:
        try:
            microseconds = array.cast(pa.timestamp("us", self.zone_name))
            if self.zone is None:
                return microseconds.to_numpy().tolist()  # type: ignore[no-any-return]
            since_epoch = microseconds.cast(pa.int64()).to_numpy().view("m8[us]").tolist()
            aware = [_EPOCH + duration for duration in since_epoch]  # ten times faster than replace(tzinfo=UTC)
            return aware if self.zone is UTC else [value.astimezone(self.zone) for value in aware]
        except pa.ArrowInvalid as error:
            raise RecordTypeError(f"{where} has nanoseconds, which a datetime cannot hold: {error}") from error
        except OverflowError as error:
            raise RecordTypeError(f"{where} has a time beyond the years a datetime can hold: {error}") from error


def _zone(name: str) -> tzinfo:
    if name == "UTC":
        return UTC
    offset = re.fullmatch(r"([+-])(\d\d):(\d\d)", name)
    if offset is None:
        return ZoneInfo(name)
    minutes = int(offset[2]) * 60 + int(offset[3])
    return timezone(timedelta(minutes=-minutes if offset[1] == "-" else minutes))


@dataclass(frozen=True)
class AnyArrow(FieldType):
    """Values of an Arrow type without a faster way: encoding decodes again and compares, so nothing changes unseen."""

    arrow_type: pa.DataType

    @property
    def python(self) -> type:
        return object

    @property
    def name(self) -> str:
        return str(self.arrow_type)

    @property
    def arrow(self) -> pa.DataType:
        return self.arrow_type

    @property
    def immutable(self) -> bool:
        return not pa.types.is_nested(self.arrow_type)

    def encode(self, values: Sequence[Any], where: str) -> pa.Array:
        try:
            array = pa.array(values, self.arrow_type, from_pandas=False)
        except (pa.ArrowException, OverflowError, UnicodeError, TypeError, ValueError) as error:
            raise RecordTypeError(f"{where} is declared {self.name}, but a value does not fit: {error}") from error
        for value, back in zip(values, self.decode(array, where), strict=True):
            if not _same(value, back):
                raise RecordTypeError(f"{where} is declared {self.arrow_type}, which would change {_short(value)}")
        return array

    def _encode(self, values: Sequence[Any], where: str) -> pa.Array:
        return self.encode(values, where)

    def _decode(self, array: pa.Array, where: str) -> list[Any]:
        return array.to_pylist()  # type: ignore[no-any-return]


def _same(left: Any, right: Any) -> bool:
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(_same(value, right[key]) for key, value in left.items())
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(_same, left, right))
    if isinstance(left, Decimal):
        return bool(left.as_tuple() == right.as_tuple())
    return bool(left == right) or (left != left and right != right)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
