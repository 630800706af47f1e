"""Restart strategies: after a failure, how long to wait before the next attempt, or that there is none.

A strategy is a frozen description; its memory is the tuple of times of past failures, which the job master keeps
and hands back. Pure, so the same failures at the same times always give the same delays.

Some failures come again however often the job is restarted (a pipeline that cannot work, a malformed record, a sum
that leaves 64 bits, state that does not fit, a damaged checkpoint): `helped_by_restart` says so, and the job fails at
once with its message.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ..runtime.units import format_duration
from ..state.errors import (
    AggregateError,
    ConfigurationError,
    DamagedCheckpointError,
    KeyTypeError,
    MalformedRecordError,
    ObjectStoreDenied,
    PipelineError,
    RecordTypeError,
    StateError,
)

HOPELESS = (
    ConfigurationError, PipelineError, RecordTypeError, KeyTypeError, StateError, MalformedRecordError,
    DamagedCheckpointError, ObjectStoreDenied, AggregateError,
)  # fmt: skip
"""The same input against the same code and store gives these again."""

MAX_REMEMBERED_FAILURES = 1_000
"""More are forgotten, oldest first: no strategy below looks further back than its own limit."""


class RestartStrategy(Protocol):
    """Pure: the same failures give the same delay."""

    def delay_ms(self, failures_ms: Sequence[int]) -> int | None:
        """How long to wait after the last of these failures (times in order, never empty); None: give up."""
        ...


@dataclass(frozen=True, slots=True)
class NoRestart:
    """The first failure is the last."""

    def delay_ms(self, failures_ms: Sequence[int]) -> int | None:
        return None


@dataclass(frozen=True, slots=True)
class FixedDelay:
    """The same pause each time, a given number of times."""

    attempts: int = 3
    """Restarts over the whole life of the job."""
    pause_ms: int = 1_000

    def delay_ms(self, failures_ms: Sequence[int]) -> int | None:
        return self.pause_ms if len(failures_ms) <= self.attempts else None


@dataclass(frozen=True, slots=True)
class ExponentialDelay:
    """A pause that grows while failures follow each other closely."""

    initial_ms: int = 1_000
    max_ms: int = 60_000
    multiplier: float = 2.0
    quiet_ms: int = 600_000
    """A job that ran this long since the delay of its last failure starts again at `initial_ms`."""
    attempts: int | None = None
    """Restarts without such a quiet time between them; None: any number."""

    def delay_ms(self, failures_ms: Sequence[int]) -> int | None:
        delay, streak, previous = float(self.initial_ms), 0, None
        for at_ms in failures_ms:
            if previous is None or at_ms - previous >= self.quiet_ms + delay:
                delay, streak = float(self.initial_ms), 1
            else:
                delay, streak = min(delay * self.multiplier, float(self.max_ms)), streak + 1
            previous = at_ms
        return None if self.attempts is not None and streak > self.attempts else int(delay)


@dataclass(frozen=True, slots=True)
class FailureRate:
    """The same pause each time, unless failures come too often."""

    max_failures: int = 3
    """So many within the interval are restarted, one more is not."""
    interval_ms: int = 600_000
    pause_ms: int = 1_000

    def delay_ms(self, failures_ms: Sequence[int]) -> int | None:
        recent = sum(1 for at_ms in failures_ms if at_ms > failures_ms[-1] - self.interval_ms)
        return self.pause_ms if recent <= self.max_failures else None


def describe_strategy(strategy: RestartStrategy) -> str:
    """For people."""
    match strategy:
        case NoRestart():
            return "none: the first failure ends the job"
        case FixedDelay(attempts, pause_ms):
            return f"fixed delay of {format_duration(pause_ms)}, {attempts} restarts"
        case ExponentialDelay(initial_ms, max_ms, multiplier, quiet_ms, attempts):
            limit = "" if attempts is None else f", {attempts} restarts before it starts anew"
            return (
                f"exponential delay from {format_duration(initial_ms)} to {format_duration(max_ms)}, each "
                f"{multiplier:g} times the last, anew after {format_duration(quiet_ms)} without a failure{limit}"
            )
        case FailureRate(max_failures, interval_ms, pause_ms):
            return (
                f"failure rate: {max_failures} within {format_duration(interval_ms)} are restarted, each after "
                f"{format_duration(pause_ms)}"
            )
    return type(strategy).__name__


def helped_by_restart(error: BaseException | None) -> bool:
    """False if the error, or what it was raised from, will come again."""
    seen = 0
    while error is not None and seen < 50:  # a chain of causes can be a circle
        if isinstance(error, HOPELESS):
            return False
        error, seen = error.__cause__, seen + 1
    return True
