"""The cache is bounded by what its cells weigh."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import pytest

from penstock.state.descriptors import ListStateDescriptor, MapStateDescriptor, ValueStateDescriptor
from penstock.state.rows.cell_weight import CacheShares, Generation, size_of, weight_of
from penstock.state.rows.keyed_backend import BackendOptions

Rig = Any
MB = 1 << 20


@dataclass
class Plain:
    text: str
    numbers: list[int]


@dataclass(slots=True)
class Slotted:
    text: str
    numbers: list[int]


@pytest.mark.parametrize(
    ("value", "least", "most"),
    [
        (b"x" * 1_000, 1_000, 1_100),
        ([b"x" * 1_000] * 50, 50_000, 60_000),
        (dict.fromkeys(range(100), "y" * 500), 50_000, 75_000),
        (Plain("x" * 5_000, [1] * 100), 5_000, 10_000),
        (Slotted("x" * 5_000, [1] * 100), 5_000, 10_000),
        ({"a": {"b": [("c" * 10_000,)]}}, 10_000, 12_000),
        (7, 20, 40),
    ],
)
def test_what_is_in_a_value_counts(value: object, least: int, most: int) -> None:
    assert least <= size_of(value) <= most


def test_a_value_that_contains_itself_has_a_size() -> None:
    endless: list[Any] = []
    endless.append(endless)
    assert 0 < size_of(endless) < 10_000


def test_a_sample_stands_for_a_table() -> None:
    pick = random.Random(1)
    cells = {key: b"x" * pick.randrange(2_000) for key in range(10_000)}
    exact = sum(size_of(key) + size_of(cell) + 80 for key, cell in cells.items())
    assert weight_of(cells) == pytest.approx(exact, rel=0.5)
    assert weight_of({}) == 0


def test_a_generation_is_full_by_cells_or_by_bytes() -> None:
    few = Generation(10, MB, CacheShares())
    assert (few.look_at, few.is_full(5, lambda: 0)) == (5, True)
    light = Generation(1_000_000, 4 * MB, CacheShares())
    assert not light.is_full(light.look_at, lambda: 64 * 100)
    assert light.is_full(light.look_at, lambda: MB), "a quarter, because what leaves takes room as well"


def test_it_is_asked_before_it_can_be_much_too_full() -> None:
    generation, cell_bytes, asked = Generation(1_000_000, 400 * MB, CacheShares()), 5_000, 0
    while not generation.is_full(generation.look_at, lambda: generation.look_at * cell_bytes):
        asked += 1
    assert 100 * MB <= generation.look_at * cell_bytes <= 101 * MB
    assert asked < 25
    generation.begin()
    assert generation.look_at == 64


def test_operators_of_a_slot_share_its_bytes(rig: Rig) -> None:
    shares = CacheShares()
    options = BackendOptions(block_cache_bytes=8 << 20, write_buffer_bytes=8 << 20, shares=shares)
    first, second = rig.open(options=options), rig.open(options=options)
    assert shares.members == 2
    generation = Generation(1_000_000, 4 * MB, shares)
    assert generation.is_full(64, lambda: MB // 2)
    second.close()
    second.close()
    assert shares.members == 1
    assert not generation.is_full(64, lambda: MB // 2)
    first.close()


def test_what_left_the_cache_does_not_pile_up_behind_a_barrier(rig: Rig) -> None:
    backend: Any = rig.open(options=BackendOptions(100_000, 10_000, True, 8 << 20, 8 << 20, cache_bytes=4 * MB))
    value = backend.value_state(ValueStateDescriptor("value", bytes))
    for key in range(100):
        backend.set_current_key(key)
        value.update(b"before")
    program = backend.snapshot(1)
    most = 0
    for key in range(10_000):
        backend.set_current_key(key)
        value.update(b"x" * 2_000)
        if key % 100 == 99:
            backend.between_batches()
            waiting = [cells for layer in backend._queue._layers for _table, cells in layer.values.values()]
            most = max(most, sum(map(weight_of, waiting)))
    assert 2 * MB < most < 6 * MB
    restored = rig.open(rig.finish(program))
    old = restored.value_state(ValueStateDescriptor("value", bytes))
    found = []
    for key in (0, 99, 100, 9_999):
        restored.set_current_key(key)
        found.append(old.value())
    assert found == [b"before", b"before", None, None], "the snapshot is that of its barrier"


def kept(backend: Any) -> int:
    """Bytes of everything in the cache."""
    tables = [table for known in backend._declared.values() for table in known.handle._tables.values()]
    parts = [part for table in tables for part in (table.changed, table.young, table.old_changed, table.old)]
    return sum(map(weight_of, parts))


@pytest.mark.parametrize("kind", ["value", "growing", "list", "map"])
def test_the_cache_keeps_to_its_bytes(rocks: Rig, kind: str) -> None:
    limit = 4 * MB
    backend = rocks.open(options=BackendOptions(100_000, 10_000, True, 8 << 20, 8 << 20, cache_bytes=limit))
    value = backend.value_state(ValueStateDescriptor("value", bytes))
    growing = backend.value_state(ValueStateDescriptor("growing"))
    elements = backend.list_state(ListStateDescriptor("list", bytes))
    entries = backend.map_state(MapStateDescriptor("map", int, bytes))
    most = 0
    for turn in range(6_000):
        backend.set_current_key(turn if kind == "value" else turn % 30)
        if kind == "value":
            value.update(b"x" * 2_000)
        elif kind == "growing":
            growing.update([*(growing.value() or []), b"x" * 2_000][-100:])
        elif kind == "list":
            elements.add(b"x" * 2_000)
        else:
            entries.put(turn, b"x" * 2_000)
        if turn % 10 == 9:
            backend.between_batches()
        if turn % 100 == 99:
            most = max(most, kept(backend))
    assert most < 1.5 * limit
