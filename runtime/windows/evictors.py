"""Evictors: which elements of a window its function does not see, or does not see again.

An evictor is asked when a window fires: before the function for what to take out first, after it for what is not to
be kept. It removes from the list that it is given, in place. A window with an evictor keeps all its elements: nothing
is combined while they come in, also with reduce and aggregate.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

from ...state.errors import PipelineError
from ..metrics import MetricGroup
from .assigner import Duration, length_ms
from .count_triggers import Delta, delta_of


class TimestampedValue(NamedTuple):
    """An element, and its timestamp in ms; None if it has none."""

    value: Any
    timestamp: int | None


class EvictorContext(ABC):
    """Time, as an evictor sees it."""

    @abstractmethod
    def get_current_watermark(self) -> int: ...

    @abstractmethod
    def get_current_processing_time(self) -> int: ...

    @abstractmethod
    def get_metric_group(self) -> MetricGroup: ...


class Evictor(ABC):
    """Picklable and without state of its own."""

    @abstractmethod
    def evict_before(self, elements: list[TimestampedValue], size: int, window: Any, ctx: EvictorContext) -> None:
        """Remove from `elements` (in the order they came; `size` of them) what the function shall not see."""

    @abstractmethod
    def evict_after(self, elements: list[TimestampedValue], size: int, window: Any, ctx: EvictorContext) -> None:
        """Remove from `elements` what the window shall not keep. Results have been given out."""


class _OneWay(Evictor):
    """Evicts before the function, or after it."""

    def __init__(self, do_evict_after: bool) -> None:
        self.do_evict_after = do_evict_after

    def evict_before(self, elements: list[TimestampedValue], size: int, window: Any, ctx: EvictorContext) -> None:
        if not self.do_evict_after and elements:
            self._evict(elements)

    def evict_after(self, elements: list[TimestampedValue], size: int, window: Any, ctx: EvictorContext) -> None:
        if self.do_evict_after and elements:
            self._evict(elements)

    @abstractmethod
    def _evict(self, elements: list[TimestampedValue]) -> None: ...


class CountEvictor(_OneWay):
    """Keeps the last n elements."""

    def __init__(self, max_count: int, do_evict_after: bool = False) -> None:
        super().__init__(do_evict_after)
        if type(max_count) is not int or max_count < 0:
            raise PipelineError(f"a CountEvictor keeps 0 or more elements, not {max_count!r}")
        self.max_count = max_count

    @classmethod
    def of(cls, max_count: int, do_evict_after: bool = False) -> CountEvictor:
        """Flink's spelling."""
        return cls(max_count, do_evict_after)

    def _evict(self, elements: list[TimestampedValue]) -> None:
        if len(elements) > self.max_count:
            del elements[: len(elements) - self.max_count]


class TimeEvictor(_OneWay):
    """Keeps the elements that are less than a duration older than the newest. Elements without timestamps stay."""

    def __init__(self, window_size: Duration, do_evict_after: bool = False) -> None:
        super().__init__(do_evict_after)
        self.size_ms = length_ms(window_size, "the duration of a TimeEvictor")

    @classmethod
    def of(cls, window_size: Duration, do_evict_after: bool = False) -> TimeEvictor:
        """Flink's spelling."""
        return cls(window_size, do_evict_after)

    def _evict(self, elements: list[TimestampedValue]) -> None:
        newest = max((each.timestamp for each in elements if each.timestamp is not None), default=0)
        last_evicted = newest - self.size_ms
        elements[:] = [each for each in elements if each.timestamp is None or each.timestamp > last_evicted]


class DeltaEvictor(_OneWay):
    """Keeps the elements that are less than the threshold away from the last one."""

    def __init__(self, threshold: float, delta_function: Delta, do_evict_after: bool = False) -> None:
        super().__init__(do_evict_after)
        self.threshold = threshold
        self.delta_function = delta_function
        delta_of(delta_function, "DeltaEvictor")

    @classmethod
    def of(cls, threshold: float, delta_function: Delta, do_evict_after: bool = False) -> DeltaEvictor:
        """Flink's spelling."""
        return cls(threshold, delta_function, do_evict_after)

    def _evict(self, elements: list[TimestampedValue]) -> None:
        delta, last = delta_of(self.delta_function, "DeltaEvictor"), elements[-1].value
        elements[:] = [each for each in elements if delta(each.value, last) < self.threshold]
