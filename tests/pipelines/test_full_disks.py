"""Disks that are full for a while, under a job that runs: that of its state, of savepoints, of checkpoints.

Whatever fails says which disk, and what to do; when there is room the job goes on, and its output is exact."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import penstock as ps
from penstock.connectors.files import FileSink
from penstock.connectors.formats import Json
from penstock.jobmanager.events import JobState
from penstock.jobmanager.views import OperationState

NUMBERS = 2_000
BLOB = "x" * 2_000


class Disk:
    """A small one, and a file that takes all of its room."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._ballast = directory / "ballast"

    def fill(self) -> None:
        with self._ballast.open("wb", buffering=0) as file:
            for size in (1 << 16, 1 << 12, 1):
                try:
                    while True:
                        file.write(bytes(size))
                except OSError:
                    continue

    def make_room(self) -> None:
        self._ballast.unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    directory = tmp_path / "disk"
    directory.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(directory)], capture_output=True, text=True
    )
    if mounted.returncode != 0:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"needs the right to mount: {mounted.stderr}")
    yield Disk(directory)
    subprocess.run(["umount", "--lazy", str(directory)], check=True)


class Counting(ps.KeyedProcessFunction):
    def open(self, runtime_context: ps.RuntimeContext) -> None:
        self.seen = runtime_context.get_state(ps.ValueStateDescriptor("seen", str, ""))

    def process_element(self, number: int, ctx: Any) -> Iterator[dict[str, int]]:
        seen = int(self.seen.value()[len(BLOB) :] or "0") + 1
        self.seen.update(f"{BLOB}{seen}")
        yield {"key": number % 50, "seen": seen}


@pytest.fixture
def build(new_env: Any, held_source: Any, tmp_path: Path) -> Any:
    def build_one(backend: str, **options: str) -> ps.StreamExecutionEnvironment:
        env: ps.StreamExecutionEnvironment = new_env(2)
        env.enable_checkpointing("50ms").set_restart_strategy("fixed-delay", attempts=1_000_000, delay="50ms")
        env.configure(ps.Configuration({key.replace("__", "."): value for key, value in options.items()}))
        env.set_state_backend(backend)
        source = held_source(
            list(range(NUMBERS)), tmp_path / "gate", 400, splits=4, batch_rows=50, pause_ms=2, record_type=int
        )
        numbers = env.from_source(source, name="numbers", uid="numbers")
        counted = numbers.key_by(lambda number: number % 50).process(Counting(), name="counting").uid("counting")
        counted.sink_to(FileSink(str(tmp_path / "out"), Json())).uid("files")
        return env

    return build_one


def finish(job: Any, tmp_path: Path) -> None:
    (tmp_path / "gate").touch()
    assert job.end().state is JobState.FINISHED
    rows = Counter(line for path in (tmp_path / "out").glob("part-*") for line in path.read_text().splitlines())
    each = NUMBERS // 50
    assert rows == Counter(f'{{"key":{key},"seen":{n}}}' for key in range(50) for n in range(1, each + 1))


def test_that_of_state(build: Any, drive: Any, disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """RocksDB can neither flush nor write: checkpoints fail, then the attempt; restores fail until there is room."""
    monkeypatch.setattr(tempfile, "tempdir", str(disk.directory))
    job = drive(build("rocksdb")).checkpoints(2)
    disk.fill()
    job.kill()
    told: set[str] = set()

    def enough(status: Any) -> bool:
        told.add(status.last_failure or "")
        return bool(status.restarts >= 4)

    job.until(enough)
    assert any(
        "operator 'counting'" in each and f"the disk of {disk.directory}" in each and "make room" in each
        for each in told
    ), told
    disk.make_room()
    job.checkpoints(2)
    finish(job, tmp_path)


def test_that_of_state_while_a_checkpoint_is_taken(
    build: Any, drive: Any, disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It fails, and what RocksDB is given next fails the attempt; which is seen first is open."""
    monkeypatch.setattr(tempfile, "tempdir", str(disk.directory))
    job = drive(build("rocksdb")).checkpoints(2)
    failed = job.status.checkpoints.failed
    disk.fill()
    (tmp_path / "gate").touch()
    job.until(lambda status: status.checkpoints.failed > failed or status.restarts > 0)
    status = job.status
    told = f"{status.checkpoints.last_failure}, {status.last_failure}"
    assert "operator 'counting': its state cannot be written by RocksDB: the disk of" in told, told
    disk.make_room()
    finish(job, tmp_path)


def test_that_of_savepoints(build: Any, drive: Any, disk: Disk, tmp_path: Path) -> None:
    job = drive(build("rocksdb")).checkpoints(1)
    disk.fill()
    failed = savepoint(job, disk.directory / "savepoints")
    assert failed.state is OperationState.FAILED
    assert f"{disk.directory}/savepoints" in failed.failure
    assert "no space left on device, make room there" in failed.failure
    disk.make_room()
    job.until(lambda _status: not list(disk.directory.rglob("*.parquet")))
    assert savepoint(job, disk.directory / "savepoints").state is OperationState.COMPLETED
    finish(job, tmp_path)


def test_that_of_a_savepoint_s_files_before_they_are_uploaded(
    build: Any, drive: Any, disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """(Nothing else is on that disk, which could be removed and make room.)"""
    monkeypatch.setattr(tempfile, "tempdir", str(disk.directory))
    env = build("heap").configure(ps.Configuration({"execution.state-recovery.from-local": "false"}))
    job = drive(env).checkpoints(1)
    disk.fill()
    failed = savepoint(job, tmp_path / "savepoints")
    assert failed.state is OperationState.FAILED
    assert f"the savepoint's file of state 'seen' cannot be written: the disk of {disk.directory}" in failed.failure
    disk.make_room()
    assert savepoint(job, tmp_path / "savepoints").state is OperationState.COMPLETED
    finish(job, tmp_path)


def test_that_of_checkpoints(build: Any, drive: Any, disk: Disk, tmp_path: Path) -> None:
    """It is filled while none is under way: one that is on its way into the log would wait there, and count."""
    env = build("rocksdb", state__checkpoints__dir=str(disk.directory))
    job = drive(env.enable_checkpointing("500ms")).checkpoints(1)
    before = job.status
    disk.fill()
    job.until(lambda status: status.checkpoints.failed > before.checkpoints.failed)
    told = job.status.checkpoints.last_failure
    assert str(disk.directory) in told, told
    assert "no space left on device, make room there" in told, told
    disk.make_room()
    job.checkpoints(2)
    assert job.status.restarts == before.restarts
    finish(job, tmp_path)


def savepoint(job: Any, target: Path) -> Any:
    """What becomes of it."""
    request = job.job.savepoint(str(target))
    job.job.run(lambda: (found := job.job.operation(request)) is not None and found.ended)
    return job.job.operation(request)
