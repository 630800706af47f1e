"""KeyedProcessFunction: state, timers and side outputs per key. What functions of two inputs are built on, too.

Records are processed in order, each with its key as the current one; what a call produces is drained before the key
changes (PROTOCOLS 27). Event timers fire when a watermark arrives, in the order of their timestamps; results carry
the timestamp of the record, or of the event timer. A timer that on_timer registers at or before the watermark fires
still at this one, as in Flink. Objects of the function's state that it gives out go out as they are at that moment:
the state goes on changing, and what is handed on belongs to the next function.

In batch mode all timers fire at the last watermark: those of event time, those of the clock, and what these have
registered in event time; none of the clock is taken any more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...state.backend import Timers
from ..batch import NO_TIMESTAMP, Batch
from ..elements import MAX_WATERMARK, Watermark
from ..functions import (
    OutputTag,
    RuntimeContext,
    TimeDomain,
    TimerContext,
    TimerService,
    callable_of,
    close_function,
    open_function,
)
from ..keys import KeySelector
from ..records.record_types import RecordType
from .keyed import ROWS_AT_ONCE, TIMERS_AT_ONCE, KeyedOperator
from .operator import Firing, OperatorContext, RestoredState
from .running import RunningAggregateOperator, RunningReduceOperator
from .user_code import Collector, raise_user_error, shown


class KeyedProcessOperator(KeyedOperator):
    """Runs a KeyedProcessFunction, or a callable(value, context) that needs no timers."""

    methods: tuple[str, ...] = ("process_element",)
    """Of the function, one per input."""

    def __init__(
        self,
        function: Any,
        selector: KeySelector,
        output_type: RecordType,
        side_tags: frozenset[str] = frozenset(),
    ) -> None:
        super().__init__(selector, output_type, side_tags)
        self.function = function

    def open(self, context: OperatorContext, restored: RestoredState) -> None:
        super().open(context, restored)
        self._calls: list[Callable[..., Any]] = [callable_of(self.function, method) for method in self.methods]
        self._on_timer: Callable[..., Any] | None = getattr(self.function, "on_timer", None)
        self._event_timers = self.backend.timers("event")
        self._processing_timers = self.backend.timers("processing")
        self._at_hand = self._new_context(self._event_timers, self._processing_timers)
        try:
            open_function(self.function, RuntimeContext(context, self.backend))
        except Exception as error:
            raise_user_error(context, error, "in open()")

    def _new_context(self, event_timers: Timers, processing_timers: Timers) -> AtHand:
        """What the function is given with records of a key, and with timers."""
        return AtHand(self, event_timers, processing_timers)

    def process_batch(self, batch: Batch, input_index: int) -> None:
        keys = self.keys(batch, input_index)
        call, at_hand, set_key = self._calls[input_index], self._at_hand, self.backend.set_current_key
        collector = self._new_collector()
        take, apart = collector.take, self.changes_in_place
        at_hand.now_ms = self.context.clock.now_ms()
        at_hand.domain = None
        row: Any = None
        try:
            for key, row, timestamp in zip(keys, batch.rows(), batch.timestamp_list(), strict=True):
                set_key(key)
                at_hand.key, at_hand.at = key, timestamp
                produced = call(row, at_hand)
                if produced is not None:
                    take(produced, timestamp, apart=apart)
        except Exception as error:
            raise_user_error(self.context, error, f"on the record {shown(row)}")
        collector.emit()

    def process_watermark(self, watermark: Watermark) -> Firing:
        self.current_watermark = watermark.timestamp
        self._at_hand.now_ms = self.context.clock.now_ms()
        yield from self._fire(self._event_timers, watermark.timestamp, TimeDomain.EVENT_TIME)
        if self.is_last(watermark):
            yield from self._fire(self._processing_timers, MAX_WATERMARK, TimeDomain.PROCESSING_TIME)
            yield from self._fire(self._event_timers, MAX_WATERMARK, TimeDomain.EVENT_TIME)

    def next_processing_timer(self) -> int | None:
        return self._or_sweep(None if self.batch_mode else self._processing_timers.next_timestamp())

    def advance_processing_time(self, now_ms: int) -> Firing:
        self._at_hand.now_ms = now_ms
        return self._fire(self._processing_timers, now_ms, TimeDomain.PROCESSING_TIME)

    def _fire(self, timers: Timers, up_to: int, domain: TimeDomain) -> Firing:
        collector = self._firing = self._new_collector()
        fired = 0
        while (due := timers.pop_due(up_to)) is not None:
            timestamp, key, _ = due
            self.backend.set_current_key(key)
            self._call_timer(collector, timestamp, key, domain)
            fired += 1
            if fired % TIMERS_AT_ONCE == 0:
                if collector.held >= ROWS_AT_ONCE:
                    collector.emit()
                self.backend.between_batches()
                yield
                self._at_hand.collector = collector
        collector.emit()

    def _call_timer(self, collector: Collector, timestamp: int, key: Any, domain: TimeDomain) -> None:
        if self._on_timer is None:
            return
        at_hand = self._at_hand
        result_timestamp = timestamp if domain is TimeDomain.EVENT_TIME else NO_TIMESTAMP
        at_hand.key, at_hand.at, at_hand.domain = key, result_timestamp, domain
        try:
            produced = self._on_timer(timestamp, at_hand)
            if produced is not None:
                collector.take(produced, result_timestamp, apart=self.changes_in_place)
        except Exception as error:
            raise_user_error(self.context, error, f"in the {domain.value} timer at {timestamp} of key {shown(key)}")

    def _new_collector(self) -> Collector:
        self._at_hand.collector = Collector(self.output_type, self.output, bool(self.side_tags))
        return self._at_hand.collector

    def close(self) -> None:
        try:
            close_function(self.function)
        finally:
            super().close()


class AtHand(TimerContext, TimerService):
    """The record or timer at hand, its key, and time: one object for all calls."""

    collector: Collector

    def __init__(self, operator: KeyedProcessOperator, event_timers: Timers, processing_timers: Timers) -> None:
        self._operator = operator
        self.key: Any = None
        self.at = NO_TIMESTAMP
        self.now_ms = 0
        self.domain: TimeDomain | None = None
        self._event_timers = event_timers
        self._processing_timers = processing_timers

    def timestamp(self) -> int | None:
        return None if self.at == NO_TIMESTAMP else self.at

    def timer_service(self) -> TimerService:
        return self

    def get_current_key(self) -> Any:
        return self.key

    def time_domain(self) -> TimeDomain:
        if self.domain is None:
            raise AttributeError("time_domain() belongs to on_timer")
        return self.domain

    def output(self, tag: OutputTag[Any], value: Any) -> None:
        self.collector.side(tag, value, self.at, apart=self._operator.changes_in_place)

    def current_processing_time(self) -> int:
        return self.now_ms

    def current_watermark(self) -> int:
        return self._operator.current_watermark

    def register_event_time_timer(self, timestamp: int) -> None:
        self._event_timers.register(timestamp)

    def register_processing_time_timer(self, timestamp: int) -> None:
        if not self._operator.clock_is_over:
            self._processing_timers.register(timestamp)

    def delete_event_time_timer(self, timestamp: int) -> None:
        self._event_timers.delete(timestamp)

    def delete_processing_time_timer(self, timestamp: int) -> None:
        self._processing_timers.delete(timestamp)


__all__ = ["KeyedProcessOperator", "RunningAggregateOperator", "RunningReduceOperator"]
