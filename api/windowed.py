"""WindowedStream: a keyed stream cut into windows, each evaluated by one of the methods here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn, Self, TypeVar

from ..runtime.functions import AggregateFunction, OutputTag
from ..runtime.keys import KeyByFunction
from ..runtime.operators.operator import Operator
from ..runtime.records.record_types import RecordType
from ..runtime.units import parse_duration_ms
from ..state.errors import PipelineError
from .checks import check_shape, check_tag, named
from .keyed import KeyedStream
from .missing import Guiding
from .signatures import output_tags, returned_type, yielded_type
from .steps import with_upstream
from .streams import DataStream

if TYPE_CHECKING:
    from ..runtime.aggregation.aggregates import Aggregate
    from ..runtime.configuration.options import Duration
    from ..runtime.windows.assigner import WindowAssigner
    from ..runtime.windows.evaluations import Evaluation, Folding
    from ..runtime.windows.evictors import Evictor
    from ..runtime.windows.trigger import Trigger


AnyWindowed = TypeVar("AnyWindowed", bound="WindowedStream")

_CALLS = {
    "process": ("a window's context and its elements", ("context", "elements")),
    "apply": ("a window and its elements", ("window", "elements")),
}
"""Of window functions: what each method is called with, behind the key."""


class Windowing(Guiding):
    """What can be said about windows, of one stream or of two. Of two, trigger and evictor see the records of both as
    one stream, in the order they came."""

    _allowed_lateness_ms = 0
    _trigger: Trigger | None = None
    _evictor: Evictor | None = None

    def trigger(self, trigger: Trigger) -> Self:
        """When windows give out results; without one, when the assigner's own trigger says."""
        self._trigger = trigger
        return self

    def evictor(self, evictor: Evictor) -> Self:
        """Which records the function does not see, or not again. All of a window's records are kept for that."""
        self._evictor = evictor
        return self

    def allowed_lateness(self, lateness: Duration) -> Self:
        """A record that is late by no more than this still counts: its window fires again."""
        self._allowed_lateness_ms = parse_duration_ms(lateness, "allowed_lateness")
        return self


