"""How much is remembered, as it is reported."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from penstock.state.columns.accumulator_spec import AccumulatorSpec
from penstock.state.columns.column_store import ColumnStore
from penstock.state.descriptors import MapStateDescriptor, ValueStateDescriptor

Rig = Any
KEYS = 500


def test_rows_changed_cells_and_timers_are_counted(rig: Rig) -> None:
    backend = rig.open()
    value = backend.value_state(ValueStateDescriptor("value", int))
    entries = backend.map_state(MapStateDescriptor("map", int, str))
    timers = backend.timers("event")
    for key in range(KEYS):
        backend.set_current_key(key)
        value.update(key)
        entries.put(1, "one")
        timers.register(key)
    backend.between_batches()
    assert (backend.statistics().entries, backend.statistics().timers) == (2 * KEYS, KEYS), "nothing is written yet"
    rig.snapshot(backend)
    written = backend.statistics()
    assert (written.entries, written.timers) == (3 * KEYS, KEYS), "values, entries, and timers are rows too"
    assert written.bytes > 3 * KEYS
    timers.pop_due(0)
    assert backend.statistics().timers == KEYS - 1
    assert bool(written.rocksdb) == (rig.kind == "rocksdb")


def test_what_is_deleted_is_not_counted_in_memory(rig: Rig) -> None:
    if rig.kind != "heap":
        return  # RocksDB's numbers are its own
    backend = rig.open()
    value = backend.value_state(ValueStateDescriptor("value", bytes))
    for key in range(KEYS):
        backend.set_current_key(key)
        value.update(b"x" * 100)
    rig.snapshot(backend, 1)
    full = backend.statistics()
    for key in range(KEYS):
        backend.set_current_key(key)
        value.update(b"y") if key % 2 else value.clear()
    rig.snapshot(backend, 2)
    left = backend.statistics()
    assert (full.entries, left.entries) == (KEYS, KEYS // 2)
    assert full.bytes - left.bytes > KEYS * 99
    for key in range(KEYS):
        backend.set_current_key(key)
        value.clear()
    rig.snapshot(backend, 3)
    assert (backend.statistics().entries, backend.statistics().bytes) == (0, 0)


def test_rocksdb_shows_its_properties(rocks: Rig) -> None:
    backend = rocks.open()
    value = backend.value_state(ValueStateDescriptor("value", bytes))
    for key in range(KEYS):
        backend.set_current_key(key)
        value.update(b"x" * 100)
    rocks.snapshot(backend)
    shown = backend.statistics().rocksdb
    assert shown["live-sst-files-size"] > 0
    assert shown["num-files-at-level0"] == 1
    assert shown["is-write-stopped"] == shown["actual-delayed-write-rate"] == 0


def test_a_column_store_knows_the_size_of_its_arrays() -> None:
    for keys in (pa.array(range(KEYS)), pa.array([f"key {number}" for number in range(KEYS)])):
        store = ColumnStore([keys.type], [AccumulatorSpec("count", None, "int64")])
        before = store.nbytes
        many = pa.concat_arrays([keys, keys])
        store.update([many], {}, 1)
        assert store.size == KEYS
        assert store.nbytes >= before >= 8 * 1_024
        large = pa.array(range(100_000)) if pa.types.is_integer(keys.type) else pa.array(map(str, range(100_000)))
        store.update([large], {}, 1)
        assert store.nbytes > 100_000 * 16
