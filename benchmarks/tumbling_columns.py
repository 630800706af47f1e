"""Tumbling windows with four aggregates over 1 M integer keys: the column store, and the same windows over Python rows.

Rows per second of CPU of the state path: from batches in memory to the results of every window, firing included.
Decoding, exchange and user code come on top in a real job.

    python benchmarks/tumbling_columns.py [--keys N] [--rows N] [--strings]

JSON lines: `ratio` is value / limit, at least 1 where the limit holds.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from penstock.api.aggregation import NamedColumns
from penstock.runtime.aggregation.aggregates import Aggregate, RowAggregates, avg, count, max, sum
from penstock.runtime.batch import Batch
from penstock.runtime.elements import MAX_WATERMARK
from penstock.runtime.keys import KeyByColumns
from penstock.runtime.operators.operator import Operator
from penstock.runtime.records.record_types import OPAQUE, SchemaType
from penstock.runtime.windows.assigners import TumblingEventTimeWindows
from penstock.runtime.windows.columnar_windows import ColumnarWindowOperator
from penstock.runtime.windows.evaluations import Aggregate as AggregateEvaluation
from penstock.runtime.windows.window_operator import WindowOperator
from penstock.state.columns import kernels
from penstock.testing.harness import OperatorHarness

AGGREGATES: dict[str, Aggregate] = {"n": count(), "total": sum("value"), "mean": avg("value"), "worst": max("delay")}
WINDOW_MS, ROWS_PER_MS = 10_000, 400
COLUMN_BATCH, ROW_BATCH = 1 << 16, 1_000
LIMIT_ROWS, LIMIT_RATIO = 5e6, 10.0


def schema_of(strings: bool) -> SchemaType:
    return SchemaType(
        pa.schema([("key", pa.string() if strings else pa.int64()), ("value", pa.float64()), ("delay", pa.int64())])
    )


def batches(keys: int, rows: int, size: int, record_type: SchemaType) -> Iterator[Batch]:
    """Uniform keys, event time that runs on: a window holds 4 M rows."""
    generator = np.random.default_rng(1)
    assert record_type.schema is not None
    for start in range(0, rows, size):
        length = min(size, rows - start)
        numbers = pa.array(generator.integers(0, keys, length) * 7_919)
        columns = pa.RecordBatch.from_arrays(
            [
                numbers.cast(record_type.schema.field("key").type),
                pa.array(generator.random(length)),
                pa.array(generator.integers(-60, 600, length)),
            ],
            schema=record_type.schema,
        )
        yield Batch.of_columns(record_type, columns, (start + np.arange(length)) // ROWS_PER_MS)


def rows_per_second(operator: Operator, work: list[Batch]) -> float:
    """Of CPU."""
    with OperatorHarness(operator, record_type=OPAQUE) as harness:
        results = 0
        began = time.process_time()
        for batch in work:
            harness.push_batch(batch)
            harness.watermark(int(batch.timestamps()[-1]) - 1)
            results += len_of(harness)
        harness.watermark(MAX_WATERMARK)
        results += len_of(harness)
        spent = time.process_time() - began
    assert results > 0
    return sum_of(work) / spent


def len_of(harness: OperatorHarness) -> int:
    """Results since the last call; they are let go, as in a job."""
    count = sum_of(harness.batches)
    harness.batches.clear()
    return count


def sum_of(some: list[Batch]) -> int:
    total = 0
    for batch in some:
        total += len(batch)
    return total


def columns_rate(keys: int, rows: int, record_type: SchemaType) -> float:
    operator = ColumnarWindowOperator(
        KeyByColumns(["key"]), TumblingEventTimeWindows(WINDOW_MS), AGGREGATES, record_type
    )
    return rows_per_second(operator, list(batches(keys, rows, COLUMN_BATCH, record_type)))


def rows_rate(keys: int, rows: int, record_type: SchemaType) -> float:
    evaluation = AggregateEvaluation(RowAggregates(AGGREGATES), NamedColumns(("key",), tuple(AGGREGATES)))
    operator = WindowOperator(KeyByColumns(["key"]), TumblingEventTimeWindows(WINDOW_MS), evaluation, OPAQUE)
    work = [
        Batch.of_rows(record_type, batch.rows(), batch.timestamp_list())
        for batch in batches(keys, rows, ROW_BATCH, record_type)
    ]
    return rows_per_second(operator, work)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--rows", type=int, default=8_000_000)
    parser.add_argument("--strings", action="store_true")
    arguments = parser.parse_args()
    record_type = schema_of(arguments.strings)
    kernels.warm_up()
    by_columns = columns_rate(arguments.keys, arguments.rows, record_type)
    report("tumbling_columns", by_columns, "rows/s of CPU", LIMIT_ROWS)
    # The ratio compares equal work: the same shorter stream, in which most records bring a key of their own.
    few = arguments.rows // 40
    ratio = columns_rate(arguments.keys, few, record_type) / rows_rate(arguments.keys, few, record_type)
    report("tumbling_columns_to_rows", ratio, "x the row face", LIMIT_RATIO)


def report(benchmark: str, value: float, unit: str, limit: float) -> None:
    line = {"benchmark": benchmark, "value": round(value, 1), "unit": unit, "limit": limit}
    print(json.dumps({**line, "ratio": round(value / limit, 2)}))


if __name__ == "__main__":
    main()
