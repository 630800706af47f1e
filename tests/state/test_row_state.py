"""What a row backend promises, case by case: defaults, names, evolution, reuse of files, failures, threads."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pytest

from penstock.state.backend import KeyedStateBackend
from penstock.state.backend_factory import create_keyed_backend
from penstock.state.descriptors import ListStateDescriptor, MapStateDescriptor, ValueStateDescriptor
from penstock.state.errors import (
    DamagedCheckpointError,
    IncompatibleStateError,
    KeyTypeError,
    ObjectStoreUnavailable,
    StateError,
)
from penstock.state.ids import CheckpointId
from penstock.state.key_groups import KeyGroupRange, key_group
from penstock.state.keyed_backend import BackendOptions
from penstock.state.objects import Program
from penstock.state.snapshots import FileHandle, KeyedHandle
from penstock.state.write_queue import Uploads

Kind = Literal["heap", "rocksdb"]
Handles = tuple[KeyedHandle, ...]
ALL = KeyGroupRange(0, 31)


class Store:
    """Uploads into a dict; fails when told to."""

    def __init__(self, directory: Path) -> None:
        self.objects: dict[str, bytes] = {}
        self.failing = False
        self._directory = directory
        self._fetched = 0

    def uploads(self, checkpoint_id: CheckpointId) -> Uploads:
        return self

    def put_bytes(self, data: bytes, *, shared: bool = False) -> Program[FileHandle]:
        yield None  # type: ignore[misc]  # a place where a program may be stopped
        if self.failing:
            raise ObjectStoreUnavailable("the store is away")
        name = f"object-{len(self.objects)}"
        self.objects[name] = data
        return FileHandle(name, len(data), "", shared)

    def put_file(self, path: Path, *, shared: bool = False) -> Program[FileHandle]:
        return (yield from self.put_bytes(path.read_bytes(), shared=shared))

    def fetch(self, handle: KeyedHandle) -> tuple[KeyedHandle, Path]:
        self._fetched += 1
        directory = self._directory / f"fetched-{self._fetched}"
        directory.mkdir()
        for name, file in handle.files.items():
            (directory / name).write_bytes(self.objects[file.name])
        return handle, directory


class Rig:
    def __init__(self, kind: Kind, directory: Path) -> None:
        self.kind: Kind = kind
        self.store = Store(directory)
        self._directory = directory
        self._opened: list[KeyedStateBackend] = []

    def open(
        self,
        handles: Handles = (),
        groups: KeyGroupRange = ALL,
        options: BackendOptions | None = None,
        maximum: int = 32,
    ) -> KeyedStateBackend:
        backend = create_keyed_backend(
            self.kind,
            operator_name="counter",
            key_groups=groups,
            max_parallelism=maximum,
            directory=self._directory / f"attempt-{len(self._opened)}",
            uploads=self.store.uploads,
            restored=[self.store.fetch(handle) for handle in handles],
            options=options or BackendOptions(block_cache_bytes=8 << 20, write_buffer_bytes=8 << 20),
        )
        self._opened.append(backend)
        return backend

    def close(self) -> None:
        for backend in self._opened:
            backend.close()


@pytest.fixture(params=["heap", "rocksdb"])
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(request.param, tmp_path)
    yield rig
    rig.close()


@pytest.fixture
def rocks(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig("rocksdb", tmp_path)
    yield rig
    rig.close()


def finish(program: Program[Handles]) -> Handles:
    try:
        while True:
            next(program)
    except StopIteration as stop:
        handles: Handles = stop.value
        return handles


def snapshot(backend: KeyedStateBackend, checkpoint_id: int = 1) -> Handles:
    return finish(backend.snapshot(checkpoint_id))


COUNT = ValueStateDescriptor[int]("count", int)


# ---- values


def test_state_without_a_key_is_an_error(rig: Rig) -> None:
    state = rig.open().value_state(COUNT)
    with pytest.raises(StateError, match="without a current key"):
        state.value()


def test_fold_leaves_no_current_key(rig: Rig) -> None:
    backend = rig.open()
    backend.set_current_key("a")
    assert backend.value_state(COUNT).fold(["a", "b", "a"], [1, 2, 3], lambda v, r: (v or 0) + r) == [1, 2, 4]
    with pytest.raises(StateError):
        _ = backend.current_key


def test_a_fold_that_fails_keeps_what_came_before(rig: Rig) -> None:
    backend = rig.open()

    def add(value: int | None, record: int) -> int:
        return (value or 0) + 10 // record

    with pytest.raises(ZeroDivisionError):
        backend.value_state(COUNT).fold(["a", "b", "c"], [1, 0, 1], add)
    restored = rig.open(snapshot(backend)).value_state(COUNT)
    assert restored.fold(["a", "b", "c"], [1, 1, 1], lambda value, _record: value or 0) == [10, 0, 0]


@pytest.mark.parametrize("wrong", [1.5, True, "1"])
def test_a_value_of_another_type_is_refused_at_once(rig: Rig, wrong: Any) -> None:
    backend = rig.open()
    backend.set_current_key("a")
    with pytest.raises(StateError, match=r"state 'count' of operator 'counter'.*int is declared"):
        backend.value_state(COUNT).update(wrong)
    with pytest.raises(StateError, match="int is declared"):
        backend.value_state(COUNT).fold(["a"], [1], lambda _value, _record: wrong)


def test_changes_of_a_mutable_default_are_saved(rig: Rig) -> None:
    descriptor = ValueStateDescriptor[dict[str, int]]("seen", dict[str, int], {})
    backend = rig.open()
    for key in ("read only", "changed"):
        backend.set_current_key(key)
        value = backend.value_state(descriptor).value()
        assert value == {}
        if key == "changed":
            value["x"] = 1
    assert descriptor.default == {}
    restored = rig.open(snapshot(backend))
    restored.set_current_key("changed")
    assert restored.value_state(descriptor).value() == {"x": 1}


def test_cleared_state_leaves_no_rows(rig: Rig) -> None:
    backend = rig.open()
    for number in range(100):
        backend.set_current_key(number)
        backend.value_state(COUNT).update(number)
        backend.list_state(ListStateDescriptor[int]("list", int)).add(number)
        backend.map_state(MapStateDescriptor[int, int]("map", int, int)).put(number, number)
        backend.timers("event").register(number)
    full = snapshot(backend, 1)
    for number in range(100):
        backend.set_current_key(number)
        backend.value_state(COUNT).clear()
        backend.list_state(ListStateDescriptor[int]("list", int)).clear()
        backend.map_state(MapStateDescriptor[int, int]("map", int, int)).clear()
        assert backend.timers("event").pop_due(200) == (number, number, 0)
    rig.kind = "heap"  # whose snapshots hold rows and nothing else
    emptied = rig.open(snapshot(backend, 2))
    assert snapshot(emptied)[0].files == {}
    assert snapshot(rig.open(full))[0].files != {}


# ---- maps and lists


def test_map_keys_have_one_type(rig: Rig) -> None:
    backend = rig.open()
    backend.set_current_key("a")
    state = backend.map_state(MapStateDescriptor[Any, int]("map"))
    state.put(1, 10)
    with pytest.raises(KeyTypeError, match="keys are of type int, True is not"):
        state.put(True, 11)


def test_maps_are_in_the_order_of_their_keys(rig: Rig) -> None:
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


def test_lists_keep_their_order_over_restores(rig: Rig) -> None:
    descriptor = ListStateDescriptor[int]("list", int)
    handles: Handles = ()
    for start in (0, 10, 20):
        backend = rig.open(handles)
        for number in range(start, start + 10, 2):
            backend.set_current_key("a")
            backend.list_state(descriptor).add_all([number, number + 1])
            finish(backend.snapshot(number))
        handles = snapshot(backend, 100)
    backend = rig.open(handles)
    backend.set_current_key("a")
    assert backend.list_state(descriptor).get() == list(range(30))


# ---- timers


def test_timers_fire_by_time_then_by_registration(rig: Rig) -> None:
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


def test_many_deleted_timers_take_no_room(rig: Rig) -> None:
    timers: Any = rig.open().timers("event")
    for number in range(10_000):
        timers.register_for("a", number, 0)
        timers.delete_for("a", number, 0)
    assert len(timers._heap) < 2_000
    assert timers.changed == 0


# ---- names and types


def test_one_name_is_one_state(rig: Rig) -> None:
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


@dataclass
class LongerVisit:
    times: float
    page: str
    tags: list[str] = field(default_factory=list)


@dataclass
class NamedVisit:
    page: str
    times: int
    user: str


@dataclass
class TextVisit:
    page: str
    times: str


class Pair(NamedTuple):
    first: int
    second: int


class Swapped(NamedTuple):
    second: int
    first: int


def visits(rig: Rig) -> Handles:
    backend = rig.open()
    backend.set_current_key("a")
    backend.value_state(ValueStateDescriptor[Visit]("visit", Visit)).update(Visit("home", 3))
    return snapshot(backend)


def test_types_evolve(rig: Rig) -> None:
    backend = rig.open(visits(rig))
    backend.set_current_key("a")
    assert backend.value_state(ValueStateDescriptor[LongerVisit]("visit", LongerVisit)).value() == LongerVisit(
        3.0, "home"
    )


@pytest.mark.parametrize(
    ("declared", "reason"),
    [
        (NamedVisit, "field 'user' is new and has no default"),
        (TextVisit, "field 'times' was int and is now str"),
        (int, "it was Visit and is now int"),
        (None, "it was Visit and is now pickled"),
    ],
)
def test_what_cannot_be_read_is_refused(rig: Rig, declared: Any, reason: str) -> None:
    backend = rig.open(visits(rig))
    with pytest.raises(IncompatibleStateError, match=f"state 'visit' of operator 'counter'.*{reason}"):
        backend.value_state(ValueStateDescriptor[Any]("visit", declared))


def test_old_rows_are_remembered_over_a_change_of_type(rig: Rig) -> None:
    """Rows that were not touched since are still as the first version wrote them."""
    second = rig.open(visits(rig))
    second.value_state(ValueStateDescriptor[LongerVisit]("visit", LongerVisit))
    third = rig.open(snapshot(second))
    with pytest.raises(IncompatibleStateError, match="was int and is now str"):
        third.value_state(ValueStateDescriptor[TextVisit]("visit", TextVisit))


def test_named_tuples_keep_their_positions(rig: Rig) -> None:
    backend = rig.open()
    backend.set_current_key("a")
    backend.value_state(ValueStateDescriptor[Pair]("pair", Pair)).update(Pair(1, 2))
    restored = rig.open(snapshot(backend))
    with pytest.raises(IncompatibleStateError, match="fields may only be added at the end"):
        restored.value_state(ValueStateDescriptor[Swapped]("pair", Swapped))


def test_another_kind_is_refused(rig: Rig) -> None:
    backend = rig.open(visits(rig))
    with pytest.raises(IncompatibleStateError, match="was a value state and is now declared as a list state"):
        backend.list_state(ListStateDescriptor[Visit]("visit", Visit))


def test_another_max_parallelism_is_refused(rig: Rig) -> None:
    handles = visits(rig)
    with pytest.raises(IncompatibleStateError, match="max parallelism 32, which is now 64"):
        rig.open(handles, KeyGroupRange(0, 63), maximum=64)


def test_undeclared_state_is_kept(rig: Rig) -> None:
    second = rig.open(visits(rig))
    second.set_current_key("a")
    second.value_state(COUNT).update(1)
    third = rig.open(snapshot(second))
    third.set_current_key("a")
    assert third.value_state(ValueStateDescriptor[Visit]("visit", Visit)).value() == Visit("home", 3)
    assert third.value_state(COUNT).value() == 1


def test_parents_that_numbered_their_states_otherwise(rig: Rig) -> None:
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
    whole = rig.open(snapshot(halves[0]) + snapshot(halves[1]))
    for key in range(200):
        whole.set_current_key(key)
        assert (whole.value_state(COUNT).value(), whole.value_state(text).value()) == (key, str(key))


# ---- snapshots


def test_overlapping_snapshots_written_in_the_wrong_order(rig: Rig) -> None:
    backend = rig.open()
    programs = []
    for number in (1, 2, 3):
        backend.value_state(COUNT).fold(["a"], [number], lambda _value, record: record)
        programs.append(backend.snapshot(number))
        backend.between_batches()
    handles = {number: finish(programs[number - 1]) for number in (3, 1, 2)}
    for number in (1, 2, 3):
        restored = rig.open(handles[number])
        restored.set_current_key("a")
        assert restored.value_state(COUNT).value() == number


def test_a_failed_upload_loses_nothing(rig: Rig) -> None:
    backend = rig.open()
    backend.value_state(COUNT).fold(range(50), range(50), lambda _value, record: record)
    rig.store.failing = True
    with pytest.raises(ObjectStoreUnavailable):
        snapshot(backend, 1)
    backend.checkpoint_aborted(1)
    rig.store.failing = False
    restored = rig.open(snapshot(backend, 2))
    assert restored.value_state(COUNT).fold(range(50), range(50), lambda value, _record: value or 0) == list(range(50))


def test_a_failed_write_loses_nothing(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    backend: Any = rig.open()
    backend.value_state(COUNT).fold(range(50), range(50), lambda _value, record: record)
    real = backend._store.write
    monkeypatch.setattr(backend._store, "write", lambda rows: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        snapshot(backend, 1)
    monkeypatch.setattr(backend._store, "write", real)
    restored = rig.open(snapshot(backend, 2))
    assert restored.value_state(COUNT).fold(range(50), range(50), lambda value, _record: value or 0) == list(range(50))


def test_the_slot_writes_nothing_while_a_barrier_is_pending(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_snapshots_run_beside_the_slot(rig: Rig) -> None:
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
        helper = threading.Thread(target=lambda n=number, p=program: snapshots.append((n, finish(p))))
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


def test_a_damaged_file_is_named(rig: Rig) -> None:
    backend = rig.open()
    backend.value_state(COUNT).fold(["a"], [1], lambda _value, record: record)
    handles = snapshot(backend)
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


def test_only_files_of_a_completed_checkpoint_are_reused(rocks: Rig) -> None:
    backend = rocks.open()
    change(backend, 1)
    first = names(snapshot(backend, 1))
    change(backend, 2)
    second = names(snapshot(backend, 2))
    assert first.keys() < second.keys()
    assert not set(first.values()) & set(second.values()), "checkpoint 1 is not known to be complete"
    backend.checkpoint_aborted(1)
    backend.checkpoint_completed(2)
    change(backend, 3)
    third = names(snapshot(backend, 3))
    assert second.items() < third.items()


def test_a_file_that_a_later_checkpoint_may_have_subsumed_is_not_reused(rocks: Rig) -> None:
    """2 was taken before 1 was known to be complete; if 2 is complete by now, the objects of 1 are deleted."""
    backend = rocks.open()
    change(backend, 1)
    first = names(snapshot(backend, 1))
    second = names(snapshot(backend, 2))
    backend.checkpoint_completed(1)
    third = names(snapshot(backend, 3))
    assert not set(third.values()) & set(first.values())
    assert not set(third.values()) & set(second.values())
    backend.checkpoint_completed(3)
    assert names(snapshot(backend, 4)) == third


def test_children_of_one_checkpoint_reuse_its_files_and_never_each_others(rocks: Rig) -> None:
    backend = rocks.open()
    for number in range(100):
        change(backend, number)
    parent = snapshot(backend, 1)
    children = [rocks.open(parent, groups) for groups in (KeyGroupRange(0, 15), KeyGroupRange(16, 31))]
    new: list[set[str]] = []
    for child in children:
        child.value_state(COUNT)
        keys = [f"key {number}" for number in range(100)]
        for key in keys:
            if key_group(key, 32) in child.key_groups:
                child.value_state(COUNT).fold([key], [1], lambda _value, record: record)
        taken = names(snapshot(child, 2))
        assert names(parent).items() < taken.items()
        new.append(set(taken.values()) - set(names(parent).values()))
    assert all(new)
    assert not new[0] & new[1]


def test_local_checkpoints_are_removed(rocks: Rig, tmp_path: Path) -> None:
    backend = rocks.open()
    change(backend, 1)
    snapshot(backend, 1)
    never_run = backend.snapshot(2)
    stopped = backend.snapshot(3)
    next(stopped)  # takes the local checkpoints of both
    assert len(list(tmp_path.rglob("checkpoint-*"))) == 2
    stopped.close()
    backend.close()
    never_run.close()
    assert not list(tmp_path.rglob("checkpoint-*"))
    shutil.rmtree(tmp_path / "attempt-0")
