"""One key that most records have, in one phase and in two, in one job: what goes over, and what comes out; also when
the job is stopped amid everything, goes on at another parallelism, and loses a slot on the way. How that is seen."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import penstock as ps
from penstock.jobmanager.skew import skew_of
from penstock.state.key_groups import key_group
from penstock.testing.lists import ListSink


class Click(NamedTuple):
    page: str
    value: int
    at: int


HOT = "home"
CLICKS = [Click(HOT if i % 20 else f"page {i % 7}", i, i * 3 - i % 5) for i in range(1_800)]
EVENT_TIME = ps.WatermarkStrategy.for_bounded_out_of_orderness("20ms").with_timestamp_assigner(lambda c, _: c.at)


class Total(ps.AggregateFunction):
    def create_accumulator(self) -> tuple[int, int]:
        return 0, 0

    def add(self, value: Click, accumulator: tuple[int, int]) -> tuple[int, int]:
        return accumulator[0] + 1, accumulator[1] + value.value

    def merge(self, acc_a: tuple[int, int], acc_b: tuple[int, int]) -> tuple[int, int]:
        return acc_a[0] + acc_b[0], acc_a[1] + acc_b[1]

    def get_result(self, accumulator: tuple[int, int]) -> tuple[int, int]:
        return accumulator


def added(one: Click, other: Click) -> Click:
    return Click(one.page, one.value + other.value, min(one.at, other.at))


PHASES = (False, True)
KINDS = ("aggregate", "reduce", "agg", "all")


def build(env: Any, source: Any, kinds: tuple[str, ...] = KINDS) -> None:
    clicks = env.from_source(source, EVENT_TIME, name="clicks").uid("clicks")
    for two_phase in PHASES:
        by_page = clicks.key_by(lambda click: click.page, key_type=str)
        tumbling = by_page.window(ps.TumblingEventTimeWindows("2s"))
        sliding = by_page.window(ps.SlidingEventTimeWindows("3s", "1s"))
        for kind in kinds:
            name = f"{kind} {two_phase}"
            if kind == "aggregate":
                stream = sliding.aggregate(Total(), two_phase=two_phase, name=name)
            elif kind == "reduce":
                stream = tumbling.reduce(added, two_phase=two_phase, name=name)
            elif kind == "agg":
                aggregates = {"n": ps.count(), "top": ps.max("value"), "mean": ps.avg("value")}
                stream = sliding.agg(two_phase=two_phase, name=name, **aggregates)
            else:
                in_one = clicks.window_all(ps.TumblingEventTimeWindows("2s"))
                stream = in_one.aggregate(Total(), two_phase=two_phase, name=name)
            stream.uid(name).sink_to(ListSink(name), name=f"results of {name}")


def assert_alike(results: Any, kinds: tuple[str, ...] = KINDS) -> None:
    for kind in kinds:
        one, two = (Counter(map(repr, results(f"{kind} {two_phase}"))) for two_phase in PHASES)
        assert sum(one.values()) >= 3
        assert one == two, kind
    if "all" in kinds:
        assert sum(total for _, total in results("all True")) == sum(click.value for click in CLICKS)


def read(driven: Any, name: str) -> int:
    """Records that the vertex with that operator has read."""
    (vertex,) = [vertex for vertex in driven.status.vertices if vertex.name.startswith(name)]
    return int(vertex.records_in)


@pytest.mark.parametrize("parallelism", [1, 3])
def test_straight_through_with_few_records_over_the_exchange(
    parallelism: int, new_env: Any, drive: Any, held_source: Any, results: Any, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    env = new_env(parallelism).enable_checkpointing("1h")
    env.configure(ps.Configuration({"pipeline.encode-every-edge": True}))
    build(env, held_source(CLICKS, gate, 0, splits=3, batch_rows=100, record_type=Click))
    driven = drive(env)
    driven.end()
    assert_alike(results)
    for kind in KINDS:
        assert read(driven, f"{kind} False") == len(CLICKS)
        assert read(driven, f"{kind} True") <= len(CLICKS) / 10, "of the hot key hardly any"


@pytest.mark.parametrize(
    ("backend", "before", "after", "kinds"), [("heap", 1, 3, KINDS), ("rocksdb", 3, 2, ("aggregate", "agg"))]
)
def test_stopped_and_killed_on_the_way(
    backend: str,
    before: int,
    after: int,
    kinds: tuple[str, ...],
    new_env: Any,
    drive: Any,
    held_source: Any,
    results: Any,
    tmp_path: Path,
) -> None:
    gate = tmp_path / "gate"

    def started(parallelism: int, restore: str | None) -> Any:
        env = new_env(parallelism, restore).set_state_backend(backend)
        build(env, held_source(CLICKS, gate, 150, splits=3, batch_rows=20, record_type=Click), kinds)
        return drive(env)

    path = started(before, None).checkpoints().stop()
    job = started(after, path).checkpoints()
    job.kill()
    gate.touch()
    job.end()
    assert_alike(results, kinds)


def test_skew_is_seen(new_env: Any, drive: Any, held_source: Any, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    env = new_env(3)
    clicks = env.from_source(held_source(CLICKS, gate, 540, splits=3, batch_rows=100, record_type=Click))
    clicks.key_by(lambda click: click.page).reduce(added, name="totals").sink_to(ListSink("totals"))
    driven = drive(env)
    driven.until(lambda status: sum(vertex.records_in for vertex in status.vertices[1:]) >= 1_620)
    cluster = driven.job.cluster
    skew = skew_of(cluster.master.view(cluster.loop.now_ms()).vertices[1])
    group = key_group(HOT, 128)
    assert (skew.total, skew.key_groups[0].key_group) == (1_620, group)
    assert skew.key_groups[0].records == sum(click.page == HOT for click in CLICKS) * 9 / 10
    assert skew.busiest == skew.key_groups[0].subtask == group * 3 // 128
    assert skew.uneven
    assert sum(each.records for each in skew.key_groups) == skew.total
    gate.touch()
    driven.end()
