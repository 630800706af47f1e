"""Broadcast joins against what was there when a record came; restored in between at another parallelism."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.runtime.batch import Batch
from penstock.runtime.elements import MAX_WATERMARK
from penstock.runtime.joins.broadcast_join import BroadcastJoinOperator
from penstock.runtime.keys import KeyByFunction
from penstock.runtime.records.record_types import OPAQUE, record_type_of
from penstock.state.errors import KeyTypeError, UserCodeError
from penstock.testing.harness import OperatorHarness, rescaled

if TYPE_CHECKING:
    from conftest import Left, Right

Sides = tuple[type["Left"], type["Right"]]


def pair(left: Any, right: Any) -> tuple[Any, Any]:
    return left.number, right and right.number


def twice(left: Any, right: Any) -> Iterator[tuple[Any, Any]]:
    yield pair(left, right)
    yield pair(left, right)


def operator_of(how: str, flat: bool = False, types: Any = (OPAQUE, OPAQUE)) -> BroadcastJoinOperator:
    selectors = (KeyByFunction(lambda record: record.key), KeyByFunction(lambda record: record.key))
    return BroadcastJoinOperator(selectors, twice if flat else pair, flat, types, OPAQUE, how=how)


@given(
    st.lists(st.tuples(st.integers(0, 1), st.sampled_from("abc")), max_size=40), st.sampled_from(["inner", "left"]),
    st.booleans(), st.booleans(), st.integers(0, 2**20),
)  # fmt: skip
@settings(max_examples=50, deadline=None)
def test_any_broadcast_join(
    sides: Sides, arrivals: list[tuple[int, str]], how: str, flat: bool, typed: bool, seed: int
) -> None:
    chance = random.Random(seed)
    types = [record_type_of(side) if typed else OPAQUE for side in sides]
    make = lambda: operator_of(how, flat, types)  # noqa: E731
    harnesses = rescaled(make, [], 2)
    latest: dict[str, Any] = {}
    given_out: Counter[Any] = Counter()
    expected: Counter[Any] = Counter()
    for number, (side, key) in enumerate(arrivals):
        record = sides[side](key, number, number)
        to = harnesses if side else [chance.choice(harnesses)]
        for harness in to:
            harness.push_batch(Batch.of_rows(types[side], [record], [number]), side)
        if side:
            latest[key] = record
        elif key in latest or how == "left":
            expected[pair(record, latest.get(key)), number] += 1 + flat
        for harness in to:
            given_out.update(harness.timed_output)
            harness.take()
        if chance.random() < 0.1:
            snapshots = [harness.snapshot() for harness in harnesses]
            for harness in harnesses:
                harness.close()
            harnesses = rescaled(make, snapshots, chance.choice([1, 2, 3]))
    assert given_out == expected
    for harness in harnesses:
        harness.close()


@pytest.mark.parametrize(("how", "given"), [("inner", [(3, 2)]), ("left", [(1, None), (3, 2)])])
def test_no_more_input(sides: Sides, how: str, given: list[Any]) -> None:
    """Every record was answered when it came; the broadcast side stays."""
    left, right = sides
    with OperatorHarness(operator_of(how)) as harness:
        harness.push([left("a", 1, 1)], [1], 0)
        harness.push([right("a", 2, 1)], [1], 1)
        harness.push([left("a", 3, 1)], [1], 0)
        assert harness.take() == given
        harness.watermark(MAX_WATERMARK)
        harness.end_input()
        assert harness.output == []
        snapshot = harness.snapshot()
    (restored,) = rescaled(lambda: operator_of(how), [snapshot], 1)
    restored.push([left("a", 4, 1)], [1], 0)
    assert restored.output == [(4, 2)]
    restored.close()


def test_errors_name_the_operator(sides: Sides) -> None:
    left, right = sides
    with OperatorHarness(operator_of("left")) as harness:
        harness.push([right("a", 1, 1)], [1], 1)
        with pytest.raises(KeyTypeError, match=r"operator 'operator': .*its keys are of type str, None is not"):
            harness.push([right(None, 1, 1)], [1], 1)  # type: ignore[arg-type]
        with pytest.raises(KeyTypeError, match=r"operator 'operator': the keys of its two inputs are of different"):
            harness.push([left(1, 1, 1)], [1], 0)  # type: ignore[arg-type]
    with OperatorHarness(operator_of("left")) as harness:
        message = r"operator 'operator', subtask 0: AttributeError.*on the record \('a',\)"
        harness.operator.selectors = (KeyByFunction(lambda record: record[0]),) * 2  # type: ignore[attr-defined]
        with pytest.raises(UserCodeError, match=message):
            harness.push([("a",)], [1], 0)
