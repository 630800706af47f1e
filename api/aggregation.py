"""The operator behind `.window(…).agg(…)`: vectorised where the stream has columns, else over Python records.

Both give the same named columns. On the row face they are dicts, keyed by a column `key` where the key is a function.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ..runtime.aggregates import Aggregate, RowAggregates
from ..runtime.functions import ProcessWindowFunction, WindowContext
from ..runtime.keys import KeyByColumns, alike_in_columns
from ..runtime.operators.operator import Operator
from ..runtime.record_types import OpaqueType, RecordType, ScalarType, SchemaType, record_type_of
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
) -> Operator:
    for name, aggregate in aggregates.items():
        if not isinstance(aggregate, Aggregate):
            raise PipelineError(f"agg: {name} is no aggregate but {aggregate!r}; write for example {name}=ps.count()")
    selector, record_type = stream.selector, stream.record_type
    if (
        isinstance(selector, KeyByColumns)
        and isinstance(assigner, TumblingEventTimeWindows)
        and trigger is None
        and evictor is None
        and not record_type.opaque
        and alike_in_columns(record_type, selector.names)
    ):
        from ..runtime.windows.columnar_windows import ColumnarWindowOperator

        return ColumnarWindowOperator(selector, assigner, aggregates, record_type, None, allowed_lateness_ms, late_tag)
    from ..runtime.windows.building import window_operator
    from ..runtime.windows.evaluations import Aggregate as AggregateEvaluation

    key_names = selector.names if isinstance(selector, KeyByColumns) else ("key",)
    if getattr(selector, "function", None) is no_key:
        key_names = ()
    times = ("window_start", "window_end") if getattr(assigner, "window_type", None) is TimeWindow else ()
    function = NamedColumns(key_names, tuple(aggregates), timed=bool(times))
    return window_operator(
        selector,
        assigner,
        AggregateEvaluation(RowAggregates(aggregates), function),
        _row_type(stream.key_annotation, key_names, times, record_type, aggregates),
        trigger=trigger,
        evictor=evictor,
        allowed_lateness_ms=allowed_lateness_ms,
        late_tag=late_tag,
        input_type=input_type,
    )


def _row_type(
    key_annotation: Any,
    key_names: tuple[str, ...],
    time_names: tuple[str, ...],
    record_type: RecordType,
    aggregates: Mapping[str, Aggregate],
) -> RecordType:
    """A schema where the key's and all aggregates' types are known."""
    twice = {name for name in aggregates if name in (*key_names, *time_names)}
    if twice:
        raise PipelineError(f"agg: two columns of the result would be named {', '.join(sorted(map(repr, twice)))}")
    if record_type.schema is None:
        return OpaqueType("the type of the records that are aggregated is not known")
    keys = [record_type_of(key_annotation, name) for name in key_names]
    results = [pa.field(name, aggregate.result_type(record_type.schema)) for name, aggregate in aggregates.items()]
    if len(keys) > 1 or not all(isinstance(key, ScalarType) for key in keys):
        return OpaqueType("the type of the key is not known; annotate the key function")
    times = [pa.field(name, pa.int64(), nullable=False) for name in time_names]
    return SchemaType(pa.schema([*[key.schema.field(0) for key in keys if key.schema is not None], *times, *results]))
