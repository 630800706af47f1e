"""Pipelines as users write them, run to their end in this process."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

import penstock as ps
from penstock.connectors.collections import CollectionSource
from penstock.runtime.functions import OutputTag
from penstock.state.errors import JobFailedError, RecordTypeError


@dataclass
class Click:
    user: str
    page: str
    at: int
    duration: int


CLICKS = [Click(f"u{i % 3}", f"p{i % 5}", i * 100, i) for i in range(100)]
EVENT_TIME = ps.WatermarkStrategy.for_monotonous_timestamps().with_timestamp_assigner(lambda click, _: click.at)


@pytest.fixture(params=[1, 2], ids=["one", "two"])
def env(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> ps.StreamExecutionEnvironment:
    monkeypatch.chdir(tmp_path)
    env = ps.StreamExecutionEnvironment()
    return env.set_parallelism(request.param).set_buffer_timeout("1ms")


def test_functions_of_all_kinds(env: ps.StreamExecutionEnvironment) -> None:
    class Plus(ps.MapFunction):
        def __init__(self, number: int) -> None:
            self.number = number

        def open(self, runtime_context: ps.RuntimeContext) -> None:
            self.opened = True

        def map(self, value: int) -> int:
            assert self.opened
            return value + self.number

    def twice(value: int) -> Iterator[int]:
        yield value
        yield value

    stream = env.from_sequence(1, 4).map(Plus(10)).flat_map(twice).filter(lambda x: x % 2 == 0).map(str)
    assert sorted(stream.execute_and_collect()) == ["12", "12", "14", "14"]


def test_map_with_a_class_gives_a_typed_stream(env: ps.StreamExecutionEnvironment) -> None:
    class Point(NamedTuple):
        x: int

    stream = env.from_sequence(1, 3).map(Point)
    assert stream.record_type.schema == pa.schema([pa.field("x", pa.int64(), nullable=False)])
    assert sorted(stream.execute_and_collect()) == [(1,), (2,), (3,)]


def test_vectorised_and_python_steps_mix(env: ps.StreamExecutionEnvironment) -> None:
    numbers = [(name, pa.int64()) for name in ("at", "duration")]
    schema = pa.schema([("user", pa.string()), ("page", pa.string()), *numbers, ("seconds", pa.float64())])
    stream = (
        env.from_collection(CLICKS)
        .with_columns(seconds=pl.col("duration") / 8)
        .filter(pl.col("user") == "u1")
        .map(lambda row: {**row, "seconds": row["seconds"] * 2}, output_type=schema)
        .select("duration", "seconds")
    )
    expected = [(c.duration, c.duration / 8 * 2) for c in CLICKS if c.user == "u1"]
    assert sorted((r["duration"], r["seconds"]) for r in stream.execute_and_collect()) == expected


@pytest.mark.parametrize("face", ["arrow", "polars", "numpy"])
def test_map_batches(env: ps.StreamExecutionEnvironment, face: str) -> None:
    def arrow(batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch.set_column(0, "value", pa.array(batch.column(0).to_numpy() * 2))

    def polars(frame: pl.DataFrame) -> pl.DataFrame:
        return frame.with_columns(pl.col("value") * 2)

    def numpy(columns: dict[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        return {"value": columns["value"] * 2}

    function = {"arrow": arrow, "polars": polars, "numpy": numpy}[face]
    assert sorted(env.from_sequence(1, 4).map_batches(function, face).execute_and_collect()) == [2, 4, 6, 8]


def test_running_reduce_and_aggregates(env: ps.StreamExecutionEnvironment) -> None:
    keyed = env.from_collection([("a", 3), ("b", 1), ("a", 5), ("a", 1)]).key_by(lambda pair: pair[0])
    results = {
        "reduce": keyed.reduce(lambda one, other: (one[0], one[1] + other[1])),
        "sum": keyed.sum(1),
        "min": keyed.min(1),
        "max_by": keyed.max_by(1),
        "count": keyed.count(),
    }
    found: dict[str, list[Any]] = {}
    for name, stream in results.items():
        found[name] = [row for row in stream.execute_and_collect() if name == "count" or row[0] == "a"]
    assert found["reduce"] == [("a", 3), ("a", 8), ("a", 9)]
    assert found["sum"] == [("a", 3), ("a", 8), ("a", 9)]
    assert found["min"] == [("a", 3), ("a", 3), ("a", 1)]
    assert found["max_by"] == [("a", 3), ("a", 5), ("a", 5)]
    assert sorted(found["count"]) == [1, 1, 2, 3]


def test_state_timers_and_side_outputs(env: ps.StreamExecutionEnvironment) -> None:
    rare = OutputTag("rare", str)

    class Quiet(ps.KeyedProcessFunction):
        """A user's number of clicks, once event time is over; single clicks go to the side."""

        def open(self, runtime_context: ps.RuntimeContext) -> None:
            self.seen = runtime_context.get_state(ps.ValueStateDescriptor("seen", int))
            self.pages = runtime_context.get_map_state(ps.MapStateDescriptor("pages", str, int))
            self.all = runtime_context.get_list_state(ps.ListStateDescriptor("all", int))

        def process_element(self, click: Click, ctx: Any) -> None:
            self.seen.update((self.seen.value() or 0) + 1)
            self.pages.put(click.page, (self.pages.get(click.page) or 0) + 1)
            self.all.add(click.at)
            ctx.timer_service().register_event_time_timer(1_000_000)

        def on_timer(self, timestamp: int, ctx: Any) -> Iterator[Any]:
            assert timestamp == 1_000_000
            yield from self.told(ctx.get_current_key())

        def told(self, user: str) -> Iterator[Any]:
            if self.seen.value() == 1:
                yield rare, user
            else:
                yield user, self.seen.value(), dict(self.pages.items()), len(self.all.get())

    clicks = [*CLICKS, Click("once", "p0", 99_999, 1)]
    quiet = env.from_collection(clicks, watermark_strategy=EVENT_TIME).key_by(lambda click: click.user).process(Quiet())
    told = sorted(quiet.execute_and_collect())
    assert [(user, count) for user, count, _, _ in told] == [("u0", 34), ("u1", 33), ("u2", 33)]
    assert told[0][2] == Counter(click.page for click in CLICKS if click.user == "u0")
    assert [row[3] for row in told] == [34, 33, 33]
    assert list(quiet.get_side_output(rare).execute_and_collect()) == ["once"]


