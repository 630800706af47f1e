"""Triggers: when a window gives out its contents.

The window operator asks a trigger at every element, and whenever a timer that the trigger registered fires. FIRE
gives out the window's contents, PURGE drops them. What a trigger remembers it keeps in timers and partitioned state,
and removes in `clear`, which is called when the window is over. A window whose contents were purged is not over: it
goes on with what comes next.

Where windows merge, `on_merge` is called with the window that they became, to take their state together and to
register timers anew; after that `clear` is called for each of the windows that were merged.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from enum import Flag
from typing import Any, Self

from ..metrics import MetricGroup


class TriggerResult(Flag):
    """What is to be done with the window at hand."""

    CONTINUE = 0
    FIRE = 1
    PURGE = 2
    FIRE_AND_PURGE = 3

    def is_fire(self) -> bool:
        return TriggerResult.FIRE in self

    def is_purge(self) -> bool:
        return TriggerResult.PURGE in self


class TriggerContext(ABC):
    """Time, timers and state of the key and window at hand."""

    @abstractmethod
    def get_current_watermark(self) -> int: ...

    @abstractmethod
    def get_current_processing_time(self) -> int: ...

    @abstractmethod
    def get_metric_group(self) -> MetricGroup: ...

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


class OnMergeContext(TriggerContext):
    """What on_merge is given: state and timers are those of the merged window."""

    @abstractmethod
    def merge_partitioned_state(self, state_descriptor: Any) -> None:
        """What the windows that merge have in this state is taken together in the state of the merged window, and
        removed from theirs. For lists, reducing and aggregating states; StateError for others."""


class Trigger(ABC):
    """Picklable and without state of its own."""

    same_for_all_elements: bool = False
    """Before the watermark passes a window's end, on_element answers CONTINUE and does the same for each of its
    elements: it is then asked once for all elements of a window in a batch. A class with an on_element of its own says
    so anew."""

    by_the_clock: bool = False
    """That is so before the clock passes a window's end, instead of the watermark."""

    def __class_getitem__(cls, parameters: Any) -> type[Self]:
        """Type parameters as PyFlink's classes have them: welcome, and ignored."""
        return cls

    def __init_subclass__(cls, **named: Any) -> None:
        super().__init_subclass__(**named)
        if "on_element" in vars(cls) and "same_for_all_elements" not in vars(cls):
            cls.same_for_all_elements = False

    @abstractmethod
    def on_element(self, element: Any, timestamp: int, window: Any, ctx: TriggerContext) -> TriggerResult:
        """`timestamp`: the element's own, NO_TIMESTAMP (-2^63) if it has none."""

    @abstractmethod
    def on_event_time(self, time: int, window: Any, ctx: TriggerContext) -> TriggerResult: ...

    @abstractmethod
    def on_processing_time(self, time: int, window: Any, ctx: TriggerContext) -> TriggerResult: ...

    @abstractmethod
    def clear(self, window: Any, ctx: TriggerContext) -> None: ...

    def can_merge(self) -> bool:
        """Whether it works with windows that merge; one that does overrides on_merge."""
        return False

    def on_merge(self, window: Any, ctx: OnMergeContext) -> None:
        raise NotImplementedError(f"{type(self).__name__} says can_merge() and has no on_merge()")
