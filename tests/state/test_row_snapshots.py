"""Snapshots of row backends: overlap, failures, threads, and which files are uploaded again."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from penstock.state.backend import KeyedStateBackend
from penstock.state.descriptors import ValueStateDescriptor
from penstock.state.errors import (
    DamagedCheckpointError,
    ObjectStoreUnavailable,
)
from penstock.state.key_groups import KeyGroupRange, key_group
from penstock.state.rows.keyed_backend import BackendOptions
from penstock.state.snapshots import KeyedHandle

Handles = tuple[KeyedHandle, ...]
COUNT = ValueStateDescriptor[int]("count", int)


# ---- snapshots


def test_overlapping_snapshots_written_in_the_wrong_order(rig: Any) -> None:
    backend = rig.open()
    programs = []
    for number in (1, 2, 3):
        backend.value_state(COUNT).fold(["a"], [number], lambda _value, record: record)
        programs.append(backend.snapshot(number))
        backend.between_batches()
    handles = {number: rig.finish(programs[number - 1]) for number in (3, 1, 2)}
    for number in (1, 2, 3):
        restored = rig.open(handles[number])
        restored.set_current_key("a")
        assert restored.value_state(COUNT).value() == number


def test_a_failed_upload_loses_nothing(rig: Any) -> None:
    backend = rig.open()
    backend.value_state(COUNT).fold(range(50), range(50), lambda _value, record: record)
    rig.store.failing = True
    with pytest.raises(ObjectStoreUnavailable):
        rig.snapshot(backend, 1)
    backend.checkpoint_aborted(1)
    rig.store.failing = False
    restored = rig.open(rig.snapshot(backend, 2))
    assert restored.value_state(COUNT).fold(range(50), range(50), lambda value, _record: value or 0) == list(range(50))


def test_a_failed_write_loses_nothing(rig: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    backend: Any = rig.open()
    backend.value_state(COUNT).fold(range(50), range(50), lambda _value, record: record)
    real = backend._store.write
    monkeypatch.setattr(backend._store, "write", lambda rows: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        rig.snapshot(backend, 1)
    monkeypatch.setattr(backend._store, "write", real)
    restored = rig.open(rig.snapshot(backend, 2))
    assert restored.value_state(COUNT).fold(range(50), range(50), lambda value, _record: value or 0) == list(range(50))


def test_the_slot_writes_nothing_while_a_barrier_is_pending(rig: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    backend: Any = rig.open(options=BackendOptions(cache_cells=4, dirty_cells=1, write_buffer_bytes=8 << 20))
    written: list[int] = []
    real = backend._store.write
    monkeypatch.setattr(backend._store, "write", lambda rows: (written.append(len(rows)), real(rows)))
    program = backend.snapshot(1)
    for number in range(20):
        backend.value_state(COUNT).fold([number], [number], lambda _value, record: record)
        backend.between_batches()
    assert not written
    backend.checkpoint_aborted(1)
    for _ in range(30):
        backend.between_batches()
    assert written
    program.close()


def test_snapshots_run_beside_the_slot(rig: Any) -> None:
    """Programs on a helper thread, the slot goes on: every snapshot is that of its barrier."""
    backend = rig.open(options=BackendOptions(cache_cells=200, dirty_cells=50, write_buffer_bytes=8 << 20))
    pickled = ValueStateDescriptor[list[int]]("pickled")
    snapshots: list[tuple[int, Handles]] = []
    helpers = []
    for number in range(1, 7):
        backend.value_state(COUNT).fold(range(1_000), [number] * 1_000, lambda _value, record: record)
        for key in range(200):
            backend.set_current_key(key)
            (backend.value_state(pickled).value() or backend.value_state(pickled).update([])) or None
            value = backend.value_state(pickled).value()
            assert value is not None
            value.append(number)
        program = backend.snapshot(number)
        helper = threading.Thread(target=lambda n=number, p=program: snapshots.append((n, rig.finish(p))))
        helper.start()
        helpers.append(helper)
        for _ in range(20):
            backend.between_batches()
    for helper in helpers:
        helper.join()
    assert len(snapshots) == 6
    for number, handles in snapshots:
        restored = rig.open(handles)
        folded = restored.value_state(COUNT).fold(range(1_000), range(1_000), lambda value, _record: value or 0)
        assert set(folded) == {number}
        for key in range(200):
            restored.set_current_key(key)
            assert restored.value_state(pickled).value() == list(range(1, number + 1))


def test_a_damaged_file_is_named(rig: Any) -> None:
    backend = rig.open()
    backend.value_state(COUNT).fold(["a"], [1], lambda _value, record: record)
    handles = rig.snapshot(backend)
    for file in handles[0].files.values():
        if not file.shared:
            rig.store.objects[file.name] = b"\xc1nonsense"
    with pytest.raises(DamagedCheckpointError, match="state file"):
        rig.open(handles)


# ---- which files are uploaded


def names(handles: Handles) -> dict[str, str]:
    return {local: file.name for local, file in handles[0].files.items() if file.shared}


def change(backend: KeyedStateBackend, number: int) -> None:
    backend.value_state(COUNT).fold([f"key {number}"], [number], lambda _value, record: record)


def test_only_files_of_a_completed_checkpoint_are_reused(rocks: Any) -> None:
    backend = rocks.open()
    change(backend, 1)
    first = names(rocks.snapshot(backend, 1))
    change(backend, 2)
    second = names(rocks.snapshot(backend, 2))
    assert first.keys() < second.keys()
    assert not set(first.values()) & set(second.values()), "checkpoint 1 is not known to be complete"
    backend.checkpoint_aborted(1)
    backend.checkpoint_completed(2)
    change(backend, 3)
    third = names(rocks.snapshot(backend, 3))
    assert second.items() < third.items()


def test_a_file_that_a_later_checkpoint_may_have_subsumed_is_not_reused(rocks: Any) -> None:
    """2 was taken before 1 was known to be complete; if 2 is complete by now, the objects of 1 are deleted."""
    backend = rocks.open()
    change(backend, 1)
    first = names(rocks.snapshot(backend, 1))
    second = names(rocks.snapshot(backend, 2))
    backend.checkpoint_completed(1)
    third = names(rocks.snapshot(backend, 3))
    assert not set(third.values()) & set(first.values())
    assert not set(third.values()) & set(second.values())
    backend.checkpoint_completed(3)
    assert names(rocks.snapshot(backend, 4)) == third


def test_children_of_one_checkpoint_reuse_its_files_and_never_each_others(rocks: Any) -> None:
    backend = rocks.open()
    for number in range(100):
        change(backend, number)
    parent = rocks.snapshot(backend, 1)
    children = [rocks.open(parent, groups) for groups in (KeyGroupRange(0, 15), KeyGroupRange(16, 31))]
    new: list[set[str]] = []
    for child in children:
        child.value_state(COUNT)
        keys = [f"key {number}" for number in range(100)]
        for key in keys:
            if key_group(key, 32) in child.key_groups:
                child.value_state(COUNT).fold([key], [1], lambda _value, record: record)
        taken = names(rocks.snapshot(child, 2))
        assert names(parent).items() < taken.items()
        new.append(set(taken.values()) - set(names(parent).values()))
    assert all(new)
    assert not new[0] & new[1]


def test_local_checkpoints_are_removed(rocks: Any, tmp_path: Path) -> None:
    backend = rocks.open()
    change(backend, 1)
    rocks.snapshot(backend, 1)
    never_run = backend.snapshot(2)
    stopped = backend.snapshot(3)
    next(stopped)  # takes the local checkpoints of both
    assert len(list(tmp_path.rglob("checkpoint-*"))) == 2
    stopped.close()
    backend.close()
    never_run.close()
    assert not list(tmp_path.rglob("checkpoint-*"))
    shutil.rmtree(tmp_path / "attempt-0")


def test_rows_of_the_heap_are_compressed_unless_told_otherwise(new_rig: Any, tmp_path: Path) -> None:
    sizes = {}
    for compress in (True, False):
        rig = new_rig("heap", tmp_path / str(compress))
        (tmp_path / str(compress)).mkdir()
        backend = rig.open(options=BackendOptions(compress_snapshots=compress))
        backend.value_state(COUNT).fold(range(5_000), [7] * 5_000, lambda _value, record: record)
        handles = rig.snapshot(backend)
        sizes[compress] = sum(len(data) for data in rig.store.objects.values())
        found = rig.open(handles).value_state(COUNT).fold(range(3), range(3), lambda value, _record: value or 0)
        assert found == [7, 7, 7]
        rig.close()
    assert sizes[True] < 0.7 * sizes[False]
