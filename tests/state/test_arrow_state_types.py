"""Arrow types as types of state: which, and which values."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from penstock.state.errors import StateError
from penstock.state.serialization.serializers import serializer_for
from penstock.state.serialization.type_evolution import differences

SCHEMA = pa.schema([pa.field("x", pa.int64(), False), pa.field("y", pa.string(), False)])


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (pa.bool_(), True),
        (pa.uint64(), 2**64 - 1),
        (pa.int8(), -128),
        (pa.large_string(), "a"),
        (pa.binary(2), b"ab"),
        (pa.date32(), date(2024, 1, 2)),
        (pa.time64("us"), time(1, 2, 3, 4)),
        (pa.duration("ms"), timedelta(milliseconds=5)),
        (pa.timestamp("us"), datetime(2024, 1, 1)),
        (pa.timestamp("ms", "Europe/Berlin"), datetime(2024, 1, 1, tzinfo=UTC)),
        (pa.decimal128(5, 2), Decimal("123.45")),
        (pa.float32(), float("inf")),
        (pa.list_(pa.int8(), 2), [1, None]),
        (pa.map_(pa.string(), pa.float32()), [("a", 0.5), ("b", None)]),
        (pa.list_(pa.struct([("a", pa.int8())])), [{"a": None}]),
        (SCHEMA, {"x": 1, "y": "a"}),
    ],
)
def test_values_come_back(kind: Any, value: Any) -> None:
    serializer = serializer_for(kind)
    assert serializer.decode(serializer.encode(value)) == value
    assert not serializer.generic
    assert serializer.accepts is None or type(value) in serializer.accepts


@pytest.mark.parametrize("kind", [pa.timestamp("ns"), pa.float16(), pa.dictionary(pa.int8(), pa.string())])
def test_arrow_types_that_no_python_value_fits_are_refused(kind: pa.DataType) -> None:
    with pytest.raises(StateError, match="cannot be the type of a state"):
        serializer_for(kind)


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        (pa.int8(), 128, "<= 127"),
        (pa.float32(), 0.1, "would become 0.1000000014"),
        (pa.decimal128(4, 1), Decimal("1.25"), "does not fit"),
        (pa.timestamp("s"), datetime(2024, 1, 1, 0, 0, 0, 1), "does not fit"),
        (SCHEMA, {"x": 1}, "missing required field `y`"),
        (pa.list_(pa.field("item", pa.int8(), False)), [None], "Expected `int`"),
    ],
)
def test_values_that_do_not_fit_an_arrow_type_are_refused(kind: Any, value: Any, message: str) -> None:
    with pytest.raises(StateError, match=re.escape(message)):
        serializer_for(kind).encode(value)


def test_renaming_in_an_arrow_type() -> None:
    old = serializer_for(pa.schema([("x", pa.int32())]))
    new = serializer_for(pa.schema([pa.field("across", pa.int64(), metadata={"renamed_from": "x,y"})]))
    assert not differences(old.description, new.description)
    assert new.reading([old.description]).decode(old.encode({"x": 4})) == {"across": 4}
