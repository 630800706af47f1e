"""What users implement for asynchronous I/O: AsyncFunction, and when a call is tried again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from ..state.errors import ConfigurationError
from .functions import Function
from .units import parse_duration_ms

Predicate = Callable[[Any], bool]


class AsyncFunction(Function, ABC):
    """One record in, any number out, from a service that takes its time; many calls are under way at once.

    With `async def` all calls of a subtask share an event loop, which is not the thread of the subtask. A plain
    method is called on a thread of its own. Neither may keep state: after a restore every call that had no result in
    the checkpoint is made again."""

    @abstractmethod
    def async_invoke(self, value: Any) -> Any:
        """Results of the record: an iterable, or None. Usually `async def`."""

    def timeout(self, value: Any) -> Iterable[Any] | None:
        """Results of a record whose calls had none in time. By default it raises, which fails the task."""
        raise TimeoutError("no result in time; raise timeout=, or give the function a timeout() of its own")


class LookupFunction(Function, ABC):
    """Rows of a key, from a service that takes its time; for lookup joins. As with an AsyncFunction, with `async def`
    all calls of a subtask share an event loop, and a plain method is called on a thread of its own."""

    @abstractmethod
    def lookup(self, key: Any) -> Any:
        """An iterable of rows, or None."""

    def timeout(self, key: Any) -> Iterable[Any] | None:
        """Rows of a key whose calls had none in time. By default it raises, which fails the task."""
        raise TimeoutError("no rows in time")


@dataclass(frozen=True)
class AsyncRetryStrategy:
    """Whether and when a call is made again. All calls for one record together have the operator's timeout.

    A call is repeated if `exception_predicate` says so of its error, or `result_predicate` of its result: without
    either, after every error. Subclasses may override `delay_ms`."""

    max_attempts: int
    """So many more calls after the first one. What the last one gives, a result or an error, counts."""
    initial_delay_ms: int
    max_delay_ms: int
    multiplier: float = 1.0
    result_predicate: Predicate | None = None
    exception_predicate: Predicate | None = None

    def __post_init__(self) -> None:
        if self.max_attempts < 1:
            raise ConfigurationError(f"retries: max_attempts must be at least 1, not {self.max_attempts}")
        if self.initial_delay_ms < 1:
            raise ConfigurationError("retries: the delay must be at least 1 ms")
        if self.multiplier < 1:
            raise ConfigurationError(f"retries: the multiplier must be at least 1, not {self.multiplier}")
        for predicate in (self.result_predicate, self.exception_predicate):
            if predicate is not None and not callable(predicate):
                raise ConfigurationError(f"retries: a predicate is a function, not {predicate!r}")

    @staticmethod
    def fixed_delay(
        max_attempts: int,
        backoff_time_millis: int | str | timedelta,
        result_predicate: Predicate | None = None,
        exception_predicate: Predicate | None = None,
    ) -> AsyncRetryStrategy:
        """The same pause before each further call. ConfigurationError: not a number of attempts, or a duration."""
        delay_ms = parse_duration_ms(backoff_time_millis)
        return AsyncRetryStrategy(max_attempts, delay_ms, delay_ms, 1.0, result_predicate, exception_predicate)

    @staticmethod
    def exponential_backoff(
        max_attempts: int,
        initial_delay: int | str | timedelta,
        max_retry_delay: int | str | timedelta,
        multiplier: float = 2.0,
        result_predicate: Predicate | None = None,
        exception_predicate: Predicate | None = None,
    ) -> AsyncRetryStrategy:
        """Pauses that grow by a factor, up to a limit. ConfigurationError as with fixed_delay."""
        first_ms, longest_ms = parse_duration_ms(initial_delay), parse_duration_ms(max_retry_delay)
        return AsyncRetryStrategy(max_attempts, first_ms, longest_ms, multiplier, result_predicate, exception_predicate)

    def delay_ms(self, attempt: int) -> int | None:
        """What the next call waits for after call number `attempt` (from 1); None: there is none."""
        if attempt > self.max_attempts:
            return None
        try:
            return round(min(self.max_delay_ms, self.initial_delay_ms * self.multiplier ** (attempt - 1)))
        except OverflowError:  # of the power, long after the limit
            return self.max_delay_ms

    def repeats_error(self, error: Exception) -> bool:
        if self.exception_predicate is None:
            return self.result_predicate is None
        return bool(self.exception_predicate(error))

    def repeats_result(self, result: Any) -> bool:
        return self.result_predicate is not None and bool(self.result_predicate(result))
