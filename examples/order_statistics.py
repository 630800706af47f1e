"""Orders of a shop, and how its regions do: statistics per hour, the best regions of every hour, and totals.

regions  per region and hour: orders, revenue, mean, spread, median and 95th percentile of what an order costs
top      per hour: the three regions with the highest revenue
totals   per region: orders and revenue so far. With -c execution.runtime-mode=batch only the last of each region

  penstock run examples/order_statistics.py --local
  penstock run examples/order_statistics.py --local -c execution.runtime-mode=batch -- --orders 100000 --out results
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import penstock as ps
from penstock.connectors.files import FileSink, FileSource
from penstock.connectors.formats import Json

SECOND_MS, HOUR_MS = 1_000, 3_600_000
START_MS = 1_767_225_600_000
"""Midnight of the first of January 2026, UTC."""
DISORDER_MS = 60 * SECOND_MS
REGIONS = {"north": (4, 30), "south": (3, 45), "east": (2, 20), "west": (5, 25), "islands": (1, 60)}
"""How many orders come from there, and what they cost, each compared with the others."""
BEST = 3


@dataclass(frozen=True)
class Order:
    id: int
    region: str
    at: int
    cents: int


@dataclass(frozen=True)
class Place:
    """A region among the best of an hour."""

    start: int
    place: int
    region: str
    revenue: int


@dataclass(frozen=True)
class Total:
    region: str
    orders: int
    revenue: int


class BestRegions(ps.ProcessAllWindowFunction):
    """Of the hour's regions those with the highest revenue; of equal ones the first by name."""

    def process(
        self, context: ps.ProcessAllWindowFunction.Context, elements: Iterable[dict[str, Any]]
    ) -> Iterator[Place]:
        by_name = sorted(elements, key=itemgetter("region"))
        best = sorted(by_name, key=itemgetter("revenue"), reverse=True)[:BEST]
        for place, each in enumerate(best, start=1):
            yield Place(context.window().start, place, each["region"], each["revenue"])


def of_one(order: Order) -> Total:
    return Total(order.region, 1, order.cents)


def both(one: Total, other: Total) -> Total:
    return Total(one.region, one.orders + other.orders, one.revenue + other.revenue)


# the orders ----------------------------------------------------------------------------------------------------------


def orders(count: int, seed: int = 1) -> list[Order]:
    """Of two days, in the order in which they come."""
    draw = random.Random(seed)
    names, weights = list(REGIONS), [often for often, _ in REGIONS.values()]
    made = []
    for number in range(count):
        region = draw.choices(names, weights)[0]
        cents = round(100 * draw.lognormvariate(0, 0.8) * REGIONS[region][1])
        made.append(Order(number, region, START_MS + draw.randrange(48 * HOUR_MS), max(1, cents)))
    return sorted(made, key=lambda order: (order.at + draw.randrange(DISORDER_MS), order.id))


def write_orders(directory: Path, count: int, files: int = 8) -> Path:
    """As NDJSON, in files one after the other. Written once."""
    if not directory.exists():
        unfinished = directory.with_name(f"{directory.name}.unfinished")
        unfinished.mkdir(parents=True, exist_ok=True)
        made = orders(count)
        for number in range(files):
            part = made[len(made) * number // files : len(made) * (number + 1) // files]
            lines = "".join(f"{json.dumps(asdict(order))}\n" for order in part)
            (unfinished / f"orders-{number:02}.json").write_text(lines, encoding="utf-8")
        unfinished.rename(directory)
    return directory


# the pipeline --------------------------------------------------------------------------------------------------------


def build(env: ps.StreamExecutionEnvironment, data: Path, out: Path, bound: str, rate: int | None = None) -> None:
    """Orders in `data`, results in directories below `out`; disorder up to `bound` is waited for."""
    source = env.from_source(
        FileSource(str(data), Json(Order), rate_limit=rate),
        ps.WatermarkStrategy.for_bounded_out_of_orderness(bound).with_timestamp_assigner("at"),
        name="orders",
        uid="orders",
    )
    regions = (
        source.key_by("region")
        .window(ps.TumblingEventTimeWindows("1h"))
        .agg(
            orders=ps.count(),
            revenue=ps.sum("cents"),
            mean=ps.avg("cents"),
            spread=ps.stddev("cents"),
            median=ps.median("cents"),
            p95=ps.percentile("cents", 0.95),
            name="regions",
        )
        .uid("regions")
    )
    top = (
        regions.window_all(ps.TumblingEventTimeWindows("1h"))
        .process(BestRegions(), output_type=Place, name="top")
        .uid("top")
    )
    totals = (
        source.map(of_one, name="of one")
        .key_by(lambda total: total.region, key_type=str)
        .reduce(both, name="totals")
        .uid("totals")
    )
    for name, stream in (("regions", regions), ("top", top), ("totals", totals)):
        stream.sink_to(FileSink(str(out / name), Json()), name=f"{name} files").uid(f"{name}-files")


def main() -> None:
    parser = argparse.ArgumentParser(description="Statistics over orders.")
    parser.add_argument("--data", type=Path, default=Path(".penstock/orders"))
    parser.add_argument("--out", type=Path, default=Path(".penstock/order_statistics"))
    parser.add_argument("--orders", type=int, default=20_000, help="how many to make, if there are none")
    parser.add_argument("--bound", default="1min", help="how long to wait for orders that are out of order")
    parser.add_argument("--rate", type=int, default=None, help="orders a second, to watch it run")
    arguments = parser.parse_args()
    env = ps.StreamExecutionEnvironment()
    build(env, write_orders(arguments.data, arguments.orders), arguments.out, arguments.bound, arguments.rate)
    env.execute("order statistics")


if __name__ == "__main__":
    main()
