"""Connected and broadcast streams, and operator state of all kinds, in whole jobs: killed in the middle, stopped, and
continued at other parallelisms. What they must give is computed by plain Python, and does not depend on any of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import penstock as ps
from penstock.testing.lists import ListSink, ListSource

SPAN = 500


@dataclass
class Event:
    user: str
    at: int
    value: int


@dataclass
class Refund:
    at: int
    user: str
    cents: int


@dataclass
class Rule:
    at: int
    factor: int


EVENTS = [Event(f"u{i % 7}", i * 10, i) for i in range(300)]
REFUNDS = [Refund(i * 30, f"u{i % 5}", i) for i in range(100)]
RULES = [Rule(i * 290, i + 1) for i in range(11)]
EVENT_TIME = ps.WatermarkStrategy.for_monotonous_timestamps().with_timestamp_assigner("at")
FACTORS: ps.MapStateDescriptor[int, int] = ps.MapStateDescriptor("factors", int, int)


class Priced(ps.KeyedBroadcastProcessFunction):
    """Every event with the factor that was in force at its time: told when both sides have got there."""

    def open(self, runtime_context: ps.RuntimeContext) -> None:
        self.waiting = runtime_context.get_map_state(ps.MapStateDescriptor("waiting", int, int))

    def process_element(self, event: Event, ctx: ps.KeyedBroadcastProcessFunction.ReadOnlyContext) -> None:
        self.waiting.put(event.at, event.value)
        ctx.timer_service().register_event_time_timer(event.at)

    def process_broadcast_element(self, rule: Rule, ctx: ps.KeyedBroadcastProcessFunction.Context) -> None:
        ctx.get_broadcast_state(FACTORS).put(rule.at, rule.factor)

    def on_timer(
        self, timestamp: int, ctx: ps.KeyedBroadcastProcessFunction.OnTimerContext
    ) -> Iterator[tuple[str, int, int]]:
        factor = max((at, factor) for at, factor in ctx.get_broadcast_state(FACTORS).items() if at <= timestamp)[1]
        yield ctx.get_current_key(), timestamp, (self.waiting.get(timestamp) or 0) * factor
        self.waiting.remove(timestamp)


class Balances(ps.KeyedCoProcessFunction):
    """Per user and span: what came in and what went out."""

    def open(self, runtime_context: ps.RuntimeContext) -> None:
        self.sums = runtime_context.get_map_state(ps.MapStateDescriptor("sums", int, list[int]))

    def process_element1(self, event: Event, ctx: ps.KeyedCoProcessFunction.Context) -> None:
        self.add(event.at, event.value, 0, ctx)

    def process_element2(self, refund: Refund, ctx: ps.KeyedCoProcessFunction.Context) -> None:
        self.add(refund.at, 0, refund.cents, ctx)

    def add(self, at: int, income: int, refunded: int, ctx: ps.KeyedCoProcessFunction.Context) -> None:
        span = at // SPAN
        before = self.sums.get(span) or [0, 0]
        self.sums.put(span, [before[0] + income, before[1] + refunded])
        ctx.timer_service().register_event_time_timer((span + 1) * SPAN - 1)

    def on_timer(
        self, timestamp: int, ctx: ps.KeyedCoProcessFunction.OnTimerContext
    ) -> Iterator[tuple[str, int, int, int]]:
        span = timestamp // SPAN
        income, refunded = self.sums.get(span) or [0, 0]
        yield ctx.get_current_key(), span, income, refunded
        self.sums.remove(span)


class Keeps(ps.CoFlatMapFunction, ps.CheckpointedFunction):
    """Holds values back in a list until it is told to give them out; counts them in a union list; remembers in
    broadcast state that it was told."""

    def initialize_state(self, context: ps.FunctionInitializationContext) -> None:
        store = context.get_operator_state_store()
        self.held = store.get_list_state(ps.ListStateDescriptor("held", str))
        self.counts = store.get_union_list_state(ps.ListStateDescriptor("counts", int))
        self.told = store.get_broadcast_state(ps.MapStateDescriptor("told", str, bool))
        self.found = (sum(self.counts.get()), len(self.held.get()))
        assert context.is_restored() or self.found == (0, 0)

    def snapshot_state(self, context: ps.FunctionSnapshotContext) -> None:
        self.counts.update([len(self.held.get())])

    def flat_map1(self, value: str) -> Iterator[tuple[str, str, int]]:
        if self.told.contains("now"):
            yield "value", value, 0
        else:
            self.held.add(value)

    def flat_map2(self, value: str) -> Iterator[tuple[str, str, int]]:
        yield "found", str(self.found[0]), self.found[1]
        for held in self.held.get():
            yield "value", held, 0
        self.held.clear()
        self.told.put("now", True)


def text_of(event: Event) -> str:
    return f"{event.value:0200d}"


def build(env: ps.StreamExecutionEnvironment, held: Any, gates: Path) -> None:
    events = env.from_source(
        held(EVENTS, gates / "gate", 20, splits=5, batch_rows=10, record_type=Event), EVENT_TIME, "events", uid="events"
    )
    refunds = env.from_source(
        held(REFUNDS, gates / "gate", 10, splits=2, batch_rows=5, record_type=Refund), EVENT_TIME, "refunds", uid="r"
    )
    rules = env.from_source(
        held(RULES, gates / "gate", 3, splits=2, batch_rows=2, record_type=Rule), EVENT_TIME, "rules", uid="rules"
    )
    orders = env.from_source(held(["give"], gates / "give", 0, record_type=str), name="orders", uid="orders")
    priced = events.key_by("user").connect(rules.broadcast(FACTORS)).process(Priced(), name="priced").uid("priced")
    balances = events.connect(refunds).key_by("user", "user").process(Balances(), name="balances").uid("balances")
    kept = events.map(text_of).rebalance().connect(orders.broadcast()).flat_map(Keeps(), name="kept").uid("kept")
    for name, stream in {"priced": priced, "balances": balances, "kept": kept}.items():
        stream.sink_to(ListSink(name), name=f"{name} sink").uid(f"{name} sink")


def expected() -> dict[str, Counter[Any]]:
    spans: dict[tuple[str, int], list[int]] = {}
    for user, at, income, refunded in [
        *((event.user, event.at, event.value, 0) for event in EVENTS),
        *((refund.user, refund.at, 0, refund.cents) for refund in REFUNDS),
    ]:
        sums = spans.setdefault((user, at // SPAN), [0, 0])
        sums[0], sums[1] = sums[0] + income, sums[1] + refunded
    return {
        "priced": Counter(
            (event.user, event.at, event.value * max(rule.factor for rule in RULES if rule.at <= event.at))
            for event in EVENTS
        ),
        "balances": Counter((user, span, *sums) for (user, span), sums in spans.items()),
        "kept": Counter(map(text_of, EVENTS)),
    }


def found(results: Any) -> dict[str, Counter[Any]]:
    kept = Counter(text for kind, text, _ in results("kept") if kind == "value")
    return {"priced": Counter(results("priced")), "balances": Counter(results("balances")), "kept": kept}


@pytest.mark.parametrize(
    ("before", "after", "backend"), [(1, 3, "heap"), (3, 2, "rocksdb"), (2, 7, "heap"), (7, 1, "rocksdb")]
)
def test_killed_stopped_and_continued_at_another_parallelism(
    new_env: Any, drive: Any, held_source: Any, results: Any, tmp_path: Path, before: int, after: int, backend: str
) -> None:
    for name in ("priced", "balances", "kept"):
        assert results(name) == []
    env = new_env(before).set_state_backend(backend)
    build(env, held_source, tmp_path)
    drive(env).checkpoints(1).kill().checkpoints(1).stop()
    assert results("kept") == []
    env = new_env(after, restore="latest").set_state_backend(backend)
    build(env, held_source, tmp_path)
    job = drive(env).checkpoints(1)
    (tmp_path / "gate").touch()
    job.kill().checkpoints(1)
    (tmp_path / "give").touch()
    status = job.end()
    assert status.checkpoints.restored is not None
    assert found(results) == expected()
    restored = [(int(total), own) for kind, total, own in results("kept") if kind == "found"]
    assert len(restored) == after
    assert {total for total, _ in restored} == {sum(own for _, own in restored)}, "a union is the same everywhere"
    assert restored[0][0] > 0


def test_a_state_of_the_old_job_that_the_new_one_does_not_declare(
    new_env: Any, drive: Any, held_source: Any, results: Any, tmp_path: Path
) -> None:
    """It is kept through the job that does not know it, and is there for the next one that does."""

    class Keeping(ps.MapFunction, ps.CheckpointedFunction):
        def __init__(self, knows: bool) -> None:
            self.knows = knows

        def initialize_state(self, context: ps.FunctionInitializationContext) -> None:
            store = context.get_operator_state_store()
            self.values = store.get_list_state(ps.ListStateDescriptor("values", int)) if self.knows else None

        def snapshot_state(self, context: ps.FunctionSnapshotContext) -> None: ...

        def map(self, value: int) -> list[int]:
            if self.values is None:
                return []
            self.values.add(value)
            return list(self.values.get())

    def job(knows: bool, restore: str | None = None) -> Any:
        env = new_env(1, restore)
        numbers = env.from_source(held_source(list(range(30)), tmp_path / "gate", 10, record_type=int), uid="numbers")
        numbers.map(Keeping(knows), name="keeping").uid("keeping").sink_to(ListSink("values"), name="sink").uid("sink")
        return drive(env)

    assert results("values") == []
    job(True).until(lambda status: len(results("values")) >= 10).stop()
    job(False, "latest").checkpoints().stop()
    (tmp_path / "gate").touch()
    job(True, "latest").end()
    before = [value for value in range(30) if list(range(value + 1)) in results("values")][:10]
    last = max(results("values"), key=len)
    assert before == list(range(10))
    assert last[:10] == before
    assert last[-1] == 29


def test_broadcast_to_a_stream_without_keys(new_env: Any, drive: Any, results: Any) -> None:
    """Every subtask has every rule; the rules' stream is over before the values' begins to matter."""
    limits: ps.MapStateDescriptor[str, int] = ps.MapStateDescriptor("limits", str, int)

    class Checked(ps.BroadcastProcessFunction):
        def process_element(
            self, value: int, ctx: ps.BroadcastProcessFunction.ReadOnlyContext
        ) -> Iterator[tuple[str, int]]:
            yield "value", value

        def process_broadcast_element(
            self, value: int, ctx: ps.BroadcastProcessFunction.Context
        ) -> Iterator[tuple[str, int]]:
            state = ctx.get_broadcast_state(limits)
            state.put("sum", (state.get("sum") or 0) + value)
            state.put("count", (state.get("count") or 0) + 1)
            if state.get("count") == 10:
                yield "sum", state.get("sum") or 0

    assert results("checked") == []
    env = new_env(3)
    values = env.from_source(ListSource(list(range(50)), splits=3, record_type=int), name="values")
    rules = env.from_source(ListSource(list(range(10)), splits=2, record_type=int), name="rules")
    checked = values.connect(rules.broadcast(limits)).process(Checked(), name="checked").uid("checked")
    checked.sink_to(ListSink("checked"), name="sink").uid("sink")
    drive(env).end()
    assert Counter(results("checked")) == Counter([*(("value", value) for value in range(50)), *[("sum", 45)] * 3])


OPENED: Counter[int] = Counter()
"""How often a subtask of `Running` was opened, in this process."""


class Running(ps.MapFunction, ps.CheckpointedFunction):
    """A value with how many its subtask has seen."""

    def open(self, runtime_context: ps.RuntimeContext) -> None:
        self.subtask = runtime_context.get_index_of_this_subtask()
        OPENED[self.subtask] += 1

    def initialize_state(self, context: ps.FunctionInitializationContext) -> None:
        self.seen = context.get_operator_state_store().get_list_state(ps.ListStateDescriptor("seen", int))

    def snapshot_state(self, context: ps.FunctionSnapshotContext) -> None: ...

    def map(self, value: int) -> tuple[int, int]:
        self.seen.add(value)
        return value, len(self.seen.get())


def test_a_region_that_restarts_alone_finds_its_own_list(
    new_env: Any, drive: Any, held_source: Any, results: Any, tmp_path: Path
) -> None:
    assert results("running") == []
    OPENED.clear()
    values, gate = list(range(300)), tmp_path / "gate"
    source = held_source(values, gate, 20, splits=3, batch_rows=10, record_type=int)
    running = new_env(3).from_source(source, uid="source").map(Running(), name="running").uid("running")
    running.sink_to(ListSink("running"), name="sink").uid("sink")
    job = drive(running._env).until(lambda _: len(results("running")) == 60).kill()
    gate.touch()
    job.end()
    assert sorted(OPENED.values()) == [1, 1, 2]
    by_subtask = [range(100 * number, 100 * number + 100) for number in range(3)]
    assert sorted(results("running")) == [(value, value - own.start + 1) for own in by_subtask for value in own]
