"""What users implement: function classes, the contexts they are given, and output tags.

Every place that takes a function takes a plain callable as well as the class; the classes add `open`, which is
called once with the RuntimeContext before the first record, and `close`. What flat_map, process and window
functions produce they yield, or return as an iterable; None is nothing. A record for a side output is yielded as
`(tag, value)`, or handed to `context.output(tag, value)`.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Generic, Self, TypeAlias, TypeVar

from ..state.errors import StateError
from .hints import shown

if TYPE_CHECKING:
    from ..state.backend import AggregatingState, KeyedStateBackend, ListState, MapState, ReducingState, ValueState
    from ..state.descriptors import (
        AggregatingStateDescriptor,
        ListStateDescriptor,
        MapStateDescriptor,
        ReducingStateDescriptor,
        ValueStateDescriptor,
    )
    from .metrics import MetricGroup
    from .operators.operator import OperatorContext

T = TypeVar("T")
K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True)
class OutputTag(Generic[T]):
    """Names a side output. Two tags of one name are the same side output; `type` is the annotation of its records."""

    name: str
    type: Any = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, OutputTag) and other.name == self.name

    def __hash__(self) -> int:
        return hash(self.name)


class TimeDomain(Enum):
    EVENT_TIME = "event time"
    PROCESSING_TIME = "processing time"


class TimerService(ABC):
    """Time as a function sees it, and timers of the current key. A timer registered twice fires once."""

    @abstractmethod
    def current_processing_time(self) -> int:
        """Wall-clock ms since the epoch, read once per slice."""

    @abstractmethod
    def current_watermark(self) -> int: ...

    @abstractmethod
    def register_event_time_timer(self, timestamp: int) -> None:
        """Fires when the watermark reaches the timestamp; one in the past fires at the next watermark."""

    @abstractmethod
    def register_processing_time_timer(self, timestamp: int) -> None: ...

    @abstractmethod
    def delete_event_time_timer(self, timestamp: int) -> None: ...

    @abstractmethod
    def delete_processing_time_timer(self, timestamp: int) -> None: ...


class RuntimeContext:
    """What `open` is given: who this subtask is, its metrics, and (after key_by) its state."""

    def __init__(self, context: OperatorContext, keyed_state: KeyedStateBackend | None = None) -> None:
        self._context = context
        self._keyed_state = keyed_state

    def get_state(self, descriptor: ValueStateDescriptor[V]) -> ValueState[V]:
        return self._state(descriptor, "ValueStateDescriptor").value_state(descriptor)

    def get_list_state(self, descriptor: ListStateDescriptor[V]) -> ListState[V]:
        return self._state(descriptor, "ListStateDescriptor").list_state(descriptor)

    def get_map_state(self, descriptor: MapStateDescriptor[K, V]) -> MapState[K, V]:
        return self._state(descriptor, "MapStateDescriptor").map_state(descriptor)

    def get_reducing_state(self, descriptor: ReducingStateDescriptor[V]) -> ReducingState[V]:
        return self._state(descriptor, "ReducingStateDescriptor").reducing_state(descriptor)

    def get_aggregating_state(self, descriptor: AggregatingStateDescriptor[Any]) -> AggregatingState[Any, Any]:
        return self._state(descriptor, "AggregatingStateDescriptor").aggregating_state(descriptor)

    def get_metrics_group(self) -> MetricGroup:
        return self._context.metrics

    def get_index_of_this_subtask(self) -> int:
        return self._context.subtask

    def get_number_of_parallel_subtasks(self) -> int:
        return self._context.parallelism

    def get_max_number_of_parallel_subtasks(self) -> int:
        return self._context.max_parallelism

    def get_attempt_number(self) -> int:
        return self._context.attempt

    def get_task_name(self) -> str:
        return self._context.task_name

    def get_task_name_with_subtasks(self) -> str:
        return f"{self._context.task_name} ({self._context.subtask + 1}/{self._context.parallelism})"

    def get_job_parameter(self, key: str, default_value: str | None = None) -> str | None:
        return self._context.job_parameters.get(key, default_value)

    def _initialize(self, function: Any) -> None:
        """A CheckpointedFunction gets its operator state."""
        self._context.operator_state.initialize(function, self)

    def _state(self, descriptor: Any, wanted: str) -> KeyedStateBackend:
        if self._keyed_state is None:
            raise StateError(
                f"operator '{self._context.operator_name}' has no keyed state: state needs key_by(...) before it"
            )
        if type(descriptor).__name__ != wanted:
            example = f"; write {wanted}({descriptor!r}, …)" if isinstance(descriptor, str) else ""
            raise StateError(f"this state needs a {wanted}, not {shown(descriptor)}{example}")
        return self._keyed_state


class Function:
    """Base of all function classes."""

    def __class_getitem__(cls, parameters: Any) -> type[Self]:
        """Type parameters as PyFlink's classes have them: welcome, and ignored."""
        return cls

    def open(self, runtime_context: RuntimeContext) -> None:
        """Once per subtask and attempt, before anything else."""

    def close(self) -> None:
        """At the end, also after a failure."""


