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
import multiprocessing
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from jobs import orders
from on_cluster import BenchmarkCluster, CpuMeter

LIMITS = {1: 0.7, 2: 1.3}
"""Least ratio at each parallelism."""
KEYS = 10_000
LONGER = 3
"""Times as many rows at parallelism 2: deployment, which Bytewax does not have, is half a second of CPU."""
BYTEWAX = {1: ("bytewax",), 2: ("bytewax on threads", "bytewax on processes")}


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


def run_on_cluster(cluster: BenchmarkCluster, artefact: str, path: Path, interval: str = "10s") -> Rates:
    """On its two warm slots. The master's work is counted from when the job runs: its imports are not."""
    blank = cluster.until_warm(2)
    wall = time.perf_counter()
    with CpuMeter(blank) as meter:
        config = {"execution.checkpointing.interval": interval, "state.backend.type": "rocksdb"}
        job_id = cluster.run(artefact, ["--file", str(path)], config=config)
        cluster.until_state(job_id, "RUNNING")
        meter.add(cluster.master())
        cluster.until_state(job_id, "FINISHED")
    rows, checkpoints = rows_of(path), cluster.ask("GET", f"/jobs/{job_id}/checkpoints")["counts"]["completed"]
    return Rates(rows / meter.seconds, rows / (time.perf_counter() - wall), checkpoints)


def bytewax_flow(path: Path) -> Any:
    import bytewax.operators as op
    from bytewax.dataflow import Dataflow
    from bytewax.inputs import DynamicSource, StatelessSourcePartition
    from bytewax.outputs import DynamicSink, StatelessSinkPartition

    class Rows(StatelessSourcePartition[tuple[int, int, float, str]]):
        def __init__(self, worker: int, workers: int) -> None:
            file = pq.ParquetFile(path)
            self.batches = file.iter_batches(1_000, list(range(worker, file.num_row_groups, workers)))

        def next_batch(self) -> Iterable[tuple[int, int, float, str]]:
            batch = next(self.batches)
            return list(zip(*(column.to_pylist() for column in batch.columns), strict=True))

    class Source(DynamicSource[tuple[int, int, float, str]]):
        def build(self, step_id: str, worker_index: int, worker_count: int) -> Rows:
            return Rows(worker_index, worker_count)

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
    return flow


def run_bytewax(path: Path) -> Rates:
    from bytewax.testing import run_main

    flow = bytewax_flow(path)
    return rates(lambda: run_main(flow) or 0, path)


def run_bytewax_threads(path: Path) -> Rates:
    from bytewax.testing import cluster_main

    flow = bytewax_flow(path)
    return rates(lambda: cluster_main(flow, [], 0, worker_count_per_proc=2) or 0, path)


def _bytewax_process(path: Path, addresses: list[str], number: int, pipe: Connection) -> None:
    from bytewax.testing import cluster_main

    flow = bytewax_flow(path)
    pipe.send(None)
    pipe.recv()  # both have imported what they need
    cpu_s = time.process_time()
    cluster_main(flow, addresses, number)
    pipe.send(time.process_time() - cpu_s)


def run_bytewax_processes(path: Path) -> Rates:
    addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
    context = multiprocessing.get_context("spawn")
    pipes = []
    for number in range(2):
        ours, theirs = context.Pipe()
        context.Process(target=_bytewax_process, args=(path, addresses, number, theirs)).start()
        pipes.append(ours)
    for pipe in pipes:
        pipe.recv()
    wall, rows = time.perf_counter(), rows_of(path)
    for pipe in pipes:
        pipe.send(None)
    cpu_s = sum(pipe.recv() for pipe in pipes)
    return Rates(rows / cpu_s, rows / (time.perf_counter() - wall), 0)


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


PEERS = {
    "penstock": run_penstock,
    "bytewax": run_bytewax,
    "bytewax on threads": run_bytewax_threads,
    "bytewax on processes": run_bytewax_processes,
}


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


def compared(parallelism: int, rounds: int, run: Mapping[str, Callable[[], Rates]]) -> None:
    """All in turn; penstock's line against the better peer."""
    runs: dict[str, list[Rates]] = {name: [] for name in run}
    for _ in range(rounds):
        for name, once in run.items():
            runs[name].append(once())
    cpu = {name: max(each.cpu for each in of_one) for name, of_one in runs.items()}
    wall = {name: round(max(each.wall for each in of_one)) for name, of_one in runs.items()}
    peer = max((name for name in run if name != "penstock"), key=lambda name: cpu[name])
    print(
        json.dumps(
            {
                "benchmark": "per_record_vs_bytewax",
                "parallelism": parallelism,
                "value": round(cpu["penstock"]),
                "unit": "records per CPU second",
                "peer": round(cpu[peer]),
                "peer_is": peer,
                "ratio": round(cpu["penstock"] / cpu[peer], 3),
                "limit": LIMITS[parallelism],
                "wall": wall,
            }
        ),
        flush=True,
    )


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
        if "1" in wanted:
            one = ("penstock", *BYTEWAX[1])
            compared(1, arguments.rounds, {name: partial(measured, name, path) for name in one})
        if "2" in wanted:
            write_orders(path, LONGER * arguments.rows)
            with BenchmarkCluster() as cluster:
                two: dict[str, Callable[[], Rates]] = {name: partial(measured, name, path) for name in BYTEWAX[2]}
                two["penstock"] = partial(run_on_cluster, cluster, cluster.upload("orders.py"), path)
                compared(2, arguments.rounds, two)


if __name__ == "__main__":
    main()
