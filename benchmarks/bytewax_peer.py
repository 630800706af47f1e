"""Bytewax as a peer: a flow run in this process, on two threads, and on two processes. Imported by benchmarks; prints
nothing.

Rates are by CPU: of the whole processes, all threads, user and system, from the start of the flow to its end, imports
not included. Unlike wall time that does not depend on what else the machine does.
"""

from __future__ import annotations

import json
import multiprocessing
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq

Flow = Callable[[Path], Any]
"""The dataflow that reads this file."""
ONE, TWO = ("bytewax",), ("bytewax on threads", "bytewax on processes")
"""Peers at parallelism 1 and 2."""


class Rates(NamedTuple):
    """Records a second of CPU, of all threads, and of wall time; and how many checkpoints there were."""

    cpu: float
    wall: float
    checkpoints: int


def rows_of(path: Path) -> int:
    count: int = pq.ParquetFile(path).metadata.num_rows
    return count


def rates(job: Callable[[], int], path: Path) -> Rates:
    """job: gives the number of its checkpoints."""
    rows = rows_of(path)
    wall, cpu = time.perf_counter(), time.process_time()
    checkpoints = job()
    return Rates(rows / (time.process_time() - cpu), rows / (time.perf_counter() - wall), checkpoints)


def peers(flow: Flow) -> dict[str, Callable[[Path], Rates]]:
    """By name, each to be called in a process of its own. `flow`: a function of a module."""
    return {
        "bytewax": partial(_alone, flow),
        "bytewax on threads": partial(_on_threads, flow),
        "bytewax on processes": partial(_on_processes, flow),
    }


def measured(script: str, *arguments: str) -> Rates:
    """One run of a script in a process of its own, whose last line is the rates as JSON."""
    command = [sys.executable, script, *arguments]
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
    return Rates(*json.loads(answer))


def compared(
    benchmark: str, parallelism: int, rounds: int, run: Mapping[str, Callable[[], Rates]], limit: float
) -> None:
    """All in turn, several times; penstock's best against the better peer's best, as one line of JSON."""
    runs: dict[str, list[Rates]] = {name: [] for name in run}
    for _ in range(rounds):
        for name, once in run.items():
            runs[name].append(once())
    cpu = {name: max(each.cpu for each in of_one) for name, of_one in runs.items()}
    wall = {name: round(max(each.wall for each in of_one)) for name, of_one in runs.items()}
    peer = max((name for name in run if name != "penstock"), key=lambda name: cpu[name])
    line = {
        "benchmark": benchmark,
        "parallelism": parallelism,
        "value": round(cpu["penstock"]),
        "unit": "records per CPU second",
        "peer": round(cpu[peer]),
        "peer_is": peer,
        "ratio": round(cpu["penstock"] / cpu[peer], 3),
        "limit": limit,
        "wall": wall,
    }
    print(json.dumps(line), flush=True)


def rows_from(path: Path, columns: Sequence[str]) -> Any:
    """A source of tuples, made column by column: its fastest form here."""
    from bytewax.inputs import DynamicSource, StatelessSourcePartition

    class Rows(StatelessSourcePartition[tuple[Any, ...]]):
        def __init__(self, worker: int, workers: int) -> None:
            file = pq.ParquetFile(path)
            groups = list(range(worker, file.num_row_groups, workers))
            self.batches = file.iter_batches(1_000, groups, list(columns))

        def next_batch(self) -> Iterable[tuple[Any, ...]]:
            batch = next(self.batches)
            return list(zip(*(column.to_pylist() for column in batch.columns), strict=True))

    class Source(DynamicSource[tuple[Any, ...]]):
        def build(self, step_id: str, worker_index: int, worker_count: int) -> Rows:
            return Rows(worker_index, worker_count)

    return Source()


def nowhere() -> Any:
    """A sink that forgets what it is given."""
    from bytewax.outputs import DynamicSink, StatelessSinkPartition

    class Nothing(StatelessSinkPartition[Any]):
        def write_batch(self, items: list[Any]) -> None:
            return None

    class Sink(DynamicSink[Any]):
        def build(self, step_id: str, worker_index: int, worker_count: int) -> Nothing:
            return Nothing()

    return Sink()


def _alone(flow: Flow, path: Path) -> Rates:
    from bytewax.testing import run_main

    made = flow(path)
    return rates(lambda: run_main(made) or 0, path)


def _on_threads(flow: Flow, path: Path) -> Rates:
    from bytewax.testing import cluster_main

    made = flow(path)
    return rates(lambda: cluster_main(made, [], 0, worker_count_per_proc=2) or 0, path)


def _one_of_two(flow: Flow, path: Path, addresses: list[str], number: int, pipe: Connection) -> None:
    from bytewax.testing import cluster_main

    made = flow(path)
    pipe.send(None)
    pipe.recv()  # both have imported what they need
    cpu_s = time.process_time()
    cluster_main(made, addresses, number)
    pipe.send(time.process_time() - cpu_s)


def _on_processes(flow: Flow, path: Path) -> Rates:
    addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
    context = multiprocessing.get_context("spawn")
    pipes = []
    for number in range(2):
        ours, theirs = context.Pipe()
        context.Process(target=_one_of_two, args=(flow, path, addresses, number, theirs)).start()
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
