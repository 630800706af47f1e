"""A clock that stands still until the test moves it."""

from __future__ import annotations


class ManualClock:
    """`now_ms` is what the test says; the monotonic clock moves along, and never back."""

    def __init__(self, now_ms: int = 0) -> None:
        self._now_ms = now_ms
        self._monotonic_ns = 0

    def now_ms(self) -> int:
        return self._now_ms

    def monotonic_ns(self) -> int:
        return self._monotonic_ns

    def advance(self, duration_ms: int) -> None:
        self.set(self._now_ms + duration_ms)

    def set(self, now_ms: int) -> None:
        self._monotonic_ns += max(0, now_ms - self._now_ms) * 1_000_000
        self._now_ms = now_ms
