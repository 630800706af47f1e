"""Reading rows that were written under another description: what msgspec would not find, is put where it looks.

A `Reading` goes through the plain tree of a row (dicts, lists, atoms) beside the description that it was written
under and the type that is declared now, and gives the tree that the type's decoder understands: values that stood by
position get their names, or stand where they stand now; fields are found under former names; what is gone is left
out; what is new has its default. It is compiled once per description and type, closure by closure.

A row without a known description was written by the names of its fields (type_descriptions.is_self_describing).
Only what type_evolution.py allows comes here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import inspect as types

from .type_descriptions import (
    ARROW_STRUCT,
    RECORDS,
    Description,
    bare,
    describe,
    former_names,
    is_positional,
    is_required,
    parts_of,
)

Reading = Callable[[Any], Any]

_NOTHING: Any = object()
_Sides = tuple[tuple[Any, ...], tuple[Any, ...]]
"""The records around a place, in the description and in the type."""


def reading(written: Description | None, info: Any) -> Reading:
    """From the trees of rows to those that the type's decoder reads; None: the rows name all their fields."""
    return _Compiler().reading(written, info)


class _Compiler:
    def __init__(self) -> None:
        self._records: dict[tuple[int, int], Reading] = {}
        """Of a description and a type: a recursive one meets itself."""

    def reading(self, written: Description | None, info: Any, within: tuple[Any, ...] = ()) -> Reading:
        info = bare(info)
        written, within = _resolved(written, within)
        if isinstance(info, types.UnionType) or _is_union(written):
            return self._union(written, info, within)
        if isinstance(info, RECORDS):
            return self._record(written, info, within)
        if isinstance(info, types.DictType):
            return self._dict(written, info, within)
        parts = parts_of(info)
        if not parts:
            return _as_it_is
        old = _items(written) if isinstance(written, dict) else [None] * len(parts)
        inner = [self.reading(part, each, within) for part, each in zip(old, parts, strict=True)]
        if all(each is _as_it_is for each in inner):
            return _as_it_is
        if isinstance(info, types.TupleType):
            return lambda tree: [read(value) for read, value in zip(inner, tree, strict=True)]
        (read,) = inner
        return lambda tree: [read(value) for value in tree]

    def _dict(self, written: Description | None, info: Any, within: tuple[Any, ...]) -> Reading:
        old = _items(written) if isinstance(written, dict) else [None, None]
        key = self.reading(old[0], info.key_type, within)
        value = self.reading(old[1], info.value_type, within)
        if key is _as_it_is and value is _as_it_is:
            return _as_it_is
        return lambda tree: {_hashable(key(each)): value(its) for each, its in tree.items()}

    def _union(self, written: Description | None, info: Any, within: tuple[Any, ...]) -> Reading:
        """A value says by its kind, or by its tag, which type it has: a union has one record or dict without a tag,
        and one list or tuple."""
        choices = [bare(each) for each in (info.types if isinstance(info, types.UnionType) else [info])]
        readings: dict[str, list[tuple[Any, Reading]]] = {}
        described: Any = written
        for part in described["union"] if _is_union(written) else [written]:
            part, around = _resolved(part, within)
            for choice in choices:
                if part is None or _alike(part, choice):
                    kind, tag = _kind_of_type(choice) if part is None else _kind_of(part), _tag_of(choice)
                    readings.setdefault(kind, []).append((tag, self.reading(part, choice, around)))
        return _by_kind(readings)

    def _record(self, written: Description | None, info: Any, within: tuple[Any, ...]) -> Reading:
        place = (id(written), id(info))
        known = self._records.get(place)
        if known is None:
            self._records[place] = lambda tree: self._records[place](tree)  # of itself, inside
            known = self._records[place] = self._new_record(written, info, within)
        return known

    def _new_record(self, written: Any, info: Any, within: tuple[Any, ...]) -> Reading:
        fields: dict[str, Any] | None = None
        positions: list[str] | None = None
        if written is not None:
            within = (*within, written)
            fields = written["fields"]
            positions = list(fields) if written.get("positional") else None
        plan: list[tuple[str, list[tuple[str, Reading]], Callable[[], Any]]] = []
        for field in info.fields:
            names = [field.encode_name, *former_names(field)]
            if fields is not None:
                names = [name for name in names if name in fields][:1]
            described = {name: None if fields is None else fields[name]["type"] for name in names}
            sources = [(name, self.reading(each, field.type, within)) for name, each in described.items()]
            plan.append((field.encode_name, sources, _filling(field, info)))
        tag = None if getattr(info, "tag", None) is None else info.tag_field
        return _record_reading(positions, plan, tag, positional=is_positional(info))


