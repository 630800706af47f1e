"""What each state holds, found by looking through the store a bite at a time."""

from __future__ import annotations

from enum import Enum
from typing import Any

import pytest

from penstock.state import key_encoding
from penstock.state.descriptors import ListStateDescriptor, MapStateDescriptor, ValueStateDescriptor
from penstock.state.errors import KeyTypeError
from penstock.state.rows.survey import Growth
from penstock.state.statistics import NamedState

Rig = Any
KEYS = 1_000
BITES_PER_PASS = 32
"""Of little state in 32 key groups: at least one group a bite."""


def whole_pass(rig: Rig, backend: Any) -> dict[str, NamedState]:
    for _ in range(BITES_PER_PASS):
        rig.now_ms += 1_000
        states: dict[str, NamedState] = backend.statistics().states
    return states


def test_states_are_told_apart_by_their_names(rig: Rig) -> None:
    backend = rig.open()
    small = backend.value_state(ValueStateDescriptor("small", int))
    large = backend.value_state(ValueStateDescriptor("large", bytes))
    entries = backend.map_state(MapStateDescriptor("map", int, bytes))
    for key in range(KEYS):
        backend.set_current_key(key)
        small.update(key)
        large.update(b"x" * 1_000)
        for entry in range(3):
            entries.put(entry, b"y" * 100)
    rig.snapshot(backend)
    states = whole_pass(rig, backend)
    assert {name: state.entries for name, state in states.items()} == {"small": KEYS, "large": KEYS, "map": 3 * KEYS}
    assert KEYS * 10 < states["small"].bytes < KEYS * 60
    assert KEYS * 1_000 < states["large"].bytes < KEYS * 1_060
    assert 3 * KEYS * 100 < states["map"].bytes < 3 * KEYS * 170


def test_some_key_groups_speak_for_all(rig: Rig) -> None:
    backend = rig.open()
    value = backend.value_state(ValueStateDescriptor("value", bytes))
    for key in range(20_000):
        backend.set_current_key(key)
        value.update(b"x" * 100)
    rig.snapshot(backend)
    for _ in range(4):
        estimate = backend.statistics().states["value"]
    assert 15_000 < estimate.entries < 25_000
    assert 15_000 * 100 < estimate.bytes < 25_000 * 150
    assert estimate.growth == 0, "an estimate that changes is no growth"


def test_the_largest_keys_are_found(rig: Rig) -> None:
    backend = rig.open()
    numbers = backend.list_state(ListStateDescriptor("numbers", int))
    for key in range(KEYS):
        backend.set_current_key(f"key {key}")
        numbers.update(range(1_000 * key if key in (7, 77, 777) else 3))
    rig.snapshot(backend)
    largest = whole_pass(rig, backend)["numbers"].largest
    assert [key for key, _nbytes in largest[:3]] == ["'key 777'", "'key 77'", "'key 7'"]
    assert len(largest) == 5
    assert largest[0][1] > 777_000 * 3 > largest[1][1] > 77_000


class Gone(Enum):
    A = 1


def test_what_cannot_be_read_here_is_shown_without_its_class(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports must not fail a task."""
    backend = rig.open()
    value = backend.value_state(ValueStateDescriptor("value", int))
    backend.set_current_key(Gone.A)
    value.update(1)
    rig.snapshot(backend)

    def nowhere(name: str) -> type:
        raise KeyTypeError(name)

    monkeypatch.setattr(key_encoding, "key_class_of", nowhere)
    ((shown, _nbytes),) = whole_pass(rig, backend)["value"].largest
    assert shown == "'A'"


def test_a_cell_of_many_rows_is_added_up(rig: Rig) -> None:
    backend = rig.open()
    entries = backend.map_state(MapStateDescriptor("map", int, bytes))
    for key, size in ((1, 6_000), (2, 10)):
        backend.set_current_key(key)
        for entry in range(size):
            entries.put(entry, b"z" * 50)
    rig.snapshot(backend)
    for _ in range(2):
        state = whole_pass(rig, backend)["map"]
    ((key, nbytes), *_others) = state.largest
    assert key == "1"
    assert state.entries == 6_010
    assert 6_000 * 70 < nbytes < 6_000 * 110, "though a bite is less than its rows"


def test_growth_is_that_of_the_last_minute(rig: Rig) -> None:
    backend = rig.open()
    value = backend.value_state(ValueStateDescriptor("value", bytes))
    for turn in range(120):
        for key in range(20 * turn, 20 * turn + 20):
            backend.set_current_key(key)
            value.update(b"x" * 980)
        if turn % 10 == 9:
            rig.snapshot(backend, turn)
        rig.now_ms += 1_000
        statistics = backend.statistics()
    assert statistics.states["value"].growth == pytest.approx(20_000, rel=0.4)
    if rig.kind == "heap":  # RocksDB compresses
        assert statistics.growth == pytest.approx(20_000, rel=0.3)


def test_a_rate_is_over_a_minute() -> None:
    growth = Growth()
    assert growth.rate(0, 500) == 0
    assert growth.rate(10_000, 1_500) == 100
    for second in range(11, 200):
        rate = growth.rate(second * 1_000, 1_500)
    assert rate == 0, "what grew before that minute does not count"
    assert growth.rate(5_000, 0) == 0, "the clock was set back"
    assert growth.rate(7_000, 4_000) == 2_000
