"""WindowedStream: a keyed stream cut into windows, each evaluated by one of the methods here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..runtime.functions import OutputTag
from ..runtime.operators.operator import Operator
from ..runtime.record_types import RecordType
from ..runtime.units import parse_duration_ms
from ..state.errors import PipelineError
from .keyed import KeyedStream
from .signatures import output_tags
from .streams import DataStream, check_function, named, returned_type, yielded_type

if TYPE_CHECKING:
    from ..runtime.aggregates import Aggregate
    from ..runtime.options import Duration
    from ..runtime.windows.assigners import WindowAssigner
    from ..runtime.windows.evaluations import Evaluation
    from ..runtime.windows.triggers import Trigger


class WindowedStream:
    """A keyed stream cut into windows; a method that computes something ends it (Flink's WindowedStream)."""

    def __init__(self, stream: KeyedStream, assigner: WindowAssigner) -> None:
        self._stream = stream
        self._assigner = assigner
        self._allowed_lateness_ms = 0
        self._late_tag: OutputTag[Any] | None = None
        self._trigger: Trigger | None = None

    def trigger(self, trigger: Trigger) -> WindowedStream:
        """When windows give out results; without one, when the assigner's own trigger says."""
        self._trigger = trigger
        return self

    def allowed_lateness(self, lateness: Duration) -> WindowedStream:
        """A record that is late by no more than this still counts: its window fires again."""
        self._allowed_lateness_ms = parse_duration_ms(lateness)
        return self

    def side_output_late_data(self, tag: OutputTag[Any]) -> WindowedStream:
        """Records whose window is over go to this side output instead of being dropped."""
        self._late_tag = tag
        return self

    def reduce(self, function: Any, process_function: Any = None, *, name: str | None = None) -> DataStream:
        """The combination of all records of a window; with a process function, what that makes of it."""
        from ..runtime.windows.evaluations import Reduce

        def make() -> Operator:
            check_function(function, "reduce")
            result = self._stream.record_type
            if process_function is not None:
                check_function(process_function, "process")
                result = yielded_type(process_function, "process", None)
            return self._operator(Reduce(function, process_function), result, process_function)

        return self._add("window reduce", make, name or named("window reduce", function))

    def aggregate(
        self, function: Any, process_function: Any = None, output_type: Any = None, *, name: str | None = None
    ) -> DataStream:
        """An AggregateFunction's result per key and window; with a process function, what that makes of it."""
        from ..runtime.windows.evaluations import Aggregate

        def make() -> Operator:
            _check_aggregate(function)
            if process_function is None:
                result = returned_type(function, "get_result", output_type)
            else:
                check_function(process_function, "process")
                result = yielded_type(process_function, "process", output_type)
            return self._operator(Aggregate(function, process_function), result, process_function)

        return self._add("window aggregate", make, name or named("window aggregate", function))

    def process(self, function: Any, output_type: Any = None, *, name: str | None = None) -> DataStream:
        """All records of a window to a ProcessWindowFunction: (key, context, elements)."""
        from ..runtime.windows.evaluations import Process

        def make() -> Operator:
            check_function(function, "process")
            return self._operator(Process(function), yielded_type(function, "process", output_type), function)

        return self._add("window process", make, name or named("window process", function))

    def apply(self, function: Any, output_type: Any = None, *, name: str | None = None) -> DataStream:
        """All records of a window to a WindowFunction: (key, window, elements)."""
        from ..runtime.windows.evaluations import Apply

        def make() -> Operator:
            check_function(function, "apply")
            return self._operator(Apply(function), yielded_type(function, "apply", output_type), function)

        return self._add("window apply", make, name or named("window apply", function))

    def agg(self, *, name: str | None = None, **aggregates: Aggregate) -> DataStream:
        """Named aggregates, `agg(clicks=ps.count(), longest=ps.max("duration_ms"))`, vectorised where that is possible.

        The result has the key columns, window_start and window_end (ms), and a column for each aggregate.
        """

        def make() -> Operator:
            from .aggregation import window_agg_operator

            if not aggregates:
                raise PipelineError("agg needs at least one aggregate, for example agg(n=ps.count())")
            if self._trigger is not None:
                raise PipelineError(
                    "agg gives a window's result when the watermark passes it; use aggregate(…) with a trigger"
                )
            return window_agg_operator(
                self._stream, self._assigner, aggregates, self._allowed_lateness_ms, self._late_name()
            )

        return self._add("window agg", make, name)

    def _operator(self, evaluation: Evaluation, result: RecordType, function: Any) -> Operator:
        from ..runtime.windows.window_operator import WindowOperator

        tags = frozenset() if function is None else output_tags(function, "process")
        return WindowOperator(
            self._stream.selector,
            self._assigner,
            evaluation,
            result,
            trigger=self._trigger,
            allowed_lateness_ms=self._allowed_lateness_ms,
            late_tag=self._late_name(),
            side_tags=tags,
            input_type=self._stream.record_type,
        )

    def _late_name(self) -> str | None:
        return None if self._late_tag is None else self._late_tag.name

    def _add(self, kind: str, make: Any, name: str | None) -> DataStream:
        stream = self._stream._add(kind, make, name)
        if self._late_tag is not None and stream._step is not None:
            stream._step.tag_types[self._late_tag.name] = self._stream.record_type
        return stream


def _check_aggregate(function: Any) -> None:
    for method in ("create_accumulator", "add", "get_result"):
        if not callable(getattr(function, method, None)):
            raise PipelineError(f"aggregate needs an AggregateFunction, but {function!r} has no method {method}()")
        check_function(function, method)