def test_a_side_output_that_nobody_reads_is_no_result(env: ps.StreamExecutionEnvironment) -> None:
    odd = OutputTag("odd", int)

    def split(number: int) -> Iterator[Any]:
        yield (odd, number) if number % 2 else number

    assert sorted(env.from_sequence(1, 6).flat_map(split).execute_and_collect()) == [2, 4, 6]


def expected_windows() -> dict[tuple[str, int], list[Click]]:
    windows: dict[tuple[str, int], list[Click]] = defaultdict(list)
    for click in CLICKS:
        windows[click.user, click.at // 1000 * 1000].append(click)
    return windows


def test_window_aggregates_are_the_same_on_both_faces(env: ps.StreamExecutionEnvironment) -> None:
    clicks = env.from_collection(CLICKS, watermark_strategy=EVENT_TIME)

    def user(click: Click) -> str:
        return click.user

    def results(keyed: Any) -> list[tuple[Any, ...]]:
        windows = keyed.window(ps.TumblingEventTimeWindows("1s"))
        stream = windows.agg(n=ps.count(), longest=ps.max("duration"), mean=ps.avg("duration"))
        return sorted(tuple(row.values()) for row in stream.execute_and_collect())

    vectorised, rows = results(clicks.key_by("user")), results(clicks.key_by(user))
    expected = sorted(
        (user, start, start + 1000, len(own), max(c.duration for c in own), sum(c.duration for c in own) / len(own))
        for (user, start), own in expected_windows().items()
    )
    assert vectorised == expected
    assert rows == expected


class Mean(ps.AggregateFunction):
    def create_accumulator(self) -> tuple[int, int]:
        return 0, 0

    def add(self, value: Click, accumulator: tuple[int, int]) -> tuple[int, int]:
        return accumulator[0] + value.duration, accumulator[1] + 1

    def get_result(self, accumulator: tuple[int, int]) -> float:
        return accumulator[0] / accumulator[1]


def test_window_functions(env: ps.StreamExecutionEnvironment) -> None:
    windows = (
        env.from_collection(CLICKS, watermark_strategy=EVENT_TIME)
        .key_by(lambda click: click.user)
        .window(ps.TumblingEventTimeWindows("1s"))
    )

    class Named(ps.ProcessWindowFunction):
        def process(self, key: str, context: Any, elements: Iterable[Any]) -> Iterator[Any]:
            yield key, context.window().start, list(elements)

    def longest(one: Click, other: Click) -> Click:
        return one if one.duration >= other.duration else other

    def number(key: str, window: Any, elements: Iterable[Any]) -> Iterator[Any]:
        yield key, window.start, len(list(elements))

    expected = expected_windows()
    means = {(key, start): mean for key, start, [mean] in windows.aggregate(Mean(), Named()).execute_and_collect()}
    assert means == {key: sum(c.duration for c in own) / len(own) for key, own in expected.items()}
    assert sorted(windows.aggregate(Mean()).execute_and_collect()) == sorted(means.values())
    assert sorted(c.duration for c in windows.reduce(longest).execute_and_collect()) == sorted(
        max(c.duration for c in own) for own in expected.values()
    )
    processed = {(key, start): own for key, start, own in windows.process(Named()).execute_and_collect()}
    assert processed == expected
    applied = {(key, start): count for key, start, count in windows.apply(number).execute_and_collect()}
    assert applied == {key: len(own) for key, own in expected.items()}


def test_late_records_go_to_the_side(env: ps.StreamExecutionEnvironment) -> None:
    late = OutputTag("late")
    clicks = [Click("u", "p", at, at) for at in (0, 500, 5_000, 100, 5_100)]

    class Cut(CollectionSource):
        """One record a batch, so that every record moves the watermark before the next one."""

        def create_reader(self, context: Any) -> Any:
            reader = super().create_reader(context)
            poll = reader.poll
            reader.poll = lambda max_rows: poll(1)
            return reader

    strategy = EVENT_TIME
    stream = env.from_source(Cut(clicks), strategy).set_parallelism(1).key_by("user")
    counts = stream.window(ps.TumblingEventTimeWindows("1s")).side_output_late_data(late).agg(n=ps.count())
    on_time = sum(row["n"] for row in counts.execute_and_collect())
    assert counts.get_side_output(late).record_type == stream.record_type
    side = list(counts.get_side_output(late).execute_and_collect())
    assert on_time + len(side) == 5
    assert all(click == clicks[3] for click in side)


@pytest.mark.parametrize("how", ["rebalance", "rescale", "shuffle", "global_"])
def test_partitionings_lose_nothing(env: ps.StreamExecutionEnvironment, how: str) -> None:
    stream = getattr(env.from_collection(range(50)), how)().map(lambda x: x)
    assert sorted(stream.execute_and_collect()) == list(range(50))


def test_broadcast_reaches_every_subtask(env: ps.StreamExecutionEnvironment) -> None:
    stream = env.from_collection(range(5)).broadcast().map(lambda x: x)
    assert Counter(stream.execute_and_collect()) == {x: env.get_parallelism() for x in range(5)}


def test_custom_partitioning(env: ps.StreamExecutionEnvironment) -> None:
    class Where(ps.MapFunction):
        def open(self, runtime_context: ps.RuntimeContext) -> None:
            self.subtask = runtime_context.get_index_of_this_subtask()

        def map(self, value: int) -> tuple[int, int]:
            return value, self.subtask

    stream = env.from_collection(range(10)).partition_custom(lambda key, n: key % n, lambda x: x).map(Where())
    assert sorted(stream.execute_and_collect()) == [(x, x % env.get_parallelism()) for x in range(10)]


def test_custom_partitioning_by_an_object(env: ps.StreamExecutionEnvironment) -> None:
    class ToTheLast:
        def partition(self, key: int, subtasks: int) -> int:
            return subtasks - 1

    stream = env.from_collection(range(3)).partition_custom(ToTheLast(), lambda x: x).map(lambda x: x)
    assert sorted(stream.execute_and_collect()) == [0, 1, 2]


def test_union(env: ps.StreamExecutionEnvironment) -> None:
    one, two = env.from_sequence(1, 3), env.from_collection([10, 20])
    assert sorted(one.union(two, one).map(lambda x: x).execute_and_collect()) == [1, 1, 2, 2, 3, 3, 10, 20]


def test_one_stream_in_several_branches(env: ps.StreamExecutionEnvironment) -> None:
    numbers = env.from_collection([[1], [2]])

    def grow(numbers: list[int]) -> list[int]:
        numbers.append(0)
        return numbers

    left, right = numbers.map(grow), numbers.map(lambda x: x)
    assert sorted(left.union(right).execute_and_collect()) == [[1], [1, 0], [2], [2, 0]]


def test_encoding_every_edge_changes_nothing(env: ps.StreamExecutionEnvironment) -> None:
    env.configure(ps.Configuration({"pipeline.encode-every-edge": True}))
    stream = env.from_collection(CLICKS).map(lambda c: c).key_by("user").reduce(lambda a, b: b)
    assert Counter(c.at for c in stream.execute_and_collect()) == Counter(c.at for c in CLICKS)


def test_a_limit_ends_the_job(env: ps.StreamExecutionEnvironment) -> None:
    env.enable_checkpointing("50ms")
    with env.from_sequence(1, 10**12).execute_and_collect(limit=3) as rows:
        assert len(list(rows)) == 3
    assert rows.result is not None
    assert rows.result.state.value == "CANCELED"


def test_a_job_in_the_background(env: ps.StreamExecutionEnvironment) -> None:
    env.from_sequence(1, 10**12).filter(lambda x: False).print()
    client = env.execute_async("background")
    assert client.status().job_name == "background"
    client.cancel()
    assert client.result(timeout_s=60).state.value == "CANCELED"


def test_every_execute_runs_what_was_added_since(env: ps.StreamExecutionEnvironment, capsys: Any) -> None:
    env.from_collection([1]).print("first")
    env.execute("one")
    env.from_collection([2]).print("second")
    env.execute("two")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0].split(">")[0] for line in lines] == ["first", "second"]


