"""A per-record pipeline against Bytewax in the same run: Parquet -> map -> filter -> key_by -> running sum -> sink.

penstock keeps its state in RocksDB and takes checkpoints every 10 s; Bytewax runs with recovery off. Both run in a
process of their own, in turn, several times. What counts is the ratio of their best rates a second of CPU: of the
whole process, all threads, user and system, from the start of the job to its end, imports not included. Unlike wall
time it does not depend on what else the machine does, and penstock's uploads on helper threads are in it. The rates by
wall time are printed as well. Bytewax gets rows as tuples made column by column, its fastest form here.

    python benchmarks/per_record.py [--rows 1000000] [--rounds 3]

`--profile` prints where penstock's time goes, by function.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

LIMIT = 0.7
KEYS = 10_000


class Order(NamedTuple):
    id: int
    customer: int
    amount: float
    country: str


def write_orders(path: Path, rows: int) -> None:
    """`rows` orders of 10,000 customers, the same on every run."""
    ids = range(rows)
    columns = {
        "id": pa.array(ids, pa.int64()),
        "customer": pa.array([i * 7_919 % KEYS for i in ids], pa.int64()),
        "amount": pa.array([float(i % 1_000) for i in ids], pa.float64()),
        "country": pa.array([("de", "fr", "it", "es")[i % 4] for i in ids]),
    }
    pq.write_table(pa.table(columns), path, row_group_size=64_000)


class Rates(NamedTuple):
    """Records a second of CPU, of all threads, and of wall time; and how many checkpoints there were."""

    cpu: float
    wall: float
    checkpoints: int


def rates(job: Callable[[], int], path: Path) -> Rates:
    """job: gives the number of its checkpoints."""
    rows = rows_of(path)
    wall, cpu = time.perf_counter(), time.process_time()
    checkpoints = job()
    return Rates(rows / (time.process_time() - cpu), rows / (time.perf_counter() - wall), checkpoints)


def with_tax(order: Order) -> Order:
    return Order(order.id, order.customer, order.amount * 1.19, order.country)


def is_large(order: Order) -> bool:
    return order.amount > 100.0


def customer_of(order: Order) -> int:
    return order.customer


def run_penstock(path: Path, interval: str = "10s") -> Rates:
    """With a checkpoint every `interval` ("0s": none)."""
    import penstock as ps
    from penstock.connectors.discard import DiscardingSink
    from penstock.connectors.files import FileSource
    from penstock.connectors.formats import Parquet

    with tempfile.TemporaryDirectory() as checkpoints:
        env = ps.StreamExecutionEnvironment()
        env.set_parallelism(1)
        env.set_state_backend("rocksdb")
        env.enable_checkpointing(interval, storage=checkpoints)
        (
            env.from_source(FileSource(str(path), Parquet(Order)), ps.WatermarkStrategy.no_watermarks(), name="orders")
            .map(with_tax)
            .filter(is_large)
            .key_by(customer_of, key_type=int)
            .sum("amount")
            .sink_to(DiscardingSink())
        )
        return rates(lambda: env.execute("per record").status.checkpoints.completed, path)


def run_bytewax(path: Path) -> Rates:
    import bytewax.operators as op
    from bytewax.dataflow import Dataflow
    from bytewax.inputs import DynamicSource, StatelessSourcePartition
    from bytewax.outputs import DynamicSink, StatelessSinkPartition
    from bytewax.testing import run_main

    class Rows(StatelessSourcePartition[tuple[int, int, float, str]]):
        def __init__(self) -> None:
            self.batches = pq.ParquetFile(path).iter_batches(batch_size=1_000)

        def next_batch(self) -> Iterable[tuple[int, int, float, str]]:
            batch = next(self.batches)
            return list(zip(*(column.to_pylist() for column in batch.columns), strict=True))

    class Source(DynamicSource[tuple[int, int, float, str]]):
        def build(self, step_id: str, worker_index: int, worker_count: int) -> Rows:
            return Rows()

    class Nothing(StatelessSinkPartition[Any]):
        def write_batch(self, items: list[Any]) -> None:
            return None

    class Sink(DynamicSink[Any]):
        def build(self, step_id: str, worker_index: int, worker_count: int) -> Nothing:
            return Nothing()

    def running_sum(state: float | None, row: tuple[int, int, float, str]) -> tuple[float, float]:
        total = (state or 0.0) + row[2]
        return total, total

    flow = Dataflow("per_record")
    rows = op.input("orders", flow, Source())
    taxed = op.map("tax", rows, lambda row: (row[0], row[1], row[2] * 1.19, row[3]))
    large = op.filter("large", taxed, lambda row: row[2] > 100.0)
    keyed = op.key_on("customer", large, lambda row: str(row[1]))
    op.output("out", op.stateful_map("sum", keyed, running_sum), Sink())
    return rates(lambda: run_main(flow) or 0, path)


def rows_of(path: Path) -> int:
    count: int = pq.ParquetFile(path).metadata.num_rows
    return count


def measured(peer: str, path: Path) -> Rates:
    """One run in a process of its own."""
    command = [sys.executable, __file__, "--peer", peer, "--file", str(path)]
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
    return Rates(*json.loads(answer))


def profile(path: Path) -> None:
    import cProfile
    import pstats

    profiler = cProfile.Profile()
    profiler.runcall(run_penstock, path)
    pstats.Stats(profiler).sort_stats("tottime").print_stats(30)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--peer", choices=("penstock", "bytewax"))
    parser.add_argument("--file", type=Path)
    arguments = parser.parse_args()
    if arguments.peer:
        print(json.dumps({"penstock": run_penstock, "bytewax": run_bytewax}[arguments.peer](arguments.file)))
        return
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "orders.parquet"
        write_orders(path, arguments.rows)
        if arguments.profile:
            profile(path)
            return
        runs: dict[str, list[Rates]] = {"penstock": [], "bytewax": []}
        for _ in range(arguments.rounds):
            for peer, of_peer in runs.items():
                of_peer.append(measured(peer, path))
    cpu = {peer: max(run.cpu for run in of_peer) for peer, of_peer in runs.items()}
    wall = {peer: round(max(run.wall for run in of_peer)) for peer, of_peer in runs.items()}
    print(
        json.dumps(
            {
                "benchmark": "per_record_vs_bytewax",
                "value": round(cpu["penstock"]),
                "unit": "records per CPU second",
                "peer": round(cpu["bytewax"]),
                "ratio": round(cpu["penstock"] / cpu["bytewax"], 3),
                "limit": LIMIT,
                "wall": wall,
            }
        )
    )


if __name__ == "__main__":
    main()
