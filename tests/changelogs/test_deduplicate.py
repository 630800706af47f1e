"""Deduplication against what plain Python makes of the same records."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.runtime.elements import MAX_WATERMARK
from penstock.runtime.keys import KeyByFunction
from penstock.runtime.operators.deduplicate import KeepEarliestOperator, KeepFirstOperator, KeepLastOperator
from penstock.runtime.records.record_types import OPAQUE, record_type_of
from penstock.state.errors import RecordTypeError
from penstock.state.ttl_config import StateTtlConfig
from penstock.testing.harness import OperatorHarness


def key_of(record: Any) -> str:
    return record.key  # type: ignore[no-any-return]


def operator(row: Any, keep: str, order: str, ttl: StateTtlConfig | None = None) -> Any:
    selector, kind = KeyByFunction(key_of, str), record_type_of(row)
    if keep == "last":
        return KeepLastOperator(selector, kind, ttl, by_event_time=order == "event_time")
    return (KeepFirstOperator if order == "arrival" else KeepEarliestOperator)(selector, kind, ttl)


def kept(records: list[Any], keep: str, order: str) -> Counter[Any]:
    of_key: dict[str, Any] = {}
    for record in records:
        old = of_key.setdefault(record.key, record)
        later = order == "arrival" or record.at >= old.at
        if later == (keep == "last") and (later or record.at < old.at):
            of_key[record.key] = record
    return Counter(of_key.values())


@settings(max_examples=16, deadline=None)
@given(
    st.sampled_from(["first", "last"]),
    st.sampled_from(["arrival", "event_time"]),
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3), st.integers(0, 30)), max_size=25),
    st.integers(0, 10**6),
)
def test_one_record_per_key_is_left(
    subtasks: Any, row: Any, inserted: Any, keep: str, order: str, values: list[Any], seed: int
) -> None:
    chance = random.Random(seed)
    records = [row(key, number, at) for key, number, at in values]
    run = subtasks(lambda: operator(row, keep, order), [record_type_of(row)], chance)
    waits = (keep, order) == ("first", "event_time")
    came: list[Any] = []
    try:
        while records:
            cut = chance.randint(1, 5)
            run.push(0, inserted(records[:cut]))
            came, records = came + records[:cut], records[cut:]
            if not waits:
                assert run.table == kept(came, keep, order)
            else:
                run.watermark(min([each.at for each in records], default=0) - 1)
            if chance.random() < 0.1:
                run.restart()
        run.watermark(MAX_WATERMARK)
        assert run.table == kept(came, keep, order)
        if keep == "first":
            assert all(str(change.kind) == "+I" for change in run.given)
        assert run.left() == (len(run.table), 0), "the keys, or the last records"
    finally:
        run.close()


@settings(max_examples=10, deadline=None)
@given(
    st.sampled_from(["first", "last"]),
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 60)), max_size=30),
    st.integers(0, 10**6),
)
def test_a_key_that_is_forgotten_begins_anew(
    subtasks: Any, row: Any, inserted: Any, keep: str, steps: list[Any], seed: int
) -> None:
    run = subtasks(lambda: operator(row, keep, "arrival", StateTtlConfig(100)), [record_type_of(row)],
                   random.Random(seed))  # fmt: skip
    since: dict[str, int] = {}
    expected: list[Any] = []
    now = 0
    try:
        for number, (key, pause) in enumerate(steps):
            run.advance(pause)
            now += pause
            record = row(key, number)
            known = key in since and now - since[key] < 100
            if not known:
                expected.append(("+I", record))
            elif keep == "last":
                expected.append(("+U", record))
            if not known or keep == "last":
                since[key] = now
            run.push(0, inserted([record]))
        assert [(str(kind), record) for kind, record in run.given if str(kind) != "-U"] == expected
    finally:
        run.close()


def test_an_earlier_record_does_not_keep_the_last_one(row: Any) -> None:
    """It is dropped, and the TTL counts from the newest on."""
    make = operator(row, "last", "event_time", StateTtlConfig(100))
    newest, earlier, next_one = row("a", 1, 10), row("a", 2, 5), row("a", 3, 7)
    with OperatorHarness(make, record_type=row) as harness:
        for record in (newest, earlier, next_one):
            harness.push([record], [record.at])
            harness.advance_time(60)
        assert harness.output == [newest, next_one]


def test_a_last_record_that_equals_the_one_before_changes_nothing(row: Any) -> None:
    with OperatorHarness(operator(row, "last", "arrival"), record_type=row) as harness:
        harness.push([row("a", 1), row("a", 1), row("a", 2), row("a", 2)])
        assert harness.output == [row("a", 1), row("a", 1), row("a", 2)]
        assert harness.batches[0].row_kinds is not None
        assert harness.batches[0].row_kinds.tolist() == [0, 1, 2]


def test_what_is_taken_back_is_what_was_given() -> None:
    """Whatever equals it."""
    make = KeepLastOperator(KeyByFunction(lambda record: record[0]), OPAQUE, None, by_event_time=False)
    with OperatorHarness(make) as harness:
        harness.push([("a", 1), ("a", True), ("a", 2)])
        assert [repr(value) for _, value in harness.output] == ["1", "1", "2"]


def test_records_that_cannot_be_compared_are_given_out() -> None:
    make = KeepLastOperator(KeyByFunction(lambda record: record[0]), OPAQUE, None, by_event_time=False)
    with OperatorHarness(make) as harness:
        harness.push([("a", np.array([1, 2])), ("a", np.array([1, 2]))])
        assert [values.tolist() for _, values in harness.output] == [[1, 2]] * 3


def test_a_late_record_of_a_new_key_is_not_lost(row: Any) -> None:
    with OperatorHarness(operator(row, "first", "event_time"), record_type=row) as harness:
        harness.watermark(100)
        harness.push([row("a", 1, 5)], [5])
        harness.watermark(101)
        assert harness.timed_output == [(row("a", 1, 5), 5)]


@pytest.mark.parametrize("keep", ["first", "last"])
def test_event_time_needs_timestamps(row: Any, keep: str) -> None:
    with (
        OperatorHarness(operator(row, keep, "event_time"), record_type=row) as harness,
        pytest.raises(RecordTypeError, match="operator 'operator': deduplication by event time needs timestamps"),
    ):
        harness.push([row("a", 1)])
