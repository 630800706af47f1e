"""Windows in two phases (Flink's local-global aggregation): records are folded where they are, and what was made of
them goes to the subtask of their key. Of a key that most records have, a subtask sends one partial in the place of many
records.

    local phase    folds the records of its subtask per key and slice of time, and gives out partials: (key, contents).
                   A slice lies in the same windows with all its time: a tumbling window, or what sliding windows share
    global phase   the window operator that one phase has, with an evaluation that merges partials

Results are those of one phase, if the function's merge is one (associative; of floats the last bits may differ), and
the same records are late:

    held until      the watermark passes the end of a slice's first window: partials go before it, with the slice's last
                    ms as timestamp, so none is late that would not have been. Before the subtask becomes idle all go,
                    because nobody waits for it then
    late records    whose slice the watermark here has passed are not held, and not folded with others: whether they are
                    late, or make a window fire once more, is decided there, for each of them
    checkpoints     all partials go before the barrier. So this phase has no state, and any parallelism restores it; its
                    watermark comes again from the sources, before any record that they give
    limits          all go when there are MAX_PARTIALS, or when MAX_RECORDS are in them, for accumulators may grow

What is late comes out of the global phase as a partial, so there is no side output of late records. There are two cases
where that is more than a record: sources that were idle have gone on without one that comes back, and what it gives is
late there and not here; and records that were under way in an unaligned checkpoint come again before the watermark
does. Such a partial counts once in `records_late_total`, and makes a window fire once.

Only windows of event time that are given out at their end can wait. Sessions have no slices; windows of the clock
belong to where a record arrives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, NamedTuple

from ...state.errors import PipelineError, RecordTypeError
from ...state.ids import CheckpointId
from ..batch import Batch, Int64Array
from ..elements import MIN_WATERMARK, Watermark, WatermarkStatus
from ..functions import RuntimeContext, callable_of, close_function, open_function
from ..keys import KeySelector
from ..operators.keyed import ROWS_AT_ONCE
from ..operators.operator import Firing, Operator, OperatorContext, RestoredState, drained
from ..operators.user_code import keys_by, raise_user_error, shown
from ..records.field_types import FieldType
from ..records.nested_types import ListOf, Struct
from ..records.record_types import OpaqueType, RecordType, RowType, record_type_of
from ..records.shapes import TupleShape
from .assigner import AlignedWindows, WindowAssigner
from .calendar_windows import CalendarEventTimeWindows
from .evaluations import Aggregate, Folding, Reduce
from .event_time_triggers import EventTimeTrigger
from .evictors import Evictor
from .incoming import by_start, event_times
from .slices import can_share
from .time_windows import SlidingEventTimeWindows, TumblingEventTimeWindows
from .trigger import Trigger

MAX_PARTIALS = 10_000
MAX_RECORDS = 100_000

Contents = dict[Any, Any]
"""Of a slice: what each key's records were folded to."""
Fold = Callable[[Contents, Sequence[Any], Sequence[Any]], None]


class _Slice(NamedTuple):
    due_ms: int
    """The last ms of the first window it is in."""
    last_ms: int
    contents: Contents


