"""The types of keys, as snapshots remember them: a row lies under its encoded key, so a key's type never changes.

A signature is a JSON tree that says as much of a key's type as its encoding does (key_encoding.py): "int", "str",
{"tuple": [...]}, {"enum": "module:Name"}, {"named tuple": "module:Name", "fields": [...]}, {"dataclass": ...}. null is
None or not known: it stands beside any type, at any position (runtime/key_types.py).
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterable
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

from .errors import IncompatibleStateError
from .key_classes import register_key_class
from .key_encoding import key_fields

Signature = Any
"""A JSON tree, as above."""

_ATOMS: dict[type, Signature] = {
    int: "int", str: "str", bytes: "bytes", bool: "bool", float: "float", Decimal: "decimal", datetime: "datetime",
    date: "date", UUID: "uuid", type(None): None,
}  # fmt: skip
_MOST = 16
"""Signatures that are kept of one state or stream, which normally has one; beyond that nothing is known."""


def signature_of(key: Any) -> Signature:
    """Of a key that can be encoded."""
    kind = type(key)
    if kind in _ATOMS:
        return _ATOMS[kind]
    if kind is tuple:
        return {"tuple": list(map(signature_of, key))}
    if isinstance(key, Enum):
        return {"enum": _name(kind)}
    fields = key_fields(kind) or ()
    return {_record_kind(kind): _name(kind), "fields": [signature_of(getattr(key, name)) for name in fields]}


def annotated_signature(annotation: Any) -> Signature:
    """Of the keys that an annotation allows; null where it leaves that open."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return annotated_signature(arguments[0])
    if origin in (typing.Union, types.UnionType):
        others = [each for each in arguments if each is not type(None)]
        return annotated_signature(others[0]) if len(others) == 1 else None
    if origin is tuple:
        return None if Ellipsis in arguments else {"tuple": list(map(annotated_signature, arguments))}
    if annotation in _ATOMS:
        return _ATOMS[annotation]
    if not isinstance(annotation, type):
        return None
    if issubclass(annotation, Enum):
        return {"enum": _name(annotation)} if annotation.__members__ else None
    composite = (issubclass(annotation, tuple) and hasattr(annotation, "_fields")) or _is_frozen(annotation)
    return _annotated_record(annotation) if composite else None


def _annotated_record(annotation: type) -> Signature:
    try:
        hints = typing.get_type_hints(annotation)
    except Exception:  # names that exist for type checkers only
        hints = {}
    fields = key_fields(annotation) or ()
    described = [annotated_signature(hints.get(name)) for name in fields]
    return {_record_kind(annotation): _name(annotation), "fields": described}


def _is_frozen(kind: type) -> bool:
    return dataclasses.is_dataclass(kind) and bool(getattr(kind, "__dataclass_params__").frozen)  # noqa: B009


def _record_kind(kind: type) -> str:
    return "named tuple" if issubclass(kind, tuple) else "dataclass"


def _name(kind: type) -> str:
    register_key_class(kind)  # who asks for such a key by its encoding shall find it
    return f"{kind.__module__}:{kind.__qualname__}"


def unified(one: Signature, other: Signature) -> Signature:
    """What is known from both. ValueError when they are of different types."""
    if one is None or other is None:
        return other if one is None else one
    if isinstance(one, str) or isinstance(other, str) or one.keys() != other.keys():
        if one != other:
            raise ValueError
        return one
    kind = next(iter(one))
    parts = "tuple" if kind == "tuple" else "fields"
    if (kind != "tuple" and one[kind] != other[kind]) or len(one.get(parts, ())) != len(other.get(parts, ())):
        raise ValueError
    return {**one, parts: list(map(unified, one[parts], other[parts]))} if parts in one else one


def fits(signature: Signature, known: Iterable[Signature]) -> bool:
    """Whether keys of a signature may be those of one that is known."""
    for each in known:
        try:
            unified(signature, each)
        except ValueError:
            continue
        return True
    return False


def show(signature: Signature) -> str:
    """A signature as one would write the type."""
    if signature is None:
        return "None"
    if isinstance(signature, str):
        return signature
    kind, detail = next(iter(signature.items()))
    if kind == "tuple":
        return f"tuple[{', '.join(map(show, detail))}]"
    name = str(detail).partition(":")[2]
    return f"{name}({', '.join(map(show, signature['fields']))})" if "fields" in signature else name


def merged(several: Iterable[Iterable[Signature]]) -> list[Signature]:
    """What is known of keys by all who know something."""
    known = KeySignatures()
    for signatures in several:
        known.restore(signatures)
    return known.known


class KeySignatures:
    """What the keys of a stream, or of one map state, are and were.

    Without a restore whatever comes is noted; that the keys of a stream have one type is its key selector's business.
    After a restore keys must be of the types that the snapshot knows."""

    def __init__(self, where: str = "") -> None:
        self._where = where
        self.known: list[Signature] = []
        self.seen: set[type] = set()
        """Classes of which a key was admitted: one tells all, where nothing in it is None."""
        self._restored = False

    def restore(self, signatures: Iterable[Signature]) -> None:
        for signature in signatures:
            self._restored = True
            self._note(signature, may_add=True)

    def admit(self, key: Any) -> None:
        """A key whose class is not in `seen`. IncompatibleStateError when restored rows have keys of other types."""
        signature = signature_of(key)
        self.declare(signature)
        if _is_complete(signature):
            self.seen.add(type(key))

    def admit_all(self, keys: Iterable[Any]) -> None:
        for key in keys:
            if type(key) not in self.seen:
                self.admit(key)

    def declare(self, signature: Signature) -> None:
        """What is said of the keys to come. IncompatibleStateError as above."""
        if signature is None or self._note(signature, may_add=not self._restored):
            return
        raise IncompatibleStateError(
            f"{self._where}: the keys of its restored state are of type {' or '.join(map(show, self.known))}, and now "
            f"of type {show(signature)}; keys cannot change their type, because state is found by it: set it back, or "
            "give the operator another uid (the state another name, if it is a map's keys)"
        )

    def _note(self, signature: Signature, *, may_add: bool) -> bool:
        for place, known in enumerate(self.known):
            try:
                self.known[place] = unified(known, signature)
            except ValueError:
                continue
            return True
        if may_add:
            self.known = [*self.known, signature] if len(self.known) < _MOST else [None]
        return may_add


def _is_complete(signature: Signature) -> bool:
    if isinstance(signature, dict):
        parts: list[Signature] = signature.get("tuple") or signature.get("fields") or []
        return all(map(_is_complete, parts))
    return signature is not None
