"""Operators without keyed state: map, flat_map, filter, map_batches, process; of one input or, as Co functions, of two.

An operator calls the method that its function has for the batch's input: `methods` names one per input.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import compress
from typing import Any

import numpy as np

from ...state.errors import StateError
from ...state.ids import CheckpointId
from ...state.snapshots import OperatorSnapshot
from ...state.store.objects import Program
from ..batch import NO_TIMESTAMP, Batch
from ..changelog import CHANGELOGS, EVERYTHING, INSERTIONS
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
from ..records.batch_faces import as_batch, as_table, given
from ..records.record_types import RecordType
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
    accepted_modes = EVERYTHING

    def process_batch(self, batch: Batch, input_index: int) -> None:
        results = call_each(self.context, self._calls[input_index], batch.rows())
        if self.context.operator_state.changes_in_place:
            results = [taken_apart(result, self.output_type) for result in results]
        self.output.emit(batch.with_rows(self.output_type, results))


class FilterOperator(FunctionOperator):
    """Keeps the records for which a FilterFunction or callable says yes, on both faces."""

    methods = ("filter",)
    accepted_modes = CHANGELOGS
    """Of upserts the one that no longer passes would leave behind the one that did."""

    def process_batch(self, batch: Batch, input_index: int) -> None:
        rows = batch.rows()
        kept = call_each(self.context, self._calls[0], rows)
        if all(kept):
            self.output.emit(batch)
        elif any(kept):
            self.output.emit(batch.keep(list(compress(range(len(rows)), kept))))


class FlatMapOperator(FunctionOperator):
    """A FlatMapFunction or callable; results carry the timestamp and the row kind of their record."""

    methods: tuple[str, ...] = ("flat_map",)
    accepted_modes = CHANGELOGS

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
        counts = np.diff(ends, prepend=0)
        timestamps = np.repeat(batch.timestamps(), counts) if batch.has_timestamps else None
        kinds = None if batch.row_kinds is None else np.repeat(batch.row_kinds, counts)
        if not self.side_tags:
            flat = Batch.of_rows(self.output_type, results, timestamps)
            flat.row_kinds = kinds
            self.output.emit(flat)
            return
        collector = Collector(self.output_type, self.output, tagged=True)
        collector.rows = results
        collector.timestamps = [NO_TIMESTAMP] * len(results) if timestamps is None else timestamps.tolist()
        collector.kinds = None if kinds is None else kinds.tolist()
        collector.emit()


class ProcessOperator(FlatMapOperator):
    """A ProcessFunction on a stream without keys: time and side outputs, no state, no timers."""

    methods: tuple[str, ...] = ("process_element",)
    accepted_modes = INSERTIONS

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
            result = self._calls[0](given(columns, self.batch_face))
        except Exception as error:
            raise_user_error(self.context, error, f"on a batch of {len(batch)} records")
        if result is None:
            return
        name = self.context.operator_name
        self.output.emit(as_batch(as_table(result, name), batch.timestamps(), self.output_type, name))


__all__ = [
    "FilterOperator",
    "FlatMapOperator",
    "FunctionOperator",
    "MapBatchesOperator",
    "MapOperator",
    "ProcessOperator",
    "WatermarksOperator",
]
