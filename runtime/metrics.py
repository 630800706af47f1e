"""Metrics of one operator of one subtask: counted on the slot's thread, read as plain numbers when it reports.

A group is a tree of names; `values()` gives it flat, with dots: {"records_late_total": 3.0, "cache.hits": 12.0}.
Asking twice for a name gives the same metric, so that a function may ask in `open` after every restart.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TypeVar

from .clock import Clock, SystemClock


class Counter:
    """A number that the code counts up (and down)."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0

    def inc(self, n: int = 1) -> None:
        self.count += n

    def dec(self, n: int = 1) -> None:
        self.count -= n

    def get_count(self) -> int:
        return self.count

    def values(self) -> dict[str, float]:
        return {"": float(self.count)}


class Gauge:
    """A number that is asked for when it is reported."""

    __slots__ = ("_value",)

    def __init__(self, value: Callable[[], float]) -> None:
        self._value = value

    def values(self) -> dict[str, float]:
        return {"": float(self._value())}


class Meter:
    """Events: how many so far, and how many a second over the last `time_span_s` seconds."""

    __slots__ = ("_clock", "_seconds", "_span_s", "count")

    def __init__(self, clock: Clock, time_span_s: int) -> None:
        self.count = 0
        self._clock = clock
        self._span_s = max(1, time_span_s)
        self._seconds: deque[tuple[int, int]] = deque(maxlen=self._span_s + 1)

    def mark_event(self, value: int = 1) -> None:
        self.count += value
        second = self._clock.monotonic_ns() // 1_000_000_000
        if self._seconds and self._seconds[-1][0] == second:
            value += self._seconds.pop()[1]
        self._seconds.append((second, value))

    def get_count(self) -> int:
        return self.count

    def get_rate(self) -> float:
        oldest = self._clock.monotonic_ns() // 1_000_000_000 - self._span_s
        return sum(n for second, n in self._seconds if second > oldest) / self._span_s

    def values(self) -> dict[str, float]:
        return {"count": float(self.count), "rate": self.get_rate()}


class Distribution:
    """Numbers that are summed up: count, sum, min, max, mean."""

    __slots__ = ("count", "highest", "lowest", "total")

    def __init__(self) -> None:
        self.count = 0
        self.total = 0.0
        self.lowest = 0.0
        self.highest = 0.0

    def update(self, value: float) -> None:
        first = self.count == 0
        self.lowest = value if first else min(self.lowest, value)
        self.highest = value if first else max(self.highest, value)
        self.count += 1
        self.total += value

    def values(self) -> dict[str, float]:
        mean = self.total / self.count if self.count else 0.0
        return {
            "count": float(self.count),
            "sum": float(self.total),
            "min": float(self.lowest),
            "max": float(self.highest),
            "mean": mean,
        }


Metric = Counter | Gauge | Meter | Distribution
M = TypeVar("M", Counter, Gauge, Meter, Distribution)


class MetricGroup:
    """Where a function registers its metrics: `runtime_context.get_metrics_group()`."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._metrics: dict[str, Metric] = {}
        self._groups: dict[str, MetricGroup] = {}

    def add_group(self, name: str, extra_name: str | None = None) -> MetricGroup:
        """A group below this one; with an extra name (a label's value) two levels at once."""
        group = self._groups.setdefault(name, MetricGroup(self._clock))
        return group if extra_name is None else group.add_group(extra_name)

    def counter(self, name: str) -> Counter:
        return self._registered(name, Counter())

    def gauge(self, name: str, value: Callable[[], float]) -> Gauge:
        """The newest function of a name counts."""
        self._metrics.pop(name, None)
        return self._registered(name, Gauge(value))

    def meter(self, name: str, time_span_in_seconds: int = 60) -> Meter:
        return self._registered(name, Meter(self._clock, time_span_in_seconds))

    def distribution(self, name: str) -> Distribution:
        return self._registered(name, Distribution())

    def values(self) -> dict[str, float]:
        """All metrics of this group and those below it, by dotted name."""
        flat = {
            f"{name}.{part}" if part else name: value
            for name, metric in self._metrics.items()
            for part, value in metric.values().items()
        }
        for group_name, group in self._groups.items():
            flat.update({f"{group_name}.{name}": value for name, value in group.values().items()})
        return flat

    def _registered(self, name: str, fresh: M) -> M:
        metric = self._metrics.setdefault(name, fresh)
        if not isinstance(metric, type(fresh)):
            raise ValueError(
                f"metric '{name}' is a {type(metric).__name__} already and cannot be a {type(fresh).__name__} too"
            )
        return metric
