"""What the functions of simulated jobs do, and what they give out.

Every result says enough for the oracle (output_oracle.py, joint_oracle.py) to tell from all of them together whether
anything was lost, doubled, or belongs to another moment than the rest: the id of its record, the number of its kind so
far, and, where a state is restored as a whole, in which life of the job and which attempt it was made (`Origin`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import pyarrow as pa

from ..runtime.connected_functions import (
    KeyedBroadcastContext,
    KeyedBroadcastProcessFunction,
    KeyedBroadcastReadOnlyContext,
    KeyedCoProcessFunction,
)
from ..runtime.functions import (
    AggregateFunction,
    KeyedContext,
    KeyedProcessFunction,
    MapFunction,
    OutputTag,
    ProcessWindowFunction,
    RuntimeContext,
    TimerContext,
    WindowContext,
)
from ..runtime.operator_state import CheckpointedFunction, FunctionInitializationContext, FunctionSnapshotContext
from ..state.descriptors import ListStateDescriptor, MapStateDescriptor, ValueStateDescriptor
from ..state.ttl_config import StateTtlConfig

BUCKET_MS = 700
TICKETS = 3
"""Of each subtask of a job that begins: however often it is rescaled, each has some."""


class Reading(NamedTuple):
    id: int
    key: int
    value: int
    time: int


class Counted(NamedTuple):
    """The n-th record of its key, and the sum of the values so far."""

    id: int
    key: int
    n: int
    total: int


class Bucket(NamedTuple):
    """Fired by a timer: how many records of a key had their time in it."""

    key: int
    end: int
    n: int


class Pane(NamedTuple):
    """Result of a window: the ids of its records, sorted."""

    key: int
    start: int
    ids: tuple[int, ...]


class Origin(NamedTuple):
    """Where and when a result was made. They are ordered as the moments at which their states were restored."""

    life: int
    """Of the job: 0, or how many savepoints it has begun from."""
    attempt: int
    subtask: int
    parallelism: int


class Ticketed(NamedTuple):
    """A record that got the n-th stamp of a ticket."""

    id: int
    key: int
    origin: Origin
    before: int
    """How many records all subtasks together had seen when their state was restored."""
    ticket: str
    n: int


class Judged(NamedTuple):
    """The n-th record of its key."""

    id: int
    key: int
    n: int
    unseen: int
    """Rules that were there before the first record of the key: those there are, less those that have visited it."""


class Applied(NamedTuple):
    """A rule arrived at a subtask, and was the n-th there."""

    rule: int
    origin: Origin
    n: int


class Half(NamedTuple):
    """A record on one of two ways."""

    id: int
    key: int
    time: int
    way: str


class Paired(NamedTuple):
    """A record that has come on both."""

    id: int
    first: str
    second: str


class Ticket(NamedTuple):
    name: str
    stamps: int


class Share(NamedTuple):
    """What one subtask has to say about itself."""

    seen: int
    tickets: int


BUCKETS: OutputTag[Bucket] = OutputTag("buckets", Bucket)
LATE: OutputTag[Reading] = OutputTag("late", Reading)
APPLIED: OutputTag[Applied] = OutputTag("applied", Applied)
LONELY: OutputTag[Half] = OutputTag("lonely", Half)

TTL = StateTtlConfig("1d", "on_read_and_write")
"""Longer than any simulated run."""

RULES: MapStateDescriptor[int, int] = MapStateDescriptor("rules", int, int)


def doubled(record: Reading) -> Reading:
    return record._replace(value=record.value * 2)


async def answered(record: Reading) -> Reading:
    """What a service says of a record, when it does (simulated_calls.py)."""
    return record


def same(record: Reading) -> Reading:
    """Instead of an answer."""
    return record


def key_of(record: Any) -> int:
    key: int = record.key
    return key


def is_rule(record: Reading) -> bool:
    return record.id % 16 == 0


def one_way(record: Reading) -> Half:
    return Half(record.id, record.key, record.time, "one")


def other_way(record: Reading) -> Half:
    return Half(record.id, record.key, record.time, "other")


def origin_of(life: int, runtime_context: RuntimeContext) -> Origin:
    return Origin(
        life,
        runtime_context.get_attempt_number(),
        runtime_context.get_index_of_this_subtask(),
        runtime_context.get_number_of_parallel_subtasks(),
    )


class Running(KeyedProcessFunction):
    """Count and sum per key, and a timer at the end of every bucket of event time. Its state has a TTL that
    never passes: whoever loses or mistakes a stamp loses a value."""

    def open(self, runtime_context: RuntimeContext) -> None:
        sums: ValueStateDescriptor[tuple[int, int]] = ValueStateDescriptor("sum", tuple[int, int], (0, 0), TTL)
        buckets: MapStateDescriptor[int, int] = MapStateDescriptor("buckets", int, int, TTL)
        values: ListStateDescriptor[int] = ListStateDescriptor("values", int, TTL)
        self._sums = runtime_context.get_state(sums)
        self._buckets = runtime_context.get_map_state(buckets)
        self._values = runtime_context.get_list_state(values)

    def process_element(self, value: Reading, ctx: KeyedContext) -> Iterator[Counted]:
        n, total = self._sums.value() or (0, 0)
        self._sums.update((n + 1, total + value.value))
        self._values.add(value.value)
        timers = ctx.timer_service()
        if value.time > timers.current_watermark():
            end = value.time - value.time % BUCKET_MS + BUCKET_MS - 1
            self._buckets.put(end, (self._buckets.get(end) or 0) + 1)
            timers.register_event_time_timer(end)
        yield Counted(value.id, value.key, n + 1, sum(self._values.get()))

    def on_timer(self, timestamp: int, ctx: TimerContext) -> None:
        ctx.output(BUCKETS, Bucket(ctx.get_current_key(), timestamp, self._buckets.get(timestamp) or 0))
        self._buckets.remove(timestamp)


class Ids(ProcessWindowFunction):
    """What a window holds."""

    def process(self, key: Any, context: WindowContext, elements: Any) -> Iterator[Pane]:
        yield Pane(key, context.window().start, tuple(sorted(element.id for element in elements)))


class Collecting(AggregateFunction):
    """The ids of all records."""

    def create_accumulator(self) -> list[int]:
        return []

    def add(self, value: Reading, accumulator: list[int]) -> list[int]:
        accumulator.append(value.id)
        return accumulator

    def get_result(self, accumulator: list[int]) -> list[int]:
        return accumulator

    def merge(self, acc_a: list[int], acc_b: list[int]) -> list[int]:
        return acc_a + acc_b


class Collected(ProcessWindowFunction):
    """What they say a window holds."""

    def process(self, key: Any, context: WindowContext, elements: Any) -> Iterator[Pane]:
        (ids,) = elements
        yield Pane(key, context.window().start, tuple(sorted(ids)))


class Model:
    """Of a pool: what it says of a batch is the batch."""

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch


class Stamping(MapFunction, CheckpointedFunction):
    """Operator state: tickets, of which every subtask has its share (a list), and what each of them has seen (a union
    list, because everybody asks how much that is together)."""

    def __init__(self, life: int) -> None:
        self._life = life

    def initialize_state(self, context: FunctionInitializationContext) -> None:
        store, runtime = context.get_operator_state_store(), context.get_keyed_state_store()
        tickets: ListStateDescriptor[Ticket] = ListStateDescriptor("tickets", Ticket)
        shares: ListStateDescriptor[Share] = ListStateDescriptor("shares", Share)
        self._origin = origin_of(self._life, runtime)
        self._tickets = store.get_list_state(tickets)
        self._shares = store.get_union_list_state(shares)
        restored = list(self._shares.get())
        self._before = sum(share.seen for share in restored)
        self._seen = 0 if self._origin.subtask else self._before
        if context.is_restored():
            self._count(sum(share.tickets for share in restored))
        else:
            self._tickets.update([Ticket(f"{self._origin.subtask}.{i}", 0) for i in range(TICKETS)])

    def _count(self, tickets: int) -> None:
        own, share = len(list(self._tickets.get())), tickets // self._origin.parallelism
        if not tickets or own not in (share, share + 1):
            raise AssertionError(f"{self._origin} was given {own} of {tickets} tickets")

    def snapshot_state(self, context: FunctionSnapshotContext) -> None:
        self._shares.update([Share(self._seen, len(list(self._tickets.get())))])

    def map(self, value: Reading) -> Ticketed:
        """Tickets take turns."""
        first, *others = self._tickets.get()
        stamped = first._replace(stamps=first.stamps + 1)
        self._tickets.update([*others, stamped])
        self._seen += 1
        return Ticketed(value.id, value.key, self._origin, self._before, *stamped)


class Judging(KeyedBroadcastProcessFunction):
    """Broadcast state beside keyed state, which every rule visits: both must be of the same moment, always."""

    def __init__(self, life: int) -> None:
        self._life = life
        self._state: ValueStateDescriptor[tuple[int, int]] = ValueStateDescriptor("state", tuple[int, int], (0, 0))

    def open(self, runtime_context: RuntimeContext) -> None:
        self._origin = origin_of(self._life, runtime_context)
        self._of_key = runtime_context.get_state(self._state)

    def process_element(self, value: Reading, ctx: KeyedBroadcastReadOnlyContext) -> Iterator[Judged]:
        n, visits = self._of_key.value() or (0, 0)
        self._of_key.update((n + 1, visits))
        rules = len(list(ctx.get_broadcast_state(RULES).keys()))
        yield Judged(value.id, value.key, n + 1, rules - visits)

    def process_broadcast_element(self, value: Reading, ctx: KeyedBroadcastContext) -> None:
        rules = ctx.get_broadcast_state(RULES)
        rules.put(value.id, value.value)
        ctx.apply_to_keyed_state(self._state, _visit)
        ctx.output(APPLIED, Applied(value.id, self._origin, len(list(rules.keys()))))


def _visit(key: int, state: Any) -> None:
    n, visits = state.value()
    state.update((n, visits + 1))


class Pairing(KeyedProcessFunction):
    """Waits with each record that comes on one way for the same one on the other way. When event time has come to a
    record that was not late, it must have come on both."""

    def open(self, runtime_context: RuntimeContext) -> None:
        waiting: MapStateDescriptor[int, Half] = MapStateDescriptor("waiting", int, Half)
        self._waiting = runtime_context.get_map_state(waiting)

    def process_element(self, value: Half, ctx: KeyedContext) -> Iterator[Paired]:
        first = self._waiting.get(value.id)
        if first is not None:
            self._waiting.remove(value.id)
            yield Paired(value.id, first.way, value.way)
            return
        self._waiting.put(value.id, value)
        if value.time > ctx.timer_service().current_watermark():
            ctx.timer_service().register_event_time_timer(value.time)

    def on_timer(self, timestamp: int, ctx: TimerContext) -> None:
        for half in list(self._waiting.values()):
            if half.time == timestamp:
                ctx.output(LONELY, half)


class CoPairing(KeyedCoProcessFunction):
    """The same, of two connected streams."""

    def __init__(self) -> None:
        self._pairing = Pairing()

    def open(self, runtime_context: RuntimeContext) -> None:
        self._pairing.open(runtime_context)

    def process_element1(self, value: Half, ctx: KeyedContext) -> Iterator[Paired]:
        yield from self._pairing.process_element(value, ctx)

    def process_element2(self, value: Half, ctx: KeyedContext) -> Iterator[Paired]:
        yield from self._pairing.process_element(value, ctx)

    def on_timer(self, timestamp: int, ctx: TimerContext) -> None:
        self._pairing.on_timer(timestamp, ctx)
