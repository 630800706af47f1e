"""What window functions, triggers and evictors are given: the key and window at hand, time, state and timers.

State has three places: `window_state()` and a trigger's partitioned state lie in the namespace of the window's number,
under prefixed names; `global_state()` belongs to the key and lies outside of all windows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from ...state.backend import VOID_NAMESPACE, KeyedStateBackend, Timers
from ...state.descriptors import AggregatingStateDescriptor, ListStateDescriptor, ReducingStateDescriptor
from ...state.errors import StateError
from ..functions import KeyedStateStore, OutputTag, WindowContext
from ..metrics import MetricGroup
from ..operators.user_code import Collector
from .evictors import EvictorContext
from .trigger import OnMergeContext
from .window_set import slot_of

if TYPE_CHECKING:
    from .window_operator import WindowOperator


class AtHand(WindowContext, EvictorContext):
    """The key and window at hand: one object for all calls."""

    collector: Collector
    key: Any
    now_ms = 0

    def __init__(self, operator: WindowOperator, backend: KeyedStateBackend, windows_merge: bool) -> None:
        self._operator = operator
        self._backend = backend
        self._windows_merge = windows_merge
        self._window: Any = None
        self.number = 0
        """Under which timers are kept, and by its slot the trigger's state."""
        self.home = 0
        """The namespace that functions work in: that of the window's contents."""
        self._window_state = StateStore(backend, "window.")
        self._global_state = StateStore(cast(KeyedStateBackend, GlobalState(backend, self)), "")

    def move_to(self, key: Any, window: Any, number: int, contents: int) -> None:
        self.key, self._window, self.number, self.home = key, window, number, contents
        self._backend.set_current_key(key)
        self._backend.set_namespace(contents)

    def window(self) -> Any:
        return self._window

    def current_processing_time(self) -> int:
        return self.now_ms

    def current_watermark(self) -> int:
        return self._operator.current_watermark

    def clock_is_over(self) -> bool:
        return self._operator.clock_is_over

    def get_current_processing_time(self) -> int:
        return self.now_ms

    def get_current_watermark(self) -> int:
        return self._operator.current_watermark

    def get_metric_group(self) -> MetricGroup:
        return self._operator.context.metrics

    def window_state(self) -> KeyedStateStore:
        if self._windows_merge:
            raise StateError("windows that merge (sessions) have no window_state(); use global_state()")
        return self._window_state

    def global_state(self) -> KeyedStateStore:
        return self._global_state

    def output(self, tag: OutputTag[Any], value: Any) -> None:
        self.collector.side(tag, value, self._window.max_timestamp(), apart=True)


class ForTrigger(OnMergeContext):
    """For the window at hand; while its trigger is called, the namespace is that of its state."""

    def __init__(self, at_hand: AtHand, backend: KeyedStateBackend, event: Timers, processing: Timers) -> None:
        self._at_hand = at_hand
        self._backend = backend
        self._event_timers = event
        self._processing_timers = processing
        self._state = StateStore(backend, "trigger.")
        self.merged_numbers: Sequence[int] = ()
        """Of the windows that are being merged into the one at hand."""

    def get_current_watermark(self) -> int:
        return self._at_hand.current_watermark()

    def get_current_processing_time(self) -> int:
        return self._at_hand.now_ms

    def get_metric_group(self) -> MetricGroup:
        return self._at_hand.get_metric_group()

    def register_event_time_timer(self, time: int) -> None:
        self._event_timers.register_for(self._at_hand.key, time, self._at_hand.number)

    def register_processing_time_timer(self, time: int) -> None:
        if self._at_hand.clock_is_over():
            return
        self._processing_timers.register_for(self._at_hand.key, time, self._at_hand.number)

    def delete_event_time_timer(self, time: int) -> None:
        self._event_timers.delete_for(self._at_hand.key, time, self._at_hand.number)

    def delete_processing_time_timer(self, time: int) -> None:
        self._processing_timers.delete_for(self._at_hand.key, time, self._at_hand.number)

    def get_partitioned_state(self, state_descriptor: Any) -> Any:
        return self._state.of(state_descriptor)

    def merge_partitioned_state(self, state_descriptor: Any) -> None:
        state = self._state.of(state_descriptor)
        merge = _MERGED.get(type(state_descriptor))
        if merge is None:
            raise StateError(
                f"a {state_descriptor.kind} state cannot be merged, as merge_partitioned_state() is to do with "
                f"'{state_descriptor.name}'; use a list, reducing or aggregating state"
            )
        parts = []
        for number in self.merged_numbers:
            self._backend.set_namespace(slot_of(number))
            part = merge[0](state)
            if part is not None:
                parts.append(part)
                state.clear()
        self._backend.set_namespace(slot_of(self._at_hand.number))
        for part in parts:
            merge[1](state, part)


