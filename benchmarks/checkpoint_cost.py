"""What a checkpoint every second costs: the per-record pipeline with one, against the same without any.

Both run in turn in processes of their own; CPU seconds of the whole process count, because they do not depend on what
else the machine does, and uploads on helper threads are in them.

    python benchmarks/checkpoint_cost.py [--rows 3000000] [--rounds 3]
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from per_record import run_penstock, write_orders

LIMIT = 0.1


def cpu_seconds(path: Path, interval: str) -> float:
    """Of one run in a process of its own."""
    command = [sys.executable, __file__, "--file", str(path), "--interval", interval]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=3_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--file", type=Path)
    parser.add_argument("--interval")
    arguments = parser.parse_args()
    if arguments.file:
        run_penstock(arguments.file, arguments.interval)
        usage = resource.getrusage(resource.RUSAGE_SELF)
        print(usage.ru_utime + usage.ru_stime)
        return
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "orders.parquet"
        write_orders(path, arguments.rows)
        pairs = [(cpu_seconds(path, "1s"), cpu_seconds(path, "0s")) for _ in range(arguments.rounds)]
    cost = statistics.median(with_checkpoints / without - 1 for with_checkpoints, without in pairs)
    print(
        json.dumps(
            {
                "benchmark": "checkpoint_every_second_cost",
                "value": round(cost, 4),
                "unit": "share of throughput",
                "limit": LIMIT,
                "cpu_s": [[round(a, 2), round(b, 2)] for a, b in pairs],
            }
        )
    )


if __name__ == "__main__":
    main()
