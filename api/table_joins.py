"""Joins of streams as tables, as they are written down: regular join, temporal join, lookup join.

Without a function their results are (left, right), with None for a side that is missing; a function, a JoinFunction or
a callable of a left and a right record, gives one result of every pair. What does not fit is reported with the step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..runtime.changelog import ChangelogMode
from ..runtime.functions import OutputTag
from ..runtime.operators.operator import Operator
from ..runtime.operators.running import state_type
from ..runtime.records.record_types import OpaqueType, RecordType, record_type_of
from ..state.errors import PipelineError
from ..state.ttl_config import StateTtlConfig
from .async_stream import Waiting, async_settings
from .changelogs import check_upsert_key, ttl_of
from .checks import check_shape, named
from .connected import check_keys, second_inputs, two_input_stream
from .keyed import KeyedStream
from .signatures import returned_type, yielded_type, yields
from .streams import DataStream
from .windowed import check_timestamps

if TYPE_CHECKING:
    from ..runtime.joins.lookup_cache import LookupCache


def regular_joined(
    left: KeyedStream,
    right: Any,
    function: Any,
    output_type: Any,
    *,
    how: str,
    ttl: Any,
    condition: Callable[[Any, Any], Any] | None,
    name: str | None,
) -> DataStream:
    """What KeyedStream.regular_join gives."""

    def make() -> Operator:
        from ..runtime.joins.functions import kept_sides
        from ..runtime.joins.regular_join import RegularJoinOperator

        _check_sides(left, right, "regular_join")
        if condition is not None:
            check_shape(condition, "condition", "a left and a right record", "left", "right")
        keeps_left, keeps_right = kept_sides(how)
        result = _result_type(function, output_type, left, right, (keeps_right, keeps_left))
        selectors, types = (left.selector, right.selector), (left.record_type, right.record_type)
        return RegularJoinOperator(selectors, function, types, result, how=how, ttls=_ttls(ttl), condition=condition)

    return _two_inputs("regular join", make, name, left, right, function)


def temporal_joined(
    left: KeyedStream,
    right: Any,
    function: Any,
    output_type: Any,
    *,
    how: str,
    late: OutputTag[Any] | None,
    name: str | None,
) -> DataStream:
    """What KeyedStream.temporal_join gives."""

    def make() -> Operator:
        from ..runtime.joins.temporal_join import TemporalJoinOperator

        _check_sides(left, right, "temporal_join")
        _check_how(how, "a temporal join", "versions of which nobody asks have no time at which that is clear")
        if late is not None and not isinstance(late, OutputTag):
            raise PipelineError(f"late records go to an OutputTag, not {late!r}")
        for stream in (left, right):
            check_timestamps(stream, "temporal joins")
        keeps_left = how == "left"
        result = _result_type(function, output_type, left, right, (False, keeps_left))
        selectors, types = (left.selector, right.selector), (left.record_type, right.record_type)
        tag = None if late is None else late.name
        if upserts := right.changelog_mode is ChangelogMode.UPSERT:
            check_upsert_key(right, right.selector)
        return TemporalJoinOperator(
            selectors, function, types, result, keeps_left=keeps_left, late_tag=tag, upserts=upserts
        )

    stream = _two_inputs("temporal join", make, name, left, right, function)
    if isinstance(late, OutputTag) and stream._step is not None:
        stream._step.tag_types[late.name] = left.record_type
    return stream


def lookup_joined(
    stream: DataStream,
    lookup: Any,
    key: tuple[Any, Any],
    function: Any,
    types: tuple[Any, Any],
    waiting: Waiting,
    *,
    how: str,
    cache: LookupCache | None,
    name: str | None,
) -> DataStream:
    """What DataStream.lookup_join gives. key: and its type. types: of the rows, of the results."""
    names = key[0] if isinstance(key[0], (list, tuple)) else (key[0],)
    keyed = stream.key_by(*names, key_type=key[1])

    def make() -> Operator:
        from ..runtime.joins.lookup_cache import LookupCache
        from ..runtime.joins.lookup_join import LookupJoinOperator

        if keyed._mistake:
            raise PipelineError(keyed._mistake.replace("key_by", "key", 1))
        _check_how(how, "a lookup join", "nobody knows which rows nobody has asked for")
        if cache is not None and not isinstance(cache, LookupCache):
            raise PipelineError(f"the cache is a LookupCache, not {cache!r}; write LookupCache(max_rows=10_000)")
        settings = async_settings(lookup, waiting)
        rows = yielded_type(lookup, waiting.method, types[0])
        keeps_left = how == "left"
        result = _joined_type(function, types[1], (stream.record_type, rows), (False, keeps_left))
        both = (stream.record_type, rows)
        return LookupJoinOperator(
            lookup, keyed.selector, function, both, result, settings, keeps_left=keeps_left, cache=cache
        )

    return stream._add("lookup join", make, name or named("lookup join", lookup))


def _two_inputs(
    kind: str, make: Callable[[], Operator], name: str | None, left: KeyedStream, right: Any, function: Any
) -> DataStream:
    own = name or (None if function is None else named(kind, function))
    second = right if isinstance(right, DataStream) else left  # the mistake is reported with the step
    return two_input_stream(kind, make, own, left, second, second_inputs(second))


def _check_sides(left: KeyedStream, right: Any, what: str) -> None:
    if not isinstance(right, KeyedStream):
        raise PipelineError(f"{what} takes a keyed stream: call key_by(…) on the other stream as well")
    check_keys(left, right, "joined")


def _check_how(how: Any, what: str, why: str) -> None:
    if how not in ("inner", "left"):
        raise PipelineError(f"{what} is inner or left, not {how!r}: {why}")


def _ttls(ttl: Any) -> tuple[StateTtlConfig | None, StateTtlConfig | None]:
    if isinstance(ttl, tuple):
        if len(ttl) != 2:
            raise PipelineError(f"ttl is a duration, or one for each side, not {ttl!r}")
        return ttl_of(ttl[0]), ttl_of(ttl[1])
    return ttl_of(ttl), ttl_of(ttl)


def _result_type(
    function: Any, output_type: Any, left: DataStream, right: DataStream, missing: tuple[bool, bool]
) -> RecordType:
    return _joined_type(function, output_type, (left.record_type, right.record_type), missing)


def _joined_type(
    function: Any, output_type: Any, types: tuple[RecordType, RecordType], missing: tuple[bool, bool]
) -> RecordType:
    """missing: whether the left, the right record of a result may be None."""
    if function is not None:
        check_shape(function, "join", "a left and a right record", "left", "right")
        if yields(function, "join"):
            raise PipelineError("it takes a function that returns one value, but this one yields; return a list, and "
                                "call flat_map behind it")  # fmt: skip
        return returned_type(function, "join", output_type)
    if output_type is not None:
        return record_type_of(output_type)
    kinds = [state_type(each) for each in types]
    if None in kinds:
        return OpaqueType("one of its sides has a type that is not declared, or a plain tuple or dict")
    left, right = [kind | None if may else kind for kind, may in zip(kinds, missing, strict=True)]
    return record_type_of(tuple[left, right])  # type: ignore[valid-type]
