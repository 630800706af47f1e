"""Minimum to percentile of a few numbers, in the shapes of the wire.

Percentiles are those of Flink (Apache Commons Math, its "legacy" estimate): position p * (n + 1) / 100, interpolated.
Of nothing they are the string "NaN", which the wire has instead of a number that JSON lacks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from typing_extensions import TypedDict

Percentile = float | Literal["NaN"]


class MetricStatistics(TypedDict):
    """Over the subtasks of a vertex."""

    min: int
    max: int
    avg: int
    sum: int
    median: Percentile
    p25: Percentile
    p75: Percentile
    p95: Percentile


class StatsSummary(TypedDict):
    """Over checkpoints, or over the subtasks of one."""

    min: int
    max: int
    avg: int
    p50: Percentile
    p90: Percentile
    p95: Percentile
    p99: Percentile
    p999: Percentile


def percentile(sorted_values: Sequence[float], percent: float) -> Percentile:
    count = len(sorted_values)
    if not count:
        return "NaN"
    position = percent * (count + 1) / 100
    if position < 1:
        return float(sorted_values[0])
    if position >= count:
        return float(sorted_values[-1])
    below = math.floor(position)
    lower, upper = sorted_values[below - 1], sorted_values[below]
    return float(lower + (position - below) * (upper - lower))


def metric_statistics(values: Sequence[float]) -> MetricStatistics:
    ordered = sorted(values)
    total = sum(ordered)
    return MetricStatistics(
        min=int(ordered[0]) if ordered else 0,
        max=int(ordered[-1]) if ordered else 0,
        avg=int(total / len(ordered)) if ordered else 0,
        sum=int(total),
        median=percentile(ordered, 50),
        p25=percentile(ordered, 25),
        p75=percentile(ordered, 75),
        p95=percentile(ordered, 95),
    )


def stats_summary(values: Sequence[int]) -> StatsSummary:
    ordered = sorted(values)
    return StatsSummary(
        min=ordered[0] if ordered else 0,
        max=ordered[-1] if ordered else 0,
        avg=sum(ordered) // len(ordered) if ordered else 0,
        p50=percentile(ordered, 50),
        p90=percentile(ordered, 90),
        p95=percentile(ordered, 95),
        p99=percentile(ordered, 99),
        p999=percentile(ordered, 99.9),
    )
