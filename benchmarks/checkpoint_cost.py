"""What a checkpoint every second costs: the per-record pipeline with one, against the same without any.

Both run in turn in processes of their own. What counts is the CPU of one checkpoint, all threads, as a share of the
second between two: what the run with checkpoints took more, divided by their number. It does not depend on what else
the machine does (a run that takes longer has more checkpoints), and it is what throughput loses when no other core is
free for the uploads.

    python benchmarks/checkpoint_cost.py [--rows 3000000] [--rounds 3]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from bytewax_peer import rows_of
from per_record import run_penstock, write_orders

LIMIT = 0.1
INTERVAL_S = 1


class Run(NamedTuple):
    cpu_s: float
    checkpoints: int


def measured(path: Path, interval: str) -> Run:
    """One run in a process of its own."""
    command = [sys.executable, __file__, "--file", str(path), "--interval", interval]
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
    return Run(*json.loads(answer))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=3_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--file", type=Path)
    parser.add_argument("--interval")
    arguments = parser.parse_args()
    if arguments.file:
        run = run_penstock(arguments.file, arguments.interval)
        print(json.dumps(Run(rows_of(arguments.file) / run.cpu, run.checkpoints)))
        return
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "orders.parquet"
        write_orders(path, arguments.rows)
        pairs = [(measured(path, f"{INTERVAL_S}s"), measured(path, "0s")) for _ in range(arguments.rounds)]
    costs_s = [(run.cpu_s - without.cpu_s) / run.checkpoints for run, without in pairs]
    print(
        json.dumps(
            {
                "benchmark": "checkpoint_every_second_cost",
                "value": round(statistics.median(costs_s) / INTERVAL_S, 4),
                "unit": "share of throughput",
                "limit": LIMIT,
                "cpu_s": [[round(run.cpu_s, 2), round(without.cpu_s, 2)] for run, without in pairs],
                "checkpoints": [run.checkpoints for run, _ in pairs],
            }
        )
    )


if __name__ == "__main__":
    main()
