"""A per-record pipeline against Bytewax in the same run: Parquet -> map -> filter -> key_by -> running sum -> sink.

penstock keeps its state in RocksDB and takes checkpoints every 10 s; Bytewax runs with recovery off, and gets rows as
tuples made column by column, its fastest form here. At parallelism 1 both run in a process of their own. At parallelism
2 penstock runs on two slot processes of a cluster, Bytewax on two threads and on two processes; the better one counts.

All run in turn, several times. What counts is the ratio of their best rates a second of CPU: of the whole processes,
all threads, user and system, from the start of the job to its end, imports not included. Unlike wall time it does not
depend on what else the machine does, and penstock's uploads on helper threads are in it. The best rates by wall time
are printed as well; a cluster's hold submission, deployment and the master's start. That is why the job of parallelism
2 is longer.

    python benchmarks/per_record.py [--rows 1000000] [--rounds 3] [--parallelism 1,2]

`--profile` prints where penstock's time goes, by function.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from bytewax_peer import ONE, TWO, Rates, compared, measured, nowhere, peers, rates, rows_from, rows_of
from jobs import orders
from on_cluster import BenchmarkCluster, CpuMeter

LIMITS = {1: 0.7, 2: 1.3}
"""Least ratio at each parallelism."""
KEYS = 10_000
LONGER = 3
"""Times as many rows at parallelism 2: deployment, which Bytewax does not have, is half a second of CPU."""


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


def run_penstock(path: Path, interval: str = "10s") -> Rates:
    """In this process, with a checkpoint every `interval` ("0s": none)."""
    import penstock as ps

    with tempfile.TemporaryDirectory() as checkpoints:
        env = ps.StreamExecutionEnvironment(ps.Configuration({"execution.target": "local"}))
        env.set_parallelism(1)
        env.set_state_backend("rocksdb")
        env.enable_checkpointing(interval, storage=checkpoints)
        orders.build(env, str(path))
        return rates(lambda: env.execute("per record").status.checkpoints.completed, path)


def run_on_cluster(
    cluster: BenchmarkCluster, artefact: str, path: Path, interval: str = "10s", arguments: Sequence[str] = ()
) -> Rates:
    """On its two warm slots. The master's work is counted from when the job runs: its imports are not."""
    blank = cluster.until_warm(2)
    wall = time.perf_counter()
    with CpuMeter(blank) as meter:
        config = {"execution.checkpointing.interval": interval, "state.backend.type": "rocksdb"}
        job_id = cluster.run(artefact, ["--file", str(path), *arguments], config=config)
        cluster.until_state(job_id, "RUNNING")
        meter.add(cluster.master())
        cluster.until_state(job_id, "FINISHED")
    rows, checkpoints = rows_of(path), cluster.ask("GET", f"/jobs/{job_id}/checkpoints")["counts"]["completed"]
    return Rates(rows / meter.seconds, rows / (time.perf_counter() - wall), checkpoints)


def bytewax_flow(path: Path) -> Any:
    import bytewax.operators as op
    from bytewax.dataflow import Dataflow

    def running_sum(state: float | None, row: tuple[int, int, float, str]) -> tuple[float, float]:
        total = (state or 0.0) + row[2]
        return total, total

    flow = Dataflow("per_record")
    rows = op.input("orders", flow, rows_from(path, ("id", "customer", "amount", "country")))
    taxed = op.map("tax", rows, lambda row: (row[0], row[1], row[2] * 1.19, row[3]))
    large = op.filter("large", taxed, lambda row: row[2] > 100.0)
    keyed = op.key_on("customer", large, lambda row: str(row[1]))
    op.output("out", op.stateful_map("sum", keyed, running_sum), nowhere())
    return flow


PEERS = {"penstock": run_penstock, **peers(bytewax_flow)}


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
    parser.add_argument("--parallelism", default="1,2")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--peer", choices=PEERS)
    parser.add_argument("--file", type=Path)
    arguments = parser.parse_args()
    if arguments.peer:
        print(json.dumps(PEERS[arguments.peer](arguments.file)))
        return
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "orders.parquet"
        write_orders(path, arguments.rows)
        if arguments.profile:
            profile(path)
            return
        wanted = arguments.parallelism.split(",")
        once = {name: partial(measured, __file__, "--peer", name, "--file", str(path)) for name in PEERS}
        if "1" in wanted:
            one = {name: once[name] for name in ("penstock", *ONE)}
            compared("per_record_vs_bytewax", 1, arguments.rounds, one, LIMITS[1])
        if "2" in wanted:
            write_orders(path, LONGER * arguments.rows)
            with BenchmarkCluster() as cluster:
                two: dict[str, Callable[[], Rates]] = {name: once[name] for name in TWO}
                two["penstock"] = partial(run_on_cluster, cluster, cluster.upload("orders.py"), path)
                compared("per_record_vs_bytewax", 2, arguments.rounds, two, LIMITS[2])


if __name__ == "__main__":
    main()
