"""Asynchronous I/O as it is written down: AsyncDataStream, with PyFlink's names, and what map_async of a stream makes.

What can be wrong is refused here: functions that yield, a timeout or capacity of nothing, state where there is none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from inspect import isasyncgenfunction
from typing import TYPE_CHECKING, Any

from ..runtime.async_functions import AsyncRetryStrategy
from ..runtime.operator_state import CheckpointedFunction
from ..runtime.operators.operator import Operator
from ..runtime.records.record_types import RecordType
from ..runtime.units import parse_duration_ms
from ..state.errors import PipelineError
from .checks import check_arguments, named
from .signatures import display_name, implementation, is_async, returned_type, yielded_type, yields
from .streams import DataStream

if TYPE_CHECKING:
    from ..runtime.configuration.options import Duration
    from ..runtime.operators.async_io import AsyncSettings

LARGEST_CAPACITY = 1_000_000
"""Records that are held back are in memory, and in every checkpoint."""


class AsyncDataStream:
    """Streams with an AsyncFunction: any number of results per record (Flink's AsyncDataStream). `timeout` is that of
    a record, over all calls for it; up to `capacity` records per subtask are called for at once."""

    @staticmethod
    def unordered_wait(
        data_stream: DataStream,
        async_function: Any,
        timeout: Duration,
        capacity: int = 100,
        output_type: Any = None,
        *,
        name: str | None = None,
    ) -> DataStream:
        """Results as they come; none passes a watermark."""
        waiting = Waiting("async_invoke", False, capacity, timeout)
        return _added(data_stream, async_function, output_type, waiting, name)

    @staticmethod
    def unordered_wait_with_retry(
        data_stream: DataStream,
        async_function: Any,
        timeout: Duration,
        async_retry_strategy: AsyncRetryStrategy,
        capacity: int = 100,
        output_type: Any = None,
        *,
        name: str | None = None,
    ) -> DataStream:
        """The same; calls may be repeated."""
        waiting = Waiting("async_invoke", False, capacity, timeout, async_retry_strategy)
        return _added(data_stream, async_function, output_type, waiting, name)

    @staticmethod
    def ordered_wait(
        data_stream: DataStream,
        async_function: Any,
        timeout: Duration,
        capacity: int = 100,
        output_type: Any = None,
        *,
        name: str | None = None,
    ) -> DataStream:
        """Results in the order of their records."""
        waiting = Waiting("async_invoke", True, capacity, timeout)
        return _added(data_stream, async_function, output_type, waiting, name)

    @staticmethod
    def ordered_wait_with_retry(
        data_stream: DataStream,
        async_function: Any,
        timeout: Duration,
        async_retry_strategy: AsyncRetryStrategy,
        capacity: int = 100,
        output_type: Any = None,
        *,
        name: str | None = None,
    ) -> DataStream:
        """The same; calls may be repeated."""
        waiting = Waiting("async_invoke", True, capacity, timeout, async_retry_strategy)
        return _added(data_stream, async_function, output_type, waiting, name)


@dataclass(frozen=True, slots=True)
class Waiting:
    """What is said about an asynchronous operator. `method`: of function objects; a `map` has one result."""

    method: str
    ordered: bool
    capacity: int
    timeout: Duration
    retry: AsyncRetryStrategy | None = None
    on_timeout: Callable[[Any], Any] | None = None


def _added(stream: DataStream, function: Any, output_type: Any, waiting: Waiting, name: str | None) -> DataStream:
    make = lambda: async_operator(stream.record_type, function, output_type, waiting)  # noqa: E731
    return stream._add("async wait", make, name or named("async", function))


def async_operator(input_type: RecordType, function: Any, output_type: Any, waiting: Waiting) -> Operator:
    """PipelineError, ConfigurationError: what is said cannot be."""
    from ..runtime.operators.async_io import AsyncOperator

    settings = async_settings(function, waiting)
    result = (returned_type if settings.single else yielded_type)(function, waiting.method, output_type)
    return AsyncOperator(function, input_type, result, settings)


def async_settings(function: Any, waiting: Waiting) -> AsyncSettings:
    """PipelineError, ConfigurationError as async_operator."""
    from ..runtime.operators.async_io import AsyncSettings

    method, single = waiting.method, waiting.method == "map"
    _check_function(function, method, single=single)
    timeout_ms = parse_duration_ms(waiting.timeout)
    if timeout_ms < 1:
        raise PipelineError("the timeout must be at least 1 ms: a call that never ends would hold the job up for ever")
    capacity = waiting.capacity
    if not isinstance(capacity, int) or isinstance(capacity, bool) or not 1 <= capacity <= LARGEST_CAPACITY:
        raise PipelineError(f"the capacity must be between 1 and {LARGEST_CAPACITY}, not {capacity!r}")
    if waiting.retry is not None and not isinstance(waiting.retry, AsyncRetryStrategy):
        raise PipelineError(
            f"the retry strategy is an AsyncRetryStrategy, not {waiting.retry!r}; "
            "write AsyncRetryStrategy.fixed_delay(3, '100ms')"
        )
    handler = waiting.on_timeout or getattr(function, "timeout", None)
    if handler is not None and (not callable(handler) or is_async(handler, "") or yields(handler, "")):
        raise PipelineError("what handles a timeout is a plain function that returns what a call returns")
    return AsyncSettings(
        method, single, is_async(function, method), waiting.ordered, capacity, timeout_ms, waiting.retry,
        waiting.on_timeout,
    )  # fmt: skip


def _check_function(function: Any, method: str, *, single: bool) -> None:
    if not callable(getattr(function, method, function)):
        raise PipelineError(f"a function is needed, but {function!r} is not callable and has no method {method}()")
    name = display_name(function) or "the function"
    wanted, parameter = ("a key", "key") if method == "lookup" else ("a record", "value")
    check_arguments(function, method, wanted, parameter)
    if isasyncgenfunction(implementation(function, method)):
        raise PipelineError(f"'{name}' is async def and yields; return its results, in a list")
    if single and yields(function, method):
        raise PipelineError(f"map_async takes what returns one value, but '{name}' yields; use an AsyncFunction")
    for other in ("open", "close"):
        if hasattr(function, other) and is_async(function, other):
            raise PipelineError(f"{other}() of '{name}' is async def; only calls for records are awaited")
    if isinstance(function, CheckpointedFunction):
        raise PipelineError(
            f"'{name}' is a CheckpointedFunction, but asynchronous calls have no state: they run beside the subtask, "
            "and are made again after a restore"
        )
