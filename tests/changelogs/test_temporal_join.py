"""Temporal join against the versions looked up one by one, whatever the order in which both sides come."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.runtime.batch import Batch
from penstock.runtime.changelog import Change, RowKind
from penstock.runtime.elements import MAX_WATERMARK
from penstock.runtime.joins.temporal_join import TemporalJoinOperator
from penstock.runtime.keys import KeyByFunction
from penstock.runtime.records.record_types import OPAQUE, record_type_of
from penstock.state.errors import RecordTypeError, UserCodeError
from penstock.testing.harness import OperatorHarness

KEYS = ("a", "b")
KINDS = (RowKind.INSERT, RowKind.UPDATE_AFTER, RowKind.UPDATE_BEFORE, RowKind.DELETE)


@dataclass(unsafe_hash=True)
class Item:
    key: str
    number: int
    at: int


def key_of(record: Any) -> str:
    return record.key  # type: ignore[no-any-return]


def operator(
    kind: Any, *, keeps_left: bool = True, function: Any = None, upserts: bool = False
) -> TemporalJoinOperator:
    selectors = (KeyByFunction(key_of, str), KeyByFunction(key_of, str))
    types = (record_type_of(kind), record_type_of(kind))
    return TemporalJoinOperator(
        selectors, function, types, OPAQUE, keeps_left=keeps_left, late_tag="late", upserts=upserts
    )


def version_at(versions: list[Change], key: str, at: int) -> Any:
    """The newest that is not younger; None if there is none, or it ended."""
    own = [each for each in versions if each.record.key == key and each.record.at <= at]
    newest = max(own, key=lambda each: each.record.at, default=None)
    return newest.record if newest is not None and newest.kind.adds else None


@settings(max_examples=14, deadline=None)
@given(
    st.booleans(),
    st.booleans(),
    st.lists(st.tuples(st.sampled_from(KEYS), st.integers(0, 60)), max_size=15),
    st.dictionaries(st.tuples(st.sampled_from(KEYS), st.integers(0, 60)), st.sampled_from(KINDS), max_size=12),
    st.integers(0, 10**6),
)
def test_every_record_meets_the_version_of_its_time(
    subtasks: Any, row: Any, keeps_left: bool, in_place: bool, left: list[Any], right: dict[Any, Any], seed: int
) -> None:
    chance = random.Random(seed)
    make = Item if in_place else row
    records = [Change(RowKind.INSERT, make(key, number, at)) for number, (key, at) in enumerate(left)]
    versions = [Change(kind, make(key, number, at)) for number, ((key, at), kind) in enumerate(right.items())]
    events = [(0, each) for each in records] + [(1, each) for each in versions]
    chance.shuffle(events)
    events.sort(key=lambda event: event[1].record.at + chance.randint(0, 20))
    types = (record_type_of(make), record_type_of(make))
    run = subtasks(lambda: operator(make, keeps_left=keeps_left), types, chance)
    try:
        for position, (side, change) in enumerate(events):
            run.push(side, [change])
            run.watermark(min([each.record.at for _, each in events[position + 1 :]], default=60) - 1)
            if chance.random() < 0.05:
                run.restart()
        run.watermark(MAX_WATERMARK)
        pairs = [(each.record, version_at(versions, each.record.key, each.record.at)) for each in records]
        assert run.table == Counter(pair for pair in pairs if keeps_left or pair[1] is not None)
        assert run.times == [change.record[0].at for change in run.given]
        last = [version_at(versions, key, 60) for key in KEYS]
        assert run.left() == (len(last) - last.count(None), 0)
        assert (run.late, run.counted_late) == ([], 0)
    finally:
        run.close()


def test_a_result_comes_with_the_watermark_and_not_before(row: Any) -> None:
    with OperatorHarness(operator(row), record_type=row) as harness:
        harness.push([row("a", 1, 10)], [10], 0)
        harness.push([row("a", 2, 5), row("a", 3, 11)], [5, 11], 1)
        harness.watermark(9)
        assert harness.take() == []
        harness.watermark(10)
        assert harness.take() == [(row("a", 1, 10), row("a", 2, 5))]


def test_late_records_are_counted_and_given_to_their_side_output(row: Any) -> None:
    with OperatorHarness(operator(row), record_type=row) as harness:
        harness.watermark(10)
        harness.push([row("a", 1, 10), row("a", 2, 11)], [10, 11], 0)
        assert harness.side_output("late") == [row("a", 1, 10)]
        assert harness.metrics.counter("records_late_total").get_count() == 1
        harness.watermark(11)
        assert harness.output == [(row("a", 2, 11), None)]


def test_a_late_version_counts_unless_a_newer_one_has_begun(row: Any) -> None:
    with OperatorHarness(operator(row), record_type=row) as harness:
        harness.push([row("a", 1, 5)], [5], 1)
        harness.watermark(10)
        harness.push([row("a", 2, 7), row("a", 3, 6)], [7, 6], 1)
        assert harness.metrics.counter("records_late_total").get_count() == 1
        harness.push([row("a", 4, 12)], [12], 0)
        harness.watermark(12)
        assert harness.output == [(row("a", 4, 12), row("a", 2, 7))]


OLD, NEW, ENDED = RowKind.UPDATE_BEFORE, RowKind.UPDATE_AFTER, RowKind.DELETE


@pytest.mark.parametrize(
    ("changes", "upserts", "valid"),
    [
        ([(OLD, 1, 7), (NEW, 2, 7)], False, 2),
        ([(NEW, 2, 7), (OLD, 1, 7)], False, 2),
        ([(NEW, 2, 7), (ENDED, 1, 7)], False, 2),
        ([(OLD, 1, 7)], False, None),
        ([(OLD, 1, 5), (NEW, 2, 9)], False, 1),
        ([(NEW, 2, 7), (ENDED, 2, 7)], False, None),
        ([(NEW, 2, 7), (ENDED, 0, 7)], True, None),
    ],
    ids=["in order", "by two ways", "deleted by two ways", "to another key", "with its own time", "ended", "upserts"],
)
def test_halves_of_an_update_come_in_either_order(row: Any, changes: list[Any], upserts: bool, valid: int) -> None:
    """And the new record may have another key."""
    with OperatorHarness(operator(row, upserts=upserts), record_type=row) as harness:
        harness.push([row("a", 1, 5)], [5], 1)
        for kind, number, at in changes:
            batch = Batch.of_rows(record_type_of(row), [row("a", number, 5 if number == 1 else 7)], [at])
            batch.row_kinds = np.array([kind], np.int8)
            harness.push_batch(batch, 1)
        harness.push([row("a", 9, 8)], [8], 0)
        harness.watermark(9)
        ((_, version),) = harness.output
        assert (version and version.number) == valid


def test_the_end_of_all_time_comes(row: Any) -> None:
    """Results of global windows have that time."""
    with OperatorHarness(operator(row), record_type=row) as harness:
        harness.push([row("a", 1)], [MAX_WATERMARK], 0)
        harness.push([row("a", 2)], [MAX_WATERMARK], 1)
        harness.watermark(MAX_WATERMARK)
        assert harness.output == [(row("a", 1), row("a", 2))]


def test_versions_that_nobody_can_ask_for_are_removed(subtasks: Any, row: Any, inserted: Any) -> None:
    run = subtasks(lambda: operator(row), (record_type_of(row),) * 2, random.Random(1))
    run.push(1, inserted([row("a", number, number) for number in range(100)]))
    run.watermark(50)
    assert run.left() == (50 + 49, 49), "the one that is valid at 50, and 49 to come with their timers"
    run.close()


def test_records_without_timestamps_are_refused(row: Any) -> None:
    with (
        OperatorHarness(operator(row), record_type=row) as harness,
        pytest.raises(RecordTypeError, match="operator 'operator': a temporal join needs timestamps"),
    ):
        harness.push([row("a", 1)])


def test_an_error_of_the_function_names_the_record(row: Any) -> None:
    def fails(left: Any, right: Any) -> None:
        raise ValueError("no")

    with OperatorHarness(operator(row, function=fails), record_type=row) as harness:
        harness.push([row("a", 7, 1)], [1], 0)
        with pytest.raises(UserCodeError, match=r"operator 'operator'.*number=7"):
            harness.watermark(1)
