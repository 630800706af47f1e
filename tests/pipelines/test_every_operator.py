"""Every operator of the API, in one job with a sink for each, under everything that may not change its results:
parallelism, delivery mode, state backend, checkpoints or none, records encoded on every edge, chaining, failures of
user code, killed slots, no input at all. What each operator must give is computed here by plain Python.

One user's events are all in one split, so running results per user have one right order. Shops cross the splits.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

import penstock as ps
from penstock.testing.lists import FAIL, ListSink

PARTS = 3
SIZE = 50
"""Of windows and of what timers count, ms."""


@dataclass
class Event:
    user: str
    shop: int
    at: int
    value: int


EVENTS = [Event(f"u{i // 80}{i % 4}", i % 5, i * 3, i * 7 % 101) for i in range(80 * PARTS)]
EVENT_TIME = ps.WatermarkStrategy.for_monotonous_timestamps().with_timestamp_assigner(lambda event, _: event.at)
ODD: ps.OutputTag[int] = ps.OutputTag("odd", int)
LATE: ps.OutputTag[Event] = ps.OutputTag("late", Event)


# the operators --------------------------------------------------------------------------------------------------


def double(event: Event) -> int:
    return event.value * 2


def both_signs(event: Event) -> Iterator[int]:
    if event.value % 2 == 0:
        yield event.value
        yield -event.value


def is_third(event: Event) -> bool:
    return event.value % 3 == 0


def user_of(event: Event) -> str:
    return event.user


def shop_of(event: Event) -> int:
    return event.shop


def pair(event: Event, other: Event) -> tuple[int, int]:
    return event.value, other.value


def add_values(one: Event, other: Event) -> Event:
    return replace(one, value=one.value + other.value)


def double_column(batch: pa.RecordBatch) -> pa.RecordBatch:
    return batch.set_column(0, "value", pa.array(batch.column(0).to_numpy() * 2))


class DoubleColumn:
    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return double_column(batch)


def split_odd(event: Event, ctx: Any) -> Iterator[Any]:
    yield (ODD, event.value) if event.value % 2 else event.value


class Numbered(ps.MapFunction):
    """A value with the subtask that saw it."""

    def open(self, runtime_context: ps.RuntimeContext) -> None:
        self.subtask = runtime_context.get_index_of_this_subtask()

    def map(self, value: Event) -> tuple[int, int]:
        return value.value, self.subtask


class Shops(ps.KeyedProcessFunction):
    """Counts per shop and span of time, given out by timers; state of all kinds."""

    def open(self, runtime_context: ps.RuntimeContext) -> None:
        self.total = runtime_context.get_state(ps.ValueStateDescriptor("total", int, 0))
        self.spans = runtime_context.get_map_state(ps.MapStateDescriptor("spans", int, int))
        self.values = runtime_context.get_list_state(ps.ListStateDescriptor("values", int))

    def process_element(self, event: Event, ctx: ps.KeyedProcessFunction.Context) -> None:
        assert ctx.timestamp() == event.at
        self.total.update(self.total.value() + event.value)
        self.values.add(event.value)
        span = event.at // SIZE
        self.spans.put(span, (self.spans.get(span) or 0) + 1)
        timers = ctx.timer_service()
        timers.register_event_time_timer((span + 1) * SIZE)
        timers.register_event_time_timer(10**9)
        timers.register_event_time_timer(10**6)
        timers.delete_event_time_timer(10**6)

    def on_timer(self, timestamp: int, ctx: ps.KeyedProcessFunction.OnTimerContext) -> Iterator[Any]:
        if timestamp == 10**9:
            yield ctx.get_current_key(), self.total.value(), tuple(sorted(self.values.get()))
            return
        span = timestamp // SIZE - 1
        yield ctx.get_current_key(), span, self.spans.get(span)
        self.spans.remove(span)


class Sides(ps.CoProcessFunction):
    """Which input a value came on."""

    def process_element1(self, value: Event, ctx: Any) -> Iterator[Any]:
        yield 1, value.value, ctx.timestamp() == value.at

    def process_element2(self, value: int, ctx: Any) -> Iterator[Any]:
        yield (ODD, value) if value % 4 else (2, value)


NUMBERS: ps.MapStateDescriptor[int, list[int]] = ps.MapStateDescriptor("numbers", int, list[int])


class Told(ps.KeyedBroadcastProcessFunction):
    """Of every shop at the end how many values were broadcast; of each subtask every value."""

    def process_element(self, event: Event, ctx: Any) -> None:
        ctx.timer_service().register_event_time_timer(10**9)

    def process_broadcast_element(self, value: int, ctx: Any) -> Iterator[Any]:
        numbers = ctx.get_broadcast_state(NUMBERS)
        numbers.put(value % 7, [*(numbers.get(value % 7) or []), value])
        yield "told", value

    def on_timer(self, timestamp: int, ctx: Any) -> Iterator[Any]:
        yield ctx.get_current_key(), sum(map(len, ctx.get_broadcast_state(NUMBERS).values()))


class Mean(ps.AggregateFunction):
    def create_accumulator(self) -> tuple[int, int]:
        return 0, 0

    def add(self, value: Event, accumulator: tuple[int, int]) -> tuple[int, int]:
        return accumulator[0] + value.value, accumulator[1] + 1

    def get_result(self, accumulator: tuple[int, int]) -> float:
        return accumulator[0] / accumulator[1]


class Named(ps.ProcessWindowFunction):
    def process(self, key: int, context: Any, elements: Iterable[Any]) -> Iterator[Any]:
        yield key, context.window().start, *sorted(getattr(element, "value", element) for element in elements)


def counted(key: int, window: Any, elements: Iterable[Any]) -> Iterator[tuple[int, int, int]]:
    yield key, window.start, len(list(elements))


def windows(stream: Any, key: Any) -> Any:
    return stream.key_by(key).window(ps.TumblingEventTimeWindows(f"{SIZE}ms"))


def aggregated(stream: Any, key: Any) -> Any:
    return windows(stream, key).agg(
        n=ps.count(), total=ps.sum("value"), least=ps.min("value"), most=ps.max("value"), mean=ps.avg("value")
    )


def late_or_counted(stream: Any) -> Any:
    strategy = ps.WatermarkStrategy.for_bounded_out_of_orderness("20ms").with_timestamp_assigner(
        lambda event, _: event.at + 90 - event.value  # the splits' order is not the order of time
    )
    counts = (
        windows(stream.assign_timestamps_and_watermarks(strategy), "shop").side_output_late_data(LATE).agg(n=ps.count())
    )
    return counts.map(lambda row: row["n"]).union(counts.get_side_output(LATE).map(lambda event: 1))


def split_up(stream: Any) -> Any:
    split = stream.process(split_odd)
    return split.map(lambda value: ("even", value)).union(split.get_side_output(ODD).map(lambda value: ("odd", value)))


def both_sides(stream: Any) -> Any:
    both = stream.connect(stream.map(double)).process(Sides())
    return both.union(both.get_side_output(ODD).map(lambda value: ("odd", value)))


# what they must give --------------------------------------------------------------------------------------------


def per_user(events: list[Event], step: Callable[[int, int], int]) -> list[Event]:
    """The running result of every event: as in Flink, the user's first event with another value."""
    found: list[Event] = []
    for user in sorted({event.user for event in events}):
        own = [event for event in events if event.user == user]
        found += [replace(own[0], value=value) for value in accumulate((event.value for event in own), step)]
    return found


