"""Savepoints of operators: windows, timers and functions with state, from one backend into the other, at any
parallelism; and the columns of vectorised windows, as a person reads them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from penstock.runtime.aggregation import aggregates as agg
from penstock.runtime.aggregation.distributions import variance
from penstock.runtime.batch import Batch
from penstock.runtime.elements import MAX_WATERMARK
from penstock.runtime.functions import KeyedProcessFunction, ProcessWindowFunction
from penstock.runtime.keys import KeyByColumns, KeyByFunction
from penstock.runtime.operators.keyed_process import KeyedProcessOperator
from penstock.runtime.operators.operator import Operator
from penstock.runtime.records.record_types import OPAQUE, SchemaType
from penstock.runtime.windows.assigners import TumblingEventTimeWindows
from penstock.runtime.windows.columnar_windows import ColumnarWindowOperator
from penstock.runtime.windows.window_operator import Process, WindowOperator
from penstock.state.columns.column_snapshots import without_rows
from penstock.state.descriptors import MapStateDescriptor, ValueStateDescriptor
from penstock.state.errors import DamagedCheckpointError, IncompatibleStateError
from penstock.state.snapshots import OperatorSnapshot
from penstock.state.store.obstore_objects import ObstoreObjects
from penstock.testing.harness import BackendKind, OperatorHarness, rescaled, subtask_for

TYPE = SchemaType(pa.schema([("name", pa.string()), ("day", pa.date32()), ("x", pa.int64())]))
ROUTES: list[list[tuple[BackendKind, int]]] = [
    [("heap", 1), ("rocksdb", 2), ("heap", 3), ("rocksdb", 7), ("heap", 1)],
    [("rocksdb", 3), ("heap", 7), ("rocksdb", 1)],
]


@dataclass
class Visits:
    count: int


class Counting(KeyedProcessFunction):
    """Tells at the end of event time how often each key came, and in which rounds."""

    def open(self, runtime_context: Any) -> None:
        self.visits = runtime_context.get_state(ValueStateDescriptor("visits", Visits, Visits(0)))
        self.rounds = runtime_context.get_map_state(MapStateDescriptor("rounds", int, str))

    def process_element(self, value: tuple[str, int], ctx: Any) -> Iterator[Any]:
        self.visits.value().count += 1
        self.rounds.put(value[1], value[0])
        ctx.timer_service().register_event_time_timer(10_000 + value[1])
        return iter(())

    def on_timer(self, timestamp: int, ctx: Any) -> Iterator[Any]:
        yield ctx.get_current_key(), timestamp, self.visits.value().count, sorted(self.rounds.keys())


class Gathered(ProcessWindowFunction):
    def process(self, key: str, context: Any, elements: Any) -> Iterator[Any]:
        yield key, context.window().start, sorted(each[1] for each in elements)


BY_FIRST = KeyByFunction(lambda record: record[0])


def counting() -> Operator:
    return KeyedProcessOperator(Counting(), BY_FIRST, OPAQUE)


def gathering() -> Operator:
    return WindowOperator(BY_FIRST, TumblingEventTimeWindows(100), Process(Gathered()), OPAQUE)


def columnar(**aggregates: agg.Aggregate) -> ColumnarWindowOperator:
    wanted = aggregates or {"n": agg.count(), "total": agg.sum("x"), "most": agg.max("x"), "spread": variance("x")}
    return ColumnarWindowOperator(KeyByColumns(["name", "day"]), TumblingEventTimeWindows(100), wanted, TYPE)


def through(
    make: Callable[[], Operator],
    route: list[tuple[BackendKind, int]],
    push: Callable[[list[OperatorHarness], int], None],
) -> list[Any]:
    """Results at the end of event time, of a job that was moved by savepoints; each round pushes something."""
    savepoints: list[OperatorSnapshot] = []
    for number, (backend, parallelism) in enumerate(route):
        subtasks = rescaled(make, savepoints, parallelism, backend=backend, record_type=_type_of(make))
        push(subtasks, number)
        savepoints = [subtask.savepoint() for subtask in subtasks]
        results = []
        for subtask in subtasks:  # what comes after a savepoint does not belong to it
            subtask.watermark(MAX_WATERMARK)
            results += subtask.output
            subtask.close()
    return sorted(results, key=repr)


def _type_of(make: Callable[[], Operator]) -> Any:
    return TYPE if make is columnar else OPAQUE


KEYS = [f"key {number}" for number in range(20)]


def push_pairs(subtasks: list[OperatorHarness], number: int) -> None:
    for key in KEYS:
        subtasks[subtask_for(key, len(subtasks))].push([(key, number)], [number * 60])


@pytest.mark.parametrize("route", ROUTES, ids=len)
def test_functions_with_timers_go_on_from_savepoints(route: list[tuple[BackendKind, int]]) -> None:
    rounds = list(range(len(route)))
    expected = [(key, 10_000 + number, len(route), rounds) for key in KEYS for number in rounds]
    assert through(counting, route, push_pairs) == sorted(expected, key=repr)


@pytest.mark.parametrize("route", ROUTES, ids=len)
def test_windows_go_on_from_savepoints(route: list[tuple[BackendKind, int]]) -> None:
    rounds = list(range(len(route)))
    starts = sorted({number * 60 // 100 * 100 for number in rounds})
    expected = [(key, s, [n for n in rounds if s <= n * 60 < s + 100]) for key in KEYS for s in starts]
    assert through(gathering, route, push_pairs) == sorted(expected, key=repr)


def push_columns(subtasks: list[OperatorHarness], number: int) -> None:
    batch = pa.RecordBatch.from_pylist([{"name": key, "day": None, "x": number} for key in [*KEYS, None]], TYPE.schema)
    for row in range(batch.num_rows):
        key = (batch["name"][row].as_py(), None)
        part = Batch.of_columns(TYPE, batch.slice(row, 1), pa.array([number * 60]).to_numpy())
        subtasks[subtask_for(key, len(subtasks))].push_batch(part)


@pytest.mark.parametrize("route", ROUTES, ids=len)
def test_vectorised_windows_go_on_from_savepoints(route: list[tuple[BackendKind, int]]) -> None:
    rounds = range(len(route))
    windows = {start: [n for n in rounds if start <= n * 60 < start + 100] for start in range(0, len(route) * 60, 100)}
    expected = [
        {"name": key, "day": None, "window_start": start, "window_end": start + 100}
        | {"n": len(there), "total": sum(there), "most": max(there)}
        | {"spread": float(statistics.variance(there)) if len(there) > 1 else None}
        for key in [*KEYS, None]
        for start, there in windows.items()
        if there
    ]
    assert through(columnar, route, push_columns) == sorted(expected, key=repr)


def a_savepoint(directory: Path) -> tuple[OperatorSnapshot, Path]:
    with OperatorHarness(columnar(), record_type=TYPE, store=ObstoreObjects(directory)) as harness:
        push_columns([harness], 0)
        push_columns([harness], 2)
        savepoint = harness.savepoint()
    (file,) = savepoint.keyed[0].files.values()
    return savepoint, directory / file.name


def test_columns_of_windows_are_called_what_the_stream_calls_them(tmp_path: Path) -> None:
    _savepoint, path = a_savepoint(tmp_path)
    names = ["key_group", "namespace", "name", "day", "count", "sum_x", "max_x", "moments_x"]
    schema = pq.read_schema(path)
    assert schema.names == names
    assert schema.field("day").type == pa.date32()
    found = duckdb.sql(
        "SELECT namespace, count(*), sum(sum_x), any_value(moments_x.mean) "
        f"FROM read_parquet('{path}') GROUP BY 1 ORDER BY 1"
    ).fetchall()
    assert found == [(0, 21, 0, 0.0), (100, 21, 42, 2.0)]
    groups = pq.read_table(path)["key_group"].to_pylist()
    assert all(one <= other for one, other in pairwise(groups))


def test_a_savepoint_of_windows_does_not_disturb_their_checkpoints() -> None:
    with OperatorHarness(columnar(), record_type=TYPE) as harness:
        push_columns([harness], 0)
        first = harness.snapshot()
        harness.savepoint()
        push_columns([harness], 0)
        second = harness.snapshot()
    (base,) = first.keyed[0].files.values()
    assert base not in second.keyed[0].files.values(), "all keys have changed since: a new base"
    assert [len(each.keyed[0].files) for each in (first, second)] == [1, 1]
    counts = [row["n"] for row in through(columnar, [("heap", 1)], lambda subtasks, _number: push_columns(subtasks, 0))]
    assert set(counts) == {1}


def test_damage_in_a_file_of_columns_is_told_with_its_name(tmp_path: Path) -> None:
    savepoint, path = a_savepoint(tmp_path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DamagedCheckpointError, match=path.name):
        OperatorHarness(columnar(), record_type=TYPE, restored=[savepoint], store=ObstoreObjects(tmp_path)).open()


def test_columns_and_rows_do_not_restore_each_other(tmp_path: Path) -> None:
    savepoint, _path = a_savepoint(tmp_path)
    with pytest.raises(IncompatibleStateError, match="vectorised operator"):
        OperatorHarness(gathering(), restored=[savepoint], store=ObstoreObjects(tmp_path)).open()
    with OperatorHarness(gathering()) as harness:
        push_pairs([harness], 0)
        rows = harness.savepoint()
    with pytest.raises(IncompatibleStateError, match="vectorised now"):
        OperatorHarness(columnar(), record_type=TYPE, restored=[rows]).open()


def test_what_a_handle_of_columns_says_can_be_had_without_its_rows(tmp_path: Path) -> None:
    savepoint, _path = a_savepoint(tmp_path)
    bare = OperatorSnapshot(savepoint.operator_id, keyed=tuple(map(without_rows, savepoint.keyed)))
    with OperatorHarness(columnar(), record_type=TYPE, restored=[bare]) as harness:
        harness.watermark(MAX_WATERMARK)
        assert harness.output == []
    with pytest.raises(IncompatibleStateError, match="min:x"):
        OperatorHarness(columnar(least=agg.min("x")), record_type=TYPE, restored=[bare]).open()
