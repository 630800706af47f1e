"""Joins as they are written down: windowed join and co_group, interval join, broadcast join.

`a.join(b, how="left").where(key_a).equal_to(key_b).window(assigner).apply(function)`; `how` stands with `join`, for it
says which records there are results of, whatever follows. What is missing or does not fit is reported with the step
that `apply` or `process` adds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

from ..runtime.functions import OutputTag
from ..runtime.graph.partitioning import Broadcast
from ..runtime.keys import KeySelector
from ..runtime.operators.operator import Operator
from ..runtime.records.record_types import OpaqueType, RecordType
from ..state.errors import ConfigurationError, PipelineError
from .checks import check_shape, named
from .connected import check_keys, key_names, second_inputs, two_input_stream
from .keyed import KeyedStream
from .missing import Guiding
from .signatures import output_tags, returned_type, yielded_type, yields
from .streams import DataStream
from .windowed import Windowing, check_timestamps

if TYPE_CHECKING:
    from ..runtime.configuration.options import Duration
    from ..runtime.windows.assigner import WindowAssigner

Tags = tuple[OutputTag[Any] | None, OutputTag[Any] | None]


class CoGroupedStreams(Windowing):
    """Two streams whose records meet by key in windows, all of a key and window at once. (What `co_group` gives.)"""

    _kind = "co group"
    _way_on = "call where(…), equal_to(…) and window(…), and then apply(…), which gives a stream"

    def __init__(self, left: DataStream, right: DataStream) -> None:
        self._left, self._right = left, right
        self._keyed: list[KeyedStream | None] = [None, None]
        self._assigner: WindowAssigner | None = None
        self._late: Tags = (None, None)

    def where(self, key: Any, key_type: Any = None) -> Self:
        """The key of the left stream: a callable, a column's name, or a list of such names."""
        self._keyed[0] = self._left.key_by(*key_names(key), key_type=key_type)
        return self

    def equal_to(self, key: Any, key_type: Any = None) -> Self:
        """The key of the right stream, of the same type as the left one's."""
        self._keyed[1] = self._right.key_by(*key_names(key), key_type=key_type)
        return self

    def window(self, assigner: WindowAssigner) -> Self:
        self._assigner = assigner
        return self

    def side_output_late_data(self, tag: OutputTag[Any], right_tag: OutputTag[Any] | None = None) -> Self:
        """Late records of both streams to one side output, or those of the right one to a side output of their own."""
        self._late = (tag, right_tag or tag)
        return self

    def apply(self, function: Any, output_type: Any = None, *, name: str | None = None) -> DataStream:
        """A CoGroupFunction, or a callable, of the left and right records of a key and window: it yields results, or
        returns a list or None."""

        def make() -> Operator:
            check_shape(function, "co_group", "the records of both sides", "left_elements", "right_elements")
            return self._operator(function, yielded_type(function, "co_group", output_type), "co_group")

        return self._add(make, name or named(self._kind, function))

    def _operator(self, function: Any, result: RecordType, method: str) -> Operator:
        from ..runtime.joins.window_join import window_join_operator

        left, right = self._sides()
        if self._assigner is None:
            raise PipelineError(
                f"a {self._kind.replace('window ', '')} of streams needs a window: call window(…) before apply"
            )
        operator = window_join_operator(
            (left.selector, right.selector),
            self._assigner,
            function,
            (left.record_type, right.record_type),
            result,
            trigger=self._trigger,
            evictor=self._evictor,
            allowed_lateness_ms=self._allowed_lateness_ms,
            late_tags=_names(self._late),
            side_tags=output_tags(getattr(function, "function", function), method),
        )
        if self._assigner.is_event_time:
            check_timestamps(left)
            check_timestamps(right)
        return operator

    def _sides(self) -> tuple[KeyedStream, KeyedStream]:
        left, right = self._keyed
        if left is None or right is None:
            missing = "where(…)" if left is None else "equal_to(…)"
            raise PipelineError(f"both streams need a key, and one has none: call {missing} before apply")
        _check_both(left, right)
        return left, right

    def _add(self, make: Callable[[], Operator], name: str | None) -> DataStream:
        left, right = (keyed or stream for keyed, stream in zip(self._keyed, (self._left, self._right), strict=True))
        stream = two_input_stream(self._kind, make, name, left, right, second_inputs(right))
        _remember_types(stream, self._late, left, right)
        return stream


