"""A job with all kinds of things that a checkpoint holds, whose whole output can be told from its input; it is
submitted as a script.

    events ─ key ─ spans ─┬───────────── key ─ pricing ─┬─ windows of rows
    rules ──── broadcast ─│────────────────────┘        └─ windows of columns
                          └─ (side output) closed spans

    events    NUMBERS of them from SPLITS splits, out of order, a few much too late
    spans     every event with how often its key was seen (a value with a TTL that never passes); when a span of event
              time is over, by a timer: what came in it (a map), and the numbers since the last timer (a list)
    pricing   every event times the factor of the rule that was in force at its time: waits (in a map) for a timer, and
              finds the factor in broadcast state
    windows   of one span each, with a side output for events that are late; which ones are is not determined

Until the file `gate` is there, pricing takes RATE events a second, so that all before it waits, and rules come slowly;
then everything goes at full speed. All output goes into files, exactly once.
"""

from __future__ import annotations

import argparse
import math
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import penstock as ps
from penstock.connectors.collections import RangeEnumerator, RangeReader, RangeSplit, SequenceSource
from penstock.connectors.files import FileSink
from penstock.connectors.formats import Json
from penstock.runtime.connector import NotReady, PollResult, ReaderContext

NUMBERS, SPLITS, KEYS = 12_000, 8, 31
STEP_MS, SPAN_MS, DISORDER_MS = 20, 1_000, 300
LATE_MS, LATE_EVERY = 3_000, 97
RULES, RULE_EVERY_MS = 70, 500
RATE, RULE_PAUSE_MS = 400, 300
ROWS, MOST_ROWS = 20, 100
"""Events that a reader gives at once, before and after the gate: not many, since splits are to go side by side."""


# what goes in -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Event:
    number: int
    key: int
    at: int
    value: int


@dataclass(frozen=True)
class Rule:
    at: int
    factor: int


