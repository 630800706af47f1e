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
CLICKS = [Click(HOT if i % 20 else f"page {i % 7}", i, i * 2 - i % 5) for i in range(3_000)]
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


def build(env: Any, source: Any) -> None:
    clicks = env.from_source(source, EVENT_TIME, name="clicks").uid("clicks")
    for two_phase in PHASES:
        by_page = clicks.key_by(lambda click: click.page, key_type=str)
        tumbling = by_page.window(ps.TumblingEventTimeWindows("2s"))
        sliding = by_page.window(ps.SlidingEventTimeWindows("3s", "1s"))
        streams = {
            "aggregate": sliding.aggregate(Total(), two_phase=two_phase, name=f"aggregate {two_phase}"),
            "reduce": tumbling.reduce(added, two_phase=two_phase, name=f"reduce {two_phase}"),
            "agg": sliding.agg(
                two_phase=two_phase, n=ps.count(), top=ps.max("value"), mean=ps.avg("value"), name=f"agg {two_phase}"
            ),
            "all": clicks.window_all(ps.TumblingEventTimeWindows("2s")).aggregate(
                Total(), two_phase=two_phase, name=f"all {two_phase}"
            ),
        }
        for kind, stream in streams.items():
            stream.uid(f"{kind} {two_phase}").sink_to(
                ListSink(f"{kind} {two_phase}"), name=f"results of {kind} {two_phase}"
            )


def assert_alike(results: Any) -> None:
    for kind in KINDS:
        one, two = (Counter(map(repr, results(f"{kind} {two_phase}"))) for two_phase in PHASES)
        assert sum(one.values()) >= 3
        assert one == two, kind
    assert sum(total for _, total in results("all True")) == sum(click.value for click in CLICKS)


def read(driven: Any, name: str) -> int:
    """Records that the vertex with that operator has read."""
    (vertex,) = [vertex for vertex in driven.status.vertices if vertex.name.startswith(name)]
    return int(vertex.records_in)


@pytest.mark.parametrize("parallelism", [1, 2, 3])
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


@pytest.mark.parametrize(("backend", "before", "after"), [("heap", 1, 3), ("rocksdb", 3, 2)])
def test_stopped_and_killed_on_the_way(
    backend: str, before: int, after: int, new_env: Any, drive: Any, held_source: Any, results: Any, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"

    def started(parallelism: int, restore: str | None) -> Any:
        env = new_env(parallelism, restore).set_state_backend(backend)
        build(env, held_source(CLICKS, gate, 250, splits=3, batch_rows=20, record_type=Click))
        return drive(env)

    path = started(before, None).checkpoints().stop()
    job = started(after, path).checkpoints()
    job.kill()
    gate.touch()
    job.end()
    assert_alike(results)


def test_skew_is_seen(new_env: Any, drive: Any, held_source: Any, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    env = new_env(3)
    clicks = env.from_source(held_source(CLICKS, gate, 900, splits=3, batch_rows=100, record_type=Click))
    clicks.key_by(lambda click: click.page).reduce(added, name="totals").sink_to(ListSink("totals"))
    driven = drive(env)
    driven.until(lambda status: sum(vertex.records_in for vertex in status.vertices[1:]) >= 2_700)
    cluster = driven.job.cluster
    skew = skew_of(cluster.master.view(cluster.loop.now_ms()).vertices[1])
    group = key_group(HOT, 128)
    assert (skew.total, skew.key_groups[0].key_group) == (2_700, group)
    assert skew.key_groups[0].records == sum(click.page == HOT for click in CLICKS) * 9 / 10
    assert skew.busiest == skew.key_groups[0].subtask == group * 3 // 128
    assert skew.uneven
    assert sum(each.records for each in skew.key_groups) == skew.total
    gate.touch()
    driven.end()