class WindowedStream(Windowing):
    """A keyed stream cut into windows; a method that computes something ends it (Flink's WindowedStream)."""

    _key_wanted = "a key, "
    _key_parameter: tuple[str, ...] = ("key",)
    _way_on = (
        "windows give results by a function: call agg(…), reduce(…), aggregate(…), process(…) or apply(…) first; for a "
        "count, a sum and the like agg(n=ps.count(), total=ps.sum('amount'))"
    )

    def __init__(self, stream: KeyedStream, assigner: WindowAssigner) -> None:
        self._stream = stream
        self._input_type = stream.record_type
        self._assigner = assigner
        self._late_tag: OutputTag[Any] | None = None

    def side_output_late_data(self, tag: OutputTag[Any]) -> Self:
        """Records whose window is over go to this side output instead of being dropped. PipelineError: it is none."""
        check_tag(tag, "side_output_late_data")
        self._late_tag = tag
        return self

    def reduce(
        self, function: Any, process_function: Any = None, *, two_phase: bool = False, name: str | None = None
    ) -> DataStream:
        """The combination of all records of a window; with a process (or window) function, what that makes of it.

        two_phase: records are combined before they go to the subtask of their key (docs/skew.md)."""
        from ..runtime.windows.evaluations import Reduce

        name = name or named("window reduce", function)
        windows, evaluation = self._phases(Reduce, function, name) if two_phase else (self, Reduce)

        def make() -> Operator:
            check_shape(function, "reduce", "two records", "value1", "value2")
            result = self._input_type
            if process_function is not None:
                result = self._results_of(process_function, None)
            return windows._operator(evaluation(function, self._called(process_function)), result, process_function)

        return windows._add("window reduce", make, name)

    def aggregate(
        self,
        function: Any,
        process_function: Any = None,
        output_type: Any = None,
        *,
        two_phase: bool = False,
        name: str | None = None,
    ) -> DataStream:
        """An AggregateFunction's result per key and window; with a process (or window) function, what that makes of
        it.

        two_phase: records are aggregated before they go to the subtask of their key, and what has become of them is
        merged there; for keys that most records have (docs/skew.md)."""
        from ..runtime.windows.evaluations import Aggregate

        name = name or named("window aggregate", function)
        windows, evaluation = self._phases(Aggregate, function, name) if two_phase else (self, Aggregate)

        def make() -> Operator:
            check_aggregate(function)
            if process_function is None:
                result = returned_type(function, "get_result", output_type)
            else:
                result = self._results_of(process_function, output_type)
            return windows._operator(evaluation(function, self._called(process_function)), result, process_function)

        return windows._add("window aggregate", make, name)

    def process(self, function: Any, output_type: Any = None, *, name: str | None = None) -> DataStream:
        """All records of a window to a ProcessWindowFunction: (key, context, elements)."""
        from ..runtime.windows.evaluations import Process

        def make() -> Operator:
            result = self._results_of(function, output_type, "process")
            return self._operator(Process(self._called(function)), result, function)

        return self._add("window process", make, name or named("window process", function))

    def apply(self, function: Any, output_type: Any = None, *, name: str | None = None) -> DataStream:
        """All records of a window to a WindowFunction: (key, window, elements)."""

        def make() -> Operator:
            result = self._results_of(function, output_type, "apply")
            return self._operator(self._applied(function), result, function)

        return self._add("window apply", make, name or named("window apply", function))

    def agg(
        self, *unnamed: NoReturn, two_phase: bool = False, name: str | None = None, **aggregates: Aggregate
    ) -> DataStream:
        """Named aggregates, `agg(clicks=ps.count(), longest=ps.max("duration_ms"))`, vectorised where that is possible.

        The result has the key columns, window_start and window_end (ms; not of windows without a time), and a column
        for each aggregate. two_phase: as of `aggregate`.
        """
        if unnamed:
            raise TypeError("agg(…) takes aggregates by name, which are the columns of its results: agg(n=ps.count())")
        if two_phase:
            from .two_phase import agg_in_two_phases

            return agg_in_two_phases(self, aggregates, name)

        def make() -> Operator:
            from .aggregation import window_agg_operator

            return window_agg_operator(
                self._stream, self._assigner, aggregates, self._trigger, self._evictor, **self._options()
            )

        return self._add("window agg", make, name)

    def _phases(
        self, evaluation: type[Folding], function: Any, name: str | None
    ) -> tuple[WindowedStream, type[Folding]]:
        from .two_phase import in_two_phases

        return in_two_phases(self, evaluation, lambda: function, name)

    def _operator(self, evaluation: Evaluation, result: RecordType, function: Any) -> Operator:
        from ..runtime.windows.building import window_operator

        return window_operator(
            self._stream.selector,
            self._assigner,
            evaluation,
            result,
            trigger=self._trigger,
            evictor=self._evictor,
            side_tags=frozenset() if function is None else output_tags(function, "process"),
            **self._options(),
        )

    def _options(self) -> dict[str, Any]:
        return {
            "allowed_lateness_ms": self._allowed_lateness_ms,
            "late_tag": None if self._late_tag is None else self._late_tag.name,
            "input_type": self._input_type,
        }

    def _results_of(self, function: Any, output_type: Any, method: str = "") -> RecordType:
        """Of a window function. method: which of it is called; '': `apply` if it has one, else `process`."""
        method = method or ("apply" if callable(getattr(function, "apply", None)) else "process")
        wanted, parameters = _CALLS[method]
        check_shape(function, method, f"{self._key_wanted}{wanted}", *self._key_parameter, *parameters)
        return yielded_type(function, method, output_type)

    def _called(self, function: Any) -> Any:
        """A window function as the operator calls it: with the key."""
        return function

    def _applied(self, function: Any) -> Evaluation:
        from ..runtime.windows.evaluations import Apply

        return Apply(function)

    def _add(self, kind: str, make: Any, name: str | None) -> DataStream:
        from ..runtime.windows.time_windows import TumblingEventTimeWindows

        def checked() -> Operator:
            operator: Operator = make()
            if self._assigner.is_event_time:
                check_timestamps(self._stream)
            return operator

        name = name or self._stream._env.pipeline.free_name(kind)
        if self._trigger or self._evictor or not isinstance(self._assigner, TumblingEventTimeWindows):
            kind += " on rows"  # of which nothing would run vectorised
        stream = self._stream._add(kind, checked, name)
        if self._late_tag is not None and stream._step is not None:
            stream._step.tag_types[self._late_tag.name] = self._stream.record_type
        return stream


