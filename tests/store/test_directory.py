"""What only a local directory can do wrong: it is not there, not writable, full, or not durable."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.state.errors import ConfigurationError, ObjectStoreDenied, ObjectStoreUnavailable
from penstock.state.store.objects import Delete, Get, Put, PutFile
from penstock.state.store.obstore_objects import ObstoreObjects


def mount(*arguments: str) -> None:
    """Skips where tests may not mount."""
    if subprocess.run(["mount", *arguments], capture_output=True).returncode != 0:
        pytest.skip("needs the right to mount")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount("-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk))
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount("-t", "tmpfs", "-o", "ro", "tmpfs", str(disk))
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_the_directory_is_made(tmp_path: Path) -> None:
    ObstoreObjects(tmp_path / "a" / "b").probe()
    assert list((tmp_path / "a" / "b").iterdir()) == [], "the probe leaves nothing"


def test_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match=r"file/checkpoints cannot be used: not a directory"):
        ObstoreObjects(tmp_path / "file" / "checkpoints")


def test_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match=r"file cannot be used"):
        ObstoreObjects(tmp_path / "file")


def test_where_nobody_may_write() -> None:
    with pytest.raises(ConfigurationError, match=r"/proc/checkpoints cannot be used"):
        ObstoreObjects("/proc/checkpoints")


def test_an_existing_directory_that_cannot_be_written() -> None:
    with pytest.raises(ConfigurationError, match=r"/proc/self cannot be used"):
        ObstoreObjects("/proc/self").probe()


def test_read_only(read_only: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"disk cannot be used: .*read-only file system"):
        ObstoreObjects(read_only).probe()
    with pytest.raises(ObjectStoreDenied, match="read-only"):
        ObstoreObjects(read_only).execute(Put("a/b", b""))


def test_a_full_disk_may_have_room_later(small_disk: Path) -> None:
    store = ObstoreObjects(small_disk)
    store.probe()
    with pytest.raises(ObjectStoreUnavailable, match="no space left"):
        store.execute(Put("job/chk-1-1/a", bytes(200_000)))
    store.execute(Put("job/log/1", b"small"))
    assert store.execute(Get("job/log/1")) == b"small"


def test_a_url_that_cannot_be_opened() -> None:
    with pytest.raises(ConfigurationError, match="nowhere://x cannot be opened"):
        ObstoreObjects("nowhere://x")


def test_an_object_and_all_directories_above_it_are_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def watch(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watch)
    store = ObstoreObjects(tmp_path)
    store.execute(Put("job/log/1", b"entry"))
    assert synced == [f"{tmp_path}/job/log/1", f"{tmp_path}/job/log", f"{tmp_path}/job", str(tmp_path)]
    synced.clear()
    (tmp_path / "sst").write_bytes(b"data")
    store.execute(PutFile("job/shared/1-a", tmp_path / "sst"))
    assert synced[0] == f"{tmp_path}/job/shared/1-a"
    synced.clear()
    store.execute(Put("job/beat/1", b"1", create_only=False))
    assert synced == [], "a beat is a hint"


def test_empty_directories_do_not_pile_up(tmp_path: Path) -> None:
    store = ObstoreObjects(tmp_path)
    for number in range(3):
        store.execute(Put(f"job/chk-{number}-1/_metadata", b""))
    store.execute(Delete(("job/chk-0-1/_metadata", "job/chk-1-1/_metadata")))
    assert [p.name for p in (tmp_path / "job").iterdir()] == ["chk-2-1"]


RACER = """
import sys
from penstock.state.store.objects import create_once, run_program
from penstock.state.store.obstore_objects import ObstoreObjects
root, name = sys.argv[1:]
store, won = ObstoreObjects(root), []
sys.stdin.readline()
for seq in range(60):
    data = f"{name}-{seq}".encode()
    if run_program(create_once(f"job/log/{seq:020}", data), store) == data:
        won.append(seq)
print(*won)
"""


def test_processes_that_race_for_every_name(tmp_path: Path) -> None:
    command = [sys.executable, "-c", RACER, str(tmp_path)]
    racers = [
        subprocess.Popen([*command, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for name in "abc"
    ]
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    won = [[int(seq) for seq in racer.communicate()[0].split()] for racer in racers]
    assert sorted(seq for seqs in won for seq in seqs) == list(range(60)), "each name has one winner"
    store = ObstoreObjects(tmp_path)
    for name, seqs in zip("abc", won, strict=True):
        for seq in seqs:
            assert store.execute(Get(f"job/log/{seq:020}")) == f"{name}-{seq}".encode()
