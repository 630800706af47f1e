"""Functions on rows: what they produce, where it goes, and how their errors are told."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from penstock.runtime.batch import Batch
from penstock.runtime.functions import (
    FilterFunction,
    FlatMapFunction,
    MapFunction,
    OutputTag,
    ProcessFunction,
)
from penstock.runtime.operators.operator import Operator
from penstock.runtime.operators.stateless import (
    FilterOperator,
    FlatMapOperator,
    MapBatchesOperator,
    MapOperator,
    ProcessOperator,
)
from penstock.runtime.records.record_types import OPAQUE, record_type_of
from penstock.state.descriptors import ValueStateDescriptor
from penstock.state.errors import RecordTypeError, StateError, UserCodeError
from penstock.testing.harness import OperatorHarness

SIDE = OutputTag("side", int)


# ---- stateless


def test_map_filter_flat_map_keep_timestamps() -> None:
    with OperatorHarness(MapOperator(lambda x: x + 1, OPAQUE)) as harness:
        harness.push([1, 2], [10, 20])
        harness.push([3])
        assert harness.timed_output == [(2, 10), (3, 20), (4, None)]
    with OperatorHarness(FilterOperator(lambda x: x % 2, OPAQUE)) as harness:
        harness.push([1, 2, 3], [10, 20, 30])
        harness.push([2, 4], [1, 2])
        assert harness.timed_output == [(1, 10), (3, 30)]
    with OperatorHarness(FlatMapOperator(lambda x: [x] * x if x else None, OPAQUE)) as harness:
        harness.push([2, 0, 1], [10, 20, 30])
        assert harness.timed_output == [(2, 10), (2, 10), (1, 30)]


def test_filter_keeps_both_faces() -> None:
    kind = record_type_of(int)
    with OperatorHarness(FilterOperator(lambda x: x > 1, kind)) as harness:
        harness.push_batch(Batch.of_columns(kind, kind.to_columns([1, 2, 3]), [1, 2, 3]))
        (batch,) = harness.batches
        assert batch.has_columns
        assert batch.columns().column(0).to_pylist() == batch.rows() == [2, 3]


class Rich(MapFunction, FilterFunction, FlatMapFunction):
    def open(self, runtime_context: Any) -> None:
        self.name = runtime_context.get_task_name_with_subtasks()
        self.seen = runtime_context.get_metrics_group().counter("seen")
        self.greeting = runtime_context.get_job_parameter("greeting", "?")

    def map(self, value: int) -> Any:
        self.seen.inc()
        return value, self.name, self.greeting

    def filter(self, value: int) -> bool:
        return self.name is not None

    def flat_map(self, value: int) -> Iterator[int]:
        yield from range(value)


def test_function_classes_are_opened_and_know_where_they_are() -> None:
    with OperatorHarness(MapOperator(Rich(), OPAQUE), subtask=1, parallelism=2, job_parameters={"greeting": "hi"}) as h:
        h.push([5])
        assert h.output == [(5, "task (2/2)", "hi")]
        assert h.metrics.values() == {"seen": 1.0}
    with OperatorHarness(FlatMapOperator(Rich(), OPAQUE)) as h:
        h.push([2, 3])
        assert h.output == [0, 1, 0, 1, 2]


def test_side_outputs_are_looked_for_only_where_declared() -> None:
    def split(x: int) -> Iterator[Any]:
        yield x
        yield SIDE, -x

    with OperatorHarness(FlatMapOperator(split, OPAQUE, frozenset({"side"}))) as harness:
        harness.push([1, 2], [10, 20])
        assert harness.timed_output == [(1, 10), (2, 20)]
        assert harness.timed_side_output(SIDE) == [(-1, 10), (-2, 20)]
        assert harness.side_batches["side"][0].record_type == record_type_of(int)
    with OperatorHarness(FlatMapOperator(split, OPAQUE)) as harness:
        harness.push([1])
        assert harness.output == [1, (SIDE, -1)]


class Tell(ProcessFunction):
    def process_element(self, value: int, ctx: Any) -> Iterator[Any]:
        ctx.output(SIDE, value * 10)
        yield value, ctx.timestamp(), ctx.timer_service().current_watermark()


def test_process_knows_time() -> None:
    with OperatorHarness(ProcessOperator(Tell(), OPAQUE)) as harness:
        harness.watermark(5)
        harness.push([1], [10])
        harness.push([2])
        assert harness.output == [(1, 10, 5), (2, None, 5)]
        assert harness.timed_side_output("side") == [(10, 10), (20, None)]


def test_process_knows_after_a_restore_how_far_time_has_come() -> None:
    with OperatorHarness(ProcessOperator(Tell(), OPAQUE)) as harness:
        harness.watermark(5)
        snapshot = harness.snapshot()
    with OperatorHarness(ProcessOperator(Tell(), OPAQUE), restored=[snapshot]) as harness:
        harness.push([1], [3])
        assert harness.output == [(1, 3, 5)]


@pytest.mark.parametrize("kind", ["arrow", "polars", "numpy"])
def test_map_batches(kind: str) -> None:
    def doubled(batch: Any) -> Any:
        if isinstance(batch, pl.DataFrame):
            return batch.select(pl.col("value") * 2)
        if isinstance(batch, dict):
            return {"value": batch["value"] * 2}
        return pa.record_batch({"value": pa.array([v * 2 for v in batch.column(0).to_pylist()], pa.int64())})

    with OperatorHarness(MapBatchesOperator(doubled, kind, record_type_of(int)), record_type=int) as harness:
        harness.push([1, 2], [10, 20])
        assert harness.timed_output == [(2, 10), (4, 20)]


def test_map_batches_may_change_the_number_of_rows_but_not_the_type() -> None:
    with OperatorHarness(MapBatchesOperator(lambda b: b.slice(1), "arrow", record_type_of(int)), record_type=int) as h:
        h.push([1, 2, 3], [10, 30, 20])
        assert h.timed_output == [(2, 30), (3, 30)]
    for wrong, message in (
        (lambda b: pa.record_batch({"other": [1]}), "columns other"),
        (lambda b: {"value": np.array(["x"])}, "do not fit"),
        (lambda b: 5, "returned a int"),
    ):
        operator = MapBatchesOperator(wrong, "arrow", record_type_of(int))
        with OperatorHarness(operator, record_type=int) as h, pytest.raises(RecordTypeError, match=message):
            h.push([1])


# ---- errors


def stop(x: Any) -> Any:
    raise StopIteration


@pytest.mark.parametrize(
    ("operator", "message"),
    [
        (MapOperator(lambda x: 1 // (x - 2), OPAQUE), "operator 'operator', subtask 0: ZeroDivisionError.*record 2"),
        (FilterOperator(lambda x: 1 // (x - 2), OPAQUE), "ZeroDivisionError.*record 2"),
        (FlatMapOperator(lambda x: [1 // (x - 2)], OPAQUE), "ZeroDivisionError.*record 2"),
        (MapOperator(stop, OPAQUE), "StopIteration.*record 1"),
        (FilterOperator(stop, OPAQUE), "StopIteration.*record 1"),
        (FlatMapOperator(stop, OPAQUE), "StopIteration.*record 1"),
        (FlatMapOperator(lambda x: "no", OPAQUE), "returned a str, which would be taken apart"),
        (FlatMapOperator(lambda x: x, OPAQUE), "returned a int; yield"),
        (ProcessOperator(lambda x, ctx: ctx.timer_service().register_event_time_timer(1), OPAQUE), "key_by"),
        (ProcessOperator(lambda x, ctx: ctx.output("side", 1), OPAQUE), "takes an OutputTag"),
    ],
)
def test_errors_name_operator_and_record(operator: Operator, message: str) -> None:
    with OperatorHarness(operator) as harness, pytest.raises(UserCodeError, match=message) as caught:
        harness.push([1, 2, 3])
    assert caught.value.operator == "operator"
    assert caught.value.__cause__ is not None
    assert harness.output == []


@pytest.mark.parametrize("function", [lambda x: {"a": x}, lambda x: x], ids=["a dict", "no iterable"])
def test_a_result_that_cannot_be_one_comes_again_after_a_restart(function: Any) -> None:
    with OperatorHarness(FlatMapOperator(function, OPAQUE)) as harness, pytest.raises(UserCodeError) as caught:
        harness.push([1])
    assert isinstance(caught.value.__cause__, RecordTypeError)


def test_state_without_keys_is_refused() -> None:
    class Wants(MapFunction):
        def open(self, runtime_context: Any) -> None:
            runtime_context.get_state(ValueStateDescriptor("x", int))

        def map(self, value: Any) -> Any:
            return value

    with pytest.raises(UserCodeError, match="key_by") as caught:
        OperatorHarness(MapOperator(Wants(), OPAQUE)).open()
    assert isinstance(caught.value.__cause__, StateError)
