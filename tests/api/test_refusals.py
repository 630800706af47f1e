"""What is refused before anything runs: one clear sentence with the operator's name. One test for each rule."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from operator import itemgetter
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

import penstock as ps
from penstock.connectors.collections import CollectionSource
from penstock.connectors.files import FileSink
from penstock.connectors.formats import Parquet
from penstock.connectors.print import PrintSink
from penstock.state.errors import ConfigurationError, PipelineError


@dataclass
class Click:
    user: str
    page: str
    at: int


CLICKS = [Click("ann", "a", 1), Click("bob", "b", 2)]


@pytest.fixture
def env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ps.StreamExecutionEnvironment:
    monkeypatch.chdir(tmp_path)
    return ps.StreamExecutionEnvironment()


def refused(env: ps.StreamExecutionEnvironment) -> str:
    with pytest.raises(PipelineError) as caught:
        env.execute()
    assert not Path(".penstock").exists(), "a refused pipeline leaves nothing behind"
    return str(caught.value)


def test_nothing_to_execute(env: ps.StreamExecutionEnvironment) -> None:
    assert "nothing to execute" in refused(env)


def test_a_map_that_yields(env: ps.StreamExecutionEnvironment) -> None:
    def words(line: str) -> Iterator[str]:
        yield from line.split()

    env.from_collection(["a b"]).map(words, name="split").print()
    assert "operator 'split' (test_refusals.py:" in (text := refused(env))
    assert "this one yields; use flat_map" in text


def test_a_map_function_class_that_yields(env: ps.StreamExecutionEnvironment) -> None:
    class Words(ps.MapFunction):
        def map(self, value: str) -> Iterator[str]:
            yield value

    env.from_collection(["a b"]).map(Words()).print()
    assert "operator 'map Words'" in refused(env)


@pytest.mark.parametrize("returned", [str, dict, bytes])
def test_a_flat_map_that_returns_what_would_be_taken_apart(env: ps.StreamExecutionEnvironment, returned: type) -> None:
    def same(line: str) -> Any:
        return line

    same.__annotations__["return"] = returned
    env.from_collection(["a b"]).flat_map(same).print()
    assert "operator 'flat map same' (test_refusals.py:" in (text := refused(env))
    assert f"returns a {returned.__name__}, which would be taken apart" in text


@pytest.mark.parametrize("method", ["map", "filter", "flat_map", "process"])
def test_asynchronous_functions(env: ps.StreamExecutionEnvironment, method: str) -> None:
    async def fetch(line: str) -> str:
        return line

    getattr(env.from_collection(["a"]), method)(fetch, name="fetch").print()
    assert "operator 'fetch'" in (text := refused(env))
    assert "'fetch' is async def" in text


def test_something_that_is_no_function(env: ps.StreamExecutionEnvironment) -> None:
    env.from_collection([1]).map(5).print()
    assert "operator 'map int' " in (text := refused(env))
    assert "5 is not callable" in text


@pytest.mark.parametrize("method", ["map", "filter", "flat_map", "key_by"])
def test_functions_of_another_number_of_arguments(env: ps.StreamExecutionEnvironment, method: str) -> None:
    getattr(env.from_collection([1]), method)(lambda one, two: one).map(lambda x: x, name="same").print()
    assert f"operator '{'same' if method == 'key_by' else method.replace('_', ' ')}'" in (text := refused(env))
    assert "'lambda' is to be called with a record, and does not take 1 argument: missing a required argument" in text


def test_a_map_function_that_is_no_object_yet(env: ps.StreamExecutionEnvironment) -> None:
    class Same(ps.MapFunction):
        def map(self, value: str) -> str:
            return value

    env.from_collection(["a"]).map(Same).print()
    assert "'Same' is a class, and an object of it is needed: write Same(…)" in refused(env)


def test_functions_that_take_more_than_a_record_or_say_nothing_are_fine(env: ps.StreamExecutionEnvironment) -> None:
    @functools.wraps(pow)
    def squared(number: int) -> int:
        return pow(number, 2)

    for function in (
        squared,
        int,
        str.upper,
        itemgetter(0),
        functools.partial(pow, 2),
        max,
        json.dumps,
        lambda *records: records,
        lambda record, more=1: record,
    ):
        env.from_collection([1]).map(function).print()
    env.job_graph()


@pytest.mark.parametrize("assigner", [lambda record: record.at, lambda: 1, 5])
def test_timestamp_assigners_of_another_number_of_arguments(assigner: Any) -> None:
    with pytest.raises(PipelineError, match="takes a function of a record and its previous timestamp"):
        ps.WatermarkStrategy.for_monotonous_timestamps().with_timestamp_assigner(assigner)


@pytest.mark.parametrize("key", [("usr",), ("user", "usr")])
def test_key_columns_that_do_not_exist(env: ps.StreamExecutionEnvironment, key: tuple[str, ...]) -> None:
    env.from_collection(CLICKS).key_by(*key).reduce(lambda a, b: a, name="last").print()
    assert "operator 'last'" in (text := refused(env))
    assert "key_by: there is no column 'usr'; there are user, page, at" in text


@pytest.mark.parametrize("field", ["duration", 3])
def test_aggregated_fields_that_do_not_exist(env: ps.StreamExecutionEnvironment, field: str | int) -> None:
    env.from_collection(CLICKS).key_by("user").sum(field).print()
    assert "operator 'sum' (test_refusals.py:" in (text := refused(env))
    assert f"sum: there is no column {field!r}" in text


@pytest.mark.parametrize(
    "expression",
    [
        lambda stream: stream.filter(pl.col("nope") > 1),
        lambda stream: stream.with_columns(twice=pl.col("nope") * 2),
        lambda stream: stream.select("nope"),
    ],
)
def test_expressions_on_columns_that_do_not_exist(env: ps.StreamExecutionEnvironment, expression: Any) -> None:
    expression(env.from_collection(CLICKS)).name("mine").print()
    assert "operator 'mine'" in (text := refused(env))
    assert "nope" in text


def test_expressions_on_an_opaque_stream(env: ps.StreamExecutionEnvironment) -> None:
    env.from_collection(CLICKS).map(lambda click: click).filter(pl.col("user") == "ann").print()
    assert "operator 'filter'" in (text := refused(env))
    assert "needs columns, and its input has none, because 'lambda' is not annotated" in text


def test_aggregates_of_columns_that_do_not_exist(env: ps.StreamExecutionEnvironment) -> None:
    clicks = env.from_collection(CLICKS).key_by("user").window(ps.TumblingEventTimeWindows("1s"))
    clicks.agg(total=ps.sum("duration"), name="totals").print()
    assert "operator 'totals'" in (text := refused(env))
    assert "duration" in text


def test_a_keyed_function_without_keys(env: ps.StreamExecutionEnvironment) -> None:
    class Counting(ps.KeyedProcessFunction):
        def process_element(self, value: Any, ctx: Any) -> None: ...

    env.from_collection([1]).process(Counting()).print()
    assert "a KeyedProcessFunction needs keys; call key_by(...) before process" in refused(env)


def test_a_key_function_whose_annotation_can_be_no_key(env: ps.StreamExecutionEnvironment) -> None:
    def key(click: Click) -> list[str]:
        return [click.user]

    env.from_collection(CLICKS).key_by(key).reduce(lambda a, b: a).print()
    assert "operator 'reduce'" in (text := refused(env))
    assert "key_by" in text


def test_aggregate_needs_an_aggregate_function(env: ps.StreamExecutionEnvironment) -> None:
    env.from_collection(CLICKS).key_by("user").window(ps.TumblingEventTimeWindows("1s")).aggregate(max).print()
    assert "has no method create_accumulator()" in refused(env)


def test_a_naive_datetime_column_is_no_event_time(env: ps.StreamExecutionEnvironment) -> None:
    schema = pa.schema([("at", pa.timestamp("ms"))])
    stream = env.from_collection([{"at": datetime(2026, 1, 1)}], schema)
    strategy = ps.WatermarkStrategy.for_monotonous_timestamps().with_timestamp_assigner("at")
    stream.assign_timestamps_and_watermarks(strategy).print()
    assert "operator 'timestamps'" in (text := refused(env))
    assert "naive datetimes" in text


@pytest.mark.parametrize(
    ("column", "complaint"), [("when", "there is no column 'when'"), ("user", "is of type string")]
)
def test_impossible_timestamp_columns(env: ps.StreamExecutionEnvironment, column: str, complaint: str) -> None:
    strategy = ps.WatermarkStrategy.for_monotonous_timestamps().with_timestamp_assigner(column)
    env.from_collection(CLICKS, watermark_strategy=strategy, name="clicks").print()
    assert "operator 'clicks'" in (text := refused(env))
    assert complaint in text


class Unbounded(CollectionSource):
    bounded = False


class TwoPhase(PrintSink):
    delivery = "exactly-once"


def test_an_unbounded_exactly_once_sink_without_checkpoints(env: ps.StreamExecutionEnvironment) -> None:
    env.disable_checkpointing()
    env.from_source(Unbounded([1])).map(lambda x: x).sink_to(TwoPhase(), name="results")
    assert "operator 'results'" in (text := refused(env))
    assert "call enable_checkpointing" in text


def test_the_same_sink_is_fine_with_checkpoints_or_an_end(env: ps.StreamExecutionEnvironment) -> None:
    env.from_source(Unbounded([1])).sink_to(TwoPhase())
    env.job_graph()
    env.disable_checkpointing()
    bounded = ps.StreamExecutionEnvironment()
    bounded.disable_checkpointing()
    bounded.from_collection([1]).sink_to(TwoPhase())
    bounded.job_graph()


@pytest.mark.parametrize(("setting", "value"), [("set_parallelism", 0), ("set_max_parallelism", 0)])
def test_impossible_parallelism_of_an_operator(env: ps.StreamExecutionEnvironment, setting: str, value: int) -> None:
    getattr(env.from_collection([1]).map(lambda x: x, name="same"), setting)(value).print()
    assert "operator 'same'" in refused(env)


def test_parallelism_above_max_parallelism(env: ps.StreamExecutionEnvironment) -> None:
    env.set_max_parallelism(4)
    env.from_sequence(1, 5).map(lambda x: x, name="same").set_parallelism(5).print()
    assert "operator 'same': parallelism 5 is above max parallelism 4" in refused(env)


def test_impossible_options(env: ps.StreamExecutionEnvironment) -> None:
    for setting in (
        lambda: env.set_parallelism(0),
        lambda: env.enable_checkpointing("soon"),
        lambda: env.enable_checkpointing("1s", "sometimes"),
        lambda: env.set_state_backend("paper"),
        lambda: env.set_restart_strategy("hope"),
        lambda: env.set_restart_strategy("fixed-delay", tries=3),
    ):
        with pytest.raises(ConfigurationError, match="option"):
            setting()


def test_two_steps_with_one_uid(env: ps.StreamExecutionEnvironment) -> None:
    stream = env.from_sequence(1, 5)
    stream.map(lambda x: x, name="one").uid("u").print()
    stream.map(lambda x: x, name="two").uid("u").print()
    assert "operator 'two': the uid 'u' is taken by operator 'one'" in refused(env)


def test_a_union_has_no_name(env: ps.StreamExecutionEnvironment) -> None:
    one, two = env.from_sequence(1, 5), env.from_sequence(1, 5)
    with pytest.raises(AttributeError, match=r"name\(\) belongs to an operator"):
        one.union(two).name("both")


def test_everything_is_reported_together_and_followers_of_a_broken_step_are_not(
    env: ps.StreamExecutionEnvironment,
) -> None:
    clicks = env.from_collection(CLICKS)
    clicks.select("nope", name="one").filter(pl.col("user") == "ann", name="follower").print()
    clicks.select("none", name="three").sink_to(FileSink("out", Parquet()), name="columns")
    clicks.map(5, name="two").print()
    text = refused(env)
    assert text.startswith("the pipeline has 3 problems:")
    assert "operator 'one'" in text
    assert "operator 'two'" in text
    assert "follower" not in text
    assert "columns'" not in text


def test_unions_of_different_types_are_opaque(env: ps.StreamExecutionEnvironment) -> None:
    union = env.from_collection([1]).union(env.from_collection(["a"]))
    union.filter(pl.col("value") == 1).print()
    assert "because it is a union of streams of different types" in refused(env)
