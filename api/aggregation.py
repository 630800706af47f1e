"""The operator behind `.window(…).agg(…)`: vectorised where the stream has columns, else over Python records.

Both give the same named columns. On the row face they are dicts, keyed by a column `key` where the key is a function.
An `.agg()` goes by rows as a whole if one of its aggregates has no accumulators in columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ..runtime.aggregation.aggregates import Aggregate, RowAggregates
from ..runtime.functions import ProcessWindowFunction, WindowContext
from ..runtime.keys import KeyByColumns, KeySelector, alike_in_columns
from ..runtime.operators.operator import Operator
from ..runtime.records.annotations import arrow_field_type
from ..runtime.records.field_types import FieldType
from ..runtime.records.nested_types import Struct
from ..runtime.records.record_types import OpaqueType, RecordType, RowType, ScalarType, record_type_of
from ..runtime.records.shapes import DictShape
from ..runtime.windows.all_windows import no_key
from ..runtime.windows.assigners import TimeWindow, TumblingEventTimeWindows, WindowAssigner
from ..state.errors import PipelineError

if TYPE_CHECKING:
    from ..runtime.windows.evictors import Evictor
    from ..runtime.windows.trigger import Trigger
    from .keyed import KeyedStream


class NamedColumns(ProcessWindowFunction):
    """Key, window and the aggregates' results as one dict."""

    def __init__(self, key_names: tuple[str, ...], names: tuple[str, ...], timed: bool = True) -> None:
        """timed: windows have a start and an end."""
        self.key_names = key_names
        self.names = names
        self.timed = timed

    def process(self, key: Any, context: WindowContext, elements: Iterable[Any]) -> Iterator[dict[str, Any]]:
        window = context.window()
        keys = key if len(self.key_names) > 1 else (key,)
        times = {"window_start": window.start, "window_end": window.end} if self.timed else {}
        for values in elements:
            yield {
                **dict(zip(self.key_names, keys, strict=False)),
                **times,
                **dict(zip(self.names, values, strict=True)),
            }


def window_agg_operator(
    stream: KeyedStream,
    assigner: WindowAssigner,
    aggregates: Mapping[str, Aggregate],
    trigger: Trigger | None = None,
    evictor: Evictor | None = None,
    *,
    allowed_lateness_ms: int = 0,
    late_tag: str | None = None,
    input_type: RecordType | None = None,
    merged_by: KeySelector | None = None,
) -> Operator:
    """merged_by: in two phases, the keys of partials."""
    check_aggregates(aggregates)
    selector, record_type = stream.selector, stream.record_type
    rows_only = _only_on_rows(aggregates, record_type)
    in_columns = merged_by is None and runs_on_columns(stream, assigner, trigger, evictor)
    if in_columns and not rows_only:
        assert isinstance(selector, KeyByColumns)
        assert isinstance(assigner, TumblingEventTimeWindows)
        from ..runtime.windows.columnar_windows import ColumnarWindowOperator

        return ColumnarWindowOperator(selector, assigner, aggregates, record_type, None, allowed_lateness_ms, late_tag)
    from ..runtime.windows.building import window_operator
    from ..runtime.windows.evaluations import Aggregate as AggregateEvaluation
    from ..runtime.windows.two_phase import AggregateOfPartials

    key_names = selector.names if isinstance(selector, KeyByColumns) else ("key",)
    if getattr(selector, "function", None) is no_key:
        key_names = ()
    times = ("window_start", "window_end") if getattr(assigner, "window_type", None) is TimeWindow else ()
    function = NamedColumns(key_names, tuple(aggregates), timed=bool(times))
    evaluation = AggregateEvaluation if merged_by is None else AggregateOfPartials
    operator = window_operator(
        merged_by or selector,
        assigner,
        evaluation(RowAggregates(aggregates, fields_of(record_type)), function),
        _row_type(stream, key_names, times, aggregates),
        trigger=trigger,
        evictor=evictor,
        allowed_lateness_ms=allowed_lateness_ms,
        late_tag=late_tag,
        input_type=input_type,
    )
    if in_columns:
        operator.note = f"on rows, because of {', '.join(rows_only)}"
    return operator


def runs_on_columns(
    stream: KeyedStream, assigner: WindowAssigner, trigger: Trigger | None, evictor: Evictor | None
) -> bool:
    """If no aggregate needs rows."""
    selector, record_type = stream.selector, stream.record_type
    return (
        isinstance(selector, KeyByColumns)
        and isinstance(assigner, TumblingEventTimeWindows)
        and trigger is None
        and evictor is None
        and not record_type.opaque
        and alike_in_columns(record_type, selector.names)
    )


def check_aggregates(aggregates: Mapping[str, Any]) -> None:
    """PipelineError if there are none, or others than ours."""
    if not aggregates:
        raise PipelineError("agg needs at least one aggregate, for example agg(n=ps.count())")
    for name, aggregate in aggregates.items():
        if not isinstance(aggregate, Aggregate):
            raise PipelineError(f"agg: {name} is no aggregate but {aggregate!r}; write for example {name}=ps.count()")


def _only_on_rows(aggregates: Mapping[str, Aggregate], record_type: RecordType) -> list[str]:
    """Names of those that have no accumulators in columns. PipelineError for columns that are not there or cannot be
    aggregated."""
    found = []
    for name, aggregate in aggregates.items():
        try:
            if record_type.schema is not None and aggregate.specs(record_type.schema) is None:
                found.append(name)
        except PipelineError as error:
            raise PipelineError(f"agg: {name}: {error}") from error
    return found


def fields_of(record_type: RecordType) -> dict[str, FieldType] | None:
    """By name; None if they are not known."""
    if isinstance(record_type, RowType):
        return dict(zip(record_type.struct.shape.names, record_type.struct.fields, strict=True))
    return {record_type.column: record_type.value} if isinstance(record_type, ScalarType) else None


def _row_type(
    stream: KeyedStream, key_names: tuple[str, ...], time_names: tuple[str, ...], aggregates: Mapping[str, Aggregate]
) -> RecordType:
    """Known where the key's and all aggregates' types are."""
    twice = {name for name in aggregates if name in (*key_names, *time_names)}
    if twice:
        raise PipelineError(f"agg: two columns of the result would be named {', '.join(sorted(map(repr, twice)))}")
    fields = fields_of(stream.record_type)
    if fields is None:
        return OpaqueType("the type of the records that are aggregated is not known")
    by_columns = isinstance(stream.selector, KeyByColumns)
    results = {name: fields[name] for name in key_names if by_columns and name in fields}
    if len(results) < len(key_names):
        key = record_type_of(stream.key_annotation)
        if len(key_names) > 1 or not isinstance(key, ScalarType):
            return OpaqueType("the type of the key is not known; annotate the key function")
        results[key_names[0]] = key.value
    results |= {name: arrow_field_type(pa.int64(), False) for name in time_names}
    results |= {name: aggregate.result_field(fields) for name, aggregate in aggregates.items()}
    return RowType(Struct(False, DictShape(dict, tuple(results)), tuple(results.values())))
