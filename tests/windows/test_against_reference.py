"""Every kind of window with every trigger and evictor it goes with, against windows as Flink's documentation explains
them: one record at a time, everything in dicts. Any order, lateness and cuts into batches; restored in between, at
another parallelism. Triggers are the real ones; what they do is pinned down by test_triggers.py."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.runtime.functions import AggregateFunction
from penstock.runtime.keys import KeyByFunction
from penstock.runtime.records.record_types import OPAQUE
from penstock.runtime.windows.assigners import (
    CalendarEventTimeWindows,
    EventTimeSessionWindows,
    GlobalWindows,
    MergingWindowAssigner,
    ProcessingTimeSessionWindows,
    SlidingEventTimeWindows,
    SlidingProcessingTimeWindows,
    TumblingEventTimeWindows,
    TumblingProcessingTimeWindows,
    WindowAssigner,
)
from penstock.runtime.windows.building import window_operator
from penstock.runtime.windows.evaluations import Aggregate, Evaluation, Process, Reduce
from penstock.runtime.windows.evictors import CountEvictor, DeltaEvictor, Evictor, TimeEvictor
from penstock.runtime.windows.trigger import Trigger
from penstock.runtime.windows.triggers import (
    ContinuousEventTimeTrigger,
    ContinuousProcessingTimeTrigger,
    CountTrigger,
    DeltaTrigger,
    EarlyAndLateTrigger,
    EventTimeTrigger,
    NeverTrigger,
    ProcessingTimeoutTrigger,
    ProcessingTimeTrigger,
    PurgingTrigger,
)
from penstock.runtime.windows.window_operator import WindowOperator
from penstock.runtime.windows.windows import TimeWindow
from penstock.testing.clock import ManualClock
from penstock.testing.harness import BackendKind, rescaled, subtask_for
from penstock.testing.window_reference import WindowReference

KEYS = "abc"
AFTER_THE_END = 100
"""So long the clock goes on behind the last watermark, ms: longer than any window of the clock."""


class Click(NamedTuple):
    key: str
    value: int


class Sum(AggregateFunction):
    def create_accumulator(self) -> list[int]:
        return []

    def add(self, value: Click, accumulator: list[int]) -> list[int]:
        accumulator.append(value.value)
        return accumulator

    def merge(self, acc_a: list[int], acc_b: list[int]) -> list[int]:
        acc_a += acc_b
        return acc_a

    def get_result(self, accumulator: list[int]) -> list[int]:
        return sorted(accumulator)


def shown(key: str, context: Any, elements: Iterable[Any]) -> Iterable[Any]:
    yield key, str(context.window()), sorted(elements)


def added(one: Click, other: Click) -> Click:
    return Click(one.key, one.value + other.value)


EVALUATIONS: dict[str, Callable[[], Evaluation]] = {
    "reduce": lambda: Reduce(added, shown),
    "aggregate": lambda: Aggregate(Sum(), shown),
    "process": lambda: Process(shown),
}


def evaluated(kind: str, clicks: list[Click]) -> list[Any]:
    if kind == "process":
        return sorted(clicks)
    if kind == "aggregate":
        return [sorted(click.value for click in clicks)]
    return [Click(clicks[0].key, sum(click.value for click in clicks))]


class Named(WindowAssigner):
    """A user's own: two windows for some elements, of which several share their start."""

    window_type = TimeWindow

    def __str__(self) -> str:
        return "named"

    def assign_windows(self, element: Click, timestamp: int) -> list[TimeWindow]:
        start = timestamp - timestamp % 10
        short = TimeWindow(start, start + 10 + 5 * (element.value % 2))
        return [short, TimeWindow(start, start + 20)] if element.value % 3 else [short]

    def default_trigger(self) -> Trigger:
        return EventTimeTrigger()


