"""Lists that are only added to keep no cell; whatever else happens to them, they are lists."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.state.descriptors import ListStateDescriptor
from penstock.state.errors import StateError
from penstock.state.rows.heap import HeapStore
from penstock.state.rows.keyed_backend import BackendOptions
from penstock.state.rows.list_cells import ListTable, PlainChunks
from penstock.state.rows.write_queue import WriteQueue
from penstock.state.serialization.serializers import serializer_for

KEYS = ["a", "b", 3]
OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["add", "add", "add", "read", "replace", "clear", "flush", "rotate", "write", "restart"]),
        st.sampled_from(KEYS),
    ),
    max_size=60,
)


class Lists:
    """The lists of some keys over a store, without handles."""

    def __init__(self, declared: Any) -> None:
        element = serializer_for(declared)
        self._chunks = PlainChunks(element, element.of_lists())
        self.queue = WriteQueue(HeapStore())
        self.generation = 0
        self.restart()

    def restart(self) -> None:
        self.table = ListTable(self.queue, 1, 0, 128, "here", chunks=self._chunks)

    def leave(self, how: str) -> None:
        self.generation += 1
        getattr(self.table, how)(self.queue.open_layer(), self.generation)

    def read(self, key: Any) -> list[Any]:
        return list(self.table.read(key, self.table.whole(key)))


@settings(max_examples=300, deadline=None)
@given(OPERATIONS, st.sampled_from([int, None]))
def test_a_list_over_layers_and_a_store_is_a_list(operations: list[tuple[str, Any]], declared: Any) -> None:
    """Of elements that cannot change, which are encoded late, and of others."""
    lists, model = Lists(declared), {key: list[int]() for key in KEYS}
    for number, (operation, key) in enumerate(operations):
        if operation == "add":
            lists.table.append(key, [number])
            model[key].append(number)
        elif operation == "read":
            assert lists.read(key) == model[key]
        elif operation in ("replace", "clear"):
            model[key] = [number] if operation == "replace" else []
            lists.table.replace(key, lists.table.whole(key), list(model[key]))
        elif operation in ("flush", "rotate"):
            lists.leave(operation)
        elif operation == "write":
            lists.queue.write_some()
        else:
            lists.leave("flush")
            lists.restart()
    for key in KEYS:
        assert lists.read(key) == model[key]


def test_what_cannot_be_encoded_as_it_is_still_comes_back(rig: Any) -> None:
    backend = rig.open()
    state = backend.list_state(ListStateDescriptor[int]("list", int))
    for key, numbers in (("a", [1, 2**70]), ("b", [3])):
        backend.set_current_key(key)
        for number in numbers:
            state.add(number)
    restored = rig.open(rig.snapshot(backend))
    for key, numbers in (("a", [1, 2**70]), ("b", [3])):
        restored.set_current_key(key)
        assert restored.list_state(ListStateDescriptor[int]("list", int)).get() == numbers


@pytest.mark.parametrize("wrong", [True, 1.5, "1", None])
def test_elements_of_another_type_are_refused_where_they_come_in(rig: Any, wrong: Any) -> None:
    backend = rig.open()
    backend.set_current_key("a")
    state = backend.list_state(ListStateDescriptor[int]("list", int))
    with pytest.raises(StateError, match=r"state 'list' of operator 'counter'.*int is declared"):
        state.add(wrong)
    with pytest.raises(StateError, match="int is declared"):
        state.add_all([1, wrong])
    assert state.get() == []


def test_a_wrong_element_in_a_list_that_was_handed_out_is_found(rig: Any) -> None:
    backend = rig.open()
    backend.set_current_key("a")
    state = backend.list_state(ListStateDescriptor[int]("list", int))
    state.add(1)
    state.get().append("two")
    with pytest.raises(StateError, match="state 'list'"):
        backend.snapshot(1)


def test_few_long_lists_leave_the_cache_too(rig: Any) -> None:
    backend = rig.open(options=BackendOptions(cache_cells=2_000, write_buffer_bytes=8 << 20))
    state = backend.list_state(ListStateDescriptor[int]("list", int))
    held = []
    for _batch in range(300):
        backend.set_current_key("hot")
        for number in range(1_000):
            state.add(number)
        backend.between_batches()
        held.append(sum(table.elements() for table in state._tables.values()))
    assert max(held) < 200_000
    backend.set_current_key("hot")
    assert len(state.get()) == 300_000
