"""Windows of every kind in one job that is stopped amid everything and goes on at another parallelism, with a slot
killed on the way; what they give is what the reference gives (penstock.testing.window_reference)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import penstock as ps
from penstock.testing.lists import ListSink
from penstock.testing.window_reference import WindowReference


class Click(NamedTuple):
    user: int
    value: int
    at: int


CLICKS = [Click(i * 7 % 6, i, i // 40 * 150 + i % 40 * (1 + i % 3)) for i in range(240)]
EVENT_TIME = ps.WatermarkStrategy.for_bounded_out_of_orderness("200ms").with_timestamp_assigner(lambda c, _: c.at)


class Values(ps.AggregateFunction):
    def create_accumulator(self) -> tuple[int, ...]:
        return ()

    def add(self, value: Click, accumulator: tuple[int, ...]) -> tuple[int, ...]:
        return (*accumulator, value.value)

    def merge(self, acc_a: tuple[int, ...], acc_b: tuple[int, ...]) -> tuple[int, ...]:
        return (*acc_a, *acc_b)

    def get_result(self, accumulator: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(sorted(accumulator))


class Named(ps.ProcessWindowFunction):
    def process(self, key: int, context: Any, elements: Iterable[Any]) -> Iterator[Any]:
        (values,) = elements
        yield key, str(context.window()), values


class Pages(ps.WindowAssigner):
    """A user's own: windows that share their start."""

    window_type = ps.TimeWindow

    def assign_windows(self, element: Click, timestamp: int) -> list[ps.TimeWindow]:
        start = timestamp - timestamp % 100
        return [ps.TimeWindow(start, start + 100 + element.value % 2 * 50)]

    def default_trigger(self) -> ps.Trigger:
        return ps.EventTimeTrigger()


def gap_of(click: Click) -> int:
    return 1 + click.value % 30


KINDS: dict[str, tuple[Callable[[], ps.WindowAssigner], ps.Trigger | None]] = {
    "tumbling": (lambda: ps.TumblingEventTimeWindows(70), None),
    "sliding": (lambda: ps.SlidingEventTimeWindows(120, 40), None),
    "sessions": (lambda: ps.EventTimeSessionWindows(9), None),
    "dynamic sessions": (lambda: ps.EventTimeSessionWindows(gap_of), None),
    "merging": (lambda: ps.EventTimeSessionWindows(9), ps.PurgingTrigger(ps.EventTimeTrigger())),
    "custom": (Pages, None),
    "calendar": (lambda: ps.CalendarEventTimeWindows("day", "Asia/Kathmandu"), None),
    "global": (ps.GlobalWindows, ps.EventTimeTrigger()),
}


def expected(name: str) -> Counter[str]:
    make, trigger = KINDS[name]
    assigner = make()
    fired: Counter[str] = Counter()

    def on_fire(key: Any, window: Any, clicks: list[Click]) -> None:
        fired[repr((key, str(window), tuple(sorted(click.value for click in clicks))))] += 1

    reference = WindowReference(assigner, trigger or assigner.default_trigger(), on_fire)
    for click in CLICKS:
        reference.record(click.user, click, click.at)
    reference.advance(2**63 - 1, event_time=True)
    return fired


def build(env: Any, source: Any) -> None:
    clicks = env.from_source(source, EVENT_TIME, name="clicks").uid("clicks")
    for name, (make, trigger) in KINDS.items():
        windows = clicks.key_by(lambda click: click.user).window(make())
        if trigger is not None:
            windows = windows.trigger(trigger)
        windows.aggregate(Values(), Named(), name=name).uid(name).sink_to(ListSink(name), name=f"{name} results")
    counts = clicks.key_by(lambda click: click.user).count_window(7).aggregate(Values(), name="count").uid("count")
    counts.sink_to(ListSink("count"), name="count results")
    everything = clicks.window_all(ps.TumblingEventTimeWindows(150)).process(lambda context, clicks: [len(clicks)])
    everything.uid("all").sink_to(ListSink("all"), name="all results")


@pytest.mark.parametrize(("backend", "before", "after"), [("heap", 1, 3), ("rocksdb", 2, 1)])
def test_they_go_on_at_another_parallelism(
    backend: str, before: int, after: int, new_env: Any, drive: Any, held_source: Any, results: Any, tmp_path: Path
) -> None:
    for name in (*KINDS, "count", "all"):
        results(name)
    gate = tmp_path / "gate"

    def started(parallelism: int, restore: str | None) -> Any:
        env = new_env(parallelism, restore).set_state_backend(backend)
        build(env, held_source(CLICKS, gate, 25, splits=3, batch_rows=10, record_type=Click))
        return drive(env)

    path = started(before, None).checkpoints().stop()
    job = started(after, path).checkpoints()
    job.kill()
    gate.touch()
    job.end()
    assert {name: Counter(map(repr, results(name))) for name in KINDS} == {name: expected(name) for name in KINDS}
    users = Counter(click.user for click in CLICKS)
    assert len(results("count")) == sum(count // 7 for count in users.values())
    values = [value for filled in results("count") for value in filled]
    assert len(values) == len(set(values)) == 7 * len(results("count"))
    assert sum(results("all")) == len(CLICKS)