def _record_reading(
    positions: list[str] | None,
    plan: list[tuple[str, list[tuple[str, Reading]], Callable[[], Any]]],
    tag: str | None,
    *,
    positional: bool,
) -> Reading:
    def read(tree: Any) -> Any:
        values = tree if positions is None else dict(zip(positions, tree, strict=True))
        found: dict[str, Any] = {}
        if tag is not None and tag in values:
            found[tag] = values[tag]
        for target, sources, filling in plan:
            for name, inner in sources:
                if name in values:
                    found[target] = inner(values[name])
                    break
            else:
                filled = filling()
                if filled is not _NOTHING:
                    found[target] = filled
        return list(found.values()) if positional else found

    return read


def _filling(field: types.Field, record: Any) -> Callable[[], Any]:
    """What stands for a field that a row lacks, where the decoder would not know."""
    if getattr(record.cls, ARROW_STRUCT, False) and not is_required(field, record):
        return lambda: None
    if not is_positional(record):
        return lambda: _NOTHING
    if field.default_factory is not msgspec.NODEFAULT:
        return lambda: plain(field.default_factory())
    return lambda: _NOTHING if field.default is msgspec.NODEFAULT else plain(field.default)


def plain(value: Any) -> Any:
    """The tree of a value: dicts, lists, strings and numbers, and bytes."""
    return msgspec.to_builtins(value, builtin_types=(bytes,))


def _as_it_is(tree: Any) -> Any:
    return tree


def _hashable(tree: Any) -> Any:
    return tuple(map(_hashable, tree)) if isinstance(tree, list) else tree


def _items(description: Any) -> list[Description]:
    parts = next(iter(description.values()))
    return parts if isinstance(parts, list) else [parts]


# ---- which type of a union a value has


def _is_union(written: Description | None) -> bool:
    return isinstance(written, dict) and "union" in written


def _by_kind(readings: dict[str, list[tuple[Any, Reading]]]) -> Reading:
    def read(tree: Any) -> Any:
        for tag, inner in readings.get(_kind_of_tree(tree), ()):
            if tag is None or tree.get(tag[0]) == tag[1]:
                return inner(tree)
        return tree

    return read if any(inner is not _as_it_is for each in readings.values() for _tag, inner in each) else _as_it_is


def _kind_of_tree(tree: Any) -> str:
    return "map" if isinstance(tree, dict) else "array" if isinstance(tree, list | tuple) else "atom"


def _kind_of(part: Description) -> str:
    if "record" in part:
        return "array" if part.get("positional") else "map"
    return "map" if "dict" in part else "array"


def _kind_of_type(info: Any) -> str:
    """Of trees in which all fields are named."""
    if isinstance(info, (*RECORDS, types.DictType)):
        return "map"
    return "array" if parts_of(info) else "atom"


def _alike(part: Description, info: Any) -> bool:
    """Both are records of one tag, or the same kind of collection; atoms are read as they are."""
    if not isinstance(part, dict) or not (isinstance(info, RECORDS) or parts_of(info)):
        return False
    if isinstance(info, RECORDS):
        return "record" in part and part.get("tag") == _tag_of(info)
    return bool(next(iter(part)) == next(iter(describe(info))))


def _tag_of(info: Any) -> list[Any] | None:
    return None if getattr(info, "tag", None) is None else [info.tag_field, info.tag]


def _resolved(part: Description, within: tuple[Any, ...]) -> tuple[Description, tuple[Any, ...]]:
    if isinstance(part, dict) and "recursive" in part:
        place = len(within) - part["recursive"]
        return within[place], within[:place]
    return part, within
