"""Watermark strategies: how records get timestamps, and streams watermarks (Flink's WatermarkStrategy).

Who makes watermarks: every split of a source has a generator of its own (watermark_generators.py), made by the
strategy, for a split that is ahead must not make another one's records late. watermark_merge.py combines them, and
likewise the channels of a task's inputs. A strategy is picklable and has no state.

Against clocks that are wrong there is a guard (`with_future_guard`); against sources that run ahead of others there is
alignment (`with_watermark_alignment`, runtime/operators/source_alignment.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import Any

from ...state.errors import ConfigurationError, PipelineError
from ..batch import Batch
from ..functions import OutputTag, callable_of, why_not_called_with
from ..units import parse_duration_ms
from .timestamps import assigned
from .watermark_generators import (
    BoundedOutOfOrderness,
    NoWatermarks,
    PunctuatedGenerator,
    SplitGenerator,
    UserGenerator,
    WatermarkGenerator,
    WatermarkOutput,
)

__all__ = [
    "Duration",
    "FutureGuard",
    "WatermarkAlignment",
    "WatermarkGenerator",
    "WatermarkOutput",
    "WatermarkStrategy",
]

Duration = str | int | timedelta


@dataclass(frozen=True, slots=True)
class FutureGuard:
    """What becomes of records whose timestamp is further ahead of the clock than it can be."""

    bound_ms: int
    on_violation: str
    """'drop', 'fail' or 'side output'."""
    tag: OutputTag[Any] | None = None


@dataclass(frozen=True, slots=True)
class WatermarkAlignment:
    """Which sources wait for each other."""

    group: str
    max_drift_ms: int
    update_interval_ms: int


@dataclass(frozen=True)
class WatermarkStrategy:
    """How records get timestamps and streams watermarks.

    `WatermarkStrategy.for_bounded_out_of_orderness("5s").with_timestamp_assigner(lambda r, _: r.at)`

    Every method gives a new strategy, and raises PipelineError for what cannot be meant.
    """

    out_of_orderness_ms: int | None = None
    """None: no watermarks before the end of the input, or those of the generators."""
    timestamp_assigner: Any = None
    """callable(record, previous timestamp), an object with extract_timestamp, or a column; None: the source's."""
    idleness_ms: int | None = None
    generator_supplier: Callable[[], Any] | None = None
    future_guard: FutureGuard | None = None
    alignment: WatermarkAlignment | None = None

    @classmethod
    def for_bounded_out_of_orderness(cls, max_out_of_orderness: Duration) -> WatermarkStrategy:
        """Records are at most this much behind the newest one; what is later is late."""
        return cls(_duration_ms(max_out_of_orderness, "for_bounded_out_of_orderness"))

    @classmethod
    def for_monotonous_timestamps(cls) -> WatermarkStrategy:
        """Timestamps never go back within a split."""
        return cls(0)

    @classmethod
    def no_watermarks(cls) -> WatermarkStrategy:
        return cls(None)

    @classmethod
    def for_generator(cls, supplier: Callable[[], Any]) -> WatermarkStrategy:
        """`supplier()` gives each split a new WatermarkGenerator of one's own: usually it is the class."""
        if why := why_not_called_with(supplier, 0) if callable(supplier) else "it is not callable":
            raise PipelineError(
                f"for_generator takes a function without arguments that gives a generator, not {supplier!r}: {why}"
            )
        return cls(generator_supplier=supplier)

    @classmethod
    def for_punctuated(cls, function: Callable[[Any, int], int | None]) -> WatermarkStrategy:
        """`function(record, timestamp)` gives the watermark (ms) that follows the record, or None.

        To the operators of the same task it follows that very record. To another task it goes with the next flush of
        its output (execution.buffer-timeout), and records may overtake it: there, less is late than in order."""
        if not callable(function):
            raise PipelineError(f"for_punctuated takes a function of record and timestamp, not {function!r}")
        return cls(generator_supplier=partial(PunctuatedGenerator, function))

    @property
    def makes_watermarks(self) -> bool:
        """Before the end of the input."""
        return self.out_of_orderness_ms is not None or self.generator_supplier is not None

    def with_timestamp_assigner(self, timestamp_assigner: Callable[[Any, int], Any] | str | Any) -> WatermarkStrategy:
        """callable(record, previous timestamp) -> int ms or aware datetime; or the name of a column."""
        if not isinstance(timestamp_assigner, str):
            _check_assigner(timestamp_assigner)
        return replace(self, timestamp_assigner=timestamp_assigner)

    def with_idleness(self, idle_timeout: Duration) -> WatermarkStrategy:
        """A split that gives nothing for so long does not hold back the others. One that may not be read (it is
        aligned, or the job backpressured) is not silent. Amid a pipeline (assign_timestamps_and_watermarks) it is all
        that a subtask receives, and what keeps that back further upstream makes it silent: choose a longer time."""
        return replace(self, idleness_ms=_duration_ms(idle_timeout, "with_idleness", positive=True))

    def with_future_guard(self, max_ahead: Duration, on_violation: str | OutputTag[Any] = "drop") -> WatermarkStrategy:
        """Records whose timestamp is further ahead of the clock advance no watermark: one wrong clock would make the
        records of all others late. They are dropped and counted (`records_from_future_total`), fail the job ("fail"),
        or go to the side output of the tag. Not for what is made up to lie in the future."""
        bound_ms = _duration_ms(max_ahead, "with_future_guard, max_ahead", positive=True)
        if isinstance(on_violation, OutputTag):
            return replace(self, future_guard=FutureGuard(bound_ms, "side output", on_violation))
        if on_violation not in ("drop", "fail"):
            raise PipelineError(
                f"with_future_guard: on_violation is 'drop', 'fail' or an OutputTag, not {on_violation!r}"
            )
        return replace(self, future_guard=FutureGuard(bound_ms, on_violation))

    def with_watermark_alignment(
        self, group: str, max_drift: Duration, update_interval: Duration = "1s"
    ) -> WatermarkStrategy:
        """Splits of all sources of the group that are further ahead of the slowest than the drift pause (FLIP-182,
        FLIP-217), so that what waits for the slow ones stays small. Finished and idle sources hold nobody
        back; one that is there and silent does (with_idleness). A split is at most a batch, and what is read in an
        update_interval, further ahead."""
        if not isinstance(group, str) or not group:
            raise PipelineError(f"with_watermark_alignment: the group is a name that its sources share, not {group!r}")
        drift_ms = _duration_ms(max_drift, "with_watermark_alignment, max_drift")
        interval_ms = _duration_ms(update_interval, "with_watermark_alignment, update_interval", positive=True)
        return replace(self, alignment=WatermarkAlignment(group, drift_ms, interval_ms))

    def without_watermarks(self) -> WatermarkStrategy:
        """The same timestamps, while event time stands still until the input ends, as it does in batch mode."""
        return replace(self, out_of_orderness_ms=None, idleness_ms=None, generator_supplier=None, alignment=None)

    def assign(self, batch: Batch) -> Batch:
        """The batch with its timestamps. RecordTypeError; CallError of what the user's function raises."""
        return batch if self.timestamp_assigner is None else assigned(batch, self.timestamp_assigner)

    def create_generator(self, state: bytes = b"") -> SplitGenerator:
        """A generator as new, or as it was when it was snapshotted. Raises what a user's supplier raises."""
        if self.generator_supplier is not None:
            return UserGenerator(self.generator_supplier, state)
        if self.out_of_orderness_ms is None:
            return NoWatermarks()
        return BoundedOutOfOrderness(self.out_of_orderness_ms, state)


def _check_assigner(assigner: Any) -> None:
    try:
        why = why_not_called_with(callable_of(assigner, "extract_timestamp"), 2)
    except TypeError as error:
        why = str(error)
    if why:
        raise PipelineError(
            "with_timestamp_assigner takes a function of a record and its previous timestamp, like "
            f"lambda record, previous: record.at, or the name of a column: {why}"
        )


def _duration_ms(duration: Duration, what: str, *, positive: bool = False) -> int:
    try:
        duration_ms = parse_duration_ms(duration)
    except (ConfigurationError, TypeError, ValueError, OverflowError) as error:
        raise PipelineError(f"{what}: {error}") from None
    if duration_ms < positive:
        raise PipelineError(
            f"{what}: {duration!r} is too short, it must be {'at least 1 ms' if positive else '0 or more'}"
        )
    return duration_ms
