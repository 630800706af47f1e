"""Triggers that follow the watermark."""

from __future__ import annotations

from typing import Any

from ...state.descriptors import ReducingStateDescriptor
from ...state.errors import RecordTypeError
from ..batch import NO_TIMESTAMP
from ..elements import MAX_WATERMARK
from .assigner import Duration, length_ms
from .trigger import OnMergeContext, Trigger, TriggerContext, TriggerResult

FIRE_TIME: ReducingStateDescriptor[int] = ReducingStateDescriptor("fire-time", min, int)
"""When a continuous trigger fires next; of windows that merge the earliest."""


class EventTimeTrigger(Trigger):
    """Fires when the watermark passes the window's end, and again at every late element that is still allowed."""

    same_for_all_elements = True

    def __str__(self) -> str:
        return "event time"

    def on_element(self, element: Any, timestamp: int, window: Any, ctx: TriggerContext) -> TriggerResult:
        if window.max_timestamp() <= ctx.get_current_watermark():
            return TriggerResult.FIRE
        ctx.register_event_time_timer(window.max_timestamp())
        return TriggerResult.CONTINUE

    def on_event_time(self, time: int, window: Any, ctx: TriggerContext) -> TriggerResult:
        return TriggerResult.FIRE if time == window.max_timestamp() else TriggerResult.CONTINUE

    def on_processing_time(self, time: int, window: Any, ctx: TriggerContext) -> TriggerResult:
        return TriggerResult.CONTINUE

    def clear(self, window: Any, ctx: TriggerContext) -> None:
        ctx.delete_event_time_timer(window.max_timestamp())

    def can_merge(self) -> bool:
        return True

    def on_merge(self, window: Any, ctx: OnMergeContext) -> None:
        if window.max_timestamp() > ctx.get_current_watermark():
            ctx.register_event_time_timer(window.max_timestamp())


class ContinuousEventTimeTrigger(Trigger):
    """Fires whenever the watermark passes a multiple of the interval, beginning with the first after an element came,
    and at the window's end; after that at every late element that is still allowed.

    Where the watermark jumps over several multiples, it fires for each of them; but not for all there are when the end
    of the input brings the last watermark of all: then it fires once more, and at the window's end."""

    def __init__(self, interval: Duration) -> None:
        self.interval_ms = length_ms(interval, "the interval of a ContinuousEventTimeTrigger")

    @classmethod
    def of(cls, interval: Duration) -> ContinuousEventTimeTrigger:
        """Flink's spelling."""
        return cls(interval)

    def __str__(self) -> str:
        return f"event time, every {self.interval_ms} ms"

    def on_element(self, element: Any, timestamp: int, window: Any, ctx: TriggerContext) -> TriggerResult:
        if window.max_timestamp() <= ctx.get_current_watermark():
            return TriggerResult.FIRE
        ctx.register_event_time_timer(window.max_timestamp())
        if ctx.get_partitioned_state(FIRE_TIME).get() is None:
            if timestamp == NO_TIMESTAMP:
                raise RecordTypeError("a ContinuousEventTimeTrigger needs records with timestamps")
            self._fire_after(timestamp - timestamp % self.interval_ms, window, ctx)
        return TriggerResult.CONTINUE

    def on_event_time(self, time: int, window: Any, ctx: TriggerContext) -> TriggerResult:
        if time == window.max_timestamp():
            return TriggerResult.FIRE
        fire_time = ctx.get_partitioned_state(FIRE_TIME)
        if fire_time.get() != time:
            return TriggerResult.CONTINUE
        fire_time.clear()
        if ctx.get_current_watermark() < MAX_WATERMARK:
            self._fire_after(time, window, ctx)
        return TriggerResult.FIRE

    def on_processing_time(self, time: int, window: Any, ctx: TriggerContext) -> TriggerResult:
        return TriggerResult.CONTINUE

    def clear(self, window: Any, ctx: TriggerContext) -> None:
        fire_time = ctx.get_partitioned_state(FIRE_TIME)
        if fire_time.get() is not None:
            ctx.delete_event_time_timer(fire_time.get())
            fire_time.clear()

    def can_merge(self) -> bool:
        return True

    def on_merge(self, window: Any, ctx: OnMergeContext) -> None:
        ctx.merge_partitioned_state(FIRE_TIME)
        next_time = ctx.get_partitioned_state(FIRE_TIME).get()
        if next_time is not None:
            ctx.register_event_time_timer(next_time)

    def _fire_after(self, time: int, window: Any, ctx: TriggerContext) -> None:
        next_time = min(time + self.interval_ms, window.max_timestamp())
        ctx.get_partitioned_state(FIRE_TIME).add(next_time)
        ctx.register_event_time_timer(next_time)
