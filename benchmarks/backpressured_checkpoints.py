"""How long checkpoints take behind a slow operator: aligned, they wait for all that waits; unaligned, they do not.

One process, parallelism 2: numbers -> map -> hash exchange -> a function that takes a millisecond a record. Channels
hold as much as their window allows (`buffer-debloat.target` is off, which would keep them short), so the queues before
the slow function are some seconds long. Durations are from trigger to completion, wall time, because waiting is what is
measured; the median of a few checkpoints. Also printed: how much was under way, and went into the unaligned ones.

    python benchmarks/backpressured_checkpoints.py [--checkpoints 3]
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import penstock as ps
from penstock.connectors.collections import SequenceSource
from penstock.connectors.discard import DiscardingSink
from penstock.jobmanager.local_job import LocalJob

LIMIT_S = 2.0
"""Most that an unaligned checkpoint may take."""
RECORD_S = 0.001
KEYS = 1_000


class Slow(ps.KeyedProcessFunction):
    """Counts, and takes its time."""

    def open(self, runtime_context: ps.RuntimeContext) -> None:
        self.seen = runtime_context.get_state(ps.ValueStateDescriptor("seen", int, 0))

    def process_element(self, number: int, ctx: Any) -> Iterator[int]:
        time.sleep(RECORD_S)
        self.seen.update((self.seen.value() or 0) + 1)
        yield number


def same(number: int) -> int:
    return number


def key_of(number: int) -> int:
    return number % KEYS


def durations(directory: Path, checkpoints: int, *, unaligned: bool) -> tuple[list[float], int]:
    """Seconds from trigger to completion of each, and bytes under way in the last."""
    env = ps.StreamExecutionEnvironment().set_parallelism(2)
    env.enable_checkpointing("100ms", storage=directory, unaligned=unaligned, aligned_timeout="0ms")
    options = {
        "taskmanager.network.memory.buffer-debloat.target": "0ms",
        "taskmanager.memory.network.channel-window": "16KiB",
        "execution.checkpointing.timeout": "10min",
    }
    env.configure(ps.Configuration(options))
    numbers = env.from_source(SequenceSource(0, 100_000_000), name="numbers")
    numbers.map(same).disable_chaining().key_by(key_of).process(Slow()).sink_to(DiscardingSink())
    job = LocalJob(env.job_graph("backpressured"), env.configuration)
    try:
        job.run(lambda: job.status().checkpoints.completed >= checkpoints + 1)  # the first meets empty queues
        loop = job.cluster.loop
        shown = loop.master.view(loop.now_ms()).checkpoints.history
        in_flight = sum(s.persisted_bytes for part in shown[-1].acknowledged.values() for s in part)
        return [one.duration_ms / 1e3 for one in shown[1:]], in_flight
    finally:
        job.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--checkpoints", type=int, default=3)
    arguments = parser.parse_args()
    medians = {}
    for name, unaligned in (("aligned", False), ("unaligned", True)):
        with tempfile.TemporaryDirectory() as directory:
            found, in_flight = durations(Path(directory), arguments.checkpoints, unaligned=unaligned)
        medians[name] = statistics.median(found)
        limit = {"limit": LIMIT_S} if unaligned else {}
        line = {
            "benchmark": "checkpoint_under_backpressure", "kind": name, "value": round(medians[name], 3), "unit": "s",
            **limit, "all": [round(each, 2) for each in found], "in_flight_bytes": in_flight,
        }  # fmt: skip
        print(json.dumps(line), flush=True)
    ratio = medians["aligned"] / medians["unaligned"]
    print(json.dumps({"benchmark": "aligned_to_unaligned", "value": round(ratio, 1), "unit": "times as long"}))


if __name__ == "__main__":
    main()