def event_of(number: int) -> Event:
    at = LATE_MS + DISORDER_MS + number % (NUMBERS // SPLITS) * STEP_MS
    at -= LATE_MS if number % LATE_EVERY == 0 else number * 37 % DISORDER_MS
    return Event(number, number % KEYS, at, number * 7 % 101)


def rule_of(number: int) -> Rule:
    return Rule(number * RULE_EVERY_MS, number * 5 % 7 + 1)


class Numbers(SequenceSource):
    """0 .. count - 1 in so many splits, all of which are read side by side."""

    def __init__(self, count: int, splits: int, gate: str, rows: int, pause_ms: int) -> None:
        """Until the gate is open: so many rows at once, and then a pause."""
        super().__init__(0, count - 1)
        self.splits, self.gate, self.rows, self.pause_ms = splits, gate, rows, pause_ms

    def cut(self, parallelism: int) -> list[RangeSplit]:
        return super().cut(self.splits)

    def create_enumerator(self, restored: bytes | None) -> RangeEnumerator:
        return Shares(self, restored)

    def create_reader(self, context: ReaderContext) -> RangeReader:
        return SideBySide(self, context)


class Shares(RangeEnumerator):
    """Gives every subtask its share of the splits at once: those of one that waits would all be late."""

    def __init__(self, source: Numbers, restored: bytes | None) -> None:
        super().__init__(source, restored)
        self._splits = source.splits

    def next_splits(self, subtask: int, parallelism: int) -> list[RangeSplit] | None:
        share: list[RangeSplit] = []
        for _ in range(math.ceil(self._splits / parallelism)):
            share += super().next_splits(subtask, parallelism) or ()
        return share or None


class SideBySide(RangeReader):
    def __init__(self, source: Numbers, context: ReaderContext) -> None:
        super().__init__(source)
        self._numbers, self._clock, self._next_ms = source, context.clock, 0

    def poll(self, max_rows: int) -> PollResult:
        if not Path(self._numbers.gate).exists():
            now_ms, max_rows = self._clock.now_ms(), min(max_rows, self._numbers.rows)
            if now_ms < self._next_ms:
                return NotReady(self._next_ms)
            self._next_ms = now_ms + self._numbers.pause_ms
        result = super().poll(min(max_rows, MOST_ROWS))
        self._splits.rotate(-1)
        return result


# what becomes of it -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Seen:
    number: int
    key: int
    at: int
    value: int
    seen: int


@dataclass(frozen=True)
class Closed:
    key: int
    span: int
    count: int
    total: int
    numbers: list[int]


@dataclass(frozen=True)
class Priced:
    number: int
    key: int
    at: int
    amount: int
    seen: int


@dataclass(frozen=True)
class Row:
    key: int
    start: int
    numbers: list[int]
    amount: int


CLOSED = ps.OutputTag[Closed]("closed", Closed)
LATE = ps.OutputTag[Priced]("late", Priced)
FACTORS: ps.MapStateDescriptor[int, int] = ps.MapStateDescriptor("factors", int, int)


class Spans(ps.KeyedProcessFunction):
    def open(self, runtime_context: ps.RuntimeContext) -> None:
        ttl = ps.StateTtlConfig("1 day")
        self.seen = runtime_context.get_state(ps.ValueStateDescriptor("seen", int, 0, ttl=ttl))
        self.spans = runtime_context.get_map_state(ps.MapStateDescriptor("spans", int, list[int]))
        self.numbers = runtime_context.get_list_state(ps.ListStateDescriptor("numbers", int))

    def process_element(self, event: Event, ctx: ps.KeyedProcessFunction.Context) -> Iterator[Any]:
        self.seen.update(self.seen.value() + 1)
        self.numbers.add(event.number)
        span = event.at // SPAN_MS
        count, total = self.spans.get(span) or (0, 0)
        self.spans.put(span, [count + 1, total + event.value])
        ctx.timer_service().register_event_time_timer((span + 1) * SPAN_MS - 1)
        yield Seen(event.number, event.key, event.at, event.value, self.seen.value())

    def on_timer(self, timestamp: int, ctx: ps.KeyedProcessFunction.OnTimerContext) -> Iterator[Any]:
        span = timestamp // SPAN_MS
        count, total = self.spans.get(span) or (0, 0)
        yield CLOSED, Closed(ctx.get_current_key(), span, count, total, list(self.numbers.get()))
        self.spans.remove(span)
        self.numbers.clear()


class Pricing(ps.KeyedBroadcastProcessFunction):
    def __init__(self, gate: str) -> None:
        self._gate = gate

    def open(self, runtime_context: ps.RuntimeContext) -> None:
        self.waiting = runtime_context.get_map_state(ps.MapStateDescriptor("waiting", int, list[Seen]))
        self.pause_s = runtime_context.get_number_of_parallel_subtasks() / RATE

    def process_element(self, seen: Seen, ctx: ps.KeyedBroadcastProcessFunction.ReadOnlyContext) -> None:
        if self.pause_s and not Path(self._gate).exists():
            threading.Event().wait(self.pause_s)
        else:
            self.pause_s = 0
        self.waiting.put(seen.at, [*(self.waiting.get(seen.at) or []), seen])
        ctx.timer_service().register_event_time_timer(seen.at)

    def process_broadcast_element(self, rule: Rule, ctx: ps.KeyedBroadcastProcessFunction.Context) -> None:
        ctx.get_broadcast_state(FACTORS).put(rule.at, rule.factor)

    def on_timer(self, timestamp: int, ctx: ps.KeyedBroadcastProcessFunction.OnTimerContext) -> Iterator[Priced]:
        factor = max((at, factor) for at, factor in ctx.get_broadcast_state(FACTORS).items() if at <= timestamp)[1]
        for seen in self.waiting.get(timestamp) or []:
            yield Priced(seen.number, seen.key, seen.at, seen.value * factor, seen.seen)
        self.waiting.remove(timestamp)


class Listed(ps.ProcessWindowFunction):
    def process(self, key: int, context: Any, elements: Iterable[Priced]) -> Iterator[Row]:
        found = sorted(elements, key=lambda priced: priced.number)
        numbers = [priced.number for priced in found]
        yield Row(key, context.window().start, numbers, sum(priced.amount for priced in found))


def build(env: ps.StreamExecutionEnvironment, gate: str, out: Path) -> None:
    def write(stream: Any, name: str) -> None:
        stream.sink_to(FileSink(str(out / name), Json(), roll_rows=500), name=f"{name} files").uid(f"{name} files")

    def timed(source: Numbers, make: Any, name: str, strategy: ps.WatermarkStrategy) -> Any:
        numbers = env.from_source(source, strategy.with_timestamp_assigner(lambda n, _: make(n).at), name, uid=name)
        return numbers.map(make, name=f"{name} made").uid(f"{name} made")

    disorder = ps.WatermarkStrategy.for_bounded_out_of_orderness(DISORDER_MS)
    events = timed(Numbers(NUMBERS, SPLITS, gate, ROWS, 0), event_of, "events", disorder)
    in_order = ps.WatermarkStrategy.for_monotonous_timestamps()
    rules = timed(Numbers(RULES, 1, gate, 1, RULE_PAUSE_MS), rule_of, "rules", in_order)

    spans = events.key_by(lambda event: event.key).process(Spans(), output_type=Seen, name="spans").uid("spans")
    write(spans.get_side_output(CLOSED), "closed")
    both = spans.key_by(lambda seen: seen.key).connect(rules.broadcast(FACTORS))
    priced = both.process(Pricing(gate), output_type=Priced, name="pricing").uid("pricing")
    write(priced, "priced")

    windows = ps.TumblingEventTimeWindows(SPAN_MS)
    rows = priced.key_by(lambda priced: priced.key).window(windows).side_output_late_data(LATE)
    listed = rows.process(Listed(), name="rows").uid("rows")
    columns = priced.key_by("key").window(windows).side_output_late_data(LATE)
    summed = columns.agg(
        n=ps.count(), total=ps.sum("amount"), least=ps.min("number"), most=ps.max("number"), name="columns"
    ).uid("columns")
    for name, stream in {"rows": listed, "columns": summed}.items():
        write(stream, name)
        write(stream.get_side_output(LATE), f"late {name}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--gate", required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    env = ps.StreamExecutionEnvironment()
    build(env, arguments.gate, arguments.out)
    env.execute("matrix")


if __name__ == "__main__":
    main()
