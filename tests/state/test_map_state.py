"""Maps ask below as seldom as possible, and that never changes what they say."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.state.descriptors import MapStateDescriptor
from penstock.state.key_encoding import encode_key
from penstock.state.rows import map_cells
from penstock.state.rows.cell_cache import MISSING
from penstock.state.rows.map_cells import MapTable
from penstock.state.rows.write_queue import WriteQueue
from penstock.state.serialization.serializers import serializer_for
from penstock.state.ttl_config import StateTtlConfig

VISITS = MapStateDescriptor[int, int]("visits", int, int)
LISTS = MapStateDescriptor[int, list[int]]("lists", int, list[int])


class Rows:
    """A store of rows in a dict that counts how often it is asked."""

    kind = "rows"

    def __init__(self) -> None:
        self.rows: dict[bytes, bytes] = {}
        self.asked = 0

    def get(self, key: bytes) -> bytes | None:
        self.asked += 1
        return self.rows.get(key)

    def get_all(self, keys: list[bytes]) -> list[bytes | None]:
        self.asked += 1
        return list(map(self.rows.get, keys))

    def scan(
        self, prefix: bytes, most: int | None = None, start: bytes = b"", end: bytes | None = None
    ) -> list[tuple[bytes, bytes]]:
        self.asked += 1
        suffixes = {row_key[len(prefix) :]: row_key for row_key in self.rows if row_key.startswith(prefix)}
        within = sorted(suffix for suffix in suffixes if start <= suffix and (end is None or suffix < end))
        return [(suffixes[suffix], self.rows[suffixes[suffix]]) for suffix in within[:most]]

    def write(self, rows: list[tuple[bytes, bytes | None]]) -> None:
        for key, value in rows:
            if value is None:
                self.rows.pop(key, None)
            else:
                self.rows[key] = value


class Map:
    """One map of one key over a store, without handles."""

    def __init__(self, store: Rows) -> None:
        self.queue = WriteQueue(store)  # type: ignore[arg-type]  # what tables use of a store
        self.restart()
        self.generation = 0

    def restart(self) -> None:
        self.table = MapTable(self.queue, 1, 0, 128, "here", serializer=serializer_for(int))

    @property
    def cell(self) -> Any:
        return self.table.changed.get("key") or self.table.young.get("key") or self.table.load("key")

    def get(self, user_key: int) -> int | None:
        value = self.table.lookup("key", self.cell, user_key)
        return None if value is MISSING else value  # type: ignore[no-any-return]

    def ordered(self) -> list[int]:
        part, after = self.table.part("key", self.cell, b"", None, 1)
        while after is not None:
            more, after = self.table.part("key", self.cell, after, None, 1)
            part += more
        return [user_key for user_key, _row in part]

    def flush(self) -> None:
        self.generation += 1
        self.table.flush(self.queue.open_layer(), self.generation)

    def write(self) -> None:
        while self.queue.waiting:
            self.queue.write_some()


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["put", "get", "get", "remove", "change", "look up"]), st.integers(0, 7)),
        st.tuples(st.sampled_from(["flush", "write", "restart", "clear", "keys", "know", "iterate"]), st.just(0)),
    ),
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(OPERATIONS)
def test_a_map_over_layers_and_a_store_is_a_dict(operations: list[tuple[str, int]]) -> None:
    store, model = Rows(), dict[int, int]()
    state = Map(store)
    for number, (operation, user_key) in enumerate(operations):
        if operation == "put":
            state.table.put("key", state.cell, user_key, number)
            model[user_key] = number
        elif operation == "remove":
            state.table.remove("key", state.cell, user_key)
            model.pop(user_key, None)
        elif operation == "clear":
            state.table.clear("key", state.cell)
            model.clear()
        elif operation == "keys":
            state.table.complete("key", state.cell)
            assert [user_key for user_key in state.ordered() if state.get(user_key) is not None] == sorted(model)
        elif operation == "iterate":
            assert [user_key for user_key in state.ordered() if state.get(user_key) is not None] == sorted(model)
        elif operation == "know":
            state.table.know(["key"])
            assert state.cell.entries == model
        elif operation == "look up":
            state.table.look_up_all(["key", "key"], [user_key, 1])
        elif operation == "change" and state.get(user_key) is not None:
            state.table.touched("key", state.cell, user_key)
        elif operation in ("flush", "write", "restart"):
            state.flush()
            if operation == "write":
                state.write()
            elif operation == "restart":
                state.restart()
        assert state.get(user_key) == model.get(user_key)
    state.flush()
    state.write()
    assert len(store.rows) == len(model)


def test_a_small_map_is_read_whole_after_some_looks() -> None:
    store = Rows()
    state = Map(store)
    for user_key in range(20):
        state.table.put("key", state.cell, user_key, user_key)
    state.flush()
    state.write()
    state.restart()
    store.asked = 0
    assert [state.get(user_key) for user_key in range(100, 200)] == [None] * 100
    assert [state.get(user_key) for user_key in range(20)] == list(range(20))
    assert store.asked == 4  # three looks, one scan


def test_a_big_map_is_not() -> None:
    store = Rows()
    state = Map(store)
    for user_key in range(5_000):
        state.table.put("key", state.cell, user_key, user_key)
    state.flush()
    state.write()
    state.restart()
    store.asked = 0
    assert [state.get(user_key) for user_key in range(200)] == list(range(200))
    assert store.asked == 203
    assert len(state.cell.entries) == 200


def test_what_is_removed_leaves_the_others_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sorting them anew for each would make it quadratic to take a map away from its beginning on."""
    state = Map(Rows())
    state.table.complete("key", state.cell)
    for user_key in range(500):
        state.table.put("key", state.cell, user_key, user_key)
    encoded: list[int] = []

    def counted(key: int) -> bytes:
        encoded.append(key)
        return encode_key(key)

    monkeypatch.setattr(map_cells, "encode_key", counted)
    for user_key in range(500):
        assert next(iter(state.ordered())) == user_key
        state.table.remove("key", state.cell, user_key)
    assert len(encoded) <= 2 * 500


