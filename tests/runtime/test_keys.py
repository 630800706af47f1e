"""Which values are keys, and that a selector gives the same keys and groups on every face and branch."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import Any, NamedTuple
from uuid import UUID

import cloudpickle
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.runtime.batch import Batch
from penstock.runtime.key_types import KeyType
from penstock.runtime.keys import KeyByColumns, KeyByFunction
from penstock.runtime.records.record_types import OPAQUE, record_type_of
from penstock.state.errors import KeyTypeError, RecordTypeError


class Colour(Enum):
    RED = 1
    BLUE = 2


class Place(NamedTuple):
    city: str
    floor: int


@dataclass(frozen=True)
class Account:
    number: int
    rate: Decimal


@dataclass
class Mutable:
    number: int


@dataclass(frozen=True)
class Row:
    user: str
    page: int
    colour: Colour
    amount: Decimal
    at: datetime
    maybe: int | None


def normalised(*keys: Any, annotation: Any = None) -> list[Any]:
    return KeyType(annotation).normalise(list(keys))


def exactly(values: list[Any]) -> list[tuple[type, str]]:
    return [(type(value), repr(value)) for value in values]


@pytest.mark.parametrize(
    ("given_keys", "expected"),
    [
        (["a", "b"], ["a", "b"]),
        ([np.int64(1), 2, np.uint8(3)], [1, 2, 3]),
        ([np.str_("a"), "b"], ["a", "b"]),
        ([np.bool_(True), False], [True, False]),
        ([Decimal("1.00"), Decimal("-0"), Decimal(100)], [Decimal(1), Decimal(0), Decimal("1E+2")]),
        (
            [datetime(2020, 1, 1, 2, tzinfo=timezone(timedelta(hours=2)))],
            [datetime(2020, 1, 1, tzinfo=UTC)],
        ),
        ([None, "a", None], [None, "a", None]),
        ([(1, None), (np.int32(2), "x")], [(1, None), (2, "x")]),
        ([Place("x", 1), Place("y", np.int8(2))], [Place("x", 1), Place("y", 2)]),
        ([Account(1, Decimal("2.50"))], [Account(1, Decimal("2.5"))]),
        ([Colour.RED, Colour.BLUE], [Colour.RED, Colour.BLUE]),
        ([UUID(int=5)], [UUID(int=5)]),
        ([b"x", b""], [b"x", b""]),
        ([None, None], [None, None]),
        ([()], [()]),
    ],
)
def test_normal_forms(given_keys: list[Any], expected: list[Any]) -> None:
    assert exactly(normalised(*given_keys)) == exactly(expected)


def test_floats_lose_their_negative_zero_and_warn_once() -> None:
    kind = KeyType()
    with pytest.warns(UserWarning, match="float keys"):
        keys = kind.normalise([-0.0, 1.5])
    assert repr(keys) == "[0.0, 1.5]"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert kind.normalise([np.float64(2.0)]) == [2.0]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ([1, 1.0], "type int.*type float: 1.0"),
        ([1, True], "type int.*type bool"),
        (["a", b"a"], "type str.*type bytes"),
        ([(1, "a"), (True, "a")], "type int.*type bool"),
        ([(1,), (1, 2)], "tuples of"),
        ([Place("a", 1), ("a", 1)], "type Place.*type tuple"),
        ([[1]], "list cannot be a key"),
        ([Mutable(1)], "frozen"),
        ([datetime(2020, 1, 1)], "naive"),
        ([float("nan")], "NaN"),
        ([Decimal("NaN")], "NaN"),
        ([np.datetime64("2020-01-01")], "time zone"),
        ([(1, [2])], "list cannot be a key"),
        ([object()], "object cannot be a key"),
    ],
)
@pytest.mark.filterwarnings("ignore:float keys")
def test_refused(keys: list[Any], message: str) -> None:
    with pytest.raises(KeyTypeError, match=message):
        normalised(*keys)


@pytest.mark.filterwarnings("ignore:float keys")
def test_the_type_holds_over_batches_and_from_the_annotation() -> None:
    kind = KeyType()
    kind.normalise(["a"])
    with pytest.raises(KeyTypeError):
        kind.normalise([1])
    with pytest.raises(KeyTypeError, match="type float"):
        normalised(1, annotation=float | None)
    with pytest.raises(KeyTypeError, match="type str"):
        normalised(("a", 1), annotation=tuple[str, str])
    with pytest.raises(KeyTypeError, match="type int"):
        normalised(Place("a", "b"), annotation=Place)  # type: ignore[arg-type]
    for never in (list[int], dict, Mutable):
        with pytest.raises(KeyTypeError):
            KeyType(never)
    assert normalised(1, annotation=Any) == [1]


scalars = st.one_of(st.integers(), st.text(), st.booleans(), st.binary(), st.decimals(allow_nan=False), st.uuids())


@given(scalars.flatmap(lambda one: st.lists(st.from_type(type(one)), max_size=8).map(lambda more: [one, *more])))
def test_normalising_keeps_equality_and_is_idempotent(keys: list[Any]) -> None:
    keys = [key for key in keys if not (isinstance(key, Decimal) and key.is_nan())]
    once = normalised(*keys)
    assert once == keys
    assert exactly(normalised(*once)) == exactly(once)


def test_branches_with_other_keys_do_not_meet() -> None:
    """One batch, keyed twice: neither selector takes the other's keys or groups for its own."""
    batch = Batch.of_rows(OPAQUE, [(1, "a"), (2, "b")])
    first, second = KeyByFunction(lambda row: row[0]), KeyByFunction(lambda row: row[1])
    copy = cloudpickle.loads(cloudpickle.dumps(first))
    assert first.keys(batch) == [1, 2]
    groups = first.key_groups(batch, 128).tolist()
    assert second.keys(batch) == ["a", "b"]
    assert batch.key_groups is None
    assert second.key_groups(batch, 128).tolist() != groups
    assert first.key_groups(batch, 128).tolist() == groups
    assert first.key_groups(batch, 7).max() < 7
    assert copy.keys(batch) is first.keys(batch)  # a copy of the selector is the same selector
    assert first.keys(batch.slice(1, 1)) == [2]
    assert second.keys(batch.slice(1, 1)) == ["b"]


