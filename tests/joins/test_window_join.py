"""Windowed joins and co_group with every kind of window, trigger and evictor against windows as Flink's documentation
explains them (penstock.testing.window_reference): any order, lateness and cuts into batches, restored in between at
another parallelism and on the other backend."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.runtime.elements import MAX_WATERMARK
from penstock.runtime.functions import RuntimeContext
from penstock.runtime.joins.functions import CoGroupFunction, PairsOf
from penstock.runtime.joins.window_join import window_join_operator
from penstock.runtime.keys import KeyByFunction
from penstock.runtime.operators.operator import Operator
from penstock.runtime.records.record_types import OPAQUE, record_type_of
from penstock.runtime.windows.assigners import (
    EventTimeSessionWindows,
    GlobalWindows,
    ProcessingTimeSessionWindows,
    SlidingEventTimeWindows,
    TumblingEventTimeWindows,
    TumblingProcessingTimeWindows,
    WindowAssigner,
)
from penstock.runtime.windows.evictors import CountEvictor, Evictor, TimeEvictor
from penstock.runtime.windows.trigger import Trigger
from penstock.runtime.windows.triggers import (
    ContinuousEventTimeTrigger,
    CountTrigger,
    EarlyAndLateTrigger,
    EventTimeTrigger,
    PurgingTrigger,
)
from penstock.runtime.windows.windows import MAX_TIMESTAMP, TimeWindow
from penstock.state.descriptors import ValueStateDescriptor
from penstock.state.errors import KeyTypeError
from penstock.testing.harness import OperatorHarness
from penstock.testing.window_reference import WindowReference

if TYPE_CHECKING:
    from conftest import Left, Right, Subtasks

KEYS = ("a", "b", "c")


class Halves(WindowAssigner):
    """A user's own: two windows that share their start."""

    window_type = TimeWindow
    is_event_time = True

    def assign_windows(self, element: Any, timestamp: int) -> list[TimeWindow]:
        start = timestamp - timestamp % 20
        return [TimeWindow(start, start + 20)] + [TimeWindow(start, start + 10)] * (timestamp % 20 < 10)

    def default_trigger(self) -> Trigger:
        return EventTimeTrigger()

    def __str__(self) -> str:
        return "halves"


ASSIGNERS: dict[str, WindowAssigner] = {
    "tumbling": TumblingEventTimeWindows(10),
    "sliding": SlidingEventTimeWindows(20, 8),
    "sessions": EventTimeSessionWindows(7),
    "global": GlobalWindows(),
    "a user's": Halves(),
    "by the clock": TumblingProcessingTimeWindows(10),
    "sessions by the clock": ProcessingTimeSessionWindows(7),
}
TRIGGERS: dict[str, Any] = {
    "own": lambda: None,
    "count": lambda: CountTrigger(3),
    "purging count": lambda: PurgingTrigger(CountTrigger(4)),
    "continuous": lambda: ContinuousEventTimeTrigger(6),
    "early and late": lambda: EarlyAndLateTrigger(CountTrigger(2)),
}
EVICTORS: dict[str, Evictor | None] = {
    "none": None,
    "count": CountEvictor(3),
    "time after": TimeEvictor(6, do_evict_after=True),
}
HOW = ("inner", "left", "right", "full", "co_group")


def pair(left: Any, right: Any) -> tuple[Any, Any]:
    return left and left.number, right and right.number


def groups(left_elements: list[Any], right_elements: list[Any]) -> Iterator[Any]:
    yield [each.number for each in left_elements], [each.number for each in right_elements]


def expected(how: str, elements: list[tuple[int, Any]]) -> list[Any]:
    lefts, rights = ([record for of, record in elements if of == side] for side in (0, 1))
    if how == "co_group":
        return list(groups(lefts, rights))
    if lefts and rights:
        return [pair(left, right) for left in lefts for right in rights]
    alone = [pair(left, None) for left in lefts] if how in ("left", "full") else []
    return alone + ([pair(None, right) for right in rights] if how in ("right", "full") else [])


@dataclass(frozen=True)
class Scenario:
    assigner: str
    trigger: str
    evictor: str
    how: str
    typed: bool
    lateness: int
    arrivals: list[tuple[int, str, int]]
    """Side, key, time."""
    seed: int

    def make_trigger(self) -> Trigger:
        return TRIGGERS[self.trigger]() or ASSIGNERS[self.assigner].default_trigger()

    def operator(self, kinds: Any) -> Operator:
        function = groups if self.how == "co_group" else PairsOf(pair, self.how, flat=False)
        key, other_key = KeyByFunction(lambda record: record.key), KeyByFunction(lambda record: record.key)
        return window_join_operator(
            (key, other_key), ASSIGNERS[self.assigner], function, kinds, OPAQUE, trigger=TRIGGERS[self.trigger](),
            evictor=EVICTORS[self.evictor], allowed_lateness_ms=self.lateness, late_tags=("late left", "late right"),
        )  # fmt: skip


