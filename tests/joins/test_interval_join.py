"""Interval joins of every kind against all pairs of what was not late: any order, cut into batches at random, restored
in between at another parallelism and on the other backend; what they give out, and when."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.runtime.elements import MAX_WATERMARK, Watermark
from penstock.runtime.functions import OutputTag, RuntimeContext
from penstock.runtime.joins.functions import LEFT, JoinContext, ProcessJoinFunction
from penstock.runtime.joins.interval_join import IntervalJoinOperator
from penstock.runtime.joins.pair_calls import PairCall
from penstock.runtime.keys import KeyByFunction
from penstock.runtime.records.record_types import OPAQUE, record_type_of
from penstock.state.descriptors import ValueStateDescriptor
from penstock.state.errors import KeyTypeError, RecordTypeError, UserCodeError
from penstock.testing.harness import OperatorHarness

if TYPE_CHECKING:
    from conftest import Left, Right, Subtasks

KEYS = ("a", "b", "c")
HOW = ("inner", "left", "right", "full")
BOUNDS = ((-5, 5), (0, 0), (-20, 3), (2, 9), (-9, -2), (0, 30), (-1, 0))
ODD: OutputTag[Any] = OutputTag("odd")


def pair(left: Any, right: Any) -> tuple[Any, Any]:
    return left and left.number, right and right.number


def pairs(left: Any, right: Any) -> Iterator[tuple[Any, Any]]:
    yield pair(left, right)


class Pairs(ProcessJoinFunction):
    def process_element(self, left: Any, right: Any, ctx: JoinContext) -> Iterator[tuple[Any, Any]]:
        assert ctx.left_timestamp() == (left and left.at)
        assert ctx.right_timestamp() == (right and right.at)
        assert ctx.timestamp() >= max(each.at for each in (left, right) if each)
        yield pair(left, right)


CALLS = {
    "join": PairCall(pair),
    "flat join": PairCall(pairs, flat=True),
    "process": PairCall(Pairs(), with_context=True),
}


@dataclass(frozen=True)
class Scenario:
    bounds: tuple[int, int]
    how: str
    call: str
    typed: bool
    arrivals: list[tuple[int, str, int]]
    """Side, key, time."""
    seed: int


class Oracle:
    """All pairs of what was not late, and what has no partner once none can come."""

    def __init__(self, scenario: Scenario) -> None:
        (self.lower, self.upper), self.how = scenario.bounds, scenario.how
        self.watermark = -(2**63)
        self.records: tuple[list[Any], list[Any]] = ([], [])
        self.late: tuple[list[Any], list[Any]] = ([], [])

    def push(self, side: int, records: list[Any]) -> None:
        for record in records:
            (self.late if record.at < self.watermark else self.records)[side].append(record)

    def results(self) -> Counter[str]:
        lefts, rights = self.records
        found = [
            (left, right)
            for left in lefts
            for right in rights
            if left.key == right.key and self.lower <= right.at - left.at <= self.upper
        ]
        results = [(pair(left, right), max(left.at, right.at)) for left, right in found]
        if self.how in ("left", "full"):
            alone = [each for each in lefts if each not in [left for left, _ in found]]
            results += [(pair(each, None), each.at + max(1, self.upper + 1)) for each in alone]
        if self.how in ("right", "full"):
            alone = [each for each in rights if each not in [right for _, right in found]]
            results += [(pair(None, each), each.at + max(1, 1 - self.lower)) for each in alone]
        return Counter(repr(r) for r in results if None not in r[0] or r[1] <= self.watermark)


scenarios = st.builds(
    Scenario,
    st.sampled_from(BOUNDS),
    st.sampled_from(HOW),
    st.sampled_from(sorted(CALLS)),
    st.booleans(),
    st.lists(st.tuples(st.integers(0, 1), st.sampled_from(KEYS), st.integers(-40, 60)), max_size=50),
    st.integers(0, 2**20),
)


def operator_of(scenario: Scenario, kinds: Any) -> IntervalJoinOperator:
    key = KeyByFunction(lambda record: record.key)
    lower, upper = scenario.bounds
    return IntervalJoinOperator(
        (key, KeyByFunction(lambda record: record.key)), CALLS[scenario.call], kinds, OPAQUE, lower_ms=lower,
        upper_ms=upper, how=scenario.how, late_tags=("late left", "late right"),
    )  # fmt: skip


def check(scenario: Scenario, subtasks: type[Subtasks], sides: tuple[type[Left], type[Right]]) -> Counter[str]:
    chance = random.Random(scenario.seed)
    kinds = [record_type_of(side) if scenario.typed else OPAQUE for side in sides]
    play = subtasks(lambda: operator_of(scenario, kinds), kinds, chance)
    oracle = Oracle(scenario)
    arrived = [(side, sides[side](key, number, at)) for number, (side, key, at) in enumerate(scenario.arrivals)]
    while arrived:
        side, count = arrived[0][0], chance.randint(1, 9)
        batch = [record for of, record in arrived[:count] if of == side]
        arrived = [each for each in arrived[:count] if each[0] != side] + arrived[count:]
        before = Counter(play.given)
        play.push(side, batch)
        oracle.push(side, batch)
        assert not_before(play.given - before, oracle.watermark)
        assert play.given == oracle.results()
        if chance.random() < 0.4:
            advance(play, oracle, max(oracle.watermark, batch[0].at - chance.randint(-5, 20)))
        if chance.random() < 0.2:
            play.restart()
    advance(play, oracle, MAX_WATERMARK)
    assert [Counter(late) for late in play.late.values()] == [Counter(late) for late in oracle.late]
    assert play.left() == (0, 0)
    play.close()
    assert play.counted_late == sum(map(len, oracle.late))
    return play.given


def advance(play: Subtasks, oracle: Oracle, watermark: int) -> None:
    before, passed = Counter(play.given), oracle.watermark
    oracle.watermark = watermark
    play.watermark(watermark)
    assert not_before(play.given - before, passed + 1)
    assert play.given == oracle.results()


def not_before(results: Counter[str], time: int) -> bool:
    """Nothing is late for whoever comes next."""
    return all(int(result.rsplit(",", 1)[1].rstrip(")")) >= time for result in results)


@given(scenarios)
@settings(max_examples=60, deadline=None)
def test_any_interval_join(subtasks: type[Subtasks], sides: tuple[type[Left], type[Right]], scenario: Scenario) -> None:
    check(scenario, subtasks, sides)


@pytest.mark.parametrize("how", HOW)
def test_everything_is_tried(how: str, subtasks: type[Subtasks], sides: tuple[type[Left], type[Right]]) -> None:
    chance = random.Random(5)
    results: Counter[str] = Counter()
    for bounds in BOUNDS:
        arrivals = [(chance.randint(0, 1), chance.choice(KEYS), chance.randint(-40, 60)) for _ in range(60)]
        results += check(Scenario(bounds, how, "process", True, arrivals, chance.randint(0, 99)), subtasks, sides)
    assert any("None" not in result for result in results)
    assert any(result.startswith("((None") for result in results) == (how in ("right", "full"))
    assert any(", None)" in result for result in results) == (how in ("left", "full"))


# one by one -------------------------------------------------------------------------------------------------------


def joined(call: PairCall, how: str = "inner", bounds: tuple[int, int] = (-5, 5), **options: Any) -> OperatorHarness:
    key = KeyByFunction(lambda record: record.key)
    return OperatorHarness(
        IntervalJoinOperator(
            (key, KeyByFunction(lambda record: record.key)), call, (OPAQUE, OPAQUE), OPAQUE, lower_ms=bounds[0],
            upper_ms=bounds[1], how=how, **options,
        )
    )  # fmt: skip


AT_END = {
    "inner": [((1, 11), 4)],
    "left": [((1, 11), 4), ((2, None), 21)],
    "right": [((1, 11), 4), ((None, 12), 36)],
    "full": [((1, 11), 4), ((2, None), 21), ((None, 12), 36)],
}


@pytest.mark.parametrize("how", HOW)
def test_no_more_input(how: str, sides: tuple[type[Left], type[Right]]) -> None:
    """What has no partner by then is given out, where it is wanted; nothing is left."""
    left, right = sides
    with joined(CALLS["join"], how) as harness:
        harness.push([left("a", 1, 3), left("a", 2, 15)], [3, 15], 0)
        harness.push([right("a", 11, 4), right("b", 12, 30)], [4, 30], 1)
        assert harness.timed_output == AT_END["inner"]
        harness.watermark(20)
        assert len(harness.output) == 1  # a right one at 20 would not be late, and near enough
        harness.watermark(21)
        assert ((2, None), 21) in harness.timed_output or how in ("inner", "right")
        harness.watermark(MAX_WATERMARK)
        harness.end_input()
        assert harness.timed_output == AT_END[how]
        harness.snapshot()
        statistics = harness.operator.state_statistics()
        assert statistics is not None
        assert (statistics.entries, statistics.timers) == (0, 0)


def test_state_goes_while_time_goes_on(sides: tuple[type[Left], type[Right]]) -> None:
    left, _right = sides
    with joined(CALLS["join"]) as harness:
        for at in range(0, 10_000, 10):
            harness.push([left("a", at, at)], [at], 0)
            harness.watermark(at)
        harness.watermark(10_000)
        harness.snapshot()
        statistics = harness.operator.state_statistics()
        assert statistics is not None
        assert (statistics.entries, statistics.timers) == (0, 0)


def test_a_barrier_amid_a_firing_loses_nobody(sides: tuple[type[Left], type[Right]]) -> None:
    """An unaligned one: after a restore records of the same keys may come before the watermark comes again."""
    left, _right = sides
    keys = [str(number) for number in range(100)]
    with joined(CALLS["join"], "left") as harness:
        harness.push([left(key, 1, 1) for key in keys], [1] * len(keys), LEFT)
        next(harness.operator.process_watermark(Watermark(50)))
        snapshot = harness.snapshot()
        given = harness.output
    assert 0 < len(given) < len(keys)
    key = KeyByFunction(lambda record: record.key)
    make = IntervalJoinOperator(
        (key, key), CALLS["join"], (OPAQUE, OPAQUE), OPAQUE, lower_ms=-5, upper_ms=5, how="left"
    )
    with OperatorHarness(make, restored=[snapshot]) as harness:
        harness.push([left(key, 2, 60) for key in keys], [60] * len(keys), LEFT)
        harness.watermark(MAX_WATERMARK)
        assert Counter(given + harness.output) == {(1, None): len(keys), (2, None): len(keys)}
        statistics = harness.operator.state_statistics()
        assert statistics is not None
        assert statistics.timers == 0


class OddApart(ProcessJoinFunction):
    """Has state of its key, and a side output."""

    def open(self, runtime_context: RuntimeContext) -> None:
        self.seen = runtime_context.get_state(ValueStateDescriptor("seen", int, 0))

    def process_element(self, left: Any, right: Any, ctx: JoinContext) -> Iterator[Any]:
        self.seen.update(self.seen.value() + 1)
        if left.number % 2:
            ctx.output(ODD, (left.number, self.seen.value()))
        else:
            yield left.number, self.seen.value(), ctx.timestamp(), ctx.current_watermark()


def test_a_function_has_state_and_side_outputs(sides: tuple[type[Left], type[Right]]) -> None:
    left, right = sides
    with joined(PairCall(OddApart(), with_context=True), side_tags=frozenset({"odd"})) as harness:
        harness.watermark(1)
        harness.push([right("a", 1, 10), right("b", 2, 10)], [10, 10], 1)
        harness.push([left("a", 2, 9), left("a", 3, 12), left("b", 4, 12)], [9, 12, 12], LEFT)
        assert harness.output == [(2, 1, 10, 1), (4, 1, 12, 1)]
        assert harness.timed_side_output(ODD) == [((3, 2), 12)]


def test_errors_name_the_operator_and_the_record(sides: tuple[type[Left], type[Right]]) -> None:
    left, right = sides
    with joined(PairCall(lambda one, other: one.number / other.number)) as harness:
        harness.push([right("a", 0, 1)], [1], 1)
        message = r"operator 'operator', subtask 0: ZeroDivisionError: .*on the record Left\(key='a'.*of the left side"
        with pytest.raises(UserCodeError, match=message):
            harness.push([left("a", 1, 1)], [1], 0)
    with joined(CALLS["join"]) as harness:
        with pytest.raises(RecordTypeError, match=r"'operator'.* record Right\(key='a'.* of the right side has none"):
            harness.push([right("a", 1, 1)], None, 1)
        with pytest.raises(RecordTypeError, match=r"a record of the left side is at the end of all time"):
            harness.push([left("a", 1, 1)], [2**63 - 1], 0)
        harness.push([right("a", 1, 1)], [1], 1)
        with pytest.raises(KeyTypeError, match=r"the keys of its two inputs are of different types, 1 and 'a'"):
            harness.push([left(1, 1, 1)], [1], 0)  # type: ignore[arg-type]
