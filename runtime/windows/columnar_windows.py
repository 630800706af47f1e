"""Tumbling event-time windows with aggregates, vectorised: `.key_by("a", "b").window(...).agg(n=count(), ...)`.

Every open window has a column store: a hash index from keys to slots, and one array per accumulator. A batch is
split by window (rarely into more than two parts), and each part is folded in with a few compiled passes.

    late        end - 1 + allowed lateness <= the watermark before the batch: to the side output, and counted
    firing      a watermark fires the windows it passes in the order of their ends; within a window rows come in the
                order in which their keys first appeared (after a restore: by key group). Results carry end - 1
    re-firing   a record for a fired window that is not yet late updates its key, and the new results of all keys of
                that window which the batch touched are emitted at once: once per batch, not once per record
    clean-up    at end + allowed lateness; without lateness, when the window fires

Firing can be interrupted between windows. A snapshot taken there (unaligned barriers) knows which windows have fired;
what was left over fires at the next watermark after a restore, or at the end of input. Subtasks may have come to
different watermarks by then; where another parallelism brings their keys together, a window fires for those it had not
fired for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ...state.columns import kernels
from ...state.columns.accumulator_spec import AccumulatorSpec
from ...state.columns.column_snapshots import ColumnLayout, ColumnSnapshots, restored_rows
from ...state.columns.column_store import ColumnStore
from ...state.errors import AggregateError, KeyTypeError, PipelineError
from ...state.ids import CheckpointId
from ...state.key_groups import KeyGroupRange
from ...state.savepoints.savepoint_store import StatePlace
from ...state.snapshots import KeyedHandle, OperatorSnapshot
from ...state.statistics import StateStatistics
from ...state.store.objects import Program
from ..aggregation.aggregates import Aggregate
from ..batch import NO_TIMESTAMP, Batch
from ..elements import Watermark
from ..keys import KeyByColumns
from ..operators.operator import Operator, OperatorContext, RestoredState
from ..records.record_types import RecordType, SchemaType
from .assigners import TumblingEventTimeWindows
from .incoming import at_the_end_of_time
from .windows import MAX_TIMESTAMP

if TYPE_CHECKING:
    from ..batch import Int64Array

_OUTPUT_ROWS = 1 << 16
_DENSE_WINDOWS = 1 << 12
"""Up to this many windows between a batch's first and last one they are counted, above that sorted."""


@dataclass(slots=True)
class _Window:
    store: ColumnStore
    fired: bool
    given_out: npt.NDArray[np.int32] | None = None
    """Of one that has not fired: keys (slots) that another parallelism's subtask had fired it for, unchanged since."""


def window_result_type(keys: Sequence[str], input_type: RecordType, aggregates: Mapping[str, Aggregate]) -> SchemaType:
    """Key columns, window_start, window_end (ms), then the aggregates. PipelineError when that cannot be."""
    schema = _schema_of(input_type)
    names = [*keys, "window_start", "window_end", *aggregates]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise PipelineError(f"agg: two columns of the result would be named {', '.join(map(repr, twice))}")
    missing = [name for name in keys if name not in schema.names]
    if missing:
        raise PipelineError(f"key_by: no column {missing[0]!r}; there are {', '.join(schema.names)}")
    fields = [schema.field(name).with_type(_plain(schema.field(name).type)) for name in keys]
    fields += [pa.field("window_start", pa.int64(), nullable=False), pa.field("window_end", pa.int64(), nullable=False)]
    fields += [pa.field(name, each.result_type(schema), each.nullable) for name, each in aggregates.items()]
    return SchemaType(pa.schema(fields))


def _schema_of(input_type: RecordType) -> pa.Schema:
    if input_type.schema is None:
        raise PipelineError("agg by column names needs a stream of a known type: declare it, or key by a function")
    return input_type.schema


def _specs(name: str, aggregate: Aggregate, schema: pa.Schema) -> tuple[AccumulatorSpec, ...]:
    specs = aggregate.specs(schema)
    if specs is None:
        raise PipelineError(f"agg: {name} can only be computed on rows")
    return specs


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


