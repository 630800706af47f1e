"""A trigger that makes windows give out what is new only, instead of all that they hold."""

from __future__ import annotations

from typing import Any

from .trigger import OnMergeContext, Trigger, TriggerContext, TriggerResult


class PurgingTrigger(Trigger):
    """Another trigger, whose every firing drops the contents that it gave out."""

    def __init__(self, nested_trigger: Trigger) -> None:
        self.nested = nested_trigger
        self.same_for_all_elements = nested_trigger.same_for_all_elements
        self.by_the_clock = nested_trigger.by_the_clock

    @classmethod
    def of(cls, nested_trigger: Trigger) -> PurgingTrigger:
        """Flink's spelling."""
        return cls(nested_trigger)

    def __str__(self) -> str:
        return f"purging {self.nested}"

    def on_element(self, element: Any, timestamp: int, window: Any, ctx: TriggerContext) -> TriggerResult:
        return _purging(self.nested.on_element(element, timestamp, window, ctx))

    def on_event_time(self, time: int, window: Any, ctx: TriggerContext) -> TriggerResult:
        return _purging(self.nested.on_event_time(time, window, ctx))

    def on_processing_time(self, time: int, window: Any, ctx: TriggerContext) -> TriggerResult:
        return _purging(self.nested.on_processing_time(time, window, ctx))

    def clear(self, window: Any, ctx: TriggerContext) -> None:
        self.nested.clear(window, ctx)

    def can_merge(self) -> bool:
        return self.nested.can_merge()

    def on_merge(self, window: Any, ctx: OnMergeContext) -> None:
        self.nested.on_merge(window, ctx)


def _purging(result: TriggerResult) -> TriggerResult:
    return result | TriggerResult.PURGE if TriggerResult.FIRE in result else result
