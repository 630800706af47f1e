"""Functions of two inputs and of broadcast state: on both backends, over snapshots and restores."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from penstock.runtime.connected_functions import (
    BroadcastProcessFunction,
    CoFlatMapFunction,
    CoMapFunction,
    CoProcessFunction,
    KeyedBroadcastProcessFunction,
    KeyedCoProcessFunction,
)
from penstock.runtime.functions import OutputTag, TimeDomain
from penstock.runtime.keys import KeyByFunction
from penstock.runtime.operators.broadcast_process import BroadcastProcessOperator, KeyedBroadcastProcessOperator
from penstock.runtime.operators.co_process import (
    CoFlatMapOperator,
    CoMapOperator,
    CoProcessOperator,
    KeyedCoFlatMapOperator,
    KeyedCoMapOperator,
    KeyedCoProcessOperator,
)
from penstock.runtime.records.record_types import OPAQUE
from penstock.state.descriptors import ListStateDescriptor, MapStateDescriptor, ValueStateDescriptor
from penstock.state.errors import KeyTypeError, StateError, UserCodeError
from penstock.state.ttl_config import StateTtlConfig
from penstock.testing.harness import BackendKind, OperatorHarness, rescaled, subtask_for

SIDE = OutputTag("side", str)
BY_FIRST = KeyByFunction(lambda record: record[0])
BY_SECOND = KeyByFunction(lambda record: record[1])
RULES: MapStateDescriptor[str, int] = MapStateDescriptor("rules", str, int)
NAMES: MapStateDescriptor[int, list[str]] = MapStateDescriptor("names", int, list[str])
SEEN: ListStateDescriptor[int] = ListStateDescriptor("seen", int)

backends = pytest.mark.parametrize("backend", ["heap", "rocksdb"])


# ---- without keys


class Labelled(CoMapFunction):
    def map1(self, value: int) -> Any:
        return "first", value

    def map2(self, value: str) -> Any:
        return "second", value


class Spread(CoFlatMapFunction):
    def flat_map1(self, value: int) -> Iterator[Any]:
        yield from range(value)

    def flat_map2(self, value: str) -> Iterator[Any]:
        yield SIDE, value


class Timed(CoProcessFunction):
    def process_element1(self, value: int, ctx: Any) -> Iterator[Any]:
        yield 1, value, ctx.timestamp(), ctx.timer_service().current_watermark()

    def process_element2(self, value: str, ctx: Any) -> list[Any]:
        ctx.output(SIDE, value)
        return [(2, value, ctx.timestamp())]


def test_each_input_has_its_method() -> None:
    with OperatorHarness(CoMapOperator(Labelled(), OPAQUE)) as harness:
        harness.push([1, 2], [10, 20])
        harness.push(["a"], [5], input_index=1)
        harness.push([3], [30])
        assert harness.timed_output == [
            (("first", 1), 10), (("first", 2), 20), (("second", "a"), 5), (("first", 3), 30)
        ]  # fmt: skip


def test_flat_map_of_two_inputs_gives_any_number_and_side_outputs() -> None:
    with OperatorHarness(CoFlatMapOperator(Spread(), OPAQUE, frozenset({"side"}))) as harness:
        harness.push([2, 0, 1], [10, 20, 30])
        harness.push(["a"], [40], input_index=1)
        assert harness.timed_output == [(0, 10), (1, 10), (0, 30)]
        assert harness.timed_side_output(SIDE) == [("a", 40)]


def test_process_of_two_inputs_knows_the_time() -> None:
    with OperatorHarness(CoProcessOperator(Timed(), OPAQUE, frozenset({"side"}))) as harness:
        harness.watermark(7)
        harness.push([1], [10])
        harness.push(["a"], [5], input_index=1)
        assert harness.output == [(1, 1, 10, 7), (2, "a", 5)]
        assert harness.side_output(SIDE) == ["a"]


def test_an_error_names_operator_and_record() -> None:
    class Fails(Labelled):
        def map2(self, value: str) -> Any:
            return int(value)

    harness = OperatorHarness(CoMapOperator(Fails(), OPAQUE))
    with (
        harness,
        pytest.raises(UserCodeError, match=r"operator 'operator', subtask 0: ValueError: .*on the record 'x'"),
    ):
        harness.push(["1", "x"], input_index=1)


# ---- with keys


class Matches(KeyedCoProcessFunction):
    """Orders (key, amount) and payments (amount, key): gives out what is paid, and at a timer what is not."""

    def open(self, runtime_context: Any) -> None:
        self.due = runtime_context.get_state(ValueStateDescriptor("due", int, 0))

    def process_element1(self, value: tuple[str, int], ctx: Any) -> None:
        self.due.update(self.due.value() + value[1])
        ctx.timer_service().register_event_time_timer(100)

    def process_element2(self, value: tuple[int, str], ctx: Any) -> Iterator[Any]:
        assert ctx.get_current_key() == value[1]
        self.due.update(self.due.value() - value[0])
        yield "paid", *value, self.due.value()

    def on_timer(self, timestamp: int, ctx: Any) -> Iterator[Any]:
        assert ctx.time_domain() is TimeDomain.EVENT_TIME
        if self.due.value():
            yield "due", ctx.get_current_key(), self.due.value()


def matches() -> KeyedCoProcessOperator:
    return KeyedCoProcessOperator(Matches(), (BY_FIRST, BY_SECOND), OPAQUE)


@backends
def test_both_inputs_share_the_state_of_a_key(backend: BackendKind) -> None:
    with OperatorHarness(matches(), backend=backend) as harness:
        harness.push([("a", 5), ("b", 7)], [1, 2])
        harness.push([(2, "a"), (7, "b")], [3, 4], input_index=1)
        assert harness.take() == [("paid", 2, "a", 3), ("paid", 7, "b", 0)]
        snapshot = harness.snapshot()
    keys = ("a", "b")
    for subtask, restored in enumerate(rescaled(matches, [snapshot], 3, backend=backend)):
        with restored:
            own = [key for key in keys if subtask_for(key, 3) == subtask]
            restored.push([(key, 1) for key in own], [50] * len(own))
            restored.push([(3, key) for key in own if key == "a"], [60] * own.count("a"), input_index=1)
            assert restored.take() == [("paid", 3, "a", 1)] * own.count("a")
            restored.watermark(100)
            assert restored.output == [("due", key, 1) for key in own]


def test_keys_of_two_types_are_refused() -> None:
    with OperatorHarness(matches()) as harness:
        harness.push([("a", 5)])
        with pytest.raises(KeyTypeError, match="keys of its two inputs are of different types, 'a' and 1;"):
            harness.push([(5, 1)], input_index=1)
    composite = (KeyByFunction(lambda record: record[0]), KeyByFunction(lambda record: record[1]))
    with OperatorHarness(KeyedCoProcessOperator(Matches(), composite, OPAQUE)) as harness:
        harness.push([(("a", None), 5)])
        harness.push([(5, ("a", 1))], input_index=1)
    with OperatorHarness(KeyedCoProcessOperator(Matches(), composite, OPAQUE)) as harness:
        harness.push([(("a", "1"), 5)])
        with pytest.raises(KeyTypeError, match="different types"):
            harness.push([(5, ("a", 1))], input_index=1)


@backends
def test_map_and_flat_map_of_two_keyed_inputs_have_state(backend: BackendKind) -> None:
    class Counted(CoMapFunction, CoFlatMapFunction):
        def open(self, runtime_context: Any) -> None:
            self.count = runtime_context.get_state(ValueStateDescriptor("count", int, 0))

        def map1(self, value: Any) -> Any:
            self.count.update(self.count.value() + 1)
            return value, self.count.value()

        map2 = map1

        def flat_map1(self, value: Any) -> Iterator[Any]:
            yield self.map1(value)

        flat_map2 = flat_map1

    for operator in (KeyedCoMapOperator, KeyedCoFlatMapOperator):
        with OperatorHarness(operator(Counted(), (BY_FIRST, BY_SECOND), OPAQUE), backend=backend) as harness:
            harness.push([("a", 0), ("b", 0), ("a", 0)])
            harness.push([(0, "a"), (0, "c")], input_index=1)
            assert [count for _, count in harness.output] == [1, 1, 2, 3, 1]


# ---- broadcast state


class Above(BroadcastProcessFunction):
    """Values above every limit."""

    def process_element(self, value: int, ctx: Any) -> Iterator[Any]:
        rules = ctx.get_broadcast_state(RULES)
        assert not hasattr(rules, "put")
        if all(value > limit for limit in rules.values()):
            yield value, ctx.timestamp(), ctx.current_watermark(), len(list(rules.keys()))

    def process_broadcast_element(self, value: tuple[str, int], ctx: Any) -> Iterator[Any]:
        ctx.get_broadcast_state(RULES).put(*value)
        ctx.get_broadcast_state(NAMES).put(value[1], [value[0]])
        ctx.output(SIDE, f"{value[0]} at {ctx.timestamp()}, {ctx.current_processing_time()}")
        yield "rule", value[0]


def above() -> BroadcastProcessOperator:
    return BroadcastProcessOperator(Above(), (RULES, NAMES), OPAQUE, frozenset({"side"}))


def test_the_main_side_reads_what_the_broadcast_side_has_put() -> None:
    with OperatorHarness(above()) as harness:
        harness.advance_time(50)
        harness.watermark(3)
        harness.push([5], [10])
        harness.push([("low", 3), ("high", 7)], [11, 12], input_index=1)
        harness.push([5, 8], [13, 14])
        assert harness.output == [(5, 10, 3, 0), ("rule", "low"), ("rule", "high"), (8, 14, 3, 2)]
        assert harness.side_output(SIDE) == ["low at 11, 50", "high at 12, 50"]
        snapshot = harness.snapshot()
    for restored in rescaled(above, [snapshot], 3):
        with restored:
            restored.push([5, 9], [1, 2])
            assert [row[0] for row in restored.output] == [9]


def test_copies_of_a_rescaled_broadcast_state_are_whole() -> None:
    harnesses = [OperatorHarness(above(), subtask=subtask, parallelism=3).open() for subtask in range(3)]
    for harness in harnesses:
        harness.push([("a", 1), ("b", 2)], input_index=1)
    snapshots = [harness.snapshot() for harness in harnesses]
    for parallelism in (1, 2, 3, 7):
        for restored in rescaled(above, snapshots, parallelism):
            with restored:
                restored.push([3])
                assert [row[3] for row in restored.output] == [2]
    for harness in harnesses:
        harness.close()


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (NAMES, r"there is no broadcast state for .*'rules'.* has 'names'"),
        (MapStateDescriptor("rules", str, str), "use the same one here"),
    ],
)
def test_other_states_than_those_of_broadcast_are_refused(state: Any, message: str) -> None:
    harness = OperatorHarness(BroadcastProcessOperator(Above(), (state,), OPAQUE))
    with harness, pytest.raises(UserCodeError, match=message):
        harness.push([1])


class PerKey(KeyedBroadcastProcessFunction):
    """Remembers values per key, and gives at a timer those above the rule; a rule tells what keys have seen."""

    def open(self, runtime_context: Any) -> None:
        self.seen = runtime_context.get_list_state(SEEN)
        self.other = runtime_context.get_state(ValueStateDescriptor("other", int))

    def process_element(self, value: tuple[str, int], ctx: Any) -> Iterator[Any]:
        self.seen.add(value[1])
        ctx.timer_service().register_event_time_timer(100)
        yield ctx.get_current_key(), ctx.get_broadcast_state(RULES).get("limit")

    def process_broadcast_element(self, value: tuple[str, int], ctx: Any) -> Iterator[Any]:
        ctx.get_broadcast_state(RULES).put(*value)
        found: list[Any] = []
        ctx.apply_to_keyed_state(SEEN, lambda key, state: found.append((key, list(state.get()))))
        yield "seen", sorted(found)
        if value[0] == "forget":
            ctx.apply_to_keyed_state(SEEN, lambda key, state: state.clear() if len(state.get()) < value[1] else None)
        elif value[0] == "misuse":
            self.seen.get()

    def on_timer(self, timestamp: int, ctx: Any) -> Iterator[Any]:
        limit = ctx.get_broadcast_state(RULES).get("limit") or 0
        yield ctx.get_current_key(), [value for value in self.seen.get() if value > limit]


def per_key() -> KeyedBroadcastProcessOperator:
    return KeyedBroadcastProcessOperator(PerKey(), BY_FIRST, (RULES,), OPAQUE)


@backends
def test_keyed_state_timers_and_broadcast_state(backend: BackendKind) -> None:
    with OperatorHarness(per_key(), backend=backend) as harness:
        harness.push([("a", 1), ("b", 2), ("a", 3)], [1, 2, 3])
        harness.push([("limit", 1)], input_index=1)
        assert harness.take() == [("a", None), ("b", None), ("a", None), ("seen", [("a", [1, 3]), ("b", [2])])]
        harness.push([("c", 1)], [4])
        snapshot = harness.snapshot()
        harness.push([("forget", 2)], input_index=1)
        assert harness.take() == [("c", 1), ("seen", [("a", [1, 3]), ("b", [2]), ("c", [1])])]
        harness.watermark(100)
        assert harness.take() == [("a", [3]), ("b", []), ("c", [])]
        harness.push([("limit", 1)], input_index=1)
        assert harness.take() == [("seen", [("a", [1, 3])])], "what is empty is not visited"
    found: list[Any] = []
    for restored in rescaled(per_key, [snapshot], 3, backend=backend):
        with restored:
            restored.watermark(100)
            found += restored.output
    assert sorted(found) == [("a", [3]), ("b", [2]), ("c", [])]


@backends
def test_what_has_expired_is_visited_as_empty_or_not_at_all(backend: BackendKind) -> None:
    expiring = ValueStateDescriptor("last", int, ttl=StateTtlConfig("1min"))

    class Last(KeyedBroadcastProcessFunction):
        def open(self, runtime_context: Any) -> None:
            self.last = runtime_context.get_state(expiring)

        def process_element(self, value: tuple[str, int], ctx: Any) -> None:
            self.last.update(value[1])

        def process_broadcast_element(self, value: Any, ctx: Any) -> list[Any]:
            found: list[Any] = []
            ctx.apply_to_keyed_state(expiring, lambda key, state: found.append((key, state.value())))
            return [sorted(each for each in found if each[1] is not None)]

    operator = KeyedBroadcastProcessOperator(Last(), BY_FIRST, (RULES,), OPAQUE)
    with OperatorHarness(operator, backend=backend) as harness:
        harness.push([("a", 1), ("b", 2)])
        harness.advance_time(40_000)
        harness.push([("b", 3), ("c", 4)])
        harness.push(["now"], input_index=1)
        harness.advance_time(40_000)
        harness.push(["later"], input_index=1)
        assert harness.output == [[("a", 1), ("b", 3), ("c", 4)], [("b", 3), ("c", 4)]]


@backends
def test_the_broadcast_side_has_no_key(backend: BackendKind) -> None:
    with OperatorHarness(per_key(), backend=backend) as harness:
        harness.push([("a", 1)])
        with pytest.raises(UserCodeError, match=r"without a current key.*on the broadcast record"):
            harness.push([("misuse", 1)], input_index=1)


def test_all_keys_are_visited_only_of_state_that_open_has_got() -> None:
    class Careless(PerKey):
        def process_broadcast_element(self, value: Any, ctx: Any) -> None:
            ctx.apply_to_keyed_state(ListStateDescriptor("forgotten", int), lambda key, state: None)

    operator = KeyedBroadcastProcessOperator(Careless(), BY_FIRST, (RULES,), OPAQUE)
    with OperatorHarness(operator) as harness:
        with pytest.raises(
            UserCodeError, match=r"has no state for .*'forgotten'.*; get it in open\(\) first"
        ) as caught:
            harness.push([("limit", 1)], input_index=1)
        assert isinstance(caught.value.__cause__, StateError)


@backends
def test_all_keys_are_visited_while_a_snapshot_is_under_way(backend: BackendKind) -> None:
    """The visit writes out what the snapshot has frozen, and the snapshot is still that of its barrier."""
    with OperatorHarness(per_key(), backend=backend) as harness:
        harness.push([(f"k{i}", i) for i in range(50)])
        under_way = harness.begin_snapshot()
        harness.push([("k0", 100)])
        harness.take()
        harness.push([("forget", 2)], input_index=1)
        ((_, seen),) = harness.take()
        assert seen == sorted((f"k{i}", [i, 100] if i == 0 else [i]) for i in range(50))
        snapshot = harness.finish(under_way)
    with OperatorHarness(per_key(), backend=backend, restored=[snapshot]) as harness:
        harness.push([("limit", 1)], input_index=1)
        assert harness.output == [("seen", sorted((f"k{i}", [i]) for i in range(50)))]


def test_what_is_handed_on_is_no_part_of_the_state() -> None:
    class Names(BroadcastProcessFunction):
        def process_element(self, value: int, ctx: Any) -> Iterator[Any]:
            yield ctx.get_broadcast_state(NAMES).get(value)

        def process_broadcast_element(self, value: tuple[int, list[str]], ctx: Any) -> None:
            ctx.get_broadcast_state(NAMES).put(*value)

    with OperatorHarness(BroadcastProcessOperator(Names(), (NAMES,), OPAQUE)) as harness:
        harness.push([(1, ["a"])], input_index=1)
        harness.push([1])
        harness.output[0].append("b")
        harness.push([1])
        assert harness.output[1] == ["a"]
