"""Joins of every kind in one job that is stopped amid everything and goes on at another parallelism, with a slot killed
on the way: what they give is computed by plain Python."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import penstock as ps
from penstock.testing.lists import ListSink


class Order(NamedTuple):
    user: int
    number: int
    at: int


class Payment(NamedTuple):
    by: int
    at: int
    cents: float


class Name(NamedTuple):
    user: int
    name: str


ORDERS = [Order(i * 7 % 6, i, i // 40 * 150 + i % 40 * (1 + i % 3)) for i in range(240)]
PAYMENTS = [Payment(i * 5 % 7, i * 11 + i % 4 * 9, i / 2) for i in range(80)]
NAMES = [Name(i % 4, f"n{i}") for i in range(12)]
ORDERED = ps.WatermarkStrategy.for_bounded_out_of_orderness("200ms").with_timestamp_assigner("at")
WINDOW = 70
Pair = tuple[int | None, float | None]


class Paired(ps.JoinFunction):
    def join(self, left: Order | None, right: Payment | None) -> Pair:
        return left and left.number, right and right.cents


class Near(ps.ProcessJoinFunction):
    def process_element(self, left: Order | None, right: Payment | None, ctx: Any) -> Iterator[Pair]:
        assert ctx.left_timestamp() == (left and left.at)
        yield left and left.number, right and right.cents


class Grouped(ps.CoGroupFunction):
    def co_group(self, left_elements: list[Order], right_elements: list[Payment]) -> Iterator[tuple[int, int, float]]:
        yield len(left_elements), len(right_elements), sum(each.cents for each in right_elements)


def named(order: Order, name: Name | None) -> tuple[int, int | None]:
    return order.user, name and name.user


def expected_pairs(meets: Any) -> Counter[Pair]:
    """Full."""
    pairs = [(one, other) for one in ORDERS for other in PAYMENTS if one.user == other.by and meets(one, other)]
    alone = [(one, None) for one in set(ORDERS) - {one for one, _ in pairs}]
    alone += [(None, other) for other in set(PAYMENTS) - {other for _, other in pairs}]  # type: ignore[misc]
    return Counter((one and one.number, other and other.cents) for one, other in pairs + alone)


def expected_groups() -> Counter[Any]:
    """Of sessions with a gap of 9 ms."""
    by_user: dict[int, list[Any]] = defaultdict(list)
    for each in (*ORDERS, *PAYMENTS):
        by_user[each[0]].append(each)
    found: Counter[Any] = Counter()
    for own in by_user.values():
        sessions: list[list[Any]] = []
        for each in sorted(own, key=lambda each: each.at):
            if sessions and each.at - sessions[-1][-1].at <= 9:
                sessions[-1].append(each)
            else:
                sessions.append([each])
        for session in sessions:
            cents = [each.cents for each in session if isinstance(each, Payment)]
            found[len(session) - len(cents), len(cents), sum(cents)] += 1
    return found


def build(env: Any, orders: Any, payments: Any) -> None:
    left = env.from_source(orders, ORDERED, name="orders").uid("orders")
    right = env.from_source(payments, ORDERED, name="payments").uid("payments")
    names = env.from_collection(NAMES, Name).uid("names")
    windowed = left.join(right, how="full").where("user").equal_to(lambda payment: payment.by)
    near = left.key_by("user").interval_join(right.key_by("by"), how="full").between("-15ms", "30ms")
    grouped = left.co_group(right).where(["user"]).equal_to(["by"]).window(ps.EventTimeSessionWindows("9ms"))
    streams = {
        "window": windowed.window(ps.TumblingEventTimeWindows(WINDOW)).apply(Paired()),
        "interval": near.process(Near()),
        "co_group": grouped.apply(Grouped()),
        "broadcast": left.broadcast_join(names, "user", "user", named, how="left"),
    }
    for name, stream in streams.items():
        stream.uid(name).sink_to(ListSink(name), name=f"{name} results")


@pytest.mark.parametrize(("backend", "before", "after"), [("heap", 1, 3), ("rocksdb", 2, 1)])
def test_they_go_on_at_another_parallelism(
    backend: str, before: int, after: int, new_env: Any, drive: Any, held_source: Any, results: Any, tmp_path: Path
) -> None:
    for name in ("window", "interval", "co_group", "broadcast"):
        results(name)
    gate = tmp_path / "gate"

    def started(parallelism: int, restore: str | None) -> Any:
        env = new_env(parallelism, restore).set_state_backend(backend)
        orders = held_source(ORDERS, gate, 25, splits=3, batch_rows=10, record_type=Order)
        build(env, orders, held_source(PAYMENTS, gate, 9, splits=2, batch_rows=7, record_type=Payment))
        return drive(env)

    path = started(before, None).checkpoints().stop()
    job = started(after, path).checkpoints()
    job.kill()
    gate.touch()
    job.end()
    in_window = expected_pairs(lambda one, other: one.at // WINDOW == other.at // WINDOW)
    assert Counter(results("window")) == in_window
    assert Counter(results("interval")) == expected_pairs(lambda one, other: -15 <= other.at - one.at <= 30)
    assert Counter(results("co_group")) == expected_groups()
    joined = results("broadcast")
    assert Counter(user for user, _ in joined) == Counter(order.user for order in ORDERS)
    assert all(of in (None, user) for user, of in joined)
    assert all(of == user or user > 3 for user, of in joined[-50:])  # names have come by then
