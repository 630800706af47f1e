"""Operators with broadcast state: input 0 is the main side, input 1 the broadcast side.

The broadcast state is operator state (state/operator_state.py): every subtask has its own copy and puts it into every
checkpoint. The main side gets a view that cannot change it. A record of the broadcast side has no key: keyed state
and timers are out of reach there, except by apply_to_keyed_state.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ...state.backend import Timers
from ...state.descriptors import MapStateDescriptor, StateDescriptor
from ...state.errors import StateError
from ...state.operator_state import BroadcastState, OperatorStateStore, ReadOnlyBroadcastState
from ..batch import Batch
from ..connected_functions import KeyedBroadcastContext
from ..functions import OutputTag, callable_of
from ..keys import KeySelector
from ..records.record_types import RecordType
from . import keyed_process, stateless
from .operator import OperatorContext, RestoredState
from .user_code import raise_user_error, shown

Descriptors = Sequence[MapStateDescriptor[Any, Any]]


class _States:
    """The broadcast states of an operator, by their descriptors."""

    def __init__(self, descriptors: Descriptors, store: OperatorStateStore) -> None:
        self._states = {each.name: (each, store.get_broadcast_state(each)) for each in descriptors}

    def of(self, descriptor: MapStateDescriptor[Any, Any]) -> BroadcastState[Any, Any]:
        known, state = self._states.get(descriptor.name, (None, None))
        if state is None or known != descriptor:
            names = ", ".join(f"'{name}'" for name in self._states)
            raise StateError(
                f"there is no broadcast state for {descriptor}; give its descriptor to broadcast(…), "
                f"which has {names}, and use the same one here"
            )
        return state


class BroadcastProcessOperator(stateless.ProcessOperator):
    """Runs a BroadcastProcessFunction."""

    stateful = True
    methods = ("process_element", "process_broadcast_element")

    def __init__(
        self,
        function: Any,
        descriptors: Descriptors,
        output_type: RecordType,
        side_tags: frozenset[str] = frozenset(),
    ) -> None:
        super().__init__(function, output_type, side_tags)
        self.descriptors = tuple(descriptors)

    def open(self, context: OperatorContext, restored: RestoredState) -> None:
        self.states = _States(self.descriptors, context.operator_state.store)
        super().open(context, restored)

    def _contexts_of_inputs(self) -> list[stateless.AtHand]:
        return [_MainSide(self), _BroadcastSide(self)]


class _MainSide(stateless.AtHand):
    def __init__(self, operator: BroadcastProcessOperator) -> None:
        super().__init__(operator)
        self._states = operator.states

    def get_broadcast_state(self, descriptor: MapStateDescriptor[Any, Any]) -> ReadOnlyBroadcastState[Any, Any]:
        return self._states.of(descriptor).read_only()


class _BroadcastSide(stateless.AtHand):
    def __init__(self, operator: BroadcastProcessOperator) -> None:
        super().__init__(operator)
        self._states = operator.states

    def get_broadcast_state(self, descriptor: MapStateDescriptor[Any, Any]) -> BroadcastState[Any, Any]:
        return self._states.of(descriptor)


class KeyedBroadcastProcessOperator(keyed_process.KeyedProcessOperator):
    """Runs a KeyedBroadcastProcessFunction."""

    def __init__(
        self,
        function: Any,
        selector: KeySelector,
        descriptors: Descriptors,
        output_type: RecordType,
        side_tags: frozenset[str] = frozenset(),
    ) -> None:
        super().__init__(function, selector, output_type, side_tags)
        self.descriptors = tuple(descriptors)

    def open(self, context: OperatorContext, restored: RestoredState) -> None:
        self.states = _States(self.descriptors, context.operator_state.store)
        super().open(context, restored)
        self._broadcast_call: Callable[..., Any] = callable_of(self.function, "process_broadcast_element")
        self._broadcast_side = _WithoutKey(self, self._at_hand)

    def _new_context(self, event_timers: Timers, processing_timers: Timers) -> keyed_process.AtHand:
        return _KeyedMainSide(self, event_timers, processing_timers)

    def process_batch(self, batch: Batch, input_index: int) -> None:
        if input_index == 0:
            super().process_batch(batch, input_index)
        else:
            self._process_broadcast(batch)

    def _process_broadcast(self, batch: Batch) -> None:
        call, at_hand, side = self._broadcast_call, self._at_hand, self._broadcast_side
        collector, apart = self._new_collector(), self.changes_in_place
        at_hand.now_ms = self.context.clock.now_ms()
        self.backend.clear_current_key()
        row: Any = None
        try:
            for row, timestamp in zip(batch.rows(), batch.timestamp_list(), strict=True):
                at_hand.at = timestamp
                produced = call(row, side)
                if produced is not None:
                    collector.take(produced, timestamp, apart=apart)
        except Exception as error:
            raise_user_error(self.context, error, f"on the broadcast record {shown(row)}")
        collector.emit()


class _KeyedMainSide(keyed_process.AtHand):
    """Also what on_timer is given."""

    def __init__(self, operator: KeyedBroadcastProcessOperator, *timers: Timers) -> None:
        super().__init__(operator, *timers)
        self._states = operator.states

    def get_broadcast_state(self, descriptor: MapStateDescriptor[Any, Any]) -> ReadOnlyBroadcastState[Any, Any]:
        return self._states.of(descriptor).read_only()


class _WithoutKey(KeyedBroadcastContext):
    """The broadcast side: what the main side's context has that needs no key."""

    def __init__(self, operator: KeyedBroadcastProcessOperator, at_hand: keyed_process.AtHand) -> None:
        self._operator, self._at_hand = operator, at_hand

    def timestamp(self) -> int | None:
        return self._at_hand.timestamp()

    def output(self, tag: OutputTag[Any], value: Any) -> None:
        self._at_hand.output(tag, value)

    def current_processing_time(self) -> int:
        return self._at_hand.now_ms

    def current_watermark(self) -> int:
        return self._operator.current_watermark

    def get_broadcast_state(self, descriptor: MapStateDescriptor[Any, Any]) -> BroadcastState[Any, Any]:
        return self._operator.states.of(descriptor)

    def apply_to_keyed_state(self, descriptor: StateDescriptor, function: Callable[[Any, Any], None]) -> None:
        self._operator.backend.apply_to_all_keys(descriptor, function)
