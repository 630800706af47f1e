"""A trigger for results before and after a window's end, made of others."""

from __future__ import annotations

import dataclasses
from typing import Any

from ...state.descriptors import ReducingStateDescriptor
from ..metrics import MetricGroup
from .trigger import OnMergeContext, Trigger, TriggerContext, TriggerResult

_FIRED: ReducingStateDescriptor[bool] = ReducingStateDescriptor("fired", min, bool)
"""The watermark has passed the window's end and it was given out then. Of windows that merge: if all of them were."""


class EarlyAndLateTrigger(Trigger):
    """Fires when the watermark passes the window's end; before that when `early` fires, after that when `late` does.

    Without `early` nothing comes before the end, without `late` every late element that is still allowed fires.

        EarlyAndLateTrigger(early=ContinuousProcessingTimeTrigger("10s"), late=CountTrigger(100))
    """

    def __init__(self, early: Trigger | None = None, late: Trigger | None = None) -> None:
        self.early = early
        self.late = late

    def __str__(self) -> str:
        return f"event time, early: {self.early}, late: {self.late}"

    def on_element(self, element: Any, timestamp: int, window: Any, ctx: TriggerContext) -> TriggerResult:
        fired = ctx.get_partitioned_state(_FIRED)
        if window.max_timestamp() > ctx.get_current_watermark():
            ctx.register_event_time_timer(window.max_timestamp())
            if self.early is None:
                return TriggerResult.CONTINUE
            return self.early.on_element(element, timestamp, window, _Nested(ctx, "early."))
        if not fired.get():
            fired.clear()
            fired.add(True)
            return TriggerResult.FIRE
        if self.late is None:
            return TriggerResult.FIRE
        return self.late.on_element(element, timestamp, window, _Nested(ctx, "late."))

    def on_event_time(self, time: int, window: Any, ctx: TriggerContext) -> TriggerResult:
        fired = ctx.get_partitioned_state(_FIRED)
        if time == window.max_timestamp() and not fired.get():
            if self.early is not None:
                self.early.clear(window, _Nested(ctx, "early."))
            fired.clear()
            fired.add(True)
            return TriggerResult.FIRE
        nested, own = self._nested(window, ctx)
        return TriggerResult.CONTINUE if nested is None else nested.on_event_time(time, window, own)

    def on_processing_time(self, time: int, window: Any, ctx: TriggerContext) -> TriggerResult:
        nested, own = self._nested(window, ctx)
        return TriggerResult.CONTINUE if nested is None else nested.on_processing_time(time, window, own)

    def _nested(self, window: Any, ctx: TriggerContext) -> tuple[Trigger | None, _Nested]:
        """Whose turn it is."""
        if ctx.get_partitioned_state(_FIRED).get():
            return self.late, _Nested(ctx, "late.")
        return self.early, _Nested(ctx, "early.")

    def clear(self, window: Any, ctx: TriggerContext) -> None:
        ctx.delete_event_time_timer(window.max_timestamp())
        ctx.get_partitioned_state(_FIRED).clear()
        for nested, name in ((self.early, "early."), (self.late, "late.")):
            if nested is not None:
                nested.clear(window, _Nested(ctx, name))

    def can_merge(self) -> bool:
        return all(nested is None or nested.can_merge() for nested in (self.early, self.late))

    def on_merge(self, window: Any, ctx: OnMergeContext) -> None:
        ctx.merge_partitioned_state(_FIRED)
        for nested, name in ((self.early, "early."), (self.late, "late.")):
            if nested is not None:
                nested.on_merge(window, _NestedMerge(ctx, name))
        if window.max_timestamp() > ctx.get_current_watermark():
            ctx.get_partitioned_state(_FIRED).clear()
            ctx.register_event_time_timer(window.max_timestamp())


class _Nested(TriggerContext):
    """The same context for a trigger inside another: its state has names of its own."""

    def __init__(self, ctx: TriggerContext, prefix: str) -> None:
        self._ctx = ctx
        self._prefix = prefix

    def get_current_watermark(self) -> int:
        return self._ctx.get_current_watermark()

    def get_current_processing_time(self) -> int:
        return self._ctx.get_current_processing_time()

    def get_metric_group(self) -> MetricGroup:
        return self._ctx.get_metric_group()

    def register_event_time_timer(self, time: int) -> None:
        self._ctx.register_event_time_timer(time)

    def register_processing_time_timer(self, time: int) -> None:
        self._ctx.register_processing_time_timer(time)

    def delete_event_time_timer(self, time: int) -> None:
        self._ctx.delete_event_time_timer(time)

    def delete_processing_time_timer(self, time: int) -> None:
        self._ctx.delete_processing_time_timer(time)

    def get_partitioned_state(self, state_descriptor: Any) -> Any:
        return self._ctx.get_partitioned_state(self._named(state_descriptor))

    def _named(self, descriptor: Any) -> Any:
        return dataclasses.replace(descriptor, name=self._prefix + descriptor.name)


class _NestedMerge(_Nested, OnMergeContext):
    def __init__(self, ctx: OnMergeContext, prefix: str) -> None:
        super().__init__(ctx, prefix)
        self._merging = ctx

    def merge_partitioned_state(self, state_descriptor: Any) -> None:
        self._merging.merge_partitioned_state(self._named(state_descriptor))
