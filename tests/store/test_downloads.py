"""Downloads in parts: the bytes, what is asked of the store at once, what is tried again, and what damage is named."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest

from penstock.state.errors import DamagedCheckpointError, ObjectStoreDenied, ObjectStoreUnavailable
from penstock.state.snapshots import FileHandle, KeyedHandle
from penstock.state.store import downloads as module
from penstock.state.store.downloads import PARTS_PER_ROUND, Downloads, RestoredBytes, checksum_of
from penstock.state.store.objects import (
    DEFAULT_BUDGET,
    OPS_AT_ONCE,
    Delete,
    GetPart,
    GetRange,
    ObjectStore,
    Pause,
    Put,
    StoreOp,
    Together,
    carry_out,
    run_program,
)
from penstock.state.store.obstore_objects import ObstoreObjects

PART = 1_000


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PART_BYTES", PART)


class Watched:
    """A store that remembers what it was asked, and does what a test says before."""

    def __init__(self, before: Any = lambda op: None) -> None:
        self.inner = ObstoreObjects("memory://")
        self.before = before
        self.asked: list[StoreOp] = []

    def execute(self, op: StoreOp) -> Any:
        self.asked.append(op)
        if isinstance(op, Pause):
            return None
        self.before(op)
        return self.inner.execute(op)


def stored(store: ObjectStore, name: str, content: bytes) -> FileHandle:
    store.execute(Put(name, content))
    return FileHandle(name, len(content), checksum_of(content))


def fetch(store: ObjectStore, files: dict[str, FileHandle], directory: Path) -> Downloads:
    downloads = Downloads()
    downloads.expect(files.values())
    run_program(downloads.fetch([(KeyedHandle("heap", 0, 127, files), directory)]), store)
    return downloads


@pytest.mark.parametrize("size", [0, 1, PART - 1, PART, PART + 1, 40 * PART + 7])
def test_a_file_comes_whole_whatever_its_size(size: int, tmp_path: Path) -> None:
    store, content = Watched(), os.urandom(size)
    downloads = fetch(store, {"a/file": stored(store.inner, "job/1", content)}, tmp_path / "new")
    assert (tmp_path / "new" / "a" / "file").read_bytes() == content
    assert downloads.so_far == RestoredBytes(total=size, stored=size)
    parts = [op for op in store.asked if isinstance(op, GetPart)]
    assert len(parts) == max(1, -(-size // PART))
    assert all(op.length <= PART for op in parts)


def test_files_and_parts_of_packs_come_together(tmp_path: Path) -> None:
    store = Watched()
    pack = os.urandom(300)
    stored(store.inner, "job/pack", pack)
    files = {f"{n}.sst": stored(store.inner, f"job/{n}", os.urandom(3 * PART)) for n in range(3)}
    for n in range(3):
        content = pack[100 * n : 100 * n + 100]
        files[f"{n}.small"] = FileHandle("job/pack", 100, checksum_of(content), False, 100 * n)
    fetch(store, files, tmp_path)
    assert {path.name: checksum_of(path.read_bytes()) for path in tmp_path.iterdir()} == {
        name: file.checksum for name, file in files.items()
    }
    assert sum(isinstance(op, GetRange) for op in store.asked) == 1


def test_a_file_that_several_want_is_downloaded_once(tmp_path: Path) -> None:
    store = Watched()
    file = stored(store.inner, "job/1", os.urandom(PART))
    handles = [(KeyedHandle("rocksdb", n, n, {"1.sst": file}), tmp_path / str(n)) for n in range(3)]
    run_program(Downloads().fetch(handles), store)
    assert len({(tmp_path / str(n) / "1.sst").stat().st_ino for n in range(3)}) == 1
    assert len(store.asked) == 1


def test_several_parts_are_asked_for_at_once(tmp_path: Path) -> None:
    at_once = threading.Barrier(OPS_AT_ONCE)
    store = Watched(lambda op: at_once.wait(30) if isinstance(op, GetPart) else None)
    fetch(store, {"file": stored(store.inner, "job/1", bytes(2 * OPS_AT_ONCE * PART))}, tmp_path)
    assert (tmp_path / "file").stat().st_size == 2 * OPS_AT_ONCE * PART


def test_only_the_parts_that_fail_are_tried_again(tmp_path: Path) -> None:
    failing = {0: 2, 3 * PART: 1}

    def before(op: StoreOp) -> None:
        if isinstance(op, GetPart) and failing.get(op.offset, 0):
            failing[op.offset] -= 1
            raise ObjectStoreUnavailable("no answer")

    store, content = Watched(before), os.urandom(5 * PART)
    fetch(store, {"file": stored(store.inner, "job/1", content)}, tmp_path)
    assert (tmp_path / "file").read_bytes() == content
    asked = [op.offset for op in store.asked if isinstance(op, GetPart)]
    assert [asked.count(n * PART) for n in range(5)] == [3, 1, 1, 2, 1]
    assert [op.duration_ms for op in store.asked if isinstance(op, Pause)] == [100, 200]


@pytest.mark.parametrize("error", [ObjectStoreUnavailable("no answer"), ObjectStoreDenied("not allowed")])
def test_a_store_that_stays_away_or_refuses_ends_the_restore(error: Exception, tmp_path: Path) -> None:
    def before(op: StoreOp) -> None:
        if isinstance(op, GetPart):
            raise error

    store = Watched(before)
    file = stored(store.inner, "job/1", bytes(2 * PART))
    with pytest.raises(type(error), match=str(error)):
        fetch(store, {"file": file}, tmp_path)
    tries = sum(isinstance(op, GetPart) for op in store.asked) / 2
    assert tries == (DEFAULT_BUDGET.tries if isinstance(error, ObjectStoreUnavailable) else 1)


@pytest.mark.parametrize("size", [PART // 2, 3 * PART - 1])
def test_damage_is_named(size: int, tmp_path: Path) -> None:
    store, content = ObstoreObjects("memory://"), os.urandom(size)
    file = stored(store, "job/shared/1-a", content)
    store.execute(Put(file.name, content[:-1], create_only=False))
    with pytest.raises(DamagedCheckpointError, match=rf"^job/shared/1-a is damaged: it has {size - 1} bytes, expected"):
        fetch(store, {"file": file}, tmp_path / "cut")
    store.execute(Put(file.name, content[:-1] + bytes([content[-1] ^ 1]), create_only=False))
    with pytest.raises(DamagedCheckpointError, match=r"^job/shared/1-a is damaged: its checksum does not fit"):
        fetch(store, {"file": file}, tmp_path / "flipped")
    store.execute(Put(file.name, b"", create_only=False))
    with pytest.raises(DamagedCheckpointError, match=r"^job/shared/1-a is damaged: it has 0 bytes"):
        fetch(store, {"file": file}, tmp_path / "empty")
    store.execute(Delete((file.name,)))
    with pytest.raises(DamagedCheckpointError, match=r"^job/shared/1-a is missing"):
        fetch(store, {"file": file}, tmp_path / "missing")


def test_progress_is_told_round_by_round(tmp_path: Path) -> None:
    store = ObstoreObjects("memory://")
    file = stored(store, "job/1", bytes(3 * PARTS_PER_ROUND * PART))
    downloads = Downloads()
    downloads.expect([file, file])
    program, told = downloads.fetch([(KeyedHandle("heap", 0, 1, {"file": file}), tmp_path)]), []
    step: Any = next(program)
    try:
        while True:
            told.append(downloads.so_far.done)
            step = program.send(carry_out(step, store))
    except StopIteration:
        told.append(downloads.so_far.done)
    assert told == [n * PARTS_PER_ROUND * PART for n in range(4)]
    assert downloads.so_far.total == file.size_bytes


# several ops as one step


def test_ops_of_a_step_answer_in_their_order_and_errors_are_answers() -> None:
    store = ObstoreObjects("memory://")
    for number in range(100):
        store.execute(Put(f"a/{number}", bytes([number])))
    ops = tuple(GetRange(f"a/{number}", 0, 1) for number in range(100))
    answers = carry_out(Together((*ops, GetRange("a/missing", 0, 1))), store)
    assert answers[:-1] == [bytes([number]) for number in range(100)]
    assert "a/missing" in str(answers[-1])


def test_what_nobody_waits_for_is_not_begun() -> None:
    stopped = threading.Event()
    store = Watched(lambda _op: stopped.set())
    carry_out(Together((GetRange("a", 0, 1),) * 100), store, stopped.is_set)
    assert 1 <= len(store.asked) <= OPS_AT_ONCE


def test_a_thread_that_dies_of_compiled_code_gives_no_answer() -> None:
    class Panic(BaseException):
        pass

    own, dead, hook = threading.current_thread(), threading.Event(), threading.excepthook

    def before(_op: StoreOp) -> None:
        if threading.current_thread() is own:
            dead.wait(30)
        else:
            dead.set()
            raise Panic

    store = Watched(before)
    store.inner.execute(Put("a", b"1"))
    threading.excepthook = lambda _: None
    try:
        answers = carry_out(Together((GetRange("a", 0, 1),) * 20), store)
    finally:
        threading.excepthook = hook
    lost = [answer for answer in answers if isinstance(answer, ObjectStoreUnavailable)]
    assert 1 <= len(lost) < OPS_AT_ONCE
    assert answers.count(b"1") == 20 - len(lost)
