"""Keys as people write them mean the keys that a stream has, to the bit, and without their classes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from typing import Any, NamedTuple
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.state.errors import KeyTypeError
from penstock.state.key_encoding import decode_key, decode_plain, encode_key, encode_plain
from penstock.state.key_groups import key_hash
from penstock.state.key_signatures import merged, signature_of
from penstock.state.savepoints.written_keys import key_of_text


class Colour(Enum):
    RED = 1
    GREEN = 2


class Place(NamedTuple):
    colour: Colour
    parts: tuple[int, str]


@dataclass(frozen=True)
class Window:
    name: str
    start: datetime | None


ATOMS = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**80), 2**80), st.floats(allow_nan=False).map(lambda x: x + 0.0),
    st.text(), st.binary(), st.dates(), st.uuids(), st.sampled_from(Colour),
    st.datetimes(timezones=st.just(UTC)), st.integers(-(10**9), 10**9).map(Decimal),
)  # fmt: skip
KEYS = st.one_of(
    ATOMS,
    st.lists(ATOMS, max_size=3).map(tuple),
    st.builds(Place, st.sampled_from(Colour), st.tuples(st.integers(), st.text())),
    st.builds(Window, st.text(), st.none() | st.datetimes(timezones=st.just(UTC))),
)


@given(key=KEYS)
def test_the_plain_key_and_its_signature_are_the_key(key: Any) -> None:
    if isinstance(key, Decimal):
        key = decode_key(encode_key(key))
    plain, signature = decode_plain(encode_key(key)), signature_of(key)
    assert encode_plain(plain, signature) == encode_key(key)
    assert key_hash(plain) == key_hash(key), "it is found in the same key group"
    assert decode_key(encode_plain(plain, signature)) == key


MEANT = [
    ("alice", "", "alice"),
    ("alice", "s", "alice"),
    ('"alice"', "s", "alice"),
    ("17", "s", "17"),
    ('"17"', "s", "17"),
    ("true", "s", "true"),
    ("17", 0, 17),
    ("17", "", "17"),
    ("-3", 0, -3),
    ("123456789012345678901234567890", 0, 123456789012345678901234567890),
    ("17", 0.5, 17.0),
    ("-0.0", 0.5, 0.0),
    ("true", False, True),
    ("null", 0, None),
    ("AP8=", b"", b"\x00\xff"),
    ("2024-02-29", date.min, date(2024, 2, 29)),
    ("2024-02-29T12:00:00+02:00", datetime.now(UTC), datetime(2024, 2, 29, 10, tzinfo=UTC)),
    ("12345678-1234-5678-1234-567812345678", UUID(int=0), UUID("12345678-1234-5678-1234-567812345678")),
    ("1.50", Decimal(0), Decimal("1.5")),
    ("2", Decimal(0), Decimal(2)),
    ('{"a": 1}', "s", '{"a": 1}'),
    ("GREEN", Colour.RED, Colour.GREEN),
    ('["DE", 3]', ("", 0), ("DE", 3)),
    ('["GREEN", [3, "x"]]', Place(Colour.RED, (0, "")), Place(Colour.GREEN, (3, "x"))),
    ('["a", null]', Window("", datetime.now(UTC)), Window("a", None)),
    ('["a", "2024-01-01T00:00:00Z"]', Window("", datetime.now(UTC)), Window("a", datetime(2024, 1, 1, tzinfo=UTC))),
]


@pytest.mark.parametrize(("text", "like", "key"), MEANT)
def test_what_a_text_means_among_keys_of_a_type(text: str, like: Any, key: Any) -> None:
    plain, encoded = key_of_text(text, [signature_of(like)])
    assert encoded == encode_key(key)
    assert key_hash(plain) == key_hash(key)


@pytest.mark.parametrize(("text", "key"), [("17", 17), ("1.5", 1.5), ("a b", "a b"), ('["a", [1]]', ("a", (1,)))])
def test_where_nothing_is_known_it_is_what_json_says(text: str, key: Any) -> None:
    assert key_of_text(text, []) == (key, encode_key(key))


@pytest.mark.parametrize(
    ("text", "like"),
    [
        ("alice", 0), ("1.5", 0), ("true", 0), ('"17"', 0), ("alice", 0.5), ("NaN", 0.5), ("Infinity", 0.5),
        ("1e999", 0.5), ("17", False), ("not base64!", b""), ("tomorrow", date.min),
        ("2024-01-01T00:00:00", datetime.now(UTC)),
        ("half", Decimal(0)), ("NaN", Decimal(0)), ("[1]", ("", 0)), ('["a", 1, 2]', ("", 0)), ('["a", "b"]', ("", 0)),
        ('{"a": 1}', ("", 0)), ("[" * 5_000, 0), ("9" * 5_000, 0), ("\ud800", ""), ('"\\ud800"', ""),
    ],
)  # fmt: skip
def test_what_can_be_no_key_of_the_type(text: str, like: Any) -> None:
    with pytest.raises(KeyTypeError, match=r"is none of its keys: these are of type \w+"):
        key_of_text(text, [signature_of(like)])


def test_an_object_is_no_key() -> None:
    with pytest.raises(KeyTypeError, match="what JSON has, but for objects"):
        key_of_text('[{"a": 1}]', [])


def test_of_several_types_the_first_that_fits() -> None:
    known = merged([[], [signature_of(1)], [signature_of("a"), None]])
    assert [key_of_text(text, known)[0] for text in ("1", "a", "null")] == [1, "a", None]
