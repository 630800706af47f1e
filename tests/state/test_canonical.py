"""Keyed state through savepoints: from any backend into any, at any parallelism, equal to a model after every move."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from penstock.state.backend import KeyedStateBackend
from penstock.state.backend_factory import create_keyed_backend
from penstock.state.descriptors import (
    AggregatingStateDescriptor,
    ListStateDescriptor,
    MapStateDescriptor,
    ReducingStateDescriptor,
    StateDescriptor,
    ValueStateDescriptor,
)
from penstock.state.errors import DamagedCheckpointError
from penstock.state.ids import Attempt, CheckpointId, JobId
from penstock.state.key_groups import KeyGroupRange, key_group, subtask_of
from penstock.state.rows.keyed_backend import BackendOptions
from penstock.state.savepoints import canonical
from penstock.state.savepoints.canonical import read_rows
from penstock.state.savepoints.savepoint_store import SavepointUploads, StatePlace
from penstock.state.snapshots import KeyedHandle
from penstock.state.store.checkpoint_store import CheckpointStore
from penstock.state.store.objects import run_program
from penstock.state.store.obstore_objects import ObstoreObjects
from penstock.state.ttl_config import StateTtlConfig

Kind = Literal["heap", "rocksdb"]
GROUPS = 32
OPTIONS = BackendOptions(block_cache_bytes=8 << 20, write_buffer_bytes=8 << 20)
HOUR_MS = 3_600_000


class Point(NamedTuple):
    x: int
    y: int


@dataclass
class Order:
    user: str
    total: float = 0.0
    items: list[str] = field(default_factory=list)


class Anything:
    """Nothing that MessagePack knows."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Anything) and other.number == self.number

    __hash__ = None  # type: ignore[assignment]


class Mean:
    def create_accumulator(self) -> tuple[int, int]:
        return 0, 0

    def add(self, value: int, accumulator: tuple[int, int]) -> tuple[int, int]:
        return accumulator[0] + value, accumulator[1] + 1

    def get_result(self, accumulator: tuple[int, int]) -> float:
        return accumulator[0] / accumulator[1]


TTL = StateTtlConfig("1h", update_type="on_create_and_write")
VALUE = ValueStateDescriptor[Order]("order", Order)
PICKLED = ValueStateDescriptor[Any]("anything")
LIST = ListStateDescriptor[Point]("points", Point)
PICKLED_LIST = ListStateDescriptor[Any]("any list")
MAP = MapStateDescriptor[Any, Any]("map", str, int)
PICKLED_MAP = MapStateDescriptor[Any, Any]("any map")
REDUCING = ReducingStateDescriptor[int]("sum", lambda a, b: a + b, int)
AGGREGATING = AggregatingStateDescriptor[Any]("mean", Mean(), tuple[int, int])
TTL_VALUE = ValueStateDescriptor[int]("fresh", int, ttl=TTL)
TTL_LIST = ListStateDescriptor[int]("fresh list", int, ttl=TTL)
TTL_MAP = MapStateDescriptor[str, int]("fresh map", str, int, ttl=TTL)
NAMESPACES = (0, 60_000, -60_000)


