"""Timers in memory: buckets against lists of their keys, and the order in which they fire."""

from __future__ import annotations

import time
import tracemalloc
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from penstock.state.rows.timer_head import KEPT, NEW, NOT_THERE, Place, TimerHead

KEYS = st.sampled_from([0, 1, 2, 3, "a", "b", None, ("a", 1), float("nan")])
PLACES = st.tuples(st.integers(-1, 2), st.integers(0, 1))


class HeadMachine(RuleBasedStateMachine):
    """Places and their keys, each of which is new or kept."""

    def __init__(self) -> None:
        super().__init__()
        self.head = TimerHead()
        self.model: dict[Place, dict[Any, int]] = {}

    def gone(self, place: Place, key: Any) -> int:
        found = self.model[place].pop(key)
        if not self.model[place]:
            del self.model[place]
        return found

    @rule(key=KEYS, place=PLACES)
    def add(self, key: Any, place: Place) -> None:
        self.head.add(key, place)
        self.model.setdefault(place, {}).setdefault(key, NEW)

    @rule(keys=st.lists(KEYS, max_size=8), place=PLACES)
    def add_all(self, keys: list[Any], place: Place) -> None:
        self.head.add_all(keys, place)
        for key in keys:
            self.model.setdefault(place, {}).setdefault(key, NEW)

    @rule(key=KEYS, place=PLACES)
    def add_kept(self, key: Any, place: Place) -> None:
        if not self.head.holds(key, place):
            self.head.add_kept(key, place)
            self.model.setdefault(place, {})[key] = KEPT

    @rule(key=KEYS, place=PLACES)
    def remove(self, key: Any, place: Place) -> None:
        there = key in self.model.get(place, {})
        assert self.head.remove(key, place) == (self.gone(place, key) if there else NOT_THERE)

    @rule()
    def settle(self) -> None:
        changes: dict[Any, bytes | None] = {}
        self.head.settle(changes, b"put")
        new = {(at, key, ns) for (at, ns), keys in self.model.items() for key in keys if keys[key] == NEW}
        assert changes == dict.fromkeys(new, b"put")
        for keys in self.model.values():
            keys.update(dict.fromkeys(keys, KEPT))

    @precondition(lambda self: self.model)
    @rule(times=st.integers(1, 5))
    def pop(self, times: int) -> None:
        for _ in range(min(times, self.head.size)):
            place = self.head.first()
            assert place == min(self.model)
            key, found = self.head.pop(place)
            assert found == self.gone(place, key)

    @precondition(lambda self: self.model)
    @rule(most=st.integers(1, 6))
    def pop_some(self, most: int) -> None:
        place = self.head.first()
        assert place == min(self.model)
        keys, kept = self.head.pop_some(place, most)
        assert 1 <= len(keys) <= most
        kept = list(kept)
        for key in keys:
            assert self.gone(place, key) == (KEPT if key in kept else NEW)

    @precondition(lambda self: self.head.size > 1)
    @rule(data=st.data())
    def cut(self, data: st.DataObject) -> None:
        keep = data.draw(st.integers(1, self.head.size - 1))
        begins, new = self.head.cut(keep)
        assert self.head.size == keep
        gone = set()
        for at, ns in sorted(self.model):
            for key in [key for key in self.model[at, ns] if not self.head.holds(key, (at, ns))]:
                if self.gone((at, ns), key) == NEW:
                    gone.add((at, key, ns))
                assert at >= begins
        assert max(at for at, _namespace in self.model) <= begins
        assert len(new) == len(gone)
        assert set(new) == gone

    @invariant()
    def agree(self) -> None:
        assert self.head.size == sum(map(len, self.model.values()))
        assert self.head.kept == sum(found == KEPT for keys in self.model.values() for found in keys.values())
        assert self.head.first() == min(self.model, default=None)
        assert (self.head.earliest is None) == (not self.model)
        assert self.head._lines.keys() <= self.model.keys()
        for place, keys in self.model.items():
            assert all(self.head.holds(key, place) for key in keys)


