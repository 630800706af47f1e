"""Two phases on columns against one phase on columns: any order, nulls, lateness, limits, restored in between."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import penstock as ps
from penstock.runtime.batch import Batch
from penstock.runtime.elements import MAX_WATERMARK, WatermarkStatus
from penstock.runtime.keys import KeyByColumns
from penstock.runtime.records.record_types import SchemaType
from penstock.runtime.windows import columnar_two_phase
from penstock.runtime.windows.columnar_two_phase import ColumnarLocalOperator, global_operator
from penstock.runtime.windows.columnar_windows import ColumnarWindowOperator
from penstock.runtime.windows.time_windows import TumblingEventTimeWindows
from penstock.testing.harness import OperatorHarness

TYPE = SchemaType(pa.schema([("key", pa.string()), ("n", pa.int64()), ("x", pa.float64())]))
KEYS = KeyByColumns(["key"])
WINDOWS = TumblingEventTimeWindows(10, 3)
AGGREGATES = {
    "rows": ps.count(), "known": ps.count("n"), "total": ps.sum("n"), "least": ps.min("n"), "most": ps.max("x"),
    "mean": ps.avg("n"), "halves": ps.sum("x"),
}  # fmt: skip


def local() -> ColumnarLocalOperator:
    return ColumnarLocalOperator(KEYS, WINDOWS, AGGREGATES, TYPE)


def batch_of(rows: list[tuple[str, int | None, float | None, int]]) -> Batch:
    columns = pa.RecordBatch.from_arrays(
        [pa.array([row[i] for row in rows], TYPE.schema.field(i).type) for i in range(3)], schema=TYPE.schema
    )
    return Batch.of_columns(TYPE, columns, [row[3] for row in rows])  # type: ignore[arg-type]


class Phases:
    def __init__(self, two: bool, lateness: int) -> None:
        self.lateness = lateness
        self.results: Counter[str] = Counter()
        self.late = 0
        self.sent = 0
        self.local = OperatorHarness(local()).open() if two else None
        self.windows = OperatorHarness(self.operator()).open()

    def operator(self) -> ColumnarWindowOperator:
        if self.local is None:
            return ColumnarWindowOperator(KEYS, WINDOWS, AGGREGATES, TYPE, None, self.lateness)
        return global_operator(KEYS, WINDOWS, AGGREGATES, TYPE, local().output_type, self.lateness)

    def records(self, rows: Any) -> None:
        if self.local is None:
            for row in rows:  # a late one fires alone
                self.sent += 1
                self.windows.push_batch(batch_of([row]))
        else:
            self.local.push_batch(batch_of(rows))
            self.forward()

    def forward(self) -> None:
        assert self.local is not None
        for batch in self.local.batches:
            self.sent += len(batch)
            for position in range(len(batch)):
                self.windows.push_batch(batch.slice(position, 1))
        self.local.take()

    def watermark(self, timestamp: int) -> None:
        if self.local is not None:
            self.local.watermark(timestamp)
            self.forward()
        self.windows.watermark(timestamp)

    def idle(self, _: Any) -> None:
        if self.local is not None:
            self.local.operator.process_status(WatermarkStatus(True))
            self.forward()
            assert self.local.metrics.values()["partials_held"] == 0

    def restore(self, _: Any) -> None:
        if self.local is not None:
            self.local.operator.prepare_barrier(1)  # type: ignore[arg-type]
            self.forward()
            watermark = self.local._watermark
            self.local.close()
            self.local = OperatorHarness(local()).open()
            self.local.watermark(watermark)
        snapshot = self.windows.snapshot()
        self.end()
        self.windows = OperatorHarness(self.operator(), restored=[snapshot]).open()

    def end(self) -> None:
        self.results.update(map(repr, self.windows.timed_output))
        self.late += int(self.windows.metrics.values()["records_late_total"])
        self.windows.close()


ROWS = st.tuples(
    st.sampled_from("aab"), st.none() | st.integers(-9, 9), st.none() | st.sampled_from([0.5, 2.0, math.nan]),
    st.integers(0, 60),
)  # fmt: skip
STEPS = st.one_of(
    st.tuples(st.just("records"), st.lists(ROWS, min_size=1, max_size=10)),
    st.tuples(st.just("watermark"), st.integers(0, 60)),
    st.tuples(st.sampled_from(["idle", "restore"]), st.none()),
)


@settings(max_examples=12, deadline=None)
@given(st.lists(STEPS, max_size=10), st.sampled_from([0, 15]), st.sampled_from([1, 3, 1_000]))
def test_results_are_those_of_one_phase(steps: list[Any], lateness: int, limit: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(columnar_two_phase, "MAX_PARTIALS", limit)
        one, two = (Phases(phases, lateness) for phases in (False, True))
        for each in (one, two):
            for kind, argument in steps:
                getattr(each, kind)(argument)
            each.watermark(MAX_WATERMARK)
            each.end()
        if two.local is not None:
            two.local.close()
    assert one.results == two.results
    assert one.late == two.late
    assert two.sent <= one.sent


@pytest.mark.parametrize(("more", "face"), [({}, "vectorised"), ({"median": ps.median("n")}, "rows")])
def test_an_agg_goes_by_columns_where_it_can(more: dict[str, Any], face: str) -> None:
    env = ps.StreamExecutionEnvironment().set_parallelism(2)
    rows = [{"key": "a" if n % 9 else f"k{n % 5}", "n": n if n % 3 else None, "x": n / 2} for n in range(1_200)]
    times = ps.WatermarkStrategy.for_monotonous_timestamps().with_timestamp_assigner(lambda row, _: int(row["x"] * 2))
    stream = env.from_collection(rows, TYPE, watermark_strategy=times)
    results = []
    for two_phase in (False, True):
        windows = stream.key_by("key").window(ps.TumblingEventTimeWindows("1s"))
        aggregated = windows.agg(two_phase=two_phase, name=f"totals {two_phase}", **AGGREGATES, **more)
        results.append(Counter(map(repr, aggregated.execute_and_collect())))
    assert results[0] == results[1]
    assert len(results[0]) == 12
    (line,) = [line for line in aggregated.describe().splitlines() if line.strip().startswith("local totals True (")]
    assert face in line
