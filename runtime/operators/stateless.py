"""Operators without keyed state: map, flat_map, filter, map_batches, process; of one input or, as Co functions, of two.

An operator calls the method that its function has for the batch's input: `methods` names one per input.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import compress
from typing import Any

import numpy as np
import pyarrow as pa

from ...state.errors import RecordTypeError, StateError
from ...state.ids import CheckpointId
from ...state.objects import Program
from ...state.snapshots import OperatorSnapshot
from ..batch import NO_TIMESTAMP, Batch
from ..elements import MIN_WATERMARK, Watermark
from ..functions import (
    ElementContext,
    OutputTag,
    RuntimeContext,
    TimerService,
    callable_of,
    close_function,
    open_function,
)
from ..operator_state import CheckpointedFunction
from ..record_types import RecordType
from .operator import Firing, Operator, OperatorContext, RestoredState, immediate
from .user_code import TAKEN_APART, Collector, call_each, check_produced, raise_user_error, shown, taken_apart
from .watermarks import WatermarksOperator


class FunctionOperator(Operator):
    """One user function, opened and closed with the operator."""

    methods: tuple[str, ...]

    def __init__(self, function: Any, output_type: RecordType) -> None:
        self.function = function
        self.output_type = output_type
        self.stateful = self.stateful or isinstance(function, CheckpointedFunction)

    def open(self, context: OperatorContext, restored: RestoredState) -> None:
        super().open(context, restored)
        self._calls: list[Callable[..., Any]] = [callable_of(self.function, method) for method in self.methods]
        try:
            open_function(self.function, RuntimeContext(context))
        except Exception as error:
            raise_user_error(context, error, "in open()")

    def close(self) -> None:
        close_function(self.function)


class MapOperator(FunctionOperator):
    """A MapFunction or callable over every record."""

    methods: tuple[str, ...] = ("map",)

    def process_batch(self, batch: Batch, input_index: int) -> None:
        results = call_each(self.context, self._calls[input_index], batch.rows())
        if self.context.operator_state.changes_in_place:
            results = [taken_apart(result, self.output_type) for result in results]
        self.output.emit(batch.with_rows(self.output_type, results))


class FilterOperator(FunctionOperator):
    """Keeps the records for which a FilterFunction or callable says yes, on both faces."""

    methods = ("filter",)

    def process_batch(self, batch: Batch, input_index: int) -> None:
        rows = batch.rows()
        kept = call_each(self.context, self._calls[0], rows)
        if all(kept):
            self.output.emit(batch)
        elif any(kept):
            self.output.emit(batch.keep(list(compress(range(len(rows)), kept))))


class FlatMapOperator(FunctionOperator):
    """A FlatMapFunction or callable; results carry the timestamp of their record."""

    methods: tuple[str, ...] = ("flat_map",)

    def __init__(self, function: Any, output_type: RecordType, side_tags: frozenset[str] = frozenset()) -> None:
        super().__init__(function, output_type)
        self.side_tags = side_tags

    def process_batch(self, batch: Batch, input_index: int) -> None:
        call = self._calls[input_index]
        apart = self.context.operator_state.changes_in_place
        results: list[Any] = []
        ends: list[int] = []
        row: Any = None
        try:
            for row in batch.rows():
                produced = call(row)
                if produced is not None:
                    if type(produced) not in TAKEN_APART:
                        check_produced(produced)
                    results.extend([taken_apart(r, self.output_type) for r in produced] if apart else produced)
                ends.append(len(results))
        except Exception as error:
            raise_user_error(self.context, error, f"on the record {shown(row)}")
        timestamps = np.repeat(batch.timestamps(), np.diff(ends, prepend=0)) if batch.has_timestamps else None
        if not self.side_tags:
            self.output.emit(Batch.of_rows(self.output_type, results, timestamps))
            return
        collector = Collector(self.output_type, self.output, tagged=True)
        collector.rows = results
        collector.timestamps = [NO_TIMESTAMP] * len(results) if timestamps is None else timestamps.tolist()
        collector.emit()


class ProcessOperator(FlatMapOperator):
    """A ProcessFunction on a stream without keys: time and side outputs, no state, no timers."""

    methods: tuple[str, ...] = ("process_element",)

    def __init__(self, function: Any, output_type: RecordType, side_tags: frozenset[str] = frozenset()) -> None:
        super().__init__(function, output_type, side_tags)
        self.current_watermark = MIN_WATERMARK

    def open(self, context: OperatorContext, restored: RestoredState) -> None:
        self.current_watermark = restored.watermark
        super().open(context, restored)
        self._contexts = self._contexts_of_inputs()

    def _contexts_of_inputs(self) -> list[AtHand]:
        """What the function is given with records, per input."""
        return [AtHand(self)] * len(self.methods)

    def process_batch(self, batch: Batch, input_index: int) -> None:
        call, at_hand = self._calls[input_index], self._contexts[input_index]
        apart = self.context.operator_state.changes_in_place
        collector = at_hand.collector = Collector(self.output_type, self.output, bool(self.side_tags))
        at_hand.now_ms = self.context.clock.now_ms()
        row: Any = None
        try:
            for row, timestamp in zip(batch.rows(), batch.timestamp_list(), strict=True):
                at_hand.at = timestamp
                produced = call(row, at_hand)
                if produced is not None:
                    collector.take(produced, timestamp, apart=apart)
        except Exception as error:
            raise_user_error(self.context, error, f"on the record {shown(row)}")
        collector.emit()

    def process_watermark(self, watermark: Watermark) -> Firing:
        self.current_watermark = watermark.timestamp
        yield from ()

    def snapshot(self, checkpoint_id: CheckpointId) -> Program[OperatorSnapshot]:
        """Nothing but the watermark: what was late is late after a restore, too (PROTOCOLS 12)."""
        return immediate(OperatorSnapshot(self.context.operator_id, watermark=self.current_watermark))


class AtHand(ElementContext, TimerService):
    """The record at hand, and time, of streams without keys."""

    collector: Collector

    def __init__(self, operator: ProcessOperator) -> None:
        self._operator = operator
        self.at = NO_TIMESTAMP
        self.now_ms = 0

    def timestamp(self) -> int | None:
        return None if self.at == NO_TIMESTAMP else self.at

    def timer_service(self) -> TimerService:
        return self

    def output(self, tag: OutputTag[Any], value: Any) -> None:
        self.collector.side(tag, value, self.at, apart=self._operator.context.operator_state.changes_in_place)

    def current_processing_time(self) -> int:
        return self.now_ms

    def current_watermark(self) -> int:
        return self._operator.current_watermark

    def _no_timers(self, timestamp: int) -> None:
        raise StateError("timers belong to keys: use key_by(...) and a KeyedProcessFunction")

    register_event_time_timer = _no_timers
    register_processing_time_timer = _no_timers
    delete_event_time_timer = _no_timers
    delete_processing_time_timer = _no_timers


class MapBatchesOperator(FunctionOperator):
    """A function over whole batches: Arrow record batches, polars frames, or dicts of numpy arrays, in and out.

    The function may give another number of records than it was given; they then all get the batch's newest
    timestamp, because nobody knows which came of which.
    """

    face = "columns"
    methods = ("map_batches",)

    def __init__(self, function: Any, face: str, output_type: RecordType) -> None:
        super().__init__(function, output_type)
        self.batch_face = face

    def process_batch(self, batch: Batch, input_index: int) -> None:
        columns = batch.columns()
        try:
            result = self._calls[0](_given(columns, self.batch_face))
        except Exception as error:
            raise_user_error(self.context, error, f"on a batch of {len(batch)} records")
        if result is None:
            return
        table = self._table(result)
        timestamps = batch.timestamps()
        if table.num_rows != len(batch):
            timestamps = np.full(table.num_rows, timestamps.max(), np.int64)
        if self.output_type.schema is None:
            self.output.emit(Batch.of_rows(self.output_type, table.to_pylist(), timestamps))
        else:
            self.output.emit(Batch.of_columns(self.output_type, self._typed(table), timestamps))

    def _table(self, result: Any) -> pa.Table:
        if hasattr(result, "to_arrow"):  # a polars frame, without importing polars where it is not used
            return result.to_arrow()
        if isinstance(result, pa.RecordBatch):
            return pa.Table.from_batches([result])
        if isinstance(result, dict):
            return pa.table({name: pa.array(values) for name, values in result.items()})
        if isinstance(result, pa.Table):
            return result
        raise RecordTypeError(
            f"operator '{self.context.operator_name}': the function returned a {type(result).__name__}; "
            "return an Arrow record batch or table, a polars DataFrame, or a dict of numpy arrays"
        )

    def _typed(self, table: pa.Table) -> pa.RecordBatch:
        """As the stream's type says: columns in its order, cast where nothing is lost by it."""
        schema = self.output_type.schema
        assert schema is not None
        if set(table.schema.names) != set(schema.names):
            raise RecordTypeError(
                f"operator '{self.context.operator_name}': the function returned columns "
                f"{', '.join(table.schema.names)}, but the stream's type has {', '.join(schema.names)}; "
                "give map_batches an output type"
            )
        try:
            cast = table.select(schema.names).cast(schema).combine_chunks()
        except (pa.ArrowException, ValueError) as error:
            raise RecordTypeError(
                f"operator '{self.context.operator_name}': the columns do not fit the stream's type: {error}"
            ) from error
        batches = cast.to_batches()
        return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=schema)


def _given(columns: pa.RecordBatch, face: str) -> Any:
    if face == "polars":
        import polars as pl

        return pl.from_arrow(columns)
    if face == "numpy":
        return {
            name: column.to_numpy(zero_copy_only=False)
            for name, column in zip(columns.schema.names, columns.columns, strict=True)
        }
    return columns


__all__ = [
    "FilterOperator",
    "FlatMapOperator",
    "FunctionOperator",
    "MapBatchesOperator",
    "MapOperator",
    "ProcessOperator",
    "WatermarksOperator",
]
