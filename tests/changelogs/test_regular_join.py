"""Regular join against the join of the two multisets, at every prefix of random changelogs."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.runtime.changelog import Change, ChangelogMode, RowKind
from penstock.runtime.joins.functions import kept_sides
from penstock.runtime.joins.regular_join import RegularJoinOperator
from penstock.runtime.keys import KeyByFunction
from penstock.runtime.records.record_types import OPAQUE, record_type_of
from penstock.state.errors import KeyTypeError
from penstock.state.ttl_config import StateTtlConfig
from penstock.testing.harness import OperatorHarness

HOWS = ("inner", "left", "right", "full")
KEYS = ("a", "b", "c")


@dataclass(unsafe_hash=True)
class Item:
    """One that can change in place."""

    key: str
    number: int


def key_of(record: Any) -> str:
    return record.key  # type: ignore[no-any-return]


def even_sum(left: Any, right: Any) -> bool:
    return (left.number + right.number) % 2 == 0


def joined(left: Counter[Any], right: Counter[Any], how: str, condition: Any) -> Counter[Any]:
    """The join of two multisets, the slow way."""
    result: Counter[Any] = Counter()
    lonely = [Counter(left), Counter(right)]
    for one, count in left.items():
        for other, times in right.items():
            if one.key == other.key and (condition is None or condition(one, other)):
                result[(one, other)] += count * times
                lonely[0].pop(one, None)
                lonely[1].pop(other, None)
    keeps_left, keeps_right = kept_sides(how)
    if keeps_left:
        result.update({(one, None): count for one, count in lonely[0].items()})
    if keeps_right:
        result.update({(None, other): count for other, count in lonely[1].items()})
    return result


def operator(types: tuple[Any, Any], how: str, **more: Any) -> RegularJoinOperator:
    selectors = (KeyByFunction(key_of, str), KeyByFunction(key_of, str))
    return RegularJoinOperator(selectors, None, types, OPAQUE, how=how, **more)


@settings(max_examples=20, deadline=None)
@given(
    st.sampled_from(HOWS),
    st.sampled_from([None, even_sum]),
    st.sampled_from(["typed", "in place", "opaque"]),
    st.lists(st.tuples(st.integers(0, 1), st.sampled_from(KEYS), st.integers(0, 3), st.integers(0, 5)), max_size=60),
    st.integers(0, 10**6),
)
def test_at_every_prefix_it_is_the_join_of_both_sides(
    subtasks: Any, row: Any, how: str, condition: Any, kind: str, steps: list[Any], seed: int
) -> None:
    chance = random.Random(seed)
    make, declared = {"typed": (row, row), "in place": (Item, Item), "opaque": (Item, OPAQUE)}[kind]
    types = (record_type_of(declared), record_type_of(declared))
    run = subtasks(lambda: operator(types, how, condition=condition), types, chance)
    sides: list[Counter[Any]] = [Counter(), Counter()]
    try:
        for side, key, number, action in steps:
            present = sorted(sides[side].elements(), key=repr)
            if action == 0 and present:
                changelog = [Change(RowKind.DELETE, chance.choice(present))]
            elif action == 1 and present:
                old = chance.choice(present)
                changelog = [Change(RowKind.UPDATE_BEFORE, old), Change(RowKind.UPDATE_AFTER, make(key, number))]
            else:
                changelog = [Change(RowKind.INSERT, make(key, number))] * (1 + action % 2)
            for change, record in changelog:
                sides[side][record] += 1 if change.adds else -1
            sides = [+each for each in sides]
            run.push(side, changelog)
            if chance.random() < 0.05:
                run.restart()
            assert run.table == joined(*sides, how, condition)
    finally:
        run.close()


@settings(max_examples=8, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 1), st.sampled_from(KEYS), st.integers(0, 40)), max_size=40),
    st.tuples(st.integers(1, 100), st.integers(1, 100)),
    st.integers(0, 10**6),
)
def test_what_has_expired_meets_nobody(
    subtasks: Any, row: Any, inserted: Any, steps: list[Any], ttls: tuple[int, int], seed: int
) -> None:
    chance = random.Random(seed)
    types = (record_type_of(row), record_type_of(row))
    both = (StateTtlConfig(ttls[0]), StateTtlConfig(ttls[1]))
    run = subtasks(lambda: operator(types, "inner", ttls=both), types, chance)
    came: list[list[tuple[int, Any]]] = [[], []]
    expected: Counter[Any] = Counter()
    now = 0
    try:
        for number, (side, key, pause) in enumerate(steps):
            run.advance(pause)
            now += pause
            record = row(key, number)
            came[side].append((now, record))
            for at, other in came[1 - side]:
                if other.key == key and at + ttls[1 - side] > now:
                    expected[(record, other) if side == 0 else (other, record)] += 1
            run.push(side, inserted([record]))
            if chance.random() < 0.05:
                run.restart()
        assert run.table == expected
    finally:
        run.close()


def push(harness: OperatorHarness, side: int, *records: Any) -> list[Any]:
    harness.push(records, [side + 5] * len(records), side)
    kinds = [batch.row_kinds for batch in harness.batches]
    given = [
        f"{kind}" for batch, own in zip(harness.batches, kinds, strict=True)
        for kind in (map(RowKind, own.tolist()) if own is not None else ["+I"] * len(batch))
    ]  # fmt: skip
    return list(zip(given, harness.take(), strict=True))


def test_a_first_partner_takes_back_the_row_without_one(row: Any) -> None:
    types = (record_type_of(row), record_type_of(row))
    one, other, third = row("a", 1), row("a", 2), row("a", 3)
    with OperatorHarness(operator(types, "left"), record_type=row) as harness:
        assert push(harness, 0, one) == [("+I", (one, None))]
        assert push(harness, 1, other) == [("-D", (one, None)), ("+I", (one, other))]
        assert push(harness, 1, third) == [("+I", (one, third))]
        assert push(harness, 0, one) == [("+I", (one, other)), ("+I", (one, third))]


def test_expired_partners_still_count(row: Any) -> None:
    """As in Flink: that the partner of a row has expired gives nothing out, and takes nothing back."""
    types = (record_type_of(row), record_type_of(row))
    one, other = row("a", 1), row("a", 2)
    make = operator(types, "left", ttls=(None, StateTtlConfig(100)))
    with OperatorHarness(make, record_type=row) as harness:
        push(harness, 0, one)
        push(harness, 1, other)
        harness.advance_time(100)
        assert harness.take() == []
        assert push(harness, 0, row("a", 7)) == [("+I", (row("a", 7), None))]
        assert push(harness, 1, row("a", 3)) == [
            ("+I", (one, row("a", 3))), ("-D", (row("a", 7), None)), ("+I", (row("a", 7), row("a", 3)))
        ]  # fmt: skip


def test_what_a_function_changes_is_not_the_state() -> None:
    item = record_type_of(Item)
    with OperatorHarness(operator((item, item), "inner"), record_type=item) as harness:
        for _ in range(2):
            harness.push([Item("a", 1)], [0], 0)
            harness.push([Item("a", 2)], [0], 1)
            for left, right in harness.take():
                assert (left.number, right.number) == (1, 2)
                left.number = right.number = 99


def test_large_results_come_in_several_batches(row: Any) -> None:
    types = (record_type_of(row), record_type_of(row))
    with OperatorHarness(operator(types, "inner"), record_type=row) as harness:
        harness.push([row("a", number) for number in range(300)], [0] * 300, 0)
        harness.push([row("a", number) for number in range(20)], [0] * 20, 1)
        assert len(harness.output) == 6_000
        assert max(map(len, harness.batches)) < 2_000


@pytest.mark.parametrize("how", HOWS)
def test_which_joins_are_changelogs(row: Any, how: str) -> None:
    make = operator((record_type_of(row), record_type_of(row)), how)
    insertions, all_ = ChangelogMode.INSERT_ONLY, ChangelogMode.ALL
    assert make.result_mode([insertions, insertions]) is (insertions if how == "inner" else all_)
    assert make.result_mode([insertions, all_]) is all_


@pytest.mark.parametrize("how", HOWS)
def test_its_state_stays_at_the_end_of_the_input(row: Any, how: str) -> None:
    types = (record_type_of(row), record_type_of(row))
    given = [(row("a", 1), None)] if how in ("left", "full") else []
    with OperatorHarness(operator(types, how), record_type=row) as harness:
        harness.push([row("a", 1)], [0], 0)
        assert harness.take() == given
        harness.watermark(2**63 - 1)
        harness.end_input()
        assert harness.output == []
        statistics = harness.operator.state_statistics()
        assert statistics is not None
        assert statistics.entries == 1


def test_a_key_that_cannot_be_one_is_no_error_of_the_function() -> None:
    with (
        OperatorHarness(operator((OPAQUE, OPAQUE), "inner")) as harness,
        pytest.raises(KeyTypeError, match=r"operator 'operator': .*is of type int"),
    ):
        harness.push([Item(1, 1)], [0], 0)  # type: ignore[arg-type]
