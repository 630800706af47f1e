"""Arrow types as the types of state: what a pa.DataType or pa.Schema means for Python values.

Values are what pyarrow gives for a value of the type: a struct or schema is a dict with all its fields (None where
one is null), a list a list, a map a list of (key, value) tuples. They are written like values of the annotation that
`annotation_of` gives, so all that is said of state types (docs/state-evolution.md) holds for them too. Types that a
Python value cannot carry exactly (nanoseconds, half floats, unions, dictionaries) are refused.
"""

from __future__ import annotations

from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, TypedDict

import msgspec
import pyarrow as pa

from ..errors import StateError
from .type_descriptions import ARROW_STRUCT, renamed_from, with_limits

RENAMED_FROM = b"renamed_from"
"""Metadata of a pa.field: the names it had, separated by commas."""

_UNITS = {"s": 0, "ms": 3, "us": 6}


def is_arrow(declared: Any) -> bool:
    return isinstance(declared, pa.DataType | pa.Schema)


def arrow_type_of(declared: pa.DataType | pa.Schema) -> pa.DataType:
    return pa.struct(list(declared)) if isinstance(declared, pa.Schema) else declared


def annotation_of(declared: pa.DataType | pa.Schema) -> Any:
    """StateError for types that no state can have."""
    return _annotation(arrow_type_of(declared))


def _annotation(arrow: pa.DataType) -> Any:
    kinds = pa.types
    if kinds.is_struct(arrow):
        return _record(arrow)
    if kinds.is_map(arrow):
        entry: Any = (_annotation(arrow.key_type), _nullable(arrow.item_field))
        return list[tuple[entry]]
    if kinds.is_fixed_size_list(arrow):
        items: Any = list[_nullable(arrow.value_field)]  # type: ignore[misc]
        return Annotated[items, msgspec.Meta(min_length=arrow.list_size, max_length=arrow.list_size)]
    if kinds.is_list(arrow) or kinds.is_large_list(arrow) or kinds.is_list_view(arrow):
        return list[_nullable(arrow.value_field)]  # type: ignore[misc]
    annotation = _atom(arrow)
    if annotation is None:
        raise StateError(
            f"{arrow} cannot be the type of a state: its values are not exactly those of a Python type; "
            "use another Arrow type or a Python type"
        )
    return annotation


def _record(arrow: pa.DataType) -> Any:
    names = [field.name for field in arrow]
    if len(set(names)) < len(names):
        raise StateError(f"{arrow} cannot be the type of a state: two of its fields have one name")
    fields = {field.name: _field(field) for field in arrow}
    record: Any = TypedDict("struct", fields)  # type: ignore[misc]
    setattr(record, ARROW_STRUCT, True)
    return record


def _field(field: pa.Field) -> Any:
    former = (field.metadata or {}).get(RENAMED_FROM, b"").decode()
    annotation = _nullable(field)
    return Annotated[annotation, renamed_from(*former.split(","))] if former else annotation


def _nullable(field: pa.Field) -> Any:
    annotation = _annotation(field.type)
    return annotation | None if field.nullable else annotation


def _atom(arrow: pa.DataType) -> Any:
    kinds = pa.types
    if kinds.is_integer(arrow):
        return _integer(arrow)
    if kinds.is_float64(arrow):
        return float
    if kinds.is_float32(arrow):
        return Annotated[float, with_limits(bits=32)]
    if kinds.is_decimal(arrow):
        return Annotated[Decimal, with_limits(scale=arrow.scale, whole_digits=arrow.precision - arrow.scale)]
    if kinds.is_timestamp(arrow) and arrow.unit in _UNITS:
        aware = arrow.tz is not None
        return Annotated[datetime, msgspec.Meta(tz=aware), with_limits(decimals=_UNITS[arrow.unit])]
    if kinds.is_duration(arrow) and arrow.unit in _UNITS:
        return Annotated[timedelta, with_limits(decimals=_UNITS[arrow.unit])]
    if kinds.is_time(arrow) and arrow.unit in _UNITS:
        return Annotated[time, msgspec.Meta(tz=False), with_limits(decimals=_UNITS[arrow.unit])]
    if kinds.is_fixed_size_binary(arrow):
        return Annotated[bytes, msgspec.Meta(min_length=arrow.byte_width, max_length=arrow.byte_width)]
    plain = [
        (bool, (kinds.is_boolean,)),
        (str, (kinds.is_string, kinds.is_large_string, kinds.is_string_view)),
        (bytes, (kinds.is_binary, kinds.is_large_binary, kinds.is_binary_view)),
        (date, (kinds.is_date32,)),
        (type(None), (kinds.is_null,)),
    ]
    return next((python for python, tests in plain if any(test(arrow) for test in tests)), None)


def _integer(arrow: pa.DataType) -> Any:
    bits = arrow.bit_width
    if pa.types.is_signed_integer(arrow):
        low, high = -(1 << bits - 1), (1 << bits - 1) - 1
    else:
        low, high = 0, (1 << bits) - 1
    most = (1 << 63) - 1  # msgspec's limits are 64-bit integers
    return Annotated[int, msgspec.Meta(ge=low, le=high)] if high <= most else Annotated[int, msgspec.Meta(ge=low)]


def why_changed(value: Any, arrow: pa.DataType) -> str | None:
    """Why a value would not come back as it is from a column of the type; None if it would."""
    try:
        back = pa.scalar(value, arrow).as_py()
    except (pa.ArrowException, OverflowError, UnicodeError, TypeError, ValueError) as error:
        return str(error)
    return None if _same(value, back) else f"it would become {back!r}"


def _same(left: Any, right: Any) -> bool:
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_same(value, right[key]) for key, value in left.items())
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        return len(left) == len(right) and all(map(_same, left, right))
    return bool(left == right) or (left != left and right != right)


def narrows(arrow: pa.DataType) -> bool:
    """Whether a Python value of the annotation may be one that the type cannot hold."""
    kinds = pa.types
    if kinds.is_nested(arrow):
        return any(narrows(arrow.field(i).type) for i in range(arrow.num_fields))
    timed = (kinds.is_timestamp(arrow) or kinds.is_duration(arrow) or kinds.is_time(arrow)) and arrow.unit != "us"
    return any((timed, kinds.is_float32(arrow), kinds.is_decimal(arrow), kinds.is_uint64(arrow)))
