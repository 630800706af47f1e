"""Sessions with the trigger they come with: given out at their end, again with every late element that is allowed.

A key's open sessions are one value: (start, end, number, fired) of each; its contents lie in the namespace of that
number. That is usually 0, for most keys have one session at a time: so a batch is folded in two passes, one over the
sessions, which gives the number for every element, and one over the contents, for all keys with the same number.

Timers follow lazily. A session that was not given out has a timer at its end or before it; one that fires too early,
because the session has grown since, is registered anew. One that was given out and is kept for late elements has a
timer at its cleanup time. A timer that finds no session of its number, or one with other times, means nothing.

What cannot be folded is taken one by one, after everything else in the batch, from the first such element of its key
on: elements that are due when they come (they fire, or are late), and those that make one session out of several.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import numpy as np

from ...state.backend import VOID_NAMESPACE, ValueState
from ...state.descriptors import ValueStateDescriptor
from ...state.rows.handles import CachedValueState
from ..operators.operator import OperatorContext, RestoredState
from ..operators.user_code import raise_user_error, shown
from .evaluations import Folding
from .incoming import Incoming
from .session_windows import SessionWindows
from .trigger import TriggerResult
from .window_operator import BoolArray, WindowOperator
from .windows import TimeWindow

Session = tuple[int, int, int, bool]
"""Start, end (ms), number, whether it was given out as it is."""
_DEFERRED = -1


class _Opened(NamedTuple):
    """A session that needs a timer."""

    key: Any
    time: int
    number: int


class SessionOperator(WindowOperator):
    """Sessions of event time or of the clock."""

    windows_merge = True

    def open(self, context: OperatorContext, restored: RestoredState) -> None:
        super().open(context, restored)
        kind = tuple[tuple[int, int, int, bool], ...]
        descriptor: ValueStateDescriptor[Any] = ValueStateDescriptor("sessions", kind)
        self._sessions: ValueState[Any] = self.backend.value_state(descriptor)

    # elements

    def _add_all(self, incoming: Incoming) -> BoolArray:
        accepted = np.ones(len(incoming), np.bool_)
        ends = self._ends(incoming)
        numbers = self._fold_sessions(incoming, ends)
        distinct = set(numbers)
        for number in distinct - {_DEFERRED}:
            own = incoming if len(distinct) == 1 else incoming.at(np.flatnonzero(np.array(numbers) == number))
            self._add(own, number)
        if _DEFERRED in distinct:
            for position, number in enumerate(numbers):
                if number == _DEFERRED:
                    accepted[position] = self._add_alone(incoming, position, ends[position])
        return accepted

    def _ends(self, incoming: Incoming) -> list[int]:
        """Of every element's own window."""
        assigner = cast(SessionWindows, self.assigner)
        times: list[int] = incoming.times.tolist()
        if assigner.gap_ms is not None:
            return [time + assigner.gap_ms for time in times]
        row: Any = None
        ends = []
        try:
            for time, row in zip(times, incoming.rows, strict=True):
                ends.append(time + assigner.gap(row))
        except Exception as error:
            raise_user_error(self.context, error, f"in the gap of sessions, on the record {shown(row)}")
        return ends

    def _fold_sessions(self, incoming: Incoming, ends: list[int]) -> list[int]:
        """Every element's session, by number; _DEFERRED for those to be taken one by one."""
        keys, starts = incoming.keys, incoming.times.tolist()
        passed = self.current_watermark + 1 if self.assigner.is_event_time else min(ends) - 1
        numbers: list[int] = []
        opened: list[_Opened] = []
        deferred: set[Any] = set()

        def step(sessions: tuple[Session, ...] | None, position: int) -> tuple[Session, ...] | None:
            start, end = starts[position], ends[position]
            if end <= passed or (deferred and keys[position] in deferred):
                deferred.add(keys[position])
                numbers.append(_DEFERRED)
                return sessions
            if sessions is None:
                numbers.append(0)
                opened.append(_Opened(keys[position], end - 1, 0))
                return ((start, end, 0, False),)
            met = [each for each in sessions if each[0] <= end and each[1] >= start]
            if len(met) > 1:
                deferred.add(keys[position])
                numbers.append(_DEFERRED)
                return sessions
            if not met:
                number = _free_number(sessions)
                numbers.append(number)
                opened.append(_Opened(keys[position], end - 1, number))
                return (*sessions, (start, end, number, False))
            ((first, last, number, fired),) = met
            numbers.append(number)
            if first <= start and end <= last and not fired:
                return sessions
            grown = (min(first, start), max(last, end), number, False)
            if fired:
                opened.append(_Opened(keys[position], grown[1] - 1, number))
            return (grown,) if len(sessions) == 1 else tuple([grown if each is met[0] else each for each in sessions])

        self.backend.set_namespace(VOID_NAMESPACE)
        self._sessions.fold(keys, range(len(keys)), step)
        for key, time, number in opened:
            self._own_timers.register_for(key, time, number)
        return numbers

    def _add_alone(self, incoming: Incoming, position: int, end: int) -> bool:
        """Whether it is in time."""
        key, start = incoming.keys[position], int(incoming.times[position])
        sessions = self._sessions_of(key)
        met = sorted(each for each in sessions if each[0] <= end and each[1] >= start)
        window = TimeWindow(min([start, *[each[0] for each in met]]), max([end, *[each[1] for each in met]]))
        if self._is_over(window):
            return False
        due = self._is_due(window)
        number = met[0][2] if met else _free_number(sessions)
        self._keep((*[each for each in sessions if each not in met], (*window, number, due)))
        if len(met) > 1:
            self._merge(window, number, [each[2] for each in met[1:]])
        self._add(incoming.one(position), number)
        if due:
            self._at_hand.move_to(key, window, number, number)
            self._act(TriggerResult.FIRE, over=False)
            self._register_cleanup(key, window, number)
        else:
            self._own_timers.register_for(key, window.max_timestamp(), number)
        return True

    def _merge(self, window: TimeWindow, number: int, others: list[int]) -> None:
        """For the current key."""
        try:
            self.evaluation.merge(number, others)
        except Exception as error:
            raise_user_error(self.context, error, f"merging sessions into {window} of key {self.backend.current_key}")

    def _sessions_of(self, key: Any) -> tuple[Session, ...]:
        self.backend.set_current_key(key)
        self.backend.set_namespace(VOID_NAMESPACE)
        return self._sessions.value() or ()

    def _keep(self, sessions: tuple[Session, ...]) -> None:
        """For the current key."""
        self.backend.set_namespace(VOID_NAMESPACE)
        self._sessions.update(sessions or None)

    # time

    def _on_timers(self, timestamp: int, keys: list[Any], number: int, event_time: bool) -> None:
        """What these keys have, and have perhaps not used for long, comes into the cache with one look below it."""
        if len(keys) > 1:
            self.backend.set_namespace(VOID_NAMESPACE)
            cast(CachedValueState[Any], self._sessions).values_of(keys)
            if isinstance(self.evaluation, Folding):
                self.backend.set_namespace(number)
                self.evaluation.contents_of(keys)
        super()._on_timers(timestamp, keys, number, event_time)

    def _on_timer(self, timestamp: int, key: Any, number: int, event_time: bool) -> None:
        sessions = self._sessions_of(key)
        for session in sessions:
            if session[2] == number:
                break
        else:
            return
        window, fired = TimeWindow(*session[:2]), session[3]
        last = window.max_timestamp()
        if timestamp < last and not fired:
            self._own_timers.register_for(key, last, number)
            return
        fires, over = timestamp == last and not fired, timestamp == self._cleanup_time(window)
        if not (fires or over):
            return
        self._at_hand.move_to(key, window, number, number)
        self._act(TriggerResult.FIRE if fires else TriggerResult.CONTINUE, over)
        if over:
            self._keep(tuple([each for each in sessions if each is not session]))
        else:
            self._keep(tuple([(*each[:3], True) if each is session else each for each in sessions]))
            self._register_cleanup(key, window, number)


def _free_number(sessions: tuple[Session, ...]) -> int:
    return max([each[2] for each in sessions], default=-1) + 1
