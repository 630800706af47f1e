"""What may be read as what: the rules by which the types of values evolve (docs/state-evolution.md has the table).

`differences` looks at descriptions alone (type_descriptions.py), that of the rows and that of the type declared now,
and gives every place where a value of the one might not be one of the other, with what to do about it.

A value that takes part in an identity, as a member of a set or a key of a dict, must stay distinct from the others:
there ints do not become floats and fields are not removed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from .type_descriptions import PICKLE, Description

_AT_LEAST = ("gt", "ge", "min_length")
_AT_MOST = ("lt", "le", "max_length")
_AT_MOST_OR_NONE = (*_AT_MOST, "bits", "scale", "whole_digits", "decimals")
_LITERAL_ATOMS = {str: "str", int: "int", type(None): "none", bool: "bool"}


@dataclass(frozen=True, slots=True)
class Difference:
    """One place of a type that does not fit what was written."""

    path: str
    """The field, 'amount.currency'; empty for the value itself."""
    reason: str
    advice: str

    def __str__(self) -> str:
        return f"{self.reason}; {self.advice}"


@dataclass(frozen=True, slots=True)
class _Side:
    """A description, and the records around it, outermost first."""

    description: Description
    within: tuple[Any, ...] = ()

    def at(self, part: Description) -> _Side:
        """A part of this, with recursion resolved."""
        within = self.within
        if isinstance(self.description, dict) and "record" in self.description:
            within = (*within, self.description)
        if isinstance(part, dict) and "recursive" in part:
            place = len(within) - part["recursive"]
            return _Side(within[place], within[:place])
        return _Side(part, within)

    @property
    def kind(self) -> str:
        found = self.description
        return found if isinstance(found, str) else found.get("atom") or next(iter(found))

    @property
    def choices(self) -> list[_Side]:
        return [self.at(part) for part in self.description["union"]] if self.kind == "union" else [self]

    def __str__(self) -> str:
        return show(self.description)


def differences(written: Description, declared: Description) -> list[Difference]:
    """Why values written under the one cannot be read as the other; empty when they can."""
    return list(_between(_Side(written), _Side(declared), "", False, frozenset()))


def incompatibility(written: Iterable[Description], declared: Description) -> str | None:
    """All differences from what values were written under, in words, each once; None if there are none."""
    found = dict.fromkeys(str(each) for description in written for each in differences(description, declared))
    return "; and ".join(found) or None


Found = Iterator[Difference]
Pairs = frozenset[tuple[int, int]]
"""Records that are being compared already, further out: a recursive type meets itself."""


def _between(old: _Side, new: _Side, path: str, identity: bool, pairs: Pairs) -> Found:
    if PICKLE in (old.description, new.description):
        yield from _pickled(old, new, path)
    elif "union" in (old.kind, new.kind):
        for choice in old.choices:
            yield from _into_choices(choice, new, path, identity, pairs)
    elif old.kind == new.kind == "record":
        yield from _records(old, new, path, identity, pairs)
    elif old.kind == new.kind == "enum":
        yield from _members(old, new, path)
    elif old.kind == "literal":
        yield from _literals(old, new, path)
    elif old.kind == new.kind:
        yield from _limits(old, new, path)
        if isinstance(old.description, dict) and "atom" not in old.description:
            yield from _parts(old, new, path, identity, pairs)
    elif (old.kind, new.description) != ("int", "float"):
        yield _changed(old, new, path)
    elif identity:
        yield Difference(
            path,
            f"{_subject(path)} is an int in a key or set and is now a float, by which two of them could become one",
            "leave it an int",
        )


def _pickled(old: _Side, new: _Side, path: str) -> Found:
    if old.description == new.description:
        return
    if new.description == PICKLE:
        reason = f"{_subject(path)} was typed ({old}) and would now be pickled"
        advice = "declare a type that can read it (penstock found none, or one that it cannot write)"
    else:
        reason = f"{_subject(path)} was pickled and is now declared {new}"
        advice = "leave it undeclared, or begin a state of another name and fill it from this one"
    yield Difference(path, reason, advice)


def _into_choices(old: _Side, new: _Side, path: str, identity: bool, pairs: Pairs) -> Found:
    """One of the types that a value may have had, into what it may be now."""
    found = [list(_between(old, choice, path, identity, pairs)) for choice in new.choices]
    if not all(found):
        return
    alike = [differing for choice, differing in zip(new.choices, found, strict=True) if choice.kind == old.kind]
    if len(alike) == 1:
        yield from alike[0]
    elif old.kind == "none":
        yield Difference(path, f"{_subject(path)} may be None and is now {new}", f"declare it {new} | None")
    else:
        yield Difference(path, f"{_subject(path)} may be {old} and is now {new}", _back(old, path))


def _records(old: _Side, new: _Side, path: str, identity: bool, pairs: Pairs) -> Found:
    pair = (id(old.description), id(new.description))
    if pair in pairs:
        return
    pairs |= {pair}
    was, now = old.description["fields"], new.description["fields"]
    if old.description.get("tag") != new.description.get("tag"):
        yield Difference(path, f"{_subject(path)} has another tag than it had", "leave the tag as it was")
    taken: dict[str, str] = {}
    for name, field in now.items():
        inside = f"{path}.{name}" if path else name
        source = next((each for each in (name, *field.get("renamed_from", ())) if each in was), None)
        if source is None:
            if field["required"]:
                yield Difference(inside, f"{_subject(inside)} is new and has no default", _default_for(new, name))
            continue
        if source in taken:
            reason = f"{_subject(inside)} is read from '{source}', like '{taken[source]}'"
            yield Difference(inside, reason, "let only one of them be renamed from it")
        taken[source] = name
        yield from _absent(was[source], field, inside)
        yield from _between(old.at(was[source]["type"]), new.at(field["type"]), inside, identity, pairs)
    if identity:
        for name in sorted(set(was) - set(taken)):
            inside = f"{path}.{name}" if path else name
            reason = f"{_subject(inside)} is gone, and without it two keys or members could become one"
            yield Difference(inside, reason, "leave it there")


def _default_for(new: _Side, name: str) -> str:
    return f"give '{name}' a default (NotRequired in a TypedDict, nullable in an Arrow type)"


def _absent(was: dict[str, Any], now: dict[str, Any], path: str) -> Found:
    """Rows may lack the field."""
    before, after = was.get("absent"), now.get("absent")
    if before is None or before == after:
        return
    if before.startswith("default"):
        yield Difference(
            path, f"{_subject(path)} was left out of rows where it had its default, which is another one now",
            "leave default and omit_defaults as they were",
        )  # fmt: skip
    elif now["required"]:
        yield Difference(path, f"{_subject(path)} was not required and is now", "leave it NotRequired")


def _members(old: _Side, new: _Side, path: str) -> Found:
    """By names and values: a name that stands for another value than before would read one member as another."""
    now = new.description["members"]
    for name, value in old.description["members"].items():
        if name not in now:
            same = next((other for other, its in now.items() if its == value), None)
            advice = f"keep the member (as a second name of {same})" if same else "keep the member"
            yield Difference(path, f"{_subject(path)} may be {old}.{name}, which no longer exists", advice)
        elif now[name] != value:
            reason = f"{_subject(path)} may be {old}.{name}, which was {value!r} and is now {now[name]!r}"
            yield Difference(path, reason, "leave the values of members as they are (auto() counts anew)")


def _literals(old: _Side, new: _Side, path: str) -> Found:
    if new.kind == "literal":
        gone = [value for value in old.description["literal"] if value not in new.description["literal"]]
        if gone:
            yield Difference(path, f"{_subject(path)} may be {gone[0]!r}, which is no longer allowed", "keep it")
    elif any(_LITERAL_ATOMS.get(type(value)) != new.description for value in old.description["literal"]):
        yield _changed(old, new, path)


def _parts(old: _Side, new: _Side, path: str, identity: bool, pairs: Pairs) -> Found:
    (was, now), kind = (_items(old.description), _items(new.description)), old.kind
    if len(was) != len(now):
        yield _changed(old, new, path)
        return
    for place, (part, declared) in enumerate(zip(was, now, strict=True)):
        distinct = identity or kind in ("set", "frozenset") or (kind == "dict" and place == 0)
        inside = f"{path}{_step(kind, place)}"
        yield from _between(old.at(part), new.at(declared), inside, distinct, pairs)


def _items(description: Any) -> list[Description]:
    parts = next(iter(description.values()))
    return parts if isinstance(parts, list) else [parts]


def _step(kind: str, place: int) -> str:
    if kind == "dict":
        return "{key}" if place == 0 else "{value}"
    return f"[{place}]" if kind == "tuple_of" else "[]"


def _limits(old: _Side, new: _Side, path: str) -> Found:
    """Every value that was allowed is still allowed."""
    before, after = _limits_of(old.description), _limits_of(new.description)
    for name, limit in after.items():
        was = before.get(name)
        fits = was == limit
        if was is not None and name in _AT_LEAST:
            fits = was >= limit
        elif was is not None and name in _AT_MOST_OR_NONE:
            fits = was <= limit
        if not fits:
            yield Difference(path, f"{_subject(path)} was {old} and is now {new}, which is narrower", _back(old, path))
            return


def _limits_of(description: Description) -> dict[str, Any]:
    return description.get("limits") or {} if isinstance(description, dict) else {}


# ---- for people


def _subject(path: str) -> str:
    return f"field '{path}'" if path else "the value"


def _back(old: _Side, path: str) -> str:
    what = f"'{path}'" if path else "it"
    return f"declare {what} so that it can be {old} again, or take another name"


def _changed(old: _Side, new: _Side, path: str) -> Difference:
    return Difference(path, f"{_subject(path)} was {old} and is now {new}", _back(old, path))


_BITS = {(-(1 << bits - 1), (1 << bits - 1) - 1): f"int{bits}" for bits in (8, 16, 32, 64)}
_BITS |= {(0, (1 << bits) - 1): f"uint{bits}" for bits in (8, 16, 32)}


def show(description: Description) -> str:
    """A description as one would write the type."""
    if isinstance(description, str):
        return {"pickle": "pickled", "none": "None"}.get(description, description)
    kind, detail = next(iter(description.items()))
    if kind == "atom":
        limits = description["limits"]
        if set(limits) == {"ge", "le"} and (limits["ge"], limits["le"]) in _BITS:
            return _BITS[limits["ge"], limits["le"]]
        return f"{detail}({', '.join(f'{name}={value}' for name, value in limits.items())})"
    if kind in ("record", "enum"):
        return str(detail)
    if kind == "literal":
        return f"Literal[{', '.join(map(repr, detail))}]"
    if kind == "recursive":
        return "itself"
    parts = detail if isinstance(detail, list) else [detail]
    if kind == "union":
        return " | ".join(map(show, parts))
    inner = ", ".join(map(show, parts)) + (", ..." if kind == "tuple" else "")
    return f"{'tuple' if kind == 'tuple_of' else kind}[{inner}]"
