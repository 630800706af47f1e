"""A trigger that does not wait for ever: windows of a stream that has gone quiet are given out by the clock."""

from __future__ import annotations

from typing import Any

from ...state.descriptors import ReducingStateDescriptor
from ...state.errors import PipelineError
from .assigner import Duration, length_ms
from .trigger import OnMergeContext, Trigger, TriggerContext, TriggerResult

_TIMEOUT: ReducingStateDescriptor[int] = ReducingStateDescriptor("timeout", min, int)
"""When the clock makes it fire. There is one if an element came after it fired last; of windows that merge the
earliest."""


class ProcessingTimeoutTrigger(Trigger):
    """Fires when the nested trigger does, and `timeout` after an element that it has not fired for: the first one, or
    with `reset_timer_on_new_record` the last one. What still waits for its timeout when the window ends is given out
    then.

    should_clear_on_timeout: the nested trigger begins anew after a timeout (a count from 0).

        ProcessingTimeoutTrigger.of(CountTrigger(100), "5s")

    As with other triggers the window keeps its contents when it fires: PurgingTrigger.of(...) around it drops them."""

    def __init__(
        self,
        nested_trigger: Trigger,
        timeout: Duration,
        reset_timer_on_new_record: bool = False,
        should_clear_on_timeout: bool = True,
    ) -> None:
        if not isinstance(nested_trigger, Trigger):
            raise PipelineError(f"a ProcessingTimeoutTrigger is put around a Trigger, not {nested_trigger!r}")
        self.nested = nested_trigger
        self.timeout_ms = length_ms(timeout, "the timeout of a ProcessingTimeoutTrigger")
        self.reset_timer_on_new_record = reset_timer_on_new_record
        self.should_clear_on_timeout = should_clear_on_timeout

    @classmethod
    def of(
        cls,
        nested_trigger: Trigger,
        timeout: Duration,
        reset_timer_on_new_record: bool = False,
        should_clear_on_timeout: bool = True,
    ) -> ProcessingTimeoutTrigger:
        """Flink's spelling."""
        return cls(nested_trigger, timeout, reset_timer_on_new_record, should_clear_on_timeout)

    def around(self, nested_trigger: Trigger) -> ProcessingTimeoutTrigger:
        """The same for another trigger."""
        flags = self.reset_timer_on_new_record, self.should_clear_on_timeout
        return ProcessingTimeoutTrigger(nested_trigger, self.timeout_ms, *flags)

    def __str__(self) -> str:
        return f"{self.nested}, or {self.timeout_ms} ms of processing time"

    def on_element(self, element: Any, timestamp: int, window: Any, ctx: TriggerContext) -> TriggerResult:
        result = self.nested.on_element(element, timestamp, window, ctx)
        timeout = ctx.get_partitioned_state(_TIMEOUT)
        if result.is_fire() or (self.reset_timer_on_new_record and timeout.get() is not None):
            _forget(timeout, ctx)
        if not result.is_fire() and timeout.get() is None:
            timeout.add(ctx.get_current_processing_time() + self.timeout_ms)
            ctx.register_processing_time_timer(timeout.get())
        return result

    def on_event_time(self, time: int, window: Any, ctx: TriggerContext) -> TriggerResult:
        result = self.nested.on_event_time(time, window, ctx)
        return self._with_what_waits(result, time >= window.max_timestamp(), window, ctx)

    def on_processing_time(self, time: int, window: Any, ctx: TriggerContext) -> TriggerResult:
        is_due = time in (ctx.get_partitioned_state(_TIMEOUT).get(), window.max_timestamp())
        result = self.nested.on_processing_time(time, window, ctx)
        return self._with_what_waits(result, is_due, window, ctx)

    def _with_what_waits(self, result: TriggerResult, is_due: bool, window: Any, ctx: TriggerContext) -> TriggerResult:
        """is_due: the timeout is there, or the window ends."""
        timeout = ctx.get_partitioned_state(_TIMEOUT)
        fires = is_due and timeout.get() is not None
        if result.is_fire() or fires:
            _forget(timeout, ctx)
        if result.is_fire() or not fires:
            return result
        if self.should_clear_on_timeout:
            self.nested.clear(window, ctx)
        return result | TriggerResult.FIRE

    def clear(self, window: Any, ctx: TriggerContext) -> None:
        _forget(ctx.get_partitioned_state(_TIMEOUT), ctx)
        self.nested.clear(window, ctx)

    def can_merge(self) -> bool:
        return self.nested.can_merge()

    def on_merge(self, window: Any, ctx: OnMergeContext) -> None:
        self.nested.on_merge(window, ctx)
        ctx.merge_partitioned_state(_TIMEOUT)
        timeout = ctx.get_partitioned_state(_TIMEOUT).get()
        if timeout is not None:
            ctx.register_processing_time_timer(timeout)


def _forget(timeout: Any, ctx: TriggerContext) -> None:
    if timeout.get() is not None:
        ctx.delete_processing_time_timer(timeout.get())
        timeout.clear()
