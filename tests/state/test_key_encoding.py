"""Keys as bytes: reversible, typed, ordered, and the same for ever."""

from __future__ import annotations

import dataclasses
from collections import namedtuple
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Any, NamedTuple
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.state import key_classes
from penstock.state.errors import KeyTypeError
from penstock.state.key_encoding import decode_key, encode_key, normal_decimal


class Colour(Enum):
    RED = "r"
    BLUE = "b"


class Level(IntEnum):
    LOW = 1


class Place(NamedTuple):
    country: str
    code: int


@dataclasses.dataclass(frozen=True)
class Route:
    origin: str
    target: str


@dataclasses.dataclass
class Thawed:
    name: str


GOLDEN: list[tuple[Any, str]] = [
    (None, "01"),
    (False, "02"),
    (True, "03"),
    (0, "108000000000000000"),
    (-1, "107fffffffffffffff"),
    (2**63, "11000000088000000000000000"),
    (-(2**63) - 1, "0ffffffff77ffffffffffffffe"),
    (1.5, "14bff8000000000000"),
    (-1.5, "144007ffffffffffff"),
    (Decimal("12.50"), "1831322e3500"),
    ("", "20"),
    ("Zürich", "205ac3bc72696368"),
    (b"\x00\xff", "2400ff"),
    (datetime(2013, 1, 1, tzinfo=UTC), "288004d22ecf97c000"),
    (date(2013, 1, 1), "2c000b3695"),
    (UUID(int=7), "3000000000000000000000000000000007"),
    (("JFK", 4), "40204a464b0010800000000000000400"),
    (("a\x00b",), "40206100ff620000"),
    ((), "4000"),
]


@pytest.mark.parametrize(("key", "encoded"), GOLDEN, ids=repr)
def test_encodings_never_change(key: Any, encoded: str) -> None:
    assert encode_key(key).hex() == encoded
    assert decode_key(bytes.fromhex(encoded)) == key
    assert type(decode_key(bytes.fromhex(encoded))) is type(key)


texts = st.text(st.characters(exclude_categories=["Cs"]))
moments = st.datetimes(timezones=st.just(UTC))
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    texts,
    st.binary(),
    moments,
    st.dates(),
    st.uuids(),
    st.decimals(allow_nan=False),
    st.sampled_from(Colour),
)
keys = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=6)


def same_types(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    return not isinstance(one, tuple) or all(map(same_types, one, other))


@given(keys)
def test_every_key_comes_back(key: Any) -> None:
    back = decode_key(encode_key(key))
    assert back == key
    assert same_types(back, key)


@given(keys, keys)
def test_keys_are_equal_exactly_when_their_bytes_are(one: Any, other: Any) -> None:
    assert (encode_key(one) == encode_key(other)) == (one == other and same_types(one, other))


@pytest.mark.parametrize(
    "values",
    [st.integers(), st.integers(-(2**70), 2**70), st.floats(allow_nan=False), texts, st.binary(), moments, st.dates()],
    ids=["int", "wide int", "float", "str", "bytes", "datetime", "date"],
)
@given(st.data())
def test_order_of_bytes_is_the_order_of_keys(values: st.SearchStrategy[Any], data: st.DataObject) -> None:
    few = data.draw(st.lists(values, min_size=2, max_size=6))
    assert sorted(few) == sorted(few, key=encode_key)
    pairs = [(value, other) for value in few for other in few]
    assert sorted(pairs) == sorted(pairs, key=encode_key)


def test_one_is_three_keys() -> None:
    assert len({encode_key(key) for key in (1, 1.0, True)}) == 3


def test_classes_come_back_as_themselves() -> None:
    for key in (Colour.BLUE, Level.LOW, Place("CH", 41), Route("JFK", "LAX"), (Route("a\x00", ""), Colour.RED)):
        back = decode_key(encode_key(key))
        assert back == key
        assert type(back) is type(key)
    assert encode_key(Place("CH", 41)) != encode_key(("CH", 41))


def test_normal_forms() -> None:
    assert encode_key(-0.0) == encode_key(0.0)
    assert encode_key(Decimal("1.500")) == encode_key(Decimal("1.5"))
    assert encode_key(Decimal("-0.00")) == encode_key(Decimal(0))
    long = Decimal("1." + "1" * 60)
    assert normal_decimal(long) == long
    here = datetime(2013, 1, 1, 2, tzinfo=timezone(timedelta(hours=2)))
    assert decode_key(encode_key(here)) == datetime(2013, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("key", "part"),
    [
        ([1], "builtins.list cannot be a key"),
        ({}, "builtins.dict cannot be a key"),
        (Thawed("x"), "make the dataclass frozen"),
        (float("nan"), "NaN"),
        (Decimal("nan"), "NaN"),
        (datetime(2013, 1, 1), "time zone"),
        ("\ud800", "lone surrogate"),
        ((1, [2]), "builtins.list cannot be a key"),
    ],
    ids=repr,
)
def test_what_is_no_key_is_refused(key: Any, part: str) -> None:
    with pytest.raises(KeyTypeError, match=part):
        encode_key(key)


@pytest.mark.parametrize(
    "key",
    [
        Enum("Away", "A", module="penstock.nowhere").A,
        namedtuple("FarAway", "x", module="penstock.nowhere")(1),
        dataclasses.make_dataclass("Further", ["x"], frozen=True, namespace={"__module__": "penstock.nowhere"})(1),
    ],
    ids=repr,
)
def test_a_class_that_came_by_value_is_found_though_nobody_can_import_it(
    key: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a script, in a slot that has not seen such a key yet: a timer is read, say, or the largest keys are shown."""
    encoded = encode_key(key)
    monkeypatch.setattr(key_classes, "_classes", {})
    assert decode_key(encoded) == key


def test_a_class_that_is_gone_is_named() -> None:
    encoded = encode_key(Colour.RED).replace(b"Colour", b"Color")
    with pytest.raises(KeyTypeError, match=r"\.Color, which cannot be imported"):
        decode_key(encoded)