def check(scenario: Scenario, subtasks: type[Subtasks], sides: tuple[type[Left], type[Right]]) -> Counter[str]:
    chance = random.Random(scenario.seed)
    kinds = [record_type_of(side) if scenario.typed else OPAQUE for side in sides]
    play = subtasks(lambda: scenario.operator(kinds), kinds, chance)
    wanted: Counter[str] = Counter()

    def on_fire(key: str, window: Any, elements: list[tuple[int, Any]]) -> None:
        wanted.update(repr((result, window.max_timestamp())) for result in expected(scenario.how, elements))

    reference = WindowReference(
        ASSIGNERS[scenario.assigner], scenario.make_trigger(), on_fire, EVICTORS[scenario.evictor], scenario.lateness,
        now_ms=play.clock.now_ms(),
    )  # fmt: skip
    arrived = [(side, sides[side](key, number, at)) for number, (side, key, at) in enumerate(scenario.arrivals)]
    while arrived:
        side = arrived[0][0]
        batch = [record for of, record in arrived[: chance.randint(1, 9)] if of == side]
        arrived = [each for each in arrived if each[1] not in batch]
        for record in batch:
            reference.record(record.key, (side, record), record.at)
        play.push(side, batch)
        if chance.random() < 0.4:
            advance(play, reference, max(reference.watermark, batch[0].at - chance.randint(-5, 20)))
        if chance.random() < 0.3:
            play.advance(duration := chance.randint(1, 9))
            reference.advance(reference.now_ms + duration, event_time=False)
        if chance.random() < 0.2:
            play.restart()
    advance(play, reference, MAX_WATERMARK)
    assert play.given == wanted
    assert [Counter(play.late[tag]) for tag in ("late left", "late right")] == [
        Counter(record for of, record in reference.late if of == side) for side in (0, 1)
    ]
    if reference.event_time and scenario.assigner != "global":
        assert play.left() == (0, 0)
    play.close()
    assert play.counted_late == len(reference.late)
    return play.given


def advance(play: Subtasks, reference: WindowReference, watermark: int) -> None:
    if watermark > reference.watermark:
        reference.advance(watermark, event_time=True)
        play.watermark(watermark)


scenarios = st.builds(
    Scenario,
    st.sampled_from(sorted(ASSIGNERS)),
    st.sampled_from(["own", "own", *sorted(TRIGGERS)]),
    st.sampled_from(["none", "none", *sorted(EVICTORS)]),
    st.sampled_from(HOW),
    st.booleans(),
    st.sampled_from([0, 0, 6, 25]),
    st.lists(st.tuples(st.integers(0, 1), st.sampled_from(KEYS), st.integers(-40, 60)), max_size=40),
    st.integers(0, 2**20),
)


@given(scenarios)
@settings(max_examples=60, deadline=None)
def test_any_window_join(subtasks: type[Subtasks], sides: tuple[type[Left], type[Right]], scenario: Scenario) -> None:
    check(scenario, subtasks, sides)


@pytest.mark.parametrize("assigner", ASSIGNERS)
def test_everything_is_tried_with_everything(
    assigner: str, subtasks: type[Subtasks], sides: tuple[type[Left], type[Right]]
) -> None:
    chance = random.Random(3)
    given_out = tried = 0
    for trigger in TRIGGERS:
        for evictor in EVICTORS:
            arrivals = [(chance.randint(0, 1), chance.choice(KEYS), chance.randint(-40, 60)) for _ in range(25)]
            how = HOW[tried % len(HOW)]
            scenario = Scenario(assigner, trigger, evictor, how, True, 6, arrivals, chance.randint(0, 99))
            given_out += check(scenario, subtasks, sides).total()
            tried += 1
    assert given_out > 30


ENDING = {
    "inner": [(1, 11), (1, 12)],
    "left": [(1, 11), (1, 12), (2, None)],
    "right": [(1, 11), (1, 12), (None, 13)],
    "full": [(1, 11), (1, 12), (2, None), (None, 13)],
    "co_group": [([1], [11, 12]), ([2], []), ([], [13])],
}


def played(harness: OperatorHarness, sides: tuple[type[Left], type[Right]]) -> None:
    left, right = sides
    harness.push([left("a", 1, 3), left("a", 2, 15)], [3, 15], 0)
    harness.push([right("a", 11, 4), right("a", 12, 5), right("b", 13, 6)], [4, 5, 6], 1)
    harness.watermark(MAX_WATERMARK)
    harness.end_input()


@pytest.mark.parametrize("how", HOW)
def test_no_more_input(how: str, sides: tuple[type[Left], type[Right]]) -> None:
    """Windows of event time are given out and leave nothing."""
    scenario = Scenario("tumbling", "own", "none", how, True, 0, [], 0)
    with OperatorHarness(scenario.operator((OPAQUE, OPAQUE))) as harness:
        played(harness, sides)
        assert sorted(harness.output, key=repr) == sorted(ENDING[how], key=repr)
        harness.snapshot()
        statistics = harness.operator.state_statistics()
        assert statistics is not None
        assert (statistics.entries, statistics.timers) == (0, 0)