class MapFunction(Function, ABC):
    """One record in, one out."""

    @abstractmethod
    def map(self, value: Any) -> Any: ...


class FlatMapFunction(Function, ABC):
    """One record in, any number out."""

    @abstractmethod
    def flat_map(self, value: Any) -> Iterable[Any] | None: ...


class FilterFunction(Function, ABC):
    """Says which records stay."""

    @abstractmethod
    def filter(self, value: Any) -> bool: ...


class KeySelector(ABC):
    """`key_by` takes one as well as a callable."""

    @abstractmethod
    def get_key(self, value: Any) -> Any: ...


class ReduceFunction(Function, ABC):
    """Folds records of one type into one of that type."""

    @abstractmethod
    def reduce(self, value1: Any, value2: Any) -> Any:
        """Combines two records into one of the same type; must be associative."""


class AggregateFunction(Function, ABC):
    """Folds records into an accumulator, and makes a result of it."""

    @abstractmethod
    def create_accumulator(self) -> Any: ...

    @abstractmethod
    def add(self, value: Any, accumulator: Any) -> Any:
        """The new accumulator; may be the given one, changed."""

    @abstractmethod
    def get_result(self, accumulator: Any) -> Any: ...

    def merge(self, acc_a: Any, acc_b: Any) -> Any:
        """Needed where windows merge (sessions)."""
        raise NotImplementedError(f"{type(self).__name__} has no merge(), which windows that merge need")


class ElementContext(ABC):
    """What `process_element` is given beside the record. Valid during that call only."""

    @abstractmethod
    def timestamp(self) -> int | None:
        """Event timestamp of the record in ms, None if it has none."""

    @abstractmethod
    def timer_service(self) -> TimerService: ...

    @abstractmethod
    def output(self, tag: OutputTag[Any], value: Any) -> None:
        """A record to a side output, with the timestamp of the record (or timer) at hand."""


class KeyedContext(ElementContext):
    """What a KeyedProcessFunction is given beside the record."""

    @abstractmethod
    def get_current_key(self) -> Any: ...


class TimerContext(KeyedContext):
    """What on_timer is given; `timestamp()` is that of an event timer, None for one of the clock."""

    @abstractmethod
    def time_domain(self) -> TimeDomain: ...


class ProcessFunction(Function, ABC):
    """One record in, any number out, with time and side outputs. Timers and state need KeyedProcessFunction."""

    Context: TypeAlias = ElementContext

    @abstractmethod
    def process_element(self, value: Any, ctx: ElementContext) -> Iterable[Any] | None: ...


class KeyedProcessFunction(Function, ABC):
    """One record in, any number out, with state and timers of the record's key."""

    Context: TypeAlias = KeyedContext
    OnTimerContext: TypeAlias = TimerContext

    @abstractmethod
    def process_element(self, value: Any, ctx: KeyedContext) -> Iterable[Any] | None: ...

    def on_timer(self, timestamp: int, ctx: TimerContext) -> Iterable[Any] | None:
        return None


