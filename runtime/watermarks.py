"""Watermarks: how far event time has come.

Who makes them: every split of a source has its own generator, made by the strategy (a split that is ahead must not
make another one's records late). `WatermarkMerge` combines them, and likewise the channels of a task's inputs: the
minimum over all inputs that are active. An idle input does not hold the others back; once all are idle the newest
watermark of any of them is given out, for nothing is under way any more, and then the status idle.

A strategy is picklable and has no state; a generator is one split's, fed batch by batch, and its state goes into the
checkpoint with the split (PROTOCOLS 12).

A watermark never goes back. An input that becomes active again behind the common watermark holds it where it is
until it has caught up.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from .batch import NO_TIMESTAMP, Batch
from .elements import MIN_WATERMARK, Watermark, WatermarkStatus
from .timestamps import assigned
from .units import parse_duration_ms

Duration = str | int | timedelta


class WatermarkGenerator(ABC):
    """Makes the watermark of one split."""

    watermark: int = MIN_WATERMARK

    @abstractmethod
    def on_batch(self, batch: Batch) -> None:
        """Take in a batch that has its timestamps already; afterwards `watermark` holds."""

    @abstractmethod
    def snapshot(self) -> bytes: ...

    @abstractmethod
    def restore(self, state: bytes) -> None: ...


class NoWatermarks(WatermarkGenerator):
    """Event time stands still until the input ends."""

    def on_batch(self, batch: Batch) -> None: ...

    def snapshot(self) -> bytes:
        return b""

    def restore(self, state: bytes) -> None: ...


class BoundedOutOfOrderness(WatermarkGenerator):
    """The newest timestamp, less the bound, less 1 ms (records of that very timestamp may still come)."""

    def __init__(self, bound_ms: int) -> None:
        self._bound_ms = bound_ms
        self._newest = NO_TIMESTAMP

    def on_batch(self, batch: Batch) -> None:
        if len(batch):
            self._seen(batch.newest_timestamp())

    def snapshot(self) -> bytes:
        return b"%d" % self._newest

    def restore(self, state: bytes) -> None:
        self._seen(int(state))

    def _seen(self, timestamp: int) -> None:
        if timestamp > self._newest:
            self._newest = timestamp
            self.watermark = max(timestamp - self._bound_ms - 1, MIN_WATERMARK)


@dataclass(frozen=True)
class WatermarkStrategy:
    """How records get timestamps and streams watermarks.

    `WatermarkStrategy.for_bounded_out_of_orderness("5s").with_timestamp_assigner(lambda r, _: r.at)`
    """

    out_of_orderness_ms: int | None = None
    """None: no watermarks before the end of the input."""
    timestamp_assigner: Any = None
    """callable(record, previous timestamp), an object with extract_timestamp, or a column; None: the source's."""
    idleness_ms: int | None = None

    @classmethod
    def for_bounded_out_of_orderness(cls, max_out_of_orderness: Duration) -> WatermarkStrategy:
        """Records are at most this much behind the newest one; what is later is late."""
        return cls(parse_duration_ms(max_out_of_orderness))

    @classmethod
    def for_monotonous_timestamps(cls) -> WatermarkStrategy:
        """Timestamps never go back within a split."""
        return cls(0)

    @classmethod
    def no_watermarks(cls) -> WatermarkStrategy:
        return cls(None)

    def with_timestamp_assigner(self, timestamp_assigner: Callable[[Any, int], Any] | str | Any) -> WatermarkStrategy:
        """callable(record, previous timestamp) -> int ms or aware datetime; or the name of a column."""
        return replace(self, timestamp_assigner=timestamp_assigner)

    def with_idleness(self, idle_timeout: Duration) -> WatermarkStrategy:
        """A split that gives nothing for so long does not hold back the others."""
        return replace(self, idleness_ms=parse_duration_ms(idle_timeout))

    def assign(self, batch: Batch) -> Batch:
        """The batch with its timestamps. RecordTypeError; the user's own errors pass through."""
        return batch if self.timestamp_assigner is None else assigned(batch, self.timestamp_assigner)

    def create_generator(self, state: bytes = b"") -> WatermarkGenerator:
        """A generator as new, or as it was when it was snapshotted."""
        if self.out_of_orderness_ms is None:
            return NoWatermarks()
        generator = BoundedOutOfOrderness(self.out_of_orderness_ms)
        if state:
            generator.restore(state)
        return generator


@dataclass(slots=True)
class _Input:
    watermark: int = MIN_WATERMARK
    idle: bool = False


class WatermarkMerge:
    """The watermark and status of many inputs as one. Every method answers what to give out, in order."""

    def __init__(self, inputs: Iterable[Hashable] = (), watermark: int = MIN_WATERMARK, idle: bool = False) -> None:
        """`watermark`, `idle`: what was given out before (restored), so that it is not repeated."""
        self._inputs: dict[Hashable, _Input] = {each: _Input() for each in inputs}
        self.watermark = watermark
        self.idle = idle

    def add(self, inputs: Mapping[Hashable, int]) -> list[Watermark | WatermarkStatus]:
        """New, active inputs, each with the watermark it has already (restored) or MIN_WATERMARK."""
        self._inputs.update({each: _Input(watermark) for each, watermark in inputs.items()})
        return self._given_out()

    def advance(self, input_id: Hashable, watermark: int) -> list[Watermark | WatermarkStatus]:
        """An input's watermark. One that is not newer changes nothing."""
        known = self._inputs[input_id]
        if watermark <= known.watermark:
            return []
        known.watermark = watermark
        return self._given_out()

    def set_idle(self, input_id: Hashable, idle: bool) -> list[Watermark | WatermarkStatus]:
        known = self._inputs[input_id]
        if known.idle == idle:
            return []
        known.idle = idle
        return self._given_out()

    def is_idle(self, input_id: Hashable) -> bool:
        return self._inputs[input_id].idle

    def no_inputs(self) -> list[Watermark | WatermarkStatus]:
        """There is no input and none in sight: idle, until one is added."""
        return [] if self._inputs else self._given_out()

    def remove(self, input_id: Hashable) -> list[Watermark | WatermarkStatus]:
        """The input has ended: it holds nobody back any more. After the last one nothing changes any more."""
        if self._inputs.pop(input_id, None) is None or not self._inputs:
            return []
        return self._given_out()

    def _given_out(self) -> list[Watermark | WatermarkStatus]:
        out: list[Watermark | WatermarkStatus] = []
        active = [known.watermark for known in self._inputs.values() if not known.idle]
        all_idle = not active
        if self.idle and not all_idle:
            out.append(WatermarkStatus(idle=False))
        newest = max((known.watermark for known in self._inputs.values()), default=MIN_WATERMARK)
        common = newest if all_idle else min(active)
        if common > self.watermark:
            self.watermark = common
            out.append(Watermark(common))
        if all_idle and not self.idle:
            out.append(WatermarkStatus(idle=True))
        self.idle = all_idle
        return out
