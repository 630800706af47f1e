"""What lies above every namespace that was ever written is not looked for, and leaves no trace when it is cleared."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.state.backend import KeyedStateBackend
from penstock.state.descriptors import ListStateDescriptor, ValueStateDescriptor

VALUE = ValueStateDescriptor("value", int)
PICKLED = ValueStateDescriptor[Any]("pickled")


def put(backend: KeyedStateBackend, namespace: int, descriptor: Any, values: dict[str, Any]) -> None:
    backend.set_namespace(namespace)
    for key, value in values.items():
        backend.set_current_key(key)
        backend.value_state(descriptor).update(value)


def get(backend: KeyedStateBackend, namespace: int, descriptor: Any = VALUE) -> list[Any]:
    backend.set_namespace(namespace)
    values: list[Any] = backend.value_state(descriptor).values_of(["a", "b"])
    return values


def watched(rig: Any, handles: Any = ()) -> tuple[Any, set[bytes]]:
    """And the rows that it asks of its store."""
    backend, looked_for = rig.open(handles), set[bytes]()
    store = backend._store
    get_one, get_all = store.get, store.get_all
    store.get = lambda key: looked_for.add(key) or get_one(key)
    store.get_all = lambda keys: looked_for.update(keys) or get_all(keys)
    return backend, looked_for


@pytest.mark.parametrize("descriptor", [VALUE, PICKLED])
def test_a_window_that_ends_before_it_was_written_never_reaches_the_store(rig: Any, descriptor: Any) -> None:
    backend, looked_for = watched(rig)
    for namespace in (10, 20, 30):
        assert get(backend, namespace, descriptor) == [None, None]
        put(backend, namespace, descriptor, {"a": 1, "b": 2})
        backend.value_state(descriptor).clear_all(["a"])
        assert get(backend, namespace, descriptor) == [None, 2]
        backend.set_current_key("b")
        backend.value_state(descriptor).clear()
        assert get(backend, namespace, descriptor) == [None, None]
    rig.snapshot(backend)
    assert (looked_for, backend._queue.written) == (set(), 0)


def test_only_what_is_above_all_that_was_written_is_known_not_to_be_there(rig: Any) -> None:
    backend, _looked_for = watched(rig)
    put(backend, 20, VALUE, {"a": 1})
    put(backend, 10, VALUE, {"a": 2})
    handles = rig.snapshot(backend)

    restored, looked_for = watched(rig, handles)
    assert get(restored, 30) == [None, None]
    put(restored, 30, VALUE, {"b": 3})
    assert not looked_for
    assert (get(restored, 10), get(restored, 20), get(restored, 30)) == ([2, None], [1, None], [None, 3])
    assert len(looked_for) == 4
    put(restored, 20, VALUE, {"a": None})
    again = rig.open(rig.snapshot(restored, 2))
    assert (get(again, 10), get(again, 20), get(again, 30)) == ([2, None], [None, None], [None, 3])
    again.set_namespace(30)
    again.value_state(VALUE).clear_all(["b"])
    last = rig.open(rig.snapshot(again, 3))
    assert (get(last, 10), get(last, 20), get(last, 30)) == ([2, None], [None, None], [None, None])


@pytest.mark.parametrize("how", ["clear", "clear_all"])
def test_windows_that_have_ended_cost_the_others_nothing(rig: Any, how: str) -> None:
    """Every batch looks at all tables of the cache."""
    backend: Any = rig.open()
    state = backend.value_state(VALUE)
    for namespace in range(50):
        put(backend, namespace, VALUE, {"a": 1})
        if how == "clear":
            state.clear()
        else:
            state.clear_all(["a"])
        assert state._tables == {}
    assert get(backend, 7) == [None, None]


def test_windows_that_have_ended_leave_the_cache_though_it_is_not_full(rig: Any) -> None:
    """Of lists, and of what a checkpoint has written, the cache remembers that there is nothing."""
    backend: Any = rig.open()
    values, lists = backend.value_state(VALUE), backend.list_state(ListStateDescriptor("list", int))
    kept: list[int] = []
    for namespace in range(3_000):
        put(backend, namespace, VALUE, {"a": namespace})
        lists.add(namespace)
        if namespace % 500 == 0:
            rig.snapshot(backend)
            kept.append(namespace)
        else:
            values.clear()
            lists.clear()
        backend.between_batches()
    assert len(values._tables) + len(lists._tables) < 2_300
    for namespace in range(0, 3_000, 100):
        backend.set_namespace(namespace)
        backend.set_current_key("a")
        expected = [namespace] if namespace in kept else []
        assert lists.get() == expected
        assert values.value() == (namespace if namespace in kept else None)
