"""What the two operators that make event time have in common: the source's, and the one amid a pipeline.

Records get their timestamps; those too far in the future are put aside before anybody sees them; generators are made,
fed and asked by the clock. What users' code raises in all of that names the operator.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn, TypeVar

import numpy as np

from ...state.errors import MalformedRecordError, PipelineError, RecordTypeError
from ..batch import Batch
from ..clock import Interval
from ..event_time.watermark_generators import Mark, SplitGenerator
from ..event_time.watermarks import FutureGuard, WatermarkStrategy
from .operator import OperatorContext
from .user_code import assigned_by, raise_user_error, shown

T = TypeVar("T")


class EventTime:
    """Of one operator of one subtask."""

    def __init__(self, strategy: WatermarkStrategy, context: OperatorContext) -> None:
        self._strategy = strategy
        self._context = context
        self._guard = strategy.future_guard
        self._asking: Interval | None = None
        interval_ms = context.auto_watermark_interval_ms
        if strategy.generator_supplier is not None and interval_ms:
            self._asking = Interval(interval_ms, context.clock.now_ms() + interval_ms)
        if self._guard is not None:
            self._from_future = context.metrics.counter("records_from_future_total")

    # records

    def timed(self, batch: Batch) -> Batch:
        """The batch with its timestamps, without the records that are too far ahead of the clock."""
        timed = assigned_by(self._strategy, batch, self._context)
        if self._guard is None or not len(timed):
            return timed
        limit_ms = self._context.clock.now_ms() + self._guard.bound_ms
        return timed if timed.newest_timestamp() <= limit_ms else self._guarded(timed, limit_ms, self._guard)

    def _guarded(self, batch: Batch, limit_ms: int, guard: FutureGuard) -> Batch:
        self._check_range(batch)
        ahead = batch.timestamps() > limit_ms
        if guard.on_violation == "fail":
            first = int(np.argmax(ahead))
            raise MalformedRecordError(
                f"operator '{self._context.operator_name}': the timestamp {batch.timestamp_list()[first]} of the "
                f"record {shown(batch.rows()[first])} is more than {guard.bound_ms} ms ahead of the clock, at "
                f"{limit_ms - guard.bound_ms}"
            )
        self._from_future.inc(int(ahead.sum()))
        if guard.tag is not None:
            self._context.output.emit_side(guard.tag.name, batch.keep(np.flatnonzero(ahead).tolist()))
        return batch.keep(np.flatnonzero(~ahead).tolist())

    def _check_range(self, batch: Batch) -> None:
        try:
            batch.timestamps()
        except OverflowError:
            newest = batch.newest_timestamp()
            raise RecordTypeError(
                f"operator '{self._context.operator_name}': the timestamp {newest} does not fit into 64 bits: "
                "timestamps are ms"
            ) from None

    # generators

    def generator(self, state: bytes = b"") -> SplitGenerator:
        return self._named(lambda: self._strategy.create_generator(state), "when the watermark generator was made")

    def marks(self, generator: SplitGenerator, batch: Batch) -> list[Mark]:
        """How event time stands behind records of the batch, wherever it changes."""
        try:
            return generator.on_batch(batch)
        except Exception as error:
            self._raise(error, f"in the watermark generator, on the record {shown(generator.record)}")

    def snapshot(self, generator: SplitGenerator) -> bytes:
        return self._named(generator.snapshot, "when the watermark generator was saved")

    @property
    def due_ms(self) -> int | None:
        """When generators are to be asked by the clock; None: never."""
        return None if self._asking is None else self._asking.next_ms(self._context.clock.now_ms())

    def is_due(self, now_ms: int) -> bool:
        """Time to ask all of them; then not until the interval has passed."""
        return self._asking is not None and self._asking.is_due(now_ms)

    def ask(self, generator: SplitGenerator) -> None:
        self._named(generator.on_periodic_emit, "in the watermark generator, by the clock")

    def _named(self, call: Callable[[], T], doing: str) -> T:
        try:
            return call()
        except Exception as error:
            self._raise(error, doing)

    def _raise(self, error: Exception, doing: str) -> NoReturn:
        if isinstance(error, (RecordTypeError, PipelineError)):
            raise type(error)(f"operator '{self._context.operator_name}': {error}") from error
        raise_user_error(self._context, error, doing)
