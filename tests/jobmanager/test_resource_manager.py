"""Where the slots of a job come from."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from penstock.jobmanager.cluster.resource_manager import Room, place, shortage


def test_slots_are_spread_over_the_nodes() -> None:
    assert place({"a": Room(4, 4), "b": Room(4, 4)}, 4) == {"a": 2, "b": 2}
    assert place({"a": Room(4, 1), "b": Room(4, 4)}, 4) == {"a": 1, "b": 3}


def test_a_job_fills_up_where_it_has_least() -> None:
    rooms = {"a": Room(4, 2, used=2), "b": Room(4, 2)}
    assert place(rooms, 2) == {"b": 2}


def test_slots_that_the_job_was_let_before_come_first() -> None:
    rooms = {"a": Room(4, 4), "b": Room(4, 2, held=2)}
    assert place(rooms, 2) == {"b": 2}


def test_a_slot_that_died_is_replaced_on_its_node() -> None:
    rooms = {"a": Room(4, 4), "b": Room(4, 2, used=2, lost=1)}
    assert place(rooms, 1) == {"b": 1}
    assert place(rooms, 2) == {"a": 1, "b": 1}
    assert place({"a": Room(4, 4), "b": Room(4, 0, used=4, lost=1)}, 1) == {"a": 1}, "there is no room"


def test_all_or_none() -> None:
    assert place({"a": Room(2, 1), "b": Room(2, 1)}, 3) is None
    assert place({}, 1) is None
    assert place({}, 0) == {}


ROOMS = st.dictionaries(
    st.sampled_from("abcde"),
    st.builds(
        lambda free, held, used, lost: Room(free + held + used, free, held, used, lost), *[st.integers(0, 5)] * 4
    ),
)


@given(ROOMS, st.integers(0, 20))
def test_a_placement_is_exact_and_fits(rooms: dict[str, Room], count: int) -> None:
    plan = place(rooms, count)
    room = sum(r.free + r.held for r in rooms.values())
    assert (plan is None) == (room < count)
    if plan is not None:
        assert sum(plan.values()) == count
        assert all(0 < slots <= rooms[name].free + rooms[name].held for name, slots in plan.items())


def test_why_there_are_not_enough() -> None:
    assert "no task manager yet" in shortage({}, 2)
    text = shortage({"taskmanager-a": Room(2, 1), "taskmanager-b": Room(2, 0)}, 5)
    assert "asks for 5 slots, and 1 of 4 are free" in text
    assert "taskmanager-a: 1 of 2" in text
    assert "lower the parallelism" in text
    assert "other jobs hold the rest" in shortage({"a": Room(4, 1)}, 3)
    lacking = shortage({"a": Room(4, 0, used=4)}, 2)
    assert "asks for 2 slots more than its 4, and 0 of 4 are free" in lacking
    assert "lower the parallelism" in lacking
    assert "have not come up yet" in shortage({"a": Room(4, 4)}, 3)
    assert "a: 0 of 0 (other Python)" in shortage({"a": Room(0, 0, problem="other Python")}, 1)