class AllWindowedStream(WindowedStream):
    """A stream without keys cut into windows (Flink's AllWindowedStream): one subtask sees all records. Functions are
    given no key: process(context, elements), apply(window, elements)."""

    _key_wanted = ""
    _key_parameter = ()

    def __init__(self, stream: DataStream, assigner: WindowAssigner) -> None:
        from ..runtime.windows.all_windows import no_key

        super().__init__(KeyedStream(stream, KeyByFunction(no_key, type(None)), type(None)), assigner)

    def _called(self, function: Any) -> Any:
        from ..runtime.windows.all_windows import WithoutKey

        return None if function is None else WithoutKey(function, "process")

    def _applied(self, function: Any) -> Evaluation:
        from ..runtime.windows.all_windows import WithoutKey
        from ..runtime.windows.evaluations import Process

        return Process(WithoutKey(function, "apply"))

    def _add(self, kind: str, make: Any, name: str | None) -> DataStream:
        stream = super()._add(kind, make, name)
        return stream.set_parallelism(1).set_max_parallelism(1)


def count_windows(windows: AnyWindowed, size: int, slide: int | None) -> AnyWindowed:
    """Global windows that fire by count. PipelineError for what cannot be a size or a slide."""
    from ..runtime.windows.evictors import CountEvictor
    from ..runtime.windows.triggers import CountTrigger, PurgingTrigger

    for what, count in (("size", size), ("slide", slide or 1)):
        if type(count) is not int or count < 1:
            raise PipelineError(f"the {what} of a count window is an int of at least 1, not {count!r}")
    if not slide:
        return windows.trigger(PurgingTrigger(CountTrigger(size)))
    return windows.trigger(CountTrigger(slide)).evictor(CountEvictor(size))


_SAME_TIMESTAMPS = ("map", "flat map", "filter", "map batches", "select", "with columns", "timestamps")
"""Kinds of steps whose results have the timestamps of their records."""


def check_timestamps(stream: DataStream, what: str = "windows of event time") -> None:
    """PipelineError if some of its records have none for sure."""
    needing = {upstream.step.id for upstream in stream._inputs}
    for step in reversed(with_upstream([upstream.step for upstream in stream._inputs])):
        strategy = getattr(step.operator, "strategy", None)
        if step.id not in needing or getattr(strategy, "timestamp_assigner", None) is not None:
            continue
        if step.kind in _SAME_TIMESTAMPS:
            needing |= {upstream.step.id for upstream in step.inputs}
        elif step.source is not None and not step.source.gives_timestamps:
            raise PipelineError(
                f"{what} need records with timestamps, and those of '{step.name}' have none; give it a "
                "WatermarkStrategy with a timestamp assigner, or call assign_timestamps_and_watermarks(…)"
            )


_FOLDS = {
    "create_accumulator": ("nothing", ()),
    "add": ("a record and an accumulator", ("value", "accumulator")),
    "get_result": ("an accumulator", ("accumulator",)),
}


def check_aggregate(function: Any) -> None:
    for method, (wanted, parameters) in _FOLDS.items():
        if not callable(getattr(function, method, None)):
            raise PipelineError(f"aggregate needs an AggregateFunction, but {function!r} has no method {method}()")
        check_shape(function, method, wanted, *parameters)
    if getattr(function, "merge", AggregateFunction.merge) is not AggregateFunction.merge:
        check_shape(function, "merge", "two accumulators", "acc_a", "acc_b")
