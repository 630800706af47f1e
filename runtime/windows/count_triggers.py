"""Triggers that look at the elements: their number, how they change; and the one that never fires."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from operator import add
from typing import Any

from ...state.descriptors import ReducingStateDescriptor, ValueStateDescriptor
from ...state.errors import PipelineError
from ..functions import callable_of
from .trigger import OnMergeContext, Trigger, TriggerContext, TriggerResult

_COUNT: ReducingStateDescriptor[int] = ReducingStateDescriptor("count", add, int)


class ElementsTrigger(Trigger):
    """Registers no timers."""

    def on_event_time(self, time: int, window: Any, ctx: TriggerContext) -> TriggerResult:
        return TriggerResult.CONTINUE

    def on_processing_time(self, time: int, window: Any, ctx: TriggerContext) -> TriggerResult:
        return TriggerResult.CONTINUE


class CountTrigger(ElementsTrigger):
    """Fires at every n-th element of a key and window."""

    def __init__(self, max_count: int) -> None:
        if type(max_count) is not int or max_count < 1:
            raise PipelineError(f"a CountTrigger counts to at least 1, not to {max_count!r}")
        self.max_count = max_count

    @classmethod
    def of(cls, max_count: int) -> CountTrigger:
        """Flink's spelling."""
        return cls(max_count)

    def __str__(self) -> str:
        return f"every {self.max_count} elements"

    def on_element(self, element: Any, timestamp: int, window: Any, ctx: TriggerContext) -> TriggerResult:
        count = ctx.get_partitioned_state(_COUNT)
        count.add(1)
        if count.get() < self.max_count:
            return TriggerResult.CONTINUE
        count.clear()
        return TriggerResult.FIRE

    def clear(self, window: Any, ctx: TriggerContext) -> None:
        ctx.get_partitioned_state(_COUNT).clear()

    def can_merge(self) -> bool:
        return True

    def on_merge(self, window: Any, ctx: OnMergeContext) -> None:
        ctx.merge_partitioned_state(_COUNT)


class DeltaFunction(ABC):
    """How far apart two elements are. A plain callable(old, new) does as well."""

    @abstractmethod
    def get_delta(self, old_data_point: Any, new_data_point: Any) -> float: ...


Delta = Callable[[Any, Any], float] | DeltaFunction


class DeltaTrigger(ElementsTrigger):
    """Fires at an element that is further than the threshold from the one that it last fired at (at first: from the
    first element of the window)."""

    def __init__(self, threshold: float, delta_function: Delta, element_type: Any = None) -> None:
        """element_type: of the element that is remembered; without one it is pickled."""
        self.threshold = threshold
        self.delta_function = delta_function
        self._last: ValueStateDescriptor[Any] = ValueStateDescriptor("last-element", element_type)
        delta_of(delta_function, "DeltaTrigger")

    @classmethod
    def of(cls, threshold: float, delta_function: Delta, element_type: Any = None) -> DeltaTrigger:
        """Flink's spelling."""
        return cls(threshold, delta_function, element_type)

    def __str__(self) -> str:
        return f"delta above {self.threshold}"

    def on_element(self, element: Any, timestamp: int, window: Any, ctx: TriggerContext) -> TriggerResult:
        state = ctx.get_partitioned_state(self._last)
        last = state.value()
        if last is None:
            state.update(element)
            return TriggerResult.CONTINUE
        if delta_of(self.delta_function, "DeltaTrigger")(last, element) <= self.threshold:
            return TriggerResult.CONTINUE
        state.update(element)
        return TriggerResult.FIRE

    def clear(self, window: Any, ctx: TriggerContext) -> None:
        ctx.get_partitioned_state(self._last).clear()


class NeverTrigger(ElementsTrigger):
    """Never fires: what global windows do without a trigger."""

    same_for_all_elements = True

    def __str__(self) -> str:
        return "never"

    def on_element(self, element: Any, timestamp: int, window: Any, ctx: TriggerContext) -> TriggerResult:
        return TriggerResult.CONTINUE

    def clear(self, window: Any, ctx: TriggerContext) -> None:
        pass

    def can_merge(self) -> bool:
        return True

    def on_merge(self, window: Any, ctx: OnMergeContext) -> None:
        pass


def delta_of(function: Delta, whose: str) -> Callable[[Any, Any], float]:
    """The callable(old, new). PipelineError if it is none."""
    try:
        return callable_of(function, "get_delta")
    except TypeError:
        raise PipelineError(f"a {whose} needs a callable(old, new) or a DeltaFunction, not {function!r}") from None
