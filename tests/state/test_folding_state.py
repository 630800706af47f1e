"""Reducing and aggregating state: functions of either form, nothing until something was added, kinds that are kept."""

from __future__ import annotations

import operator
from typing import Any

import pytest

from penstock.state.descriptors import AggregatingStateDescriptor, ReducingStateDescriptor, ValueStateDescriptor
from penstock.state.errors import IncompatibleStateError, StateError


class Longest:
    def reduce(self, one: str, other: str) -> str:
        return max(one, other, key=len)


class Mean:
    def create_accumulator(self) -> tuple[int, int]:
        return (0, 0)

    def add(self, value: int, accumulator: tuple[int, int]) -> tuple[int, int]:
        return (accumulator[0] + value, accumulator[1] + 1)

    def get_result(self, accumulator: tuple[int, int]) -> float:
        return accumulator[0] / accumulator[1]


SUM = ReducingStateDescriptor[int]("sum", operator.add, int)
LONGEST = ReducingStateDescriptor[str]("longest", Longest(), str)
MEAN = AggregatingStateDescriptor[Any]("mean", Mean(), tuple[int, int])


def test_what_is_added_is_folded_per_key(rig: Any) -> None:
    backend = rig.open()
    for key in ("a", "b"):
        backend.set_current_key(key)
        assert backend.reducing_state(SUM).get() is None
        assert backend.aggregating_state(MEAN).get() is None
    for number in (1, 2, 6):
        backend.set_current_key("a")
        backend.reducing_state(SUM).add(number)
        backend.aggregating_state(MEAN).add(number)
        backend.reducing_state(LONGEST).add("x" * number)
    backend = rig.open(rig.snapshot(backend))
    backend.set_current_key("a")
    assert backend.reducing_state(SUM).get() == 9
    assert backend.aggregating_state(MEAN).get() == 3.0
    assert backend.reducing_state(LONGEST).get() == "xxxxxx"
    backend.reducing_state(SUM).clear()
    backend.aggregating_state(MEAN).clear()
    assert (backend.reducing_state(SUM).get(), backend.aggregating_state(MEAN).get()) == (None, None)
    backend.set_current_key("b")
    assert backend.reducing_state(SUM).get() is None


def test_the_same_state_may_be_asked_for_with_a_new_function(rig: Any) -> None:
    backend = rig.open()
    first = backend.reducing_state(ReducingStateDescriptor("sum", lambda a, b: a + b, int))
    assert backend.reducing_state(ReducingStateDescriptor("sum", lambda a, b: a + b, int)) is first


def test_values_of_another_type_are_refused(rig: Any) -> None:
    backend = rig.open()
    backend.set_current_key("a")
    state = backend.reducing_state(SUM)
    with pytest.raises(StateError, match=r"state 'sum' of operator 'counter'.*int is declared"):
        state.add("1")
    state.add(1)
    with pytest.raises(StateError, match="int is declared"):
        state.add(0.5)


def test_another_kind_is_refused(rig: Any) -> None:
    backend = rig.open()
    backend.reducing_state(SUM)
    with pytest.raises(StateError, match="'sum' twice"):
        backend.value_state(ValueStateDescriptor[int]("sum", int))
    restored = rig.open(rig.snapshot(backend))
    with pytest.raises(IncompatibleStateError, match="was a reducing state and is now declared as a value state"):
        restored.value_state(ValueStateDescriptor[int]("sum", int))


def test_what_is_no_function_is_refused_at_once() -> None:
    with pytest.raises(StateError, match=r"state 'sum': the reduce function is a callable\(a, b\) or has a method"):
        ReducingStateDescriptor("sum", 5, int)
    with pytest.raises(StateError, match="state 'sum': the reduce function"):
        ReducingStateDescriptor("sum")
    with pytest.raises(StateError, match=r"state 'mean': the aggregate function has no method create_accumulator\(\)"):
        AggregatingStateDescriptor("mean", Longest())