def per_window(events: list[Event]) -> dict[tuple[int, int], list[int]]:
    found: dict[tuple[int, int], list[int]] = defaultdict(list)
    for event in events:
        found[event.shop, event.at // SIZE * SIZE].append(event.value)
    return found


def named_columns(events: list[Event], key: str) -> list[dict[str, Any]]:
    return [
        {key: shop, "window_start": start, "window_end": start + SIZE, "n": len(own), "total": sum(own),
         "least": min(own), "most": max(own), "mean": sum(own) / len(own)}
        for (shop, start), own in per_window(events).items()
    ]  # fmt: skip


def shops_and_spans(events: list[Event]) -> list[Any]:
    by_shop: dict[int, list[int]] = defaultdict(list)
    for event in events:
        by_shop[event.shop].append(event.value)
    totals: list[Any] = [(shop, sum(own), tuple(sorted(own))) for shop, own in by_shop.items()]
    return totals + [(shop, start // SIZE, len(own)) for (shop, start), own in per_window(events).items()]


def counts(events: list[Event]) -> list[int]:
    return [number for own in Counter(event.user for event in events).values() for number in range(1, own + 1)]


def values(events: list[Event]) -> list[int]:
    return [event.value for event in events]


OPERATORS: dict[str, tuple[Callable[[Any], Any], Callable[[list[Event], int], list[Any]]]] = {
    "map": (lambda s: s.map(double), lambda e, p: [2 * value for value in values(e)]),
    "flat_map": (
        lambda s: s.flat_map(both_signs),
        lambda e, p: [signed for value in values(e) if value % 2 == 0 for signed in (value, -value)],
    ),
    "filter": (lambda s: s.filter(is_third), lambda e, p: [event for event in e if event.value % 3 == 0]),
    "map_batches": (
        lambda s: s.select("value").map_batches(double_column),
        lambda e, p: [{"value": 2 * value} for value in values(e)],
    ),
    "map_batches on a pool": (
        lambda s: s.select("value").map_batches(DoubleColumn, concurrency=2, batch_size=16),
        lambda e, p: [{"value": 2 * value} for value in values(e)],
    ),
    "expressions": (
        lambda s: s.with_columns(twice=pl.col("value") * 2).filter(pl.col("twice") > 100).select("user", "twice"),
        lambda e, p: [{"user": event.user, "twice": 2 * event.value} for event in e if event.value > 50],
    ),
    "reduce": (lambda s: s.key_by(user_of).reduce(add_values), lambda e, p: per_user(e, lambda a, b: a + b)),
    "reduce by a column": (lambda s: s.key_by("user").reduce(add_values), lambda e, p: per_user(e, lambda a, b: a + b)),
    "sum": (lambda s: s.key_by("user").sum("value"), lambda e, p: per_user(e, lambda a, b: a + b)),
    "min": (lambda s: s.key_by("user").min("value"), lambda e, p: per_user(e, min)),
    "max": (lambda s: s.key_by(user_of).max("value"), lambda e, p: per_user(e, max)),
    "count": (lambda s: s.key_by(user_of).count(), lambda e, p: counts(e)),
    "state and timers": (lambda s: s.key_by(shop_of).process(Shops()), lambda e, p: shops_and_spans(e)),
    "window reduce": (
        lambda s: windows(s, shop_of).reduce(add_values).map(lambda event: (event.shop, event.value)),
        lambda e, p: [(shop, sum(own)) for (shop, _), own in per_window(e).items()],
    ),
    "window aggregate": (
        lambda s: windows(s, "shop").aggregate(Mean(), Named()),
        lambda e, p: [(*key, sum(own) / len(own)) for key, own in per_window(e).items()],
    ),
    "window process": (
        lambda s: windows(s, shop_of).process(Named()),
        lambda e, p: [(*key, *sorted(own)) for key, own in per_window(e).items()],
    ),
    "window apply": (
        lambda s: windows(s, shop_of).apply(counted),
        lambda e, p: [(*key, len(own)) for key, own in per_window(e).items()],
    ),
    "agg, vectorised": (lambda s: aggregated(s, "shop"), lambda e, p: named_columns(e, "shop")),
    "agg, on rows": (lambda s: aggregated(s, shop_of), lambda e, p: named_columns(e, "key")),
    "late records": (late_or_counted, lambda e, p: [len(e)]),
    "side output": (split_up, lambda e, p: [("odd" if value % 2 else "even", value) for value in values(e)]),
    "union": (
        lambda s: s.map(double).union(s.filter(is_third).map(double)),
        lambda e, p: [2 * value for value in values(e)] + [2 * value for value in values(e) if value % 3 == 0],
    ),
    "co process": (
        both_sides,
        lambda e, p: (
            [(1, value, True) for value in values(e)]
            + [(2, 2 * v) for v in values(e) if v % 2 == 0]
            + [("odd", 2 * value) for value in values(e) if value % 2]
        ),
    ),
    "broadcast state": (
        lambda s: s.key_by(shop_of).connect(s.map(double).broadcast(NUMBERS)).process(Told()),
        lambda e, p: (
            [("told", 2 * value) for value in values(e) for _ in range(p)]
            + [(shop, len(e)) for shop in sorted({event.shop for event in e})]
        ),
    ),
    "deduplicate": (
        lambda s: s.deduplicate("user"),
        lambda e, p: list({event.user: event for event in reversed(e)}.values()),
    ),
    "regular join": (
        lambda s: s.key_by("user").regular_join(s.filter(is_third).key_by("user"), pair),
        lambda e, p: [(a.value, b.value) for a in e for b in e if a.user == b.user and is_third(b)],
    ),
    "lookup": (lambda s: s.lookup_join(lambda v: [-v], "value"), lambda e, p: [(each, -each.value) for each in e]),
    "forward": (lambda s: s.forward().map(double), lambda e, p: [2 * value for value in values(e)]),
    "rebalance": (lambda s: s.rebalance().map(double), lambda e, p: [2 * value for value in values(e)]),
    "rescale": (lambda s: s.rescale().map(double), lambda e, p: [2 * value for value in values(e)]),
    "shuffle": (lambda s: s.shuffle().map(double), lambda e, p: [2 * value for value in values(e)]),
    "broadcast": (
        lambda s: s.broadcast().map(Numbered()),
        lambda e, p: [(value, subtask) for value in values(e) for subtask in range(p)],
    ),
    "global": (lambda s: s.global_().map(Numbered()), lambda e, p: [(value, 0) for value in values(e)]),
    "custom": (
        lambda s: s.partition_custom(lambda key, n: key % n, "value").map(Numbered()),
        lambda e, p: [(value, value % p) for value in values(e)],
    ),
    "other parallelism": (
        lambda s: s.map(double).set_parallelism(2).key_by(lambda value: value).reduce(max).set_parallelism(4),
        lambda e, p: [2 * value for value in values(e)],
    ),
}

# in batch mode -----------------------------------------------------------------------------------------------------


FINAL: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("reduce", "reduce by a column", "sum", "min", "max"), lambda event: event.user),
    "other parallelism": lambda value: value,
}
"""Running results, and their keys: in batch mode only the last of each key is given out."""


def final(name: str, rows: list[Any], events: list[Event]) -> list[Any]:
    """What batch mode makes of the results of streaming."""
    if name == "count":
        return [*Counter(event.user for event in events).values()]
    return list({FINAL[name](row): row for row in rows}.values()) if name in FINAL else rows


def normal(name: str, rows: list[Any]) -> Counter[str]:
    if name == "late records":
        rows = [sum(rows)]  # which ones are late depends on who was faster
    if name == "other parallelism":
        rows = [row for row in rows if row is not None]
    return Counter(map(repr, rows))


def test_results_do_not_depend_on_circumstances(
    given: Any, new_env: Any, drive: Any, held_source: Any, results: Any, tmp_path: Path
) -> None:
    env = new_env(given.parallelism).set_state_backend(given.backend)
    env.enable_checkpointing("10ms" if given.checkpoints else 0, given.mode)
    options = {"pipeline.encode-every-edge": given.encode, "pipeline.operator-chaining.enabled": given.chaining}
    if given.batch:
        env.set_runtime_mode(ps.RuntimeExecutionMode.BATCH)
    env.configure(ps.Configuration(options))
    if given.fails == "exponential-delay":
        env.set_restart_strategy("exponential-delay", initial_backoff="1ms", max_backoff="5ms")
    events: list[Any] = [] if given.empty else list(EVENTS)
    marked = [*events[:100], FAIL, *events[100:200], FAIL, *events[200:]] if given.fails else events
    gate = tmp_path / "gate"
    if not given.killed:
        gate.touch()
    source = held_source(marked, gate, 50, splits=PARTS, batch_rows=40, record_type=Event)
    stream = env.from_source(source, EVENT_TIME, name="events")
    for name, (build, _) in OPERATORS.items():
        results(name)
        build(stream).sink_to(ListSink(name), name=f"{name} results")
    job = drive(env)
    if given.killed:
        job.checkpoints().kill()
        gate.touch()
    status = job.end()
    assert status.restarts >= bool(given.fails) + given.killed
    found = {name: normal(name, results(name)) for name in OPERATORS}
    rows = {name: expect(events, given.parallelism) for name, (_, expect) in OPERATORS.items()}
    if given.batch:
        rows = {name: final(name, own, events) for name, own in rows.items()}
    expected = {name: normal(name, own) for name, own in rows.items()}
    assert found == expected
