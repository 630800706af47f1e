"""The hash index and the split: every key its own slot, whatever its type."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.state.columns.hash_index import HashIndex
from penstock.state.columns.kernels import order_by_target
from penstock.state.errors import KeyTypeError

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
COLUMNS: dict[str, tuple[st.SearchStrategy[Any], pa.DataType]] = {
    "int64": (st.integers(-(2**63), 2**63 - 1), pa.int64()),
    "int16": (st.integers(-3, 3), pa.int16()),
    "uint64": (st.integers(0, 2**64 - 1), pa.uint64()),
    "string": (texts, pa.string()),
    "large_string": (texts, pa.large_string()),
    "binary": (st.binary(max_size=9), pa.binary()),
    "fixed_size_binary": (st.binary(min_size=3, max_size=3), pa.binary(3)),
    "dictionary": (texts, pa.dictionary(pa.int32(), pa.string())),
    "bool": (st.booleans(), pa.bool_()),
    "float64": (st.floats(allow_nan=False), pa.float64()),
    "timestamp": (st.datetimes(timezones=st.just(UTC)), pa.timestamp("us", "UTC")),
    "date": (st.dates(), pa.date32()),
    "decimal": (st.decimals(-9, 9, places=1), pa.decimal128(20, 3)),
}


def column_of(values: list[Any], kind: pa.DataType) -> pa.Array:
    if pa.types.is_dictionary(kind):
        return pa.array(values, kind.value_type).dictionary_encode()
    return pa.array(values, kind)


@pytest.mark.parametrize("names", [(name,) for name in COLUMNS] + [("string", "int16"), ("int16", "bool", "string")])
@given(st.data())
@settings(max_examples=20, deadline=None)
def test_every_key_has_its_own_slot(names: tuple[str, ...], data: st.DataObject) -> None:
    kinds = [COLUMNS[name][1] for name in names]
    index = HashIndex(kinds)
    expected: dict[Any, int] = {}

    for _batch in range(3):
        keys = data.draw(st.lists(st.tuples(*(st.none() | COLUMNS[name][0] for name in names)), max_size=12))
        start = data.draw(st.integers(0, len(keys)))
        columns = [column_of([key[i] for key in keys], kind).slice(start) for i, kind in enumerate(kinds)]
        slots = index.slots_of(columns)
        assert slots.tolist() == [
            expected.setdefault(key, slot) for key, slot in zip(keys[start:], slots.tolist(), strict=True)
        ]
    assert sorted(expected.values()) == list(range(index.size))
    kept = index.keys(np.arange(index.size, dtype=np.int32)[::-1])
    assert [column.type for column in kept] == index.kinds
    assert list(zip(*(column.to_pylist() for column in kept), strict=True)) == sorted(
        expected, key=expected.__getitem__, reverse=True
    )


@pytest.mark.parametrize("kind", [pa.int64(), pa.string()])
def test_many_keys_make_the_table_grow(kind: pa.DataType) -> None:
    index = HashIndex([kind])
    numbers = np.random.default_rng(1).integers(0, 50_000, 200_000)
    expected: dict[int, int] = {}
    wanted = [expected.setdefault(number, len(expected)) for number in numbers.tolist()]
    got = [index.slots_of([pa.array(part).cast(kind)]) for part in np.split(numbers, 20)]
    assert np.concatenate(got).tolist() == wanted
    slots = np.arange(index.size, dtype=np.int32)
    assert index.keys(slots)[0].cast(pa.int64()).to_pylist() == list(expected)


def test_equal_hashes_are_told_apart_by_the_keys() -> None:
    """Values of one arena whose bytes begin alike, and the empty string beside null."""
    index = HashIndex([pa.string()])
    column = pa.array(["", None, "a", "ab", "", None, "aba", "ab"])
    assert index.slots_of([column]).tolist() == [0, 4, 1, 2, 0, 4, 3, 2]


@pytest.mark.parametrize(
    ("kind", "part"), [(pa.timestamp("us"), "time zone"), (pa.list_(pa.int64()), "list<"), (pa.null(), "null")]
)
def test_other_columns_are_no_keys(kind: pa.DataType, part: str) -> None:
    with pytest.raises(KeyTypeError, match=part):
        HashIndex([kind])


def test_nan_is_no_key() -> None:
    with pytest.raises(KeyTypeError, match="NaN"):
        HashIndex([pa.float64()]).slots_of([pa.array([1.0, float("nan")])])


@given(st.lists(st.integers(0, 6)), st.sampled_from([np.uint16, np.int64]))
@settings(deadline=None)
def test_split_keeps_the_order_within_a_target(targets: list[int], dtype: Any) -> None:
    indices, counts = order_by_target(np.array(targets, dtype), 7)
    assert indices.tolist() == sorted(range(len(targets)), key=targets.__getitem__)
    assert counts.tolist() == [targets.count(target) for target in range(7)]


@pytest.mark.slow
def test_kernels_work_where_no_cache_can_be_written(tmp_path: Path) -> None:
    """Neither the package nor the home directory is writable: compiled code goes to a private directory."""
    code = (
        "import os; real = os.access\n"
        "os.access = lambda path, mode: False\n"
        "from penstock.state.columns import kernels; import numpy as np\n"
        "print(kernels.order_by_target(np.array([1, 0], np.uint16), 2)[0].tolist())\n"
        "import numba; print(numba.config.CACHE_DIR)"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    environment.pop("NUMBA_CACHE_DIR", None)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    result, cache = done.stdout.splitlines()
    assert result == "[1, 0]"
    assert Path(cache).parent == tmp_path
    assert Path(cache).stat().st_mode & 0o777 == 0o700
    assert any(Path(cache).rglob("*.nbc"))


def test_decimals_of_one_value_are_one_key() -> None:
    index = HashIndex([pa.decimal128(10, 2)])
    assert index.slots_of([pa.array([Decimal("1.50"), Decimal("1.5")], pa.decimal128(10, 2))]).tolist() == [0, 0]
