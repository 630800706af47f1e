"""What a declared type is: its description, which snapshots keep, and what its values can be.

A description is a JSON tree, of the types as msgspec understands them:

    "int"                                                  an atom
    {"atom": "int", "limits": {"ge": -128, "le": 127}}     an atom that does not take every value
    {"list": item}, {"set": item}, {"frozenset": item}, {"tuple": item}, {"dict": [key, value]}, {"tuple_of": [...]}
    {"record": name, "fields": {name: field, ...}}         dataclass, NamedTuple, TypedDict, msgspec.Struct, pa.struct;
                                                           also "positional": values stand in the order of the fields,
                                                           "tag": [field, value]
    {"enum": name, "members": {name: value}}, {"literal": [...]}, {"union": [...]}
    {"recursive": n}                                       the n-th record around this place; 1 is the innermost
    "pickle"

A field is {"type": ..., "required": ...}: whether a value must be there to read it. "absent" says that rows may lack
it, and what that means; "renamed_from" are the names it had.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import inspect as types

Description = Any
"""A JSON tree, as above."""

PICKLE: Description = "pickle"

ARROW_STRUCT = "__penstock_arrow__"
"""Marks the TypedDict that stands for a pa.struct: where a nullable field is missing, it is None."""

_RENAMED_FROM = "renamed_from"
_LIMITS = "limits"

_ATOMS: dict[type, tuple[str, tuple[type, ...]]] = {
    types.IntType: ("int", (int,)),
    types.FloatType: ("float", (float, int)),
    types.StrType: ("str", (str,)),
    types.BoolType: ("bool", (bool,)),
    types.BytesType: ("bytes", (bytes,)),
    types.NoneType: ("none", (type(None),)),
    types.DateTimeType: ("datetime", ()),
    types.DateType: ("date", ()),
    types.TimeType: ("time", ()),
    types.TimeDeltaType: ("timedelta", ()),
    types.UUIDType: ("uuid", ()),
    types.DecimalType: ("decimal", ()),
}
_COLLECTIONS: dict[type, tuple[str, type]] = {
    types.ListType: ("list", list),
    types.SetType: ("set", set),
    types.FrozenSetType: ("frozenset", frozenset),
    types.VarTupleType: ("tuple", tuple),
}
RECORDS = (types.DataclassType, types.StructType, types.TypedDictType, types.NamedTupleType)
_BOUNDS = ("gt", "ge", "lt", "le", "multiple_of", "min_length", "max_length", "pattern", "tz")

Within = tuple[Any, ...]
"""The records around a place: a recursive type meets itself there."""


def renamed_from(*names: str) -> msgspec.Meta:
    """The names a field had before: `amount: Annotated[int, renamed_from("total")]`. Old rows are read under them."""
    return msgspec.Meta(extra={_RENAMED_FROM: names})


def with_limits(**limits: Any) -> msgspec.Meta:
    """What the values of an atom are limited to besides what msgspec checks."""
    return msgspec.Meta(extra={_LIMITS: limits})


def bare(info: Any) -> Any:
    """Without its metadata."""
    return info.type if isinstance(info, types.Metadata) else info


def _extra(info: Any, name: str) -> Any:
    return (info.extra or {}).get(name) if isinstance(info, types.Metadata) else None


def former_names(field: types.Field) -> tuple[str, ...]:
    return _extra(field.type, _RENAMED_FROM) or ()


def _class_of(info: Any) -> Any:
    """Without the parameters of a generic one."""
    return getattr(info.cls, "__origin__", info.cls)


def is_positional(info: Any) -> bool:
    """A record whose values are written in the order of its fields."""
    return isinstance(info, types.NamedTupleType) or bool(getattr(info, "array_like", False))


def parts_of(info: Any) -> list[Any]:
    """The types that a type is made of."""
    info = bare(info)
    if isinstance(info, RECORDS):
        return [field.type for field in info.fields]
    if type(info) in _COLLECTIONS:
        return [info.item_type]
    if isinstance(info, types.DictType):
        return [info.key_type, info.value_type]
    if isinstance(info, types.TupleType):
        return list(info.item_types)
    return list(info.types) if isinstance(info, types.UnionType) else []


def _everywhere(info: Any, seen: dict[int, Any]) -> Iterator[Any]:
    """A type and all that is inside, each once."""
    info = bare(info)
    if id(info) not in seen:
        seen[id(info)] = info
        yield info
        for part in parts_of(info):
            yield from _everywhere(part, seen)


def is_known(info: Any) -> bool:
    """Whether msgspec gives back what it was given, everywhere inside."""
    return all(map(_is_known, _everywhere(info, {})))


def _is_known(info: Any) -> bool:
    if isinstance(info, RECORDS):
        return not (is_positional(info) and getattr(info, "tag", None) is not None)
    if isinstance(info, types.DictType):  # as keys, records that are dicts in a plain tree would not be hashable
        inside = _everywhere(info.key_type, {})
        return all(is_positional(part) for part in inside if isinstance(part, RECORDS))
    containers = types.TupleType | types.UnionType | types.EnumType | types.LiteralType
    return type(info) in _ATOMS or type(info) in _COLLECTIONS or isinstance(info, containers)


def is_flat(info: Any) -> bool:
    """Whether the exact type of a value is all there is to check."""
    return type(info) in _ATOMS and bool(_ATOMS[type(info)][1]) and not _limits(info)


def is_self_describing(info: Any) -> bool:
    """Whether msgspec alone reads rows of every earlier description: by the names of fields that never changed."""
    return all(map(_is_self_describing, _everywhere(info, {})))


def _is_self_describing(info: Any) -> bool:
    if not isinstance(info, RECORDS):
        return True
    closed = getattr(info, "forbid_unknown_fields", False)
    filled = getattr(info.cls, ARROW_STRUCT, False)
    return not (is_positional(info) or closed or filled or any(map(former_names, info.fields)))


def is_immutable(info: Any) -> bool:
    """Whether no value of the type can change in place."""
    return not any(map(_can_change, _everywhere(info, {})))


def _can_change(info: Any) -> bool:
    if isinstance(info, types.ListType | types.SetType | types.DictType | types.TypedDictType):
        return True
    if isinstance(info, types.DataclassType):
        parameters: Any = getattr(_class_of(info), "__dataclass_params__", None)
        return parameters is None or not parameters.frozen
    return isinstance(info, types.StructType) and not _class_of(info).__struct_config__.frozen


def accepted_types(info: Any) -> frozenset[type] | None:
    """The exact types a value may have; None when that is not known."""
    info = bare(info)
    if type(info) in _ATOMS:
        return frozenset(_ATOMS[type(info)][1]) or None
    if type(info) in _COLLECTIONS:
        return frozenset({_COLLECTIONS[type(info)][1]})
    if isinstance(info, types.DictType | types.TypedDictType):
        return frozenset({dict})
    if isinstance(info, types.TupleType):
        return frozenset({tuple})
    if isinstance(info, types.EnumType | types.DataclassType | types.StructType | types.NamedTupleType):
        return frozenset({_class_of(info)})
    if isinstance(info, types.LiteralType):
        return frozenset(map(type, info.values))
    of_parts = [accepted_types(part) for part in parts_of(info)]
    if any(accepted is None for accepted in of_parts):
        return None
    return frozenset[type]().union(*[accepted for accepted in of_parts if accepted is not None])


def describe(info: Any, within: Within = ()) -> Description:
    """The description of a type, as it is kept in snapshots."""
    limits = {**_limits(bare(info)), **(_extra(info, _LIMITS) or {})}
    info = bare(info)
    if type(info) in _ATOMS:
        name = _ATOMS[type(info)][0]
        return {"atom": name, "limits": limits} if limits else name
    if isinstance(info, RECORDS):
        return _describe_record(info, within)
    if isinstance(info, types.EnumType):
        return {"enum": name_of(info.cls), "members": {name: m.value for name, m in info.cls.__members__.items()}}
    if isinstance(info, types.LiteralType):
        return {"literal": sorted(info.values, key=repr)}
    parts = [describe(part, within) for part in parts_of(info)]
    if type(info) in _COLLECTIONS:
        return {_COLLECTIONS[type(info)][0]: parts[0], **({"limits": limits} if limits else {})}
    if isinstance(info, types.UnionType):
        return {"union": parts}
    if isinstance(info, types.DictType):
        return {"dict": parts, **({"limits": limits} if limits else {})}
    return {"tuple_of": parts}


def _describe_record(info: Any, within: Within) -> Description:
    for levels, outer in enumerate(reversed(within), 1):
        if outer is info:
            return {"recursive": levels}
    described: dict[str, Any] = {"record": name_of(info.cls)}
    described["fields"] = {f.encode_name: _describe_field(f, info, (*within, info)) for f in info.fields}
    if is_positional(info):
        described["positional"] = True
    if getattr(info, "tag", None) is not None:
        described["tag"] = [info.tag_field, info.tag]
    return described


def _describe_field(field: types.Field, record: Any, within: Within) -> dict[str, Any]:
    described: dict[str, Any] = {"type": describe(field.type, within), "required": is_required(field, record)}
    if former_names(field):
        described[_RENAMED_FROM] = list(former_names(field))
    if isinstance(record, types.TypedDictType) and not field.required:
        described["absent"] = "there is none"
    elif isinstance(record, types.StructType) and _class_of(record).__struct_config__.omit_defaults:
        left_out = _default_left_out(field)
        if left_out is not None:
            described["absent"] = left_out
    return described


def _default_left_out(field: types.Field) -> str | None:
    """With omit_defaults, rows lack a field that has its default: an atom, or an empty collection."""
    if field.default_factory in (list, dict, set):
        return f"default {field.default_factory.__name__}()"
    atomic = isinstance(field.default, int | float | str | bytes | None)
    return f"default {field.default!r}" if atomic else None if field.required else "default of its own"


def is_required(field: types.Field, record: Any) -> bool:
    """Whether a row must have the field."""
    if getattr(record.cls, ARROW_STRUCT, False):
        return not any(isinstance(bare(part), types.NoneType) for part in (field.type, *parts_of(field.type)))
    return field.required


def _limits(info: Any) -> dict[str, Any]:
    found = {name: getattr(info, name, None) for name in _BOUNDS}
    return {name: value for name, value in found.items() if value is not None}


def name_of(declared: Any) -> str:
    """A type's name for people."""
    return declared.__qualname__ if isinstance(declared, type) else str(declared)
