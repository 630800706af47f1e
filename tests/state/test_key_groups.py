"""Stable hashes: golden vectors, lists and columns alike, ranges of key groups."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import Any, NamedTuple
from uuid import UUID

import numpy as np
import pyarrow as pa
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.state.errors import KeyTypeError
from penstock.state.key_groups import (
    KeyGroupRange,
    columns_key_groups,
    hash_columns,
    hash_keys,
    key_group,
    key_groups_of,
    key_hash,
    subtask_of,
)


class Colour(Enum):
    RED = "r"


class Place(NamedTuple):
    country: str
    code: int


GOLDEN: list[tuple[Any, int]] = [
    (0, 0x0000000000000000),
    (1, 0x5692161D100B05E5),
    (-1, 0xB4D055FCF2CBBD7B),
    (2**63 - 1, 0x5A682AFE7965DEBD),
    (2**64, 0x3AF9CA2B281F01D7),
    ("", 0xEF46DB3751D8E999),
    ("JFK", 0xEFBB2A10102131A4),
    (b"JFK", 0xEFBB2A10102131A4),
    ("Zürich " * 9, 0xD3174A0B5E190B24),
    (None, 0x8A4127811B21E730),
    (True, 0x1F25C8D0BC1F4BB6),
    (False, 0x4B79B8C95732B0E7),
    (1.5, 0xB814AD3C9D24A131),
    (-0.0, 0x2CBDC9F8EB31C54D),
    (0.0, 0x2CBDC9F8EB31C54D),
    (Decimal("12.50"), 0x9D6232768A5DDD0C),
    (datetime(2013, 1, 1, tzinfo=UTC), 0x3F4734AF9B7AFA6A),
    (datetime(2013, 1, 1, 2, tzinfo=timezone(timedelta(hours=2))), 0x3F4734AF9B7AFA6A),
    (date(2013, 1, 1), 0x6FC75DC14610AF94),
    (UUID(int=7), 0x833B9F665D395B49),
    (Colour.RED, xxhash.xxh64_intdigest(b"RED")),
    (("JFK", 4), 0x919719446E2AB1B0),
    (Place("JFK", 4), 0x919719446E2AB1B0),
    ((), 0x0000000000000000),
    ((("JFK", 4), None), 0x239D8049A089221B),
]


@pytest.mark.parametrize(("key", "hashed"), GOLDEN, ids=repr)
def test_hashes_never_change(key: Any, hashed: int) -> None:
    assert key_hash(key) == hashed
    assert int(hash_keys([key])[0]) == hashed
    assert key_group(key, 128) == hashed % 128


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=80)
moments = st.datetimes(timezones=st.just(UTC))
COLUMNS: dict[str, tuple[st.SearchStrategy[Any], pa.DataType]] = {
    "int64": (st.integers(-(2**63), 2**63 - 1), pa.int64()),
    "int8": (st.integers(-128, 127), pa.int8()),
    "uint64": (st.integers(0, 2**64 - 1), pa.uint64()),
    "uint16": (st.integers(0, 2**16 - 1), pa.uint16()),
    "string": (texts, pa.string()),
    "large_string": (texts, pa.large_string()),
    "string_view": (texts, pa.string_view()),
    "binary": (st.binary(max_size=80), pa.binary()),
    "large_binary": (st.binary(max_size=80), pa.large_binary()),
    "fixed_size_binary": (st.binary(min_size=5, max_size=5), pa.binary(5)),
    "dictionary": (texts, pa.dictionary(pa.int32(), pa.string())),
    "bool": (st.booleans(), pa.bool_()),
    "float64": (st.floats(allow_nan=False), pa.float64()),
    "float32": (st.floats(allow_nan=False, width=32), pa.float32()),
    "timestamp": (moments, pa.timestamp("us", "UTC")),
    "date": (st.dates(), pa.date32()),
    "decimal": (st.decimals(-999, 999, places=3), pa.decimal128(20, 3)),
    "null": (st.none(), pa.null()),
}


def column_of(values: list[Any], kind: pa.DataType) -> pa.Array:
    if pa.types.is_dictionary(kind):
        return pa.array(values, kind.value_type).dictionary_encode()
    return pa.array(values, kind)


@pytest.mark.parametrize("name", COLUMNS)
@given(st.data())
@settings(max_examples=25, deadline=None)
def test_columns_hash_like_objects(name: str, data: st.DataObject) -> None:
    values, kind = COLUMNS[name]
    keys = data.draw(st.lists(st.none() | values, max_size=12))
    start = data.draw(st.integers(0, len(keys)))
    column = column_of(keys, kind).slice(start)
    expected = [key_hash(key) for key in keys[start:]]
    assert hash_columns([column]).tolist() == expected
    assert hash_keys(keys[start:]).tolist() == expected
    assert hash_columns([column.slice(1)]).tolist() == expected[1:]
    assert columns_key_groups([column], 100).tolist() == key_groups_of(keys[start:], 100).tolist()


@given(st.lists(st.tuples(texts, st.none() | st.integers(-9, 9), st.booleans()), max_size=12))
@settings(deadline=None)
def test_several_columns_hash_like_tuples(keys: list[tuple[str, int, bool]]) -> None:
    columns = [pa.array([key[i] for key in keys], kind) for i, kind in enumerate((pa.string(), pa.int64(), pa.bool_()))]
    expected = [key_hash(key) for key in keys]
    assert hash_columns(columns).tolist() == expected
    assert hash_keys(keys).tolist() == expected
    struct = pa.StructArray.from_arrays(columns, ["a", "b", "c"])
    assert hash_columns([struct]).tolist() == expected


def test_integers_of_every_size_in_one_list() -> None:
    keys = [1, 2**63, -(2**63), 2**80, -(2**80)]
    assert hash_keys(keys).tolist() == [key_hash(key) for key in keys]


@pytest.mark.parametrize(
    ("column", "part"),
    [
        (pa.array([1.0, float("nan")]), "NaN"),
        (pa.array([1], pa.timestamp("us")), "time zone"),
        (pa.array([1], pa.timestamp("ns", "UTC")), "microseconds"),
        (pa.array([[1]]), "list<"),
        (pa.array([1], pa.duration("s")), "duration"),
    ],
    ids=["nan", "naive", "nanoseconds", "list", "duration"],
)
def test_columns_that_are_no_keys_are_refused(column: pa.Array, part: str) -> None:
    with pytest.raises(KeyTypeError, match=part):
        hash_columns([column])


@given(st.integers(1, 200), st.data())
def test_ranges_partition_the_key_groups(max_parallelism: int, data: st.DataObject) -> None:
    parallelism = data.draw(st.integers(1, max_parallelism))
    ranges = [KeyGroupRange.of_subtask(i, parallelism, max_parallelism) for i in range(parallelism)]
    assert [group for r in ranges for group in range(r.first, r.last + 1)] == list(range(max_parallelism))
    for group in range(max_parallelism):
        assert group in ranges[subtask_of(group, parallelism, max_parallelism)]
    assert sum(map(len, ranges)) == max_parallelism


def test_intersection() -> None:
    assert KeyGroupRange(0, 9).intersection(KeyGroupRange(5, 20)) == KeyGroupRange(5, 9)
    assert len(KeyGroupRange(0, 3).intersection(KeyGroupRange(5, 9))) == 0


def test_keys_spread_over_the_groups() -> None:
    for keys in ([f"N{i}AA" for i in range(10_000)], list(range(10_000)), [(i % 3, str(i)) for i in range(10_000)]):
        counts = np.bincount(key_groups_of(keys, 128), minlength=128)
        assert counts.min() > 40
        assert counts.max() < 130


def test_lists_of_keys_are_hashed_without_numba() -> None:
    code = (
        "import sys; from penstock.state.key_groups import key_groups_of; import datetime;"
        "key_groups_of(['a', 'b'], 128); key_groups_of([1], 128); key_groups_of([('a', datetime.date.min)], 128);"
        "assert 'numba' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
