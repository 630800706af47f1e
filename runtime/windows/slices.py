"""Sliding windows that share slices: an element is folded once, not once for every window that it belongs to.

All windows are made of slices, of the greatest length that divides size and slide. An element is folded into its slice,
whose namespace is its start; a window that fires combines the contents of its slices, and leaves them as they are. This
is done for reduce and aggregate with the trigger that the windows come with; contents of a window are combined in the
order of its slices.

Timers are a chain: a key's first element in a slice registers a timer for the end of the first window that is still to
fire, and a window that fires registers the next one, as long as that has something in it. With a window the slices go
that no later one has (with allowed lateness at its cleanup time, for which every window that fires has a timer).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..operators.operator import OperatorContext, RestoredState
from ..operators.user_code import raise_user_error, shown
from .evaluations import Folding
from .incoming import Incoming, by_start
from .time_windows import SlidingWindows
from .window_operator import BoolArray, WindowOperator


class SlicedWindowOperator(WindowOperator):
    """Sliding windows of event time or of the clock, with contents that can be combined."""

    assigner: SlidingWindows
    evaluation: Folding

    def open(self, context: OperatorContext, restored: RestoredState) -> None:
        self.evaluation.state_name = "slice-contents"
        super().open(context, restored)

    # elements

    def _add_all(self, incoming: Incoming) -> BoolArray:
        accepted = np.ones(len(incoming), np.bool_)
        alone: list[tuple[int, int]] = []
        sliding = self.assigner
        for slice_start, positions in by_start([sliding.slices(incoming.times)]):
            first = sliding.first_start(slice_start)
            window = sliding.window_at(first)
            if self._is_due(window):
                alone += [(position, slice_start) for position in positions.tolist()]
                continue
            elements = incoming.at(positions)
            opened = [elements.keys[position] for position in self._add(elements, slice_start)]
            self._own_timers.register_all(opened, window.max_timestamp(), first)
        for position, slice_start in sorted(alone):
            accepted[position] = self._add_alone(incoming, position, slice_start)
        return accepted

    def _add_alone(self, incoming: Incoming, position: int, slice_start: int) -> bool:
        """An element of windows that have fired, or are over: whether some are not over."""
        sliding, key = self.assigner, incoming.keys[position]
        last = slice_start - (slice_start - sliding.offset_ms) % sliding.slide_ms
        if self._is_over(sliding.window_at(last)):
            return False
        self._add(incoming.one(position), slice_start)
        next_to_fire: int | None = None
        for start in range(last, sliding.first_start(slice_start) - 1, -sliding.slide_ms):
            window = sliding.window_at(start)
            if not self._is_due(window):
                next_to_fire = start
            elif not self._is_over(window):
                self._fire_for([key], window, start)
                self._register_cleanup(key, window, start)
        if next_to_fire is not None:
            self._own_timers.register_for(key, sliding.window_at(next_to_fire).max_timestamp(), next_to_fire)
        return True

    # time

    def _on_timers(self, timestamp: int, keys: list[Any], number: int, event_time: bool) -> None:
        sliding = self.assigner
        window = sliding.window_at(number)
        fires, over = timestamp == window.max_timestamp(), timestamp == self._cleanup_time(window)
        going_on = self._fire_for(keys, window, number) if fires else []
        if over:
            self._over_for(keys, window, number)
        elif fires:
            self._register_cleanups(keys, window, number)
        following = number + sliding.slide_ms
        self._own_timers.register_all(going_on, sliding.window_at(following).max_timestamp(), following)

    def _fire_for(self, keys: list[Any], window: Any, number: int) -> list[Any]:
        """Gives out the window of each key. The keys that have something in the next one."""
        sliding, evaluation, results = self.assigner, self.evaluation, list[Any]()
        contents = []
        for start in range(window.start, window.end, sliding.slice_ms):
            self.backend.set_namespace(start)
            contents.append(evaluation.contents_of(keys))
        shared, going_on = slice(sliding.slide_ms // sliding.slice_ms, None), []
        for key, parts in zip(keys, zip(*contents, strict=True), strict=True):
            try:
                kept = evaluation.kept_of_parts(parts)
                if evaluation.window_function is None:
                    results += kept
                elif kept:
                    self._call_function(key, window, number, kept)
            except Exception as error:
                raise_user_error(self.context, error, f"in {window} of key {shown(key)}")
            if parts[-1] is not None or any(part is not None for part in parts[shared]):
                going_on.append(key)
        self._at_hand.collector.take(results, window.max_timestamp())
        return going_on

    def _call_function(self, key: Any, window: Any, number: int, kept: list[Any]) -> None:
        at_hand = self._at_hand
        at_hand.move_to(key, window, number, number)
        produced = self.evaluation.results_of(key, at_hand, kept)
        if produced is not None:
            at_hand.collector.take(produced, window.max_timestamp(), apart=True)

    def _over_for(self, keys: list[Any], window: Any, number: int) -> None:
        """With a window go the slices that only it and earlier ones have."""
        for start in range(number, number + self.assigner.slide_ms, self.assigner.slice_ms):
            self.backend.set_namespace(start)
            self.evaluation.clear_all(keys)
        if self.evaluation.window_function is None:
            return
        for key in keys:
            self._at_hand.move_to(key, window, number, number)
            try:
                self.evaluation.window_over(self._at_hand)
            except Exception as error:
                raise_user_error(self.context, error, f"in {window} of key {shown(key)}")


def can_share(assigner: SlidingWindows) -> bool:
    """Slices are worth it: windows overlap, and do not consist of many more slices than windows overlap."""
    overlapping = -(-assigner.size_ms // assigner.slide_ms)
    return overlapping > 1 and assigner.size_ms // assigner.slice_ms <= 2 * overlapping
