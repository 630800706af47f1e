"""KeyedStream: a stream partitioned by key, where functions have state per key."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..runtime.graph.partitioning import Hash
from ..runtime.keys import KeyByColumns, KeyByFunction, KeySelector
from ..runtime.operators.operator import Operator
from ..runtime.records.record_types import record_type_of
from ..state.errors import KeyTypeError, PipelineError
from .checks import check_field, check_process, check_shape, check_summed, named
from .signatures import UNKNOWN, output_tags, return_annotation, yielded_type
from .steps import Upstream
from .streams import DataStream

if TYPE_CHECKING:
    from ..runtime.configuration.options import Duration
    from ..runtime.functions import OutputTag
    from ..runtime.windows.assigner import WindowAssigner
    from .joins import IntervalJoinedStreams
    from .windowed import WindowedStream


class KeyedStream(DataStream):
    """What key_by gives. Operations of DataStream work too; their records arrive partitioned by key."""

    def __init__(self, stream: DataStream, selector: KeySelector, key_annotation: Any = Any, mistake: str = "") -> None:
        inputs = [Upstream(each.step, Hash(selector), each.tag) for each in stream._inputs]
        super().__init__(stream._env, inputs, stream.record_type)
        self.selector = selector
        self.key_annotation = key_annotation
        self._mistake = mistake

    def process(self, function: Any, output_type: Any = None, *, name: str | None = None) -> DataStream:
        """Any number of results per record, with state and timers per key: a KeyedProcessFunction."""
        from ..runtime.operators.keyed_process import KeyedProcessOperator

        def make() -> Operator:
            check_process(function)
            result = yielded_type(function, "process_element", output_type)
            return KeyedProcessOperator(function, self.selector, result, output_tags(function, "process_element"))

        return self._add("process", make, name or named("process", function))

    def reduce(self, function: Any, *, name: str | None = None) -> DataStream:
        """A running reduce: for every record the combination of all of its key so far."""
        from ..runtime.operators.running import RunningReduceOperator

        def make() -> Operator:
            check_shape(function, "reduce", "two records", "value1", "value2")
            return RunningReduceOperator(self.selector, function, self.record_type)

        return self._add("reduce", make, name or named("reduce", function))

    def sum(self, field: int | str = 0, *, name: str | None = None) -> DataStream:
        """For every record, the record with the field's sum of all of its key so far."""
        return self._running("sum", field, name)

    def min(self, field: int | str = 0, *, name: str | None = None) -> DataStream:
        """For every record, the key's first record with the field's minimum so far."""
        return self._running("min", field, name)

    def max(self, field: int | str = 0, *, name: str | None = None) -> DataStream:
        """For every record, the key's first record with the field's maximum so far."""
        return self._running("max", field, name)

    def min_by(self, field: int | str = 0, *, name: str | None = None) -> DataStream:
        """For every record, the key's record that has the minimum of the field so far."""
        return self._running("min_by", field, name)

    def max_by(self, field: int | str = 0, *, name: str | None = None) -> DataStream:
        """For every record, the key's record that has the maximum of the field so far."""
        return self._running("max_by", field, name)

    def count(self, *, name: str | None = None) -> DataStream:
        """For every record, how many of its key have come so far: an int."""
        return self._running("count", 0, name)

    def window(self, assigner: WindowAssigner) -> WindowedStream:
        from .windowed import WindowedStream

        return WindowedStream(self, assigner)

    def count_window(self, size: int, slide: int | None = None) -> WindowedStream:
        """Windows of `size` records of a key; with a slide, after every `slide` records the last `size` of them. What
        does not fill a window is not given out, at the end of the input neither (as in Flink)."""
        from ..runtime.windows.global_windows import GlobalWindows
        from .windowed import count_windows

        return count_windows(self.window(GlobalWindows()), size, slide)

    def interval_join(self, other: KeyedStream, how: str = "inner") -> IntervalJoinedStreams:
        """Pairs of records with equal keys and times near each other: `interval_join(b).between("-5s", "10s")`.

        how: "left", "right" and "full" give out records without a partner as well, with None in its place, once the
        watermark says that none can come any more."""
        from .joins import IntervalJoinedStreams

        return IntervalJoinedStreams(self, other, how)

    def regular_join(
        self,
        other: KeyedStream,
        function: Any = None,
        output_type: Any = None,
        *,
        how: str = "inner",
        ttl: Duration | tuple[Duration | None, Duration | None] | None = None,
        condition: Callable[[Any, Any], Any] | None = None,
        name: str | None = None,
    ) -> DataStream:
        """Every record with every record of the other stream with its key, whenever they come (Flink's regular join).

        how: "inner", "left", "right" or "full"; all but inner give a changelog. ttl: how long records are kept, by the
        clock; of both sides, or (left, right); None: for ever. A record of an outer side is kept anew whenever it finds
        a partner. condition: of a left and a right record, what more must
        hold. Without a function results are (left, right); a function must give equal results of equal records."""
        from .table_joins import regular_joined

        return regular_joined(self, other, function, output_type, how=how, ttl=ttl, condition=condition, name=name)

    def temporal_join(
        self,
        versions: KeyedStream,
        function: Any = None,
        output_type: Any = None,
        *,
        how: str = "inner",
        late: OutputTag[Any] | None = None,
        name: str | None = None,
    ) -> DataStream:
        """Every record with the version that was valid at its time: the newest of its key, not younger than it.

        how: "inner", or "left" (without a version: None). late: a side output for records older than the watermark.
        Without a function results are (record, version)."""
        from .table_joins import temporal_joined

        return temporal_joined(self, versions, function, output_type, how=how, late=late, name=name)

    def _running(self, kind: str, field: int | str, name: str | None) -> DataStream:
        from ..runtime.operators.running import RunningAggregateOperator

        def make() -> Operator:
            result = record_type_of(int) if kind == "count" else self.record_type
            if kind != "count":
                check_field(self.record_type, field, kind)
            if kind == "sum":
                check_summed(self.record_type, field)
            return RunningAggregateOperator(self.selector, kind, field, result)

        return self._add(kind.replace("_", " "), make, name)

    def _add(self, kind: str, make: Callable[[], Operator], name: str | None) -> DataStream:
        def checked() -> Operator:
            if self._mistake:
                raise PipelineError(self._mistake)
            return make()

        return super()._add(kind, checked, name)


def keyed_stream(stream: DataStream, key: tuple[Any, ...], key_type: Any) -> KeyedStream:
    """A mistake in the key is reported with the operator that uses it."""
    try:
        if key and all(isinstance(name, str) for name in key):
            for name in key:
                check_field(stream.record_type, name, "key_by")
            return KeyedStream(stream, KeyByColumns(key, key_type), key_type)
        return _by_function(stream, key, key_type)
    except (PipelineError, KeyTypeError) as error:
        message = str(error)
        mistake = message if message.startswith("key_by") else f"key_by: {message}"
        return KeyedStream(stream, KeyByColumns(()), mistake=mistake)


def _by_function(stream: DataStream, key: tuple[Any, ...], key_type: Any) -> KeyedStream:
    if len(key) != 1:
        raise PipelineError("key_by takes one function, or the names of columns")
    check_shape(key[0], "get_key", "a record", "value")
    annotation = return_annotation(key[0], "get_key") if key_type is None else key_type
    known = annotation is not UNKNOWN
    return KeyedStream(stream, KeyByFunction(key[0], annotation if known else None), annotation if known else Any)
