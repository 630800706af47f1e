"""Windows of a user's own assigner, and windows that merge: numbered by a set per key, which is state (window_set.py).

Elements are taken one by one: their window is looked for in the key's set, or opened there. Where windows merge, an
element's window first takes together those it meets: the trigger's on_merge is called for the window they become, then
its clear for each of them, and their contents come together. Only then does the element come in. A window whose
elements are late by then is not opened.

A timer finds its window by number; one that the trigger of another window has left behind finds none, and is nothing.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from ...state.backend import VOID_NAMESPACE, ValueState
from ...state.descriptors import ValueStateDescriptor
from ...state.errors import PipelineError
from ..operators.operator import OperatorContext, RestoredState
from ..operators.user_code import raise_user_error, shown
from .assigner import MergingWindowAssigner
from .incoming import Incoming
from .window_operator import BoolArray, WindowOperator
from .window_set import Added, Merge, OpenWindow, WindowSet, find, slot_of, with_merging_window, with_window, without


class CustomWindowOperator(WindowOperator):
    """Windows that do not merge."""

    def open(self, context: OperatorContext, restored: RestoredState) -> None:
        super().open(context, restored)
        window_type = self.assigner.window_type
        kind = None if window_type is None else tuple[tuple[window_type, int, int], ...]  # type: ignore[valid-type]
        descriptor: ValueStateDescriptor[Any] = ValueStateDescriptor("windows", kind)
        self._sets: ValueState[Any] = self.backend.value_state(descriptor)

    def _add_all(self, incoming: Incoming) -> BoolArray:
        accepted = np.zeros(len(incoming), np.bool_)
        for position, time in enumerate(incoming.times.tolist()):
            for window in self._assign(incoming.rows[position], time):
                opened = self._opened(incoming.keys[position], window)
                if opened is not None:
                    accepted[position] = True
                    self._add_one(incoming, position, opened.window, opened.number, opened.contents)
        return accepted

    def _assign(self, row: Any, time: int) -> list[Any]:
        try:
            windows = list(self.assigner.assign_windows(row, time))
            for window in windows:
                if not callable(getattr(window, "max_timestamp", None)):
                    raise TypeError(f"{self.assigner} gave {window!r}, which is no window: it has no max_timestamp()")
                hash(window)  # a TypeError that names its type
        except Exception as error:
            raise_user_error(self.context, error, f"in the assigner, on the record {shown(row)}")
        return windows

    def _opened(self, key: Any, window: Any) -> OpenWindow | None:
        """The window as it is in the key's set from now on; None if it is over."""
        if self._is_over(window):
            return None
        before = self._set_of(key)
        added = with_window(before, window)
        self._keep(before, added.windows)
        return added.actual

    def _set_of(self, key: Any) -> WindowSet:
        self.backend.set_current_key(key)
        self.backend.set_namespace(VOID_NAMESPACE)
        return tuple([OpenWindow(*each) for each in self._sets.value() or ()])

    def _keep(self, before: WindowSet, after: WindowSet) -> None:
        """For the current key."""
        if after != before:
            self.backend.set_namespace(VOID_NAMESPACE)
            self._sets.update(tuple([tuple(each) for each in after]) or None)

    def _on_timer(self, timestamp: int, key: Any, number: int, event_time: bool) -> None:
        opened = find(self._set_of(key), number)
        if opened is not None:
            self._at_hand.move_to(key, *opened)
            self._time_has_come(timestamp, event_time)

    def _window_over(self) -> None:
        super()._window_over()
        before = self._set_of(self._at_hand.key)
        gone = find(before, self._at_hand.number)
        if gone is not None:
            self._keep(before, without(before, gone))


class MergingWindowOperator(CustomWindowOperator):
    """Windows that merge, with any trigger that can."""

    windows_merge = True

    def _opened(self, key: Any, window: Any) -> OpenWindow | None:
        before = self._set_of(key)
        added = self._merged(before, window)
        if self._is_over(added.actual.window):
            if added.merges:
                raise PipelineError(
                    f"operator '{self.context.operator_name}': {self.assigner} merged windows into "
                    f"{added.actual.window}, which is over already at the watermark {self.current_watermark}"
                )
            return None
        self._keep(before, added.windows)
        for merge in added.merges:
            self._merge(key, merge)
        return added.actual

    def _merged(self, before: WindowSet, window: Any) -> Added:
        try:
            return with_merging_window(before, window, cast(MergingWindowAssigner, self.assigner).merge_windows)
        except Exception as error:
            raise_user_error(self.context, error, f"in the assigner, merging {window}")

    def _merge(self, key: Any, merge: Merge) -> None:
        at_hand, result = self._at_hand, merge.result
        try:
            at_hand.move_to(key, *result)
            self.backend.set_namespace(slot_of(result.number))
            self._for_trigger.merged_numbers = [each.number for each in merge.merged]
            self.trigger.on_merge(result.window, self._for_trigger)
            for each in merge.merged:
                at_hand.move_to(key, *each)
                self.backend.set_namespace(slot_of(each.number))
                self.trigger.clear(each.window, self._for_trigger)
                self._own_timers.delete_for(key, self._cleanup_time(each.window), each.number)
            others = [each.contents for each in merge.merged if each.contents != result.contents]
            self.evaluation.merge(result.contents, others)
        except Exception as error:
            raise_user_error(self.context, error, f"merging windows into {result.window} of key {shown(key)}")
        self._register_cleanup(key, result.window, result.number)