class JoinedStreams(CoGroupedStreams):
    """Two streams whose records meet by key in windows, pair by pair. (What `join` gives.)"""

    _kind = "window join"

    def __init__(self, left: DataStream, right: DataStream, how: str) -> None:
        super().__init__(left, right)
        self._how = how

    def apply(self, function: Any, output_type: Any = None, *, name: str | None = None) -> DataStream:
        """A JoinFunction, a FlatJoinFunction, or a callable of a left and a right record: one result, or, if it yields,
        any number."""

        def make() -> Operator:
            from ..runtime.joins.functions import PairsOf

            flat, result = _of_pairs(function, output_type)
            return self._operator(PairsOf(function, self._how, flat), result, "join")

        return self._add(make, name or named(self._kind, function))


class IntervalJoinedStreams(Guiding):
    """Two keyed streams whose records meet if their times are near each other. (What `interval_join` gives.)"""

    _way_on = "call between(lower, upper), and then process(…) or apply(…), which gives a stream"

    def __init__(self, left: KeyedStream, right: Any, how: str) -> None:
        self._left, self._right, self._how = left, right, how
        self._bounds: tuple[Duration, Duration] | None = None
        self._exclusive = [False, False]
        self._late: list[OutputTag[Any] | None] = [None, None]

    def between(self, lower_bound: Duration, upper_bound: Duration) -> Self:
        """A right record meets a left one if its time is from left + lower to left + upper, both in it. Bounds may be
        negative: "-5s"."""
        self._bounds = (lower_bound, upper_bound)
        return self

    def lower_bound_exclusive(self) -> Self:
        self._exclusive[0] = True
        return self

    def upper_bound_exclusive(self) -> Self:
        self._exclusive[1] = True
        return self

    def side_output_left_late_data(self, tag: OutputTag[Any]) -> Self:
        """Left records older than the watermark go to this side output instead of being dropped."""
        self._late[0] = tag
        return self

    def side_output_right_late_data(self, tag: OutputTag[Any]) -> Self:
        self._late[1] = tag
        return self

    def process(self, function: Any, output_type: Any = None, *, name: str | None = None) -> DataStream:
        """A ProcessJoinFunction, or a callable(left, right, context): it yields results, or returns a list or None."""

        def make() -> Operator:
            from ..runtime.joins.pair_calls import PairCall

            wanted = "a left record, a right record and a context"
            check_shape(function, "process_element", wanted, "left", "right", "ctx")
            result = yielded_type(function, "process_element", output_type)
            return self._operator(PairCall(function, with_context=True), result, "process_element")

        return self._add(make, name or named("interval join", function))

    def apply(self, function: Any, output_type: Any = None, *, name: str | None = None) -> DataStream:
        """A JoinFunction, a FlatJoinFunction, or a callable of a left and a right record, as after `join`."""

        def make() -> Operator:
            from ..runtime.joins.pair_calls import PairCall

            flat, result = _of_pairs(function, output_type)
            return self._operator(PairCall(function, flat=flat), result, "join")

        return self._add(make, name or named("interval join", function))

    def _operator(self, call: Any, result: RecordType, method: str) -> Operator:
        from ..runtime.joins.interval_join import IntervalJoinOperator

        left, right = self._left, self._right
        if not isinstance(right, KeyedStream):
            raise PipelineError("interval_join takes a keyed stream: call key_by(…) on the other stream as well")
        _check_both(left, right)
        lower_ms, upper_ms = self._interval()
        operator = IntervalJoinOperator(
            (left.selector, right.selector),
            call,
            (left.record_type, right.record_type),
            result,
            lower_ms=lower_ms,
            upper_ms=upper_ms,
            how=self._how,
            late_tags=_names((self._late[0], self._late[1])),
            side_tags=output_tags(call.function, method),
        )
        for stream in (left, right):
            check_timestamps(stream, "interval joins")
        return operator

    def _interval(self) -> tuple[int, int]:
        """Both in it, ms."""
        from ..runtime.windows.assigner import offset_ms

        if self._bounds is None:
            raise PipelineError("an interval join needs its bounds: call between(lower, upper) before process")
        try:
            lower_ms, upper_ms = map(offset_ms, self._bounds)
        except (ConfigurationError, TypeError) as error:
            raise PipelineError(f"between: {error}") from None
        lower_ms, upper_ms = lower_ms + self._exclusive[0], upper_ms - self._exclusive[1]
        if lower_ms > upper_ms:
            lower, upper = self._bounds
            without = " without its bounds" if any(self._exclusive) else ""
            raise PipelineError(f"between({lower!r}, {upper!r}){without} is an interval that no time lies in")
        return lower_ms, upper_ms

    def _add(self, make: Callable[[], Operator], name: str | None) -> DataStream:
        left, right = self._left, self._right
        stream = two_input_stream("interval join", make, name, left, right, second_inputs(right))
        _remember_types(stream, (self._late[0], self._late[1]), left, right)
        return stream


