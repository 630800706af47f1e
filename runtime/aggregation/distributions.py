"""How values are spread: variance, standard deviation, histogram."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from ...state.columns.accumulator_spec import AccumulatorSpec
from ...state.errors import PipelineError
from ..records.field_types import FieldType
from .aggregate import Aggregate, as_float, number_word

Moments = tuple[int, float, float]
"""Count, mean, sum of squared distances from the mean."""


@dataclass(frozen=True)
class Variance(Aggregate):
    """Or its square root. Folded as moments.py does it; combined as Chan, Golub and LeVeque, "Updating formulae
    and a pairwise algorithm for computing sample variances" (1979), describe it."""

    column: str
    population: bool
    root: bool

    @property
    def _what(self) -> str:
        return "stddev" if self.root else "variance"

    def specs(self, schema: pa.Schema) -> tuple[AccumulatorSpec, ...]:
        self.result_type(schema)
        return (AccumulatorSpec("moments", self.column, "float64"),)

    def result_type(self, schema: pa.Schema) -> pa.DataType:
        number_word(schema, self.column, self._what)
        return pa.float64()

    def finish(self, accumulated: Sequence[pa.Array], result_type: pa.DataType) -> pa.Array:
        counts, _means, squares = [values.to_numpy() for values in accumulated[0].flatten()]
        divisors = counts if self.population else counts - 1
        with np.errstate(divide="ignore", invalid="ignore"):
            variances = np.where(squares < 0, np.nan, squares / divisors)
            return pa.array(np.sqrt(variances) if self.root else variances, mask=divisors < 1)

    def state_type(self, fields: Mapping[str, FieldType]) -> Any:
        return Moments

    def create(self) -> Moments:
        return 0, 0.0, 0.0

    def add(self, accumulator: Moments, value: Any) -> Moments:
        if value is None:
            return accumulator
        value = as_float(value)
        count, mean, squares = accumulator
        count += 1
        distance = value - mean
        mean += distance / count
        return count, mean, squares + distance * (value - mean)

    def merge(self, one: Moments, other: Moments) -> Moments:
        if not one[0] or not other[0]:
            return one if one[0] else other
        count = one[0] + other[0]
        distance = other[1] - one[1]
        mean = one[1] + distance * (other[0] / count)
        return count, mean, one[2] + other[2] + distance * distance * (one[0] * other[0] / count)

    def result(self, accumulator: Moments) -> float | None:
        count, _mean, squares = accumulator
        divisor = count if self.population else count - 1
        if divisor < 1:
            return None
        if squares < 0:  # values so far apart that their distance is infinite
            return math.nan
        return math.sqrt(squares / divisor) if self.root else squares / divisor


def stddev(column: str, *, population: bool = False) -> Aggregate:
    """Standard deviation: of a sample (divided by n - 1, null for a single value), or of a whole population."""
    return Variance(column, population, root=True)


def variance(column: str, *, population: bool = False) -> Aggregate:
    """Of a sample (divided by n - 1, null for a single value), or of a whole population."""
    return Variance(column, population, root=False)


@dataclass(frozen=True)
class Histogram(Aggregate):
    """Numbers of values between edges."""

    column: str
    edges: tuple[float, ...]
    nullable: ClassVar[bool] = False

    def result_type(self, schema: pa.Schema) -> pa.DataType:
        number_word(schema, self.column, "histogram")
        fields = [("below", pa.int64()), ("counts", pa.list_(pa.int64())), ("above", pa.int64())]
        return pa.struct(fields)

    def state_type(self, fields: Mapping[str, FieldType]) -> Any:
        return list[int]

    def create(self) -> list[int]:
        """Below, each bin, above."""
        return [0] * (len(self.edges) + 1)

    def add(self, accumulator: list[int], value: Any) -> list[int]:
        if value is not None:
            last = value == self.edges[-1]
            accumulator[len(self.edges) - 1 if last else bisect_right(self.edges, as_float(value))] += 1
        return accumulator

    def merge(self, one: list[int], other: list[int]) -> list[int]:
        return [a + b for a, b in zip(one, other, strict=True)]

    def result(self, accumulator: list[int]) -> dict[str, Any]:
        return {"below": accumulator[0], "counts": accumulator[1:-1], "above": accumulator[-1]}


def histogram(column: str, edges: Sequence[float]) -> Aggregate:
    """Number of values in each bin, as {"below": n, "counts": [n, ...], "above": n}.

    edges: of the bins, ascending; n + 1 of them make n bins. A bin has its lower edge and not its upper one, but the
    last has both (as numpy.histogram). NaN is above. PipelineError for edges that do not ascend.
    """
    try:
        numbers = tuple(map(as_float, edges))
    except (TypeError, ValueError, OverflowError) as error:
        raise PipelineError(f"histogram of {column!r}: edges are numbers, for example [0, 10, 100]: {error}") from error
    if len(numbers) < 2 or not all(low < high for low, high in pairwise(numbers)):
        raise PipelineError(f"histogram of {column!r} needs two or more edges in ascending order, not {list(edges)!r}")
    return Histogram(column, numbers)
