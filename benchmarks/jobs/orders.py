"""The per-record pipeline of benchmarks/per_record.py as a script for a cluster."""

from __future__ import annotations

import argparse
from typing import NamedTuple

import penstock as ps
from penstock.connectors.discard import DiscardingSink
from penstock.connectors.files import FileSource
from penstock.connectors.formats import Parquet


class Order(NamedTuple):
    id: int
    customer: int
    amount: float
    country: str


def with_tax(order: Order) -> Order:
    return Order(order.id, order.customer, order.amount * 1.19, order.country)


def is_large(order: Order) -> bool:
    return order.amount > 100.0


def customer_of(order: Order) -> int:
    return order.customer


def build(env: ps.StreamExecutionEnvironment, file: str) -> None:
    (
        env.from_source(FileSource(file, Parquet(Order)), ps.WatermarkStrategy.no_watermarks(), name="orders")
        .map(with_tax)
        .filter(is_large)
        .key_by(customer_of, key_type=int)
        .sum("amount")
        .sink_to(DiscardingSink())
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--file", required=True)
    env = ps.StreamExecutionEnvironment()
    build(env, parser.parse_args().file)
    env.execute("per record")