# failures


def test_the_users_exception_is_the_cause(env: ps.StreamExecutionEnvironment) -> None:
    env.set_restart_strategy("none")

    def divide(x: int) -> float:
        return 1 / x

    env.from_collection([1, 0]).map(divide, name="divide").print()
    with pytest.raises(JobFailedError, match="divide") as caught:
        env.execute()
    causes = [caught.value.__cause__, getattr(caught.value.__cause__, "__cause__", None)]
    assert any(isinstance(cause, ZeroDivisionError) for cause in causes)
    (note,) = caught.value.__notes__
    assert "return 1 / x" in note
    assert "/runtime/" not in note


def test_a_record_that_is_not_of_the_declared_type(env: ps.StreamExecutionEnvironment) -> None:
    def wrong(x: int) -> str:
        return x  # type: ignore[return-value]

    env.from_sequence(1, 3).map(wrong, name="wrong").key_by(lambda x: x).reduce(lambda a, b: a).print()
    with pytest.raises((JobFailedError, RecordTypeError), match="str"):
        env.execute()


def test_an_attempt_that_fails_is_repeated_without_losing_or_doubling(
    env: ps.StreamExecutionEnvironment, tmp_path: Path
) -> None:
    env.enable_checkpointing("20ms").set_restart_strategy("fixed-delay", attempts=1, delay="1ms")
    marker = tmp_path / "failed"

    def fail_once(x: int) -> int:
        if x == 40_000 and not marker.exists():
            marker.write_text("")
            raise OSError("once")
        return x

    stream = env.from_sequence(1, 50_000).map(fail_once).key_by(lambda x: x % 7).count()
    collected = stream.execute_and_collect()
    assert sum(1 for _ in collected) == 50_000
    assert collected.result is not None
    assert collected.result.status.restarts == 1
