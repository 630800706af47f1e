"""Windows on rows: contents per key and window in state, triggers that say when they are given out.

A window's state lives in the namespace of its start. A timer at its *cleanup time* (its last ms, plus the allowed
lateness) removes it; an element that comes after that is late: counted, and given to the late side output if there
is one. Lateness is judged against the watermark before the batch (PROTOCOLS 20). An element that comes after its
window has fired, but before cleanup, makes it fire again.

The elements of a batch are folded into state window by window, all keys at once, where the trigger treats them all
alike; otherwise, and for windows that are due already (each element fires again), one by one. What comes out is the
same for every way the stream is cut into batches.

Timers, and so results, come in the order of time; of one time, in the order of registration. Results carry the last
ms of their window.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, cast

import numpy as np

from ...state.backend import VOID_NAMESPACE, KeyedStateBackend, Timers
from ...state.descriptors import StateDescriptor
from ...state.errors import RecordTypeError
from ..batch import NO_TIMESTAMP, Batch, Int64Array
from ..elements import Watermark
from ..functions import KeyedStateStore, OutputTag, RuntimeContext, WindowContext
from ..keys import KeySelector
from ..operators.keyed import ROWS_AT_ONCE, TIMERS_AT_ONCE, KeyedOperator
from ..operators.operator import Firing, OperatorContext, RestoredState
from ..operators.user_code import Collector, raise_user_error, shown
from ..record_types import RecordType
from .assigners import AlignedWindows, WindowAssigner
from .evaluations import Aggregate, Apply, Evaluation, Process, Reduce
from .triggers import TimeWindow, Trigger, TriggerContext, TriggerResult


class WindowOperator(KeyedOperator):
    """Any assigner whose windows do not merge, any trigger, any evaluation."""

    def __init__(
        self,
        selector: KeySelector,
        assigner: WindowAssigner,
        evaluation: Evaluation,
        output_type: RecordType,
        *,
        trigger: Trigger | None = None,
        allowed_lateness_ms: int = 0,
        late_tag: str | None = None,
        side_tags: frozenset[str] = frozenset(),
        input_type: RecordType | None = None,
    ) -> None:
        """trigger: the assigner's own if None. input_type: of the records, so that their state is typed."""
        super().__init__(selector, output_type, side_tags if late_tag is None else side_tags | {late_tag})
        self.assigner = assigner
        self.evaluation = evaluation
        self.trigger = trigger or assigner.default_trigger()
        self.allowed_lateness_ms = allowed_lateness_ms if assigner.is_event_time else 0
        self.late_tag = late_tag
        self.input_type = input_type
        self._tagged = bool(side_tags)

    def open(self, context: OperatorContext, restored: RestoredState) -> None:
        super().open(context, restored)
        self._late = context.metrics.counter("records_late_total")
        self._timers = {True: self.backend.timers("event"), False: self.backend.timers("processing")}
        self._at_hand = _AtHand(self, self.backend)
        self._trigger_context = _ForTrigger(self._at_hand, self._timers[True], self._timers[False])
        global_state = cast(KeyedStateBackend, _GlobalState(self.backend, self._at_hand))
        try:
            self.evaluation.open(RuntimeContext(context, global_state), self.backend, self.input_type)
        except Exception as error:
            raise_user_error(context, error, "in open()")

    # elements

    def process_batch(self, batch: Batch, input_index: int) -> None:
        if not len(batch):
            return
        keys, rows = self.keys(batch), batch.rows()
        at_hand = self._at_hand
        at_hand.now_ms = self.context.clock.now_ms()
        at_hand.collector = collector = Collector(self.output_type, self.output, self._tagged)
        timestamps = self._timestamps(batch)
        if isinstance(self.assigner, AlignedWindows) and self.trigger.same_for_all_elements:
            accepted = self._add_by_window(self.assigner, keys, rows, timestamps)
        else:
            accepted = self._add_one_by_one(keys, rows, timestamps)
        collector.emit()
        if not accepted.all():
            self._give_out_late(batch, np.flatnonzero(~accepted).tolist())

    def _timestamps(self, batch: Batch) -> Int64Array:
        if not self.assigner.is_event_time:
            return np.full(len(batch), self._at_hand.now_ms, np.int64)
        if not batch.has_timestamps or (batch.timestamps() == NO_TIMESTAMP).any():
            raise RecordTypeError(
                f"operator '{self.context.operator_name}': a record has no timestamp, which event-time windows "
                "need; give the source a WatermarkStrategy with a timestamp assigner, or call "
                "assign_timestamps_and_watermarks(...)"
            )
        return batch.timestamps()

    def _add_by_window(self, assigner: AlignedWindows, keys: list[Any], rows: list[Any], timestamps: Int64Array) -> Any:
        accepted = np.zeros(len(rows), np.bool_)
        for starts in assigner.starts(timestamps):
            for start, positions in _by_start(starts):
                window = assigner.window_at(start)
                if self._is_over(window):
                    continue
                accepted[positions] = True
                whole = len(positions) == len(rows)
                own_keys = keys if whole else [keys[i] for i in positions]
                own_rows = rows if whole else [rows[i] for i in positions]
                own_timestamps = timestamps[positions].tolist()
                if window.max_timestamp() <= self.current_watermark:
                    for key, row, timestamp in zip(own_keys, own_rows, own_timestamps, strict=True):
                        self._add_one(key, row, timestamp, window)
                else:
                    self._add_alike(own_keys, own_rows, own_timestamps[0], window)
        return accepted

    def _add_alike(self, keys: list[Any], rows: list[Any], timestamp: int, window: TimeWindow) -> None:
        """Elements of a window that is not due yet, when the trigger does the same for each of them: it is asked at
        the first of each key, and its timers are there for the others."""
        for position in self._add(keys, rows, window):
            self._ask_trigger(keys[position], rows[position], timestamp, window)

    def _add_one_by_one(self, keys: list[Any], rows: list[Any], timestamps: Int64Array) -> Any:
        accepted = np.zeros(len(rows), np.bool_)
        for i, (key, row, timestamp) in enumerate(zip(keys, rows, timestamps.tolist(), strict=True)):
            for window in self.assigner.assign_windows(row, timestamp):
                if not self._is_over(window):
                    accepted[i] = True
                    self._add_one(key, row, timestamp, window)
        return accepted

    def _add_one(self, key: Any, row: Any, timestamp: int, window: TimeWindow) -> None:
        self._add([key], [row], window)
        result = self._ask_trigger(key, row, timestamp, window)
        self._act(result, over=False)

    def _add(self, keys: list[Any], rows: list[Any], window: TimeWindow) -> list[int]:
        self.backend.set_namespace(window.start)
        try:
            return self.evaluation.add(keys, rows)
        except Exception as error:
            raise_user_error(self.context, error, f"in a batch that begins with {shown(rows[0])}")

    def _ask_trigger(self, key: Any, row: Any, timestamp: int, window: TimeWindow) -> TriggerResult:
        self._at_hand.move_to(key, window)
        try:
            result = self.trigger.on_element(row, timestamp, window, self._trigger_context)
        except Exception as error:
            raise_user_error(self.context, error, f"in the trigger, on the record {shown(row)}")
        self._timers[self.assigner.is_event_time].register_for(key, self._cleanup_time(window), window.start)
        return result

    def _cleanup_time(self, window: TimeWindow) -> int:
        return window.max_timestamp() + self.allowed_lateness_ms

    def _is_over(self, window: TimeWindow) -> bool:
        return self.assigner.is_event_time and self._cleanup_time(window) <= self.current_watermark

    def _give_out_late(self, batch: Batch, positions: list[int]) -> None:
        self._late.inc(len(positions))
        if self.late_tag is not None:
            self.output.emit_side(self.late_tag, batch.keep(positions))

    # time

    def process_watermark(self, watermark: Watermark) -> Firing:
        self.current_watermark = watermark.timestamp
        self._at_hand.now_ms = self.context.clock.now_ms()
        return self._fire(watermark.timestamp, event_time=True)

    def next_processing_timer(self) -> int | None:
        return self._or_sweep(self._timers[False].next_timestamp())

    def advance_processing_time(self, now_ms: int) -> Firing:
        self._at_hand.now_ms = now_ms
        return self._fire(now_ms, event_time=False)

    def _fire(self, up_to: int, event_time: bool) -> Firing:
        timers = self._timers[event_time]
        at_hand = self._at_hand
        at_hand.collector = collector = self._firing = Collector(self.output_type, self.output, self._tagged)
        fired = 0
        while (due := timers.pop_due(up_to)) is not None:
            timestamp, key, start = due
            window = self.assigner.window_at(start)
            at_hand.move_to(key, window)
            self._on_timer(timestamp, window, event_time)
            fired += 1
            if fired % TIMERS_AT_ONCE == 0:
                if collector.held >= ROWS_AT_ONCE:
                    collector.emit()
                self.backend.between_batches()
                yield
        collector.emit()

    def _on_timer(self, timestamp: int, window: TimeWindow, event_time: bool) -> None:
        on_time = self.trigger.on_event_time if event_time else self.trigger.on_processing_time
        try:
            result = on_time(timestamp, window, self._trigger_context)
        except Exception as error:
            raise_user_error(self.context, error, f"in the trigger of {window}")
        over = event_time == self.assigner.is_event_time and timestamp == self._cleanup_time(window)
        self._act(result, over)

    def _act(self, result: TriggerResult, over: bool) -> None:
        """What the trigger said about the window at hand, and the end of it when it is over."""
        at_hand = self._at_hand
        purge = over or TriggerResult.PURGE in result
        try:
            if TriggerResult.FIRE in result:
                self._give_out(keep=not purge)
            if purge:
                self.evaluation.clear()
            if over:
                self.trigger.clear(at_hand.window(), self._trigger_context)
                self.evaluation.window_over(at_hand)
        except Exception as error:
            raise_user_error(self.context, error, f"in {at_hand.window()} of key {shown(at_hand.key)}")

    def _give_out(self, keep: bool) -> None:
        """keep: the window goes on with its contents, so what is handed out must not be the contents themselves. Nor
        may it be other state that a window function has."""
        at_hand = self._at_hand
        produced = self.evaluation.results(at_hand.key, at_hand)
        if produced is None:
            return
        apart = keep or self.evaluation.window_function is not None
        at_hand.collector.take(produced, at_hand.window().max_timestamp(), apart=apart)

    def close(self) -> None:
        try:
            self.evaluation.close()
        finally:
            super().close()