class Pairs(MergingWindowAssigner):
    """A user's own: windows that merge when they begin in the same stretch of 20 ms."""

    def __str__(self) -> str:
        return "pairs"

    def assign_windows(self, element: Click, timestamp: int) -> list[TimeWindow]:
        return [TimeWindow(timestamp, timestamp + 7)]

    def merge_windows(self, windows: Any) -> Any:
        stretches: dict[int, list[TimeWindow]] = {}
        for window in sorted(windows):
            stretches.setdefault(window.start // 20, []).append(window)
        return [
            (own, TimeWindow(own[0].start, max(window.end for window in own)))
            for own in stretches.values()
            if len(own) > 1
        ]

    def default_trigger(self) -> Trigger:
        return EventTimeTrigger()


def gap_of(click: Click) -> int:
    return 5 + abs(click.value)


def distance(old: Click, new: Click) -> float:
    return abs(old.value - new.value)


ASSIGNERS: dict[str, WindowAssigner] = {
    "tumbling": TumblingEventTimeWindows(10, 3),
    "sliding": SlidingEventTimeWindows(30, 10, -4),
    "sliding, uneven": SlidingEventTimeWindows(10, 4),
    "sliding, gaps": SlidingEventTimeWindows(5, 12),
    "sessions": EventTimeSessionWindows(8),
    "dynamic sessions": EventTimeSessionWindows.with_dynamic_gap(gap_of),
    "pairs": Pairs(),
    "named": Named(),
    "calendar": CalendarEventTimeWindows("day", "Europe/Berlin"),
    "global": GlobalWindows(),
    "tumbling by the clock": TumblingProcessingTimeWindows(10),
    "sliding by the clock": SlidingProcessingTimeWindows(20, 5),
    "sessions by the clock": ProcessingTimeSessionWindows(6),
}
TRIGGERS: dict[str, Callable[[], Trigger] | None] = {
    "own": None,
    "event": EventTimeTrigger,
    "processing": ProcessingTimeTrigger,
    "count": lambda: CountTrigger(3),
    "purging count": lambda: PurgingTrigger(CountTrigger(3)),
    "purging": lambda: PurgingTrigger(EventTimeTrigger()),
    "continuous": lambda: ContinuousEventTimeTrigger(7),
    "continuous by the clock": lambda: ContinuousProcessingTimeTrigger(7),
    "delta": lambda: DeltaTrigger(4, distance),
    "early": lambda: EarlyAndLateTrigger(CountTrigger(2)),
    "early and late": lambda: EarlyAndLateTrigger(ContinuousProcessingTimeTrigger(5), CountTrigger(2)),
    "timeout": lambda: ProcessingTimeoutTrigger(EventTimeTrigger(), 9, reset_timer_on_new_record=True),
    "timeout of a count": lambda: ProcessingTimeoutTrigger(CountTrigger(3), 9, should_clear_on_timeout=False),
    "timeout, purging": lambda: PurgingTrigger(ProcessingTimeoutTrigger(NeverTrigger(), 9)),
    "never": NeverTrigger,
}
BY_THE_CLOCK = ("continuous by the clock", "early and late", "timeout", "timeout of a count", "timeout, purging")
"""Where windows merge, these leave timers behind, which mean nothing when their time comes, as in Flink."""
EVICTORS: dict[str, Evictor | None] = {
    "none": None,
    "count": CountEvictor(2),
    "count after": CountEvictor(3, do_evict_after=True),
    "time": TimeEvictor(6),
    "delta": DeltaEvictor(5, distance),
}


@dataclass(frozen=True)
class Scenario:
    """What a window operator is, and what happens to it."""

    assigner: str
    trigger: str
    evictor: str
    kind: str
    lateness: int
    clicks: list[tuple[Click, int]]
    seed: int
    backend: BackendKind = "heap"
    restarts: bool = True

    def make_trigger(self) -> Trigger:
        make = TRIGGERS[self.trigger]
        return ASSIGNERS[self.assigner].default_trigger() if make is None else make()

    def is_possible(self) -> bool:
        return not isinstance(ASSIGNERS[self.assigner], MergingWindowAssigner) or self.make_trigger().can_merge()

    def operator(self) -> WindowOperator:
        return window_operator(
            KeyByFunction(lambda click: click.key), ASSIGNERS[self.assigner], EVALUATIONS[self.kind](), OPAQUE,
            trigger=self.make_trigger(), evictor=EVICTORS[self.evictor], allowed_lateness_ms=self.lateness,
            late_tag="late",
        )  # fmt: skip


class Play:
    """A scenario, on the reference and on operators side by side."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.chance = random.Random(scenario.seed)
        self.expected: Counter[str] = Counter()
        self.fired: Counter[str] = Counter()
        self.late: list[Click] = []
        self.clock = ManualClock()
        self.reference = WindowReference(
            ASSIGNERS[scenario.assigner], scenario.make_trigger(), self.on_fire, EVICTORS[scenario.evictor],
            scenario.lateness, now_ms=self.clock.now_ms(),
        )  # fmt: skip
        self.subtasks = self.restored([], 1)

    def restored(self, snapshots: list[Any], parallelism: int) -> list[Any]:
        options: Any = {"backend": self.scenario.backend, "clock": self.clock}
        return rescaled(self.scenario.operator, snapshots, parallelism, **options)

    def on_fire(self, key: Any, window: Any, clicks: list[Any]) -> None:
        if clicks or self.scenario.kind != "reduce":
            result = key, str(window), evaluated(self.scenario.kind, clicks)
            self.expected[repr((result, window.max_timestamp()))] += 1

    def run(self) -> None:
        left = self.scenario.clicks
        while left:
            count = self.chance.randint(1, 9)
            self.push(left[:count])
            if self.chance.random() < 0.5:
                self.watermark(max(self.reference.watermark, left[0][1] - self.chance.randint(0, 20)))
            if self.chance.random() < 0.5:
                self.advance(self.chance.randint(1, 9))
            left = left[count:]
            if self.scenario.restarts and self.chance.random() < 0.3:
                self.restart()
        self.watermark(2**63 - 1)
        self.is_empty = [self.nothing_is_left()]
        self.advance(AFTER_THE_END)
        self.is_empty.append(self.nothing_is_left())
        for harness in self.subtasks:
            harness.close()

    def advance(self, duration_ms: int) -> None:
        self.clock.advance(duration_ms)
        self.reference.advance(self.clock.now_ms(), event_time=False)
        for harness in self.subtasks:
            harness.advance_time(0)

    def nothing_is_left(self) -> bool:
        """No row and no timer in state: if the reference says so as well. RocksDB only estimates how many rows there
        are, so they are taken to the heap."""
        self.hand_in()
        savepoints = [harness.savepoint() for harness in self.subtasks]
        for harness in self.subtasks:
            harness.close()
        self.subtasks = rescaled(self.scenario.operator, savepoints, 1, backend="heap", clock=self.clock)
        statistics = self.subtasks[0].operator.state_statistics()
        assert statistics is not None
        is_empty = not (statistics.entries or statistics.timers)
        assert is_empty == self.reference.is_empty()
        return is_empty

    def push(self, clicks: list[tuple[Click, int]]) -> None:
        self.reference.advance(self.clock.now_ms(), event_time=False)
        for click, timestamp in clicks:
            self.reference.record(click.key, click, timestamp)
        for number, harness in enumerate(self.subtasks):
            mine = [(c, at) for c, at in clicks if subtask_for(c.key, len(self.subtasks)) == number]
            harness.push([c for c, _ in mine], [at for _, at in mine])

    def watermark(self, timestamp: int) -> None:
        if timestamp <= self.reference.watermark:  # as in a task
            return
        self.reference.advance(timestamp, event_time=True)
        for harness in self.subtasks:
            harness.watermark(timestamp)

    def restart(self) -> None:
        self.hand_in()
        snapshots = [harness.snapshot() for harness in self.subtasks]
        for harness in self.subtasks:
            harness.close()
        self.subtasks = self.restored(snapshots, self.chance.choice([1, 2, 3]))

    def hand_in(self) -> None:
        for harness in self.subtasks:
            self.fired.update(map(repr, harness.timed_output))
            self.late += harness.side_output("late")
            harness.take()


clicks = st.lists(
    st.tuples(st.builds(Click, st.sampled_from(KEYS), st.integers(-5, 5)), st.integers(-40, 60)), max_size=40
)
scenarios = st.builds(
    Scenario,
    st.sampled_from(sorted(ASSIGNERS)),
    st.sampled_from(sorted(TRIGGERS)),
    st.sampled_from(["none", "none", *sorted(EVICTORS)]),
    st.sampled_from(sorted(EVALUATIONS)),
    st.sampled_from([0, 0, 6, 25]),
    clicks,
    st.integers(0, 2**20),
    restarts=st.booleans(),
).filter(Scenario.is_possible)


def check(scenario: Scenario) -> Play:
    play = Play(scenario)
    play.run()
    assert play.fired == play.expected
    assert Counter(play.late) == Counter(play.reference.late)
    return play


@given(scenarios)
@settings(max_examples=120, deadline=None)
def test_any_window(scenario: Scenario) -> None:
    check(scenario)


ON_ROCKSDB = [
    ("sliding", "own", "none", "aggregate"),
    ("sessions", "own", "none", "process"),
    ("sessions", "early and late", "count", "reduce"),
    ("pairs", "own", "none", "aggregate"),
    ("named", "purging count", "none", "process"),
]


@pytest.mark.parametrize(("assigner", "trigger", "evictor", "kind"), ON_ROCKSDB)
def test_on_rocksdb(assigner: str, trigger: str, evictor: str, kind: str) -> None:
    chance = random.Random(7)
    clicks = [(Click(chance.choice(KEYS), chance.randint(-5, 5)), chance.randint(-40, 60)) for _ in range(60)]
    check(Scenario(assigner, trigger, evictor, kind, 6, clicks, 11, "rocksdb"))


def test_everything_is_tried_with_everything_it_goes_with() -> None:
    chance = random.Random(3)
    fired: Counter[str] = Counter()
    for assigner in ASSIGNERS:
        for trigger in TRIGGERS:
            clicks = [(Click(chance.choice(KEYS), chance.randint(-5, 5)), chance.randint(-40, 60)) for _ in range(16)]
            scenario = Scenario(assigner, trigger, "none", "process", 6, clicks, chance.randint(0, 99), restarts=False)
            if scenario.is_possible():
                play = check(scenario)
                fired[assigner] += play.fired.total()
                fired[trigger] += play.fired.total()
                at_the_end, later = play.is_empty
                windows = ASSIGNERS[assigner]
                merging_by_the_clock = isinstance(windows, MergingWindowAssigner) and trigger in BY_THE_CLOCK
                assert at_the_end or not windows.is_event_time or merging_by_the_clock
                assert later or assigner == "global"
    assert [name for name in (*ASSIGNERS, *TRIGGERS) if not fired[name]] == ["never"]
