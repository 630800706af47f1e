"""Types drawn at random, nested in any way, and changed at random as the rules allow: rows read as they should."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import hypothesis.strategies as st
import msgspec
from hypothesis import HealthCheck, given, settings

from penstock.state.serialization.serializers import serializer_for
from penstock.state.serialization.type_descriptions import renamed_from
from penstock.state.serialization.type_evolution import differences

Kind = Literal["dataclass", "tuple", "dict"]
KINDS = st.sampled_from(["dataclass", "tuple", "dict"])


@dataclass
class Change:
    """A type, what becomes of it, values of it, and what they are read as."""

    old: Any
    new: Any
    values: st.SearchStrategy[Any]
    read: Callable[[Any], Any]


def same(value: Any) -> Any:
    return value


SMALL, BIG = st.integers(-(2**50), 2**50), st.integers(-(2**80), 2**80)
ATOMS = st.sampled_from(
    [
        Change(int, int, BIG, same),
        Change(int, float, SMALL, float),
        Change(int, int | str, BIG, same),
        Change(str, str | None, st.text(max_size=3), same),
        Change(str, str, st.text(st.characters(), max_size=3) | st.just("\ud800"), same),
        Change(bool, bool | None, st.booleans(), same),
        Change(bytes, bytes, st.binary(max_size=3), same),
        Change(Decimal, Decimal, st.decimals(allow_nan=False, allow_infinity=False, places=2), same),
        Change(Literal["a"], Literal["a", "b"], st.just("a"), same),
    ]
)


def optional(inner: Change) -> Change:
    values = st.none() | inner.values
    return Change(inner.old | None, inner.new | None, values, lambda v: None if v is None else inner.read(v))


def in_list(inner: Change) -> Change:
    values = st.lists(inner.values, max_size=2)
    return Change(list[inner.old], list[inner.new], values, lambda v: list(map(inner.read, v)))  # type: ignore[name-defined]


def in_dict(inner: Change) -> Change:
    values = st.dictionaries(st.text(max_size=2), inner.values, max_size=2)
    return Change(
        dict[str, inner.old], dict[str, inner.new], values, lambda v: {key: inner.read(each) for key, each in v.items()}
    )  # type: ignore[name-defined]


def in_tuple(one: Change, other: Change) -> Change:
    values = st.tuples(one.values, other.values)
    return Change(
        tuple[one.old, other.old], tuple[one.new, other.new], values, lambda v: (one.read(v[0]), other.read(v[1]))
    )  # type: ignore[name-defined]


Field = tuple[str, Any, Any]
"""Name, annotation, default; `...` where there is none."""


def record(kind: Kind, fields: list[Field]) -> Any:
    if kind == "dataclass":
        described = [(n, a) if d is ... else (n, a, dataclasses.field(default=d)) for n, a, d in fields]
        return dataclasses.make_dataclass("Record", described, kw_only=True)
    if kind == "tuple":
        fields = sorted(fields, key=lambda field: field[2] is not ...)
        made: Any = collections.namedtuple(
            "Record", [name for name, _, _ in fields], defaults=[each for _, _, each in fields if each is not ...]
        )
        made.__annotations__ = {name: annotation for name, annotation, _ in fields}
        return made
    return TypedDict("Record", {n: a if d is ... else NotRequired[a] for n, a, d in fields})  # type: ignore[misc]


@st.composite
def records(draw: st.DrawFn, inner: st.SearchStrategy[Change]) -> Change:
    changes = draw(st.lists(inner, min_size=1, max_size=4))
    fates = [draw(st.sampled_from(["kept", "kept", "gone", "renamed"])) for _ in changes]
    names = [f"f{number}" for number in range(len(changes))]
    targets = {n: n + "_new" if fate == "renamed" else n for n, fate in zip(names, fates, strict=True)}
    before: list[Field] = [(name, change.old, ...) for name, change in zip(names, changes, strict=True)]
    after: list[Field] = [
        (targets[name], Annotated[change.new, renamed_from(name)] if fate == "renamed" else change.new, ...)
        for name, change, fate in zip(names, changes, fates, strict=True)
        if fate != "gone"
    ]
    after += [(f"added{number}", int | str, "default") for number in range(draw(st.integers(0 if after else 1, 2)))]
    old = record(draw(KINDS), draw(st.permutations(before)))
    new = record(draw(KINDS), draw(st.permutations(after)))
    kept = [name for name, fate in zip(names, fates, strict=True) if fate != "gone"]
    readers = {name: change.read for name, change in zip(names, changes, strict=True)}
    values = st.fixed_dictionaries({name: change.values for name, change in zip(names, changes, strict=True)})

    def read(value: Any) -> Any:
        given_as = value if isinstance(value, dict) else {name: getattr(value, name) for name in names}
        return new(**{targets[name]: readers[name](given_as[name]) for name in kept})

    return Change(old, new, values.map(lambda fields: old(**fields)), read)


CHANGES = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        inner.map(optional), inner.map(in_list), inner.map(in_dict), st.builds(in_tuple, inner, inner), records(inner)
    ),
    max_leaves=6,
)


@given(data=st.data(), change=CHANGES)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_rows_read_as_the_rules_say(data: st.DataObject, change: Change) -> None:
    before, after = serializer_for(change.old), serializer_for(change.new)
    assert not before.generic
    stored = msgspec.json.decode(msgspec.json.encode(before.description))
    assert not differences(stored, after.description)
    reader = after.reading([stored])
    value = data.draw(change.values)
    row = before.encode(value)
    assert sorted_repr(before.decode(row)) == sorted_repr(value)
    assert sorted_repr(reader.decode(row)) == sorted_repr(change.read(value))
    whole = reader.of_lists().decode(before.of_lists().encode([value]))
    assert sorted_repr(whole) == sorted_repr([change.read(value)])
    again = after.reading([stored, after.description])
    assert sorted_repr(again.decode(again.encode(reader.decode(row)))) == sorted_repr(change.read(value))


def sorted_repr(value: Any) -> Any:
    """Tells 1 from 1.0 and True; dicts in any order."""
    if isinstance(value, dict):
        return sorted((repr(key), sorted_repr(each)) for key, each in value.items())
    if dataclasses.is_dataclass(value):
        return type(value), [sorted_repr(getattr(value, field.name)) for field in dataclasses.fields(value)]
    if isinstance(value, list | tuple):
        return type(value), list(map(sorted_repr, value))
    return repr(value)
