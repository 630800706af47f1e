"""What a row backend promises, case by case: values, maps, lists, timers, names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from penstock.state.backend import KeyedStateBackend
from penstock.state.descriptors import ListStateDescriptor, MapStateDescriptor, ValueStateDescriptor
from penstock.state.errors import (
    IncompatibleStateError,
    KeyTypeError,
    StateError,
)
from penstock.state.key_groups import KeyGroupRange, key_group
from penstock.state.rows.keyed_backend import BackendOptions
from penstock.state.snapshots import KeyedHandle

Handles = tuple[KeyedHandle, ...]
COUNT = ValueStateDescriptor[int]("count", int)


# ---- values


def test_state_without_a_key_is_an_error(rig: Any) -> None:
    state = rig.open().value_state(COUNT)
    with pytest.raises(StateError, match="without a current key"):
        state.value()


def test_fold_leaves_no_current_key(rig: Any) -> None:
    backend = rig.open()
    backend.set_current_key("a")
    assert backend.value_state(COUNT).fold(["a", "b", "a"], [1, 2, 3], lambda v, r: (v or 0) + r) == [1, 2, 4]
    with pytest.raises(StateError):
        _ = backend.current_key


def test_a_fold_that_fails_keeps_what_came_before(rig: Any) -> None:
    backend = rig.open()

    def add(value: int | None, record: int) -> int:
        return (value or 0) + 10 // record

    with pytest.raises(ZeroDivisionError):
        backend.value_state(COUNT).fold(["a", "b", "c"], [1, 0, 1], add)
    restored = rig.open(rig.snapshot(backend)).value_state(COUNT)
    assert restored.fold(["a", "b", "c"], [1, 1, 1], lambda value, _record: value or 0) == [10, 0, 0]


@pytest.mark.parametrize("wrong", [1.5, True, "1"])
def test_a_value_of_another_type_is_refused_at_once(rig: Any, wrong: Any) -> None:
    backend = rig.open()
    backend.set_current_key("a")
    with pytest.raises(StateError, match=r"state 'count' of operator 'counter'.*int is declared"):
        backend.value_state(COUNT).update(wrong)
    with pytest.raises(StateError, match="int is declared"):
        backend.value_state(COUNT).fold(["a"], [1], lambda _value, _record: wrong)


def test_changes_of_a_mutable_default_are_saved(rig: Any) -> None:
    descriptor = ValueStateDescriptor[dict[str, int]]("seen", dict[str, int], {})
    backend = rig.open()
    for key in ("read only", "changed"):
        backend.set_current_key(key)
        value = backend.value_state(descriptor).value()
        assert value == {}
        if key == "changed":
            value["x"] = 1
    assert descriptor.default == {}
    restored = rig.open(rig.snapshot(backend))
    restored.set_current_key("changed")
    assert restored.value_state(descriptor).value() == {"x": 1}


def test_cleared_state_leaves_no_rows(rig: Any) -> None:
    backend = rig.open()
    for number in range(100):
        backend.set_current_key(number)
        backend.value_state(COUNT).update(number)
        backend.list_state(ListStateDescriptor[int]("list", int)).add(number)
        backend.map_state(MapStateDescriptor[int, int]("map", int, int)).put(number, number)
        backend.timers("event").register(number)
    full = rig.snapshot(backend, 1)
    for number in range(100):
        backend.set_current_key(number)
        backend.value_state(COUNT).clear()
        backend.list_state(ListStateDescriptor[int]("list", int)).clear()
        backend.map_state(MapStateDescriptor[int, int]("map", int, int)).clear()
        assert backend.timers("event").pop_due(200) == (number, number, 0)
    rig.kind = "heap"  # whose snapshots hold rows and nothing else
    emptied = rig.open(rig.snapshot(backend, 2))
    assert rig.snapshot(emptied)[0].files == {}
    assert rig.snapshot(rig.open(full))[0].files != {}


# ---- maps and lists


def test_map_keys_have_one_type(rig: Any) -> None:
    backend = rig.open()
    backend.set_current_key("a")
    state = backend.map_state(MapStateDescriptor[Any, int]("map"))
    state.put(1, 10)
    with pytest.raises(KeyTypeError, match="keys are of type int, True is not"):
        state.put(True, 11)


def test_maps_are_in_the_order_of_their_keys(rig: Any) -> None:
    backend = rig.open(options=BackendOptions(cache_cells=2, write_buffer_bytes=8 << 20))
    descriptor = MapStateDescriptor[int, str]("map", int, str)
    for number in (3, -1, 2**40, -(2**70), 0):
        backend.set_current_key("a")
        backend.map_state(descriptor).put(number, str(number))
        backend.set_current_key("other")
        backend.map_state(descriptor).put(1, "")
        backend.between_batches()
    backend.set_current_key("a")
    assert list(backend.map_state(descriptor).keys()) == [-(2**70), -1, 0, 3, 2**40]


def test_lists_keep_their_order_over_restores(rig: Any) -> None:
    descriptor = ListStateDescriptor[int]("list", int)
    handles: Handles = ()
    for start in (0, 10, 20):
        backend = rig.open(handles)
        for number in range(start, start + 10, 2):
            backend.set_current_key("a")
            backend.list_state(descriptor).add_all([number, number + 1])
            rig.finish(backend.snapshot(number))
        handles = rig.snapshot(backend, 100)
    backend = rig.open(handles)
    backend.set_current_key("a")
    assert backend.list_state(descriptor).get() == list(range(30))


# ---- timers


def test_timers_fire_by_time_then_by_registration(rig: Any) -> None:
    timers = rig.open().timers("event")
    for key, timestamp in [("z", 5), ("a", 5), ("m", 3), ("z", 5), ("b", 9)]:
        timers.register_for(key, timestamp, 0)
    timers.delete_for("a", 5, 0)
    timers.register_for("a", 5, 0)
    fired = []
    while (timer := timers.pop_due(8)) is not None:
        fired.append(timer[1])
    assert fired == ["m", "z", "a"]
    assert timers.next_timestamp() == 9


def test_ties_fire_by_namespace_then_by_registration_in_memory_and_by_rows_after_that(rig: Any) -> None:
    def fired(timers: Any) -> list[tuple[int, Any, int]]:
        return list(iter(lambda: timers.pop_due(5), None))

    backend = rig.open()
    timers = backend.timers("event")
    keys = [key for key in "hgfedcba" for _ in range(2)]
    for number, key in enumerate(keys):
        timers.register_for(key, 5, number % 2)
    handles = rig.snapshot(backend)
    assert fired(timers) == [(5, key, namespace) for namespace in (0, 1) for key in "hgfedcba"]
    again = fired(rig.open(handles).timers("event"))
    assert again == sorted(again, key=lambda timer: (timer[2], key_group(timer[1], 32), timer[1]))
    assert len(again) == len(keys)


def test_many_deleted_timers_take_no_room(rig: Any) -> None:
    timers: Any = rig.open().timers("event")
    for number in range(10_000):
        timers.register_for("a", number, 0)
        timers.delete_for("a", number, 0)
    assert timers._head.buckets < 2_000
    assert timers.changed == 0


# ---- names and types


def test_one_name_is_one_state(rig: Any) -> None:
    backend = rig.open()
    assert backend.value_state(COUNT) is backend.value_state(ValueStateDescriptor[int]("count", int))
    with pytest.raises(StateError, match="operator 'counter' declares its state 'count' twice"):
        backend.value_state(ValueStateDescriptor[str]("count", str))
    with pytest.raises(StateError, match="'count' twice"):
        backend.list_state(ListStateDescriptor[int]("count", int))


@dataclass
class Visit:
    page: str
    times: int


def visits(rig: Any) -> Handles:
    backend = rig.open()
    backend.set_current_key("a")
    backend.value_state(ValueStateDescriptor[Visit]("visit", Visit)).update(Visit("home", 3))
    return rig.snapshot(backend)


def test_another_kind_is_refused(rig: Any) -> None:
    backend = rig.open(visits(rig))
    with pytest.raises(IncompatibleStateError, match="was a value state and is now declared as a list state"):
        backend.list_state(ListStateDescriptor[Visit]("visit", Visit))


def test_another_max_parallelism_is_refused(rig: Any) -> None:
    handles = visits(rig)
    with pytest.raises(IncompatibleStateError, match="max parallelism 32, which is now 64"):
        rig.open(handles, KeyGroupRange(0, 63), maximum=64)


def test_undeclared_state_is_kept(rig: Any) -> None:
    second = rig.open(visits(rig))
    second.set_current_key("a")
    second.value_state(COUNT).update(1)
    third = rig.open(rig.snapshot(second))
    third.set_current_key("a")
    assert third.value_state(ValueStateDescriptor[Visit]("visit", Visit)).value() == Visit("home", 3)
    assert third.value_state(COUNT).value() == 1


def test_parents_that_numbered_their_states_otherwise(rig: Any) -> None:
    text = ValueStateDescriptor[str]("text", str)
    halves = []
    for groups, order in [(KeyGroupRange(0, 15), (COUNT, text)), (KeyGroupRange(16, 31), (text, COUNT))]:
        backend = rig.open(groups=groups)
        for descriptor in order:
            backend.value_state(descriptor)
        halves.append(backend)
    whole = rig.open()
    owners: dict[int, KeyedStateBackend] = {}
    for key in range(200):
        owners[key] = halves[key_group(key, 32) // 16]
        owners[key].set_current_key(key)
        owners[key].value_state(COUNT).update(key)
        owners[key].value_state(text).update(str(key))
    whole = rig.open(rig.snapshot(halves[0]) + rig.snapshot(halves[1]))
    for key in range(200):
        whole.set_current_key(key)
        assert (whole.value_state(COUNT).value(), whole.value_state(text).value()) == (key, str(key))