def test_columns_and_rows_give_the_same_keys_and_groups() -> None:
    rows = [
        Row(f"u{i}", i, Colour.RED if i % 2 else Colour.BLUE, Decimal(i) / 4, datetime(2020, 1, 1 + i, tzinfo=UTC),
            None if i % 3 else i)
        for i in range(20)
    ]  # fmt: skip
    kind = record_type_of(Row)
    for names in (["user"], ["page"], ["colour"], ["amount"], ["at"], ["maybe"], ["user", "amount", "maybe"]):
        on_rows = Batch.of_rows(kind, rows)
        on_columns = Batch.of_columns(kind, kind.to_columns(rows))
        groups = KeyByColumns(names).key_groups(on_columns, 128).tolist()
        assert groups == KeyByColumns(names).key_groups(on_rows, 128).tolist(), names
        assert KeyByColumns(names).keys(on_columns) == KeyByColumns(names).keys(on_rows)
    assert KeyByColumns(["user", "page"]).keys(Batch.of_rows(kind, rows[:1])) == [("u0", 0)]


def test_columns_of_dicts_and_unknown_columns() -> None:
    batch = Batch.of_columns(record_type_of(pa.schema({"a": pa.int64()})), pa.RecordBatch.from_pydict({"a": [1, 2]}))
    assert KeyByColumns(["a"]).keys(batch) == [1, 2]
    with pytest.raises(RecordTypeError, match="no column 'b'"):
        KeyByColumns(["b"]).key_groups(batch, 128)
    with pytest.raises(RecordTypeError, match="no field 'b'"):
        KeyByColumns(["b"]).keys(Batch.of_rows(OPAQUE, [{"a": 1}]))