def _by_start(starts: Int64Array) -> Iterator[tuple[int, Any]]:
    """(start, positions of its elements in order), in the order of time."""
    first = int(starts[0])
    if (starts == first).all():
        yield first, np.arange(len(starts))
        return
    order = np.argsort(starts, kind="stable")
    borders = np.flatnonzero(np.diff(starts[order])) + 1
    for positions in np.split(order, borders):
        yield int(starts[positions[0]]), positions


class _AtHand(WindowContext):
    """The key and window at hand: one object for all calls."""

    collector: Collector

    def __init__(self, operator: WindowOperator, backend: KeyedStateBackend) -> None:
        self._operator = operator
        self._backend = backend
        self._window = TimeWindow(0, 0)
        self.key: Any = None
        self.now_ms = 0
        self._window_state = _Store(backend, "window.")
        self._global_state = _Store(cast(KeyedStateBackend, _GlobalState(backend, self)), "")

    def move_to(self, key: Any, window: TimeWindow) -> None:
        self.key, self._window = key, window
        self._backend.set_current_key(key)
        self._backend.set_namespace(window.start)

    def window(self) -> TimeWindow:
        return self._window

    def current_processing_time(self) -> int:
        return self.now_ms

    def current_watermark(self) -> int:
        return self._operator.current_watermark

    def window_state(self) -> KeyedStateStore:
        return self._window_state

    def global_state(self) -> KeyedStateStore:
        return self._global_state

    def output(self, tag: OutputTag[Any], value: Any) -> None:
        self.collector.side(tag, value, self._window.max_timestamp(), apart=True)


