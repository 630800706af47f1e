"""Salted keys: spread, made of the record alone, and merged in a second step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import pytest

import penstock as ps
from penstock.state.errors import PipelineError
from penstock.state.serialization.pickling import dumps, loads
from penstock.testing.lists import ListSink


class Visit(NamedTuple):
    page: str
    user: int
    at: int


class Seen(NamedTuple):
    page: str
    users: int


def test_a_key_is_spread_over_its_buckets_and_a_record_always_has_the_same() -> None:
    salted = ps.salted("page", 8, by=lambda visit: visit.user)
    visits = [Visit("home", user, 0) for user in range(4_000)]
    keys = list(map(salted, visits))
    assert keys == list(map(loads(dumps(salted)), visits))
    counts = Counter(keys)
    assert set(counts) == {("home", salt) for salt in range(8)}
    assert min(counts.values()) > 400
    assert salted(Visit("home", 7, 99)) == salted(Visit("home", 7, 1))
    assert [salted(Visit("home", user, 0))[1] for user in range(6)] == [0, 5, 2, 0, 4, 4], (
        "the same in every process and version"
    )


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("page", 0, "user"), "from 1 to"),
        (("page", 1 << 16, "user"), "from 1 to"),
        (("page", True, "user"), "buckets is an int"),
        ((3, 4, "user"), "key is a function"),
        (("page", 4, None), "by is a function"),
    ],
)
def test_what_cannot_be_salted(arguments: tuple[Any, int, Any], told: str) -> None:
    key, buckets, by = arguments
    with pytest.raises(PipelineError, match=told):
        ps.salted(key, buckets, by=by)


class Visitors(ps.ProcessWindowFunction):
    """How many users a page had: nothing that could be added up over parts that share users."""

    def process(self, key: tuple[str, int], context: Any, elements: Iterable[Visit]) -> Iterator[Seen]:
        yield Seen(key[0], len({visit.user for visit in elements}))


def both(one: Seen, other: Seen) -> Seen:
    return Seen(one.page, one.users + other.users)


@pytest.mark.parametrize("parallelism", [1, 3])
def test_users_of_a_page_are_counted_in_two_steps(parallelism: int) -> None:
    visits = [Visit("home" if n % 10 else f"page {n % 40}", n * n % 211, n * 5) for n in range(1_500)]
    expected: dict[tuple[str, int], set[int]] = {}
    for visit in visits:
        expected.setdefault((visit.page, visit.at // 1_000), set()).add(visit.user)
    env = ps.StreamExecutionEnvironment()
    env.set_parallelism(parallelism)
    monotonous = ps.WatermarkStrategy.for_monotonous_timestamps().with_timestamp_assigner(lambda visit, _: visit.at)
    parts = (
        env.from_collection(visits, watermark_strategy=monotonous)
        .key_by(ps.salted("page", 4, by="user"), key_type=tuple[str, int])
        .window(ps.TumblingEventTimeWindows("1s"))
        .process(Visitors(), output_type=Seen)
    )
    ListSink.clear("seen")
    parts.key_by(lambda seen: seen.page).window(ps.TumblingEventTimeWindows("1s")).reduce(both).sink_to(
        ListSink("seen")
    )
    env.execute()
    assert Counter(ListSink.results("seen")) == Counter(Seen(page, len(users)) for (page, _), users in expected.items())