@pytest.mark.parametrize("assigner", ["global", "by the clock"])
def test_no_more_input_of_windows_that_have_not_ended(assigner: str, sides: tuple[type[Left], type[Right]]) -> None:
    """Global windows, and those of the clock, give out nothing by that, as in Flink: a count that is not full stays."""
    scenario = Scenario(assigner, "own", "none", "full", True, 0, [], 0)
    with OperatorHarness(scenario.operator((OPAQUE, OPAQUE))) as harness:
        played(harness, sides)
        assert harness.output == []
        harness.snapshot()
        statistics = harness.operator.state_statistics()
        assert statistics is not None
        assert statistics.entries > 0, "what they hold"
    counted = Scenario("global", "purging count", "none", "full", True, 0, [], 0)
    with OperatorHarness(counted.operator((OPAQUE, OPAQUE))) as harness:
        played(harness, sides)
        assert harness.timed_output == [((left, right), MAX_TIMESTAMP) for left in (1, 2) for right in (11, 12)]


def test_a_large_product_goes_on_piece_by_piece(sides: tuple[type[Left], type[Right]]) -> None:
    left, right = sides
    with OperatorHarness(
        Scenario("tumbling", "own", "none", "inner", True, 0, [], 0).operator((OPAQUE,) * 2)
    ) as harness:
        harness.push([left("a", i, 1) for i in range(60)], [1] * 60, 0)
        harness.push([right("a", i, 1) for i in range(60)], [1] * 60, 1)
        harness.watermark(MAX_WATERMARK)
        assert [len(batch) for batch in harness.batches] == [1024, 1024, 1024, 528]
        assert harness.output == [(one, other) for one in range(60) for other in range(60)]


class Remembers(CoGroupFunction):
    """Has state of the key over all windows."""

    def open(self, runtime_context: RuntimeContext) -> None:
        self.seen = runtime_context.get_state(ValueStateDescriptor("seen", int, 0))

    def co_group(self, left_elements: Any, right_elements: Any) -> Iterator[int]:
        self.seen.update(self.seen.value() + len(left_elements) + len(right_elements))
        yield self.seen.value()


def test_a_function_has_state_of_its_key(sides: tuple[type[Left], type[Right]]) -> None:
    selectors = (KeyByFunction(lambda record: record.key), KeyByFunction(lambda record: record.key))
    operator = window_join_operator(selectors, TumblingEventTimeWindows(10), Remembers(), (OPAQUE, OPAQUE), OPAQUE)
    with OperatorHarness(operator) as harness:
        played(harness, sides)
        assert harness.output == [3, 1, 4]


@dataclass
class Changing:
    key: str
    values: list[int]


def test_results_do_not_share_what_can_change() -> None:
    operator = window_join_operator(
        (KeyByFunction(lambda each: each.key), KeyByFunction(lambda each: each.key)), TumblingEventTimeWindows(10),
        PairsOf(lambda left, right: left.values, "inner", flat=False), (OPAQUE, OPAQUE), OPAQUE,
    )  # fmt: skip
    with OperatorHarness(operator) as harness:
        harness.push([Changing("a", [1])], [0], 0)
        harness.push([Changing("a", []), Changing("a", [])], [0, 0], 1)
        harness.watermark(MAX_WATERMARK)
        one, other = harness.output
        assert one == other == [1]
        assert one is not other


def test_what_co_group_gives_does_not_change_with_the_window(sides: tuple[type[Left], type[Right]]) -> None:
    """It gives the very list of the window, which goes on."""
    left, right = sides
    key, kinds = KeyByFunction(lambda record: record.key, str), (record_type_of(left), record_type_of(right))
    make = window_join_operator(
        (key, key), TumblingEventTimeWindows(10), lambda lefts, rights: [lefts], kinds, OPAQUE, allowed_lateness_ms=100
    )
    with OperatorHarness(make, record_type=left) as harness:
        harness.push([left("a", 1, 1)], [1], 0)
        harness.watermark(20)
        harness.push([left("a", 2, 2)], [2], 0)
        assert [[each.number for each in lefts] for lefts in harness.output] == [[1], [1, 2]]


def test_keys_of_two_types_never_meet(sides: tuple[type[Left], type[Right]]) -> None:
    left, right = sides
    with OperatorHarness(
        Scenario("tumbling", "own", "none", "inner", True, 0, [], 0).operator((OPAQUE,) * 2)
    ) as harness:
        harness.push([left("1", 1, 1)], [1], 0)
        with pytest.raises(KeyTypeError, match=r"operator 'operator': the keys of its two inputs.*'1' and 1;"):
            harness.push([right(1, 2, 1)], [1], 1)  # type: ignore[arg-type]