class LocalWindowOperator(Operator):
    """The local phase."""

    def __init__(
        self, selector: KeySelector, assigner: AlignedWindows, evaluation: Folding, output_type: RecordType
    ) -> None:
        self.selector = selector
        self.assigner = assigner
        self.evaluation = evaluation
        self.output_type = output_type

    def open(self, context: OperatorContext, restored: RestoredState) -> None:
        super().open(context, restored)
        self.current_watermark = MIN_WATERMARK
        self._held: dict[int, _Slice] = {}
        self._records = 0
        self._fold = _fold_of(self.evaluation)
        self._folded = context.metrics.counter("records_folded_total")
        self._sent = context.metrics.counter("partials_sent_total")
        context.metrics.gauge("partials_held", lambda: self._partials)
        try:
            open_function(self.evaluation.function, RuntimeContext(context))
        except Exception as error:
            raise_user_error(context, error, "in open()")

    @property
    def _partials(self) -> int:
        return sum(len(each.contents) for each in self._held.values())

    # records

    def process_batch(self, batch: Batch, input_index: int) -> None:
        if not len(batch):
            return
        if batch.row_kinds is not None and batch.row_kinds.any():
            raise RecordTypeError(
                f"operator '{self.context.operator_name}': windows in two phases take insertions only, not a changelog"
            )
        keys, rows = keys_by(self.selector, batch, self.context), batch.rows()
        starts = self._slices(event_times(batch, self.context.operator_name))
        alone: list[tuple[int, Any, int]] = []
        for start, positions in by_start([starts]):
            held = self._held.get(start) or self._new_slice(start)
            if held.due_ms <= self.current_watermark:
                alone += [(i, self._partial_of(keys[i], rows[i]), held.last_ms) for i in positions.tolist()]
                continue
            self._held[start] = held
            if len(positions) == len(rows):
                self._add(held.contents, keys, rows)
            else:
                chosen = positions.tolist()
                self._add(held.contents, [keys[i] for i in chosen], [rows[i] for i in chosen])
            self._records += len(positions)
        self._folded.inc(len(rows))
        if alone:
            alone.sort(key=lambda each: each[0])
            self._emit([partial for _, partial, _ in alone], [last_ms for _, _, last_ms in alone])
        if self._records >= MAX_RECORDS or self._partials >= MAX_PARTIALS:
            self._give_out_all()

    def _slices(self, times: Int64Array) -> Int64Array:
        """The start of every record's slice."""
        assigner = self.assigner
        try:
            return (
                assigner.slices(times) if isinstance(assigner, SlidingEventTimeWindows) else assigner.starts(times)[0]
            )
        except Exception as error:
            raise_user_error(self.context, error, f"in the assigner, {assigner}")

    def _new_slice(self, start: int) -> _Slice:
        assigner = self.assigner
        if isinstance(assigner, SlidingEventTimeWindows):
            first = assigner.window_at(assigner.first_start(start))
            return _Slice(first.max_timestamp(), start + assigner.slice_ms - 1, {})
        last_ms: int = assigner.window_at(start).max_timestamp()
        return _Slice(last_ms, last_ms, {})

    def _partial_of(self, key: Any, row: Any) -> tuple[Any, Any]:
        contents: Contents = {}
        self._add(contents, [key], [row])
        return key, contents[key]

    def _add(self, contents: Contents, keys: Sequence[Any], rows: Sequence[Any]) -> None:
        try:
            self._fold(contents, keys, rows)
        except Exception as error:
            raise_user_error(self.context, error, f"in a batch that begins with {shown(rows[0])}")

    # partials

    def _emit(self, partials: list[tuple[Any, Any]], last_ms: list[int]) -> None:
        self._sent.inc(len(partials))
        self.output.emit(Batch.of_rows(self.output_type, partials, last_ms))

    def _give_out(self, up_to_ms: int | None = None) -> Firing:
        """The slices that are due by then, in the order of time; None: all."""
        due = [start for start, held in self._held.items() if up_to_ms is None or held.due_ms <= up_to_ms]
        for start in sorted(due):
            held = self._held.pop(start, None)
            if held is None:  # a barrier came in between
                continue
            partials = iter(held.contents.items())
            while some := list(islice(partials, ROWS_AT_ONCE)):
                self._emit(some, [held.last_ms] * len(some))
            yield
        if not self._held:
            self._records = 0

    def _give_out_all(self) -> None:
        drained(self._give_out())

    def process_watermark(self, watermark: Watermark) -> Firing:
        self.current_watermark = watermark.timestamp
        return self._give_out(watermark.timestamp)

    def process_status(self, status: WatermarkStatus) -> None:
        self._give_out_all()

    def prepare_barrier(self, checkpoint_id: CheckpointId) -> None:
        self._give_out_all()

    def end_input(self) -> Firing:
        return self._give_out()

    def close(self) -> None:
        close_function(self.evaluation.function)


