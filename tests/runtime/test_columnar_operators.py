"""Polars expressions on streams: schemas, rows, timestamps, and what is refused."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from penstock.runtime.batch import Batch
from penstock.runtime.operators.columnar import (
    FilterExpressionOperator,
    SelectOperator,
    WithColumnsOperator,
    select_type,
    with_columns_type,
)
from penstock.runtime.records.record_types import OPAQUE, RecordType, SchemaType, record_type_of
from penstock.state.errors import PipelineError, UserCodeError
from penstock.testing.harness import OperatorHarness


@dataclass
class Flight:
    carrier: str
    delay: int | None
    miles: float


FLIGHT = record_type_of(Flight)
FLIGHTS = [Flight("AA", 5, 100.0), Flight("UA", None, 250.5), Flight("AA", -3, 80.0)]
TIMES = [1_000, 3_000, 2_000]
TYPED = SchemaType(
    pa.schema(
        [
            ("text", pa.string()),
            ("large", pa.large_string()),
            ("data", pa.binary(3)),
            ("kind", pa.dictionary(pa.int8(), pa.string())),
            ("at", pa.timestamp("ms", "UTC")),
            ("small", pa.int16()),
        ]
    )
)


def run(operator: Any, batch: Batch) -> list[Batch]:
    with OperatorHarness(operator) as harness:
        harness.push_batch(batch)
        return harness.batches


def flights() -> Batch:
    return Batch.of_rows(FLIGHT, FLIGHTS, TIMES)


def test_with_columns_adds_and_replaces() -> None:
    named = {"late": pl.col("delay") > 0, "source": pl.lit("file")}
    (result,) = run(WithColumnsOperator([pl.col("miles") * 2], named, FLIGHT), flights())
    assert result.rows() == [
        {"carrier": "AA", "delay": 5, "miles": 200.0, "late": True, "source": "file"},
        {"carrier": "UA", "delay": None, "miles": 501.0, "late": None, "source": "file"},
        {"carrier": "AA", "delay": -3, "miles": 160.0, "late": False, "source": "file"},
    ]
    assert result.timestamp_list() == TIMES
    assert (
        result.columns().schema
        == result.record_type.schema
        == with_columns_type(FLIGHT, [pl.col("miles") * 2], named).schema
    )


def test_columns_that_are_not_touched_stay_the_arrays_they_are() -> None:
    kind = pa.array(["x", "y"]).dictionary_encode().cast(TYPED.schema.field("kind").type)
    columns = pa.RecordBatch.from_arrays(
        [
            pa.array(["a", None]),
            pa.array(["b", "c"], pa.large_string()),
            pa.array([b"123", b"456"], pa.binary(3)),
            kind,
            pa.array([datetime(2013, 1, 1, tzinfo=UTC)] * 2, pa.timestamp("ms", "UTC")),
            pa.array([1, 2], pa.int16()),
        ],
        schema=TYPED.schema,
    )
    named = {"upper": pl.col("text").str.to_uppercase(), "small": pl.col("small") + 1, "day": pl.col("at").dt.date()}
    (result,) = run(WithColumnsOperator([], named, TYPED), Batch.of_columns(TYPED, columns))
    for name in ("text", "large", "data", "kind", "at"):
        assert result.columns().column(name).equals(columns.column(name))
        assert result.columns().schema.field(name).type == TYPED.schema.field(name).type
    types = {field.name: field.type for field in result.columns().schema}
    assert (types["upper"], types["small"], types["day"]) == (pa.string(), pa.int16(), pa.date32())
    assert not result.has_timestamps


def test_select_makes_other_columns() -> None:
    (result,) = run(SelectOperator(["carrier"], {"km": pl.col("miles") * 1.5, "one": pl.lit(1)}, FLIGHT), flights())
    assert result.rows()[1] == {"carrier": "UA", "km": 375.75, "one": 1}
    assert result.timestamp_list() == TIMES
    assert result.columns().schema.names == ["carrier", "km", "one"]


def test_filter_keeps_records_as_they_are_and_their_timestamps() -> None:
    (result,) = run(FilterExpressionOperator(pl.col("delay") > 0, FLIGHT), flights())
    assert result.rows() == FLIGHTS[:1]
    assert result.timestamp_list() == [1_000]
    assert run(FilterExpressionOperator(pl.col("miles") < 0, FLIGHT), flights()) == []
    batch = flights()
    with OperatorHarness(FilterExpressionOperator(pl.lit(True), FLIGHT)) as harness:
        harness.push_batch(batch)
        assert harness.batches == [batch]


def test_row_kinds_stay_with_their_records() -> None:
    batch = flights()
    batch.row_kinds = np.array([0, 1, 2], np.int8)
    (result,) = run(WithColumnsOperator([], {"x": pl.lit(1)}, FLIGHT), batch)
    assert result.row_kinds is not None
    assert result.row_kinds.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (lambda: with_columns_type(FLIGHT, [], {"x": pl.col("dely")}), 'with_columns: .*"dely"'),
        (lambda: select_type(FLIGHT, ["dely"], {}), 'select: .*"dely"'),
        (lambda: select_type(FLIGHT, [], {}), "no columns"),
        (lambda: FilterExpressionOperator(pl.col("dely") > 0, FLIGHT), 'filter: .*"dely"'),
        (lambda: FilterExpressionOperator(pl.col("miles") + 1, FLIGHT), "boolean"),
        (lambda: with_columns_type(FLIGHT, [], {"x": pl.col("miles").sum()}), "one value of a whole column"),
        (lambda: select_type(FLIGHT, [pl.col("miles").mean()], {}), "one value of a whole column"),
        (lambda: with_columns_type(FLIGHT, [], {"x": pl.lit(None)}), "no type"),
        (lambda: with_columns_type(FLIGHT, [], {"x": pl.col("carrier") + pl.col("miles")}), "with_columns"),
        (lambda: with_columns_type(OPAQUE, [], {"x": pl.lit(1)}), "declare the type"),
    ],
)
def test_refused_when_the_pipeline_is_built(make: Any, part: str) -> None:
    with pytest.raises(PipelineError, match=part):
        make()


def test_an_expression_that_fails_is_the_users_error() -> None:
    operator = WithColumnsOperator([], {"x": pl.col("carrier").str.to_integer()}, FLIGHT)
    with pytest.raises(UserCodeError, match=r"subtask 0: ComputeError.*parsing"):
        run(operator, flights())


def test_other_numbers_of_rows_are_refused() -> None:
    operator = SelectOperator([pl.col("miles").filter(pl.col("miles") > 90)], {}, FLIGHT)
    with pytest.raises(UserCodeError, match="subtask 0"):
        run(operator, flights())


@pytest.mark.parametrize("record_type", [FLIGHT, record_type_of(int)])
def test_row_and_column_faces_agree(record_type: RecordType) -> None:
    rows: list[Any] = FLIGHTS if record_type is FLIGHT else [1, 2, 3]
    name = "miles" if record_type is FLIGHT else "value"
    operator = WithColumnsOperator([], {"twice": pl.col(name) * 2}, record_type)
    (of_rows,) = run(operator, Batch.of_rows(record_type, rows))
    (of_columns,) = run(operator, Batch.of_columns(record_type, record_type.to_columns(rows)))
    assert of_rows.rows() == of_columns.rows()
