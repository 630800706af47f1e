"""What a cluster costs: start, submission, recovery, checkpoints, memory, latency. One cluster, driven over REST.

    cluster_start    until REST answers
    submission       from the request to run an uploaded script until the job runs on warm slots; and the part of it
                     after which the request is answered: the script's process, the job in the store
    recovery         kill -9 of one of two slots, with 100 MB of state together, until both subtasks process records
                     again. By default a job waits a second before it restarts: `without_delay` is without that
    checkpoint_cost  the per-record pipeline with a checkpoint every second, against the same without any: CPU seconds
                     of slots and master that one checkpoint costs
    slot_memory      USS and RSS of a blank slot, and of one that runs the job with 100 MB of state
    latency          source to end over a hash exchange, at half of the rate that the same job reaches without a limit

Waiting is a part of most of them, so they are wall times: on a busy machine they are longer.

    python benchmarks/cluster_costs.py [--only recovery,latency]
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import time
from collections.abc import Callable
from typing import Any

import psutil
from on_cluster import BenchmarkCluster
from per_record import run_on_cluster, write_orders

SUBMISSIONS = 5
RECOVERIES = 3
RECOVERY_LIMIT_S = 2.0
CHECKPOINT_LIMIT = 0.1
STATE_BYTES = 100_000_000
KEYS_WITH_STATE = 110_000
"""Compression takes a little."""
VALUE_BYTES = 1_000
ORDERS = 2_000_000
KEYS = 10_000
PACE = 5_000
"""Records a second and subtask where only a job that runs is wanted."""
LATENCY_S = 10


def show(benchmark: str, value: float, unit: str, **more: object) -> None:
    print(json.dumps({"benchmark": benchmark, "value": value, "unit": unit, **more}), flush=True)


class Paced:
    """benchmarks/jobs/paced.py on the cluster, and what it tells."""

    def __init__(self, cluster: BenchmarkCluster) -> None:
        self.cluster = cluster
        self.artefact = cluster.upload("paced.py")
        self.told = cluster.directory / "told"
        self.told.mkdir()

    def run(self, rows: int, *, rate: int, keys: int = KEYS, value_bytes: int = 8, interval: str = "10s") -> str:
        for path in self.told.iterdir():
            path.unlink()
        self.cluster.until_warm(2)
        arguments = [
            f"--rows={rows}", f"--rate={rate}", f"--keys={keys}", f"--value-bytes={value_bytes}", f"--told={self.told}"
        ]  # fmt: skip
        config = {"execution.checkpointing.interval": interval}
        return self.cluster.run(self.artefact, arguments, config=config)

    def firsts_s(self) -> list[float]:
        """When its two subtasks processed their first records (s since the epoch), once both have."""

        def both() -> list[float]:
            found = [int(path.name.rpartition("-")[2]) / 1e9 for path in self.told.glob("first-*")]
            return found if len(found) >= 2 else []

        return self.cluster.until(both, "both subtasks process records", 0.005)

    def with_state(self) -> str:
        """A job with a completed checkpoint of STATE_BYTES."""
        job_id = self.run(100_000_000, rate=PACE, keys=KEYS_WITH_STATE, value_bytes=VALUE_BYTES,
                          interval="1s")  # fmt: skip

        def complete() -> bool:
            latest = self.cluster.ask("GET", f"/jobs/{job_id}/checkpoints")["latest"]["completed"]
            return bool(latest and latest["state_size"] >= STATE_BYTES)

        self.cluster.until(complete, f"a checkpoint of {STATE_BYTES:,} bytes")
        return job_id


def cluster_start(paced: Paced) -> None:
    show("cluster_start", round(paced.cluster.start_s, 2), "s")


def submission(paced: Paced) -> None:
    answered_s, running_s = [], []
    for _ in range(SUBMISSIONS):
        paced.cluster.until_warm(2)
        began_s = time.monotonic()
        job_id = paced.run(100_000_000, rate=PACE)
        answered_s.append(time.monotonic() - began_s)
        paced.cluster.until_state(job_id, "RUNNING", 0.01)
        running_s.append(time.monotonic() - began_s)
        paced.cluster.cancel(job_id)
    show("submission", round(statistics.median(running_s), 2), "s until RUNNING, median",
         answered=round(statistics.median(answered_s), 2), all=[round(each, 2) for each in running_s])  # fmt: skip


def recovery(paced: Paced) -> None:
    job_id = paced.with_state()
    delay_s = 1.0  # the default, which grows from failure to failure: only the first one waits for it
    taken_s: list[float] = []
    for number in range(RECOVERIES):
        paced.cluster.until_warm(1)
        for path in paced.told.iterdir():
            path.unlink()
        killed_s = time.time()
        os.kill(paced.cluster.slots(job_id)[0], signal.SIGKILL)
        taken_s.append(max(paced.firsts_s()) - killed_s - delay_s * 1.5**number + delay_s)
        paced.cluster.until_state(job_id, "RUNNING")
    best_s = statistics.median(taken_s)
    show("recovery", round(best_s, 2), "s from kill -9 to records, 100 MB of state, median", limit=RECOVERY_LIMIT_S,
         without_delay=round(best_s - delay_s, 2), all=[round(each, 2) for each in taken_s])  # fmt: skip
    memory(paced, job_id)
    paced.cluster.cancel(job_id)


def memory(paced: Paced, job_id: str) -> None:
    def sizes(pids: list[int]) -> dict[str, int]:
        infos = [psutil.Process(pid).memory_full_info() for pid in pids]
        return {name: max(getattr(info, name) for info in infos) >> 20 for name in ("uss", "rss")}

    blank, running = sizes(paced.cluster.until_warm(1)), sizes(paced.cluster.slots(job_id))
    show("slot_memory", running["uss"], "MiB, USS of a running slot", running=running, blank=blank)


def checkpoint_cost(paced: Paced) -> None:
    path = paced.cluster.directory / "orders.parquet"
    write_orders(path, ORDERS)
    artefact = paced.cluster.upload("orders.py")
    costs_s, counts = [], []
    for _ in range(2):
        every_second, without = (run_on_cluster(paced.cluster, artefact, path, interval) for interval in ("1s", "0s"))
        counts.append(every_second.checkpoints)
        costs_s.append((ORDERS / every_second.cpu - ORDERS / without.cpu) / max(1, every_second.checkpoints))
    show("checkpoint_cost", round(statistics.mean(costs_s), 3), "CPU s of a checkpoint, every second, parallelism 2",
         limit=CHECKPOINT_LIMIT, checkpoints=counts)  # fmt: skip


def latency(paced: Paced) -> None:
    rows = 2_000_000
    began_s = min(_firsts_of(paced, paced.run(rows, rate=0)))
    most = rows / (max(path.stat().st_mtime for path in paced.told.glob("latencies-*")) - began_s)
    rate = int(most / 2 / 2)
    _firsts_of(paced, paced.run(rate * 2 * LATENCY_S, rate=rate))
    found: list[float] = []
    for path in paced.told.glob("latencies-*"):
        of_one = json.loads(path.read_text())
        found += of_one[len(of_one) // 5 :]  # what it was late at its start it makes up for
    cuts = statistics.quantiles(found, n=100)
    show("latency", round(cuts[49], 1), "ms, p50 from source to end at half load", p99=round(cuts[98], 1),
         records_per_s=2 * rate, most_per_s=round(most))  # fmt: skip


def _firsts_of(paced: Paced, job_id: str) -> list[float]:
    firsts = paced.firsts_s()
    paced.cluster.until_state(job_id, "FINISHED")
    return firsts


PARTS: dict[str, Callable[[Paced], Any]] = {
    "cluster_start": cluster_start,
    "submission": submission,
    "recovery": recovery,
    "checkpoint_cost": checkpoint_cost,
    "latency": latency,
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default=",".join(PARTS), help=f"of {', '.join(PARTS)}; memory is with recovery")
    wanted = parser.parse_args().only.split(",")
    with BenchmarkCluster() as cluster:
        paced = Paced(cluster)
        for name in wanted:
            PARTS[name](paced)


if __name__ == "__main__":
    main()
