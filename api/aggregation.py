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
from ..runtime.windows.assigners import TumblingEventTimeWindows, WindowAssigner
from ..state.errors import PipelineError

if TYPE_CHECKING:
    from .keyed import KeyedStream


class NamedColumns(ProcessWindowFunction):
    """Key, window and the aggregates' results as one dict."""

    def __init__(self, key_names: tuple[str, ...], names: tuple[str, ...]) -> None:
        self.key_names = key_names
        self.names = names

    def process(self, key: Any, context: WindowContext, elements: Iterable[Any]) -> Iterator[dict[str, Any]]:
        window = context.window()
        keys = key if len(self.key_names) > 1 else (key,)
        for values in elements:
            yield {
                **dict(zip(self.key_names, keys, strict=True)),
                "window_start": window.start,
                "window_end": window.end,
                **dict(zip(self.names, values, strict=True)),
            }


def window_agg_operator(
    stream: KeyedStream,
    assigner: WindowAssigner,
    aggregates: Mapping[str, Aggregate],
    allowed_lateness_ms: int,
    late_tag: str | None,
) -> Operator:
    for name, aggregate in aggregates.items():
        if not isinstance(aggregate, Aggregate):
            raise PipelineError(f"agg: {name} is no aggregate but {aggregate!r}; write for example {name}=ps.count()")
    selector, record_type = stream.selector, stream.record_type
    if (
        isinstance(selector, KeyByColumns)
        and isinstance(assigner, TumblingEventTimeWindows)
        and not record_type.opaque
        and alike_in_columns(record_type, selector.names)
    ):
        from ..runtime.windows.columnar_windows import ColumnarWindowOperator

        return ColumnarWindowOperator(selector, assigner, aggregates, record_type, None, allowed_lateness_ms, late_tag)
    from ..runtime.windows.evaluations import Aggregate as AggregateEvaluation
    from ..runtime.windows.window_operator import WindowOperator

    key_names = selector.names if isinstance(selector, KeyByColumns) else ("key",)
    function = NamedColumns(key_names, tuple(aggregates))
    return WindowOperator(
        selector,
        assigner,
        AggregateEvaluation(RowAggregates(aggregates), function),
        _row_type(stream.key_annotation, key_names, record_type, aggregates),
        allowed_lateness_ms=allowed_lateness_ms,
        late_tag=late_tag,
        input_type=record_type,
    )


def _row_type(
    key_annotation: Any, key_names: tuple[str, ...], record_type: RecordType, aggregates: Mapping[str, Aggregate]
) -> RecordType:
    """A schema where the key's and all aggregates' types are known."""
    twice = {name for name in aggregates if name in (*key_names, "window_start", "window_end")}
    if twice:
        raise PipelineError(f"agg: two columns of the result would be named {', '.join(sorted(map(repr, twice)))}")
    if record_type.schema is None:
        return OpaqueType("the type of the records that are aggregated is not known")
    key = record_type_of(key_annotation, key_names[0]) if len(key_names) == 1 else None
    results = [pa.field(name, aggregate.result_type(record_type.schema)) for name, aggregate in aggregates.items()]
    if not isinstance(key, ScalarType):
        return OpaqueType("the type of the key is not known; annotate the key function")
    times = [pa.field(name, pa.int64(), nullable=False) for name in ("window_start", "window_end")]
    return SchemaType(pa.schema([key.schema.field(0), *times, *results]))
