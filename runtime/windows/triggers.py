"""Triggers: when a window gives out its contents.

The window operator asks a trigger at every element, and whenever a timer that the trigger registered fires. FIRE
gives out the window's contents, PURGE drops them. What a trigger remembers it keeps in timers and partitioned state,
and removes in `clear`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from enum import Flag
from typing import Any, NamedTuple


class TimeWindow(NamedTuple):
    """[start, end) in ms."""

    start: int
    end: int

    def max_timestamp(self) -> int:
        """The last ms in it."""
        return self.end - 1


class TriggerResult(Flag):
    CONTINUE = 0
    FIRE = 1
    PURGE = 2
    FIRE_AND_PURGE = 3


class TriggerContext(ABC):
    """Time and timers of the key and window at hand."""

    @abstractmethod
    def get_current_watermark(self) -> int: ...

    @abstractmethod
    def get_current_processing_time(self) -> int: ...

    @abstractmethod
    def register_event_time_timer(self, time: int) -> None: ...

    @abstractmethod
    def register_processing_time_timer(self, time: int) -> None: ...

    @abstractmethod
    def delete_event_time_timer(self, time: int) -> None: ...

    @abstractmethod
    def delete_processing_time_timer(self, time: int) -> None: ...

    @abstractmethod
    def get_partitioned_state(self, state_descriptor: Any) -> Any:
        """State of the key and window."""


class Trigger(ABC):
    """Picklable and without state of its own."""

    same_for_all_elements: bool = False
    """While a window is not yet due, on_element answers CONTINUE and does the same for each of its elements: it is
    then asked once for all elements of a window in a batch."""

    @abstractmethod
    def on_element(self, element: Any, timestamp: int, window: TimeWindow, ctx: TriggerContext) -> TriggerResult: ...

    @abstractmethod
    def on_event_time(self, time: int, window: TimeWindow, ctx: TriggerContext) -> TriggerResult: ...

    @abstractmethod
    def on_processing_time(self, time: int, window: TimeWindow, ctx: TriggerContext) -> TriggerResult: ...

    @abstractmethod
    def clear(self, window: TimeWindow, ctx: TriggerContext) -> None: ...


class EventTimeTrigger(Trigger):
    """Fires when the watermark passes the window's end, and again at every late element that is still allowed."""

    same_for_all_elements = True

    def on_element(self, element: Any, timestamp: int, window: TimeWindow, ctx: TriggerContext) -> TriggerResult:
        if window.max_timestamp() <= ctx.get_current_watermark():
            return TriggerResult.FIRE
        ctx.register_event_time_timer(window.max_timestamp())
        return TriggerResult.CONTINUE

    def on_event_time(self, time: int, window: TimeWindow, ctx: TriggerContext) -> TriggerResult:
        return TriggerResult.FIRE if time == window.max_timestamp() else TriggerResult.CONTINUE

    def on_processing_time(self, time: int, window: TimeWindow, ctx: TriggerContext) -> TriggerResult:
        return TriggerResult.CONTINUE

    def clear(self, window: TimeWindow, ctx: TriggerContext) -> None:
        ctx.delete_event_time_timer(window.max_timestamp())
