"""From a Python annotation to a field type, or to the reason why there is none.

There is a type only where a value comes back exactly as it was. Everything else (Any, unions, sets, objects of
unknown classes, recursive classes) makes the whole record opaque: it still works, as a pickle.
"""

from __future__ import annotations

import dataclasses
import enum
import types
import typing
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any, get_args, get_origin, get_type_hints, is_typeddict
from uuid import UUID

import pyarrow as pa

from .field_types import AnyArrow, FieldType, Members, Plain, Timestamp, decimal_type, uuid_type
from .nested_types import ListOf, MapOf, Struct
from .shapes import DictShape, Shape, TupleShape, dataclass_shape

_PLAIN: dict[Any, pa.DataType] = {
    int: pa.int64(),
    float: pa.float64(),
    str: pa.string(),
    bool: pa.bool_(),
    bytes: pa.binary(),
    date: pa.date32(),
    timedelta: pa.duration("us"),
}


class NotTyped(Exception):
    """The annotation has no exact column type; the message is the reason, for people."""


def field_type_of(annotation: Any, nullable: bool = False, inside: tuple[type, ...] = ()) -> FieldType:
    """Raises NotTyped. `inside`: the classes around this field, to find recursive ones."""
    annotation = _unwrap(annotation)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if isinstance(annotation, pa.DataType):
        return arrow_field_type(annotation, nullable)
    if annotation in _PLAIN:
        return Plain(nullable, annotation, _PLAIN[annotation])
    if annotation is datetime:
        return Timestamp(nullable, "us", "UTC")
    if annotation is UUID:
        return uuid_type(nullable)
    if annotation is Decimal:
        return decimal_type(nullable)
    if origin in (typing.Union, types.UnionType):
        others = [a for a in arguments if a is not type(None)]
        if len(others) == 1:
            return field_type_of(others[0], True, inside)
        raise NotTyped(f"a union has no column type: {annotation}")
    if origin is list:
        return ListOf(nullable, list, field_type_of(arguments[0], False, inside))
    if origin is dict:
        return MapOf(nullable, field_type_of(arguments[0], False, inside), field_type_of(arguments[1], False, inside))
    if origin is tuple:
        return _tuple_type(arguments, nullable, inside)
    if isinstance(annotation, type) and origin is None:
        return _class_type(annotation, nullable, inside)
    raise NotTyped(f"{_describe(annotation)} has no column type")


def _unwrap(annotation: Any) -> Any:
    """NewType, Annotated, Required and Literal are the type of their values."""
    while True:
        if isinstance(annotation, typing.NewType):
            annotation = annotation.__supertype__
        elif get_origin(annotation) in (typing.Annotated, typing.Required):
            annotation = get_args(annotation)[0]
        elif get_origin(annotation) is typing.Literal and len({type(v) for v in get_args(annotation)}) == 1:
            annotation = type(get_args(annotation)[0])
        else:
            return annotation


def _tuple_type(arguments: tuple[Any, ...], nullable: bool, inside: tuple[type, ...]) -> FieldType:
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return ListOf(nullable, tuple, field_type_of(arguments[0], False, inside))
    if not arguments or arguments == ((),):
        raise NotTyped("an empty tuple has no columns")
    names = tuple(f"f{i}" for i in range(len(arguments)))
    fields = tuple(field_type_of(a, False, inside) for a in arguments)
    return Struct(nullable, TupleShape(tuple, names), fields)


def _class_type(cls: type, nullable: bool, inside: tuple[type, ...]) -> FieldType:
    if issubclass(cls, enum.Enum):
        if issubclass(cls, enum.Flag):
            raise NotTyped(f"{cls.__name__} is a Flag: a combination of flags has no name")
        return Members(nullable, cls)
    if cls in inside:
        raise NotTyped(f"{cls.__name__} contains itself")
    shape = _shape_of(cls)
    try:
        hints = get_type_hints(cls, include_extras=True)
    except Exception as error:  # a forward reference that cannot be resolved here, whatever it raises
        raise NotTyped(f"the annotations of {cls.__name__} cannot be resolved: {error}") from None
    fields = []
    for name in shape.names:
        try:
            fields.append(field_type_of(hints[name], False, (*inside, cls)))
        except NotTyped as reason:
            raise NotTyped(f"{cls.__name__}.{name}: {reason}") from None
    return Struct(nullable, shape, tuple(fields))


def _shape_of(cls: type) -> Shape:
    if dataclasses.is_dataclass(cls):
        shape = dataclass_shape(cls)
        if isinstance(shape, str):
            raise NotTyped(shape)
        return shape
    if is_typeddict(cls):
        if cls.__optional_keys__:  # type: ignore[attr-defined]
            raise NotTyped(f"{cls.__name__} has keys that may be absent: {sorted(cls.__optional_keys__)}")  # type: ignore[attr-defined]
        if not cls.__annotations__:
            raise NotTyped(f"{cls.__name__} has no keys")
        return DictShape(dict, tuple(get_type_hints(cls)), cls.__name__)
    if issubclass(cls, tuple) and hasattr(cls, "_fields") and hasattr(cls, "__annotations__"):
        if cls.__dictoffset__ or not cls._fields:
            raise NotTyped(f"{cls.__name__} holds more than, or less than, its fields")
        return TupleShape(cls, tuple(cls._fields))
    raise NotTyped(f"{cls.__name__} is no dataclass, NamedTuple or TypedDict")


def arrow_field_type(arrow: pa.DataType, nullable: bool) -> FieldType:
    """The field type of an Arrow column, for rows that are dicts."""
    kinds = pa.types
    if kinds.is_boolean(arrow):
        return Plain(nullable, bool, arrow)
    if kinds.is_integer(arrow):
        return Plain(nullable, int, arrow)
    if kinds.is_float64(arrow):
        return Plain(nullable, float, arrow)
    if kinds.is_string(arrow) or kinds.is_large_string(arrow) or kinds.is_string_view(arrow):
        return Plain(nullable, str, arrow)
    if kinds.is_binary(arrow) or kinds.is_large_binary(arrow) or kinds.is_binary_view(arrow):
        return Plain(nullable, bytes, arrow)
    if kinds.is_date32(arrow):
        return Plain(nullable, date, arrow)
    if kinds.is_duration(arrow) and arrow.unit == "us":
        return Plain(nullable, timedelta, arrow)
    if kinds.is_timestamp(arrow):
        return Timestamp(nullable, arrow.unit, arrow.tz)
    return AnyArrow(nullable, arrow)


def _describe(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)