class KeyedStateStore(ABC):
    """State for the current key: of one window, or of all windows."""

    @abstractmethod
    def get_state(self, descriptor: ValueStateDescriptor[V]) -> ValueState[V]: ...

    @abstractmethod
    def get_list_state(self, descriptor: ListStateDescriptor[V]) -> ListState[V]: ...

    @abstractmethod
    def get_map_state(self, descriptor: MapStateDescriptor[K, V]) -> MapState[K, V]: ...

    @abstractmethod
    def get_reducing_state(self, descriptor: ReducingStateDescriptor[V]) -> ReducingState[V]: ...

    @abstractmethod
    def get_aggregating_state(self, descriptor: AggregatingStateDescriptor[Any]) -> AggregatingState[Any, Any]: ...


class WindowContext(ABC):
    """What a window function is given: the window, time, and state that lasts between firings."""

    @abstractmethod
    def window(self) -> Any: ...

    @abstractmethod
    def current_processing_time(self) -> int: ...

    @abstractmethod
    def current_watermark(self) -> int: ...

    @abstractmethod
    def window_state(self) -> KeyedStateStore:
        """State of this key and window. What is put there must be removed in `clear`."""

    @abstractmethod
    def global_state(self) -> KeyedStateStore:
        """State of this key over all windows."""

    @abstractmethod
    def output(self, tag: OutputTag[Any], value: Any) -> None: ...


class ProcessWindowFunction(Function, ABC):
    """All elements of a window (or, after aggregate or reduce, its one result) to any number of results."""

    Context: TypeAlias = WindowContext

    @abstractmethod
    def process(self, key: Any, context: WindowContext, elements: Iterable[Any]) -> Iterable[Any] | None: ...

    def clear(self, context: WindowContext) -> None:
        """The window is over: remove what was put into window_state."""


class WindowFunction(Function, ABC):
    """All elements of a window to any number of results, without a context."""

    @abstractmethod
    def apply(self, key: Any, window: Any, inputs: Iterable[Any]) -> Iterable[Any] | None: ...


def callable_of(function: Any, method: str) -> Callable[..., Any]:
    """The bound method of a function object, or the plain callable itself. TypeError if it is neither."""
    bound = getattr(function, method, None)
    if callable(bound):
        return bound  # type: ignore[no-any-return]
    if callable(function):
        return function  # type: ignore[no-any-return]
    raise TypeError(f"{function!r} is neither callable nor has it a method {method}()")


class CallError(Exception):
    """A user's function raised; the cause is what it raised. For those who know the operator, and say so."""

    def __init__(self, cause: Exception, doing: str, record: Any) -> None:
        """doing: 'in the key function, on the record'."""
        self.cause = cause
        self.record = record
        self.doing = f"{doing} {shown(record)}"
        super().__init__(f"{type(cause).__name__}: {cause} ({self.doing})")


def called_on_each(
    function: Callable[..., Any], rows: list[Any], *others: Iterable[Any], doing: str = "on the record"
) -> list[Any]:
    """function(row) of every row, or function(row, other, …). CallError, which names the row: it is read off the
    iterator over the rows, so knowing it costs nothing. A StopIteration of the function is an error like any other,
    not the end."""
    iterator = iter(rows)
    try:
        results = list(map(function, iterator, *others))
    except Exception as error:
        left: int = iterator.__length_hint__()  # type: ignore[attr-defined]
        raise CallError(error, doing, rows[len(rows) - left - 1]) from error
    if len(results) < len(rows):
        stopped = RuntimeError("the function raised StopIteration")
        raise CallError(stopped, doing, rows[len(results)]) from stopped
    return results


def why_not_called_with(function: Callable[..., Any], count: int) -> str:
    """Why a function cannot be called with so many arguments; empty if it can, or says nothing of itself.

    It is asked for its own signature: what it wraps may take other arguments than it does."""
    try:
        signature = inspect.signature(function, follow_wrapped=False)
    except (TypeError, ValueError):  # built in, for example
        return ""
    try:
        signature.bind(*range(count))
    except TypeError as error:
        return str(error)
    return ""


def open_function(function: Any, runtime_context: RuntimeContext) -> None:
    """initialize_state, if it is a CheckpointedFunction (operator_state.py), then open."""
    runtime_context._initialize(function)
    if isinstance(function, Function) or (callable(getattr(function, "open", None)) and not callable(function)):
        function.open(runtime_context)


def close_function(function: Any) -> None:
    if isinstance(function, Function) or (callable(getattr(function, "close", None)) and not callable(function)):
        function.close()
