"""Copies of state on the machine: what is kept, until when, and that nothing depends on them."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest

from penstock.state.errors import DamagedCheckpointError
from penstock.state.ids import Attempt, CheckpointId, JobId
from penstock.state.snapshots import FileHandle, KeyedHandle
from penstock.state.store.checkpoint_store import CheckpointStore
from penstock.state.store.counted_objects import CountedObjects
from penstock.state.store.downloads import Downloads
from penstock.state.store.local_copies import LEFT_MS, LOOK_MS, LeftCopies, LocalCopies
from penstock.state.store.objects import Delete, Put, run_program
from penstock.state.store.obstore_objects import ObstoreObjects
from penstock.state.store.packing import SMALL_BYTES, SubtaskUploads

JOB = JobId("job")
ONE, TWO, THREE = CheckpointId(1), CheckpointId(2), CheckpointId(3)


class Slot:
    """Uploads and restores of one slot of a node."""

    def __init__(self, objects: CountedObjects, node: Path, name: str) -> None:
        numbers = itertools.count(1)
        self.objects, self.node = objects, node
        self.copies = LocalCopies(node / "local", JOB, name)
        store = CheckpointStore(JOB, lambda: f"{name}-{next(numbers)}")
        self.uploads = SubtaskUploads(lambda checkpoint: store.uploads(Attempt(1), checkpoint, self.copies))
        self.restores = itertools.count(1)

    def upload(self, content: bytes, checkpoint: CheckpointId = ONE) -> FileHandle:
        """A file of this content; it is gone afterwards, as a database's is that was compacted."""
        path = self.node / "uploaded"
        path.write_bytes(content)
        handle = run_program(self.uploads.of(checkpoint).put_file(path, shared=True), self.objects)
        run_program(self.uploads.finish(checkpoint), self.objects)
        self.uploads.forget(checkpoint)
        path.unlink()
        return handle

    def restore(self, *files: FileHandle) -> tuple[list[bytes], Downloads]:
        handle = KeyedHandle("rocksdb", 0, 127, {str(number): file for number, file in enumerate(files)})
        downloads = Downloads(self.copies, ONE)
        downloads.expect(handle.files.values())
        target = self.node / f"restore-{next(self.restores)}-{id(self)}"
        run_program(downloads.fetch([(handle, target)]), self.objects)
        return [(target / name).read_bytes() for name in handle.files], downloads

    def kept(self) -> list[str]:
        return sorted(path.name for path in (self.node / "local").rglob("*") if path.is_file())


@pytest.fixture
def objects() -> CountedObjects:
    return CountedObjects(ObstoreObjects("memory://"))


@pytest.fixture
def slot(objects: CountedObjects, tmp_path: Path) -> Slot:
    return Slot(objects, tmp_path, "a")