_MERGED: dict[type, tuple[Any, Any]] = {
    ReducingStateDescriptor: (lambda state: state.get(), lambda state, value: state.add(value)),
    ListStateDescriptor: (lambda state: list(state.get()) or None, lambda state, values: state.add_all(values)),
    AggregatingStateDescriptor: (lambda state: state.accumulator(), lambda state, part: state.merge(part)),
}
"""How what a state has is read and added to another."""


class StateStore(KeyedStateStore):
    """State of the current namespace, under names that do not meet the operator's own."""

    def __init__(self, backend: KeyedStateBackend, prefix: str) -> None:
        self._backend = backend
        self._prefix = prefix
        self._known: dict[str, tuple[Any, Any]] = {}

    def get_state(self, descriptor: Any) -> Any:
        return self.of(descriptor)

    def get_list_state(self, descriptor: Any) -> Any:
        return self.of(descriptor)

    def get_map_state(self, descriptor: Any) -> Any:
        return self.of(descriptor)

    def get_reducing_state(self, descriptor: Any) -> Any:
        return self.of(descriptor)

    def get_aggregating_state(self, descriptor: Any) -> Any:
        return self.of(descriptor)

    def of(self, descriptor: Any) -> Any:
        known = self._known.get(descriptor.name)
        if known is not None and known[0] is descriptor:
            return known[1]
        named = dataclasses.replace(descriptor, name=self._prefix + descriptor.name)
        state = getattr(self._backend, f"{descriptor.kind}_state")(named)
        self._known[descriptor.name] = descriptor, state
        return state


class GlobalState:
    """State of the key over all windows: each access leaves the window's namespace and comes back to it."""

    def __init__(self, backend: KeyedStateBackend, at_hand: AtHand) -> None:
        self._backend = backend
        self._at_hand = at_hand

    def value_state(self, descriptor: Any) -> Any:
        return _OutsideWindow(self._backend.value_state(descriptor), self._backend, self._at_hand)

    def list_state(self, descriptor: Any) -> Any:
        return _OutsideWindow(self._backend.list_state(descriptor), self._backend, self._at_hand)

    def map_state(self, descriptor: Any) -> Any:
        return _OutsideWindow(self._backend.map_state(descriptor), self._backend, self._at_hand)

    def reducing_state(self, descriptor: Any) -> Any:
        return _OutsideWindow(self._backend.reducing_state(descriptor), self._backend, self._at_hand)

    def aggregating_state(self, descriptor: Any) -> Any:
        return _OutsideWindow(self._backend.aggregating_state(descriptor), self._backend, self._at_hand)


class _OutsideWindow:
    def __init__(self, handle: Any, backend: KeyedStateBackend, at_hand: AtHand) -> None:
        self._handle = handle
        self._backend = backend
        self._at_hand = at_hand

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._handle, name)

        def outside(*arguments: Any, **named: Any) -> Any:
            self._backend.set_namespace(VOID_NAMESPACE)
            try:
                return method(*arguments, **named)  # an iterator stays in the namespace that it was made in
            finally:
                self._backend.set_namespace(self._at_hand.home)

        return outside
