"""connect and broadcast as they are written down: types, plans, and what is refused before anything runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

import penstock as ps
from penstock.state.errors import PipelineError


@dataclass
class Order:
    user: str
    cents: int


@dataclass
class Payment:
    cents: int
    payer: str


RULES: ps.MapStateDescriptor[str, int] = ps.MapStateDescriptor("rules", str, int)
LATE: ps.OutputTag[int] = ps.OutputTag("late", int)


class Merged(ps.CoMapFunction):
    def map1(self, value: Order) -> Payment:
        return Payment(value.cents, value.user)

    def map2(self, value: Payment) -> Payment:
        return value


class Matched(ps.KeyedCoProcessFunction):
    def process_element1(self, value: Order, ctx: ps.KeyedCoProcessFunction.Context) -> None:
        ctx.timer_service().register_event_time_timer(10)

    def process_element2(
        self, value: Payment, ctx: ps.KeyedCoProcessFunction.Context
    ) -> Iterator[Order | tuple[ps.OutputTag[int], int]]:
        yield Order(value.payer, value.cents)
        yield LATE, 1

    def on_timer(self, timestamp: int, ctx: ps.KeyedCoProcessFunction.OnTimerContext) -> Iterator[Order]:
        yield Order(ctx.get_current_key(), 0)


class Both(ps.CoProcessFunction, ps.CoFlatMapFunction):
    def process_element1(self, value: Any, ctx: ps.CoProcessFunction.Context) -> list[int]:
        return [value.cents]

    def process_element2(self, value: Any, ctx: ps.CoProcessFunction.Context) -> list[str]:
        return [value.payer]

    def flat_map1(self, value: Any) -> Iterator[int]:
        yield value.cents

    flat_map2 = staticmethod(lambda value: [value.cents])  # says nothing about its results


class Ruled(ps.BroadcastProcessFunction):
    def process_element(self, value: Order, ctx: ps.BroadcastProcessFunction.ReadOnlyContext) -> Iterator[Order]:
        yield value

    def process_broadcast_element(self, value: Payment, ctx: ps.BroadcastProcessFunction.Context) -> None:
        ctx.get_broadcast_state(RULES).put(value.payer, value.cents)


class RuledByKey(ps.KeyedBroadcastProcessFunction):
    def process_element(self, value: Order, ctx: Any) -> Iterator[Order]:
        yield value

    def process_broadcast_element(self, value: Payment, ctx: Any) -> None: ...


class Streams:
    def __init__(self) -> None:
        self.env = ps.StreamExecutionEnvironment()
        self.orders = self.env.from_collection([Order("ann", 1)], name="orders")
        self.payments = self.env.from_collection([Payment(1, "ann")], name="payments")

    @property
    def by_key(self) -> Any:
        return self.orders.connect(self.payments).key_by("user", "payer")

    def refused(self) -> str:
        with pytest.raises(PipelineError) as caught:
            self.env.job_graph()
        return str(caught.value)


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Streams:
    monkeypatch.chdir(tmp_path)
    return Streams()


# ---- types and plans


def test_the_result_s_type_is_what_all_methods_say(streams: Streams) -> None:
    orders, payments = streams.orders, streams.payments
    assert str(orders.connect(payments).map(Merged()).record_type) == "Payment(cents: int, payer: str)"
    assert str(streams.by_key.process(Matched()).record_type) == "Order(user: str, cents: int)"
    assert str(orders.connect(payments.broadcast(RULES)).process(Ruled()).record_type).startswith("Order(")
    both = orders.connect(payments)
    differing, unknown = both.process(Both()).record_type, both.flat_map(Both()).record_type
    assert (differing.opaque, unknown.opaque) == (True, True)
    assert "the methods of 'Both' are annotated with different results" in str(getattr(differing, "reason", ""))
    assert "flat_map2 of 'Both' is not annotated" in str(getattr(unknown, "reason", ""))
    assert str(both.process(Both(), output_type=int).record_type) == "int"


def test_plans_say_which_input_is_which(streams: Streams) -> None:
    streams.by_key.process(Matched()).name("match").uid("match").print()
    broadcast = streams.orders.connect(streams.payments.broadcast(RULES)).process(Ruled()).name("rule")
    broadcast.print()
    text = streams.env.describe()
    assert "match (co process, uid 'match'): rows -> Order(user: str, cents: int)" in text
    assert "reads [1] 'orders' as input 1: hash\n    reads [2] 'payments' as input 2: hash" in text
    assert "reads [1] 'orders' as input 1: forward\n    reads [2] 'payments' as input 2: broadcast" in text
    assert "warning: no uid is set for 'rule'" in text
    vertices = json.loads(streams.env.get_execution_plan())["vertices"]
    assert [(each["input"], each["partitioning"]) for each in vertices[2]["inputs"]] == [(0, "hash"), (1, "hash")]
    assert vertices[3]["inputs"][1]["input"] == 1


def test_ids_tell_the_inputs_apart(streams: Streams) -> None:
    orders, payments = streams.orders, streams.payments
    one, other = orders.connect(payments).flat_map(Both()), payments.connect(orders).flat_map(Both())
    united = orders.union(payments).connect(orders).flat_map(Both())
    for stream in (one, other, united):
        stream.print()
    ids = [vertex.id for vertex in streams.env.job_graph().vertices]
    assert len(set(ids)) == len(ids)
    edges = [(edge.target, edge.input_index) for edge in streams.env.job_graph().edges]
    assert [index for target, index in edges if target == ids[-1]] == [0, 0, 1]


def test_a_checkpointed_function_needs_a_uid_too(streams: Streams) -> None:
    class Buffering(ps.MapFunction, ps.CheckpointedFunction):
        def map(self, value: Order) -> Order:
            return value

        def initialize_state(self, context: ps.FunctionInitializationContext) -> None: ...

        def snapshot_state(self, context: ps.FunctionSnapshotContext) -> None: ...

    streams.orders.map(Buffering(), name="buffering").print()
    assert "no uid is set for 'buffering'" in streams.env.describe()


def test_broadcast_without_state_is_a_partitioning(streams: Streams) -> None:
    assert isinstance(streams.orders.broadcast(), type(streams.orders))


# ---- what is refused


class Wrong(ps.MapFunction):
    def map(self, value: Any) -> Any:
        return value


def test_functions_of_another_kind(streams: Streams) -> None:
    both = streams.orders.connect(streams.payments)
    both.map(Wrong(), name="a").print()
    both.flat_map(lambda value: [value], name="b").print()
    both.process(Merged(), name="c").print()
    streams.orders.connect(streams.payments.broadcast(RULES)).process(Matched(), name="d").print()
    text = streams.refused()
    assert "map on connected streams takes a CoMapFunction, with map1 and map2, but Wrong has no map1" in text
    assert "takes a CoFlatMapFunction, with flat_map1 and flat_map2, but a lambda has no flat_map1 and no" in text
    assert "takes a CoProcessFunction or KeyedCoProcessFunction, with process_element1" in text
    assert "process with broadcast state takes a BroadcastProcessFunction, with process_element and" in text


def test_keys_where_they_are_needed(streams: Streams) -> None:
    orders, payments = streams.orders, streams.payments
    orders.connect(payments).process(Matched(), name="a").print()
    orders.key_by("user").connect(payments).process(Matched(), name="b").print()
    orders.connect(payments.broadcast(RULES)).process(RuledByKey(), name="c").print()
    orders.key_by("user").connect(payments.broadcast(RULES)).process(Ruled(), name="d").print()
    text = streams.refused()
    assert "operator 'a' (test_connected_streams.py:" in text
    assert "a KeyedCoProcessFunction needs keys on both streams" in text
    assert "only one of the connected streams has keys" in text
    assert "a KeyedBroadcastProcessFunction needs keys; call key_by(…) before connect" in text
    assert "a BroadcastProcessFunction is for streams without keys" in text


def test_keys_of_different_types(streams: Streams) -> None:
    def as_bytes(payment: Payment) -> bytes:
        return payment.payer.encode()

    both = streams.orders.connect(streams.payments)
    both.key_by("user", "cents").process(Matched(), name="a").print()
    both.key_by("user", as_bytes).process(Matched(), name="b").print()
    both.key_by(["user", "cents"], ["cents", "payer"]).process(Matched(), name="c").print()
    text = streams.refused()
    assert "operator 'a'" in text
    assert "different types, str and int, and would never be equal" in text
    assert "different types, str and bytes" in text
    assert "different types, tuple[str, int] and tuple[int, str]" in text


def test_keys_of_which_nothing_is_known_are_left_to_the_run(streams: Streams) -> None:
    both = streams.orders.connect(streams.payments)
    both.key_by(lambda order: order.user, "payer").process(Matched(), name="a").print()
    both.key_by(["user", "cents"], ["payer", "cents"]).process(Matched(), name="b").print()
    assert len(streams.env.job_graph().vertices) == 4


def test_mistakes_in_keys_and_descriptors(streams: Streams) -> None:
    both = streams.orders.connect(streams.payments)
    both.key_by("user", "nobody").process(Matched(), name="a").print()
    twice: Any = (RULES, ps.MapStateDescriptor("rules", str, str))
    streams.orders.connect(streams.payments.broadcast(*twice)).process(Ruled(), name="b").print()
    wrong: Any = ps.ListStateDescriptor("rules", int)
    streams.orders.connect(streams.payments.broadcast(wrong)).process(Ruled(), name="c").print()
    expiring = ps.MapStateDescriptor("rules", str, int, ttl=ps.StateTtlConfig("1h"))
    streams.orders.connect(streams.payments.broadcast(expiring)).process(Ruled(), name="e").print()
    elsewhere = ps.StreamExecutionEnvironment().from_collection([1])
    streams.orders.connect(elsewhere).map(Merged(), name="d").print()
    text = streams.refused()
    assert "there is no column 'nobody'" in text
    assert "two broadcast states are called 'rules'" in text
    assert "broadcast takes MapStateDescriptors, not ListStateDescriptor" in text
    assert "broadcast state 'rules' cannot have a TTL" in text
    assert "the connected streams belong to two environments" in text


def test_asynchronous_and_yielding_methods(streams: Streams) -> None:
    class Yields(Merged):
        def map2(self, value: Payment) -> Any:
            yield value

    class Waits(Both):
        async def process_element2(self, value: Any, ctx: Any) -> Any:
            return [value]

    both = streams.orders.connect(streams.payments)
    both.map(Yields(), name="a").print()
    both.process(Waits(), name="b").print()
    text = streams.refused()
    assert "this one yields; use flat_map" in text
    assert "process_element2 is async def" in text
