"""Windows of every kind of event time in whole jobs at random: disorder, records that come late, lateness, splits, a
source that is idle beside another one, parallelism before and after a stop, a slot that is killed.

Which records are late depends on who is faster: the job says which were, and gives out what the reference gives of the
others (penstock.testing.window_reference). A quiet source neither goes on nor ends until windows of the other one have
been given out without it.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import penstock as ps
from penstock.testing.lists import ListSink
from penstock.testing.window_reference import WindowReference

RECORDS, SPAN_MS, JITTER_MS = 60, 600, 30
HELD_AFTER = 8
"""Records of each subtask: even where each has a split to itself, none of them ends before it may."""


class Record(NamedTuple):
    key: str
    number: int
    at: int


class Pages(ps.WindowAssigner):
    """A user's own: windows that share their start."""

    window_type = ps.TimeWindow

    def assign_windows(self, element: Record, timestamp: int) -> list[ps.TimeWindow]:
        start = timestamp - timestamp % 50
        return [ps.TimeWindow(start, start + 50 + element.number % 2 * 50)]

    def default_trigger(self) -> ps.Trigger:
        return ps.EventTimeTrigger()


def gap_of(record: Record) -> int:
    return 1 + record.number % 30


ONE_EACH: dict[str, Callable[[], ps.WindowAssigner]] = {
    "tumbling": lambda: ps.TumblingEventTimeWindows(40, 7),
    "custom": Pages,
    "calendar": lambda: ps.CalendarEventTimeWindows("day", "Asia/Kathmandu"),
}
"""A record is in one window, and windows do not depend on other records: what is late for one is late for all."""
MORE: dict[str, Callable[[], ps.WindowAssigner]] = {
    "sliding": lambda: ps.SlidingEventTimeWindows(120, 40),
    "sessions": lambda: ps.EventTimeSessionWindows(9),
    "dynamic sessions": lambda: ps.EventTimeSessionWindows(gap_of),
    "global": ps.GlobalWindows,
}
TRIGGERS: dict[str, Callable[[], ps.Trigger]] = {
    "event": ps.EventTimeTrigger,
    "purging": lambda: ps.PurgingTrigger(ps.EventTimeTrigger()),
    "early": lambda: ps.EarlyAndLateTrigger(None, ps.CountTrigger(1)),
}


@dataclass(frozen=True)
class Scenario:
    seed: int
    late: bool
    """The watermark is behind the newest record by less than the disorder."""
    lateness: int
    trigger: str
    splits: int
    parallelism: tuple[int, int]
    backend: str
    killed: bool

    def made(self) -> tuple[list[Record], list[Record]]:
        """What the busy source gives, and the quiet one."""
        chance = random.Random(self.seed)
        order = sorted(range(RECORDS), key=lambda i: i * SPAN_MS // RECORDS + chance.randint(0, JITTER_MS))
        busy = [Record(chance.choice("abc"), i, i * SPAN_MS // RECORDS) for i in order]
        first, last = (0, SPAN_MS) if self.late else (SPAN_MS + JITTER_MS, SPAN_MS + 2 * JITTER_MS)
        return busy, [Record(chance.choice("abc"), 1000 + i, chance.randint(first, last)) for i in range(4)]

    @property
    def kinds(self) -> dict[str, Callable[[], ps.WindowAssigner]]:
        return ONE_EACH if self.late else {**ONE_EACH, **MORE}

    def new_trigger(self) -> ps.Trigger:
        """Where nothing is late all of them fire once. Where windows fire again, with all that there is."""
        return TRIGGERS["event" if self.late and self.trigger == "purging" else self.trigger]()


scenarios = st.builds(
    Scenario,
    st.integers(0, 2**20),
    st.booleans(),
    st.sampled_from([0, 35]),
    st.sampled_from(sorted(TRIGGERS)),
    st.integers(1, 3),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.sampled_from(["heap", "heap", "rocksdb"]),
    st.booleans(),
)


def listed(key: str, context: Any, elements: Iterable[Record]) -> Iterator[tuple[str, str, tuple[Record, ...]]]:
    yield key, str(context.window()), tuple(sorted(elements))


def build(env: Any, scenario: Scenario, busy: Any, quiet: Any) -> None:
    slack = 0 if scenario.late else JITTER_MS
    timed = ps.WatermarkStrategy.for_bounded_out_of_orderness(slack).with_timestamp_assigner("at")
    both = env.from_source(busy, timed, name="busy").uid("busy")
    both = both.union(env.from_source(quiet, timed.with_idleness("5ms"), name="quiet").uid("quiet"))
    for name, assigner in scenario.kinds.items():
        tag: ps.OutputTag[Record] = ps.OutputTag("late")
        windows = both.key_by("key").window(assigner()).trigger(scenario.new_trigger()).side_output_late_data(tag)
        fired = windows.allowed_lateness(scenario.lateness).process(listed, name=name).uid(name)
        fired.sink_to(ListSink(name), name=f"{name} results")
        fired.get_side_output(tag).sink_to(ListSink(f"late {name}"), name=f"late {name}")


def expected(scenario: Scenario, name: str, late: Counter[Record]) -> Counter[Any]:
    fired: Counter[Any] = Counter()

    def on_fire(key: Any, window: Any, records: list[Record]) -> None:
        fired[key, str(window), tuple(sorted(records))] += 1

    reference = WindowReference(scenario.kinds[name](), ps.EventTimeTrigger(), on_fire)
    for record in itertools.chain(*scenario.made()):
        if not late[record]:
            reference.record(record.key, record, record.at)
    reference.advance(2**63 - 1, event_time=True)
    return fired


def largest(rows: list[Any]) -> Counter[Any]:
    """With lateness a window is given out again, with what has come since."""
    found: dict[Any, tuple[Record, ...]] = {}
    for key, window, records in sorted(rows, key=lambda row: len(row[2])):
        assert set(found.get((key, window), ())) < set(records), "it goes on with what it had"
        found[key, window] = records
    return Counter((*window, records) for window, records in found.items())


numbers = itertools.count()
NOT_SHRUNK = (Phase.explicit, Phase.reuse, Phase.generate)
SLOW = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@given(scenarios)
@settings(max_examples=4, deadline=None, phases=NOT_SHRUNK, suppress_health_check=SLOW)
def test_any_window(
    new_env: Any, drive: Any, held_source: Any, quiet_source: Any, results: Any, tmp_path: Path, scenario: Scenario
) -> None:
    ListSink.clear()
    gate, quiet_gate = (tmp_path / f"{name} {next(numbers)}" for name in ("gate", "quiet"))
    busy, quiet = scenario.made()

    def started(parallelism: int, restore: str | None = None) -> Any:
        env = new_env(parallelism, restore).set_state_backend(scenario.backend)
        held = held_source(busy, gate, HELD_AFTER, splits=scenario.splits, batch_rows=4, record_type=Record)
        build(
            env, scenario, held, quiet_source(quiet, quiet_gate, int(scenario.late), batch_rows=1, record_type=Record)
        )
        return drive(env)

    before, after = scenario.parallelism
    path = started(before).checkpoints(1).stop()
    job = started(after, path).until(lambda _: results("tumbling"))
    if scenario.killed:
        job.kill()
    gate.touch()
    quiet_gate.touch()
    job.end()
    late = {name: Counter(results(f"late {name}")) for name in scenario.kinds}
    assert scenario.late or not any(late.values())
    found = {name: (largest if scenario.late else Counter)(results(name)) for name in scenario.kinds}
    assert found == {name: expected(scenario, name, late[name]) for name in scenario.kinds}