def broadcast_joined(
    main: DataStream, other: DataStream, keys: tuple[Any, Any], function: Any, how: str, output_type: Any,
    name: str | None,
) -> DataStream:  # fmt: skip
    """What DataStream.broadcast_join gives."""
    from ..runtime.joins.broadcast_join import BroadcastJoinOperator

    left, right = main.key_by(*key_names(keys[0])), other.key_by(*key_names(keys[1]))

    def make() -> Operator:
        flat, result = _of_pairs(function, output_type)
        for stream in (left, right):
            if stream._mistake:
                raise PipelineError(stream._mistake)
        _check_both(left, right)
        if how not in ("inner", "left"):
            raise PipelineError(
                f"a broadcast join is inner or left, not {how!r}: every subtask has all rows of the broadcast stream, "
                "and none knows whether another one has given a row out"
            )
        selectors: tuple[KeySelector, KeySelector] = (left.selector, right.selector)
        types = (main.record_type, other.record_type)
        tags = output_tags(function, "join")
        return BroadcastJoinOperator(selectors, function, flat, types, result, how=how, side_tags=tags)

    second = [replace(each, partitioning=Broadcast()) for each in second_inputs(other)]
    own = name or named("broadcast join", function)
    return two_input_stream("broadcast join", make, own, main, other, second)


# what can be wrong ------------------------------------------------------------------------------------------------


def _check_both(left: KeyedStream, right: KeyedStream) -> None:
    check_keys(left, right, "joined")


def _of_pairs(function: Any, output_type: Any) -> tuple[bool, RecordType]:
    """Whether it gives any number of results, and of which type."""
    from ..runtime.joins.functions import FlatJoinFunction

    check_shape(function, "join", "a left and a right record", "left", "right")
    if isinstance(function, FlatJoinFunction) or yields(function, "join"):
        return True, yielded_type(function, "join", output_type)
    return False, returned_type(function, "join", output_type)


def _names(tags: Tags) -> tuple[str | None, str | None]:
    for tag in tags:
        if tag is not None and not isinstance(tag, OutputTag):
            raise PipelineError(f"late records go to an OutputTag, not {tag!r}")
    left, right = tags
    return None if left is None else left.name, None if right is None else right.name


def _remember_types(stream: DataStream, late: Tags, left: DataStream, right: DataStream) -> None:
    """Late records have the types of their streams."""
    step = stream._step
    for tag, side in zip(late, (left, right), strict=True):
        if isinstance(tag, OutputTag) and step is not None:
            known = step.tag_types.setdefault(tag.name, side.record_type)
            if known != side.record_type:
                step.tag_types[tag.name] = OpaqueType("records of two types come late there")
