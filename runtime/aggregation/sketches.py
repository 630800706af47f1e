"""Approximate aggregates: percentiles by a t-digest, distinct counts by HyperLogLog. Sketches are Apache DataSketches'.

The first 256 values (of a distinct count: different values) are kept as they are, so that small groups have exact
results. What comes beyond that goes into the sketch, so many at a time; in state a sketch is the bytes that the library
makes of it, beside the values that wait. So no record pays for reading or writing a sketch, and what an accumulator
weighs is known to the cache.

    percentile               rank error a few per mille of a group near its ends, up to 2 % around the median; at most
                             about 4 KiB a group
    approx_count_distinct    1.6 % in two of three groups, below 5 % in 99.7 %; 4 KiB a group

Neither is random: the same values in the same order give the same result, also after a restore. Another order, or
another way of merging, may give another result within these bounds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import xxhash

from ...state.errors import KeyTypeError, PipelineError
from ...state.key_encoding import encode_key
from ..records.field_types import FieldType
from .aggregate import Aggregate, as_float, number_word, value_type
from .kept_values import comparable_type

WAITING = 256
"""Values that a sketch takes at once."""
COMPRESSION = 200
"""Of t-digests: the library's default."""
LG_REGISTERS = 12
"""Of HyperLogLogs: 4096 registers of a byte."""
_FAR = 1e300
_EMPTY_TEXT = "\0the empty text, which the library takes no notice of"
_INT_MIN, _INT_MAX = -(2**63), 2**63 - 1

Digest = tuple[bytes, list[float]]
"""A t-digest's bytes, or none, and values that wait. A NaN stays among those, and the digest is given up."""
Distinct = tuple[bytes, dict[Any, None]]
"""A HyperLogLog's bytes, or none, and different values that wait, in their order (a set has another one in another
process), with None for NaN."""


@dataclass(frozen=True)
class Percentile(Aggregate):
    """One, or a list of them."""

    column: str
    ranks: tuple[float, ...]
    several: bool

    def result_type(self, schema: pa.Schema) -> pa.DataType:
        number_word(schema, self.column, "percentile")
        return pa.list_(pa.float64()) if self.several else pa.float64()

    def state_type(self, fields: Mapping[str, FieldType]) -> Any:
        return Digest

    def create(self) -> Digest:
        return b"", []

    def add(self, accumulator: Digest, value: Any) -> Digest:
        if value is None:
            return accumulator
        waiting = accumulator[1]
        waiting.append(as_float(value))
        return accumulator if len(waiting) <= WAITING else _digested(*accumulator)

    def merge(self, one: Digest, other: Digest) -> Digest:
        digest, waiting = one[0] or other[0], one[1] + other[1]
        if one[0] and other[0]:
            sketch = _t_digest(one[0])
            sketch.merge(_t_digest(other[0]))
            digest = sketch.serialize()
        return (digest, waiting) if len(waiting) <= WAITING else _digested(digest, waiting)

    def result(self, accumulator: Digest) -> Any:
        digest, waiting = accumulator
        if not digest and not waiting:
            return None
        if any(map(math.isnan, waiting)):
            results = [math.nan] * len(self.ranks)
        elif digest:
            sketch = _t_digest(_digested(digest, waiting)[0] if waiting else digest)
            results = [sketch.get_quantile(rank) for rank in self.ranks]
        else:
            ordered = sorted(waiting)
            results = [_between(ordered, rank) for rank in self.ranks]
        return results if self.several else results[0]


def percentile(column: str, rank: float | Sequence[float]) -> Aggregate:
    """The value below which that part of the values lies, 0.95 for example; a list of such parts gives a list.

    Between two values it is interpolated. Exact for up to 256 values in a group; above that approximate, by a t-digest:
    the rank is off by some per mille near the ends, by up to 2 % around the median. PipelineError for parts outside of
    0 to 1."""
    several = isinstance(rank, list | tuple)
    ranks = tuple(rank) if isinstance(rank, list | tuple) else (rank,)
    if not ranks or not all(type(each) in (int, float) and 0 <= each <= 1 for each in ranks):
        raise PipelineError(f"percentile of {column!r}: a number from 0 to 1, for example 0.95, or some, not {rank!r}")
    return Percentile(column, tuple(map(float, ranks)), several)


def median(column: str) -> Aggregate:
    """percentile(column, 0.5): approximate in groups of more than 256 values, as it is."""
    return percentile(column, 0.5)


