"""Watermarks: how far event time has come.

Who makes them: every split of a source has its own generator, made by the strategy (a split that is ahead must not
make another one's records late). `WatermarkMerge` combines them, and likewise the channels of a task's inputs: the
minimum over all inputs that are active. An idle input does not hold the others back; once all are idle the newest
watermark of any of them is given out, for nothing is under way any more, and then the status idle.

A watermark never goes back. An input that becomes active again behind the common watermark holds it where it is
until it has caught up.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass

from .elements import MAX_WATERMARK, MIN_WATERMARK, Watermark, WatermarkStatus


@dataclass(slots=True)
class _Input:
    watermark: int = MIN_WATERMARK
    idle: bool = False


class WatermarkMerge:
    """The watermark and status of many inputs as one. Every method answers what to give out, in order."""

    def __init__(self, inputs: Iterable[Hashable] = (), watermark: int = MIN_WATERMARK, idle: bool = False) -> None:
        """`watermark`, `idle`: what was given out before (restored), so that it is not repeated."""
        self._inputs: dict[Hashable, _Input] = {each: _Input() for each in inputs}
        self.watermark = watermark
        self.idle = idle

    def add(self, input_id: Hashable, watermark: int = MIN_WATERMARK) -> list[Watermark | WatermarkStatus]:
        """A new, active input."""
        self._inputs[input_id] = _Input(watermark)
        return self._given_out()

    def advance(self, input_id: Hashable, watermark: int) -> list[Watermark | WatermarkStatus]:
        """An input's watermark. One that is not newer changes nothing."""
        known = self._inputs[input_id]
        if watermark <= known.watermark:
            return []
        known.watermark = watermark
        return self._given_out()

    def set_idle(self, input_id: Hashable, idle: bool) -> list[Watermark | WatermarkStatus]:
        known = self._inputs[input_id]
        if known.idle == idle:
            return []
        known.idle = idle
        return self._given_out()

    def remove(self, input_id: Hashable) -> list[Watermark | WatermarkStatus]:
        """The input has ended: it holds nobody back any more. After the last one nothing changes any more."""
        if self._inputs.pop(input_id, None) is None or not self._inputs:
            return []
        return self._given_out()

    def _given_out(self) -> list[Watermark | WatermarkStatus]:
        out: list[Watermark | WatermarkStatus] = []
        active = [known.watermark for known in self._inputs.values() if not known.idle]
        all_idle = not active
        if self.idle and not all_idle:
            out.append(WatermarkStatus(idle=False))
        newest = max((known.watermark for known in self._inputs.values()), default=MIN_WATERMARK)
        common = newest if all_idle else min(active)
        if common > self.watermark:
            self.watermark = common
            out.append(Watermark(common))
        if all_idle and not self.idle:
            out.append(WatermarkStatus(idle=True))
        self.idle = all_idle
        return out


__all__ = ["MAX_WATERMARK", "WatermarkMerge"]
