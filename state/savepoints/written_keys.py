"""Keys as people write them, in JSON, found by what is known of the type of a stream's keys (key_signatures.py).

    int, float, bool, str, None    as in JSON
    bytes                          base64
    datetime, date, UUID, Decimal  their usual text; datetimes with a time zone
    Enum                           the member's name
    tuples, NamedTuples,
    frozen dataclasses             lists of their parts

What is no JSON is taken as the text that it is, and so is everything where strings are keys: `alice` is "alice", and of
a stream whose keys are strings 17 is "17". No class of the job is needed.
"""

from __future__ import annotations

import json
import math
from base64 import b64decode
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec

from ..errors import KeyTypeError
from ..key_encoding import encode_plain, normal_decimal
from ..key_signatures import Signature, show

_SHOWN = 100


def key_of_text(text: str, known: Sequence[Signature]) -> tuple[Any, bytes]:
    """The key without its classes, as `decode_plain` gives it, and encoded. `known`: what keys can be; none: whatever
    JSON says. KeyTypeError: that is no such key."""
    for signature in known or (None,):
        for tree in _meant(text, signature):
            try:
                key = _plain(tree, signature)
                return key, encode_plain(key, signature)
            except (KeyTypeError, ValueError, TypeError, ArithmeticError, LookupError):
                continue
    types = " or ".join(map(show, known)) if known else "what JSON has, but for objects"
    raise KeyTypeError(f"{text[:_SHOWN]!r} is none of its keys: these are of type {types}")


def _meant(text: str, signature: Signature) -> list[Any]:
    """The first that fits."""
    try:
        tree = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError):
        return [text]
    return [tree] if signature is None or isinstance(tree, str) else [tree, text]


def _no_number(name: str) -> Any:
    raise ValueError(name)


def _plain(tree: Any, signature: Signature) -> Any:
    if tree is None:
        return None
    if signature is None:
        return _as_json_says(tree)
    if isinstance(signature, str):
        return _ATOMS[signature](tree)
    if "enum" in signature:
        return _of(str, tree)
    parts = signature["tuple"] if "tuple" in signature else signature["fields"]
    return tuple(_plain(each, part) for each, part in zip(_of(list, tree), parts, strict=True))


def _as_json_says(tree: Any) -> Any:
    if isinstance(tree, list):
        return tuple(map(_as_json_says, tree))
    return _float(tree) if isinstance(tree, float) else tree


def _of(kind: type, tree: Any) -> Any:
    if type(tree) is not kind:
        raise TypeError(tree)
    return tree


def _float(tree: Any) -> float:
    number = float(_of(int, tree) if type(tree) is int else _of(float, tree))
    if math.isinf(number):
        raise ValueError(tree)
    return number + 0.0  # -0.0 is 0.0


def _decimal(tree: Any) -> Decimal:
    return normal_decimal(Decimal(str(_of(int, tree) if type(tree) is int else _of(str, tree))))


def _datetime(tree: Any) -> datetime:
    moment = msgspec.convert(_of(str, tree), datetime)
    if moment.tzinfo is None:
        raise ValueError(tree)
    return moment.astimezone(UTC)


_ATOMS: dict[str, Callable[[Any], Any]] = {
    "int": lambda tree: _of(int, tree),
    "str": lambda tree: _of(str, tree),
    "bool": lambda tree: _of(bool, tree),
    "float": _float,
    "bytes": lambda tree: b64decode(_of(str, tree), validate=True),
    "decimal": _decimal,
    "datetime": _datetime,
    "date": lambda tree: msgspec.convert(_of(str, tree), date),
    "uuid": lambda tree: UUID(_of(str, tree)),
}
