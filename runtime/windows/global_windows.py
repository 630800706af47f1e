"""All elements of a key in one window that never ends: what triggers and evictors make of it is up to them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..batch import Int64Array
from .assigner import AlignedWindows
from .count_triggers import NeverTrigger
from .trigger import Trigger
from .windows import GlobalWindow


@dataclass(frozen=True)
class GlobalWindows(AlignedWindows):
    """Nothing is ever late here, and nothing given out without a trigger: at the end of the input neither (as in
    Flink; an EventTimeTrigger fires then)."""

    is_event_time = False
    window_type = GlobalWindow

    def __str__(self) -> str:
        return "global"

    def starts(self, timestamps: Int64Array) -> list[Int64Array]:
        return [np.zeros(len(timestamps), np.int64)]

    def window_at(self, start: int) -> GlobalWindow:
        return _WINDOW

    def default_trigger(self) -> Trigger:
        return NeverTrigger()


_WINDOW = GlobalWindow()
