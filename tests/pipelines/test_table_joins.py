"""Regular, temporal and lookup join and deduplication in whole jobs: killed in the middle, stopped, and continued at
another parallelism. What they must give is computed by plain Python, and does not depend on any of it.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import penstock as ps
from penstock.testing.lists import ListSink


class Order(NamedTuple):
    number: int
    customer: str
    at: int


class Customer(NamedTuple):
    name: str
    city: str
    at: int


ORDERS = [Order(i, f"c{i % 11}", i * 10) for i in range(300)]
CUSTOMERS = [Customer(f"c{i % 9}", f"city {i}", i * 35) for i in range(80)]
EVENT_TIME = ps.WatermarkStrategy.for_monotonous_timestamps().with_timestamp_assigner("at")
NAMES = ("newest", "regular", "temporal", "looked up", "seen", "upserts")


async def initials(customer: str) -> list[str]:
    return [customer.upper()] if customer != "c7" else []


def build(env: ps.StreamExecutionEnvironment, held: Any, gate: Path) -> None:
    orders = env.from_source(
        held(ORDERS, gate, 20, splits=5, batch_rows=10, record_type=Order), EVENT_TIME, "orders", uid="orders"
    )
    customers = env.from_source(
        held(CUSTOMERS, gate, 10, batch_rows=5, record_type=Customer), EVENT_TIME, "customers", uid="customers"
    ).set_parallelism(1)
    newest = customers.deduplicate("name", keep="last", order="event_time", name="newest").uid("newest")
    regular = (
        orders.key_by("customer")
        .regular_join(newest.key_by("name"), how="left", ttl=("1h", None), name="regular")
        .uid("regular")
    )
    temporal = (
        orders.key_by("customer").temporal_join(customers.key_by("name"), how="left", name="temporal").uid("temporal")
    )
    cache = ps.LookupCache(max_rows=5)
    looked_up = orders.lookup_join(initials, "customer", how="left", cache=cache, name="lookup").uid("lookup")
    seen = orders.deduplicate("customer", order="event_time", name="seen").uid("seen")
    upserts = newest.to_upsert("name", name="upserts").uid("upserts")
    streams = (newest, regular, temporal, looked_up, seen, upserts)
    for name, stream in zip(NAMES, streams, strict=True):
        stream.sink_to(ListSink(name), name=f"{name} sink").uid(f"{name} sink")


def version_at(order: Order) -> Customer | None:
    return max(
        (c for c in CUSTOMERS if c.name == order.customer and c.at <= order.at), key=lambda c: c.at, default=None
    )


def expected() -> dict[str, Counter[Any]]:
    newest = {customer.name: customer for customer in CUSTOMERS}
    first = {order.customer: order for order in reversed(ORDERS)}
    return {
        "newest": Counter(newest.values()),
        "regular": Counter((order, newest.get(order.customer)) for order in ORDERS),
        "temporal": Counter((order, version_at(order)) for order in ORDERS),
        "looked up": Counter((order, order.customer.upper() if order.customer != "c7" else None) for order in ORDERS),
        "seen": Counter(first.values()),
        "upserts": Counter(newest.values()),
    }


def applied(results: Any, name: str) -> Counter[Any]:
    """What is there in the end, of records or of changes."""
    found: Counter[Any] = Counter()
    upserts: dict[str, Any] = {}
    for each in results(name):
        if name == "upserts":
            if each.kind.adds:
                upserts[each.record.name] = each.record
            else:
                upserts.pop(each.record.name, None)
        elif isinstance(each, ps.Change):
            found[each.record] += 1 if each.kind.adds else -1
        else:
            found[each] += 1
    assert min(found.values(), default=0) >= 0
    return +found + Counter(upserts.values())


@pytest.mark.parametrize(("before", "after", "backend"), [(1, 3, "heap"), (3, 2, "rocksdb")])
def test_killed_stopped_and_continued_at_another_parallelism(
    new_env: Any, drive: Any, held_source: Any, results: Any, tmp_path: Path, before: int, after: int, backend: str
) -> None:
    env = new_env(before).set_state_backend(backend)
    build(env, held_source, tmp_path / "gate")
    drive(env).checkpoints(1).kill().checkpoints(1).stop()
    env = new_env(after, restore="latest").set_state_backend(backend)
    build(env, held_source, tmp_path / "gate")
    job = drive(env).checkpoints(1)
    (tmp_path / "gate").touch()
    status = job.kill().end()
    assert status.checkpoints.restored is not None
    assert {name: applied(results, name) for name in NAMES} == expected()
