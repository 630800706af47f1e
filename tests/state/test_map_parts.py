"""Maps larger than one wants to read: what is asked of them is all that is read."""

from __future__ import annotations

from itertools import islice
from typing import Any

import pytest

from penstock.state.descriptors import MapStateDescriptor
from penstock.state.errors import StateError
from penstock.state.rows.keyed_backend import BackendOptions, RowBackend

ENTRIES = 1_000_000
NUMBERS = MapStateDescriptor[int, int]("numbers", int, int)
LISTS = MapStateDescriptor[int, list[int]]("lists", int, list[int])
SMALL_CACHE = BackendOptions(cache_cells=10_000, write_buffer_bytes=8 << 20)


def filled(rig: Any, entries: int, descriptor: Any = NUMBERS) -> RowBackend:
    """Restored, so that nothing is in the cache."""
    backend = rig.open(options=SMALL_CACHE)
    state = backend.map_state(descriptor)
    for first in range(0, entries, 5_000):
        backend.set_current_key("a")
        for number in range(first, min(first + 5_000, entries)):
            state.put(number, number if descriptor is NUMBERS else [number])
        backend.between_batches()
    restored: RowBackend = rig.open(rig.snapshot(backend), options=SMALL_CACHE)
    restored.set_current_key("a")
    return restored


class Counted:
    """Counts the rows that a store gives."""

    def __init__(self, backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows = 0
        for name in ("get", "scan"):
            monkeypatch.setattr(backend._store, name, self._counting(getattr(backend._store, name)))

    def _counting(self, read: Any) -> Any:
        def counted(*arguments: Any) -> Any:
            found = read(*arguments)
            self.rows += len(found) if isinstance(found, list) else 1
            return found

        return counted

    def taken(self) -> int:
        rows, self.rows = self.rows, 0
        return rows


def test_of_a_million_entries_only_what_is_asked_for_is_read(rocks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = filled(rocks, ENTRIES)
    state = backend.map_state(NUMBERS)
    rows = Counted(backend, monkeypatch)
    assert state.get(765_432) == 765_432
    assert rows.taken() == 1
    assert not state.is_empty()
    assert rows.taken() <= 1
    assert list(islice(state.items(), 10)) == [(number, number) for number in range(10)]
    assert rows.taken() <= 16
    assert list(state.keys(500_000, 500_020)) == list(range(500_000, 500_020))
    assert rows.taken() <= 20
    assert next(state.values(ENTRIES - 1)) == ENTRIES - 1
    assert rows.taken() == 1


def test_iterating_over_a_map_keeps_nothing_of_it(rig: Any) -> None:
    backend = filled(rig, 20_000)
    state: Any = backend.map_state(NUMBERS)
    assert sum(state.values()) == sum(range(20_000))
    (table,) = state._tables.values()
    assert not any(cell.entries for cell in table.young.values())
    assert list(state.keys(19_998)) == [19_998, 19_999]


def test_a_small_map_is_read_once(rocks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = filled(rocks, 100)
    state = backend.map_state(NUMBERS)
    assert len(list(state.items())) == 100
    rows = Counted(backend, monkeypatch)
    assert len(list(state.items())) == 100
    assert state.get(1_000) is None
    assert rows.taken() == 0


@pytest.mark.parametrize("descriptor", [NUMBERS, LISTS])
def test_a_big_map_does_not_stay_in_the_cache(rig: Any, descriptor: Any) -> None:
    backend = rig.open(options=SMALL_CACHE)
    state = backend.map_state(descriptor)
    for first in range(0, 30_000, 1_000):
        backend.set_current_key("a")
        for number in range(first, first + 1_000):
            state.put(number, number if descriptor is NUMBERS else [number])
        backend.between_batches()
        (table,) = state._tables.values()
        assert sum(len(cell.entries) for cell in {**table.young, **table.changed}.values()) < 6_000
    backend.set_current_key("a")
    assert list(state.keys()) == list(range(30_000))
    assert state.get(17) == (17 if descriptor is NUMBERS else [17])


def test_changes_while_iterating_are_seen_where_they_are_ahead(rig: Any) -> None:
    backend = filled(rig, 5_000)
    state = backend.map_state(NUMBERS)
    seen = []
    for number, value in state.items():
        seen.append((number, value))
        state.put(number, -1)
        if number % 2 == 0 and number < 5_000:
            state.remove(number + 1)
        if number == 0:
            state.put(6_000, 7)
    assert [number for number, value in seen if value == number] == list(range(0, 5_000, 2))
    assert seen[-1] == (6_000, 7)
    assert list(state.values(0, 5_000)) == [-1] * 2_500


def test_lists_in_a_big_map_may_be_changed_while_iterating(rig: Any) -> None:
    backend = filled(rig, 3_000, LISTS)
    for value in backend.map_state(LISTS).values():
        value.append(0)
    restored = rig.open(rig.snapshot(backend, 2))
    restored.set_current_key("a")
    assert list(restored.map_state(LISTS).values()) == [[number, 0] for number in range(3_000)]


def test_an_iterator_ends_with_its_key(rig: Any) -> None:
    backend = filled(rig, 3_000)
    entries = backend.map_state(NUMBERS).items()
    next(entries)
    backend.set_current_key("b")
    with pytest.raises(StateError, match="an iterator over the map of 'a' was used when that was over"):
        list(entries)


def test_an_iterator_stays_in_its_namespace(rig: Any) -> None:
    backend = filled(rig, 3_000)
    numbers = backend.map_state(NUMBERS).keys()
    backend.set_namespace(5)
    assert list(numbers) == list(range(3_000))
    assert backend.map_state(NUMBERS).is_empty()


def test_a_map_larger_than_a_write_is_cleared(rig: Any) -> None:
    backend = filled(rig, 12_000)
    state = backend.map_state(NUMBERS)
    state.clear()
    assert state.is_empty()
    rig.kind = "heap"
    assert rig.snapshot(rig.open(rig.snapshot(backend, 2)), 3)[0].files == {}
