"""What aggregates give for some values, however these are split over accumulators that are merged, written and read in
between: against numpy, DuckDB and plain Python."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import penstock as ps
from penstock.runtime.aggregation.aggregate import Aggregate
from penstock.runtime.aggregation.aggregates import RowAggregates
from penstock.runtime.aggregation.sketches import COMPRESSION, WAITING
from penstock.runtime.records.annotations import field_type_of
from penstock.state.columns.column_store import ColumnStore
from penstock.state.errors import PipelineError
from penstock.state.serialization.serializers import serializer_for

Part = list[Any]
EDGES = [-1.0, 0.0, 0.5, 2.0]


class Color(Enum):
    RED = "r"
    BLUE = "b"


def folded(aggregate: Aggregate, parts: Sequence[Part], kind: Any = float, through_state: bool = False) -> Any:
    """The result of values in parts that are merged from left to right. kind: of the values."""
    function = RowAggregates({"it": aggregate}, {"v": field_type_of(kind | None)})
    serializer = serializer_for(function.accumulator_type)
    assert not serializer.generic
    total = function.create_accumulator()
    for part in parts:
        accumulator = function.create_accumulator()
        for value in part:
            accumulator = function.add({"v": value}, accumulator)
        if through_state:
            accumulator = serializer.decode(serializer.encode(accumulator))
        total = function.merge(total, accumulator)
    return function.get_result(total)[0]


def counts(values: Part) -> dict[str, Any]:
    inside = [value for value in values if EDGES[0] <= value <= EDGES[-1]]
    below = sum(value < EDGES[0] for value in values)
    counted = np.histogram(inside, EDGES)[0].tolist()
    return {"below": below, "counts": counted, "above": len(values) - len(inside) - below}


def nan_last(values: Part) -> Part:
    return sorted(values, key=lambda value: (math.isnan(value), value))


def once(values: Part) -> Part:
    seen = {("NaN" if value != value else value): value for value in reversed(values)}
    return sorted(seen.values(), key=lambda value: next(i for i, v in enumerate(values) if v is value or v == value))


EXACT: dict[str, tuple[Aggregate, Callable[[Part], Any]]] = {
    "count_distinct": (ps.count_distinct("v"), lambda values: len(once(values))),
    "approx_count_distinct": (ps.approx_count_distinct("v"), lambda values: len(once(values))),
    "first": (ps.first("v"), lambda values: values[0] if values else None),
    "last": (ps.last("v"), lambda values: values[-1] if values else None),
    "top_k": (ps.top_k("v", 3), lambda values: nan_last(values)[::-1][:3] or None),
    "bottom_k": (ps.bottom_k("v", 3), lambda values: nan_last(values)[:3] or None),
    "collect": (ps.collect("v"), lambda values: values or None),
    "collect some": (ps.collect("v", limit=4), lambda values: values[:4] or None),
    "collect distinct": (ps.collect("v", distinct=True), lambda values: once(values) or None),
    "collect some distinct": (ps.collect("v", limit=3, distinct=True), lambda values: once(values)[:3] or None),
    "histogram": (ps.histogram("v", EDGES), counts),
}
some_floats = st.none() | st.sampled_from([0.0, 0.5, 2.0, -1.0, math.inf, -math.inf, math.nan]) | st.floats(-3, 3)
parts_of_floats = st.lists(st.lists(some_floats, max_size=8), max_size=5)
finite = st.none() | st.floats(-1e6, 1e6)
parts_of_finite = st.lists(st.lists(finite, max_size=12), max_size=5)


def present(parts: Sequence[Part]) -> Part:
    return [value for part in parts for value in part if value is not None]


@given(parts_of_floats, st.booleans())
@settings(max_examples=100, deadline=None)
def test_exact_ones_are_the_same_however_values_are_grouped(parts: list[Part], through_state: bool) -> None:
    for name, (aggregate, expected) in EXACT.items():
        assert repr(folded(aggregate, parts, float, through_state)) == repr(expected(present(parts))), name


@given(parts_of_finite, st.booleans())
@settings(max_examples=60, deadline=None)
def test_variances_and_small_percentiles_are_numpys(parts: list[Part], through_state: bool) -> None:
    values = present(parts)
    scale = max(map(abs, values), default=0.0) or 1.0
    for population in (False, True):
        few = len(values) < (1 if population else 2)
        for make, numpys in ((ps.variance, np.var), (ps.stddev, np.std)):
            found = folded(make("v", population=population), parts, float, through_state)
            if few:
                assert found is None
            else:
                expected = numpys(values, ddof=0 if population else 1)
                assert found == pytest.approx(expected, rel=1e-9, abs=1e-9 * scale)
    ranks = [0, 0.1, 0.25, 0.5, 0.77, 1]
    found = folded(ps.percentile("v", ranks), parts, float, through_state)
    assert found == (np.quantile(values, ranks).tolist() if values else None)
    assert folded(ps.median("v"), parts) == (np.quantile(values, 0.5) if values else None)


def test_variance_is_stable_far_from_zero() -> None:
    values = [10.0**9 + x for x in (4, 7, 13, 16)] * 250
    for parts in ([values], [values[:400], values[400:401], [], values[401:]]):
        assert folded(ps.variance("v"), parts) == pytest.approx(statistics.variance(map(int, values)), rel=1e-9)
    assert folded(ps.stddev("v"), [[5.0] * 1000]) == 0.0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_has_no_mean_has_no_variance(value: float) -> None:
    assert math.isnan(folded(ps.variance("v"), [[1.0, value], [2.0]]))
    assert math.isnan(folded(ps.stddev("v", population=True), [[1.0, 2.0], [value]]))


def test_values_whose_distance_is_no_float_have_no_variance() -> None:
    values, kind = [1e308, -1e308], pa.schema([("v", pa.float64())])
    for make in (ps.variance, ps.stddev):
        aggregate = make("v")
        assert math.isnan(folded(aggregate, [values]))
        (spec,) = aggregate.specs(kind) or ()
        store = ColumnStore([pa.int64()], [spec])
        with np.errstate(all="ignore"):
            store.update([pa.array([1, 1])], {"v": pa.array(values)}, 0)
        results = aggregate.finish([store.arrays(store.all_slots())[spec]], pa.float64())
        assert math.isnan(results[0].as_py())


def test_duckdb_says_the_same() -> None:
    randomly = random.Random(3)
    values = [randomly.choice([None, *range(-20, 20)]) for _ in range(200)]
    others = randomly.sample(range(1000), 200)
    table = duckdb.connect()
    table.execute("CREATE TABLE t (v BIGINT, o BIGINT)")
    table.executemany("INSERT INTO t VALUES (?, ?)", list(zip(values, others, strict=True)))
    expected = table.execute(
        "SELECT stddev_samp(v), stddev_pop(v), var_samp(v), var_pop(v), quantile_cont(v, 0.3), median(v), "
        "count(DISTINCT v), max(v, 5), min(v, 5), arg_min(v, o), arg_max(v, o) FROM t"
    ).fetchone()
    aggregates = [
        *(ps.stddev("v"), ps.stddev("v", population=True), ps.variance("v"), ps.variance("v", population=True)),
        *(ps.percentile("v", 0.3), ps.median("v"), ps.count_distinct("v"), ps.top_k("v", 5), ps.bottom_k("v", 5)),
        *(ps.first("v", by="o"), ps.last("v", by="o")),
    ]
    function = RowAggregates({str(number): aggregate for number, aggregate in enumerate(aggregates)})
    accumulator = function.create_accumulator()
    for v, o in zip(values, others, strict=True):
        accumulator = function.add({"v": v, "o": o}, accumulator)
    for found, wanted in zip(function.get_result(accumulator), expected or (), strict=True):
        assert found == pytest.approx(wanted, rel=1e-12)


# ---- sketches

SHAPES: dict[str, Callable[[Any, int], Any]] = {
    "normal": lambda generator, size: generator.normal(size=size),
    "log-normal": lambda generator, size: generator.lognormal(sigma=3, size=size),
    "ascending": lambda generator, size: np.arange(size, dtype=float),
    "few values": lambda generator, size: generator.integers(0, 5, size).astype(float),
}


def rank_error_allowed(rank: float, size: int) -> float:
    """Half of the heaviest centroid there may be at this rank, on both sides: the scale function k2 of t-digests."""
    normalizer = 4 * math.log(size / COMPRESSION) + 24
    return max(rank * (1 - rank), normalizer / COMPRESSION / 100) * normalizer / COMPRESSION


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("parts", [1, 7, 60])
def test_percentiles_of_many_are_within_a_centroid(shape: str, parts: int) -> None:
    size = 20_000
    values = SHAPES[shape](np.random.default_rng(parts), size)
    ranks = [0, 0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999, 1]
    found = folded(ps.percentile("v", ranks), [part.tolist() for part in np.array_split(values, parts)], float, True)
    assert (found[0], found[-1]) == (values.min(), values.max())
    for rank, value in zip(ranks, found, strict=True):
        below, up_to = (values < value).mean(), (values <= value).mean()
        allowed = rank_error_allowed(rank, size)
        assert below - allowed <= rank <= up_to + allowed, rank


def test_percentiles_are_not_random() -> None:
    values = np.random.default_rng(1).normal(size=5_000).tolist()
    assert folded(ps.median("v"), [values]) == folded(ps.median("v"), [values])


def test_percentiles_of_many_with_values_that_are_not_finite() -> None:
    values = [float(i) for i in range(1_000)]
    assert math.isnan(folded(ps.median("v"), [values, [math.nan], values]))
    assert math.isnan(folded(ps.median("v"), [[math.nan, *values], values], float, True))
    with_ends = [-math.inf] * 300 + values + [math.inf] * 300
    low, middle, high = folded(ps.percentile("v", [0.05, 0.5, 0.95]), [with_ends])
    assert [low, middle, high] == [pytest.approx(-1e300), pytest.approx(500, abs=50), pytest.approx(1e300)]
    assert folded(ps.percentile("v", [0, 0.5, 1]), [[1.0, math.inf, -math.inf]]) == [-math.inf, 1.0, math.inf]


@pytest.mark.parametrize(
    ("kind", "make"),
    [
        (int, lambda number: number * 7_919),
        (str, lambda number: "" if number == 3 else f"text {number}"),
        (float, lambda number: math.nan if number == 3 else number / 3),
        (bytes, lambda number: number.to_bytes(4)),
        (datetime, lambda number: datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=number)),
        (Decimal, lambda number: Decimal(number) / 100),
        (timedelta, lambda number: timedelta(milliseconds=number)),
    ],
)
def test_distinct_counts_of_many_are_within_five_percent(kind: Any, make: Callable[[int], Any]) -> None:
    size = 6_000
    numbers = random.Random(2).choices(range(size), k=2 * size)
    different = len(set(numbers))
    values = list(map(make, numbers))
    for parts in ([values], [values[at : at + 1_000] for at in range(0, len(values), 1_000)]):
        assert folded(ps.approx_count_distinct("v"), parts, kind, True) == pytest.approx(different, rel=0.05)
    assert folded(ps.approx_count_distinct("v"), [values[:WAITING]], kind) == len(set(numbers[:WAITING]))


def test_distinct_counts_take_equal_numbers_for_one() -> None:
    numbers: Part = [*range(500), *map(float, range(500)), True, -0.0]
    function = RowAggregates({"it": ps.approx_count_distinct("v"), "exact": ps.count_distinct("v")})
    accumulator = function.create_accumulator()
    for number in [*numbers, *numbers]:
        accumulator = function.add({"v": number}, accumulator)
    approximate, exact = function.get_result(accumulator)
    assert exact == 500
    assert approximate == pytest.approx(500, rel=0.03)


def test_distinct_counts_of_what_is_no_key() -> None:
    """Times are values all the same; of others the first one is refused, not the one that a sketch is begun with."""
    function = RowAggregates({"it": ps.approx_count_distinct("v")})
    accumulator = function.create_accumulator()
    for number in [*range(500), *range(500)]:
        accumulator = function.add({"v": datetime(2026, 1, 1) + timedelta(hours=number)}, accumulator)
    assert function.get_result(accumulator)[0] == pytest.approx(500, rel=0.03)
    with pytest.raises(TypeError, match="cannot tell values like frozenset"):
        function.add({"v": frozenset({1})}, function.create_accumulator())


# ---- types of values


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (int, [3, 1, 2, 2**70]),
        (str, ["b", "", "a"]),
        (bytes, [b"b", b"", b"a"]),
        (bool, [True, False]),
        (date, [date(2026, 2, 1), date(2026, 1, 1)]),
        (datetime, [datetime(2026, 2, 1, tzinfo=UTC), datetime(2026, 1, 1, microsecond=3, tzinfo=UTC)]),
        (timedelta, [timedelta(1), timedelta(microseconds=7)]),
        (Decimal, [Decimal("1.10"), Decimal(1)]),
        (UUID, [UUID(int=2), UUID(int=1)]),
    ],
)
def test_values_of_every_type_come_back_from_state(kind: Any, values: Part) -> None:
    parts = [values, [None, values[0]]]
    everything = [*values, values[0]]
    assert folded(ps.first("v"), parts, kind, True) == values[0]
    assert folded(ps.collect("v"), parts, kind, True) == everything
    assert folded(ps.collect("v", distinct=True), parts, kind, True) == values
    assert folded(ps.count_distinct("v"), parts, kind, True) == len(values)
    assert folded(ps.top_k("v", 2), parts, kind, True) == sorted(everything)[:-3:-1]
    assert folded(ps.bottom_k("v", 1), parts, kind, True) == [min(values)]
    assert folded(ps.min("v"), parts, kind, True) == min(values)


def test_enums_are_kept_as_they_are() -> None:
    parts = [[Color.RED, None], [Color.BLUE, Color.RED]]
    assert folded(ps.last("v"), parts, Color, True) is Color.RED
    assert folded(ps.collect("v", distinct=True), parts, Color, True) == [Color.RED, Color.BLUE]
    assert folded(ps.count_distinct("v"), parts, Color, True) == 2


@pytest.mark.parametrize("make", [ps.stddev, ps.variance, ps.median, lambda column: ps.histogram(column, [0, 1])])
def test_text_is_no_number(make: Any) -> None:
    function = RowAggregates({"it": make("v")})
    with pytest.raises(TypeError, match="'12' is no number"):
        function.add({"v": "12"}, function.create_accumulator())


def test_first_and_last_by_another_column() -> None:
    rows = [("a", 5), ("b", 2), (None, 1), ("c", 2), ("d", None), ("e", 9), ("f", 9)]
    function = RowAggregates({"first": ps.first("v", by="o"), "last": ps.last("v", by="o")})
    for cut in range(len(rows)):
        accumulators = []
        for part in (rows[:cut], rows[cut:]):
            accumulator = function.create_accumulator()
            for v, o in part:
                accumulator = function.add({"v": v, "o": o}, accumulator)
            accumulators.append(accumulator)
        assert function.get_result(function.merge(*accumulators)) == ("b", "f")


# ---- what is refused


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ps.top_k("page", 0), "top_k of 'page': k is an int of at least 1, not 0"),
        (lambda: ps.bottom_k("page", True), "bottom_k of 'page': k is an int"),
        (lambda: ps.collect("page", limit=-1), "collect of 'page': limit is an int of at least 1, not -1"),
        (lambda: ps.percentile("page", 95), "percentile of 'page': a number from 0 to 1, for example 0.95"),
        (lambda: ps.percentile("page", [0.5, -0.1]), "from 0 to 1"),
        (lambda: ps.percentile("page", []), "from 0 to 1"),
        (lambda: ps.percentile("page", math.nan), "from 0 to 1"),
        (lambda: ps.percentile("page", "0.5"), "from 0 to 1"),  # type: ignore[arg-type]
        (lambda: ps.histogram("page", [0, 2, 1]), "two or more edges in ascending order"),
        (lambda: ps.histogram("page", [1, 1]), "ascending"),
        (lambda: ps.histogram("page", [1]), "two or more"),
        (lambda: ps.histogram("page", [1, math.nan]), "ascending"),
        (lambda: ps.histogram("page", 10), "edges are numbers"),  # type: ignore[arg-type]
        (lambda: ps.histogram("page", ["a", "b"]), "edges are numbers"),  # type: ignore[list-item]
    ],
)
def test_refused_where_it_is_written(make: Callable[[], Aggregate], message: str) -> None:
    with pytest.raises(PipelineError, match=message):
        make()
