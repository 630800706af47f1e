"""The job that simulations run, and the outside world it writes to.

    source(s), many small splits ─ map ─┬─ by key: running state, timers, a side output ─ "running", "side"
      (perhaps a union of two)          ├─ by key: event-time windows of rows           ─ "windows", "late"
                                        └─ by key: event-time windows of columns        ─ "columns", "late columns"

    source, many small splits ─ map ─ "strands"

A seed draws which branches there are, whether two sources are united or have a pipeline each, whether there is the
second part, of which each subtask is a region of its own, and everything else that can be chosen. Records have an id,
so that the checkers see each of them on its way. Timestamps are out of order by less than the watermark's bound, except
for some that are late by far, in seeds that have such: they must be in their window or in the late output, never in
neither, and never open a window a second time.

Its output goes to the `Warehouse` (simulated_warehouse.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Any, NamedTuple

from ..api.environment import StreamExecutionEnvironment
from ..api.streams import DataStream
from ..runtime import aggregates, options
from ..runtime.config import Configuration
from ..runtime.functions import (
    KeyedContext,
    KeyedProcessFunction,
    OutputTag,
    ProcessWindowFunction,
    RuntimeContext,
    TimerContext,
    WindowContext,
)
from ..runtime.graph.job_graph import JobGraph
from ..runtime.watermarks import WatermarkStrategy
from ..runtime.windows.assigners import TumblingEventTimeWindows
from ..state.descriptors import ListStateDescriptor, MapStateDescriptor, ValueStateDescriptor
from ..state.ttl_config import StateTtlConfig
from .lists import FAIL, ListSource
from .simulated_warehouse import Warehouse, WarehouseSink
from .virtual_time import EPOCH_MS

WINDOW_MS = 1_000
BUCKET_MS = 700


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


BUCKETS: OutputTag[Bucket] = OutputTag("buckets", Bucket)
LATE: OutputTag[Reading] = OutputTag("late", Reading)


TTL = StateTtlConfig("1d", "on_read_and_write")
"""Longer than any simulated run."""


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


def doubled(record: Reading) -> Reading:
    return record._replace(value=record.value * 2)


def key_of(record: Reading) -> int:
    return record.key


@dataclass(frozen=True)
class Workload:
    """What one seed's job is; everything a checker needs to know about it."""

    sources: tuple[tuple[Any, ...], ...]
    """Readings and FAIL marks of each source."""
    splits: int
    bound_ms: int
    branches: tuple[str, ...]
    late: bool
    rebalanced: bool
    """Between source and map every record may go anywhere."""
    separate: bool
    """Each source has a pipeline, and with it a region, of its own; their keys differ."""
    strands: tuple[Any, ...]
    """Readings and FAIL marks of the source whose records are only passed on; empty: there is none."""
    own_slots: bool
    """Pipelines that have nothing to do with each other share no slots."""
    batch_rows: int
    pause_ms: int
    config: dict[str, str]
    lasts_ms: int
    """About; when nothing goes wrong."""

    @property
    def records(self) -> list[Reading]:
        return [record for source in self.sources for record in source if isinstance(record, Reading)]

    @property
    def checkpoints(self) -> bool:
        return self.config[options.CHECKPOINT_INTERVAL.key] != "0"

    @property
    def exactly_once(self) -> bool:
        return self.config[options.CHECKPOINT_MODE.key] == "exactly-once" or not self.checkpoints


