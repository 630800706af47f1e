"""Windows in two phases, as `two_phase=True` asks for: a step that folds records where they are, in front of the one
that has the windows. runtime/windows/two_phase.py says what is guaranteed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from operator import itemgetter
from typing import Any

from ..runtime.aggregation.aggregates import Aggregate as NamedAggregate
from ..runtime.aggregation.aggregates import RowAggregates
from ..runtime.keys import KeyByColumns, KeyByFunction
from ..runtime.operators.operator import Operator
from ..runtime.records.record_types import OPAQUE, RecordType, record_type_of
from ..runtime.windows.evaluations import Aggregate, Folding, accumulator_type
from ..runtime.windows.time_windows import TumblingEventTimeWindows
from ..runtime.windows.two_phase import OF_PARTIALS, LocalWindowOperator, check_two_phase, partial_type
from ..state.errors import PipelineError
from .aggregation import check_aggregates, fields_of, runs_on_columns, window_agg_operator
from .checks import check_shape
from .keyed import KeyedStream
from .steps import Step, Upstream
from .streams import DataStream
from .windowed import AnyWindowed, WindowedStream, check_aggregate, check_timestamps


def in_two_phases(
    windows: AnyWindowed, kind: type[Folding], make_function: Callable[[], Any], name: str | None
) -> tuple[AnyWindowed, type[Folding]]:
    """The same windows of what the local phase gives, and how they are evaluated. `make_function`: of `aggregate` or
    `reduce`; what is wrong with it is told as a mistake of the local phase."""
    stream = windows._stream

    def make() -> Operator:
        if stream._mistake:
            raise PipelineError(stream._mistake)
        function = make_function()
        if kind is Aggregate:
            check_aggregate(function)
        else:
            check_shape(function, "reduce", "two records", "value1", "value2")
        evaluation, assigner = kind(function), windows._assigner
        check_two_phase(assigner, evaluation, windows._trigger, windows._evictor, windows._late_tag)
        check_timestamps(stream)
        return LocalWindowOperator(stream.selector, assigner, evaluation, _partial_type(stream, evaluation))  # type: ignore[arg-type]

    step = local_step(stream, make, name)
    partials = copy.copy(windows)
    known = stream.key_annotation is not Any and not isinstance(stream.selector, KeyByColumns)
    selector = KeyByFunction(itemgetter(0), stream.key_annotation if known else None)
    output = DataStream(stream._env, [Upstream(step)], step.output_type, step)
    partials._stream = KeyedStream(output, selector, stream.key_annotation)
    return partials, OF_PARTIALS[kind]


def agg_in_two_phases(
    windows: WindowedStream, aggregates: Mapping[str, NamedAggregate], name: str | None
) -> DataStream:
    """`windows.agg(…)`: on columns where one phase is, and all accumulators can be merged there."""
    if _on_columns(windows, aggregates):
        return _agg_on_columns(windows, aggregates, name)

    def function() -> RowAggregates:
        check_aggregates(aggregates)
        return RowAggregates(aggregates, fields_of(windows._stream.record_type))

    partials, _ = in_two_phases(windows, Aggregate, function, name or "window agg")

    def make() -> Operator:
        return window_agg_operator(
            windows._stream, windows._assigner, aggregates, merged_by=partials._stream.selector, **partials._options()
        )

    return partials._add("window agg", make, name)


def _on_columns(windows: WindowedStream, aggregates: Mapping[str, NamedAggregate]) -> bool:
    stream, schema = windows._stream, windows._stream.record_type.schema
    if stream._mistake or schema is None or windows._late_tag is not None:
        return False
    from ..runtime.windows.columnar_two_phase import can_merge_columns

    try:
        check_aggregates(aggregates)
        return runs_on_columns(stream, windows._assigner, windows._trigger, windows._evictor) and can_merge_columns(
            aggregates, schema
        )
    except PipelineError:
        return False  # told by the operator on rows


def _agg_on_columns(windows: WindowedStream, aggregates: Mapping[str, NamedAggregate], name: str | None) -> DataStream:
    from ..runtime.windows.columnar_two_phase import ColumnarLocalOperator, global_operator

    stream, assigner, selector = windows._stream, windows._assigner, windows._stream.selector
    assert isinstance(selector, KeyByColumns)
    assert isinstance(assigner, TumblingEventTimeWindows)

    def make_local() -> Operator:
        check_timestamps(stream)
        return ColumnarLocalOperator(selector, assigner, aggregates, stream.record_type)

    step = local_step(stream, make_local, name or "window agg")
    output = DataStream(stream._env, [Upstream(step)], step.output_type, step)
    partials = copy.copy(windows)
    partials._stream = KeyedStream(output, KeyByColumns(selector.names), stream.key_annotation)

    def make() -> Operator:
        lateness_ms = windows._allowed_lateness_ms
        return global_operator(selector, assigner, aggregates, stream.record_type, step.output_type, lateness_ms)

    return partials._add("window agg", make, name)


def local_step(stream: KeyedStream, make: Any, name: str | None) -> Step:
    """In front of the exchange, with the parallelism of what is before it."""
    inputs = [Upstream(each.step, None, each.tag) for each in stream._inputs]
    pipeline = stream._env.pipeline
    step = pipeline.add("local windows", make, inputs, name=pipeline.free_name(f"local {name or 'windows'}"))
    parallelisms = {each.step.parallelism for each in inputs}
    if len(parallelisms) == 1:
        step.parallelism = parallelisms.pop()
    return step


def _partial_type(stream: KeyedStream, evaluation: Folding) -> RecordType:
    if isinstance(evaluation, Aggregate):
        kind = accumulator_type(evaluation.function)
        contents = OPAQUE if kind is None else record_type_of(kind)
    else:
        contents = stream.record_type
    return partial_type(Any if stream.key_annotation is None else stream.key_annotation, contents)
