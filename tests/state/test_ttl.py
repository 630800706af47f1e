"""What expires, case by case: the configuration, rows with stamps, clean-up, a TTL that is turned on and off."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.state.backend import KeyedStateBackend
from penstock.state.descriptors import ListStateDescriptor, MapStateDescriptor, ValueStateDescriptor
from penstock.state.errors import ConfigurationError, StateError
from penstock.state.rows.keyed_backend import BackendOptions
from penstock.state.rows.list_cells import PlainChunks
from penstock.state.rows.ttl import (
    StampedChunks,
    StampedSerializer,
    UnstampedChunks,
    UnstampedSerializer,
    header,
    is_dead,
)
from penstock.state.serialization.serializers import serializer_for
from penstock.state.ttl_config import StateTtlConfig

SMALL_CACHE = BackendOptions(cache_cells=200, write_buffer_bytes=8 << 20, block_cache_bytes=8 << 20)
STAMPS = st.integers(0, 1 << 45)


def value(ttl: StateTtlConfig | None, name: str = "seen") -> ValueStateDescriptor[int]:
    return ValueStateDescriptor(name, int, ttl=ttl)


def rows_of(rig: Any, handles: Any) -> int:
    """As a heap would restore them, which counts exactly."""
    rig.kind = "heap"
    entries: int = rig.open(handles).statistics().entries
    return entries


# ---- the configuration


@pytest.mark.parametrize("ttl", ["1h", "60min", timedelta(hours=1), 3_600_000])
def test_durations_are_written_as_anywhere(ttl: Any) -> None:
    assert StateTtlConfig(ttl).ttl_ms == 3_600_000


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"ttl": 0}, "a TTL is at least 1 ms, not 0"),
        ({"ttl": "0s"}, "a TTL is at least 1 ms, not '0s'"),
        ({"ttl": -5}, "the duration -5 is negative"),
        ({"ttl": timedelta(seconds=-1)}, "is negative"),
        ({"ttl": "soon"}, "'soon' is not a duration"),
        ({"ttl": "1h", "update_type": "on_read"}, "update_type is 'on_create_and_write' or 'on_read_and_write', not"),
        ({"ttl": "1h", "visibility": "always"}, "visibility is 'never_return_expired' or 'return_expired_if_not"),
        ({"ttl": "1h", "refresh_interval": "1h"}, "must be shorter than the TTL"),
        ({"ttl": "1h", "cleanup_rows": -1}, "cleanup_rows is an int from 0 on, not -1"),
    ],
)
def test_impossible_configurations_are_refused(arguments: Any, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        StateTtlConfig(**arguments)


def test_a_bare_duration_is_no_ttl() -> None:
    with pytest.raises(StateError, match="state 'seen': ttl is a StateTtlConfig, not '1h'"):
        ValueStateDescriptor("seen", int, ttl="1h")  # type: ignore[arg-type]


def test_two_ttls_of_one_state_are_an_error(rig: Any) -> None:
    backend = rig.open()
    state = backend.value_state(value(StateTtlConfig("1h")))
    assert backend.value_state(value(StateTtlConfig("1h"))) is state
    with pytest.raises(StateError, match="declares its state 'seen' twice"):
        backend.value_state(value(StateTtlConfig("2h")))
    with pytest.raises(StateError, match="declares its state 'seen' twice"):
        backend.value_state(value(None))


# ---- rows


@given(st.lists(st.tuples(STAMPS, st.integers()), min_size=1), STAMPS)
def test_chunks_keep_the_stamp_of_every_element(elements: list[tuple[int, int]], since: int) -> None:
    element = serializer_for(int)
    plain = PlainChunks(element, element.of_lists())
    data = StampedChunks(plain, 0).encode(elements)
    assert [data] == StampedChunks(plain, 0).encode_added([elements])
    assert StampedChunks(plain, since).decode(data) == [(max(stamp, since), number) for stamp, number in elements]
    assert UnstampedChunks(plain).decode(data) == [number for _stamp, number in elements]
    newest = max(stamp for stamp, _number in elements)
    assert is_dead(data, header(newest))
    assert newest == 0 or not is_dead(data, header(newest - 1))


@pytest.mark.parametrize("declared", [int, list[str], None])
@given(stamp=STAMPS, since=STAMPS)
def test_rows_with_stamps_and_without_are_read_by_both(declared: Any, stamp: int, since: int) -> None:
    plain = serializer_for(declared)
    number: Any = 2**70 if declared is int else ["x"]
    row, bare = StampedSerializer(plain, 0).encode((stamp, number)), plain.encode(number)
    assert StampedSerializer(plain, since).decode_all([row, None, bare]) == [
        (max(stamp, since), number), None, (since, number)
    ]  # fmt: skip
    assert UnstampedSerializer(plain).decode_all([row, None, bare]) == [number, None, number]


def test_rows_without_a_ttl_are_as_they_were(rig: Any) -> None:
    backend = rig.open()
    backend.set_current_key("a")
    backend.value_state(value(None)).update(5)
    backend.list_state(ListStateDescriptor[int]("list", int)).add(6)
    backend.map_state(MapStateDescriptor[str, int]("map", str, int)).put("k", 7)
    rig.snapshot(backend)
    rows = [row for state in range(3) for _key, row in backend._store.rows_of_state(state, backend.key_groups)]
    assert rows == [b"\x05", b"\x91\x06", b"\x07"]


# ---- access


def test_reading_renews_only_what_is_older_than_the_refresh_interval(rig: Any) -> None:
    config = StateTtlConfig(100, "on_read_and_write", refresh_interval=50)
    backend = rig.open()
    state = backend.value_state(value(config))
    backend.set_current_key("a")
    state.update(1)
    rig.snapshot(backend)
    for passed, changed in ((50, 0), (1, 1)):
        rig.now_ms += passed
        backend.set_current_key("a")
        assert state.value() == 1
        assert backend._declared["seen"].handle.changed() == changed
    rig.now_ms += 99
    assert state.value() == 1


def test_a_default_is_no_state_until_it_is_changed(rig: Any) -> None:
    descriptor = ValueStateDescriptor[list[int]]("list", list[int], [], StateTtlConfig(100))
    backend = rig.open()
    state = backend.value_state(descriptor)
    for key in ("read only", "changed"):
        backend.set_current_key(key)
        found = state.value()
        if key == "changed":
            found.append(1)
    assert rows_of(rig, rig.snapshot(backend)) == 1


def test_what_is_added_is_not_as_old_as_the_list_that_was_changed_in_place_before(rig: Any) -> None:
    backend = rig.open()
    state = backend.list_state(ListStateDescriptor("list", int, ttl=StateTtlConfig(100)))
    backend.set_current_key("a")
    state.get().append(1)
    rig.now_ms += 100
    backend.set_current_key("a")
    state.add(2)
    backend.set_current_key("a")
    assert state.get() == [2]


# ---- clean-up


def test_a_heap_snapshot_leaves_out_what_has_expired(rig: Any) -> None:
    rig.kind = "heap"
    backend = rig.open()
    for name, in_snapshots in (("dropped", True), ("kept", False)):
        ttl = StateTtlConfig(100, cleanup_in_snapshots=in_snapshots, cleanup_rows=0)
        for key in range(50):
            backend.set_current_key(key)
            backend.value_state(value(ttl, name)).update(1)
            backend.list_state(ListStateDescriptor[int](f"list {name}", int, ttl)).add(1)
            backend.map_state(MapStateDescriptor[int, int](f"map {name}", int, int, ttl)).put(1, 1)
    rig.now_ms += 99
    assert rows_of(rig, rig.snapshot(backend, 1)) == 300
    rig.now_ms += 1
    assert rows_of(rig, rig.snapshot(backend, 2)) == 150


def fill_once(rig: Any, backend: KeyedStateBackend, keys: int, descriptor: Any, per_batch: int = 100) -> list[int]:
    """Every key comes once, ten to a ms. Gives how many rows are stored after every batch."""
    state, stored = backend.value_state(descriptor), []
    for first in range(0, keys, per_batch):
        for key in range(first, first + per_batch):
            backend.set_current_key(key)
            state.update(key)
        rig.now_ms += per_batch // 10
        backend.between_batches()
        stored.append(stored_rows(backend))
    return stored


def stored_rows(backend: Any) -> int:
    return sum(1 for _ in backend._store.rows_of_state(0, backend.key_groups))


def test_keys_that_come_once_leave_nothing_behind(rig: Any) -> None:
    """20 TTLs long, of 1,000 keys each."""
    backend = rig.open(options=SMALL_CACHE)
    ttl = StateTtlConfig(100, cleanup_rows=50)
    stored = fill_once(rig, backend, 20_000, value(ttl))
    assert max(stored[100:]) < 1.1 * max(stored[:100])
    assert max(stored) < 2.5 * 1_000
    rig.now_ms += 1_000
    for _ in range(200):
        rig.now_ms += 10
        backend.between_batches()
    assert stored_rows(backend) == 0


def test_without_sweeps_they_stay(rig: Any) -> None:
    backend = rig.open(options=SMALL_CACHE)
    stored = fill_once(rig, backend, 3_000, value(StateTtlConfig(100, cleanup_rows=0)))
    assert stored[-1] > 2_500


def test_sweeps_go_on_where_nothing_arrives(rig: Any) -> None:
    backend = rig.open(options=SMALL_CACHE)
    assert backend.next_sweep_ms() is None
    fill_once(rig, backend, 2_000, value(StateTtlConfig("10s", cleanup_rows=100)))
    rig.now_ms += 20_000
    bites = 0
    while stored_rows(backend):
        due = backend.next_sweep_ms()
        assert due is not None
        rig.now_ms = max(rig.now_ms, due)
        backend.between_batches()
        assert backend.next_sweep_ms() > rig.now_ms
        bites += 1
        assert bites < 300


def test_what_expires_all_at_once_is_gone_soon_though_nothing_comes(rig: Any) -> None:
    """Bites are larger while they meet the dead, and no larger than that over what lives."""
    backend = rig.open(options=SMALL_CACHE)
    ttl = StateTtlConfig("80s", cleanup_rows=100)
    backend.value_state(value(ttl))
    rig.now_ms += 100_000
    fill_once(rig, backend, 8_000, value(ttl), per_batch=4_000)
    assert time_of_pass(rig, backend) >= 8_000 / 100 * 20, "all of it lives"
    rig.now_ms += 100_000
    assert time_of_pass(rig, backend) <= 8_000 / 400 * 20 + 32 * 50 / 400 * 20 + 200
    assert stored_rows(backend) == 0


def time_of_pass(rig: Any, backend: Any) -> int:
    """Driven by its own wishes alone; ms."""
    due = backend.next_sweep_ms()
    began = rig.now_ms = max(rig.now_ms, due)
    while due <= rig.now_ms + 100:  # between passes it rests for seconds
        rig.now_ms = max(rig.now_ms, due)
        backend.between_batches()
        due = backend.next_sweep_ms()
    return rig.now_ms - began


def test_sweeps_take_nothing_that_is_alive_or_that_a_pending_snapshot_needs(rig: Any) -> None:
    backend = rig.open()
    state = backend.value_state(value(StateTtlConfig(100, cleanup_rows=1_000)))
    for key in range(100):
        backend.set_current_key(key)
        state.update(key)
    rig.snapshot(backend, 1)
    rig.now_ms += 60
    for key in range(50):
        backend.set_current_key(key)
        state.update(-key)
    pending = backend.snapshot(2)
    rig.now_ms += 40
    backend.between_batches()
    assert stored_rows(backend) == 100
    rig.finish(pending)
    for _ in range(20):
        rig.now_ms += 1
        backend.between_batches()
    assert stored_rows(backend) == 50
    for key in range(100):
        backend.set_current_key(key)
        assert state.value() == (-key if key < 50 else None)


# ---- a TTL that changes at a restore


def restored(rig: Any, backend: KeyedStateBackend, ttl: StateTtlConfig | None) -> Any:
    backend = rig.open(rig.snapshot(backend))
    backend.set_current_key("a")
    return backend, backend.value_state(value(ttl))


def test_a_ttl_that_is_turned_on_counts_from_then_and_over_later_restores(rig: Any) -> None:
    backend = rig.open()
    backend.set_current_key("a")
    backend.value_state(value(None)).update(1)
    rig.now_ms = 50_000
    backend, _state = restored(rig, backend, StateTtlConfig(100))
    rig.now_ms += 99
    backend, state = restored(rig, backend, StateTtlConfig(100))
    assert state.value() == 1
    rig.now_ms += 1
    assert state.value() is None


def test_a_ttl_that_is_turned_off_lets_rows_live(rig: Any) -> None:
    backend = rig.open()
    backend.set_current_key("a")
    backend.value_state(value(StateTtlConfig(100))).update(1)
    backend, state = restored(rig, backend, None)
    rig.now_ms += 1_000
    assert state.value() == 1
    backend, state = restored(rig, backend, StateTtlConfig(100))
    rig.now_ms += 99
    assert state.value() == 1, "it counts from when it was turned on again, not from its old stamp"


def test_another_ttl_holds_for_rows_of_before(rig: Any) -> None:
    backend = rig.open()
    backend.set_current_key("a")
    backend.value_state(value(StateTtlConfig(100))).update(1)
    rig.now_ms += 60
    backend, state = restored(rig, backend, StateTtlConfig(1_000))
    rig.now_ms += 60
    assert state.value() == 1
    _backend, state = restored(rig, backend, StateTtlConfig(110))
    assert state.value() is None
