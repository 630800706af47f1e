"""Windows on rows: contents per key and window in state, triggers that say when they are given out.

A window's state lies in the namespace of its number: of aligned windows, which are what this file handles, their
start. Windows that need more are handled by operators derived from this one: custom_windows.py (a user's assigner,
windows that merge), session_operator.py and slices.py (sessions and sliding windows with the trigger they come with).

A timer at a window's *cleanup time* (its last ms, plus the allowed lateness) removes it. An element whose windows are
all over is late: counted, and given to the late side output if there is one; one that has no window, because it falls
between sliding windows, only if its time has passed as well. Lateness is judged against the watermark before the
batch (PROTOCOLS 20). An element that comes after its window has fired, but before cleanup, makes it fire again.

The elements of a batch are folded into state window by window, all keys at once, where the trigger treats them all
alike; otherwise, and for windows that are due already (each element fires again), one by one. What comes out is the
same for every way the stream is cut into batches. Windows with the trigger they come with need not ask it: timers are
registered for all keys at once, and what was folded is given out and forgotten so, where no window function is called
and nothing that is late may come.

Timers, and so results, come in the order of time; of one time, window by window in the order of their start, and in a
window usually in that of registration (state/rows/timers.py). Results carry the last ms of their window; those of
global windows, which have none, the last timestamp there is (event-time windows refuse such records).

At the end of the input the last watermark fires what event time can fire. Timers of the clock fire no more: windows of
processing time give out nothing then, and what global windows hold is given out only by a trigger of event time. In
batch mode they do fire then, after those of event time, and then what these have registered in event time; and the
triggers are such that every window fires only once (final_triggers.py).
"""

from __future__ import annotations

from typing import Any, Self, cast

import numpy as np
import numpy.typing as npt

from ...state.backend import KeyedStateBackend
from ..batch import Batch, Int64Array
from ..elements import Watermark
from ..functions import RuntimeContext
from ..keys import KeySelector
from ..operators.keyed import ROWS_AT_ONCE, TIMERS_AT_ONCE, KeyedOperator
from ..operators.operator import Firing, OperatorContext, RestoredState
from ..operators.user_code import Collector, raise_user_error, shown
from ..records.record_types import RecordType
from .assigner import NO_WINDOW, AlignedWindows, WindowAssigner
from .contexts import AtHand, ForTrigger, GlobalState
from .evaluations import Aggregate, Apply, Evaluation, Folding, Process, Reduce
from .event_time_triggers import EventTimeTrigger
from .final_triggers import final_trigger
from .incoming import Incoming, by_start, event_times
from .processing_time_triggers import ProcessingTimeTrigger
from .session_windows import SessionWindows
from .trigger import Trigger, TriggerResult
from .window_set import slot_of
from .windows import MAX_TIMESTAMP

BoolArray = npt.NDArray[np.bool_]


