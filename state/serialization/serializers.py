"""Values as bytes: typed by msgspec where a type is declared, pickled otherwise.

A declared type (int, dataclass, NamedTuple, TypedDict, list[...], pa.struct(...), ...) is written as MessagePack. Its
*description* (type_descriptions.py) goes into every snapshot, and the type may evolve (type_evolution.py): rows stay
as they were written and are read as what is declared now. Types that msgspec does not know (own classes, Any) and
undeclared ones are pickled: that works, is slower and does not evolve; such serializers are flagged `generic`.

A row is one of

    MessagePack                      records by the names of their fields, which is all a later type needs to know
    C1 02 | id 4 B | MessagePack     of types that need to know how it was written: NamedTuples stand by position,
                                     fields are renamed, Arrow structs have fields that may be missing
    C1 01 | id 4 B | pickle          what MessagePack cannot carry (an int beyond 64 bits, a lone surrogate), as a
                                     pickle of dicts, lists, strings and numbers
    pickle                           of generic types

C1 is a byte that no MessagePack value starts with; the id is a checksum of the description (`description_id`), by
which a row of any age finds its own in the snapshot. Rows of different ages lie side by side, in whatever order
snapshots were merged.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, Protocol

import msgspec
import xxhash
from msgspec import inspect as types

from ..errors import DamagedCheckpointError, StateError
from . import pickling
from .arrow_types import annotation_of, arrow_type_of, is_arrow, narrows, why_changed
from .old_rows import Reading, plain, reading
from .type_descriptions import (
    PICKLE,
    Description,
    accepted_types,
    describe,
    is_flat,
    is_immutable,
    is_known,
    is_self_describing,
    name_of,
)

_PLAIN, PICKLED, MARKED = b"", b"\xc1\x01", b"\xc1\x02"
MARK_BYTES = 6
"""Bytes in front of a row that says how it was written."""
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

    @property
    def type_is_all(self) -> bool:
        """The exact type of a value is all there is to check of it."""
        ...

    def encode(self, value: Any) -> bytes:
        """StateError when the value is not of the type or cannot be serialised."""
        ...

    def encode_all(self, values: Iterable[Any]) -> list[bytes]: ...

    def decode(self, data: bytes) -> Any: ...

    def decode_all(self, rows: list[bytes | None]) -> list[Any]:
        """None where there is nothing."""
        ...

    def reading(self, written: Sequence[Description]) -> Serializer:
        """This serializer, for a state whose rows were written under these descriptions, all of which it can read."""
        ...

    def of_lists(self) -> Serializer:
        """For lists of the type."""
        ...


class PickleSerializer:
    """Any value, by pickle: the generic serializer."""

    description: Description = PICKLE
    generic = True
    immutable = False
    accepts: frozenset[type] | None = None
    type_is_all = False

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

    def reading(self, written: Sequence[Description]) -> Serializer:
        return self

    def of_lists(self) -> Serializer:
        return self


class TypedSerializer:
    """Values of a declared type, by msgspec."""

    generic = False

    def __init__(self, declared: Any, annotation: Any, info: types.Type) -> None:
        """`annotation`: what msgspec knows the declared type by; other than it for Arrow types."""
        self.description: Description = describe(info)
        self.immutable = is_immutable(info)
        self.accepts = accepted_types(info)
        self._declared, self._annotation, self._info = declared, annotation, info
        self._arrow = arrow_type_of(declared) if is_arrow(declared) and narrows(arrow_type_of(declared)) else None
        self._checked = not is_flat(info) or self._arrow is not None
        self.type_is_all = not self._checked
        self._id = description_id(self.description)
        self._mark = _PLAIN if is_self_describing(info) else MARKED + self._id
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(annotation).decode
        self._written: dict[bytes, Description] = {self._id: self.description}
        self._readings: dict[bytes, Reading] = {}

    def reading(self, written: Sequence[Description]) -> Serializer:
        own = copy.copy(self)
        own._written = {self._id: self.description, **{description_id(each): each for each in written}}
        own._readings = {}
        return own

    def of_lists(self) -> Serializer:
        lists = list[self._annotation]  # type: ignore[name-defined]
        serializer = TypedSerializer(lists, lists, types.type_info(lists))
        return serializer.reading([{"list": each} for each in self._written.values()])

    def encode(self, value: Any) -> bytes:
        if self.accepts is not None and type(value) not in self.accepts:
            raise self.refusal(value)
        try:
            data = self._encode(value)
            if self._checked:  # a wrong value inside would otherwise be found by the restore that needs it
                self._decode(data)
                if self._arrow is not None:
                    self._check_arrow(value)
            return self._mark + data if self._mark else data
        except _UNENCODABLE:
            return self._encode_tree(value)
        except (msgspec.ValidationError, TypeError) as error:
            raise StateError(f"{value!r} is not of the declared type {self._name}: {error}") from error

    def _check_arrow(self, value: Any) -> None:
        changed = why_changed(value, self._arrow)
        if changed:
            raise StateError(f"{value!r} does not fit the declared type {self._name}: {changed}")

    def _encode_tree(self, value: Any) -> bytes:
        try:
            tree = plain(value)
            self._convert(tree)
        except (msgspec.ValidationError, TypeError) as error:
            raise StateError(f"{value!r} is not of the declared type {self._name}: {error}") from error
        return PICKLED + self._id + pickle.dumps(tree, 5)

    @property
    def _name(self) -> str:
        return name_of(self._declared)

    def refusal(self, value: Any) -> StateError:
        kind = type(value).__qualname__
        return StateError(f"{value!r} is of type {kind}, but {self._name} is declared")

    def encode_all(self, values: Iterable[Any]) -> list[bytes]:
        values = list(values)
        if not self._checked and self.accepts is not None and self.accepts.issuperset(map(type, values)):
            try:
                return list(map(self._encode, values))
            except _UNENCODABLE:
                pass
        return list(map(self.encode, values))

    def decode(self, data: bytes) -> Any:
        if self._mark:
            return self._decode(data[MARK_BYTES:]) if data.startswith(self._mark) else self._decode_old(data)
        try:
            return self._decode(data)
        except msgspec.DecodeError:
            if data[:1] != MARKED[:1]:
                raise
            return self._decode_old(data)

    def decode_all(self, rows: list[bytes | None]) -> list[Any]:
        decode = self.decode if self._mark else self._decode
        try:
            if all(rows):
                return list(map(decode, rows))  # type: ignore[arg-type]  # there is no None
            return [None if data is None else decode(data) for data in rows]
        except msgspec.DecodeError:
            return [None if data is None else self.decode(data) for data in rows]

    # ---- rows that say how they were written, and those from before they did

    def _decode_old(self, data: bytes) -> Any:
        kind, by = data[:2], data[2:MARK_BYTES]
        if kind == PICKLED:
            tree = pickle.loads(data[MARK_BYTES:])
        elif kind == MARKED:
            tree = msgspec.msgpack.decode(data[MARK_BYTES:])
        else:
            tree, by = msgspec.msgpack.decode(data), _PLAIN
        read = self._readings.get(by)
        if read is None:
            read = self._readings[by] = reading(self._description_of(by), self._info)
        return self._convert(read(tree))

    def _description_of(self, by: bytes) -> Description | None:
        if by == _PLAIN:
            return None
        if by not in self._written:
            raise DamagedCheckpointError(f"a row was written as {by.hex()}, of which its snapshot knows nothing")
        return self._written[by]

    def _convert(self, tree: Any) -> Any:
        return msgspec.convert(tree, self._annotation, builtin_types=(bytes,))


def description_id(description: Description) -> bytes:
    """What rows call the description by."""
    return xxhash.xxh32_digest(msgspec.json.encode(description))


@lru_cache(maxsize=1024)
def _typed(declared: Any) -> TypedSerializer | None:
    try:
        info = types.type_info(declared)
        return TypedSerializer(declared, declared, info) if is_known(info) else None
    except (TypeError, NameError):  # no type msgspec could work with, or annotations it cannot resolve
        return None


_PICKLE = PickleSerializer()


def serializer_for(declared: Any) -> Serializer:
    """The serializer of a type or annotation; a generic one for None, Any and types msgspec does not know. StateError
    for Arrow types whose values no Python value can carry."""
    if declared is None or declared is Any:
        return _PICKLE
    if is_arrow(declared):
        annotation = annotation_of(declared)
        return TypedSerializer(declared, annotation, types.type_info(annotation))
    try:
        hash(declared)
    except TypeError:
        return _PICKLE
    return _typed(declared) or _PICKLE
