"""What a pipeline's plan says: names, types, chains, uids, as people and programs read them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import penstock as ps
from penstock.runtime.graph.partitioning import Forward, Rebalance
from penstock.runtime.records.record_types import record_type_of


@dataclass
class Word:
    text: str
    at: int


@pytest.fixture
def env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ps.StreamExecutionEnvironment:
    monkeypatch.chdir(tmp_path)
    return ps.StreamExecutionEnvironment()


def words(line: str) -> Iterator[Word]:
    for position, text in enumerate(line.split()):
        yield Word(text, position)


def pipeline(env: ps.StreamExecutionEnvironment) -> Any:
    strategy = ps.WatermarkStrategy.for_monotonous_timestamps().with_timestamp_assigner("at")
    stream = env.from_collection(["a b", "a"], name="lines").flat_map(words).filter(pl.col("text") != "")
    timed = stream.assign_timestamps_and_watermarks(strategy).uid("times")
    return timed.key_by("text").window(ps.TumblingEventTimeWindows("1s")).agg(n=ps.count()).uid("counts").name("counts")


def test_description(env: ps.StreamExecutionEnvironment) -> None:
    word = "Word(text: str, at: int)"
    assert pipeline(env).describe().splitlines() == [
        "job 'penstock job'",
        "[1] lines -> flat map words -> filter -> timestamps: parallelism 1 of 128",
        "    lines (source): rows -> str",
        f"    flat map words (flat map): rows -> {word}",
        f"    filter (filter): vectorised -> {word}",
        f"    timestamps (timestamps, uid 'times'): rows -> {word}",
        "[2] counts: parallelism 1 of 128",
        "    reads [1] 'timestamps': hash",
        "    counts (window agg, uid 'counts'): vectorised -> "
        "dict(text: str, window_start: int, window_end: int, n: int)",
    ]


def test_the_plan_for_programs(env: ps.StreamExecutionEnvironment) -> None:
    pipeline(env).print()
    plan = json.loads(env.get_execution_plan())
    first, second = plan["vertices"]
    assert [operator["kind"] for operator in second["operators"]] == ["window agg", "sink"]
    assert second["inputs"] == [
        {"vertex": first["id"], "operator": 3, "side_output": None, "partitioning": "hash", "input": 0}
    ]  # fmt: skip
    assert second["operators"][0]["id"] == "counts"


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        ("Iterator[int]", int), ("list[str]", str), ("tuple[int, ...]", int), ("Iterator[int] | None", int),
        ("Iterator[int | tuple[ps.OutputTag[str], str]]", int), ("int", None), ("tuple[int, str]", None), ("Any", None),
        ("Iterator[Unknown]", None), ("None", None),
    ],
)  # fmt: skip
def test_what_a_flat_map_yields_by_its_annotation(
    env: ps.StreamExecutionEnvironment, annotation: str, expected: Any
) -> None:
    def function(x: int) -> Any:
        return [x]

    function.__annotations__["return"] = annotation
    result = env.from_sequence(1, 2).flat_map(function).record_type
    assert result.opaque if expected is None else result == record_type_of(expected)


def test_the_output_type_can_be_given(env: ps.StreamExecutionEnvironment) -> None:
    numbers = env.from_sequence(1, 2)
    assert numbers.map(lambda x: str(x), str).record_type == record_type_of(str)
    assert numbers.flat_map(lambda x: [str(x)], output_type=str).record_type == record_type_of(str)
    assert numbers.map(lambda x: x).record_type.opaque
    assert numbers.filter(lambda x: True).record_type == record_type_of(int)


def test_default_names_are_different_and_can_be_set(env: ps.StreamExecutionEnvironment) -> None:
    numbers = env.from_sequence(1, 2)
    one, two = numbers.map(lambda x: x), numbers.map(lambda x: x)
    three = numbers.map(str, name="texts")
    for stream in (one, two, three):
        stream.print()
    names = [operator.name for vertex in env.job_graph().vertices for operator in vertex.operators]
    assert names == ["sequence", "map", "map 2", "texts", "print", "print 2", "print 3"]


def test_parallelism_comes_from_the_operator_then_the_environment(env: ps.StreamExecutionEnvironment) -> None:
    env.set_parallelism(2)
    env.from_collection([1]).map(lambda x: x).set_parallelism(3).filter(lambda x: True).print()
    graph = env.job_graph()
    assert [(vertex.name, vertex.parallelism) for vertex in graph.vertices] == [
        ("collection", 1), ("map", 3), ("filter -> print", 2),
    ]  # fmt: skip
    assert [type(edge.partitioning) for edge in graph.edges] == [Rebalance, Rebalance]


def test_chaining_is_controlled_per_operator(env: ps.StreamExecutionEnvironment) -> None:
    numbers = env.from_sequence(1, 2)
    numbers.map(lambda x: x, name="a").start_new_chain().map(lambda x: x, name="b").disable_chaining().print(name="c")
    graph = env.job_graph()
    assert [vertex.name for vertex in graph.vertices] == ["sequence", "a", "b", "c"]
    assert {type(edge.partitioning) for edge in graph.edges} == {Forward}
    env.disable_operator_chaining()
    assert len(env.job_graph().vertices) == 4


def test_slot_sharing_groups_are_inherited(env: ps.StreamExecutionEnvironment) -> None:
    stream = env.from_sequence(1, 2).map(lambda x: x, name="a").slot_sharing_group("heavy")
    stream.map(lambda x: x, name="b").print(name="c")
    assert [(vertex.name, vertex.slot_sharing_group) for vertex in env.job_graph().vertices] == [
        ("sequence", "default"), ("a -> b -> c", "heavy"),
    ]  # fmt: skip


def test_stateful_operators_without_a_uid_are_warned_of(env: ps.StreamExecutionEnvironment) -> None:
    keyed = env.from_sequence(1, 2).key_by(lambda x: x)
    keyed.count(name="counted").print()
    keyed.count(name="named").uid("named").print()
    (warning,) = env.job_graph().warnings
    assert "'counted'" in warning
    assert "'named'" not in warning


def test_settings_reach_the_job_graph(env: ps.StreamExecutionEnvironment) -> None:
    env.enable_checkpointing("5s", "at-least-once", storage=Path("here"), retained=3)
    env.set_restart_strategy("exponential-delay", initial_backoff="2s", max_backoff="9s")
    env.set_state_backend("heap").set_buffer_timeout("3ms").set_max_parallelism(16)
    env.from_sequence(1, 2).print()
    graph = env.job_graph("named")
    assert graph.job_name == "named"
    assert graph.vertices[0].max_parallelism == 16
    assert graph.config == {
        "execution.checkpointing.interval": "5s",
        "execution.checkpointing.mode": "at-least-once",
        "state.checkpoints.dir": "here",
        "state.checkpoints.num-retained": "3",
        "restart-strategy.type": "exponential-delay",
        "restart-strategy.exponential-delay.initial-backoff": "2s",
        "restart-strategy.exponential-delay.max-backoff": "9s",
        "state.backend.type": "heap",
        "execution.buffer-timeout.interval": "3ms",
        "pipeline.max-parallelism": "16",
        "execution.runtime-mode": "streaming",
    }


def test_code_beats_the_environment_variables(
    env: ps.StreamExecutionEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENSTOCK_PARALLELISM", "5")
    assert ps.StreamExecutionEnvironment().get_parallelism() == 5
    assert ps.StreamExecutionEnvironment(ps.Configuration({"parallelism.default": 2})).get_parallelism() == 2
    assert ps.get_execution_environment().set_parallelism(3).get_parallelism() == 3
