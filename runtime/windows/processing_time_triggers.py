"""Triggers that follow the clock. At the end of the input their timers do not fire any more, as in Flink."""

from __future__ import annotations

from typing import Any

from .assigner import Duration, length_ms
from .event_time_triggers import FIRE_TIME
from .trigger import OnMergeContext, Trigger, TriggerContext, TriggerResult


class ProcessingTimeTrigger(Trigger):
    """Fires when the clock passes the window's end."""

    same_for_all_elements = True
    by_the_clock = True

    def __str__(self) -> str:
        return "processing time"

    def on_element(self, element: Any, timestamp: int, window: Any, ctx: TriggerContext) -> TriggerResult:
        ctx.register_processing_time_timer(window.max_timestamp())
        return TriggerResult.CONTINUE

    def on_event_time(self, time: int, window: Any, ctx: TriggerContext) -> TriggerResult:
        return TriggerResult.CONTINUE

    def on_processing_time(self, time: int, window: Any, ctx: TriggerContext) -> TriggerResult:
        return TriggerResult.FIRE

    def clear(self, window: Any, ctx: TriggerContext) -> None:
        ctx.delete_processing_time_timer(window.max_timestamp())

    def can_merge(self) -> bool:
        return True

    def on_merge(self, window: Any, ctx: OnMergeContext) -> None:
        if window.max_timestamp() > ctx.get_current_processing_time():
            ctx.register_processing_time_timer(window.max_timestamp())


class ContinuousProcessingTimeTrigger(Trigger):
    """Fires whenever the clock passes a multiple of the interval, beginning with the first after an element came, and
    at the end of a window of processing time. In windows of event time it says nothing about their end: give it to an
    EarlyAndLateTrigger."""

    def __init__(self, interval: Duration) -> None:
        self.interval_ms = length_ms(interval, "the interval of a ContinuousProcessingTimeTrigger")

    @classmethod
    def of(cls, interval: Duration) -> ContinuousProcessingTimeTrigger:
        """Flink's spelling."""
        return cls(interval)

    def __str__(self) -> str:
        return f"processing time, every {self.interval_ms} ms"

    def on_element(self, element: Any, timestamp: int, window: Any, ctx: TriggerContext) -> TriggerResult:
        if ctx.get_partitioned_state(FIRE_TIME).get() is None:
            now_ms = ctx.get_current_processing_time()
            self._fire_at(now_ms - now_ms % self.interval_ms + self.interval_ms, now_ms, window, ctx)
        return TriggerResult.CONTINUE

    def on_event_time(self, time: int, window: Any, ctx: TriggerContext) -> TriggerResult:
        return TriggerResult.CONTINUE

    def on_processing_time(self, time: int, window: Any, ctx: TriggerContext) -> TriggerResult:
        fire_time = ctx.get_partitioned_state(FIRE_TIME)
        if fire_time.get() != time:
            return TriggerResult.CONTINUE
        fire_time.clear()
        if time != window.max_timestamp():
            self._fire_at(time + self.interval_ms, time, window, ctx)
        return TriggerResult.FIRE

    def clear(self, window: Any, ctx: TriggerContext) -> None:
        fire_time = ctx.get_partitioned_state(FIRE_TIME)
        if fire_time.get() is not None:
            ctx.delete_processing_time_timer(fire_time.get())
            fire_time.clear()

    def can_merge(self) -> bool:
        return True

    def on_merge(self, window: Any, ctx: OnMergeContext) -> None:
        ctx.merge_partitioned_state(FIRE_TIME)
        next_time = ctx.get_partitioned_state(FIRE_TIME).get()
        if next_time is not None:
            ctx.register_processing_time_timer(next_time)

    def _fire_at(self, next_time: int, now_ms: int, window: Any, ctx: TriggerContext) -> None:
        """Or at the window's end, unless that is past already: then it is a window of event time."""
        if window.max_timestamp() >= now_ms:
            next_time = min(next_time, window.max_timestamp())
        ctx.get_partitioned_state(FIRE_TIME).add(next_time)
        ctx.register_processing_time_timer(next_time)
