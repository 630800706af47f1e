"""Rows of state as plain trees (dicts, lists, strings, numbers), without the classes that wrote them.

For whoever reads a snapshot and does not have the job's code: the description that a row was written under
(type_descriptions.py) names the fields of what stands by position. What was pickled is taken apart without running
anything: classes in it become stand-ins that remember what they were given (`PickledObject`).
"""

from __future__ import annotations

import collections
import datetime
import decimal
import io
import pickle
import uuid
from base64 import b64encode
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from ..rows.ttl import chunk_without_stamps, without_stamp
from .serializers import MARK_BYTES, MARKED, PICKLED, description_id
from .type_descriptions import PICKLE, Description

Naming = Callable[[Any], Any]
"""From the tree that is stored to one in which all fields are named."""

_decode = msgspec.msgpack.Decoder().decode


class PlainRows:
    """Reads the rows of one state."""

    def __init__(self, written_as: Sequence[Description]) -> None:
        self._values = {description_id(each): naming(each) for each in written_as}
        self._chunks = {description_id({"list": each}): naming({"list": each}) for each in written_as}
        self._may_be_pickled = PICKLE in written_as
        self._always_pickled = all(each == PICKLE for each in written_as)

    def value(self, row: bytes) -> Any:
        """Of a value or of an entry of a map, with a stamp or without."""
        return self._tree(without_stamp(row), self._values)

    def elements(self, row: bytes) -> list[Any]:
        """Of a chunk of a list."""
        elements: list[Any] = self._tree(chunk_without_stamps(row), self._chunks)
        return elements

    def _tree(self, data: bytes, namings: dict[bytes, Naming]) -> Any:
        kind = data[:2]
        if kind in (MARKED, PICKLED):
            by, content = data[2:MARK_BYTES], data[MARK_BYTES:]
            return namings[by](_decode(content) if kind == MARKED else read_pickle(content))
        if self._always_pickled or (self._may_be_pickled and data[:1] == pickle.PROTO and len(data) > 1):
            return read_pickle(data)
        return _decode(data)


# ---- what stands by position


def naming(description: Description) -> Naming:
    """What is inside a union or a recursive type stays as it was written."""
    if not isinstance(description, dict):
        return _as_it_is
    kind = next(iter(description))
    if kind == "record":
        return _naming_fields(description)
    if kind in ("list", "set", "frozenset", "tuple"):
        item = naming(description[kind])
        return _as_it_is if item is _as_it_is else lambda tree: [item(each) for each in tree]
    if kind == "dict":
        value = naming(description[kind][1])
        return _as_it_is if value is _as_it_is else lambda tree: {key: value(each) for key, each in tree.items()}
    if kind == "tuple_of":
        parts = [naming(each) for each in description[kind]]
        return lambda tree: [part(each) for part, each in zip(parts, tree, strict=True)]
    if kind == "union":
        return _naming_of_union(description["union"])
    return _as_it_is


def _naming_fields(description: Any) -> Naming:
    fields = {name: naming(field["type"]) for name, field in description["fields"].items()}
    if description.get("positional"):
        named = list(fields.items())
        return lambda tree: {name: inner(each) for (name, inner), each in zip(named, tree, strict=False)}
    inside = {name: inner for name, inner in fields.items() if inner is not _as_it_is}
    if not inside:
        return _as_it_is
    return lambda tree: {name: inside[name](each) if name in inside else each for name, each in tree.items()}


def _naming_of_union(parts: list[Description]) -> Naming:
    """Of an optional type, that is; where there is more to choose from, a row does not say what it is."""
    others = [part for part in parts if part != "none"]
    inner = naming(others[0]) if len(others) == 1 else _as_it_is
    return _as_it_is if inner is _as_it_is else lambda tree: None if tree is None else inner(tree)


def _as_it_is(tree: Any) -> Any:
    return tree


# ---- pickles


class PickledObject:
    """What a pickle says of an object of a class: arguments, attributes, and items if it is a collection."""

    arguments: tuple[Any, ...] = ()
    state: Any = None
    items: list[Any]

    def __new__(cls, *arguments: Any, **named: Any) -> PickledObject:
        found = object.__new__(cls)
        found.arguments = (*arguments, *named.values())
        found.items = []
        return found

    def __init__(self, *arguments: Any, **named: Any) -> None: ...

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def append(self, item: Any) -> None:
        self.items.append(item)

    def extend(self, items: list[Any]) -> None:
        self.items.extend(items)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items.append((key, value))

    def __hash__(self) -> int:
        return id(self)

    def as_tree(self) -> dict[str, Any]:
        tree: dict[str, Any] = {"class": f"{type(self).__module__}.{type(self).__qualname__}"}
        if self.arguments:
            tree["arguments"] = list(self.arguments)
        states = self.state if isinstance(self.state, tuple) else (self.state,)
        for state in states:
            if isinstance(state, dict):
                tree.update(state)
            elif state is not None:
                tree["state"] = state
        if self.items:
            tree["items"] = self.items
        return tree


_HARMLESS: dict[tuple[str, str], Any] = {
    (kind.__module__, kind.__qualname__): kind
    for kind in (
        set, frozenset, bytearray, complex, range, collections.OrderedDict, collections.deque, decimal.Decimal,
        datetime.datetime, datetime.date, datetime.time, datetime.timedelta, datetime.timezone, uuid.UUID,
    )
}  # fmt: skip


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        known = _HARMLESS.get((module, name))
        if known is not None:
            return known
        return type(name.rpartition(".")[2], (PickledObject,), {"__module__": module, "__qualname__": name})


def read_pickle(data: bytes) -> Any:
    """The value, with stand-ins for objects of classes. Runs no code of them."""
    return _Unpickler(io.BytesIO(data)).load()


def as_json(tree: Any) -> str:
    return msgspec.json.encode(as_tree(tree)).decode()


def as_tree(tree: Any) -> Any:
    """For JSON: what it does not have becomes a string (bytes as base64), a dict with keys of other types a list of its
    entries."""
    if isinstance(tree, PickledObject):
        return as_tree(tree.as_tree())
    if isinstance(tree, dict):
        if all(type(key) is str for key in tree):
            return {key: as_tree(value) for key, value in tree.items()}
        return [[as_tree(key), as_tree(value)] for key, value in tree.items()]
    if isinstance(tree, list | tuple | set | frozenset | collections.deque):
        return list(map(as_tree, tree))
    if tree is None or isinstance(tree, bool | int | float | str):
        return tree
    if isinstance(tree, bytes | bytearray):
        return b64encode(tree).decode()
    return tree.isoformat() if hasattr(tree, "isoformat") else str(tree)
