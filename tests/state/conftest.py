"""A rig that opens, snapshots and restores row backends over an object store in a dict."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import pytest

from penstock.state.backend import KeyedStateBackend
from penstock.state.backend_factory import create_keyed_backend
from penstock.state.errors import (
    ObjectStoreUnavailable,
)
from penstock.state.ids import CheckpointId
from penstock.state.key_groups import KeyGroupRange
from penstock.state.rows.keyed_backend import BackendOptions
from penstock.state.rows.row_store import Uploads
from penstock.state.snapshots import FileHandle, KeyedHandle
from penstock.state.store.objects import Program

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
        self.now_ms = 1_000

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
            now_ms=lambda: self.now_ms,
            restored=[self.store.fetch(handle) for handle in handles],
            options=options or BackendOptions(block_cache_bytes=8 << 20, write_buffer_bytes=8 << 20),
        )
        self._opened.append(backend)
        return backend

    def close(self) -> None:
        for backend in self._opened:
            backend.close()

    @staticmethod
    def finish(program: Program[Handles]) -> Handles:
        try:
            while True:
                next(program)
        except StopIteration as stop:
            handles: Handles = stop.value
            return handles

    def snapshot(self, backend: KeyedStateBackend, checkpoint_id: int = 1) -> Handles:
        return self.finish(backend.snapshot(checkpoint_id))


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


@pytest.fixture
def new_rig() -> Callable[[Kind, Path], Rig]:
    """For tests that need many."""
    return Rig