class ColumnarWindowOperator(Operator):
    """`.window(...).agg(...)` on columns."""

    face = "columns"
    stateful = True

    def __init__(
        self,
        selector: KeyByColumns,
        assigner: TumblingEventTimeWindows,
        aggregates: Mapping[str, Aggregate],
        input_type: RecordType,
        output_type: SchemaType | None = None,
        allowed_lateness_ms: int = 0,
        late_tag: str | None = None,
    ) -> None:
        """PipelineError for columns that are not there or cannot be keys or be aggregated."""
        schema = _schema_of(input_type)
        self.output_type = output_type or window_result_type(selector.names, input_type, aggregates)
        self._keys = selector.names
        self._aggregates = dict(aggregates)
        self._specs_of = {name: _specs(name, aggregate, schema) for name, aggregate in aggregates.items()}
        specs = tuple(dict.fromkeys(spec for specs in self._specs_of.values() for spec in specs))
        key_types = tuple(_plain(schema.field(name).type) for name in self._keys)
        self._layout = ColumnLayout(f"{assigner} at {assigner.offset_ms} ms", key_types, specs, tuple(self._keys))
        self._columns = list(dict.fromkeys([*self._keys, *(spec.column for spec in specs if spec.column is not None)]))
        self._size_ms = assigner.size_ms
        self._offset_ms = assigner.offset_ms
        self._lateness_ms = allowed_lateness_ms
        self._late_tag = late_tag
        self.side_tags = frozenset() if late_tag is None else frozenset({late_tag})
        try:
            ColumnStore(key_types, specs)
        except KeyTypeError as error:
            raise PipelineError(f"key_by {', '.join(self._keys)}: {error}") from error

    def open(self, context: OperatorContext, restored: RestoredState) -> None:
        super().open(context, restored)
        kernels.warm_up()
        self.current_watermark = restored.watermark
        self._late = context.metrics.counter("records_late_total")
        self._windows: dict[int, _Window] = {}
        self._expected_keys = 1
        groups = KeyGroupRange.of_subtask(context.subtask, context.parallelism, context.max_parallelism)
        given_out: dict[int, list[npt.NDArray[np.int32]]] = {}
        self._snapshots = ColumnSnapshots(self._layout, groups, context.max_parallelism, context.uploads)
        for rows in restored_rows(self._layout, restored.keyed, groups):
            window = self._windows.get(rows.namespace) or self._new_window(rows.namespace, fired=True)
            before = window.store.size
            window.store.load(rows.keys, rows.values, self._snapshots.epoch)
            window.fired &= rows.fired
            if rows.fired:
                given_out.setdefault(rows.namespace, []).append(np.arange(before, window.store.size, dtype=np.int32))
        for start, slots in given_out.items():
            self._windows[start].given_out = None if self._windows[start].fired else np.concatenate(slots)

    def _new_window(self, start: int, fired: bool) -> _Window:
        store = ColumnStore(self._layout.key_types, self._layout.specs, self._expected_keys)
        window = self._windows[start] = _Window(store, fired)
        return window

    # ---- batches

    def process_batch(self, batch: Batch, input_index: int) -> None:
        if not len(batch):
            return
        if batch.row_kinds is not None and batch.row_kinds.any():
            raise PipelineError(
                f"operator '{self.context.operator_name}': windows take insertions only, not a changelog"
            )
        timestamps = batch.timestamps()
        first, last = int(timestamps.min()), int(timestamps.max())
        if first == NO_TIMESTAMP:
            raise PipelineError(
                f"operator '{self.context.operator_name}': a record has no event timestamp; "
                "call assign_timestamps_and_watermarks before the window"
            )
        if last == MAX_TIMESTAMP:
            raise at_the_end_of_time(batch, self.context.operator_name)
        start = self._start_of(first)
        if start == self._start_of(last):
            if self._is_late(start):
                self._emit_late(batch)
            else:
                self._fold(start, batch.columns().select(self._columns))
        else:
            self._process_windows(batch, timestamps)

    def _process_windows(self, batch: Batch, timestamps: Int64Array) -> None:
        starts = timestamps - (timestamps - self._offset_ms) % self._size_ms
        columns = batch.columns().select(self._columns)
        late = starts + (self._size_ms - 1 + self._lateness_ms) <= self.current_watermark
        if late.any():
            self._emit_late(batch.take(np.flatnonzero(late)))
            kept = np.flatnonzero(~late)
            starts, columns = starts[kept], columns.take(pa.array(kept))
        if len(starts):
            for start, part in self._split(starts, columns):
                self._fold(start, part)

    def _split(self, starts: Int64Array, columns: pa.RecordBatch) -> Iterator[tuple[int, pa.RecordBatch]]:
        lowest = int(starts.min())
        span = (int(starts.max()) - lowest) // self._size_ms + 1
        if span <= _DENSE_WINDOWS:
            numbers = (starts - lowest) // self._size_ms
            distinct = lowest + np.arange(span) * self._size_ms
        else:
            distinct, numbers = np.unique(starts, return_inverse=True)
        order, counts = kernels.order_by_target(numbers.astype(np.int64, copy=False), len(distinct))
        ordered = columns.take(pa.array(order))
        at = 0
        for start, count in zip(distinct.tolist(), counts.tolist(), strict=True):
            if count:
                yield start, ordered.slice(at, count)
                at += count

    def _fold(self, start: int, columns: pa.RecordBatch) -> None:
        passed = start + self._size_ms - 1 <= self.current_watermark
        window = self._windows.get(start) or self._new_window(start, fired=passed)
        inputs = dict(zip(self._columns, columns.columns, strict=True))
        keys = columns.columns[: len(self._keys)]
        try:
            slots = window.store.update(keys, inputs, self._snapshots.epoch)
        except (AggregateError, KeyTypeError) as error:
            raise type(error)(f"operator '{self.context.operator_name}': {error}") from error
        if passed and window.fired:
            self._emit_results(start, window.store, np.unique(slots))
        elif window.given_out is not None:
            window.given_out = np.setdiff1d(window.given_out, slots)

    def _start_of(self, timestamp: int) -> int:
        return timestamp - (timestamp - self._offset_ms) % self._size_ms

    def _is_late(self, start: int) -> bool:
        return start + self._size_ms - 1 + self._lateness_ms <= self.current_watermark

    def _emit_late(self, late: Batch) -> None:
        self._late.inc(len(late))
        if self._late_tag is not None:
            self.output.emit_side(self._late_tag, late)

    # ---- firing

    def process_watermark(self, watermark: Watermark) -> Iterator[None]:
        self.current_watermark = watermark.timestamp
        yield from self._fire_due()

    def end_input(self) -> Iterator[None]:
        yield from self._fire_due()

    def _fire_due(self) -> Iterator[None]:
        for start in sorted(self._windows):
            if start + self._size_ms - 1 > self.current_watermark:
                return
            window = self._windows[start]
            if not window.fired:
                due, given_out = window.store.all_slots(), window.given_out
                window.fired, window.given_out = True, None
                self._emit_results(start, window.store, due if given_out is None else np.setdiff1d(due, given_out))
            if self._is_late(start):
                self._expected_keys = window.store.size
                del self._windows[start]
            yield

    def _emit_results(self, start: int, store: ColumnStore, slots: npt.NDArray[np.int32]) -> None:
        for at in range(0, len(slots), _OUTPUT_ROWS):
            self.output.emit(self._results(start, store, slots[at : at + _OUTPUT_ROWS]))

    def _results(self, start: int, store: ColumnStore, slots: npt.NDArray[np.int32]) -> Batch:
        count, end = len(slots), start + self._size_ms
        schema = self.output_type.schema
        assert schema is not None
        accumulated: dict[AccumulatorSpec, pa.Array] = store.arrays(slots)
        columns = [
            *store.keys(slots),
            pa.array(np.full(count, start, np.int64)),
            pa.array(np.full(count, end, np.int64)),
        ]
        for name, aggregate in self._aggregates.items():
            values = [accumulated[spec] for spec in self._specs_of[name]]
            columns.append(aggregate.finish(values, schema.field(name).type))
        results = pa.RecordBatch.from_arrays(columns, schema=schema)
        return Batch.of_columns(self.output_type, results, np.full(count, end - 1, np.int64))

    # ---- checkpoints

    def snapshot(self, checkpoint_id: CheckpointId) -> Program[OperatorSnapshot]:
        stores = {start: window.store for start, window in self._windows.items()}
        fired = [start for start, window in self._windows.items() if window.fired]
        frozen = self._snapshots.freeze(checkpoint_id, stores, fired)
        return self._written(frozen, self.current_watermark)

    def savepoint(self, checkpoint_id: CheckpointId) -> Program[OperatorSnapshot]:
        stores = {start: window.store for start, window in self._windows.items()}
        fired = [start for start, window in self._windows.items() if window.fired]
        place = StatePlace(self.context.operator_id, self.context.subtask)
        directory = self.context.work_directory / self.context.operator_id
        frozen = self._snapshots.freeze_whole(checkpoint_id, stores, fired, place, directory)
        return self._written(frozen, self.current_watermark)

    def _written(self, frozen: Program[tuple[KeyedHandle, ...]], watermark: int) -> Program[OperatorSnapshot]:
        keyed = yield from frozen
        return OperatorSnapshot(self.context.operator_id, keyed, watermark=watermark)

    def state_statistics(self) -> StateStatistics:
        stores = [window.store for window in self._windows.values()]
        return StateStatistics(sum(store.nbytes for store in stores), sum(store.size for store in stores))

    def checkpoint_completed(self, checkpoint_id: CheckpointId) -> None:
        self._snapshots.checkpoint_completed(checkpoint_id)

    def checkpoint_aborted(self, checkpoint_id: CheckpointId) -> None:
        self._snapshots.checkpoint_aborted(checkpoint_id)
