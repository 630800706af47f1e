"""Every aggregate of `.agg()` in tumbling windows on Python rows, one at a time, against avg().

Rows per second of CPU of the window operator: from batches of records in memory to the results of every window, firing
included. Keys have some thousand records a window, so that sketches are used, or with --keys as few as wanted.

    python benchmarks/row_aggregates.py [--keys N] [--rows N]

JSON lines: `value` is the cost of a row in units of avg()'s, `ratio` limit / value: at least 1 where it holds.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

import penstock as ps
from penstock.api.aggregation import NamedColumns, fields_of
from penstock.runtime.aggregation.aggregates import Aggregate, RowAggregates
from penstock.runtime.batch import Batch
from penstock.runtime.elements import MAX_WATERMARK
from penstock.runtime.keys import KeyByFunction
from penstock.runtime.records.record_types import record_type_of
from penstock.runtime.windows.evaluations import Aggregate as AggregateEvaluation
from penstock.runtime.windows.window_operator import WindowOperator
from penstock.testing.harness import OperatorHarness

AGGREGATES: dict[str, Aggregate] = {
    "avg": ps.avg("value"),
    "count": ps.count(),
    "sum": ps.sum("value"),
    "min": ps.min("value"),
    "stddev": ps.stddev("value"),
    "percentile": ps.percentile("value", [0.5, 0.99]),
    "approx_count_distinct int": ps.approx_count_distinct("number"),
    "approx_count_distinct str": ps.approx_count_distinct("text"),
    "count_distinct": ps.count_distinct("text"),
    "first": ps.first("text"),
    "last": ps.last("text"),
    "last by": ps.last("text", by="number"),
    "top_k": ps.top_k("value", 10),
    "collect": ps.collect("value"),
    "collect distinct": ps.collect("text", distinct=True, limit=100),
    "histogram": ps.histogram("value", [0.1 * i for i in range(11)]),
}
WINDOW_MS, BATCH = 1_000, 1_000
LIMIT = 2.0
"""Twice what avg() costs."""


@dataclass(frozen=True)
class Record:
    key: int
    value: float
    number: int
    text: str


RECORDS = record_type_of(Record)


def batches(keys: int, rows: int) -> list[Batch]:
    """In all four windows."""
    random = np.random.default_rng(1)
    records = [
        Record(key, value, number, f"text {number}")
        for key, value, number in zip(
            random.integers(0, keys, rows).tolist(),
            random.random(rows).tolist(),
            random.integers(0, rows, rows).tolist(),
            strict=True,
        )
    ]
    times = (np.arange(rows) * 4 * WINDOW_MS // rows).tolist()
    starts = range(0, rows, BATCH)
    return [Batch.of_rows(RECORDS, records[at : at + BATCH], times[at : at + BATCH]) for at in starts]


def seconds(aggregate: Aggregate, work: Sequence[Batch]) -> float:
    """Of CPU."""
    evaluation = AggregateEvaluation(
        RowAggregates({"it": aggregate}, fields_of(RECORDS)), NamedColumns(("key",), ("it",))
    )
    operator = WindowOperator(
        KeyByFunction(lambda record: record.key), ps.TumblingEventTimeWindows(WINDOW_MS), evaluation, RECORDS
    )
    with OperatorHarness(operator, record_type=RECORDS) as harness:
        began = time.process_time()
        for batch in work:
            harness.push_batch(batch)
            harness.watermark(batch.timestamp_list()[-1] - 1)
            harness.batches.clear()
        harness.watermark(MAX_WATERMARK)
        return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--keys", type=int, default=50)
    parser.add_argument("--rows", type=int, default=400_000)
    arguments = parser.parse_args()
    work = batches(arguments.keys, arguments.rows)
    seconds(AGGREGATES["avg"], work[: len(work) // 10])
    unit = seconds(AGGREGATES["avg"], work)
    for name, aggregate in AGGREGATES.items():
        spent = unit if name == "avg" else seconds(aggregate, work)
        line = {
            "benchmark": f"row_aggregates {name}",
            "value": round(spent / unit, 2),
            "unit": "x avg()",
            "limit": LIMIT,
        }
        print(
            json.dumps({**line, "ratio": round(LIMIT * unit / spent, 2), "rows_per_s": round(arguments.rows / spent)})
        )


if __name__ == "__main__":
    main()