LARGE = bytes(range(256)) * (SMALL_BYTES // 128)


@pytest.mark.parametrize("content", [LARGE, b"small"], ids=["a file", "in a pack"])
def test_a_restore_asks_the_store_for_nothing(slot: Slot, content: bytes) -> None:
    file = slot.upload(content)
    found, downloads = slot.restore(file)
    assert found == [content]
    assert (downloads.so_far.local, downloads.so_far.stored, downloads.so_far.total) == (len(content), 0, len(content))
    assert run_program(downloads.fetch_bytes(file), slot.objects) == content
    assert {op for op in slot.objects.counts().requests if op.startswith("get")} == set()


def test_a_file_is_linked_and_not_copied(slot: Slot, tmp_path: Path) -> None:
    path = tmp_path / "table"
    path.write_bytes(LARGE)
    run_program(slot.uploads.of(ONE).put_file(path, shared=True), slot.objects)
    slot.uploads.forget(ONE)
    assert path.stat().st_nlink == 2


def test_another_slot_of_the_node_restores_and_keeps_what_was_left(slot: Slot, tmp_path: Path) -> None:
    file, other = slot.upload(LARGE), Slot(slot.objects, tmp_path, "b")
    found, downloads = other.restore(file)
    assert found == [LARGE]
    assert downloads.so_far.local == len(LARGE)
    left = LeftCopies(tmp_path / "local")
    left.tick(["b"], 0)
    left.tick(["b"], LEFT_MS)
    assert len(other.kept()) == 1, "those of the other slot are gone, its own are not"
    assert other.restore(file)[1].so_far.local == len(LARGE)


def test_what_is_downloaded_is_kept_for_the_next_restore(slot: Slot, objects: CountedObjects, tmp_path: Path) -> None:
    file = slot.upload(LARGE)
    (tmp_path / "elsewhere").mkdir()
    other = Slot(objects, tmp_path / "elsewhere", "b")
    first, again = other.restore(file)[1].so_far, other.restore(file)[1].so_far
    assert (first.stored, first.local) == (len(LARGE), 0)
    assert (again.stored, again.local) == (0, len(LARGE))


def test_what_only_older_checkpoints_refer_to_goes_with_a_completed_one(slot: Slot) -> None:
    old, used, later = slot.upload(LARGE), slot.upload(LARGE, TWO), slot.upload(LARGE, THREE)
    slot.copies.needed([used.name], TWO)
    slot.copies.completed(TWO)
    assert slot.restore(used, later)[1].so_far.local == 2 * len(LARGE)
    assert slot.restore(old)[1].so_far.stored == len(LARGE)
    slot.copies.needed([used.name], THREE)
    slot.copies.completed(THREE)
    assert slot.restore(used, later)[1].so_far.local == 2 * len(LARGE), "a later one refers to it as well"


@pytest.mark.parametrize("damage", ["flipped", "cut", "removed"])
@pytest.mark.parametrize("content", [LARGE, b"small content"], ids=["a file", "in a pack"])
def test_a_damaged_copy_is_no_failure(slot: Slot, content: bytes, damage: str, tmp_path: Path) -> None:
    file = slot.upload(content)
    (copy,) = [path for path in (tmp_path / "local").rglob("*") if path.is_file()]
    if damage == "removed":
        copy.unlink()
    else:
        kept = content[:-1] if damage == "cut" else b"?" + content[1:]
        copy.write_bytes(kept)
    found, downloads = slot.restore(file)
    assert found == [content]
    assert (downloads.so_far.local, downloads.so_far.stored) == (0, len(content))
    assert slot.restore(file)[1].so_far.local == len(content) * (file.offset is None), "a sound copy took its place"


def test_a_damaged_copy_of_an_object_that_is_gone_is_damage_of_the_object(slot: Slot, tmp_path: Path) -> None:
    file = slot.upload(LARGE)
    slot.objects.execute(Delete((file.name,)))
    assert slot.restore(file)[0] == [LARGE], "the copy is as good"
    for copy in (tmp_path / "local").rglob("*"):
        if copy.is_file():
            copy.write_bytes(b"?" + LARGE[1:])
    with pytest.raises(DamagedCheckpointError, match=f"{file.name} is missing"):
        slot.restore(file)


def test_a_copy_that_cannot_be_read_is_not_written_into(
    slot: Slot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file that was linked may be the one of a database that runs."""
    database = tmp_path / "table"
    database.write_bytes(LARGE)
    file = run_program(slot.uploads.of(ONE).put_file(database, shared=True), slot.objects)
    slot.objects.execute(Put(file.name, bytes(len(LARGE)), create_only=False))

    def unreadable(path: Path) -> tuple[int, str]:
        monkeypatch.undo()
        raise OSError(5, os.strerror(5))

    monkeypatch.setattr("penstock.state.store.downloads.measure", unreadable)
    with pytest.raises(DamagedCheckpointError, match="its checksum does not fit"):
        slot.restore(file)
    assert database.read_bytes() == LARGE


def test_names_of_savepoints_are_no_files_here(slot: Slot) -> None:
    slot.upload(b"small")
    assert list(slot.copies.find(f"s3://bucket/{'long/' * 100}savepoint-1234-abc/{'x' * 300}")) == []


def test_without_room_for_copies_everything_goes_on(
    slot: Slot, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "local").write_text("no directory can be here")
    files = [slot.upload(LARGE), slot.upload(b"small")]
    assert slot.restore(*files)[0] == [LARGE, b"small"]
    (warning,) = caplog.messages
    assert warning.startswith(f"no local copies of state are kept in {tmp_path}/local/job/a: ")


def test_a_copy_that_cannot_be_written_leaves_nothing(slot: Slot, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, target: Path) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(Path, "replace", full)
    slot.upload(b"small")
    assert slot.kept() == []


def test_files_of_other_jobs_are_not_kept(objects: CountedObjects, tmp_path: Path) -> None:
    copies = LocalCopies(tmp_path, JobId("another"), "a")
    copies.write("job/shared/1-a", b"1", ONE)
    assert list(tmp_path.rglob("*")) == []


def test_copies_of_slots_that_are_gone_stay_for_a_while(tmp_path: Path) -> None:
    for owner in ("a", "b"):
        LocalCopies(tmp_path, JOB, owner).write("job/shared/1-x", b"1", ONE)
    left = LeftCopies(tmp_path)
    left.tick(["a", "b"], 0)
    left.tick(["b"], 5_000)
    left.tick(["b"], 5_000 + LEFT_MS - LOOK_MS)
    assert sorted(path.name for path in (tmp_path / JOB).iterdir()) == ["a", "b"]
    left.tick(["b"], 5_000 + LEFT_MS)
    assert sorted(path.name for path in (tmp_path / JOB).iterdir()) == ["b"]
    left.tick([], 5_000 + 2 * LEFT_MS)
    left.tick(["b"], 5_000 + 4 * LEFT_MS)
    assert (tmp_path / JOB / "b").is_dir(), "it was found again"


def test_copies_go_with_the_last_slot_that_the_job_gives_back(tmp_path: Path) -> None:
    for job in ("job", "other"):
        LocalCopies(tmp_path, JobId(job), "a").write(f"{job}/shared/1-x", b"1", ONE)
    left = LeftCopies(tmp_path)
    left.job_is_gone(JOB, 0)
    left.tick([], 0)
    assert (tmp_path / "job").is_dir(), "its process may be about to end"
    left.tick([], LOOK_MS)
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_copies_go_with_their_job_even_if_its_process_ends_slowly(tmp_path: Path) -> None:
    LocalCopies(tmp_path, JOB, "a").write("job/shared/1-x", b"1", ONE)
    left = LeftCopies(tmp_path)
    left.job_is_gone(JOB, 0)
    left.tick(["a"], 0)
    left.tick(["a"], 5 * LOOK_MS)
    assert (tmp_path / JOB / "a").is_dir()
    left.tick([], 6 * LOOK_MS)
    assert list(tmp_path.iterdir()) == []
