"""Row state against a plain dict model: random operations, barriers, failures and restores, on both backends."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from penstock.state.backend import KeyedStateBackend
from penstock.state.backend_factory import BackendKind, create_keyed_backend
from penstock.state.descriptors import ListStateDescriptor, MapStateDescriptor, ValueStateDescriptor
from penstock.state.errors import CheckpointError, ObjectStoreUnavailable
from penstock.state.ids import CheckpointId
from penstock.state.key_groups import KeyGroupRange, key_group, subtask_of
from penstock.state.rows.keyed_backend import BackendOptions
from penstock.state.rows.row_store import Uploads
from penstock.state.snapshots import FileHandle, KeyedHandle
from penstock.state.store.objects import Program

GROUPS = 16
Handles = tuple[KeyedHandle, ...]


@dataclass
class Objects:
    """An object store in a dict, whose uploads take one step each."""

    data: dict[str, bytes] = field(default_factory=dict)

    def uploads(self, checkpoint_id: CheckpointId) -> Uploads:
        return ObjectUploads(self)

    def fetch(self, handle: KeyedHandle, directory: Path) -> tuple[KeyedHandle, Path]:
        directory.mkdir(parents=True)
        for name, file in handle.files.items():
            (directory / name).write_bytes(self.data[file.name])
        return handle, directory


class ObjectUploads:
    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    def put_bytes(self, data: bytes, *, shared: bool = False) -> Program[FileHandle]:
        name = f"object-{len(self._objects.data)}"
        self._objects.data[name] = data
        yield None  # type: ignore[misc]  # a place where the program may be stopped
        return FileHandle(name, len(data), "", shared)

    def put_file(self, path: Path, *, shared: bool = False) -> Program[FileHandle]:
        return (yield from self.put_bytes(path.read_bytes(), shared=shared))


def finish(program: Program[Handles]) -> Handles:
    while True:
        try:
            next(program)
        except StopIteration as stop:
            handles: Handles = stop.value
            return handles


class Rig:
    """One operator with `parallelism` subtasks."""

    def __init__(self, kind: BackendKind, cache_cells: int = 1_000, dirty_cells: int = 1_000) -> None:
        self.kind: BackendKind = kind
        self.options = BackendOptions(cache_cells, dirty_cells, 8 << 20, 8 << 20)
        self.objects = Objects()
        self.now_ms = 1_000
        self.root = Path(tempfile.mkdtemp(prefix="penstock-test-"))
        self.backends: list[KeyedStateBackend] = []
        self._made = 0

    def new_directory(self) -> Path:
        self._made += 1
        return self.root / str(self._made)

    def open(self, parallelism: int = 1, handles: Handles = ()) -> None:
        self.stop()
        self.backends = [
            create_keyed_backend(
                self.kind,
                operator_name="counter",
                key_groups=KeyGroupRange.of_subtask(subtask, parallelism, GROUPS),
                max_parallelism=GROUPS,
                directory=self.new_directory(),
                uploads=self.objects.uploads,
                now_ms=lambda: self.now_ms,
                restored=[self.objects.fetch(handle, self.new_directory()) for handle in handles],
                options=self.options,
            )
            for subtask in range(parallelism)
        ]

    def stop(self) -> None:
        for backend in self.backends:
            backend.close()
        self.backends = []

    def at(self, key: Any, namespace: int = 0) -> KeyedStateBackend:
        """The backend that owns a key, standing on it."""
        backend = self.backends[subtask_of(key_group(key, GROUPS), len(self.backends), GROUPS)]
        backend.set_current_key(key)
        backend.set_namespace(namespace)
        return backend

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self.root)


@pytest.fixture(params=["heap", "rocksdb"])
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    rig = Rig(request.param)
    yield rig
    rig.close()


VALUE = ValueStateDescriptor[int]("value", int)
PICKLED = ValueStateDescriptor[list[int]]("pickled")
LIST = ListStateDescriptor[int]("list", int)
MAP = MapStateDescriptor[str, list[int]]("map", str, list[int])

KEYS = st.sampled_from(["a", "b", "c", "d", "e", "f", "x1", "x2"])
NAMESPACES = st.sampled_from([0, -5, 60_000])
NUMBERS = st.integers(-3, 3) | st.just(2**70)
USER_KEYS = st.sampled_from(["p", "q", ""])
Place = tuple[Any, int]


@dataclass
class Model:
    value: dict[Place, int] = field(default_factory=dict)
    pickled: dict[Place, list[int]] = field(default_factory=dict)
    list: dict[Place, list[int]] = field(default_factory=dict)
    map: dict[Place, dict[str, list[int]]] = field(default_factory=dict)
    timers: set[tuple[int, Any, int]] = field(default_factory=set)

    def copy(self) -> Model:
        return Model(
            dict(self.value),
            {place: list(value) for place, value in self.pickled.items()},
            {place: list(value) for place, value in self.list.items()},
            {place: {k: list(v) for k, v in entries.items()} for place, entries in self.map.items()},
            set(self.timers),
        )


@dataclass
class Barrier:
    checkpoint_id: int
    model: Model
    programs: list[Program[Handles]]
    handles: list[Handles | None]


class RowStateMachine(RuleBasedStateMachine):
    kind: BackendKind = "heap"

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.barriers: list[Barrier] = []
        self.completed: tuple[Handles, Model] = ((), Model())
        self.last_checkpoint = 0

    @initialize(
        cells=st.sampled_from([2, 6, 1_000]), dirty=st.sampled_from([0, 2, 1_000]), parallelism=st.integers(1, 3)
    )
    def start(self, cells: int, dirty: int, parallelism: int) -> None:
        self.rig = Rig(self.kind, cells, dirty)
        self.rig.open(parallelism)
        self.declare()

    def declare(self) -> None:
        for backend in self.rig.backends:
            backend.timers("event")

    def teardown(self) -> None:
        self.check_everything()
        self.rig.close()

    # ---- operations

    @rule(key=KEYS, namespace=NAMESPACES, number=NUMBERS)
    def update_value(self, key: Any, namespace: int, number: int) -> None:
        self.rig.at(key, namespace).value_state(VALUE).update(number)
        self.model.value[key, namespace] = number

    @rule(key=KEYS, namespace=NAMESPACES)
    def clear_value(self, key: Any, namespace: int) -> None:
        self.rig.at(key, namespace).value_state(VALUE).clear()
        self.model.value.pop((key, namespace), None)

    @rule(keys=st.lists(KEYS, max_size=8), namespace=NAMESPACES)
    def fold(self, keys: list[Any], namespace: int) -> None:
        def add(value: int | None, record: int) -> int:
            return (value or 0) + record

        for backend in self.rig.backends:
            own = [key for key in keys if self.rig.at(key, namespace) is backend]
            looked_at = backend.value_state(VALUE).values_of(own)  # type: ignore[attr-defined]
            assert looked_at == [self.model.value.get((key, namespace)) for key in own]
            results = backend.value_state(VALUE).fold(own, range(1, len(own) + 1), add)
            for key, record, result in zip(own, range(1, len(own) + 1), results, strict=True):
                place = (key, namespace)
                self.model.value[place] = self.model.value.get(place, 0) + record
                assert result == self.model.value[place]

    @rule(key=KEYS, namespace=NAMESPACES, number=NUMBERS)
    def change_in_place(self, key: Any, namespace: int, number: int) -> None:
        state = self.rig.at(key, namespace).value_state(PICKLED)
        value = state.value()
        if value is None:
            state.update([number])
        else:
            value.append(number)
        self.model.pickled.setdefault((key, namespace), []).append(number)

    @rule(key=KEYS, namespace=NAMESPACES, numbers=st.lists(NUMBERS, max_size=3))
    def add_to_list(self, key: Any, namespace: int, numbers: list[int]) -> None:
        self.rig.at(key, namespace).list_state(LIST).add_all(numbers)
        if numbers:
            self.model.list.setdefault((key, namespace), []).extend(numbers)

    @rule(key=KEYS, namespace=NAMESPACES, number=NUMBERS)
    def change_list_in_place(self, key: Any, namespace: int, number: int) -> None:
        values = self.rig.at(key, namespace).list_state(LIST).get()
        assert values == self.model.list.get((key, namespace), [])
        values.insert(0, number)
        self.model.list.setdefault((key, namespace), []).insert(0, number)

    @rule(key=KEYS, namespace=NAMESPACES, numbers=st.lists(NUMBERS, max_size=2))
    def replace_list(self, key: Any, namespace: int, numbers: list[int]) -> None:
        self.rig.at(key, namespace).list_state(LIST).update(numbers)
        self.model.list[key, namespace] = list(numbers)

    @rule(key=KEYS, namespace=NAMESPACES, user_key=USER_KEYS, number=NUMBERS)
    def put_entry(self, key: Any, namespace: int, user_key: str, number: int) -> None:
        self.rig.at(key, namespace).map_state(MAP).put(user_key, [number])
        self.model.map.setdefault((key, namespace), {})[user_key] = [number]

    @rule(key=KEYS, namespace=NAMESPACES, user_key=USER_KEYS)
    def change_entry_in_place(self, key: Any, namespace: int, user_key: str) -> None:
        value = self.rig.at(key, namespace).map_state(MAP).get(user_key)
        known = self.model.map.get((key, namespace), {}).get(user_key)
        assert value == known
        if value is not None and known is not None:
            value.append(7)
            known.append(7)

    @rule(key=KEYS, namespace=NAMESPACES, user_key=USER_KEYS)
    def remove_entry(self, key: Any, namespace: int, user_key: str) -> None:
        state = self.rig.at(key, namespace).map_state(MAP)
        state.remove(user_key)
        assert not state.contains(user_key)
        self.model.map.get((key, namespace), {}).pop(user_key, None)

    @rule(key=KEYS, namespace=NAMESPACES, read_first=st.booleans())
    def clear_map(self, key: Any, namespace: int, read_first: bool) -> None:
        state = self.rig.at(key, namespace).map_state(MAP)
        if read_first:
            assert dict(state.items()) == self.model.map.get((key, namespace), {})
        state.clear()
        assert state.is_empty()
        self.model.map.pop((key, namespace), None)

    @rule(key=KEYS, namespace=NAMESPACES, timestamp=st.integers(0, 5), delete=st.booleans())
    def set_timer(self, key: Any, namespace: int, timestamp: int, delete: bool) -> None:
        timers = self.rig.at(key).timers("event")
        if delete:
            timers.delete(timestamp, namespace)
            self.model.timers.discard((timestamp, key, namespace))
        else:
            timers.register(timestamp, namespace)
            self.model.timers.add((timestamp, key, namespace))

    @rule(watermark=st.integers(0, 5))
    def fire_timers(self, watermark: int) -> None:
        for backend in self.rig.backends:
            timers = backend.timers("event")
            last = -1
            while (timer := timers.pop_due(watermark)) is not None:
                self.model.timers.remove(timer)
                assert last <= timer[0] <= watermark
                last = timer[0]
        assert all(timestamp > watermark for timestamp, _key, _namespace in self.model.timers)

    @rule()
    def between_batches(self) -> None:
        for backend in self.rig.backends:
            backend.between_batches()

    @rule(key=KEYS, namespace=NAMESPACES)
    def check_place(self, key: Any, namespace: int) -> None:
        place = (key, namespace)
        backend = self.rig.at(key, namespace)
        assert backend.value_state(VALUE).value() == self.model.value.get(place)
        assert (backend.value_state(PICKLED).value() or []) == self.model.pickled.get(place, [])
        assert backend.list_state(LIST).get() == self.model.list.get(place, [])
        entries = self.model.map.get(place, {})
        assert list(backend.map_state(MAP).items()) == sorted(entries.items())

    def check_everything(self) -> None:
        for key in ["a", "b", "c", "d", "e", "f", "x1", "x2"]:
            for namespace in (0, -5, 60_000):
                self.check_place(key, namespace)
        self.fire_timers(5)
        assert not self.model.timers

    # ---- barriers

    @precondition(lambda self: len(self.barriers) < 3)
    @rule()
    def barrier(self) -> None:
        self.last_checkpoint += 1
        programs = [backend.snapshot(self.last_checkpoint) for backend in self.rig.backends]
        self.barriers.append(Barrier(self.last_checkpoint, self.model.copy(), programs, [None] * len(programs)))

    @precondition(lambda self: self.barriers)
    @rule(data=st.data(), steps=st.integers(1, 4))
    def run_program(self, data: st.DataObject, steps: int) -> None:
        """Some steps of one of the programs, whichever barrier it belongs to."""
        barrier = data.draw(st.sampled_from(self.barriers))
        number = data.draw(st.integers(0, len(barrier.programs) - 1))
        for _ in range(steps):
            if barrier.handles[number] is None:
                try:
                    next(barrier.programs[number])
                except StopIteration as stop:
                    barrier.handles[number] = stop.value

    @precondition(lambda self: self.barriers)
    @rule(data=st.data())
    def complete(self, data: st.DataObject) -> None:
        barrier = data.draw(st.sampled_from(self.barriers))
        for number, program in enumerate(barrier.programs):
            if barrier.handles[number] is None:
                barrier.handles[number] = finish(program)
        self.barriers = [other for other in self.barriers if other.checkpoint_id > barrier.checkpoint_id]
        handles = [handles for handles in barrier.handles if handles is not None]
        self.completed = (tuple(handle for group in handles for handle in group), barrier.model)
        for backend in self.rig.backends:
            backend.checkpoint_completed(barrier.checkpoint_id)

    @precondition(lambda self: self.barriers)
    @rule(data=st.data(), how=st.sampled_from(["close", "throw", "leave"]), told=st.booleans())
    def abort(self, data: st.DataObject, how: str, told: bool) -> None:
        barrier = data.draw(st.sampled_from(self.barriers))
        self.barriers.remove(barrier)
        if told:
            for backend in self.rig.backends:
                backend.checkpoint_aborted(barrier.checkpoint_id)
        for program, handles in zip(barrier.programs, barrier.handles, strict=True):
            if handles is None and how == "close":
                program.close()
            elif handles is None and how == "throw":
                with pytest.raises((ObjectStoreUnavailable, CheckpointError)):
                    program.throw(ObjectStoreUnavailable("no store"))

    @rule(parallelism=st.integers(1, 3), other_kind=st.booleans())
    def restore(self, parallelism: int, other_kind: bool) -> None:
        if other_kind:
            self.rig.kind = "heap" if self.rig.kind == "rocksdb" else "rocksdb"
        handles, model = self.completed
        self.barriers = []
        self.model = model.copy()
        self.rig.open(parallelism, handles)
        self.declare()
        if handles:
            self.check_copy_of(model)

    def check_copy_of(self, model: Model) -> None:
        """Timers are all there; looking does not change them."""
        for timer in sorted(model.timers, key=repr):
            timers = self.rig.at(timer[1]).timers("event")
            earliest = timers.next_timestamp()
            assert earliest is not None
            assert earliest <= timer[0]


class RocksStateMachine(RowStateMachine):
    kind: BackendKind = "rocksdb"


SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]
TestHeap = RowStateMachine.TestCase
TestHeap.settings = settings(max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=SLOW)
TestRocks = RocksStateMachine.TestCase
TestRocks.settings = settings(max_examples=12, stateful_step_count=40, deadline=None, suppress_health_check=SLOW)
