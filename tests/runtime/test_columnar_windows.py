"""Vectorised windows against a plain Python loop: any disorder, lateness, cuts, checkpoints, crashes, parallelism."""

from __future__ import annotations

import itertools
import math
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.runtime import aggregates as agg
from penstock.runtime.aggregates import Aggregate, RowAggregates
from penstock.runtime.batch import Batch
from penstock.runtime.clock import SystemClock
from penstock.runtime.elements import MAX_WATERMARK, MIN_WATERMARK, Watermark
from penstock.runtime.keys import KeyByColumns
from penstock.runtime.metrics import MetricGroup
from penstock.runtime.operators.operator import OperatorContext, RestoredState, drained
from penstock.runtime.record_types import SchemaType
from penstock.runtime.windows.assigners import TumblingEventTimeWindows
from penstock.runtime.windows.columnar_windows import ColumnarWindowOperator
from penstock.state.checkpoint_store import Uploads
from penstock.state.ids import Attempt, CheckpointId, JobId, OperatorId
from penstock.state.key_groups import subtask_of
from penstock.state.objects import Get, Put, run_program
from penstock.state.snapshots import KeyedHandle, OperatorSnapshot

SCHEMA = pa.schema([("name", pa.string()), ("code", pa.int32()), ("x", pa.int64()), ("y", pa.float64())])
TYPE = SchemaType(SCHEMA)
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
}
MAX_PARALLELISM = 16
Row = dict[str, Any]


class Objects:
    """The object store, as far as uploads need it."""

    def __init__(self) -> None:
        self.data: dict[str, bytes] = {}

    def execute(self, op: Any) -> Any:
        if isinstance(op, Put):
            self.data[op.name] = op.data
            return None
        assert isinstance(op, Get)
        return self.data[op.name]


@dataclass
class Collected:
    batches: list[Batch] = field(default_factory=list)
    late: list[Batch] = field(default_factory=list)

    def emit(self, batch: Batch) -> None:
        self.batches.append(batch)

    def emit_side(self, tag: str, batch: Batch) -> None:
        assert tag == "late"
        self.late.append(batch)

    def emit_watermark(self, watermark: Any) -> None:
        raise AssertionError("windows do not make watermarks")

    emit_status = emit_watermark


class Stage:
    """All subtasks of one window operator over one object store."""

    def __init__(
        self, keys: tuple[str, ...], size: int, lateness: int, aggregates: dict[str, Aggregate] | None = None
    ) -> None:
        self.selector = KeyByColumns(keys)
        self.arguments = (
            self.selector,
            TumblingEventTimeWindows(size, 3),
            aggregates or AGGREGATES,
            TYPE,
            None,
            lateness,
            "late",
        )
        self.objects = Objects()
        self.output = Collected()
        self.names = itertools.count()
        self.operators: list[ColumnarWindowOperator] = []

    def deploy(self, parallelism: int, snapshots: Sequence[OperatorSnapshot] = ()) -> None:
        self.operators = []
        with tempfile.TemporaryDirectory() as directory:
            restored = RestoredState(
                keyed=[self._fetched(Path(directory), each) for snapshot in snapshots for each in snapshot.keyed],
                watermark=min([snapshot.watermark for snapshot in snapshots], default=MIN_WATERMARK),
            )
            for subtask in range(parallelism):
                operator = ColumnarWindowOperator(*self.arguments)
                operator.open(self._context(subtask, parallelism), restored)
                self.operators.append(operator)

    def _fetched(self, directory: Path, handle: KeyedHandle) -> tuple[KeyedHandle, Path]:
        own = directory / str(next(self.names))
        own.mkdir()
        for name, file in handle.files.items():
            assert file.shared
            (own / name).write_bytes(self.objects.data[file.name])
        return handle, own

    def _context(self, subtask: int, parallelism: int) -> OperatorContext:
        def unused() -> Any:
            raise AssertionError("the column store is its own backend")

        return OperatorContext(
            operator_id=OperatorId("agg"),
            operator_name="hourly",
            task_name="hourly",
            subtask=subtask,
            parallelism=parallelism,
            max_parallelism=MAX_PARALLELISM,
            attempt=Attempt(1),
            output=self.output,
            clock=SystemClock(),
            metrics=MetricGroup(),
            keyed_backend=unused,
            new_name=lambda: str(next(self.names)),
            work_directory=Path(),
            uploads=lambda id_: Uploads(JobId("job"), Attempt(1), id_, lambda: str(next(self.names))),
        )

    def feed(self, batch: Batch) -> None:
        groups = self.selector.key_groups(batch, MAX_PARALLELISM)
        for subtask, operator in enumerate(self.operators):
            own = [i for i, g in enumerate(groups) if subtask_of(g, len(self.operators), MAX_PARALLELISM) == subtask]
            if own:
                operator.process_batch(batch.take(np.array(own)), 0)

    def watermark(self, timestamp: int) -> None:
        for operator in self.operators:
            drained(operator.process_watermark(Watermark(timestamp)))

    def snapshot(self, checkpoint_id: int) -> list[OperatorSnapshot]:
        programs = [operator.snapshot(CheckpointId(checkpoint_id)) for operator in self.operators]
        return [run_program(program, self.objects) for program in programs]

    def results(self) -> Counter[Any]:
        assert all(
            batch.timestamps()[0] == row["window_end"] - 1 for batch in self.output.batches for row in batch.rows()
        )
        return Counter(comparable(row) for batch in self.output.batches for row in batch.rows())

    def late(self) -> Counter[Any]:
        return Counter(comparable(row) for batch in self.output.late for row in batch.rows())


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
    return result


