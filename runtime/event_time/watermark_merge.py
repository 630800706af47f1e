"""The watermark and status of many inputs as one: of a subtask's splits, and of the channels of its inputs.

The common watermark is the minimum over all inputs that are active. An idle input does not hold the others back; once
all are idle the newest watermark of any of them is given out, for nothing is under way any more, and then the status
idle. An input whose event time has ended (MAX_WATERMARK) has no say any more: otherwise, beside one that is idle for a
moment, it would end event time for all. When all have ended, so has the common one.

A watermark never goes back. An input that becomes active again behind the common watermark holds it where it is until
it has caught up. (Flink's valve of a task leaves it out until then, its multiplexer of splits holds, too.)
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass

from ..elements import MAX_WATERMARK, MIN_WATERMARK, Watermark, WatermarkStatus


@dataclass(slots=True)
class _Input:
    watermark: int = MIN_WATERMARK
    idle: bool = False


class WatermarkMerge:
    """Every method that changes something answers what to give out, in order."""

    def __init__(self, inputs: Iterable[Hashable] = (), watermark: int = MIN_WATERMARK, idle: bool = False) -> None:
        """`watermark`, `idle`: what was given out before (restored), so that it is not repeated."""
        self._inputs: dict[Hashable, _Input] = {each: _Input() for each in inputs}
        self.watermark = watermark
        self.idle = idle

    def add(self, inputs: Mapping[Hashable, int]) -> list[Watermark | WatermarkStatus]:
        """New, active inputs, each with the watermark it has already (restored) or MIN_WATERMARK."""
        self._inputs.update({each: _Input(watermark) for each, watermark in inputs.items()})
        return self._given_out()

    def advance(self, input_id: Hashable, watermark: int) -> list[Watermark | WatermarkStatus]:
        """An input's watermark. One that is not newer changes nothing."""
        return self.update(input_id, watermark, self._inputs[input_id].idle)

    def set_idle(self, input_id: Hashable, idle: bool) -> list[Watermark | WatermarkStatus]:
        return self.update(input_id, self._inputs[input_id].watermark, idle)

    def update(self, input_id: Hashable, watermark: int, idle: bool) -> list[Watermark | WatermarkStatus]:
        """Both at once."""
        known = self._inputs[input_id]
        if watermark <= known.watermark and idle == known.idle:
            return []
        known.watermark, known.idle = max(watermark, known.watermark), idle
        return self._given_out()

    def is_idle(self, input_id: Hashable) -> bool:
        return self._inputs[input_id].idle

    def no_inputs(self) -> list[Watermark | WatermarkStatus]:
        """There is no input and none in sight: idle, until one is added."""
        return [] if self._inputs else self._given_out()

    def remove(self, input_id: Hashable) -> list[Watermark | WatermarkStatus]:
        """The input has ended: it holds nobody back any more. After the last one nothing changes any more."""
        if self._inputs.pop(input_id, None) is None or not self._inputs:
            return []
        return self._given_out()

    def lowest(self) -> int | None:
        """Of the active inputs, which may be behind what was given out; None: there is none."""
        return min((known.watermark for known in self._inputs.values() if not known.idle), default=None)

    def _given_out(self) -> list[Watermark | WatermarkStatus]:
        out: list[Watermark | WatermarkStatus] = []
        going_on = [known for known in self._inputs.values() if known.watermark < MAX_WATERMARK]
        inputs = going_on or list(self._inputs.values())
        active = [known.watermark for known in inputs if not known.idle]
        all_idle = not active
        if self.idle and not all_idle:
            out.append(WatermarkStatus(idle=False))
        newest = max((known.watermark for known in inputs), default=MIN_WATERMARK)
        common = newest if all_idle else min(active)
        if common > self.watermark:
            self.watermark = common
            out.append(Watermark(common))
        if all_idle and not self.idle:
            out.append(WatermarkStatus(idle=True))
        self.idle = all_idle
        return out
