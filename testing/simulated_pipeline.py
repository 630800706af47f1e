"""The job that simulations run, and the outside world it writes to.

    source(s), many small splits ─ map ─┬─ by key: running state, timers, a side output ─ "running", "side"
      (perhaps a union of two,          ├─ by key: event-time windows of rows           ─ "windows", "late"
       and perhaps calls of a           ├─ by key: event-time windows of columns        ─ "columns", "late columns"
       service, or a pool of            ├─ anywhere: operator state, lists and unions   ─ "tickets"
       models, behind the map)          ├─ by key, beside rules that go to everybody    ─ "judged", "applied"
                                        │    (of a source, or some of the records)
                                        ├─┬─ anywhere ──┬─ by key: both ways meet again ─ "paired", "lonely"
                                        │ └─ by key ────┘    (united, or connected)
                                        └─ watermarks of its own ─ windows              ─ "restamped", "late again"

    source, many small splits ─ map ─ "strands"

A seed draws which branches there are, whether two sources are united or have a pipeline each, whether there is the
second part, of which each subtask is a region of its own, and everything else that can be chosen
(simulated_workload.py). Records have an id, so that the checkers see each of them on its way. Timestamps are out of
order by less than the watermark's bound, except for some that are late by far, in seeds that have such: they must be in
their window (which fires again, where lateness is allowed) or in the late output, never in neither, and never open a
window a second time. Windows may be in two phases; they have no late output, and any lateness is allowed.

Its output goes to the `Warehouse` (simulated_warehouse.py).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ..api.environment import StreamExecutionEnvironment
from ..api.streams import DataStream
from ..runtime.aggregation import aggregates
from ..runtime.async_functions import AsyncRetryStrategy
from ..runtime.configuration.config import Configuration
from ..runtime.event_time.watermarks import WatermarkStrategy
from ..runtime.graph.job_graph import JobGraph
from ..runtime.windows.assigners import TumblingEventTimeWindows
from .lists import ListSource
from .simulated_functions import (
    APPLIED,
    BUCKETS,
    LATE,
    LONELY,
    RULES,
    Collected,
    Collecting,
    CoPairing,
    Ids,
    Judging,
    Model,
    Pairing,
    Reading,
    Running,
    Stamping,
    answered,
    doubled,
    is_rule,
    key_of,
    one_way,
    other_way,
    same,
)
from .simulated_warehouse import Warehouse, WarehouseSink
from .simulated_workload import WINDOW_MS, Workload

OFTEN = AsyncRetryStrategy.fixed_delay(1_000, "20ms")
"""What the service does not answer for so long does not matter: the timeout comes first."""
Write = Callable[[DataStream, str], None]


def build_job(workload: Workload, warehouse: Warehouse, parallelism: int, life: int = 0) -> JobGraph:
    """`life`: how many savepoints the job has begun from."""
    env = StreamExecutionEnvironment(Configuration(workload.config)).set_parallelism(parallelism)
    strategy = WatermarkStrategy.for_bounded_out_of_orderness(workload.bound_ms)
    if workload.drift_ms is not None:
        strategy = strategy.with_watermark_alignment("all", workload.drift_ms, "50ms")
    streams = {name: env.from_source(source, strategy) for name, source in _sources(workload, warehouse).items()}
    if workload.own_slots:
        streams = {name: stream.slot_sharing_group(name) for name, stream in streams.items()}

    def write(results: DataStream, name: str) -> None:
        results.sink_to(WarehouseSink(warehouse.number, name))

    if "strands" in streams:
        write(streams.pop("strands").map(doubled), "strands")
    rules = streams.pop("rules", None)
    first, *others = streams.values()
    for number, stream in enumerate((first, *others) if workload.separate else (first.union(*others),)):
        _build_pipeline(stream, rules, workload, life, write, judged=number == 0)
    return env.job_graph("simulated")


def _build_pipeline(
    stream: DataStream, rules: DataStream | None, workload: Workload, life: int, write: Write, *, judged: bool
) -> None:
    mapped = (stream.rebalance() if workload.rebalanced else stream).map(doubled)
    if workload.capacity:
        mapped = mapped.map_async(
            answered, ordered=workload.ordered, capacity=workload.capacity, timeout="2s", retry=OFTEN, on_timeout=same
        )
    pool = workload.pool
    if pool is not None:
        mapped = mapped.map_batches(
            Model, output_type=Reading, concurrency=pool.concurrency, batch_size=pool.batch_size, ordered=pool.ordered,
            capacity=pool.capacity, timeout="2s",
        )  # fmt: skip
    build: dict[str, Callable[[DataStream, Workload, Write], None]] = {
        "running": _running,
        "windows": _windows,
        "columns": _columns,
        "tickets": partial(_tickets, life=life),
        "paired": _paired,
        "restamped": _restamped,
    }
    for branch in workload.branches:
        if branch in build:
            build[branch](mapped, workload, write)
        elif judged:
            _judged(mapped, rules, life, write)


def _running(mapped: DataStream, workload: Workload, write: Write) -> None:
    running = mapped.key_by(key_of).process(Running())
    write(running, "running")
    write(running.get_side_output(BUCKETS), "side")


def _windows(mapped: DataStream, workload: Workload, write: Write) -> None:
    windows = mapped.key_by(key_of).window(TumblingEventTimeWindows.of(WINDOW_MS))
    windows = windows.allowed_lateness(workload.lateness_ms)
    if workload.two_phase:
        write(windows.aggregate(Collecting(), Collected(), two_phase=True), "windows")
        return
    panes = windows.side_output_late_data(LATE).process(Ids())
    write(panes, "windows")
    write(panes.get_side_output(LATE), "late")


def _columns(mapped: DataStream, workload: Workload, write: Write) -> None:
    windows = mapped.key_by("key").window(TumblingEventTimeWindows.of(WINDOW_MS))
    windows = windows.allowed_lateness(workload.lateness_ms)
    windows = windows if workload.two_phase else windows.side_output_late_data(LATE)
    totals = windows.agg(
        two_phase=workload.two_phase,
        n=aggregates.count(), total=aggregates.sum("value"), worst=aggregates.max("value"),
    )  # fmt: skip
    write(totals, "columns")
    if not workload.two_phase:
        write(totals.get_side_output(LATE), "late columns")


def _tickets(mapped: DataStream, workload: Workload, write: Write, life: int) -> None:
    """All subtasks are connected: what is in a union list belongs together only if all restart together."""
    write(mapped.rebalance().map(Stamping(life)), "tickets")


def _judged(mapped: DataStream, rules: DataStream | None, life: int, write: Write) -> None:
    side = mapped.filter(is_rule) if rules is None else rules
    judged = mapped.key_by(key_of).connect(side.broadcast(RULES)).process(Judging(life))
    write(judged, "judged")
    write(judged.get_side_output(APPLIED), "applied")


def _paired(mapped: DataStream, workload: Workload, write: Write) -> None:
    one, other = mapped.rebalance().map(one_way), mapped.key_by(key_of).map(other_way)
    if workload.join == "union":
        paired = one.union(other).key_by(key_of).process(Pairing())
    else:
        paired = one.connect(other).key_by(key_of, key_of).process(CoPairing())
    write(paired, "paired")
    write(paired.get_side_output(LONELY), "lonely")


def _restamped(mapped: DataStream, workload: Workload, write: Write) -> None:
    """What comes together from several sources is out of order by more than the bound: some of it is late."""
    restamped = mapped.assign_timestamps_and_watermarks(
        WatermarkStrategy.for_bounded_out_of_orderness(workload.bound_ms)
    )
    windows = restamped.key_by(key_of).window(TumblingEventTimeWindows.of(WINDOW_MS)).side_output_late_data(LATE)
    panes = windows.process(Ids())
    write(panes, "restamped")
    write(panes.get_side_output(LATE), "late again")


def _sources(workload: Workload, warehouse: Warehouse) -> dict[str, ListSource]:
    if not warehouse.sources:
        values = {f"pipeline {number}": source for number, source in enumerate(workload.sources)}
        values |= {"rules": workload.rules} if workload.rules else {}
        values |= {"strands": workload.strands} if workload.strands else {}
        warehouse.sources = {
            name: ListSource(
                records, splits=workload.splits, timestamps=_time, batch_rows=workload.batch_rows,
                pause_ms=workload.pause_ms, record_type=Reading,
            )
            for name, records in values.items()
        }  # fmt: skip
    return warehouse.sources


def _time(record: Reading) -> int:
    return record.time
