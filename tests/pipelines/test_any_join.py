"""Every kind of join in whole jobs at random: how it joins, in which windows, disorder, records that come late, splits,
a source that is idle beside the others, parallelism before and after a stop, a slot that is killed.

What is late depends on who is faster; the job says which records were late, and its results are those of the others,
computed by plain Python. A quiet source gives a record or none, neither goes on nor ends, and goes on when the windows
of the others have been given out without it.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import penstock as ps
from penstock.testing.lists import ListSink

HOW = ("inner", "left", "right", "full")
WINDOWS: dict[str, Callable[[], ps.WindowAssigner]] = {
    "tumbling": lambda: ps.TumblingEventTimeWindows(40),
    "sliding": lambda: ps.SlidingEventTimeWindows(60, 25),
    "sessions": lambda: ps.EventTimeSessionWindows(9),
}
GROUP_MS = 40
"""Of the windows of co_group."""
SPAN_MS = 600
RECORDS = 60
"""Of each side."""
JITTER_MS = 30
HELD_AFTER = 8
"""Records of each subtask of a source: even where each has a split to itself, none of them ends before it may."""
LATE = {name: ps.OutputTag[Any](f"late {name}") for name in ("join", "co_group", "left", "right", "temporal")}
KINDS = ("join", "co_group", "interval", "regular", "temporal", "lookup", "broadcast")


class Record(NamedTuple):
    key: str
    number: int
    """Even on the left, odd on the right: all are different."""
    at: int


@dataclass(frozen=True)
class Scenario:
    seed: int
    late: bool
    """The watermark is behind the newest record of a side by less than the disorder."""
    how: tuple[str, str, str]
    """Of the windowed, the interval, the regular join. The others know two ways."""
    keeps_left: bool
    window: str
    bounds: tuple[int, int]
    lateness: int
    splits: tuple[int, int]
    parallelism: tuple[int, int]
    backend: str
    killed: bool

    def made(self) -> tuple[list[Record], list[Record], list[Record]]:
        """Left, right, and what the quiet source of the left side gives."""
        chance = random.Random(self.seed)
        sides = []
        for side in (0, 1):
            times = sorted(range(RECORDS), key=lambda i: i * SPAN_MS // RECORDS + chance.randint(0, JITTER_MS))
            sides.append([Record(chance.choice("abc"), 2 * i + side, i * SPAN_MS // RECORDS) for i in times])
        first, last = (0, SPAN_MS) if self.late else (SPAN_MS + JITTER_MS, SPAN_MS + 2 * JITTER_MS)
        quiet = [Record(chance.choice("abc"), 1000 + 2 * i, chance.randint(first, last)) for i in range(4)]
        return sides[0], sides[1], quiet


scenarios = st.builds(
    Scenario,
    st.integers(0, 2**20),
    st.booleans(),
    st.tuples(*[st.sampled_from(HOW)] * 3),
    st.booleans(),
    st.sampled_from(sorted(WINDOWS)),
    st.sampled_from([(-15, 30), (0, 0), (-60, -5), (3, 50)]),
    st.sampled_from([0, 35]),
    st.tuples(st.integers(1, 3), st.integers(1, 2)),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.sampled_from(["heap", "heap", "rocksdb"]),
    st.booleans(),
)


def pair(left: Record | None, right: Record | None) -> tuple[int | None, int | None]:
    return left and left.number, right and right.number


def group(left_elements: list[Record], right_elements: list[Record]) -> Iterator[tuple[Record, ...]]:
    yield (*sorted(left_elements), *sorted(right_elements))


async def initial(key: str) -> list[str]:
    return [key.upper()] if key != "b" else []


def timed(slack_ms: int) -> ps.WatermarkStrategy[Any]:
    return ps.WatermarkStrategy.for_bounded_out_of_orderness(slack_ms).with_timestamp_assigner("at")


def build(env: Any, scenario: Scenario, left_sources: tuple[Any, Any], right_source: Any) -> None:
    slack = 0 if scenario.late else JITTER_MS
    busy = env.from_source(left_sources[0], timed(slack), name="left").uid("left")
    idle = env.from_source(left_sources[1], timed(slack).with_idleness("5ms"), name="quiet").uid("quiet")
    left = busy.union(idle)
    right = env.from_source(right_source, timed(JITTER_MS), name="right").uid("right")
    names = env.from_collection([Record(key, 7, 0) for key in "ab"], Record).uid("names")
    joined = left.join(right, how=scenario.how[0]).where("key").equal_to("key")
    window = "tumbling" if scenario.late else scenario.window
    grouped = right.co_group(left).where("key").equal_to(lambda record: record.key)
    near = left.key_by("key").interval_join(right.key_by("key"), how=scenario.how[1]).between(*scenario.bounds)
    near = near.side_output_left_late_data(LATE["left"]).side_output_right_late_data(LATE["right"])
    one_of_two = "left" if scenario.keeps_left else "inner"
    streams = {
        "join": joined.window(WINDOWS[window]()).side_output_late_data(LATE["join"]).apply(pair),
        "co_group": grouped.window(ps.TumblingEventTimeWindows(GROUP_MS)).allowed_lateness(scenario.lateness)
        .side_output_late_data(LATE["co_group"]).apply(group),
        "interval": near.apply(pair),
        "regular": left.key_by("key").regular_join(right.key_by("key"), pair, how=scenario.how[2], ttl="1h"),
        "temporal": left.key_by("key").temporal_join(
            right.key_by("key"), pair, how=one_of_two, late=LATE["temporal"]
        ),
        "lookup": left.lookup_join(initial, "key", how=one_of_two),
        "broadcast": left.broadcast_join(names, "key", "key", pair, how="left"),
    }  # fmt: skip
    for name, stream in streams.items():
        stream.uid(name).sink_to(ListSink(name), name=f"{name} results")
        for tag in LATE:
            if tag == name or (name == "interval" and tag in ("left", "right")):
                stream.get_side_output(LATE[tag]).sink_to(ListSink(f"late {tag}"), name=f"late {tag}")


# what they must give ------------------------------------------------------------------------------------------------


class Expected:
    """What each join must give of what was not late for it."""

    def __init__(self, scenario: Scenario, results: Callable[[str], list[Any]], unnamed: set[int]) -> None:
        """unnamed: the left records that came before their name was broadcast."""
        self.scenario, self.unnamed = scenario, unnamed
        busy, self.right, quiet = scenario.made()
        self.left = busy + quiet
        self.late = {name: Counter(results(f"late {name}")) for name in LATE}
        assert scenario.late or not any(self.late.values())
        everything = Counter(self.left + self.right)
        assert all(late <= everything for late in self.late.values())

    def in_time(self, *late: str) -> tuple[list[Record], list[Record]]:
        of = Counter[Record]()
        for name in late:
            of += self.late[name]
        return [each for each in self.left if not of[each]], [each for each in self.right if not of[each]]

    def pairs(self, how: str, sides: tuple[list[Record], list[Record]], meet: Any) -> Counter[Any]:
        found = [(one, other) for one, other in itertools.product(*sides) if one.key == other.key and meet(one, other)]
        pairs = Counter(pair(one, other) for one, other in found)
        if how in ("left", "full"):
            pairs.update(pair(one, None) for one in set(sides[0]) - {one for one, _ in found})
        if how in ("right", "full"):
            pairs.update(pair(None, other) for other in set(sides[1]) - {other for _, other in found})
        return pairs

    def join(self) -> Counter[Any]:
        """Window by window: in sliding windows pairs meet again, and records are alone in some of them."""
        sides = self.in_time("join")
        found: Counter[Any] = Counter()
        for lefts, rights in self.windows(sides).values():
            found += self.pairs(self.scenario.how[0], (lefts, rights), lambda one, other: True)
        return found

    def windows(self, sides: tuple[list[Record], list[Record]]) -> dict[Any, tuple[list[Record], list[Record]]]:
        kind = "tumbling" if self.scenario.late else self.scenario.window
        found: dict[Any, tuple[list[Record], list[Record]]] = defaultdict(lambda: ([], []))
        sessions: dict[str, tuple[int, int]] = {}
        """Key -> number and last time of its session."""
        for each in sorted([*sides[0], *sides[1]], key=lambda record: record.at):
            number, last = sessions.get(each.key, (0, each.at))
            sessions[each.key] = session = (number + (each.at - last > 9), each.at)
            starts = {
                "tumbling": [each.at // 40],
                "sliding": range((each.at - 60) // 25 + 1, each.at // 25 + 1),
                "sessions": [session[0]],
            }[kind]
            for start in starts:
                found[each.key, start][each.number % 2].append(each)
        return found

    def co_group(self) -> Counter[Any]:
        """The largest of each window: with lateness it is given out again, with what has come since."""
        groups: dict[Any, tuple[list[Record], list[Record]]] = defaultdict(lambda: ([], []))
        lefts, rights = self.in_time("co_group")
        for each in (*lefts, *rights):
            groups[each.key, each.at // GROUP_MS][each.number % 2].append(each)
        return Counter((*sorted(rights), *sorted(lefts)) for lefts, rights in groups.values())

    def interval(self) -> Counter[Any]:
        lower, upper = self.scenario.bounds
        sides = self.in_time("left", "right")
        return self.pairs(self.scenario.how[1], sides, lambda one, other: lower <= other.at - one.at <= upper)

    def regular(self) -> Counter[Any]:
        return self.pairs(self.scenario.how[2], (self.left, self.right), lambda one, other: True)

    def temporal(self) -> Counter[Any]:
        found: Counter[Any] = Counter()
        for one in self.in_time("temporal")[0]:
            versions = [each for each in self.right if each.key == one.key and each.at <= one.at]
            found[pair(one, max(versions, key=lambda each: each.at, default=None))] += 1
        return +Counter({each: n for each, n in found.items() if self.scenario.keeps_left or each[1] is not None})

    def lookup(self) -> Counter[Any]:
        found = Counter((one, one.key.upper() if one.key != "b" else None) for one in self.left)
        return Counter({each: n for each, n in found.items() if self.scenario.keeps_left or each[1] is not None})

    def broadcast(self) -> Counter[Any]:
        named = {one.number for one in self.left if one.key != "c"} - self.unnamed
        return Counter((one.number, 7 if one.number in named else None) for one in self.left)


def normal(name: str, rows: list[Any]) -> Counter[Any]:
    if name == "regular":
        table: Counter[Any] = Counter()
        for row in rows:  # of an inner join there are only insertions, which come as they are
            kind, record = row if isinstance(row, ps.Change) else (ps.RowKind.INSERT, row)
            table[record] += 1 if kind.adds else -1
        assert min(table.values(), default=0) >= 0
        return +table
    if name == "co_group":
        largest: dict[Any, tuple[Record, ...]] = {}
        for row in sorted(rows, key=len):
            before = largest.get(window := (row[0].key, row[0].at // GROUP_MS), ())
            assert set(before) < set(row), "a window goes on with what it had"
            largest[window] = row
        return Counter(largest.values())
    return Counter(rows)


numbers = itertools.count()
NOT_SHRUNK = (Phase.explicit, Phase.reuse, Phase.generate)
SLOW = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@given(scenarios)
@settings(max_examples=4, deadline=None, phases=NOT_SHRUNK, suppress_health_check=SLOW)
def test_any_join(
    new_env: Any, drive: Any, held_source: Any, quiet_source: Any, results: Any, tmp_path: Path, scenario: Scenario
) -> None:
    ListSink.clear()
    gate, quiet_gate = (tmp_path / f"{name} {next(numbers)}" for name in ("gate", "quiet"))
    left, right, quiet = scenario.made()

    def started(parallelism: int, restore: str | None = None) -> Any:
        env = new_env(parallelism, restore).set_state_backend(scenario.backend)
        lefts = (
            held_source(left, gate, HELD_AFTER, splits=scenario.splits[0], batch_rows=4, record_type=Record),
            quiet_source(quiet, quiet_gate, int(scenario.late), batch_rows=1, record_type=Record),
        )
        build(env, scenario, lefts, held_source(right, gate, HELD_AFTER, splits=scenario.splits[1], record_type=Record))
        return drive(env)

    before, after = scenario.parallelism
    job = started(before).until(lambda status: drained(status, "collection")).checkpoints(1)
    path = job.stop()
    unnamed = {number for number, name in results("broadcast") if name is None}
    job = started(after, path).until(lambda _: results("co_group"))
    if scenario.killed:
        job.kill()
    gate.touch()
    quiet_gate.touch()
    job.end()
    expected = Expected(scenario, results, unnamed)
    assert {name: normal(name, results(name)) for name in KINDS} == {name: getattr(expected, name)() for name in KINDS}


def drained(status: Any, name: str) -> bool:
    return any(name in vertex.name and set(vertex.subtask_states) == {"DRAINED"} for vertex in status.vertices)