# ---- histories

Action = tuple[Any, ...]

names = st.sampled_from(["", "a", "b", "Zürich", "a rather long name, longer than the hash's blocks"])
rows = st.fixed_dictionaries(
    {
        "name": st.none() | names,
        "code": st.none() | st.integers(-2, 2),
        "x": st.none() | st.integers(-(2**40), 2**40),
        "y": st.none() | st.sampled_from([0.0, -0.5, 1e300, math.inf, math.nan]) | st.floats(-10, 10, width=32),
    }
)
stamped = st.tuples(rows, st.integers(-40, 100))
actions = st.one_of(
    st.tuples(st.just("batch"), st.lists(stamped, min_size=1, max_size=12), st.booleans()),
    st.tuples(st.just("batch"), st.lists(stamped, min_size=1, max_size=12), st.booleans()),
    st.tuples(st.just("watermark"), st.integers(0, 40)),
    st.tuples(st.just("checkpoint"), st.sampled_from(["complete", "complete", "aborted", "lost"])),
    st.tuples(st.just("crash"), st.integers(1, 5)),
)


def batch_of(stamped_rows: list[tuple[Row, int]], as_columns: bool) -> Batch:
    records, timestamps = [row for row, _ in stamped_rows], [timestamp for _, timestamp in stamped_rows]
    if as_columns:
        return Batch.of_columns(TYPE, TYPE.to_columns(records), timestamps)
    return Batch.of_rows(TYPE, records, timestamps)


class History:
    """Runs actions on a stage. After a crash everything since the last complete checkpoint is done again."""

    def __init__(self, stage: Stage, parallelism: int) -> None:
        self.stage = stage
        self.ids = itertools.count(1)
        self.watermark_ms = -50
        self.crashed: set[int] = set()
        stage.deploy(parallelism)
        self.saved: tuple[int, int, int, int, list[OperatorSnapshot]] = (0, 0, 0, self.watermark_ms, [])

    def run(self, history: list[Action]) -> None:
        at = 0
        while at < len(history):
            action = history[at]
            at += 1
            if action[0] == "batch":
                self.stage.feed(batch_of(*action[1:]))
            elif action[0] == "watermark":
                self.watermark_ms += action[1]
                self.stage.watermark(self.watermark_ms)
            elif action[0] == "checkpoint":
                self.checkpoint(at, action[1])
            elif at not in self.crashed:
                self.crashed.add(at)
                at = self.restore(action[1])
        self.stage.watermark(MAX_WATERMARK)

    def checkpoint(self, at: int, outcome: str) -> None:
        id_ = CheckpointId(next(self.ids))
        snapshots = self.stage.snapshot(id_)
        if outcome == "complete":
            output = self.stage.output
            self.saved = (at, len(output.batches), len(output.late), self.watermark_ms, snapshots)
        for operator in self.stage.operators:
            if outcome == "complete":
                operator.checkpoint_completed(id_)
            elif outcome == "aborted":
                operator.checkpoint_aborted(id_)

    def restore(self, parallelism: int) -> int:
        at, emitted, late, self.watermark_ms, snapshots = self.saved
        del self.stage.output.batches[emitted:]
        del self.stage.output.late[late:]
        self.stage.deploy(parallelism, snapshots)
        return at


def expected(keys: tuple[str, ...], lateness: int, history: list[Action]) -> Oracle:
    oracle = Oracle(keys, 10, lateness)
    watermark = -50
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
    st.sampled_from([0, 7, 25]),
    st.integers(1, 4),
    st.lists(actions, max_size=14),
)
@settings(max_examples=60, deadline=None)
def test_windows_are_what_a_loop_over_the_records_gives(
    keys: tuple[str, ...], lateness: int, parallelism: int, history: list[Action]
) -> None:
    stage = Stage(keys, 10, lateness)
    History(stage, parallelism).run(history)
    oracle = expected(keys, lateness, history)
    assert stage.results() == oracle.emitted
    assert stage.late() == oracle.late
