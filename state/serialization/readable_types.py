"""Types of state as Arrow columns, for people: what savepoints show beside the exact bytes of keys and values.

From descriptions (type_descriptions.py) and signatures of keys (key_signatures.py), so no class is needed. What has
no Arrow type of its own (a union, a type inside itself, a literal of several kinds) is shown as JSON text. A value
that does not fit its column (an int beyond 64 bits, a lone surrogate) is null there; restoring reads the bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from functools import partial
from typing import Any

import msgspec
import pyarrow as pa

from ..key_signatures import Signature
from .plain_rows import as_json
from .type_descriptions import Description

Conversion = Callable[[Any], Any]
_LONGEST_DECIMAL = 38


def _as_it_is(tree: Any) -> Any:
    return tree


@dataclass(frozen=True, slots=True)
class Readable:
    """A column, and what becomes of a plain tree (plain_rows.py) in it."""

    arrow: pa.DataType
    convert: Conversion

    def array(self, trees: Sequence[Any]) -> pa.Array:
        try:
            if self.convert is _as_it_is:
                return pa.array(trees, self.arrow)
            return pa.array([self._converted(tree) for tree in trees], self.arrow)
        except _MISFIT:
            return pa.array([self._as_far_as_it_fits(tree) for tree in trees], self.arrow)

    def _converted(self, tree: Any) -> Any:
        return None if tree is None else self.convert(tree)

    def _as_far_as_it_fits(self, tree: Any) -> Any:
        try:
            return pa.scalar(self._converted(tree), self.arrow).as_py()
        except _MISFIT:
            return None


_MISFIT = (pa.ArrowException, ArithmeticError, TypeError, ValueError, LookupError, AttributeError, RecursionError)
"""ValueError: and those of msgspec and of Unicode."""


@dataclass(frozen=True, slots=True)
class ReadableField:
    """Of a record."""

    names: tuple[str, ...]
    """Its own, and those that rows of before have it under."""
    type: Readable

    def of(self, record: Any) -> Any:
        """None where it has no such field."""
        for name in self.names:
            if name in record:
                return record[name]
        return None


def _datetime(tree: Any) -> datetime:
    """A naive one as it stands."""
    moment = msgspec.convert(tree, datetime)
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


TEXT = Readable(pa.string(), as_json)
_STRING = Readable(pa.string(), _as_it_is)
_INT = Readable(pa.int64(), _as_it_is)
_DATETIME = Readable(pa.timestamp("us", "UTC"), _datetime)
_ATOMS: dict[str, Readable] = {
    "int": _INT,
    "float": Readable(pa.float64(), float),
    "str": _STRING,
    "bool": Readable(pa.bool_(), _as_it_is),
    "bytes": Readable(pa.binary(), _as_it_is),
    "datetime": _DATETIME,
    "date": Readable(pa.date32(), partial(msgspec.convert, type=date)),
    "time": Readable(pa.time64("us"), partial(msgspec.convert, type=time)),
    "timedelta": Readable(pa.duration("us"), partial(msgspec.convert, type=timedelta)),
    "uuid": Readable(pa.string(), str),
    "decimal": Readable(pa.string(), str),
}


def readable(description: Description) -> Readable:
    if isinstance(description, str):
        return _ATOMS.get(description, TEXT)
    kind = next(iter(description))
    detail = description[kind]
    if kind == "atom":
        return _limited(detail, description["limits"])
    if kind == "record":
        return _struct(fields_of(description))
    if kind in ("list", "set", "frozenset", "tuple"):
        item = readable(detail)
        return Readable(pa.list_(item.arrow), lambda tree: [_optional(item, each) for each in tree])
    if kind == "dict":
        key, value = map(readable, detail)
        arrow = pa.map_(key.arrow, value.arrow)
        return Readable(arrow, lambda tree: [(key.convert(k), _optional(value, v)) for k, v in tree.items()])
    if kind == "tuple_of":
        return _positions([readable(part) for part in detail])
    if kind == "union":
        return _union(detail)
    if kind in ("enum", "literal"):
        return _of_values(description["members"].values() if kind == "enum" else detail)
    return TEXT


def fields_of(description: Description) -> dict[str, ReadableField]:
    """Of a record; none of what is no record."""
    if not isinstance(description, dict) or "record" not in description:
        return {}
    return {
        name: ReadableField((name, *field.get("renamed_from", ())), readable(field["type"]))
        for name, field in description["fields"].items()
    }


def _optional(inner: Readable, tree: Any) -> Any:
    return None if tree is None else inner.convert(tree)


def _struct(fields: dict[str, ReadableField]) -> Readable:
    if not fields:  # which Parquet cannot hold
        return TEXT
    arrow = pa.struct([(name, field.type.arrow) for name, field in fields.items()])
    return Readable(arrow, lambda tree: {name: _optional(f.type, f.of(tree)) for name, f in fields.items()})


def _positions(parts: list[Readable], names: Sequence[str] = ()) -> Readable:
    if not parts:
        return TEXT
    names = names or [f"_{place}" for place in range(len(parts))]
    arrow = pa.struct([(name, part.arrow) for name, part in zip(names, parts, strict=True)])
    return Readable(
        arrow,
        lambda tree: {name: _optional(part, each) for name, part, each in zip(names, parts, tree, strict=True)},
    )


def _limited(atom: str, limits: dict[str, Any]) -> Readable:
    if atom == "int" and limits.get("ge", -1) >= 0 and "le" not in limits:
        return Readable(pa.uint64(), _as_it_is)
    if atom == "datetime" and limits.get("tz") is False:
        return Readable(pa.timestamp("us"), partial(msgspec.convert, type=datetime))
    if atom == "decimal" and "scale" in limits:
        digits = limits["whole_digits"] + limits["scale"]
        if 0 < digits <= _LONGEST_DECIMAL:
            return Readable(pa.decimal128(digits, limits["scale"]), Decimal)
    return _ATOMS.get(atom, TEXT)


def _union(parts: list[Description]) -> Readable:
    others = [part for part in parts if part != "none"]
    if len(others) == 1:
        return readable(others[0])
    return _ATOMS["float"] if set(map(str, others)) == {"int", "float"} else TEXT


def _of_values(values: Iterable[Any]) -> Readable:
    kinds = set(map(type, values))
    return _STRING if kinds == {str} else _INT if kinds == {int} else TEXT


# ---- keys


def readable_key(signatures: Sequence[Signature], names_of: Callable[[str], Sequence[str]]) -> Readable:
    """Of keys as key_encoding.decode_plain gives them. `names_of`: field names of "module:Class", none if unknown."""
    return _key(signatures[0], names_of) if len(signatures) == 1 else TEXT


def _key(signature: Signature, names_of: Callable[[str], Sequence[str]]) -> Readable:
    if signature is None:
        return TEXT
    if isinstance(signature, str):
        return _ATOMS[signature]
    kind, detail = next(iter(signature.items()))
    if kind == "enum":
        return _STRING
    if kind == "tuple":
        return _positions([_key(each, names_of) for each in detail])
    parts = [_key(each, names_of) for each in signature["fields"]]
    names = names_of(detail)
    return _positions(parts, names if len(names) == len(parts) else ())
