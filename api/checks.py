"""What can be said about functions, fields and timestamps while a pipeline is written down."""

from __future__ import annotations

import sys
from inspect import getattr_static
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ..runtime.functions import Function, OutputTag, why_not_called_with
from ..runtime.records.record_types import RecordType
from ..state.errors import PipelineError
from .signatures import display_name, is_async

if TYPE_CHECKING:
    from ..runtime.event_time.watermarks import WatermarkStrategy


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


def check_shape(function: Any, method: str, wanted: str, *parameters: str) -> None:
    """PipelineError as check_function and check_arguments."""
    check_function(function, method)
    check_arguments(function, method, wanted, *parameters)


def check_arguments(function: Any, method: str, wanted: str, *parameters: str) -> None:
    """PipelineError for what cannot be called with as many arguments as there are parameters, or is a class of
    functions and no function. wanted: what they are. What says nothing of itself passes."""
    own = display_name(function) or "lambda"
    if isinstance(function, type) and issubclass(function, Function) and _needs_an_object(function, method):
        raise PipelineError(f"'{own}' is a class, and an object of it is needed: write {own}(…)")
    if isinstance(function, Function) and (why := why_not_called_with(function.open, 1)):
        raise PipelineError(f"open of '{own}' is to be called with a context: {why}; write def open(self, context)")
    count = len(parameters)
    if why := why_not_called_with(getattr(function, method, function), count):
        raise PipelineError(
            f"'{own}' is to be called with {wanted}, and does not take {count} argument{'s' * (count != 1)}: {why}; "
            f"write {_written(function, own, method, parameters)}"
        )


def _needs_an_object(kind: type, method: str) -> bool:
    """It has the method, which is not one of the class itself."""
    return hasattr(kind, method) and not isinstance(getattr_static(kind, method), staticmethod | classmethod)


def check_process(function: Any) -> None:
    """PipelineError for what is no function of a record and its context, or has an on_timer that cannot be called."""
    check_shape(function, "process_element", "a record and its context", "value", "ctx")
    if hasattr(function, "on_timer"):
        check_timer(function)


def check_timer(function: Any) -> None:
    """PipelineError as check_shape, of its on_timer."""
    check_shape(function, "on_timer", "a timer's time and context", "timestamp", "ctx")


def _written(function: Any, own: str, method: str, parameters: tuple[str, ...]) -> str:
    """How a function of these parameters begins."""
    if hasattr(function, method):
        return f"def {method}({', '.join(['self', *parameters])})"
    names = ", ".join(parameters)
    return f"lambda {names}: …" if own == "lambda" else f"def {own}({names})"


def check_field(record_type: RecordType, field: int | str, what: str) -> None:
    """PipelineError if the stream's type is known and has no such field."""
    if record_type.schema is None:
        return
    names = record_type.schema.names
    there = field in names if isinstance(field, str) else 0 <= field < len(names)
    if not there:
        raise PipelineError(f"{what}: there is no column {field!r}; there are {', '.join(names)}")


def check_connector(given: Any, kind: type, wanted: str) -> None:
    """PipelineError for what is no source, or no sink."""
    if isinstance(given, type) and issubclass(given, kind):
        raise PipelineError(f"{wanted}: an object, and not the class {given.__name__}; write {given.__name__}(…)")
    if not isinstance(given, kind):
        raise PipelineError(f"{wanted}, not {given!r}")


def check_tag(tag: Any, what: str) -> None:
    """PipelineError for what names no side output."""
    if not isinstance(tag, OutputTag):
        example = repr(tag) if isinstance(tag, str) else "'late'"
        raise PipelineError(f"{what} takes an OutputTag, not {tag!r}; write OutputTag({example})")


def check_summed(record_type: RecordType, field: int | str) -> None:
    """PipelineError if the field is known, and texts: adding would put them one behind the other."""
    kind = None if record_type.schema is None else record_type.schema.field(field).type
    if kind is not None and (pa.types.is_string(kind) or pa.types.is_binary(kind)):
        raise PipelineError(f"sum needs numbers, but column {field!r} is of type {kind}")


def check_strategy(
    strategy: WatermarkStrategy, record_type: RecordType, *, of_source: bool, timed: bool = True
) -> None:
    """PipelineError for what is no strategy, for a timestamp column that is not there or holds no points in time, for
    watermarks of timestamps that nobody gives, and for what cannot be aligned. timed: the source gives timestamps."""
    from ..runtime.event_time.watermarks import WatermarkStrategy

    if not isinstance(strategy, WatermarkStrategy):
        raise PipelineError(f"a WatermarkStrategy is needed, not {strategy!r}")
    if strategy.alignment is not None and not of_source:
        raise PipelineError("only sources can wait for each other: with_watermark_alignment is for a source's strategy")
    if strategy.alignment is not None and not strategy.makes_watermarks:
        raise PipelineError("with_watermark_alignment needs watermarks, and this strategy makes none")
    column = strategy.timestamp_assigner
    if column is None and not timed and strategy.out_of_orderness_ms is not None:
        raise PipelineError(
            "its watermark strategy follows the timestamps of records, and these have none; add "
            ".with_timestamp_assigner('column'), or with a function: lambda record, previous: …"
        )
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