def draw_workload(random: Random, failing: bool, stormy: bool = False) -> Workload:
    """`failing`: user code fails now and then. `stormy`: everything in one job, with frequent checkpoints."""
    late = random.random() < (0.5 if stormy else 0.25)
    bound_ms = random.choice((0, 50, 300, 1_500))
    odds = {"running": 0.65, "windows": 0.65, "columns": 0.3}
    branches = tuple(branch for branch, likely in odds.items() if random.random() < likely)
    next_id = 0
    sources = []
    for _ in range(random.choice((1, 1, 2))):
        count = random.randint(40, 220)
        records = _readings(random, next_id, count, bound_ms, (0.25 if stormy else 0.05) if late else 0.0)
        next_id += count
        if failing:
            records.insert(Random(next_id).randrange(len(records)), FAIL)
        sources.append(tuple(records))
    records_in_all = next_id
    batch_rows, lasts_ms = random.choice((2, 5, 12, 40)), random.randint(500, 5_000)
    config = _draw_config(random)
    if stormy:
        branches, batch_rows, lasts_ms = tuple(odds), 2, 3_000
        config.update(STORMY)
    splits, rebalanced = 15 if stormy else random.randint(1, 9), random.random() < 0.3
    separate = len(sources) > 1 and random.random() < 0.5
    if separate:
        sources[1] = tuple(_other_key(record) for record in sources[1])
    strands: list[Any] = []
    if random.random() < 0.4:
        strands = _readings(random, next_id, random.randint(40, 160), bound_ms, 0.0)
        if failing:
            strands.insert(len(strands) // 2, FAIL)
    return Workload(
        sources=tuple(sources),
        splits=splits,
        bound_ms=bound_ms,
        branches=branches or ("running",),
        late=late,
        rebalanced=rebalanced,
        separate=separate,
        strands=tuple(strands),
        own_slots=random.random() < 0.75,
        batch_rows=batch_rows,
        pause_ms=lasts_ms * batch_rows * 2 // records_in_all,
        config=config,
        lasts_ms=lasts_ms,
    )


def _readings(random: Random, first: int, count: int, bound_ms: int, late: float) -> list[Any]:
    """`late`: share of the records that are."""
    keys, step_ms = random.randint(1, 12), random.choice((10, 60, 150))
    records: list[Any] = []
    for i in range(count):
        time = EPOCH_MS + 100_000 + i * step_ms - random.randint(0, bound_ms)
        if random.random() < late:
            time -= bound_ms + random.randint(1, 5 * WINDOW_MS)
        records.append(Reading(first + i, random.randrange(keys), random.randint(-9, 99), time))
    return records


def _other_key(record: Any) -> Any:
    return record._replace(key=record.key + 100) if isinstance(record, Reading) else record


def _draw_config(random: Random) -> dict[str, str]:
    chosen = {
        options.CHECKPOINT_INTERVAL: random.choice(("200ms", "500ms", "1s", "2s")) if random.random() < 0.96 else "0",
        options.CHECKPOINT_TIMEOUT: random.choice(("3s", "6s", "20s")),
        options.CHECKPOINT_MIN_PAUSE: random.choice(("0ms", "0ms", "300ms")),
        options.MAX_CONCURRENT_CHECKPOINTS: random.choice((1, 1, 2, 3)),
        options.TOLERABLE_FAILED_CHECKPOINTS: random.choice((0, 3, -1)),
        options.CHECKPOINT_MODE: "exactly-once" if random.random() < 0.9 else "at-least-once",
        options.UNALIGNED: random.random() < 0.7,
        options.ALIGNED_TIMEOUT: random.choice(("0ms", "0ms", "20ms", "150ms", "2s")),
        options.RETAINED_CHECKPOINTS: random.choice((1, 1, 2, 3)),
        options.STATE_BACKEND: "heap" if random.random() < 0.95 else "rocksdb",
        options.LATENCY_INTERVAL: "0ms",
        options.BUFFER_TIMEOUT: random.choice(("0ms", "10ms", "100ms")),
        options.CHANNEL_WINDOW: random.choice((200, 1_000, 5_000, 1 << 20)),
        options.CHAINING: random.random() < 0.8,
        options.ENCODE_EVERY_EDGE: random.random() < 0.1,
        options.INITIAL_BACKOFF: "100ms",
        options.MAX_BACKOFF: "2s",
    }
    return {option.key: str(value) for option, value in chosen.items()}


STORMY = {
    options.CHECKPOINT_INTERVAL.key: "150ms",
    options.CHECKPOINT_TIMEOUT.key: "3s",
    options.CHECKPOINT_MIN_PAUSE.key: "0ms",
    options.CHECKPOINT_MODE.key: "exactly-once",
    options.TOLERABLE_FAILED_CHECKPOINTS.key: "-1",
    options.RETAINED_CHECKPOINTS.key: "1",
    options.STATE_BACKEND.key: "heap",
}


def build_job(workload: Workload, warehouse: Warehouse, parallelism: int) -> JobGraph:
    env = StreamExecutionEnvironment(Configuration(workload.config)).set_parallelism(parallelism)
    strategy = WatermarkStrategy.for_bounded_out_of_orderness(workload.bound_ms)
    streams = [env.from_source(source, strategy) for source in _sources(workload, warehouse)]
    if workload.own_slots:
        streams = [stream.slot_sharing_group(f"pipeline {number}") for number, stream in enumerate(streams)]
    if workload.strands:
        streams.pop().map(doubled).sink_to(WarehouseSink(warehouse.number, "strands"))
    for stream in streams if workload.separate else [streams[0].union(*streams[1:]) if streams[1:] else streams[0]]:
        _build_pipeline(stream, workload, warehouse)
    return env.job_graph("simulated")


def _build_pipeline(stream: DataStream, workload: Workload, warehouse: Warehouse) -> None:
    mapped = (stream.rebalance() if workload.rebalanced else stream).map(doubled)

    def write(results: DataStream, name: str) -> None:
        results.sink_to(WarehouseSink(warehouse.number, name))

    windows = mapped.key_by(key_of).window(TumblingEventTimeWindows.of(WINDOW_MS)).side_output_late_data(LATE)
    if "running" in workload.branches:
        running = mapped.key_by(key_of).process(Running())
        write(running, "running")
        write(running.get_side_output(BUCKETS), "side")
    if "windows" in workload.branches:
        panes = windows.process(Ids())
        write(panes, "windows")
        write(panes.get_side_output(LATE), "late")
    if "columns" in workload.branches:
        windowed = mapped.key_by("key").window(TumblingEventTimeWindows.of(WINDOW_MS)).side_output_late_data(LATE)
        totals = windowed.agg(n=aggregates.count(), total=aggregates.sum("value"), worst=aggregates.max("value"))
        write(totals, "columns")
        write(totals.get_side_output(LATE), "late columns")


def _sources(workload: Workload, warehouse: Warehouse) -> list[ListSource]:
    """That of the strands is the last."""
    if not warehouse.sources:
        warehouse.sources = [
            ListSource(
                values, splits=workload.splits, timestamps=_time, batch_rows=workload.batch_rows,
                pause_ms=workload.pause_ms, record_type=Reading,
            )
            for values in (*workload.sources, *([workload.strands] if workload.strands else []))
        ]  # fmt: skip
    return warehouse.sources


def _time(record: Reading) -> int:
    return record.time
