"""What can be said about functions, fields and timestamps while a pipeline is written down."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ..runtime.functions import why_not_called_with
from ..runtime.record_types import RecordType
from ..state.errors import PipelineError
from .signatures import display_name, is_async

if TYPE_CHECKING:
    from ..runtime.watermarks import WatermarkStrategy


def is_expression(value: Any) -> bool:
    """Whether it is a polars expression; asked without importing polars."""
    polars = sys.modules.get("polars")
    return polars is not None and isinstance(value, polars.Expr)


def named(kind: str, function: Any) -> str | None:
    """'map parse', from the function's name; None (a default name) for a lambda."""
    own = display_name(function)
    return f"{kind} {own}" if own else None


def check_function(function: Any, method: str) -> None:
    """PipelineError if it is no function, or an asynchronous one."""
    if not callable(getattr(function, method, function)):
        raise PipelineError(f"a function is needed, but {function!r} is not callable and has no method {method}()")
    if is_async(function, method):
        raise PipelineError(
            f"'{display_name(function)}' is async def, whose result would be a coroutine and not a record; "
            "use a plain function, or map_async"
        )


def check_shape(function: Any, method: str, wanted: str, count: int) -> None:
    """PipelineError as check_function, and for what cannot be called with so many arguments. wanted: what they are."""
    check_function(function, method)
    if why := why_not_called_with(getattr(function, method, function), count):
        own = f"'{display_name(function) or 'lambda'}'"
        raise PipelineError(
            f"{own} is to be called with {wanted}, and does not take {count} argument{'s' * (count != 1)}: {why}"
        )


def check_field(record_type: RecordType, field: int | str, what: str) -> None:
    """PipelineError if the stream's type is known and has no such field."""
    if record_type.schema is None:
        return
    names = record_type.schema.names
    there = field in names if isinstance(field, str) else 0 <= field < len(names)
    if not there:
        raise PipelineError(f"{what}: there is no column {field!r}; there are {', '.join(names)}")


def check_strategy(strategy: WatermarkStrategy, record_type: RecordType, *, of_source: bool) -> None:
    """PipelineError for what is no strategy, for a timestamp column that is not there or holds no points in time, and
    for what cannot be aligned."""
    from ..runtime.watermarks import WatermarkStrategy

    if not isinstance(strategy, WatermarkStrategy):
        raise PipelineError(f"a WatermarkStrategy is needed, not {strategy!r}")
    if strategy.alignment is not None and not of_source:
        raise PipelineError("only sources can wait for each other: with_watermark_alignment is for a source's strategy")
    if strategy.alignment is not None and not strategy.makes_watermarks:
        raise PipelineError("with_watermark_alignment needs watermarks, and this strategy makes none")
    column = strategy.timestamp_assigner
    if not isinstance(column, str) or record_type.schema is None:
        return
    check_field(record_type, column, "timestamp assigner")
    kind = record_type.schema.field(column).type
    if pa.types.is_timestamp(kind) and kind.tz is None:
        raise PipelineError(
            f"timestamp assigner: column {column!r} holds naive datetimes, which are no points in time; "
            "give them a time zone"
        )
    if not (pa.types.is_integer(kind) or pa.types.is_timestamp(kind)):
        raise PipelineError(
            f"timestamp assigner: column {column!r} is of type {kind}; timestamps are ints (ms) or aware datetimes"
        )


def guarded_types(strategy: WatermarkStrategy, record_type: RecordType) -> dict[str, RecordType]:
    """Type of the side output that records with timestamps in the future go to, if there is one."""
    guard = getattr(strategy, "future_guard", None)
    return {} if guard is None or guard.tag is None else {guard.tag.name: record_type}
