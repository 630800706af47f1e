"""Lookup join: its calls are answered by hand, its clock is set."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.runtime.async_functions import LookupFunction
from penstock.runtime.elements import Watermark
from penstock.runtime.functions import RuntimeContext
from penstock.runtime.joins.functions import JoinFunction
from penstock.runtime.joins.lookup_cache import CachedRows, LookupCache
from penstock.runtime.joins.lookup_join import LookupJoinOperator
from penstock.runtime.keys import KeyByFunction
from penstock.runtime.operators.async_io import AsyncSettings
from penstock.runtime.records.record_types import OPAQUE, record_type_of
from penstock.state.errors import ConfigurationError, UserCodeError
from penstock.testing import AsyncHarness

INT = record_type_of(int)
ROWS = {0: [], 1: ["one"], 2: ["two", "zwei"]}


class Rows(LookupFunction):
    """What there is of the last digit of a record."""

    async def lookup(self, key: int) -> list[str]:
        return ROWS[key]


class Patient(Rows):
    def timeout(self, key: int) -> list[str]:
        return [f"late {key}"]


def digit(record: int) -> int | None:
    return None if record < 0 else record % 10


def operator(*, cache: LookupCache | None = None, function: Any = None, join: Any = None, **more: Any) -> Any:
    settings = AsyncSettings("lookup", False, True, more.pop("ordered", True), more.pop("capacity", 3), 1_000)
    types = (more.pop("input_type", INT), more.pop("row_type", record_type_of(str)))
    return LookupJoinOperator(
        function or Rows(),
        more.pop("selector", KeyByFunction(digit)),
        join,
        types,
        OPAQUE,
        settings,
        cache=cache,
        **{"keeps_left": True, **more},
    )


def joined(records: list[int]) -> list[tuple[int, str | None]]:
    return [(each, row) for each in records for row in ROWS[each % 10] or [None]]


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.one_of(st.lists(st.sampled_from([0, 10, 1, 11, 21, 2, 12]), max_size=6), st.just("answer")), max_size=25
    ),
    st.sampled_from([None, LookupCache(), LookupCache(max_rows=2), LookupCache(cache_missing=False)]),
    st.booleans(),
    st.randoms(use_true_random=False),
)
def test_results_are_those_of_calls_in_the_order_of_the_records(
    steps: list[Any], cache: LookupCache | None, ordered: bool, chance: Any
) -> None:
    make = operator(cache=cache, ordered=ordered)
    harness = AsyncHarness(make, record_type=INT).open()
    came: list[int] = []
    given: list[Any] = []
    for step in steps:
        if step != "answer":
            came += step
            harness.push(step)
            harness.watermark(len(came))
        elif harness.calls.records:
            harness.calls.run(chance.choice(harness.calls.records))
            harness.go_on()
        if chance.random() < 0.1:
            snapshot = harness.snapshot()
            given += harness.events
            harness.close()
            harness = AsyncHarness(make, record_type=INT, restored=[snapshot]).open()
    while harness.calls.records:
        harness.calls.run(chance.choice(harness.calls.records))
        harness.go_on()
    given += harness.events
    last = harness.snapshot()
    harness.close()
    with AsyncHarness(make, record_type=INT, restored=[last]) as after:
        assert (after.calls.records, after.events) == ([], []), "nothing is left"
    results = [each for each in given if not isinstance(each, Watermark)]
    if ordered:
        assert results == joined(came)
    assert sorted(results, key=repr) == sorted(joined(came), key=repr)


def test_what_is_cached_needs_no_call() -> None:
    with AsyncHarness(operator(cache=LookupCache()), record_type=INT) as harness:
        harness.push([1])
        harness.answer(1, "one")
        harness.push([11, 21, 31])
        assert harness.events == [(1, "one"), (11, "one"), (21, "one"), (31, "one")]
        counters = [harness.metrics.counter(f"lookup_cache_{name}_total").get_count() for name in ("hits", "misses")]
        assert counters == [3, 1]


def test_a_record_that_waited_for_its_turn_looks_into_the_cache_again() -> None:
    with AsyncHarness(operator(cache=LookupCache(), capacity=1), record_type=INT) as harness:
        harness.push([1, 11, 21])
        harness.answer(1, "one")
        assert harness.calls.records == []
        assert harness.events == [(1, "one"), (11, "one"), (21, "one")]


@pytest.mark.parametrize("cache", [LookupCache(), LookupCache(max_rows=1), LookupCache(cache_missing=False)])
@pytest.mark.parametrize("key", [0, 2], ids=["nothing", "two rows"])
def test_records_of_a_key_that_is_called_for_share_the_call(cache: LookupCache, key: int) -> None:
    """Whether the cache keeps what it finds or not."""
    with AsyncHarness(operator(cache=cache), record_type=INT) as harness:
        harness.push([key, key + 10])
        harness.push([1, key + 20])
        assert harness.calls.records == [key, 1]
        harness.answer(key, *ROWS[key])
        assert harness.events == joined([key, key + 10])
        harness.answer(1, "one")
        assert harness.events == joined([key, key + 10, 1, key + 20])


def test_each_calls_for_itself_when_the_call_that_was_shared_is_timed_out() -> None:
    """At once, and not one after the other: a service that hangs holds each up for one timeout more at most."""
    with AsyncHarness(operator(cache=LookupCache(), function=Patient()), record_type=INT) as harness:
        harness.push([1, 11, 21, 2])
        assert harness.calls.records == [1, 2]
        harness.answer(2, "two", "zwei")
        harness.advance_time(1_000)
        harness.go_on()
        assert (harness.calls.cancelled, harness.calls.records) == ([1], [1, 1, 1])
        harness.answer(1, "too late")
        harness.answer(1, "one")
        harness.push([31])
        assert harness.calls.records == [1], "what was found is there for all that come then"
        harness.answer(1, "one")
        assert harness.events == [(1, "late 1"), *joined([11, 21, 2, 31])]


def test_cached_records_do_not_overtake_those_that_wait() -> None:
    with AsyncHarness(operator(cache=LookupCache()), record_type=INT) as harness:
        harness.push([1])
        harness.answer(1, "one")
        harness.push([2])
        harness.push([11])
        harness.watermark(5)
        assert harness.events == [(1, "one")]
        harness.answer(2, "two")
        assert harness.events == [(1, "one"), (2, "two"), (11, "one"), Watermark(5)]


@pytest.mark.parametrize("ordered", [True, False])
def test_what_needs_no_call_leaves_room_for_those_before_it(ordered: bool) -> None:
    """However many there are: they wait for that call, which must not wait for them."""
    with AsyncHarness(operator(cache=LookupCache(), ordered=ordered, capacity=2), record_type=INT) as harness:
        harness.push([0])
        harness.answer(0)
        harness.push([2])
        harness.watermark(1)
        harness.push([1, 10, -1, 20, 30])
        assert harness.calls.records == [2, 1]
        harness.answer(1, "one")
        harness.answer(2, "two")
        assert sorted(harness.rows) == [
            (-1, None),
            (0, None),
            (1, "one"),
            (2, "two"),
            *[(n, None) for n in (10, 20, 30)],
        ]


class Numbered(JoinFunction):
    """What it does needs open()."""

    def open(self, runtime_context: RuntimeContext) -> None:
        self.subtask = runtime_context.get_index_of_this_subtask()

    def join(self, left: int, right: str | None) -> tuple[int, str | None, int]:
        return left, right, self.subtask


def test_the_function_that_joins_is_opened_before_what_was_held_is_taken_up() -> None:
    make = operator(cache=LookupCache(), join=Numbered())
    with AsyncHarness(make, record_type=INT) as harness:
        harness.push([1, -1])
        snapshot = harness.snapshot()
    with AsyncHarness(make, record_type=INT, restored=[snapshot]) as harness:
        harness.answer(1, "one")
        assert harness.events == [(1, "one", 0), (-1, None, 0)]


def test_results_of_one_record_do_not_share_it() -> None:
    selector = KeyByFunction(lambda record: record["key"])
    make = operator(selector=selector, input_type=OPAQUE)
    with AsyncHarness(make) as harness:
        harness.push([{"key": 2}])
        harness.answer(2, "two", "zwei")
        harness.events[0][0]["key"] = 99
        assert harness.events[1] == ({"key": 2}, "zwei")


def test_an_inner_join_drops_records_without_rows() -> None:
    with AsyncHarness(operator(keeps_left=False), record_type=INT) as harness:
        harness.push([10, 1, -1])
        harness.answer(0)
        harness.answer(1, "one")
        assert harness.events == [(1, "one")]


def test_a_key_of_none_is_not_looked_up() -> None:
    with AsyncHarness(operator(), record_type=INT) as harness:
        harness.push([-1])
        assert (harness.calls.records, harness.events) == ([], [(-1, None)])


def test_what_a_timeout_gives_is_not_cached() -> None:
    with AsyncHarness(operator(cache=LookupCache(), function=Patient()), record_type=INT) as harness:
        harness.push([1])
        harness.advance_time(1_000)
        harness.go_on()
        assert harness.events == [(1, "late 1")]
        harness.push([11])
        assert harness.calls.records[-1:] == [1]


def test_rows_in_the_cache_do_not_change() -> None:
    with AsyncHarness(operator(cache=LookupCache(), row_type=OPAQUE), record_type=INT) as harness:
        harness.push([1])
        harness.answer(1, {"name": "one"})
        harness.events[-1][1]["name"] = "changed"
        harness.push([11])
        assert harness.events[-1] == (11, {"name": "one"})


def test_an_error_of_the_function_names_the_record() -> None:
    def fails(left: Any, right: Any) -> None:
        raise ValueError("no")

    with AsyncHarness(operator(join=fails), record_type=INT) as harness:
        harness.push([1])
        with pytest.raises(UserCodeError, match=r"operator 'operator'.*ValueError: no.*the record 1"):
            harness.answer(1, "one")


# ---- the cache


def test_the_least_recently_used_goes_first() -> None:
    cache = CachedRows(LookupCache(max_rows=3))
    cache.put("a", ["x"], 0)
    cache.put("b", [], 0)
    cache.put("c", ["y"], 0)
    assert cache.get("a", 1) == ["x"]
    cache.put("d", ["z"], 1)
    assert [cache.get(key, 1) for key in "abcd"] == [["x"], None, ["y"], ["z"]]
    cache.put("e", ["1", "2", "3", "4"], 1)
    assert (cache.get("e", 1), cache.rows) == (None, 3)


@pytest.mark.parametrize(("limit", "last"), [("expire_after_write", 9), ("expire_after_access", 18)])
def test_rows_expire(limit: str, last: int) -> None:
    cache = CachedRows(LookupCache(**{limit: 10}))  # type: ignore[arg-type]
    cache.put("a", ["x"], 0)
    assert cache.get("a", 9) == ["x"]
    assert (cache.get("a", last) is None, cache.get("a", last + 10)) == (False, None)
    assert cache.rows == 0


@pytest.mark.parametrize("wrong", [{"max_rows": 0}, {"max_rows": 1.5}, {"expire_after_write": "0s"}])
def test_impossible_limits_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=f"LookupCache: {next(iter(wrong))}"):
        LookupCache(**wrong)
