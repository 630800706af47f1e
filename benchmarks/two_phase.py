"""What two phases cost and gain: CPU of one process per record, at parallelism 2, of tumbling windows on rows.

Keys are uniform (100, or 100,000: the cost) or skewed (the gain). One process runs all, so CPU is that of both sides
without sockets; `over` is the share of records that go over the exchange.

    python benchmarks/two_phase.py [records]
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from operator import itemgetter
from typing import Any

import numpy as np

os.environ.setdefault("PENSTOCK__EXECUTION__TARGET", "local")

import penstock as ps
from penstock.api import session
from penstock.connectors.discard import DiscardingSink

RECORDS = 400_000
WINDOW_MS = 10_000
KEYS = {
    "uniform, 100 keys": lambda draw, count: draw.integers(0, 100, count),
    "uniform, 100,000 keys": lambda draw, count: draw.integers(0, 100_000, count),
    "zipf 1.2": lambda draw, count: draw.zipf(1.2, count) % 100_000,
    "one key of 90 %": lambda draw, count: np.where(draw.random(count) < 0.9, 0, draw.integers(0, 1_000, count)),
}
Record = tuple[int, int, int]


class Sum(ps.AggregateFunction):
    def create_accumulator(self) -> int:
        return 0

    def add(self, value: Record, accumulator: int) -> int:
        return accumulator + value[1]

    def merge(self, acc_a: int, acc_b: int) -> int:
        return acc_a + acc_b

    def get_result(self, accumulator: int) -> int:
        return accumulator


def run(records: list[Record], two_phase: bool) -> dict[str, Any]:
    env = ps.StreamExecutionEnvironment().set_parallelism(2)
    monotonous = ps.WatermarkStrategy.for_monotonous_timestamps().with_timestamp_assigner(lambda r, _: r[2])
    source = env.from_collection(records, watermark_strategy=monotonous, type=tuple[int, int, int])
    windows = source.rebalance().map(lambda r: r, output_type=tuple[int, int, int]).key_by(itemgetter(0), key_type=int)
    sums = windows.window(ps.TumblingEventTimeWindows(WINDOW_MS)).aggregate(Sum(), two_phase=two_phase, name="sums")
    sums.sink_to(DiscardingSink())
    began = time.process_time()
    status = env.execute("two phases").status
    cpu_s = time.process_time() - began
    (keyed,) = [vertex for vertex in status.vertices if vertex.name.startswith("sums")]
    return {"cpu_s": cpu_s, "over": keyed.records_in / len(records)}


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else RECORDS
    session.say = lambda *_, **__: None  # type: ignore[assignment]
    draw = np.random.default_rng(1)
    with tempfile.TemporaryDirectory() as directory:
        os.chdir(directory)
        for name, keys in KEYS.items():
            drawn = keys(draw, count).tolist()
            records = [(key, i % 100, i // 40) for i, key in enumerate(drawn)]
            run(records[: count // 10], True)
            for phases in (1, 2):
                best = min((run(records, phases == 2) for _ in range(3)), key=lambda each: each["cpu_s"])
                result = {"keys": name, "phases": phases, "ns_per_record": round(best["cpu_s"] / count * 1e9)}
                print(json.dumps({**result, "over": round(best["over"], 4)}), flush=True)


if __name__ == "__main__":
    main()
