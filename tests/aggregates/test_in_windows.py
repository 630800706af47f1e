"""Aggregates in windows of every kind, over records of every kind: any cuts into batches, restored in the middle at
another parallelism, on both backends; and what a pipeline with them says of itself."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import penstock as ps
from penstock.connectors.files import FileSink
from penstock.connectors.formats import Parquet
from penstock.runtime.aggregation.aggregate import Aggregate
from penstock.runtime.aggregation.aggregates import RowAggregates
from penstock.runtime.elements import MAX_WATERMARK
from penstock.state.errors import PipelineError
from penstock.testing.harness import BackendKind, rescaled, subtask_for

KEYS = "abcd"


@dataclass(frozen=True)
class Click:
    key: str
    value: float | None
    page: str
    at: int


class Named(NamedTuple):
    key: str
    value: float | None
    page: str
    at: int


class Typed(TypedDict):
    key: str
    value: float | None
    page: str
    at: int


SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        ("value", pa.float64()),
        pa.field("page", pa.string(), nullable=False),
        pa.field("at", pa.int64(), nullable=False),
    ]
)
AGGREGATES: dict[str, Aggregate] = {
    "n": ps.count(),
    "total": ps.sum("value"),
    "mean": ps.avg("value"),
    "least": ps.min("page"),
    "deviation": ps.stddev("value"),
    "quartiles": ps.percentile("value", [0.25, 0.75]),
    "middle": ps.median("value"),
    "pages": ps.count_distinct("page"),
    "about": ps.approx_count_distinct("page"),
    "first": ps.first("page", by="at"),
    "last": ps.last("value", by="at"),
    "greatest": ps.top_k("value", 2),
    "some": ps.bottom_k("page", 2),
    "ways": ps.collect("page", distinct=True),
    "all": ps.collect("value"),
    "spread": ps.histogram("value", [0, 5, 10]),
}
WINDOWS: dict[str, Any] = {
    "tumbling": lambda keyed: keyed.window(ps.TumblingEventTimeWindows(20)),
    "sliding": lambda keyed: keyed.window(ps.SlidingEventTimeWindows(30, 10)),
    "sessions": lambda keyed: keyed.window(ps.EventTimeSessionWindows(6)),
    "by count": lambda keyed: keyed.count_window(3),
}


def windowed(kind: str, record_type: Any, key: Any = "key", aggregates: Any = None) -> Any:
    env = ps.StreamExecutionEnvironment()
    strategy = ps.WatermarkStrategy.for_monotonous_timestamps().with_timestamp_assigner(lambda row, _: 0)
    stream = env.from_collection([], record_type).assign_timestamps_and_watermarks(strategy)
    return WINDOWS[kind](stream.key_by(key)).agg(name="statistics", **(aggregates or AGGREGATES))


def windows_of(kind: str, clicks: list[Click]) -> list[tuple[int, int, list[Click]]]:
    """Of one key, in the order of time."""
    if kind == "by count":
        return [(0, 0, clicks[at : at + 3]) for at in range(0, len(clicks) - len(clicks) % 3, 3)]
    clicks = sorted(clicks, key=lambda click: click.at)
    if kind == "sessions":
        sessions: list[list[Click]] = []
        for click in clicks:
            if sessions and click.at <= sessions[-1][-1].at + 6:
                sessions[-1].append(click)
            else:
                sessions.append([click])
        return [(own[0].at, own[-1].at + 6, own) for own in sessions]
    size, slide = (20, 20) if kind == "tumbling" else (30, 10)
    found: dict[int, list[Click]] = defaultdict(list)
    for click in clicks:
        for start in range(click.at - click.at % slide, click.at - size, -slide):
            found[start].append(click)
    return [(start, start + size, own) for start, own in found.items()]


def shown(row: dict[str, Any]) -> dict[str, Any]:
    """Without what the order of arrival decides; floats to some digits."""
    shown = {name: value for name, value in row.items() if name not in ("all", "ways")}
    shown["all"] = sorted(row["all"] or [])
    shown["ways"] = sorted(row["ways"] or [])
    for name in ("total", "mean", "deviation"):
        if shown[name] is not None:
            shown[name] = round(shown[name], 6)
    return shown


def expected(kind: str, clicks: list[Click]) -> list[dict[str, Any]]:
    results = []
    function = RowAggregates(AGGREGATES)
    for key in KEYS:
        for start, end, own in windows_of(kind, [click for click in clicks if click.key == key]):
            accumulator = function.create_accumulator()
            for click in own:
                accumulator = function.add(click, accumulator)
            times = {} if kind == "by count" else {"window_start": start, "window_end": end}
            values = dict(zip(AGGREGATES, function.get_result(accumulator), strict=True))
            results.append(shown({"key": key, **times, **values}))
    return sorted(results, key=repr)


def record_of(record_type: Any, click: Click) -> Any:
    if record_type is Click:
        return click
    if record_type is Named:
        return Named(click.key, click.value, click.page, click.at)
    return {"key": click.key, "value": click.value, "page": click.page, "at": click.at}


class Run:
    """All subtasks of the operator."""

    def __init__(self, kind: str, record_type: Any, backend: BackendKind, parallelism: int, key: Any = "key") -> None:
        self.kind, self.record_type, self.backend, self.key = kind, record_type, backend, key
        self.results: list[dict[str, Any]] = []
        self.subtasks = self.deployed([], parallelism)

    def deployed(self, snapshots: list[Any], parallelism: int) -> list[Any]:
        def make() -> Any:
            return windowed(self.kind, self.record_type, self.key)._step.operator

        return rescaled(make, snapshots, parallelism, backend=self.backend, record_type=self.record_type)

    def feed(self, clicks: list[Click]) -> None:
        for number, subtask in enumerate(self.subtasks):
            own = [each for each in clicks if subtask_for(each.key, len(self.subtasks)) == number]
            if own:
                subtask.push([record_of(self.record_type, each) for each in own], [each.at for each in own])

    def advance(self, watermark: int) -> None:
        for subtask in self.subtasks:
            subtask.watermark(watermark)
            self.results += map(shown, subtask.take())

    def restore(self, parallelism: int) -> None:
        snapshots = [subtask.snapshot() for subtask in self.subtasks]
        self.close()
        self.subtasks = self.deployed(snapshots, parallelism)

    def entries(self) -> int:
        """In state, when all is written."""
        for subtask in self.subtasks:
            subtask.snapshot()
        return sum(subtask.operator.state_statistics().entries for subtask in self.subtasks)

    def close(self) -> None:
        for subtask in self.subtasks:
            subtask.close()


clicks = st.lists(
    st.builds(
        lambda key, value, page, at: (key, value, page, at),
        st.sampled_from(KEYS),
        st.none() | st.integers(-2, 12).map(lambda number: number / 2),
        st.sampled_from(["home", "help", ""]),
        st.integers(0, 70),
    ),
    max_size=25,
    unique_by=lambda click: (click[0], click[3]),
).map(lambda some: [Click(*each) for each in some])


@pytest.mark.parametrize("kind", WINDOWS)
@given(
    clicks,
    st.integers(0, 25),
    st.integers(1, 3),
    st.integers(1, 3),
    st.sampled_from(["heap", "heap", "heap", "rocksdb"]),
)
@settings(max_examples=8, deadline=None)
def test_windows_of_every_kind(
    kind: str, clicks: list[Click], cut: int, before: int, after: int, backend: BackendKind
) -> None:
    """Two batches and a restore between them; the watermark comes at the end, so nothing is late."""
    run = Run(kind, Click, backend, before)
    run.feed(clicks[:cut])
    run.advance(min([click.at for click in clicks[cut:]], default=0) - 1)
    run.restore(after)
    run.feed(clicks[cut:])
    run.advance(MAX_WATERMARK)
    left = run.entries()
    run.close()
    assert sorted(run.results, key=repr) == expected(kind, clicks)
    if kind != "by count" and backend == "heap":  # RocksDB counts what is cut off and not compacted yet
        assert left == 0


SOME = [
    Click(key, None if at % 5 == 0 else at / 3, f"page {at * 7 % 4}", at) for at in range(60) for key in KEYS if at % 4
]


@pytest.mark.parametrize("record_type", [Click, Named, Typed, SCHEMA, None], ids=str)
@pytest.mark.parametrize("kind", ["tumbling", "sessions"])
def test_records_of_every_kind(kind: str, record_type: Any) -> None:
    key = "key" if record_type is not None else lambda row: row["key"]
    run = Run(kind, record_type, "heap", 2, key)
    run.feed(SOME[:100])
    run.restore(3)
    run.feed(SOME[100:])
    run.advance(MAX_WATERMARK)
    run.close()
    assert sorted(run.results, key=repr) == expected(kind, SOME)


def test_columns_that_hold_nothing() -> None:
    run = Run("tumbling", Click, "heap", 1)
    run.feed([Click("a", None, "home", at) for at in range(3)])
    run.advance(MAX_WATERMARK)
    run.close()
    (row,) = run.results
    assert row["n"] == 3
    assert row["spread"] == {"below": 0, "counts": [0, 0], "above": 0}
    assert [row[name] for name in ("total", "mean", "deviation", "quartiles", "middle", "last", "greatest")] == [
        None
    ] * 7


@pytest.mark.parametrize("backend", ["heap", "rocksdb"])
def test_sketches_come_back_as_they_were(backend: BackendKind) -> None:
    """With more values than are kept beside them: results are those of a run that nothing interrupts."""
    many = [Click("a", (number * 7_919 % 4_001) / 4, f"page {number}", 1) for number in range(4_000)]
    results = []
    for parallelism in (None, 1, 3):
        run = Run("tumbling", Click, backend, 2)
        run.feed(many[:1_700])
        if parallelism is not None:
            run.restore(parallelism)
        run.feed(many[1_700:])
        run.advance(MAX_WATERMARK)
        run.close()
        results += run.results
    assert results[0] == results[1] == results[2]
    assert results[0]["about"] == pytest.approx(4_000, rel=0.05)
    assert results[0]["middle"] == pytest.approx(500, rel=0.05)


# ---- whole pipelines


def typed_clicks(env: Any) -> Any:
    strategy = ps.WatermarkStrategy.for_monotonous_timestamps().with_timestamp_assigner(lambda click, _: click.at)
    in_order = sorted(SOME, key=lambda click: click.at)
    return env.from_collection(in_order, Click).assign_timestamps_and_watermarks(strategy)


def test_results_go_to_parquet(tmp_path: Path) -> None:
    env = ps.StreamExecutionEnvironment()
    results = typed_clicks(env).key_by("key").window(ps.TumblingEventTimeWindows(20)).agg(**AGGREGATES)
    results.sink_to(FileSink(str(tmp_path), Parquet()))
    env.execute()
    rows = pq.ParquetDataset(str(tmp_path)).read().to_pylist()
    assert sorted(map(shown, rows), key=repr) == expected("tumbling", SOME)


def test_two_columns_as_key_have_types() -> None:
    env = ps.StreamExecutionEnvironment()
    keyed = typed_clicks(env).key_by("key", "page").window(ps.SlidingEventTimeWindows(20, 10))
    result = keyed.agg(ways=ps.collect("page"), last=ps.last("value"))
    assert result.record_type.schema == pa.schema(
        [
            pa.field("key", pa.string(), nullable=False),
            pa.field("page", pa.string(), nullable=False),
            pa.field("window_start", pa.int64(), nullable=False),
            pa.field("window_end", pa.int64(), nullable=False),
            pa.field("ways", pa.list_(pa.string())),
            pa.field("last", pa.float64()),
        ]
    )
    assert len(list(result.execute_and_collect())) > 0


def test_describe_says_why_it_goes_by_rows() -> None:
    env = ps.StreamExecutionEnvironment()
    windows = typed_clicks(env).key_by("key").window(ps.TumblingEventTimeWindows(20))
    assert "vectorised -> dict(" in windows.agg(n=ps.count(), spread=ps.stddev("value")).describe()
    described = windows.agg(n=ps.count(), middle=ps.median("value"), least=ps.min("page")).describe()
    assert "(window agg): rows -> dict(" in described
    assert "on rows, because of middle, least" in described


@pytest.mark.parametrize(
    ("aggregate", "message"),
    [
        (ps.stddev("page"), "agg: it: stddev needs numbers, but column 'page' is of type string"),
        (ps.variance("nowhere"), "agg: it: no column 'nowhere' to aggregate; there are key, value, page, at"),
        (ps.percentile("page", 0.5), "percentile needs numbers, but column 'page'"),
        (ps.histogram("page", [0, 1]), "histogram needs numbers, but column 'page'"),
        (ps.collect("nowhere"), "no column 'nowhere'"),
        (ps.first("page", by="nowhere"), "no column 'nowhere'"),
        (ps.count_distinct("nowhere"), "no column 'nowhere'"),
    ],
)
@pytest.mark.parametrize("kind", ["tumbling", "sessions"])
def test_wrong_columns_are_refused_when_the_pipeline_is_built(kind: str, aggregate: Aggregate, message: str) -> None:
    stream = windowed(kind, Click, "key", {"it": aggregate})
    with pytest.raises(PipelineError, match=f"(?s)statistics.*{message}"):
        stream.describe()


@dataclass(frozen=True)
class Priced:
    key: str
    price: Decimal
    at: int


@pytest.mark.parametrize("aggregate", [ps.sum("price"), ps.avg("price"), ps.median("price")])
def test_decimals_are_refused_with_what_to_use(aggregate: Aggregate) -> None:
    prices = ps.StreamExecutionEnvironment().from_collection([Priced("a", Decimal("1.50"), 1)], Priced)
    windows = prices.key_by("key").window(ps.TumblingProcessingTimeWindows("1s"))
    with pytest.raises(PipelineError, match=r"needs numbers, but column 'price' .* Decimals, .* text: use floats, or"):
        windows.agg(it=aggregate).describe()


@dataclass(frozen=True)
class Nested:
    key: str
    tags: list[str]


@pytest.mark.parametrize(
    ("aggregate", "message"),
    [
        (ps.count_distinct("tags"), "count_distinct needs plain values, but column 'tags'"),
        (ps.approx_count_distinct("tags"), "approx_count_distinct needs plain values"),
        (ps.collect("tags", distinct=True), "collect of distinct values needs plain values"),
        (ps.top_k("tags", 2), "top_k needs values that have an order, but column 'tags'"),
        (ps.max("tags"), "max needs values that have an order"),
        (ps.last("key", by="tags"), "last by a column needs values that have an order"),
    ],
)
def test_values_that_cannot_be_compared_are_refused(aggregate: Aggregate, message: str) -> None:
    stream = windowed("tumbling", Nested, "key", {"it": aggregate})
    with pytest.raises(PipelineError, match=message):
        stream.describe()


def test_lists_can_be_collected() -> None:
    env = ps.StreamExecutionEnvironment()
    strategy = ps.WatermarkStrategy.for_monotonous_timestamps().with_timestamp_assigner(lambda row, _: 1)
    rows = [Nested("a", ["x"]), Nested("a", []), Nested("a", ["y", "z"])]
    keyed = env.from_collection(rows, Nested).assign_timestamps_and_watermarks(strategy).key_by("key")
    result = keyed.window(ps.TumblingEventTimeWindows(20)).agg(all=ps.collect("tags"), last=ps.last("tags"))
    (row,) = result.execute_and_collect()
    assert (row["all"], row["last"]) == ([["x"], [], ["y", "z"]], ["y", "z"])
