"""A Python aggregate in windows per key, against Bytewax in the same run: windows of 10 s, and of 10 s every 2 s.

Orders of customers (count, sum and largest amount of each) come from Parquet, a thousand customers with ten thousand
orders a second of event time. As in benchmarks/per_record.py, penstock keeps state in RocksDB and takes checkpoints,
Bytewax runs with recovery off and folds in windows; the better one of its forms counts: two threads or two processes,
its clock in the order of the records. Ratios of the best rates a second of CPU of the whole processes. What a job costs
once (0.7 s of CPU for its deployment) is to be a few percent of what its records cost, so there are more of ours.

    python benchmarks/windows_vs_bytewax.py [--rows 6000000] [--rounds 2] [--windows tumbling,sliding]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from bytewax_peer import TWO, Rates, compared, measured, nowhere, peers, rows_from
from on_cluster import BenchmarkCluster
from per_record import run_on_cluster

KEYS, PER_S = 1_000, 10_000
LIMITS = {"tumbling": 5.0, "sliding": 8.0}
PATIENCE = timedelta(seconds=10)
"""Of its clock, for what two workers read at different speed: nothing may be late."""
BYTEWAX_SHARE = 15
"""Its rate does not depend on how many rows there are; it reads this part of them."""


def write_orders(path: Path, rows: int) -> None:
    ids = range(rows)
    columns = {
        "customer": pa.array([i * 7_919 % 104_729 % KEYS for i in ids], pa.int64()),
        "at": pa.array([i * 1_000 // PER_S for i in ids], pa.int64()),
        "amount": pa.array([float(i % 1_000) for i in ids], pa.float64()),
    }
    pq.write_table(pa.table(columns), path, row_group_size=PER_S)


def bytewax_flow(windows: str, path: Path) -> Any:
    import bytewax.operators as op
    import bytewax.operators.windowing as win
    from bytewax.dataflow import Dataflow

    start = datetime.fromtimestamp(0, UTC)

    def spent(state: tuple[int, float, float], row: tuple[int, int, float]) -> tuple[int, float, float]:
        count, total, most = state
        amount = row[2]
        return count + 1, total + amount, max(most, amount)

    def both(one: tuple[int, float, float], other: tuple[int, float, float]) -> tuple[int, float, float]:
        return one[0] + other[0], one[1] + other[1], max(one[2], other[2])

    length, every = timedelta(seconds=10), timedelta(seconds=2)
    windower: Any = win.TumblingWindower(length, start)
    if windows == "sliding":
        windower = win.SlidingWindower(length, every, start)
    flow = Dataflow("windows")
    rows = op.input("orders", flow, rows_from(path, ("customer", "at", "amount")))
    keyed = op.key_on("customer", rows, lambda row: str(row[0]))
    clock: Any = win.EventClock(lambda row: datetime.fromtimestamp(row[1] / 1_000, UTC), PATIENCE)
    folded = win.fold_window("spent", keyed, clock, windower, lambda: (0, 0.0, 0.0), spent, both, ordered=False)
    op.output("out", folded.down, nowhere())
    return flow


def compare(cluster: BenchmarkCluster, windows: str, files: tuple[Path, Path], rounds: int) -> None:
    once: dict[str, Callable[[], Rates]] = {
        name: partial(measured, __file__, "--peer", name, "--windows", windows, "--file", str(files[1])) for name in TWO
    }
    artefact = cluster.upload("spending.py")
    once["penstock"] = partial(run_on_cluster, cluster, artefact, files[0], arguments=("--windows", windows))
    compared(f"{windows}_windows_vs_bytewax", 2, rounds, once, LIMITS[windows])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=6_000_000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--windows", default=",".join(LIMITS))
    parser.add_argument("--peer")
    parser.add_argument("--file", type=Path)
    arguments = parser.parse_args()
    if arguments.peer:
        print(json.dumps(peers(partial(bytewax_flow, arguments.windows))[arguments.peer](arguments.file)))
        return
    with tempfile.TemporaryDirectory() as directory, BenchmarkCluster() as cluster:
        files = Path(directory) / "orders.parquet", Path(directory) / "fewer.parquet"
        write_orders(files[0], arguments.rows)
        write_orders(files[1], arguments.rows // BYTEWAX_SHARE)
        for windows in arguments.windows.split(","):
            compare(cluster, windows, files, arguments.rounds)


if __name__ == "__main__":
    main()
