"""What users implement for two streams at once: Co functions, broadcast functions, and their contexts.

A Co function has two methods, one per input, that share its fields and state. Of a broadcast function's two sides the
main one only reads the broadcast state; every subtask gets every record of the other side and changes its own copy of
the state. That the copies stay equal is up to the function: it must do the same with the same record, whatever the
subtask, the main side and the time are.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from .functions import ElementContext, Function, KeyedContext, OutputTag, TimeDomain, TimerContext, TimerService

if TYPE_CHECKING:
    from ..state.descriptors import MapStateDescriptor, StateDescriptor
    from ..state.operator_state import BroadcastState, ReadOnlyBroadcastState

K = TypeVar("K")
V = TypeVar("V")


class CoMapFunction(Function, ABC):
    """One record of either input in, one out."""

    @abstractmethod
    def map1(self, value: Any) -> Any: ...

    @abstractmethod
    def map2(self, value: Any) -> Any: ...


class CoFlatMapFunction(Function, ABC):
    """One record of either input in, any number out."""

    @abstractmethod
    def flat_map1(self, value: Any) -> Iterable[Any] | None: ...

    @abstractmethod
    def flat_map2(self, value: Any) -> Iterable[Any] | None: ...


class CoProcessFunction(Function, ABC):
    """One record of either input in, any number out, with time and side outputs; with keys, state as well."""

    Context: TypeAlias = ElementContext

    @abstractmethod
    def process_element1(self, value: Any, ctx: ElementContext) -> Iterable[Any] | None: ...

    @abstractmethod
    def process_element2(self, value: Any, ctx: ElementContext) -> Iterable[Any] | None: ...


class KeyedCoProcessFunction(Function, ABC):
    """One record of either input in, any number out, with state and timers of the record's key."""

    Context: TypeAlias = KeyedContext
    OnTimerContext: TypeAlias = TimerContext

    @abstractmethod
    def process_element1(self, value: Any, ctx: KeyedContext) -> Iterable[Any] | None: ...

    @abstractmethod
    def process_element2(self, value: Any, ctx: KeyedContext) -> Iterable[Any] | None: ...

    def on_timer(self, timestamp: int, ctx: TimerContext) -> Iterable[Any] | None:
        return None


class BroadcastBaseContext(ABC):
    """What both sides of a broadcast function are given beside the record. Valid during that call only."""

    @abstractmethod
    def timestamp(self) -> int | None:
        """Event timestamp of the record in ms, None if it has none."""

    @abstractmethod
    def current_processing_time(self) -> int: ...

    @abstractmethod
    def current_watermark(self) -> int:
        """Of both sides: the broadcast one holds it back, too, unless it is idle or has ended."""

    @abstractmethod
    def output(self, tag: OutputTag[Any], value: Any) -> None:
        """A record to a side output, with the timestamp of the record (or timer) at hand."""


class BroadcastReadOnlyContext(BroadcastBaseContext):
    """The main side's."""

    @abstractmethod
    def get_broadcast_state(self, state_descriptor: MapStateDescriptor[K, V]) -> ReadOnlyBroadcastState[K, V]:
        """StateError if the descriptor was not given to broadcast(…)."""


class BroadcastContext(BroadcastBaseContext):
    """The broadcast side's."""

    @abstractmethod
    def get_broadcast_state(self, state_descriptor: MapStateDescriptor[K, V]) -> BroadcastState[K, V]:
        """StateError if the descriptor was not given to broadcast(…)."""


class KeyedBroadcastReadOnlyContext(BroadcastReadOnlyContext):
    """The main side's, with the record's key."""

    @abstractmethod
    def timer_service(self) -> TimerService: ...

    @abstractmethod
    def get_current_key(self) -> Any: ...


class KeyedBroadcastTimerContext(KeyedBroadcastReadOnlyContext):
    """What on_timer is given; `timestamp()` is that of an event timer, None for one of the clock."""

    @abstractmethod
    def time_domain(self) -> TimeDomain: ...


class KeyedBroadcastContext(BroadcastContext):
    """The broadcast side's: it has no key, but can visit all of them."""

    @abstractmethod
    def apply_to_keyed_state(self, state_descriptor: StateDescriptor, function: Callable[[Any, Any], None]) -> None:
        """function(key, state) for every key of this subtask that has something in the state, in no promised order.

        The state is the handle that `open` gets, at that key. It reads all of the state from the store, so it is for
        rare records."""


class BroadcastProcessFunction(Function, ABC):
    """Records of a stream without keys, beside broadcast state."""

    Context: TypeAlias = BroadcastContext
    ReadOnlyContext: TypeAlias = BroadcastReadOnlyContext

    @abstractmethod
    def process_element(self, value: Any, ctx: BroadcastReadOnlyContext) -> Iterable[Any] | None: ...

    @abstractmethod
    def process_broadcast_element(self, value: Any, ctx: BroadcastContext) -> Iterable[Any] | None: ...


class KeyedBroadcastProcessFunction(Function, ABC):
    """Records of a keyed stream, with state and timers of their key, beside broadcast state."""

    Context: TypeAlias = KeyedBroadcastContext
    ReadOnlyContext: TypeAlias = KeyedBroadcastReadOnlyContext
    OnTimerContext: TypeAlias = KeyedBroadcastTimerContext

    @abstractmethod
    def process_element(self, value: Any, ctx: KeyedBroadcastReadOnlyContext) -> Iterable[Any] | None: ...

    @abstractmethod
    def process_broadcast_element(self, value: Any, ctx: KeyedBroadcastContext) -> Iterable[Any] | None: ...

    def on_timer(self, timestamp: int, ctx: KeyedBroadcastTimerContext) -> Iterable[Any] | None:
        return None
