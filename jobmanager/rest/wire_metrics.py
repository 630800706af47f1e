"""Metrics as the wire has them: single ones with text values, aggregated ones with numbers, ids alone without `get`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NotRequired

from typing_extensions import TypedDict

from ..gateway import RefusedError
from .metric_ids import as_text

AGGREGATIONS = ("min", "max", "avg", "sum", "skew")
YES_OR_NO = "isBackPressured"
"""The one metric that is a boolean in its text; a number where it is aggregated."""


class Metric(TypedDict):
    id: str
    value: NotRequired[str]


class AggregatedMetric(TypedDict):
    """Those of min, max, avg, sum and skew that were asked for."""

    id: str
    min: NotRequired[float]
    max: NotRequired[float]
    avg: NotRequired[float]
    sum: NotRequired[float]
    skew: NotRequired[float]


def metrics(values: Mapping[str, float | str], get: str | None) -> list[Metric]:
    """Those of `get` that are there, with values; ids of all without it."""
    if not get:
        return [{"id": name} for name in values]
    return [{"id": name, "value": _text(name, values[name])} for name in get.split(",") if name in values]


def _text(name: str, value: float | str) -> str:
    if isinstance(value, str):
        return value
    if name.endswith(YES_OR_NO):
        return "true" if value else "false"
    return as_text(value)


def aggregated(
    members: Sequence[Mapping[str, float]], get: str | None, agg: str | None = None
) -> list[AggregatedMetric]:
    """Over the members that have the metric: subtasks, jobs, task managers."""
    if not get:
        return [{"id": name} for name in dict.fromkeys(name for member in members for name in member)]
    wanted = agg.split(",") if agg else AGGREGATIONS
    found = []
    for name in dict.fromkeys(get.split(",")):
        values = [member[name] for member in members if name in member]
        if values:
            found.append(_aggregate(name, values, wanted))
    return found


def _aggregate(name: str, values: Sequence[float], wanted: Iterable[str]) -> AggregatedMetric:
    total = float(sum(values))
    metric: AggregatedMetric = {"id": name}
    for aggregation in wanted:
        match aggregation:
            case "min":
                metric["min"] = float(min(values))
            case "max":
                metric["max"] = float(max(values))
            case "avg":
                metric["avg"] = total / len(values)
            case "sum":
                metric["sum"] = total
            case "skew":
                metric["skew"] = skew(values)
    return metric


def skew(values: Sequence[float]) -> float:
    """Mean absolute deviation in percent of the mean, as Flink counts it; 0: all alike, or all 0."""
    mean = sum(values) / len(values)
    if mean == 0:
        return 0.0
    return abs(100 * sum(abs(value - mean) for value in values) / len(values) / mean)


def indexes(subtasks: str | None, parallelism: int) -> list[int]:
    """'0-3,5' -> indexes below the parallelism; all of them for None. RefusedError: a range that runs backwards."""
    if subtasks is None:
        return list(range(parallelism))
    found: dict[int, None] = {}
    for part in subtasks.split(","):
        first, _, last = part.partition("-")
        start, end = int(first), int(last or first)
        if end < start:
            raise RefusedError(f"subtasks={subtasks}: the range {part} runs backwards")
        found.update(dict.fromkeys(range(start, min(end + 1, parallelism))))
    return list(found)