def _fold_of(evaluation: Folding) -> Fold:
    """Loops of their own: one call less per record."""
    if isinstance(evaluation, Aggregate):
        create, add = evaluation.function.create_accumulator, evaluation.function.add

        def aggregate(contents: Contents, keys: Sequence[Any], rows: Sequence[Any]) -> None:
            get = contents.get
            for key, row in zip(keys, rows, strict=True):
                accumulator = get(key)
                contents[key] = add(row, create() if accumulator is None else accumulator)

        return aggregate
    combine = callable_of(evaluation.function, "reduce")

    def reduce(contents: Contents, keys: Sequence[Any], rows: Sequence[Any]) -> None:
        get = contents.get
        for key, row in zip(keys, rows, strict=True):
            before = get(key)
            contents[key] = row if before is None else combine(before, row)

    return reduce


class _OfPartials(Folding):
    """Contents that are merged from partials."""

    def add(self, keys: Sequence[Any], rows: Sequence[Any], timestamps: Int64Array) -> list[int]:
        combined = self.combined
        first: list[int] = []

        def step(contents: Any, position: int) -> Any:
            partial = rows[position][1]
            if contents is None:
                first.append(position)
                return partial
            return combined(contents, partial)

        self._state.fold(keys, range(len(rows)), step)
        return first


class AggregateOfPartials(_OfPartials, Aggregate):
    """With an AggregateFunction."""


class ReduceOfPartials(_OfPartials, Reduce):
    """With a ReduceFunction or callable(a, b)."""


OF_PARTIALS: dict[type[Folding], type[Folding]] = {Aggregate: AggregateOfPartials, Reduce: ReduceOfPartials}
"""How the global phase evaluates what the local one has folded."""


def partial_type(key_annotation: Any, contents: RecordType) -> RecordType:
    """Of (key, contents)."""
    key = record_type_of(key_annotation)
    for part, what in ((key, "key"), (contents, "accumulator")):
        if part.opaque:
            return OpaqueType(f"the type of the {what} is not known, or pickled")
    of_key, of_contents = (part.struct if isinstance(part, RowType) else part.value for part in (key, contents))  # type: ignore[attr-defined]
    return RowType(Struct(False, TupleShape(tuple, ("key", "contents")), (_or_none(of_key), of_contents)))


def _or_none(key: FieldType) -> FieldType:
    """None stands beside any type of key, at any position (keys.py)."""
    if isinstance(key, Struct):
        key = replace(key, fields=tuple(map(_or_none, key.fields)))
    elif isinstance(key, ListOf):
        key = replace(key, item=_or_none(key.item))
    return replace(key, nullable=True)


def check_two_phase(
    assigner: WindowAssigner, evaluation: Folding, trigger: Trigger | None, evictor: Evictor | None, late_tag: Any
) -> None:
    """PipelineError for windows that cannot be evaluated in two phases."""
    kind = type(assigner)
    if kind not in (TumblingEventTimeWindows, SlidingEventTimeWindows, CalendarEventTimeWindows):
        raise PipelineError(
            "two_phase: tumbling, sliding and calendar windows of event time can be evaluated in two phases, "
            f"{assigner} cannot; leave two_phase out"
        )
    if isinstance(assigner, SlidingEventTimeWindows) and not (
        can_share(assigner) or assigner.size_ms == assigner.slide_ms
    ):
        raise PipelineError(
            f"two_phase: {assigner} cannot be evaluated in two phases, because they have gaps, or too many slices; "
            "choose a size that is a multiple of the slide, or leave two_phase out"
        )
    if evictor is not None or (trigger is not None and type(trigger) is not EventTimeTrigger):
        what = "an evictor" if evictor is not None else f"the trigger ({trigger})"
        raise PipelineError(f"two_phase: {what} needs every record where the window is; leave one of the two out")
    if late_tag is not None:
        raise PipelineError(
            "two_phase: late records come to the window as partials, and cannot go to a side output; leave "
            "side_output_late_data or two_phase out"
        )
    if not evaluation.can_merge:
        raise PipelineError(f"two_phase: {type(evaluation.function).__name__} needs a method merge(acc_a, acc_b)")
