"""The pipeline of benchmarks/windows_vs_bytewax.py as a script for a cluster: what customers spend in windows of time,
with a Python function that sees every record."""

from __future__ import annotations

import argparse
from typing import NamedTuple

import penstock as ps
from penstock.connectors.discard import DiscardingSink
from penstock.connectors.files import FileSource
from penstock.connectors.formats import Parquet


class Order(NamedTuple):
    """Of a customer."""

    customer: int
    at: int
    """ms."""
    amount: float


Spent = tuple[int, float, float]
"""How many orders, what they come to, and the largest."""


class Spending(ps.AggregateFunction):
    """Orders to Spent."""

    def create_accumulator(self) -> Spent:
        return 0, 0.0, 0.0

    def add(self, value: Order, accumulator: Spent) -> Spent:
        count, total, most = accumulator
        amount = value.amount
        return count + 1, total + amount, max(most, amount)

    def get_result(self, accumulator: Spent) -> Spent:
        return accumulator

    def merge(self, acc_a: Spent, acc_b: Spent) -> Spent:
        return acc_a[0] + acc_b[0], acc_a[1] + acc_b[1], max(acc_a[2], acc_b[2])


WINDOWS: dict[str, ps.WindowAssigner] = {
    "tumbling": ps.TumblingEventTimeWindows("10s"),
    "sliding": ps.SlidingEventTimeWindows("10s", "2s"),
    "sliding 60": ps.SlidingEventTimeWindows("60s", "1s"),
    "session": ps.EventTimeSessionWindows("100ms"),
}


def build(env: ps.StreamExecutionEnvironment, file: str, windows: str) -> None:
    times = ps.WatermarkStrategy.for_monotonous_timestamps().with_timestamp_assigner("at")
    (
        env.from_source(FileSource(file, Parquet(Order)), times, name="orders")
        .key_by("customer")
        .window(WINDOWS[windows])
        .aggregate(Spending())
        .sink_to(DiscardingSink())
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--file", required=True)
    parser.add_argument("--windows", required=True, choices=WINDOWS)
    arguments = parser.parse_args()
    env = ps.StreamExecutionEnvironment()
    build(env, arguments.file, arguments.windows)
    env.execute(f"spending in {arguments.windows} windows")