def test_what_is_removed_since_the_last_write_is_not_looked_at_again() -> None:
    """Else taking a map away from its beginning on would be quadratic; rows below do not change that."""
    store = Rows()
    state = Map(store)
    for user_key in range(50):
        state.table.put("key", state.cell, user_key, user_key)
    state.flush()
    state.write()
    state.restart()
    state.table.know(["key"])
    for user_key in range(49):
        state.table.remove("key", state.cell, user_key)
    assert state.ordered() == [49]
    state.table.put("key", state.cell, 7, 77)
    assert state.ordered() == [7, 49]
    assert len(state.cell.entries) == 2
    state.flush()
    state.write()
    state.restart()
    assert [(user_key, state.get(user_key)) for user_key in state.ordered()] == [(7, 77), (49, 49)]
    assert len(store.rows) == 2


def test_maps_and_entries_of_many_keys_are_asked_for_at_once() -> None:
    store = Rows()
    state = Map(store)
    for key in range(10):
        state.table.put(key, state.table.load(key), key, 10 * key)
    for user_key in range(100):
        state.table.put("big", state.table.changed.get("big") or state.table.load("big"), user_key, 1)
    state.flush()
    state.write()
    state.restart()
    store.asked = 0
    state.table.look_up_all([1, 2, 3, 4], [1, 2, 3, 5])
    assert store.asked == 1
    state.table.know([5, 6, "big", 5])
    assert store.asked == 4
    state.table.know([5, 6, "big"])
    state.table.look_up_all([5, 6], [5, 0])
    assert store.asked == 4  # what is known, and what is known to be big
    looked = [(key, user_key) for key, user_key in ((1, 1), (2, 2), (3, 3), (4, 5), (5, 5), (6, 0))]
    found = [state.table.lookup(key, state.table.young[key], user_key) for key, user_key in looked]
    assert found == [10, 20, 30, MISSING, 50, MISSING]
    assert store.asked == 4


def test_what_comes_and_goes_between_two_writes_leaves_no_trace() -> None:
    store = Rows()
    state = Map(store)
    for user_key in range(10):
        assert state.get(user_key) is None
        state.table.put("key", state.cell, user_key, 1)
        state.table.remove("key", state.cell, user_key)
    assert not state.cell.changed
    assert not state.cell.entries
    state.flush()
    state.write()
    assert not store.rows


def test_put_all_takes_all_or_nothing(rig: Any) -> None:
    backend = rig.open()
    backend.set_current_key("a")
    state = backend.map_state(VISITS)
    with pytest.raises(Exception, match="int is declared"):
        state.put_all({1: 1, 2: "two"})
    assert state.is_empty()


def test_a_value_changed_in_place_is_saved(rig: Any) -> None:
    backend = rig.open()
    backend.set_current_key("a")
    backend.map_state(LISTS).put(1, [1])
    handles = rig.snapshot(backend, 1)
    backend.set_current_key("a")
    backend.map_state(LISTS).get(1).append(2)
    later = rig.snapshot(backend, 2)
    for saved, expected in ((handles, [1]), (later, [1, 2])):
        restored = rig.open(saved)
        restored.set_current_key("a")
        assert restored.map_state(LISTS).get(1) == expected


@pytest.mark.parametrize("ttl", [None, StateTtlConfig("1h")])
def test_a_map_is_used_like_a_dict(rig: Any, ttl: Any) -> None:
    backend = rig.open()
    state = backend.map_state(MapStateDescriptor("map", str, int, ttl=ttl))
    backend.set_current_key("k")
    state["b"], state["a"] = 2, 1
    assert ("a" in state, "c" in state, state["b"], list(state)) == (True, False, 2, ["a", "b"])
    with pytest.raises(KeyError, match="'c'"):
        state["c"]
    del state["a"]
    del state["c"]
    assert dict(state) == {"b": 2}