class _ForTrigger(TriggerContext):
    def __init__(self, at_hand: _AtHand, event_timers: Timers, processing_timers: Timers) -> None:
        self._at_hand = at_hand
        self._event_timers = event_timers
        self._processing_timers = processing_timers
        self._state = _Store(at_hand._backend, "trigger.")

    def get_current_watermark(self) -> int:
        return self._at_hand.current_watermark()

    def get_current_processing_time(self) -> int:
        return self._at_hand.now_ms

    def register_event_time_timer(self, time: int) -> None:
        self._event_timers.register_for(self._at_hand.key, time, self._at_hand.window().start)

    def register_processing_time_timer(self, time: int) -> None:
        self._processing_timers.register_for(self._at_hand.key, time, self._at_hand.window().start)

    def delete_event_time_timer(self, time: int) -> None:
        self._event_timers.delete_for(self._at_hand.key, time, self._at_hand.window().start)

    def delete_processing_time_timer(self, time: int) -> None:
        self._processing_timers.delete_for(self._at_hand.key, time, self._at_hand.window().start)

    def get_partitioned_state(self, state_descriptor: Any) -> Any:
        return self._state.of(state_descriptor)


class _Store(KeyedStateStore):
    """State of the current namespace, under names that do not meet the operator's own."""

    def __init__(self, backend: KeyedStateBackend, prefix: str) -> None:
        self._backend = backend
        self._prefix = prefix

    def get_state(self, descriptor: Any) -> Any:
        return self._backend.value_state(self._named(descriptor))

    def get_list_state(self, descriptor: Any) -> Any:
        return self._backend.list_state(self._named(descriptor))

    def get_map_state(self, descriptor: Any) -> Any:
        return self._backend.map_state(self._named(descriptor))

    def get_reducing_state(self, descriptor: Any) -> Any:
        return self._backend.reducing_state(self._named(descriptor))

    def get_aggregating_state(self, descriptor: Any) -> Any:
        return self._backend.aggregating_state(self._named(descriptor))

    def of(self, descriptor: StateDescriptor) -> Any:
        return getattr(self._backend, f"{descriptor.kind}_state")(self._named(descriptor))

    def _named(self, descriptor: Any) -> Any:
        return dataclasses.replace(descriptor, name=self._prefix + descriptor.name)


class _GlobalState:
    """State of the key over all windows: each access leaves the window's namespace and comes back to it."""

    def __init__(self, backend: KeyedStateBackend, at_hand: _AtHand) -> None:
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
    def __init__(self, handle: Any, backend: KeyedStateBackend, at_hand: _AtHand) -> None:
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
                self._backend.set_namespace(self._at_hand.window().start)

        return outside


__all__ = ["Aggregate", "Apply", "Evaluation", "Process", "Reduce", "WindowOperator"]
