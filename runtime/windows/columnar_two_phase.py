"""Two phases (two_phase.py) of windows on columns: a partial is a row of the key, the window's start and accumulators.

The global phase is the operator of one phase over these rows, whose accumulators are folded like any column: counts
are added up, a least value is the least of least values. What was seen of no row but nulls is null.

Records are held and given out as on rows. What is held is one column store for all windows, which goes as a whole as
soon as one of them is due.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from ...state.columns import kernels
from ...state.columns.accumulator_spec import AccumulatorSpec
from ...state.columns.column_store import ColumnStore
from ...state.errors import AggregateError, KeyTypeError, RecordTypeError
from ...state.ids import CheckpointId
from ..aggregation.aggregate import Aggregate
from ..batch import Batch, Int64Array
from ..elements import MAX_WATERMARK, MIN_WATERMARK, Watermark, WatermarkStatus
from ..keys import KeyByColumns
from ..operators.operator import Firing, Operator, OperatorContext, RestoredState, drained
from ..records.field_types import FieldType
from ..records.record_types import RecordType, SchemaType
from .columnar_windows import ColumnarWindowOperator, window_result_type
from .incoming import event_times
from .time_windows import TumblingEventTimeWindows

MAX_PARTIALS = 1 << 16
_OUTPUT_ROWS = 1 << 16
_START = "window start"
_MERGED: dict[str, Any] = {"count": "sum", "sum": "sum", "min": "min", "max": "max"}
"""How accumulators of one kind are folded into one."""


def can_merge_columns(aggregates: Mapping[str, Aggregate], schema: pa.Schema) -> bool:
    """PipelineError for columns that are not there or cannot be aggregated."""
    specs = [aggregate.specs(schema) for aggregate in aggregates.values()]
    return all(each is not None and all(spec.kind in _MERGED for spec in each) for each in specs)


@dataclass(frozen=True)
class _Merged(Aggregate):
    """The same aggregate of partials. Only for columns."""

    aggregate: Aggregate
    schema: pa.Schema
    """Of the records."""

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple([spec.name for spec in _specs(self.aggregate, self.schema)])

    def specs(self, schema: pa.Schema) -> tuple[AccumulatorSpec, ...]:
        own = _specs(self.aggregate, self.schema)
        return tuple([AccumulatorSpec(_MERGED[spec.kind], spec.name, spec.word) for spec in own])

    def result_type(self, schema: pa.Schema) -> pa.DataType:
        return self.aggregate.result_type(self.schema)

    def finish(self, accumulated: Sequence[pa.Array], result_type: pa.DataType) -> pa.Array:
        return self.aggregate.finish(accumulated, result_type)

    def state_type(self, fields: Mapping[str, FieldType]) -> Any:
        return Any

    def create(self) -> Any:
        return self.aggregate.create()

    def add(self, accumulator: Any, value: Any) -> Any:
        return self.aggregate.merge(accumulator, value)

    def merge(self, one: Any, other: Any) -> Any:
        return self.aggregate.merge(one, other)


def _specs(aggregate: Aggregate, schema: pa.Schema) -> tuple[AccumulatorSpec, ...]:
    return aggregate.specs(schema) or ()


def global_operator(
    selector: KeyByColumns,
    assigner: TumblingEventTimeWindows,
    aggregates: Mapping[str, Aggregate],
    input_type: RecordType,
    partials: RecordType,
    allowed_lateness_ms: int,
) -> ColumnarWindowOperator:
    """input_type: of the records. partials: of what the local phase gives."""
    assert input_type.schema is not None
    merged = {name: _Merged(aggregate, input_type.schema) for name, aggregate in aggregates.items()}
    result = window_result_type(selector.names, input_type, aggregates)
    return ColumnarWindowOperator(selector, assigner, merged, partials, result, allowed_lateness_ms)


class ColumnarLocalOperator(Operator):
    """The local phase."""

    face = "columns"
    output_type: SchemaType

    def __init__(
        self,
        selector: KeyByColumns,
        assigner: TumblingEventTimeWindows,
        aggregates: Mapping[str, Aggregate],
        input_type: RecordType,
    ) -> None:
        """PipelineError for columns that are not there or cannot be keys or be aggregated."""
        result = window_result_type(selector.names, input_type, aggregates).schema
        assert result is not None
        assert input_type.schema is not None
        self._keys = selector.names
        self._size_ms, self._offset_ms = assigner.size_ms, assigner.offset_ms
        specs = dict.fromkeys(spec for each in aggregates.values() for spec in _specs(each, input_type.schema))
        self._specs = tuple(specs)
        self._columns = list(dict.fromkeys([*self._keys, *(spec.column for spec in specs if spec.column is not None)]))
        keys = [result.field(name) for name in self._keys]
        self._key_types = [*(field.type for field in keys), pa.int64()]
        accumulated = [pa.field(spec.name, pa.type_for_alias(spec.word), spec.kind != "count") for spec in specs]
        self.output_type = SchemaType(pa.schema([*keys, pa.field(_START, pa.int64(), nullable=False), *accumulated]))

    def open(self, context: OperatorContext, restored: RestoredState) -> None:
        super().open(context, restored)
        kernels.warm_up()
        self.current_watermark = MIN_WATERMARK
        self._store = ColumnStore(self._key_types, self._specs)
        self._due_ms = MAX_WATERMARK
        self._folded = context.metrics.counter("records_folded_total")
        self._sent = context.metrics.counter("partials_sent_total")
        context.metrics.gauge("partials_held", lambda: self._store.size)

    def process_batch(self, batch: Batch, input_index: int) -> None:
        if not len(batch):
            return
        if batch.row_kinds is not None and batch.row_kinds.any():
            raise RecordTypeError(
                f"operator '{self.context.operator_name}': windows in two phases take insertions only, not a changelog"
            )
        times = event_times(batch, self.context.operator_name)
        starts = times - (times - self._offset_ms) % self._size_ms
        columns = batch.columns().select(self._columns)
        self._folded.inc(len(batch))
        late = starts + (self._size_ms - 1) <= self.current_watermark
        if late.any():
            self._send_alone(columns.take(pa.array(np.flatnonzero(late))), starts[late])
            kept = np.flatnonzero(~late)
            columns, starts = columns.take(pa.array(kept)), starts[kept]
        if len(starts):
            self._fold(self._store, columns, [starts])
            self._due_ms = min(self._due_ms, int(starts.min()) + self._size_ms - 1)
            if self._store.size >= MAX_PARTIALS:
                drained(self._give_out())

    def _send_alone(self, columns: pa.RecordBatch, starts: Int64Array) -> None:
        """A partial of each record: its number is a part of the key."""
        store = ColumnStore([*self._key_types, pa.int64()], self._specs)
        self._fold(store, columns, [starts, np.arange(len(starts))])
        drained(self._emit(store))

    def _fold(self, store: ColumnStore, columns: pa.RecordBatch, numbers: Sequence[Int64Array]) -> None:
        inputs = dict(zip(self._columns, columns.columns, strict=True))
        keys = [*columns.columns[: len(self._keys)], *map(pa.array, numbers)]
        try:
            store.update(keys, inputs, 0)
        except (AggregateError, KeyTypeError) as error:
            raise type(error)(f"operator '{self.context.operator_name}': {error}") from error

    def _give_out(self) -> Firing:
        store = self._store
        if store.size:
            self._store = ColumnStore(self._key_types, self._specs, store.size)
            self._due_ms = MAX_WATERMARK
            yield from self._emit(store)

    def _emit(self, store: ColumnStore) -> Firing:
        """All at once: a barrier must not find the rest of it."""
        schema = self.output_type.schema
        for at in range(0, store.size, _OUTPUT_ROWS):
            slots = store.all_slots()[at : at + _OUTPUT_ROWS]
            keys, accumulated = store.keys(slots)[: len(self._key_types)], store.arrays(slots)
            columns = [*keys, *(accumulated[spec] for spec in self._specs)]
            last_ms = keys[-1].to_numpy() + (self._size_ms - 1)
            self._sent.inc(len(slots))
            partials = pa.RecordBatch.from_arrays(columns, schema=schema)
            self.output.emit(Batch.of_columns(self.output_type, partials, last_ms))
        yield

    def process_watermark(self, watermark: Watermark) -> Firing:
        self.current_watermark = watermark.timestamp
        if self._due_ms <= watermark.timestamp:
            yield from self._give_out()

    def process_status(self, status: WatermarkStatus) -> None:
        drained(self._give_out())

    def prepare_barrier(self, checkpoint_id: CheckpointId) -> None:
        drained(self._give_out())

    def end_input(self) -> Firing:
        return self._give_out()