def test_buckets_are_those_of_the_model() -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        HeadMachine, settings=settings(max_examples=100, stateful_step_count=40, deadline=None)
    )


def fired(head: TimerHead, most: int) -> list[tuple[Place, Any]]:
    """One by one, or so many at once."""
    found: list[tuple[Place, Any]] = []
    while (place := head.first()) is not None:
        found += [(place, key) for key in (head.pop_some(place, most)[0] if most else [head.pop(place)[0]])]
    return found


@pytest.mark.parametrize("most", [0, 1, 3, 100])
def test_a_bucket_fires_in_the_order_of_registration(most: int) -> None:
    head = TimerHead()
    for place in [(7, 0), (5, 1), (5, 0)]:
        head.add("z", place)
        head.add_all(["k", "z", "a"], place)
    head.settle({}, b"")
    for place in [(5, 0), (5, 1), (7, 0)]:
        head.add_all(["b", "k"], place)
        head.add("A", place)
    in_order = [(place, key) for place in [(5, 0), (5, 1), (7, 0)] for key in ["z", "k", "a", "b", "A"]]
    assert fired(head, most) == in_order


def test_what_changes_in_a_bucket_that_fires() -> None:
    """Deleted and registered again: once; registered after it fired: again, behind the others; deleted: not."""
    head, place = TimerHead(), (5, 0)
    head.add_all("abcdef", place)
    assert [head.pop(place), *head.pop_some(place, 1)[0]] == [("a", NEW), "b"]
    for key in "cd":
        head.remove(key, place)
    head.add("c", place)
    head.add("a", place)
    head.settle({}, b"")
    assert head.pop(place) == ("c", KEPT)
    assert [key for _place, key in fired(head, 0)] == ["e", "f", "a"]
    assert not head._lines


def test_one_that_is_new_stands_behind_many_that_are_kept() -> None:
    head, place = TimerHead(), (5, 0)
    head.add_all("abcd", place)
    head.settle({}, b"")
    head.add("e", place)
    assert head.pop_some(place, 3) == (["a", "b", "c"], ["a", "b", "c"])
    assert head.pop_some(place, 3) == (["d", "e"], {"d": None})


def test_a_bucket_that_has_ended_leaves_no_line() -> None:
    """Whichever way its last timer goes, when the one before it was in the other half of the bucket."""
    head = TimerHead()
    for at in range(4):
        head.add("a", (at, 0))
    head.settle({}, b"")
    for at in range(4):
        head.add("b", (at, 0))
    assert [head.pop((0, 0)), head.pop((0, 0))] == [("a", KEPT), ("b", NEW)]
    assert [head.pop((1, 0)), head.pop_some((1, 0), 1)] == [("a", KEPT), (["b"], ())]
    assert [head.pop((2, 0)), head.remove("b", (2, 0))] == [("a", KEPT), NEW]
    assert head.first() == (3, 0)
    assert head.pop((3, 0)) == ("a", KEPT)
    head.add_kept("a", (3, 0))
    assert [head.remove("b", (3, 0)), head.pop((3, 0))] == [NEW, ("a", KEPT)]
    assert (head.first(), head._lines) == (None, {})


def test_many_timers_of_one_time_do_not_fire_ever_more_slowly() -> None:
    """Ten times as many take about ten times as long, not a hundred times."""

    def seconds(timers: int, most: int) -> float:
        head = TimerHead()
        head.add_all(range(timers), (5, 0))
        began = time.process_time()
        assert len(fired(head, most)) == timers
        return time.process_time() - began

    for most in (0, 2):
        assert min(seconds(200_000, most) for _ in range(2)) < 50 * max(seconds(20_000, most) for _ in range(3))


@pytest.mark.parametrize("of_one_time", [1, 2, 500])
def test_the_weight_is_about_what_timers_take(rocks: Any, of_one_time: int) -> None:
    """A few times that, for what is on its way to the store is not in it."""
    timers: Any = rocks.open().timers("event")
    tracemalloc.start()
    try:
        for number in range(10_000):
            timers.register_for(10**6 + number, 10**6 + number // of_one_time, 0)
        taken, _peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken < timers.weight < 4 * taken