@dataclass(frozen=True)
class ApproxCountDistinct(Aggregate):
    """Of a column whose values are keys by their type, or times."""

    column: str
    nullable: ClassVar[bool] = False

    def result_type(self, schema: pa.Schema) -> pa.DataType:
        comparable_type(schema, self.column, "approx_count_distinct")
        return pa.int64()

    def state_type(self, fields: Mapping[str, FieldType]) -> Any:
        return tuple[bytes, dict[value_type(fields, self.column) | None, None]]  # type: ignore[misc]

    def create(self) -> Distinct:
        return b"", {}

    def add(self, accumulator: Distinct, value: Any) -> Distinct:
        if value is None:
            return accumulator
        waiting = accumulator[1]
        if not waiting:
            _told_apart(value)  # what cannot be told apart is an error at once, not when many have come
        waiting[value if value == value else None] = None
        return accumulator if len(waiting) <= WAITING else _counted(*accumulator)

    def merge(self, one: Distinct, other: Distinct) -> Distinct:
        sketch, waiting = one[0] or other[0], one[1] | other[1]
        if one[0] and other[0]:
            sketch = _united(one[0], other[0])
        return (sketch, waiting) if len(waiting) <= WAITING else _counted(sketch, waiting)

    def result(self, accumulator: Distinct) -> int:
        sketch, waiting = accumulator
        if not sketch:
            return len(waiting)
        estimate: float = _hyper_log_log(_counted(sketch, waiting)[0] if waiting else sketch).get_estimate()
        return round(estimate)


def approx_count_distinct(column: str) -> Aggregate:
    """Number of different values: exact for up to 256 in a group, above that by HyperLogLog, within 5 % (3 sigma)."""
    return ApproxCountDistinct(column)


# ---- percentiles


def _t_digest(data: bytes) -> Any:
    from datasketches import tdigest_double

    return tdigest_double.deserialize(data) if data else tdigest_double(COMPRESSION)


def _digested(digest: bytes, waiting: list[float]) -> Digest:
    values = np.array(waiting)
    if np.isnan(values).any():
        return b"", [math.nan]
    sketch = _t_digest(digest)
    sketch.update(np.clip(values, -_FAR, _FAR))  # the means that a digest keeps cannot be infinite
    return sketch.serialize(), []


def _between(ordered: list[float], rank: float) -> float:
    """Linear between the two values next to the rank, as numpy.quantile and quantile_cont of SQL."""
    place = rank * (len(ordered) - 1)
    below = math.floor(place)
    low, high = ordered[below], ordered[math.ceil(place)]
    if low == high:  # infinite ones have no distance
        return low
    part = place - below
    return low + (high - low) * part if part < 0.5 else high - (high - low) * (1 - part)


# ---- distinct counts


def _hyper_log_log(data: bytes) -> Any:
    from datasketches import hll_sketch, tgt_hll_type

    return hll_sketch.deserialize(data) if data else hll_sketch(LG_REGISTERS, tgt_hll_type.HLL_8)


def _counted(data: bytes, waiting: Iterable[Any]) -> Distinct:
    sketch = _hyper_log_log(data)
    for value in waiting:
        sketch.update(_told_apart(value))
    return sketch.serialize_compact(), {}


def _united(one: bytes, other: bytes) -> bytes:
    from datasketches import hll_union, tgt_hll_type

    union = hll_union(LG_REGISTERS)
    union.update(_hyper_log_log(one))
    union.update(_hyper_log_log(other))
    data: bytes = union.get_result(tgt_hll_type.HLL_8).serialize_compact()
    return data


def _told_apart(value: Any) -> int | float | str:
    """What the library can take; equal for values that Python calls equal."""
    if isinstance(value, str):
        return value or _EMPTY_TEXT
    if isinstance(value, float):
        return int(value) if value.is_integer() and _INT_MIN <= value <= _INT_MAX else value
    if value is None:
        return math.nan
    if isinstance(value, int) and _INT_MIN <= value <= _INT_MAX:
        return int(value)
    if isinstance(value, timedelta | time) or (isinstance(value, datetime) and value.tzinfo is None):
        return str(value)  # no keys, but plain values
    try:
        hashed: int = xxhash.xxh3_64_intdigest(encode_key(value)) - 2**63
        return hashed
    except KeyTypeError as error:
        raise TypeError(f"approx_count_distinct cannot tell values like {value!r} apart: {error}") from error
