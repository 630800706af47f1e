"""Windows on Python records, in one subtask on RocksDB: tumbling, sliding of sixty panes, sessions; and plain Python.

Work: orders of a thousand customers, ten thousand a second of event time, in batches of a thousand with a watermark
after each, through the operator alone: from records at hand to results. Folded is what jobs/spending.py folds. The
other program keeps the same in dicts, every order in every window that it belongs to, and nothing that could be
restored.

    python benchmarks/windows_on_rows.py [--rows 1000000] [--rounds 2]

One JSON line per kind of window: records a second of CPU, the best of each. How many panes a sliding window has costs
the plain program in proportion, and us a part of it: we fold an order once, and combine panes when a window is over.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

from jobs.spending import WINDOWS, Order, Spending, Spent

from penstock.runtime.elements import MAX_WATERMARK
from penstock.runtime.keys import KeyByColumns
from penstock.runtime.records.record_types import record_type_of
from penstock.runtime.windows.building import window_operator
from penstock.runtime.windows.evaluations import Aggregate
from penstock.testing.harness import OperatorHarness

KEYS, PER_S, BATCH = 1_000, 10_000, 1_000
GAP_MS = 100

Batches = list[list[Order]]


def orders(rows: int) -> Batches:
    made = [Order(i * 7_919 % 104_729 % KEYS, i * 1_000 // PER_S, float(i % 1_000)) for i in range(rows)]
    return [made[start : start + BATCH] for start in range(0, rows, BATCH)]


def own(kind: str, batches: Batches) -> int:
    operator = window_operator(
        KeyByColumns(["customer"]), WINDOWS[kind], Aggregate(Spending()), record_type_of(Spent),
        input_type=record_type_of(Order),
    )  # fmt: skip
    results = 0
    with OperatorHarness(operator, backend="rocksdb", record_type=Order) as harness:
        for batch in batches:
            harness.push(batch, [order.at for order in batch])
            harness.watermark(batch[-1].at - 1)
            results += sum(map(len, harness.batches))
            harness.batches.clear()
        harness.watermark(MAX_WATERMARK)
        return results + sum(map(len, harness.batches))


def plain_aligned(size: int, slide: int, batches: Batches) -> int:
    fold, windows, results = Spending(), dict[int, dict[int, Spent]](), 0
    for batch in batches:
        for order in batch:
            last = order.at - order.at % slide
            for start in range(last, last - size, -slide):
                of_window = windows.setdefault(start, {})
                of_window[order.customer] = fold.add(order, of_window.get(order.customer) or (0, 0.0, 0.0))
        for start in [start for start in windows if start + size <= batch[-1].at]:
            results += len(list(map(fold.get_result, windows.pop(start).values())))
    return results + sum(map(len, windows.values()))


def plain_sessions(gap: int, batches: Batches) -> int:
    fold, sessions, results = Spending(), dict[int, tuple[int, Spent]](), 0

    def over(until: int) -> Iterator[int]:
        return (customer for customer, (last, _) in sessions.items() if last + gap <= until)

    for batch in batches:
        for order in batch:
            last, spent = sessions.get(order.customer, (order.at, None))
            if spent is not None and last + gap <= order.at:
                results, spent = results + 1, None
            sessions[order.customer] = order.at, fold.add(order, spent or (0, 0.0, 0.0))
        for customer in list(over(batch[-1].at)):
            fold.get_result(sessions.pop(customer)[1])
            results += 1
    return results + len(sessions)


PLAIN: dict[str, Callable[[Batches], int]] = {
    "tumbling": lambda batches: plain_aligned(10_000, 10_000, batches),
    "sliding 60": lambda batches: plain_aligned(60_000, 1_000, batches),
    "session": lambda batches: plain_sessions(GAP_MS, batches),
}
PLAIN_SHARE = {"sliding 60": 10}
"""The plain program is given this part of the orders, where it is slow."""


def rate(job: Callable[[], Any], records: int) -> tuple[float, Any]:
    began = time.process_time()
    found = job()
    return records / (time.process_time() - began), found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    gc.set_threshold(50_000, 50, 1_000)  # as slots do
    batches = orders(arguments.rows)
    for kind, plain in PLAIN.items():
        fewer = batches[: len(batches) // PLAIN_SHARE.get(kind, 1)]
        ours = theirs = 0.0
        for _ in range(arguments.rounds):
            once, results = rate(lambda kind=kind: own(kind, batches), arguments.rows)  # type: ignore[misc]
            peer, due = rate(lambda plain=plain, fewer=fewer: plain(fewer), len(fewer) * BATCH)  # type: ignore[misc]
            assert len(fewer) < len(batches) or results == due, (kind, results, due)
            ours, theirs = max(ours, once), max(theirs, peer)
        line = {"benchmark": f"windows on rows: {kind}", "value": round(ours), "unit": "records per CPU second"}
        print(json.dumps(line | {"plain": round(theirs), "ratio": round(ours / theirs, 2)}), flush=True)


if __name__ == "__main__":
    main()