class WindowOperator(KeyedOperator):
    """Aligned windows with any trigger and any evaluation; building.py knows which operator windows need."""

    windows_merge = False
    """Then contents and the trigger's state have namespaces of their own; else both are that of the window's number,
    in which the operator is as long as the window is at hand."""

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
        self._goes_by_time = isinstance(assigner, AlignedWindows | SessionWindows)
        self._tagged = bool(side_tags)

    def in_batch_mode(self) -> Self:
        operator = self.flagged_for_batch_mode()
        operator.trigger = final_trigger(self.trigger, of_event_time=self.assigner.is_event_time)
        return operator

    def open(self, context: OperatorContext, restored: RestoredState) -> None:
        super().open(context, restored)
        self._late = context.metrics.counter("records_late_total")
        self._timers = {True: self.backend.timers("event"), False: self.backend.timers("processing")}
        self._own_timers = self._timers[self.assigner.is_event_time]
        self._at_hand = AtHand(self, self.backend, self.windows_merge)
        own = EventTimeTrigger if self.assigner.is_event_time else ProcessingTimeTrigger
        self._given_out_at_end = isinstance(self.assigner, AlignedWindows) and type(self.trigger) is own
        folds = isinstance(self.evaluation, Folding) and self.evaluation.window_function is None
        self._gives_out_folded = self._given_out_at_end and folds and not self.allowed_lateness_ms
        self._for_trigger = ForTrigger(self._at_hand, self.backend, self._timers[True], self._timers[False])
        global_state = cast(KeyedStateBackend, GlobalState(self.backend, self._at_hand))
        try:
            self.evaluation.open(RuntimeContext(context, global_state), self.backend, self.input_type)
        except Exception as error:
            raise_user_error(context, error, "in open()")

    # elements

    def process_batch(self, batch: Batch, input_index: int) -> None:
        if not len(batch):
            return
        at_hand = self._at_hand
        at_hand.now_ms = self.context.clock.now_ms()
        at_hand.collector = collector = Collector(self.output_type, self.output, self._tagged)
        incoming = Incoming(self.keys(batch, input_index), batch.rows(), batch.timestamps(), self._times(batch))
        accepted = self._add_all(incoming)
        collector.emit()
        if self.assigner.is_event_time and not accepted.all():
            passed = incoming.times + self.allowed_lateness_ms <= self.current_watermark
            self._give_out_late(batch, np.flatnonzero(passed & ~accepted).tolist())

    def _times(self, batch: Batch) -> Int64Array:
        """What windows are assigned by."""
        if not self.assigner.is_event_time:
            return np.full(len(batch), self._at_hand.now_ms, np.int64)
        return event_times(batch, self.context.operator_name, end_of_time=not self._goes_by_time)

    def _add_all(self, incoming: Incoming) -> BoolArray:
        """Which elements belong to a window that is not over."""
        assigner = cast(AlignedWindows, self.assigner)
        try:
            starts = assigner.starts(incoming.times)
        except Exception as error:
            raise_user_error(self.context, error, f"in the assigner, {assigner}")
        add = self._add_by_window if self.trigger.same_for_all_elements else self._add_one_by_one
        return add(assigner, incoming, starts)

    def _add_by_window(self, assigner: AlignedWindows, incoming: Incoming, starts: list[Int64Array]) -> BoolArray:
        accepted = np.zeros(len(incoming), np.bool_)
        for start, positions in by_start(starts):
            if start == NO_WINDOW:
                continue
            window = assigner.window_at(start)
            if self._is_over(window):
                continue
            accepted[positions] = True
            if self._may_have_fired(window):
                for position in positions.tolist():
                    self._add_one(incoming, position, window, start, start)
            else:
                self._add_alike(incoming.at(positions), window, start)
        return accepted

    def _add_alike(self, elements: Incoming, window: Any, number: int) -> None:
        """Elements of a window that is not due yet, when the trigger does the same for each of them: it is asked at
        the first of each key, and its timers are there for the others. What the windows' own one does is known."""
        first = self._add(elements, number)
        if self._given_out_at_end:
            self._register_end([elements.keys[position] for position in first], window, number)
            return
        for position in first:
            self._at_hand.move_to(elements.keys[position], window, number, number)
            self._ask_trigger(elements.rows[position], int(elements.own_timestamps[position]))

    def _add_one_by_one(self, assigner: AlignedWindows, incoming: Incoming, starts: list[Int64Array]) -> BoolArray:
        accepted = np.zeros(len(incoming), np.bool_)
        windows = {int(start): assigner.window_at(int(start)) for start in np.unique(starts) if start != NO_WINDOW}
        for position, of_element in enumerate(zip(*[each.tolist() for each in starts], strict=True)):
            for start in of_element:
                if start != NO_WINDOW and not self._is_over(windows[start]):
                    accepted[position] = True
                    self._add_one(incoming, position, windows[start], start, start)
        return accepted

    def _add_one(self, incoming: Incoming, position: int, window: Any, number: int, contents: int) -> None:
        self._add(incoming.one(position), contents)
        self._at_hand.move_to(incoming.keys[position], window, number, contents)
        self._act(self._ask_trigger(incoming.rows[position], int(incoming.own_timestamps[position])), over=False)

    def _add(self, elements: Incoming, contents: int) -> list[int]:
        self.backend.set_namespace(contents)
        try:
            return self.evaluation.add(elements.keys, elements.rows, elements.own_timestamps)
        except Exception as error:
            raise_user_error(self.context, error, f"in a batch that begins with {shown(elements.rows[0])}")

    def _ask_trigger(self, row: Any, timestamp: int) -> TriggerResult:
        """About an element of the window at hand."""
        at_hand = self._at_hand
        window = at_hand.window()
        if self.windows_merge:
            self.backend.set_namespace(slot_of(at_hand.number))
        try:
            result = self.trigger.on_element(row, timestamp, window, self._for_trigger)
        except Exception as error:
            raise_user_error(self.context, error, f"in the trigger, on the record {shown(row)}")
        self._register_cleanup(at_hand.key, window, at_hand.number)
        return result

    def _register_cleanup(self, key: Any, window: Any, number: int) -> None:
        time = self._cleanup_time(window)
        if time < MAX_TIMESTAMP:
            self._own_timers.register_for(key, time, number)

    def _register_end(self, keys: list[Any], window: Any, number: int) -> None:
        """What firing at a window's end needs."""
        last: int = window.max_timestamp()
        self._own_timers.register_all(keys, last, number)
        if self._cleanup_time(window) > last:
            self._register_cleanups(keys, window, number)

    def _register_cleanups(self, keys: list[Any], window: Any, number: int) -> None:
        time = self._cleanup_time(window)
        if time < MAX_TIMESTAMP:
            self._own_timers.register_all(keys, time, number)

    def _cleanup_time(self, window: Any) -> int:
        last: int = window.max_timestamp()
        return min(last + self.allowed_lateness_ms, MAX_TIMESTAMP)

    def _is_over(self, window: Any) -> bool:
        return self.assigner.is_event_time and self._cleanup_time(window) <= self.current_watermark

    def _may_have_fired(self, window: Any) -> bool:
        """With a trigger that is the same for all elements until then."""
        last: int = window.max_timestamp()
        return last < self._at_hand.now_ms if self.trigger.by_the_clock else last <= self.current_watermark

    def _is_due(self, window: Any) -> bool:
        """It has fired, if it is given out at its end."""
        return self.assigner.is_event_time and window.max_timestamp() <= self.current_watermark

    def _give_out_late(self, batch: Batch, positions: list[int]) -> None:
        self._late.inc(len(positions))
        if positions and self.late_tag is not None:
            self.output.emit_side(self.late_tag, batch.keep(positions))

    # time

    def process_watermark(self, watermark: Watermark) -> Firing:
        self.current_watermark = watermark.timestamp
        self._at_hand.now_ms = self.context.clock.now_ms()
        yield from self._fire(watermark.timestamp, event_time=True)
        if self.is_last(watermark):
            yield from self._fire(MAX_TIMESTAMP, event_time=False)
            yield from self._fire(MAX_TIMESTAMP, event_time=True)

    def next_processing_timer(self) -> int | None:
        """A timer is due when its ms is over: what arrives in a window's last ms belongs to it."""
        timer_ms = None if self.batch_mode else self._timers[False].next_timestamp()
        return self._or_sweep(None if timer_ms is None else timer_ms + 1)

    def advance_processing_time(self, now_ms: int) -> Firing:
        self._at_hand.now_ms = now_ms
        return self._fire(now_ms - 1, event_time=False)

    def _fire(self, up_to: int, event_time: bool) -> Firing:
        timers = self._timers[event_time]
        at_hand = self._at_hand
        at_hand.collector = collector = self._firing = Collector(self.output_type, self.output, self._tagged)
        fired = 0
        while (due := timers.pop_due_alike(up_to, TIMERS_AT_ONCE - fired)) is not None:
            timestamp, number, keys = due
            self._on_timers(timestamp, keys, number, event_time)
            fired += len(keys)
            if fired == TIMERS_AT_ONCE:
                fired = 0
                if collector.held >= ROWS_AT_ONCE:
                    collector.emit()
                self.backend.between_batches()
                yield
                at_hand.collector = collector
        collector.emit()

    def _on_timers(self, timestamp: int, keys: list[Any], number: int, event_time: bool) -> None:
        """Timers of one time and number."""
        if self._gives_out_folded and event_time == self.assigner.is_event_time:
            window = cast(AlignedWindows, self.assigner).window_at(number)
            if timestamp == window.max_timestamp():
                self._give_out_all(keys, window, number)
                return
        for key in keys:
            self._on_timer(timestamp, key, number, event_time)

    def _give_out_all(self, keys: list[Any], window: Any, number: int) -> None:
        """The window of each key, which is over."""
        evaluation, results = cast(Folding, self.evaluation), list[Any]()
        self.backend.set_namespace(number)
        for key, contents in zip(keys, evaluation.contents_of(keys), strict=True):
            try:
                if contents is not None:
                    results.append(evaluation.finished(contents))
            except Exception as error:
                raise_user_error(self.context, error, f"in {window} of key {shown(key)}")
        self._at_hand.collector.take(results, window.max_timestamp())
        evaluation.clear_all(keys)

    def _on_timer(self, timestamp: int, key: Any, number: int, event_time: bool) -> None:
        window = cast(AlignedWindows, self.assigner).window_at(number)
        self._at_hand.move_to(key, window, number, number)
        self._time_has_come(timestamp, event_time)

    def _time_has_come(self, timestamp: int, event_time: bool) -> None:
        """For the window at hand."""
        at_hand = self._at_hand
        window = at_hand.window()
        on_time = self.trigger.on_event_time if event_time else self.trigger.on_processing_time
        if self.windows_merge:
            self.backend.set_namespace(slot_of(at_hand.number))
        try:
            result = on_time(timestamp, window, self._for_trigger)
        except Exception as error:
            raise_user_error(self.context, error, f"in the trigger of {window}")
        over = event_time == self.assigner.is_event_time and timestamp == self._cleanup_time(window)
        if not over:
            self._register_cleanup(at_hand.key, window, at_hand.number)  # a trigger may have deleted that timer
        self._act(result, over)

    def _act(self, result: TriggerResult, over: bool) -> None:
        """What the trigger said about the window at hand, and the end of it when it is over."""
        at_hand = self._at_hand
        try:
            if not isinstance(result, TriggerResult):
                raise TypeError(f"the trigger ({self.trigger}) answered {result!r}, which is no TriggerResult")
            purge = over or TriggerResult.PURGE in result
            if self.windows_merge:
                self.backend.set_namespace(at_hand.home)
            if TriggerResult.FIRE in result:
                self._give_out(keep=not purge)
            if purge:
                self.evaluation.clear()
            if over:
                self._window_over()
        except Exception as error:
            raise_user_error(self.context, error, f"in {at_hand.window()} of key {shown(at_hand.key)}")

    def _window_over(self) -> None:
        """The one at hand: nothing of it must be left."""
        self.evaluation.window_over(self._at_hand)
        if self.windows_merge:
            self.backend.set_namespace(slot_of(self._at_hand.number))
        self.trigger.clear(self._at_hand.window(), self._for_trigger)

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


__all__ = ["Aggregate", "Apply", "Evaluation", "Process", "Reduce", "WindowOperator"]
