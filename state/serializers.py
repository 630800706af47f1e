"""Values as bytes: typed by msgspec where a type is declared, pickled otherwise; and what may be read back as what.

A declared type (int, dataclass, NamedTuple, TypedDict, list[...], ...) is written as MessagePack, records by field
name. Its *description*, a small JSON tree, goes into every snapshot. A type may evolve: fields may be added with a
default, removed, reordered, and an int may widen to a float; anything else is refused before a restore begins,
naming the field. Types that msgspec does not know (own classes, Any) and undeclared ones are pickled: that works, is
slower and does not evolve; such serializers are flagged `generic`.

A typed value that MessagePack cannot carry (an int beyond 64 bits, a lone surrogate) is pickled behind the byte C1,
which no MessagePack value starts with.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Protocol

import msgspec
from msgspec import inspect as types

from . import pickling
from .errors import StateError

Description = Any
"""A JSON tree: a name ('int'), or {'list': item}, {'record': name, 'fields': {...}}, ..."""

PICKLE: Description = "pickle"

_ESCAPE = b"\xc1"
_UNENCODABLE = (OverflowError, UnicodeEncodeError)

ATOMIC_TYPES = frozenset({int, float, str, bytes, bool, type(None)})
"""Values of these types cannot change in place, whatever was declared."""


class Serializer(Protocol):
    """Writes and reads the values of one type."""

    @property
    def description(self) -> Description: ...

    @property
    def generic(self) -> bool:
        """Pickled."""
        ...

    @property
    def immutable(self) -> bool:
        """No value of the type can change in place: it may be encoded later and on another thread."""
        ...

    @property
    def accepts(self) -> frozenset[type] | None:
        """The exact types a value may have; None when all are welcome."""
        ...

    def encode(self, value: Any) -> bytes:
        """StateError when the value is not of the type or cannot be serialised."""
        ...

    def encode_all(self, values: Iterable[Any]) -> list[bytes]: ...

    def decode(self, data: bytes) -> Any: ...

    def decode_all(self, rows: list[bytes | None]) -> list[Any]:
        """None where there is nothing."""
        ...


class PickleSerializer:
    """Any value, by pickle: the generic serializer."""

    description: Description = PICKLE
    generic = True
    immutable = False
    accepts: frozenset[type] | None = None

    def encode(self, value: Any) -> bytes:
        try:
            return pickle.dumps(value, 5)
        except (pickle.PicklingError, AttributeError, TypeError):
            return self._encode_by_value(value)

    def _encode_by_value(self, value: Any) -> bytes:
        """Lambdas and classes made inside functions cannot be found by name again."""
        try:
            return pickling.dumps(value)
        except Exception as error:
            raise StateError(f"a value of type {type(value).__qualname__} cannot be serialised: {error}") from error

    def encode_all(self, values: Iterable[Any]) -> list[bytes]:
        return list(map(self.encode, values))

    def decode(self, data: bytes) -> Any:
        return pickle.loads(data)

    def decode_all(self, rows: list[bytes | None]) -> list[Any]:
        return [None if data is None else pickle.loads(data) for data in rows]


class TypedSerializer:
    """Values of a declared type, by msgspec."""

    generic = False

    def __init__(self, declared: Any, info: types.Type) -> None:
        self.description: Description = describe(info)
        self.immutable = _is_immutable(info)
        self.accepts = _accepted(info)
        self._declared = declared
        self._checked = not _is_flat(info)
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(declared).decode

    def encode(self, value: Any) -> bytes:
        if self.accepts is not None and type(value) not in self.accepts:
            raise self.refusal(value)
        try:
            data = self._encode(value)
            if self._checked:  # a wrong value inside would otherwise be found by the restore that needs it
                self._decode(data)
            return data
        except _UNENCODABLE:
            return _ESCAPE + pickle.dumps(value, 5)
        except (msgspec.ValidationError, TypeError) as error:
            raise StateError(f"{value!r} is not of the declared type {_name(self._declared)}: {error}") from error

    def refusal(self, value: Any) -> StateError:
        kind = type(value).__qualname__
        return StateError(f"{value!r} is of type {kind}, but {_name(self._declared)} is declared")

    def encode_all(self, values: Iterable[Any]) -> list[bytes]:
        values = list(values)
        if not self._checked and self.accepts is not None and self.accepts.issuperset(map(type, values)):
            try:
                return list(map(self._encode, values))
            except _UNENCODABLE:
                pass
        return list(map(self.encode, values))

    def decode(self, data: bytes) -> Any:
        try:
            return self._decode(data)
        except msgspec.DecodeError:
            if data[:1] != _ESCAPE:
                raise
            return pickle.loads(data[1:])

    def decode_all(self, rows: list[bytes | None]) -> list[Any]:
        decode = self._decode
        try:
            return [None if data is None else decode(data) for data in rows]
        except msgspec.DecodeError:
            return [None if data is None else self.decode(data) for data in rows]


@lru_cache(maxsize=1024)
def _typed(declared: Any) -> TypedSerializer | None:
    try:
        info = types.type_info(declared)
        return TypedSerializer(declared, info) if _is_known(info, ()) else None
    except (TypeError, NameError):  # no type msgspec could work with, or annotations it cannot resolve
        return None


_PICKLE = PickleSerializer()


def serializer_for(declared: Any) -> Serializer:
    """The serializer of a type or annotation; a generic one for None, Any and types msgspec does not know."""
    if declared is None or declared is Any:
        return _PICKLE
    try:
        hash(declared)
    except TypeError:
        return _PICKLE
    return _typed(declared) or _PICKLE


def _name(declared: Any) -> str:
    return declared.__qualname__ if isinstance(declared, type) else str(declared)


# ---- what a type is


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
_RECORDS = (types.DataclassType, types.StructType, types.TypedDictType, types.NamedTupleType)


def _parts(info: Any) -> list[types.Type]:
    """The types that a type is made of."""
    if isinstance(info, _RECORDS):
        return [field.type for field in info.fields]
    if type(info) in _COLLECTIONS:
        return [info.item_type]
    if isinstance(info, types.DictType):
        return [info.key_type, info.value_type]
    if isinstance(info, types.TupleType):
        return list(info.item_types)
    if isinstance(info, types.UnionType):
        return list(info.types)
    return []


def _is_known(info: Any, within: tuple[type, ...]) -> bool:
    """Whether msgspec gives back what it was given, everywhere inside."""
    if isinstance(info, _RECORDS):
        if info.cls in within:
            return True
        within = (*within, info.cls)
    known = type(info) in _ATOMS or type(info) in _COLLECTIONS or isinstance(info, _RECORDS)
    known = known or isinstance(info, types.DictType | types.TupleType | types.UnionType | types.EnumType)
    known = known or isinstance(info, types.LiteralType)
    return known and all(_is_known(part, within) for part in _parts(info))


def _is_flat(info: Any) -> bool:
    """Whether the exact type of a value is all there is to check."""
    return type(info) in _ATOMS and bool(_ATOMS[type(info)][1])


def _is_immutable(info: Any, within: tuple[type, ...] = ()) -> bool:
    if type(info) in _ATOMS or isinstance(info, types.EnumType | types.LiteralType):
        return True
    if isinstance(info, types.ListType | types.SetType | types.DictType | types.TypedDictType):
        return False
    if isinstance(info, _RECORDS):
        if info.cls in within:
            return True
        within = (*within, info.cls)
    if isinstance(info, types.DataclassType):
        parameters: Any = getattr(info.cls, "__dataclass_params__", None)
        if parameters is None or not parameters.frozen:
            return False
    if isinstance(info, types.StructType) and not info.cls.__struct_config__.frozen:
        return False
    return all(_is_immutable(part, within) for part in _parts(info))


def _accepted(info: Any) -> frozenset[type] | None:
    if type(info) in _ATOMS:
        return frozenset(_ATOMS[type(info)][1]) or None
    if type(info) in _COLLECTIONS:
        return frozenset({_COLLECTIONS[type(info)][1]})
    if isinstance(info, types.DictType | types.TypedDictType):
        return frozenset({dict})
    if isinstance(info, types.TupleType):
        return frozenset({tuple})
    if isinstance(info, types.EnumType | types.DataclassType | types.StructType | types.NamedTupleType):
        return frozenset({info.cls})
    if isinstance(info, types.LiteralType):
        return frozenset(map(type, info.values))
    of_parts = [_accepted(part) for part in _parts(info)]
    if any(accepted is None for accepted in of_parts):
        return None
    return frozenset[type]().union(*[accepted for accepted in of_parts if accepted is not None])


def describe(info: Any, within: tuple[type, ...] = ()) -> Description:
    """The description of a type, as it is kept in snapshots."""
    if type(info) in _ATOMS:
        return _ATOMS[type(info)][0]
    if isinstance(info, _RECORDS):
        if info.cls in within:
            return {"recursive": info.cls.__qualname__}
        inside = (*within, info.cls)
        kind = (
            "positional" if isinstance(info, types.NamedTupleType) or getattr(info, "array_like", False) else "record"
        )
        fields = {f.encode_name: {"type": describe(f.type, inside), "required": f.required} for f in info.fields}
        return {kind: info.cls.__qualname__, "fields": fields}
    if isinstance(info, types.EnumType):
        return {"enum": info.cls.__qualname__, "values": sorted(repr(member.value) for member in info.cls)}
    if isinstance(info, types.LiteralType):
        return {"enum": "Literal", "values": sorted(map(repr, info.values))}
    parts = [describe(part, within) for part in _parts(info)]
    if type(info) in _COLLECTIONS:
        return {_COLLECTIONS[type(info)][0]: parts[0]}
    if isinstance(info, types.UnionType):
        return {"union": parts}
    return {"dict" if isinstance(info, types.DictType) else "tuple_of": parts}


def _record_kind(info: Any) -> str:
    if isinstance(info, types.NamedTupleType) or getattr(info, "array_like", False):
        return "positional"
    return "typed_dict" if isinstance(info, types.TypedDictType) else "record"


# ---- what may be read as what


def incompatibility(old: Description, new: Description, where: str = "") -> str | None:
    """Why values written under `old` cannot be read under `new`, naming the field; None when they can."""
    if old == new or (old == "int" and new == "float"):
        return None
    subject = f"field '{where}'" if where else "it"
    if isinstance(new, dict) and "union" in new:
        return _into_union(old, new["union"], where, subject)
    if not isinstance(old, dict) or not isinstance(new, dict) or next(iter(old)) != next(iter(new)):
        return f"{subject} was {_short(old)} and is now {_short(new)}"
    if "fields" in old:
        reordered = "positional" in old and list(old["fields"]) != list(new["fields"])[: len(old["fields"])]
        if reordered:
            return f"{subject} is a NamedTuple, whose fields may only be added at the end, with a default"
        return _between_fields(old["fields"], new["fields"], where, may_lack="typed_dict" in old)
    if "enum" in old:
        gone = sorted(set(old["values"]) - set(new["values"]))
        return f"{subject} may have the value {gone[0]}, which no longer exists" if gone else None
    if "recursive" in old:
        return None
    (old_parts,), (new_parts,) = old.values(), new.values()
    if not isinstance(old_parts, list):
        old_parts, new_parts = [old_parts], [new_parts]
    if len(old_parts) != len(new_parts):
        return f"{subject} was {_short(old)} and is now {_short(new)}"
    reasons = (incompatibility(a, b, where) for a, b in zip(old_parts, new_parts, strict=True))
    return next((reason for reason in reasons if reason), None)


def _into_union(old: Description, choices: list[Description], where: str, subject: str) -> str | None:
    for part in old["union"] if isinstance(old, dict) and "union" in old else [old]:
        if all(incompatibility(part, choice, where) for choice in choices):
            return f"{subject} may be {_short(part)}, which is none of {', '.join(map(_short, choices))}"
    return None


def _between_fields(old: dict[str, Any], new: dict[str, Any], where: str, *, may_lack: bool) -> str | None:
    """may_lack: fields that were not required may be missing in what was written."""
    for name, field in new.items():
        path = f"{where}.{name}" if where else name
        if name not in old:
            if field["required"]:
                return f"field '{path}' is new and has no default"
            continue
        if may_lack and field["required"] and not old[name]["required"]:
            return f"field '{path}' was not required and is now"
        reason = incompatibility(old[name]["type"], field["type"], path)
        if reason:
            return reason
    return None


def _short(description: Description) -> str:
    if isinstance(description, str):
        return "pickled" if description == PICKLE else description
    kind, detail = next(iter(description.items()))
    if kind in ("record", "positional", "typed_dict", "enum", "recursive"):
        return str(detail)
    parts = detail if isinstance(detail, list) else [detail]
    if kind == "union":
        return " | ".join(map(_short, parts))
    return f"{'tuple' if kind == 'tuple_of' else kind}[{', '.join(map(_short, parts))}]"
