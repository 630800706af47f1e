"""Vectorised windows against a plain Python loop: any disorder, lateness, cuts, checkpoints, crashes, parallelism."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.api.aggregation import NamedColumns
from penstock.runtime.aggregation import aggregates as agg
from penstock.runtime.aggregation.aggregates import Aggregate, RowAggregates
from penstock.runtime.aggregation.distributions import stddev, variance
from penstock.runtime.batch import Batch
from penstock.runtime.elements import MAX_WATERMARK, MIN_WATERMARK
from penstock.runtime.keys import KeyByColumns
from penstock.runtime.records.record_types import OPAQUE, SchemaType
from penstock.runtime.windows.assigners import TumblingEventTimeWindows
from penstock.runtime.windows.columnar_windows import ColumnarWindowOperator
from penstock.runtime.windows.evaluations import Aggregate as AggregateEvaluation
from penstock.runtime.windows.window_operator import WindowOperator
from penstock.state.ids import CheckpointId
from penstock.state.key_groups import subtask_of
from penstock.state.snapshots import OperatorSnapshot
from penstock.testing.harness import OperatorHarness, rescaled

TYPE = SchemaType(pa.schema([("name", pa.string()), ("code", pa.int32()), ("x", pa.int64()), ("y", pa.float64())]))
AGGREGATES: dict[str, Aggregate] = {
    "n": agg.count(),
    "xs": agg.count("x"),
    "x_sum": agg.sum("x"),
    "x_min": agg.min("x"),
    "x_max": agg.max("x"),
    "x_avg": agg.avg("x"),
    "y_sum": agg.sum("y"),
    "y_min": agg.min("y"),
    "y_max": agg.max("y"),
    "y_avg": agg.avg("y"),
    "x_dev": stddev("x"),
    "y_var": variance("y", population=True),
}
MAX_PARALLELISM = 16
SIZE = 4
START = -5
Row = dict[str, Any]


def comparable(row: Row) -> tuple[Any, ...]:
    return tuple((name, "NaN" if isinstance(v, float) and math.isnan(v) else v) for name, v in sorted(row.items()))


# ---- what windows should do, record by record


class Oracle:
    def __init__(self, keys: tuple[str, ...], size: int, lateness: int) -> None:
        self.keys, self.size, self.lateness = keys, size, lateness
        self.watermark_ms = MIN_WATERMARK
        self.windows: dict[int, dict[Any, list[Row]]] = {}
        self.fired: set[int] = set()
        self.emitted: Counter[Any] = Counter()
        self.late: Counter[Any] = Counter()

    def batch(self, rows: list[tuple[Row, int]]) -> None:
        refired = set()
        for row, timestamp in rows:
            start = timestamp - (timestamp - 3) % self.size
            passed = start + self.size - 1 <= self.watermark_ms
            if start + self.size - 1 + self.lateness <= self.watermark_ms:
                self.late[comparable(row)] += 1
                continue
            key = tuple(row[name] for name in self.keys)
            self.windows.setdefault(start, {}).setdefault(key, []).append(row)
            if passed:
                self.fired.add(start)
                refired.add((start, key))
        for start, key in refired:
            self.emit(start, key)

    def watermark(self, timestamp: int) -> None:
        self.watermark_ms = timestamp
        for start in list(self.windows):
            end = start + self.size
            if end - 1 <= timestamp and start not in self.fired:
                self.fired.add(start)
                for key in self.windows[start]:
                    self.emit(start, key)
            if end - 1 + self.lateness <= timestamp:
                del self.windows[start]

    def emit(self, start: int, key: tuple[Any, ...]) -> None:
        rows = self.windows[start][key]
        result = {**dict(zip(self.keys, key, strict=True)), "window_start": start, "window_end": start + self.size}
        result.update(aggregated(rows))
        function = RowAggregates(AGGREGATES)
        accumulator = function.create_accumulator()
        for row in rows:
            accumulator = function.add(row, accumulator)
        by_rows = dict(zip(AGGREGATES, function.get_result(accumulator), strict=True))
        assert comparable(by_rows) == comparable(aggregated(rows))
        self.emitted[comparable(result)] += 1


def aggregated(rows: list[Row]) -> Row:
    result: Row = {"n": len(rows)}
    for name in ("x", "y"):
        values = [row[name] for row in rows if row[name] is not None]
        numbers = [v for v in values if not math.isnan(v)]
        nan = len(numbers) < len(values)
        total: Any = None
        for value in values:
            total = value if total is None else total + value
        if name == "x":
            result["xs"] = len(values)
        result[f"{name}_sum"] = total
        result[f"{name}_min"] = min(numbers) if numbers else math.nan if nan else None
        result[f"{name}_max"] = math.nan if nan else max(values, default=None)
        result[f"{name}_avg"] = None if total is None else float(total) / len(values)
        mean, squares = 0.0, 0.0
        for number, value in enumerate(map(float, values), start=1):
            distance = value - mean
            mean += distance / number
            squares += distance * (value - mean)
        if name == "x":
            result["x_dev"] = math.sqrt(squares / (len(values) - 1)) if len(values) > 1 else None
        else:
            result["y_var"] = squares / len(values) if values else None
    return result


# ---- histories: batches around the watermark, watermarks, checkpoints and crashes

Action = tuple[Any, ...]

names = st.sampled_from(["", "a", "a rather long name, longer than the hash's blocks"])
rows = st.fixed_dictionaries(
    {
        "name": st.none() | names,
        "code": st.none() | st.integers(-2, 2),
        "x": st.none() | st.integers(-(2**40), 2**40),
        "y": st.none() | st.sampled_from([0.0, -0.5, 1e300, math.inf, math.nan]) | st.floats(-10, 10, width=32),
    }
)
stamped = st.tuples(rows, st.integers(-14, 9))
actions = st.one_of(
    st.tuples(st.just("batch"), st.lists(stamped, min_size=1, max_size=6), st.booleans()),
    st.tuples(st.just("batch"), st.lists(stamped, min_size=1, max_size=6), st.booleans()),
    st.tuples(st.just("watermark"), st.integers(0, 6)),
    st.tuples(st.just("checkpoint"), st.sampled_from(["complete", "complete", "aborted", "lost"])),
    st.tuples(st.just("crash"), st.integers(1, 5)),
)


def with_times(history: list[Action]) -> list[Action]:
    """Timestamps of batches are drawn relative to the watermark; here they become absolute."""
    watermark, timed = START, []
    for action in history:
        if action[0] == "watermark":
            watermark += action[1]
        elif action[0] == "batch":
            action = ("batch", [(row, watermark + offset) for row, offset in action[1]], action[2])
        timed.append(action)
    return timed


histories = st.lists(actions, min_size=3, max_size=16).map(with_times)


def batch_of(stamped_rows: list[tuple[Row, int]], as_columns: bool) -> Batch:
    records, timestamps = [row for row, _ in stamped_rows], [timestamp for _, timestamp in stamped_rows]
    if as_columns:
        return Batch.of_columns(TYPE, TYPE.to_columns(records), timestamps)
    return Batch.of_rows(TYPE, records, timestamps)


class History:
    """Runs actions on all subtasks of an operator. After a crash what came since the last complete checkpoint is
    done again, perhaps at another parallelism."""

    def __init__(self, keys: tuple[str, ...], lateness: int, parallelism: int) -> None:
        self.selector = KeyByColumns(keys)
        self.lateness = lateness
        self.ids = itertools.count(1)
        self.watermark_ms = START
        self.crashed: set[int] = set()
        self.subtasks: list[OperatorHarness] = []
        self.results: Counter[Any] = Counter()
        self.late: Counter[Any] = Counter()
        self.deploy(parallelism, [])
        self.saved = (0, self.watermark_ms, Counter[Any](), Counter[Any](), list[OperatorSnapshot]())

    def deploy(self, parallelism: int, snapshots: list[OperatorSnapshot]) -> None:
        self.close()
        self.subtasks = rescaled(self.operator, snapshots, parallelism, max_parallelism=MAX_PARALLELISM)

    def close(self) -> None:
        for subtask in self.subtasks:
            subtask.close()

    def operator(self) -> ColumnarWindowOperator:
        windows = TumblingEventTimeWindows(SIZE, 3)
        return ColumnarWindowOperator(self.selector, windows, AGGREGATES, TYPE, None, self.lateness, "late")

    def run(self, history: list[Action]) -> None:
        at = 0
        while at < len(history):
            action = history[at]
            at += 1
            if action[0] == "batch":
                self.feed(batch_of(*action[1:]))
            elif action[0] == "watermark":
                self.watermark_ms += action[1]
                self.advance(self.watermark_ms)
            elif action[0] == "checkpoint":
                self.checkpoint(at, action[1])
            elif at not in self.crashed:
                self.crashed.add(at)
                at, self.watermark_ms, results, late, snapshots = self.saved
                self.results, self.late = results.copy(), late.copy()
                self.deploy(action[1], snapshots)
        self.advance(MAX_WATERMARK)
        self.close()

    def feed(self, batch: Batch) -> None:
        groups = self.selector.key_groups(batch, MAX_PARALLELISM).tolist()
        targets = np.array([subtask_of(group, len(self.subtasks), MAX_PARALLELISM) for group in groups])
        for number, subtask in enumerate(self.subtasks):
            if (targets == number).any():
                subtask.push_batch(batch.take(np.flatnonzero(targets == number)))
        self.collect()

    def advance(self, watermark_ms: int) -> None:
        for subtask in self.subtasks:
            subtask.watermark(watermark_ms)
        self.collect()

    def collect(self) -> None:
        for subtask in self.subtasks:
            assert all(row["window_end"] - 1 == timestamp for row, timestamp in subtask.timed_output)
            self.late.update(map(comparable, subtask.side_output("late")))
            self.results.update(map(comparable, subtask.take()))

    def checkpoint(self, at: int, outcome: str) -> None:
        id_ = CheckpointId(next(self.ids))
        snapshots = []
        for subtask in self.subtasks:
            program = subtask.operator.snapshot(id_)
            assert program is not None
            snapshots.append(subtask.finish(program))
        if outcome == "complete":
            self.saved = (at, self.watermark_ms, self.results.copy(), self.late.copy(), snapshots)
        for subtask in self.subtasks:
            if outcome == "complete":
                subtask.operator.checkpoint_completed(id_)
            elif outcome == "aborted":
                subtask.operator.checkpoint_aborted(id_)


def expected(keys: tuple[str, ...], lateness: int, history: list[Action]) -> Oracle:
    oracle = Oracle(keys, SIZE, lateness)
    watermark = START
    for action in history:
        if action[0] == "batch":
            oracle.batch(action[1])
        elif action[0] == "watermark":
            watermark += action[1]
            oracle.watermark(watermark)
    oracle.watermark(MAX_WATERMARK)
    return oracle


@given(
    st.sampled_from([("name",), ("code",), ("name", "code"), ("code", "name", "x")]),
    st.sampled_from([0, 3, 9]),
    st.integers(1, 4),
    histories,
)
@settings(max_examples=45, deadline=None)
def test_windows_are_what_a_loop_over_the_records_gives(
    keys: tuple[str, ...], lateness: int, parallelism: int, history: list[Action]
) -> None:
    run = History(keys, lateness, parallelism)
    run.run(history)
    oracle = expected(keys, lateness, history)
    assert run.results == oracle.emitted
    assert run.late == oracle.late


def rows_operator(keys: tuple[str, ...], lateness: int) -> WindowOperator:
    evaluation = AggregateEvaluation(RowAggregates(AGGREGATES), NamedColumns(keys, tuple(AGGREGATES)))
    windows = TumblingEventTimeWindows(SIZE, 3)
    return WindowOperator(
        KeyByColumns(keys), windows, evaluation, OPAQUE, allowed_lateness_ms=lateness, late_tag="late", input_type=TYPE
    )


@given(st.sampled_from([("name",), ("code", "name")]), st.sampled_from([0, 5]), histories)
@settings(max_examples=25, deadline=None)
def test_both_faces_give_the_same(keys: tuple[str, ...], lateness: int, history: list[Action]) -> None:
    """Fed record by record, so that re-firing once per batch is re-firing once per record."""
    by_columns = ColumnarWindowOperator(
        KeyByColumns(keys), TumblingEventTimeWindows(SIZE, 3), AGGREGATES, TYPE, None, lateness, "late"
    )
    outcomes = []
    for operator in (by_columns, rows_operator(keys, lateness)):
        with OperatorHarness(operator, record_type=TYPE) as harness:
            watermark = START
            for action in history:
                if action[0] == "batch":
                    for stamped_row in action[1]:
                        harness.push_batch(batch_of([stamped_row], action[2]))
                elif action[0] == "watermark":
                    watermark += action[1]
                    harness.watermark(watermark)
            harness.watermark(MAX_WATERMARK)
            results = Counter((comparable(row), timestamp) for row, timestamp in harness.timed_output)
            late = Counter(comparable(row) for row in harness.side_output("late"))
            outcomes.append((results, late, harness.metrics.values()["records_late_total"]))
    assert outcomes[0] == outcomes[1]
