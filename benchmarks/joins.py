"""Interval, window and regular joins of 1 M records on rows, against a join in plain Python dicts and Bytewax's join in
the same run.

Two streams of typed rows, half of the records each, over 1,000 keys; every record finds about one partner. A regular
join keeps all records, so for that there are as many keys as records of a side: most have left the cache when they come
again. Records per
second of CPU of the state path: from batches in memory to the pairs, watermarks after every batch. Decoding, exchange
and sinks come on top in a real job. The plain join is the limit of what Python does: dicts of lists, no checkpoints, no
timers, nothing that could be restored. Bytewax runs with recovery off, a source of items in memory and a sink
that drops them; it has joins by window only.

    python benchmarks/joins.py [--rows 1000000] [--keys 1000] [--rounds 3] [--profile interval|window|regular]

JSON lines, the best of the rounds; `ratio` is to the peer.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from penstock.runtime.batch import Batch
from penstock.runtime.elements import MAX_WATERMARK
from penstock.runtime.joins.functions import PairsOf
from penstock.runtime.joins.interval_join import IntervalJoinOperator
from penstock.runtime.joins.pair_calls import PairCall
from penstock.runtime.joins.regular_join import RegularJoinOperator
from penstock.runtime.joins.window_join import window_join_operator
from penstock.runtime.keys import KeyByColumns
from penstock.runtime.operators.operator import Operator
from penstock.runtime.records.record_types import record_type_of
from penstock.runtime.windows.assigners import TumblingEventTimeWindows
from penstock.testing.harness import BackendKind, OperatorHarness

ROWS_PER_MS, BATCH = 10, 1_000
BYTEWAX_PART = 10
"""It is given this part of the records; with many keys it would take minutes for all."""
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
Input = list[tuple[int, list[Any]]]
"""(side, a batch's rows), in the order of time."""


class Click(NamedTuple):
    user: int
    at: int
    page: int


class Buy(NamedTuple):
    user: int
    at: int
    cents: int


class Pair(NamedTuple):
    user: int
    page: int
    cents: int


SIDES = (Click, Buy)


def paired(click: Click, buy: Buy) -> Pair:
    return Pair(click.user, click.page, buy.cents)


def _paired_item(item: Any) -> Pair:
    """Of what Bytewax gives."""
    _key, (_window, (click, buy)) = item
    return paired(click, buy)


def batches(rows: int, keys: int) -> Input:
    chance = random.Random(1)
    made = []
    for number, start in enumerate(range(0, rows, BATCH)):
        side = number % 2
        times = [(start + i) // ROWS_PER_MS for i in range(min(BATCH, rows - start))]
        made.append((side, [SIDES[side](chance.randrange(keys), at, at % 997) for at in times]))
    return made


def width_ms(rows: int, keys: int) -> int:
    """In which a record has about one partner."""
    return max(1, 2 * keys // ROWS_PER_MS)


def of_operator(operator: Operator, work: Input, backend: BackendKind) -> tuple[float, int]:
    """CPU seconds, and results."""
    types = [record_type_of(side) for side in SIDES]
    made = [(side, Batch.of_rows(types[side], rows, [row.at for row in rows])) for side, rows in work]
    results = 0
    with OperatorHarness(operator, backend=backend) as harness:
        began = time.process_time()
        for side, batch in made:
            harness.push_batch(batch, side)
            harness.watermark(batch.last_timestamp() - 1)
            results += taken(harness)
        harness.watermark(MAX_WATERMARK)
        results += taken(harness)
        return time.process_time() - began, results


def taken(harness: OperatorHarness) -> int:
    count = sum(map(len, harness.batches))
    harness.batches.clear()
    return count


def interval_join(width: int) -> Operator:
    types = (record_type_of(Click), record_type_of(Buy))
    selectors = (KeyByColumns(["user"]), KeyByColumns(["user"]))
    return IntervalJoinOperator(
        selectors, PairCall(paired), types, record_type_of(Pair), lower_ms=-width // 2, upper_ms=width // 2
    )


def window_join(width: int) -> Operator:
    types = (record_type_of(Click), record_type_of(Buy))
    selectors = (KeyByColumns(["user"]), KeyByColumns(["user"]))
    pairs = PairsOf(paired, "inner", flat=False)
    return window_join_operator(selectors, TumblingEventTimeWindows(width), pairs, types, record_type_of(Pair))


def regular_join() -> Operator:
    types = (record_type_of(Click), record_type_of(Buy))
    return RegularJoinOperator((KeyByColumns(["user"]), KeyByColumns(["user"])), paired, types, record_type_of(Pair))


def plain_regular_join(work: Input) -> tuple[float, int]:
    kept: tuple[dict[int, list[Any]], dict[int, list[Any]]] = (defaultdict(list), defaultdict(list))
    results = 0
    began = time.process_time()
    for side, rows in work:
        mine, others = kept[side], kept[1 - side]
        pairs = []
        for row in rows:
            pairs += [paired(row, each) if side == 0 else paired(each, row) for each in others.get(row.user, ())]
            mine[row.user].append(row)
        results += len(pairs)
    return time.process_time() - began, results


def plain_interval_join(work: Input, width: int) -> tuple[float, int]:
    """Each side's rows by key, in order; what is too old goes when its key is met again."""
    kept: tuple[dict[int, list[Any]], dict[int, list[Any]]] = (defaultdict(list), defaultdict(list))
    half, results = width // 2, 0
    began = time.process_time()
    for side, rows in work:
        mine, others = kept[side], kept[1 - side]
        pairs = []
        for row in rows:
            other = others[row.user]
            while other and other[0].at < row.at - half:
                del other[0]
            pairs += [paired(row, each) if side == 0 else paired(each, row) for each in other]
            mine[row.user].append(row)
        results += len(pairs)
    return time.process_time() - began, results


def plain_window_join(work: Input, width: int) -> tuple[float, int]:
    windows: dict[int, tuple[dict[int, list[Any]], dict[int, list[Any]]]] = {}
    results = 0

    def closed(until: int) -> Iterator[list[Pair]]:
        for start in [start for start in windows if start + width <= until]:
            left, right = windows.pop(start)
            yield [paired(one, other) for user in left for one in left[user] for other in right.get(user, ())]

    began = time.process_time()
    for side, rows in work:
        for row in rows:
            start = row.at - row.at % width
            if start not in windows:
                windows[start] = (defaultdict(list), defaultdict(list))
            windows[start][side][row.user].append(row)
        results += sum(map(len, closed(rows[-1].at)))
    results += sum(map(len, closed(MAX_WATERMARK)))
    return time.process_time() - began, results


def bytewax_window_join(work: Input, width: int) -> tuple[float, int]:
    import bytewax.operators as op
    import bytewax.operators.windowing as windowing
    from bytewax.dataflow import Dataflow
    from bytewax.outputs import DynamicSink, StatelessSinkPartition
    from bytewax.testing import TestingSource, run_main

    run: Any = run_main
    results = 0

    class Count(StatelessSinkPartition[Any]):
        def write_batch(self, items: list[Any]) -> None:
            nonlocal results
            results += len(items)

    class Sink(DynamicSink[Any]):
        def build(self, step_id: str, worker_index: int, worker_count: int) -> Count:
            return Count()

    flow = Dataflow("joins")
    items = [(str(row.user), (side, row)) for side, rows in work for row in rows]
    merged = op.input("both", flow, TestingSource(items, batch_size=BATCH))  # two inputs would not keep their order
    apart = op.branch("sides", merged, lambda item: item[1][0] == 0)
    keyed = [
        op.map_value(name, side, lambda value: value[1]) for name, side in (("l", apart.trues), ("r", apart.falses))
    ]
    # Its watermark goes on with the clock as well: a ms is a second here, so that nothing is late by that.
    clock: Any = windowing.EventClock(lambda row: BEGIN + timedelta(seconds=row.at), timedelta(seconds=1))
    windower = windowing.TumblingWindower(length=timedelta(seconds=width), align_to=BEGIN)
    joined = windowing.join_window("join", clock, windower, *keyed, insert_mode="product", ordered=False)
    whole: Any = op.filter("whole", joined.down, lambda item: None not in item[1][1])
    pairs: Any = op.map("pair", whole, _paired_item)
    op.output("out", pairs, Sink())
    began = time.process_time()
    run(flow)
    return time.process_time() - began, results


def operator_of(kind: str, width: int) -> Operator:
    return {"interval": interval_join, "window": window_join, "regular": lambda _width: regular_join()}[kind](width)


def compared(kind: str, width: int, work: Input, rounds: int) -> None:
    runs: dict[str, Callable[[], tuple[float, int]]] = {
        "heap": lambda: of_operator(operator_of(kind, width), work, "heap"),
        "rocksdb": lambda: of_operator(operator_of(kind, width), work, "rocksdb"),
    }
    if kind == "interval":
        runs["plain Python"] = lambda: plain_interval_join(work, width)
    elif kind == "regular":
        runs["plain Python"] = lambda: plain_regular_join(work)
    else:
        runs["plain Python"] = lambda: plain_window_join(work, width)
        runs["bytewax"] = lambda: bytewax_window_join(work[: len(work) // BYTEWAX_PART], width)
    rates: dict[str, float] = {}
    found: dict[str, int] = {}
    records = sum(len(rows) for _, rows in work)
    for _ in range(rounds):
        for name, run in runs.items():
            spent, found[name] = run()
            done = records / BYTEWAX_PART if name == "bytewax" else records
            rates[name] = max(done / spent, rates.get(name, 0.0))
    assert found["heap"] == found["rocksdb"] == found["plain Python"]
    for backend in ("heap", "rocksdb"):
        for peer in [name for name in runs if name not in ("heap", "rocksdb")]:
            line = {
                "benchmark": f"{kind}_join",
                "backend": backend,
                "value": round(rates[backend]),
                "unit": "records per CPU second",
                "peer_is": peer,
                "peer": round(rates[peer]),
                "ratio": round(rates[backend] / rates[peer], 3),
                "results": found[backend],
            }
            print(json.dumps(line), flush=True)


def profile(kind: str, width: int, work: Input) -> None:
    import cProfile
    import pstats

    profiler = cProfile.Profile()
    profiler.runcall(of_operator, operator_of(kind, width), work, "heap")
    pstats.Stats(profiler).sort_stats("tottime").print_stats(25)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--keys", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--profile", choices=("interval", "window", "regular"))
    arguments = parser.parse_args()
    gc.set_threshold(50_000, 50, 1_000)  # as slots do
    width = width_ms(arguments.rows, arguments.keys)
    for kind in ("interval", "window", "regular"):
        if arguments.profile not in (None, kind):
            continue
        work = batches(arguments.rows, arguments.rows // 2 if kind == "regular" else arguments.keys)
        if arguments.profile:
            profile(kind, width, work)
        else:
            compared(kind, width, work, arguments.rounds)


if __name__ == "__main__":
    main()