class Subtasks:
    """All subtasks of an operator, and the store."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.objects = ObstoreObjects(directory / "store")
        self.checkpoints = CheckpointStore(JobId("job"), self._new_name)
        self.now_ms = 1_000
        self.backends: list[KeyedStateBackend] = []
        self._names = itertools.count()
        self._stack = ExitStack()

    def _new_name(self) -> str:
        return f"{next(self._names):06}"

    def open(self, kind: Kind, parallelism: int, handles: Sequence[KeyedHandle] = ()) -> None:
        self.close()
        ranges = [KeyGroupRange.of_subtask(i, parallelism, GROUPS) for i in range(parallelism)]
        self.backends = [self._open(kind, i, groups, handles) for i, groups in enumerate(ranges)]

    def _open(
        self, kind: Kind, subtask: int, groups: KeyGroupRange, handles: Sequence[KeyedHandle]
    ) -> KeyedStateBackend:
        restored = []
        for handle in handles:
            if len(KeyGroupRange(handle.first_key_group, handle.last_key_group).intersection(groups)):
                target = self.directory / self._new_name()
                run_program(self.checkpoints.fetch(handle, target), self.objects)
                restored.append((handle, target))
        backend = create_keyed_backend(
            kind,
            operator_name="shop",
            key_groups=groups,
            max_parallelism=GROUPS,
            directory=self.directory / self._new_name(),
            uploads=self.uploads,
            now_ms=lambda: self.now_ms,
            restored=restored,
            options=OPTIONS,
            place=StatePlace("shop", subtask),
        )
        self._stack.enter_context(closing(backend))
        return backend

    def uploads(self, checkpoint: CheckpointId) -> SavepointUploads:
        return SavepointUploads("savepoint", JobId("job"), Attempt(1), checkpoint, self._new_name)

    def savepoint(self) -> list[KeyedHandle]:
        return [h for each in self.backends for h in run_program(each.savepoint(1), self.objects)]

    def of(self, key: Any) -> KeyedStateBackend:
        backend = self.backends[subtask_of(key_group(key, GROUPS), len(self.backends), GROUPS)]
        backend.set_current_key(key)
        return backend

    def file(self, handle: KeyedHandle, number: int = 0) -> Path:
        return self.directory / "store" / list(handle.files.values())[number].name

    def close(self) -> None:
        self._stack.close()


@pytest.fixture
def subtasks(tmp_path: Path) -> Iterator[Subtasks]:
    with closing(Subtasks(tmp_path)) as opened:
        yield opened


def state(backend: KeyedStateBackend, descriptor: StateDescriptor) -> Any:
    return getattr(backend, f"{descriptor.kind}_state")(descriptor)


def write(subtasks: Subtasks, keys: Sequence[Any], number: int) -> None:
    """The same for every key, with what tells keys, namespaces and rounds apart."""
    for key, namespace in itertools.product(keys, NAMESPACES):
        backend = subtasks.of(key)
        backend.set_namespace(namespace)
        mark = number * 1_000 + namespace
        state(backend, VALUE).update(Order(str(key), mark / 2, ["a"] * (number % 3)))
        state(backend, PICKLED).update({"number": Anything(mark)})
        state(backend, LIST).add_all([Point(mark, 1), Point(mark, 2)])
        state(backend, PICKLED_LIST).add(Anything(mark))
        state(backend, MAP).put(f"entry {number}", mark)
        state(backend, PICKLED_MAP).put((number, key), Anything(mark))
        state(backend, REDUCING).add(number)
        state(backend, AGGREGATING).add(number)
        state(backend, TTL_VALUE).update(mark)
        state(backend, TTL_LIST).add(mark)
        state(backend, TTL_MAP).put(f"entry {number}", mark)
        backend.timers("event").register(mark + 5_000_000, namespace)
        if number % 2:
            backend.timers("processing").register(mark, namespace)


def expected(key: Any, namespace: int, numbers: Sequence[int]) -> list[Any]:
    marks = [number * 1_000 + namespace for number in numbers]
    return [
        Order(str(key), marks[-1] / 2, ["a"] * (numbers[-1] % 3)),
        {"number": Anything(marks[-1])},
        [Point(mark, y) for mark in marks for y in (1, 2)],
        list(map(Anything, marks)),
        {f"entry {number}": mark for number, mark in zip(numbers, marks, strict=True)},
        {(number, key): Anything(mark) for number, mark in zip(numbers, marks, strict=True)},
        sum(numbers),
        sum(numbers) / len(numbers),
        marks[-1],
        marks,
        {f"entry {number}": mark for number, mark in zip(numbers, marks, strict=True)},
    ]


def read(subtasks: Subtasks, key: Any, namespace: int) -> list[Any]:
    backend = subtasks.of(key)
    backend.set_namespace(namespace)
    found = [state(backend, VALUE).value(), state(backend, PICKLED).value()]
    found += [list(state(backend, each).get()) for each in (LIST, PICKLED_LIST)]
    found += [dict(state(backend, each).items()) for each in (MAP, PICKLED_MAP)]
    found += [state(backend, REDUCING).get(), state(backend, AGGREGATING).get()]
    found += [state(backend, TTL_VALUE).value(), list(state(backend, TTL_LIST).get())]
    return [*found, dict(state(backend, TTL_MAP).items())]


def pop_timers(subtasks: Subtasks, name: str) -> set[tuple[int, Any, int]]:
    pop = [backend.timers(name).pop_due for backend in subtasks.backends]
    return {timer for each in pop for timer in iter(lambda each=each: each(2**62), None)}


KEYS: dict[str, list[Any]] = {
    "strings": [f"user {number}" for number in range(12)],
    "tuples": [(number, None if number % 5 else "x", b"\x00\xff") for number in range(12)],
}
ROUTES: list[list[tuple[Kind, int]]] = [
    [("heap", 1), ("rocksdb", 2), ("heap", 3), ("rocksdb", 7)],
    [("rocksdb", 7), ("heap", 2), ("rocksdb", 1), ("rocksdb", 3)],
    [("rocksdb", 2), ("heap", 7), ("heap", 1), ("rocksdb", 1)],
]


@pytest.mark.parametrize("keys", KEYS)
@pytest.mark.parametrize("route", ROUTES, ids=lambda route: "-".join(f"{kind[0]}{p}" for kind, p in route))
def test_all_state_moves_between_backends_and_parallelisms(
    subtasks: Subtasks, route: list[tuple[Kind, int]], keys: str
) -> None:
    handles: list[KeyedHandle] = []
    for number, (kind, parallelism) in enumerate(route, 1):
        subtasks.open(kind, parallelism, handles)
        if number > 1:
            for key, namespace in itertools.product(KEYS[keys], NAMESPACES):
                assert read(subtasks, key, namespace) == expected(key, namespace, range(1, number)), (key, namespace)
        write(subtasks, KEYS[keys], number)
        for backend in subtasks.backends:
            backend.between_batches()
        handles = subtasks.savepoint()
        assert {handle.backend for handle in handles} == {"canonical"}
    subtasks.open("heap", 2, handles)
    marks = [(key, space, n) for key in KEYS[keys] for space in NAMESPACES for n in range(1, len(route) + 1)]
    assert pop_timers(subtasks, "event") == {(n * 1_000 + space + 5_000_000, key, space) for key, space, n in marks}
    assert pop_timers(subtasks, "processing") == {(n * 1_000 + space, key, space) for key, space, n in marks if n % 2}


@pytest.mark.parametrize("kind", ["heap", "rocksdb"])
def test_a_savepoint_is_of_its_moment_and_of_no_consequence(subtasks: Subtasks, kind: Kind) -> None:
    """What is written meanwhile is not in it; whether it ends, fails or never runs, nothing is lost or held up."""
    subtasks.open(kind, 1)
    write(subtasks, ["a"], 1)
    (backend,) = subtasks.backends
    forgotten, closed, taken = backend.savepoint(1), backend.savepoint(2), backend.savepoint(3)
    write(subtasks, ["a", "b"], 2)
    closed.close()
    backend.checkpoint_aborted(2)
    handles = run_program(taken, subtasks.objects)
    backend.checkpoint_aborted(3)
    backend.checkpoint_aborted(1)
    forgotten.close()
    later = subtasks.savepoint()
    assert read(subtasks, "a", 0) == expected("a", 0, [1, 2])
    assert not list(subtasks.directory.glob("*/savepoint-*")), "what was written here is gone"
    assert not list(subtasks.directory.glob("*/checkpoint-*")), "so are the links to RocksDB's files"
    subtasks.open(kind, 1, handles)
    assert read(subtasks, "a", 0) == expected("a", 0, [1])
    assert state(subtasks.of("b"), VALUE).value() is None
    subtasks.open(kind, 1, later)
    assert read(subtasks, "b", 0) == expected("b", 0, [2])


def test_checkpoints_of_rocksdb_stay_incremental_across_a_savepoint(subtasks: Subtasks) -> None:
    subtasks.open("rocksdb", 1)
    write(subtasks, ["a"], 1)
    (backend,) = subtasks.backends
    (first,) = run_program(backend.snapshot(1), subtasks.objects)
    backend.checkpoint_completed(1)
    run_program(backend.savepoint(2), subtasks.objects)
    (third,) = run_program(backend.snapshot(3), subtasks.objects)
    tables = {file.name for name, file in first.files.items() if name.endswith(".sst")}
    assert tables <= {file.name for file in third.files.values()}


@pytest.mark.parametrize("kind", ["heap", "rocksdb"])
def test_what_has_expired_is_left_out_and_the_rest_goes_on_expiring(subtasks: Subtasks, kind: Kind) -> None:
    subtasks.open(kind, 1)
    write(subtasks, ["old", "both"], 1)
    subtasks.now_ms += HOUR_MS
    write(subtasks, ["both", "new"], 2)
    handles = subtasks.savepoint()
    shown = [
        pq.read_table(subtasks.directory / "store" / f.name) for f in handles[0].files.values() if "fresh" in f.name
    ]
    assert {key for table in shown for key in table["key"].to_pylist()} == {"both", "new"}
    assert {at for table in shown for at in table["last_access"].cast(pa.int64()).to_pylist()} == {1_000 + HOUR_MS}
    subtasks.open("heap" if kind == "rocksdb" else "rocksdb", 2, handles)
    assert read(subtasks, "old", 0)[8:] == [None, [], {}]
    assert read(subtasks, "both", 0)[8:] == [2_000, [2_000], {"entry 2": 2_000}]
    assert read(subtasks, "old", 0)[2] == [Point(1_000, 1), Point(1_000, 2)], "what has no TTL stays"
    subtasks.now_ms += HOUR_MS - 1
    assert read(subtasks, "new", 0)[8] == 2_000
    subtasks.now_ms += 1
    assert read(subtasks, "new", 0)[8:] == [None, [], {}]


def test_a_restore_reads_the_row_groups_of_its_own_key_groups_alone(
    subtasks: Subtasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(canonical, "GROUP_ROWS", 10)
    subtasks.open("heap", 1)
    values = ValueStateDescriptor[int]("count", int)
    for key in range(1_000):
        state(subtasks.of(key), values).update(key)
    (handle,) = subtasks.savepoint()
    directory = subtasks.directory / "fetched"
    run_program(subtasks.checkpoints.fetch(handle, directory), subtasks.objects)
    own = {key for key in range(1_000) if key_group(key, GROUPS) < GROUPS // 2}
    (path,) = directory.iterdir()
    data = bytearray(path.read_bytes())
    metadata = pq.read_metadata(path)
    last = metadata.row_group(metadata.num_row_groups - 1).column(0)
    at = last.dictionary_page_offset or last.data_page_offset
    data[at + 40] ^= 0xFF
    path.write_bytes(data)
    rows = dict(read_rows(handle, directory, KeyGroupRange(0, GROUPS // 2 - 1)))
    assert len(rows) == len(own)
    with pytest.raises(DamagedCheckpointError, match=r"shop/count/0-\d+\.parquet cannot be read"):
        dict(read_rows(handle, directory, KeyGroupRange(0, GROUPS - 1)))


@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing"])
def test_damage_is_told_with_the_name_of_the_file(subtasks: Subtasks, damage: str) -> None:
    subtasks.open("heap", 1)
    write(subtasks, ["a"], 1)
    handles = subtasks.savepoint()
    path = subtasks.file(handles[0], 3)
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(data[:-20])
    else:
        path.write_bytes(data[:100] + bytes([data[100] ^ 1]) + data[101:])
    with pytest.raises(DamagedCheckpointError, match=path.relative_to(subtasks.directory / "store").as_posix()):
        subtasks.open("heap", 1, handles)


def test_a_large_cell_and_a_large_key_group_are_torn_into_row_groups(
    subtasks: Subtasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(canonical, "MOST_ROWS", 20)
    subtasks.open("rocksdb", 1)
    for number in range(50):
        state(subtasks.of("a"), MAP).put(f"{number:03}", number)
        state(subtasks.of("a"), LIST).add(Point(number, 0))
        subtasks.backends[0].between_batches()
        subtasks.savepoint()
    handles = subtasks.savepoint()
    file = next(f.name for f in handles[0].files.values() if "/points/" in f.name)
    assert pq.ParquetFile(subtasks.directory / "store" / file).num_row_groups > 2
    shown = pq.read_table(subtasks.directory / "store" / file)
    assert shown["index"].to_pylist() == list(range(50))
    subtasks.open("heap", 3, handles)
    assert dict(state(subtasks.of("a"), MAP).items()) == {f"{number:03}": number for number in range(50)}
    assert [point.x for point in state(subtasks.of("a"), LIST).get()] == list(range(50))
