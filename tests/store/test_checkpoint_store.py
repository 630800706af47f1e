"""Checkpoints in the store: written whole, read only when whole, cleaned up without taking what is needed."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest

from penstock.state.errors import ConfigurationError, DamagedCheckpointError, ProtocolError
from penstock.state.ids import Attempt, CheckpointId, JobId, OperatorId, VertexId
from penstock.state.snapshots import (
    CheckpointMetadata,
    FileHandle,
    KeyedHandle,
    OperatorSnapshot,
    SplitSnapshot,
    SubtaskSnapshot,
)
from penstock.state.store.checkpoint_store import CheckpointStore, metadata_name_of_path
from penstock.state.store.objects import Delete, Get, List, Put, run_program
from penstock.state.store.obstore_objects import ObstoreObjects


@pytest.fixture(params=["memory", "directory"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> ObstoreObjects:
    return ObstoreObjects("memory://" if request.param == "memory" else tmp_path / "checkpoints")


def job(name: str = "job") -> CheckpointStore:
    numbers = itertools.count(1)
    return CheckpointStore(JobId(name), lambda: f"u{next(numbers)}")


def document(
    files: dict[str, FileHandle] | None = None, attempt: int = 1, checkpoint: int = 7, name: str = "job"
) -> CheckpointMetadata:
    operator = OperatorSnapshot(
        OperatorId("op"),
        keyed=(KeyedHandle("rocksdb", 0, 127, files or {}, b"\x00\xff"),),
        operator_state=b"\x80",
        splits=(SplitSnapshot("a.json", b"12", b"w"),),
        committables=(b"c1", b"c2"),
    )
    return CheckpointMetadata(
        job_id=name,
        job_name="flights",
        attempt=Attempt(attempt),
        checkpoint_id=CheckpointId(checkpoint),
        triggered_at_ms=1,
        completed_at_ms=2,
        parallelism={"v1": 1, "v2": 2},
        max_parallelism={"v1": 128, "v2": 128},
        subtasks=(
            SubtaskSnapshot(VertexId("v1"), 0, (operator,), 0.5),
            SubtaskSnapshot(VertexId("v2"), 1, ()),
            SubtaskSnapshot(VertexId("v2"), 0, ()),
        ),
        enumerators={"source": b"\x01"},
        pending_commits={"sink": (b"old",)},
    )


def test_files_and_metadata_come_back(objects: ObstoreObjects, tmp_path: Path) -> None:
    store = job()
    (tmp_path / "sst").write_bytes(b"rows" * 1_000)
    uploads = store.uploads(Attempt(1), CheckpointId(7))
    files = {
        "000015.sst": run_program(uploads.put_file(tmp_path / "sst", shared=True), objects),
        "MANIFEST": run_program(uploads.put_bytes(b"manifest"), objects),
    }
    assert files["000015.sst"].name == "job/shared/1-u1"
    assert files["000015.sst"].shared
    assert files["MANIFEST"].name == "job/chk-7-1/u2"
    metadata = document(files)
    name = run_program(store.write_metadata(metadata), objects)
    assert name == "job/chk-7-1/_metadata"
    assert run_program(job("another").read_metadata(name), objects) == metadata
    run_program(store.fetch(metadata.subtasks[0].operators[0].keyed[0], tmp_path / "restored"), objects)
    assert (tmp_path / "restored" / "000015.sst").read_bytes() == b"rows" * 1_000
    assert (tmp_path / "restored" / "MANIFEST").read_bytes() == b"manifest"
    assert run_program(store.fetch_bytes(files["MANIFEST"]), objects) == b"manifest"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda m: replace(m, subtasks=m.subtasks[:-1]), "subtask 0 of v2 is missing"),
        (lambda m: replace(m, subtasks=(*m.subtasks, m.subtasks[0])), "expected are"),
        (lambda m: replace(m, parallelism={"v1": 1, "v2": 2, "v3": 1}), "subtask 0 of v3 is missing"),
        (lambda m: replace(m, parallelism={"v1": 1}), "expected are"),
    ],
)
def test_incomplete_ones_are_neither_written_nor_read(objects: ObstoreObjects, change: object, why: str) -> None:
    incomplete = change(document())  # type: ignore[operator]
    with pytest.raises(ProtocolError, match=why):
        run_program(job().write_metadata(incomplete), objects)
    assert objects.execute(List("")) == []


@pytest.mark.parametrize(
    ("file", "shared"), [("job/chk-6-1/x", False), ("other/shared/1-x", True), ("job/shared/1-x", False)]
)
def test_a_file_that_would_not_live_long_enough_is_refused(objects: ObstoreObjects, file: str, shared: bool) -> None:
    with pytest.raises(ProtocolError, match=f"subtask 0 of v1 refers to {file}"):
        run_program(job().write_metadata(document({"f": FileHandle(file, 1, "", shared)})), objects)


def test_every_torn_or_altered_metadata_is_refused(objects: ObstoreObjects) -> None:
    store = job()
    name = run_program(store.write_metadata(document()), objects)
    good = objects.execute(Get(name))
    nonce = good.index(b'"nonce":"') + len(b'"nonce":"')
    flipped = [good[:i] + bytes([good[i] ^ 1]) + good[i + 1 :] for i in range(len(good)) if not 0 <= i - nonce < 2]
    for bad in (*flipped[::3], *(good[:size] for size in range(0, len(good), 7)), b"\xff", b"{}"):
        objects.execute(Put(name, bad, create_only=False))
        with pytest.raises(DamagedCheckpointError, match=name):
            run_program(store.read_metadata(name), objects)


def test_missing_foreign_and_moved_metadata(objects: ObstoreObjects) -> None:
    store = job()
    with pytest.raises(DamagedCheckpointError, match="job/chk-1-1/_metadata is missing"):
        run_program(store.read_metadata("job/chk-1-1/_metadata"), objects)
    objects.execute(Put("job/chk-1-1/_metadata", b'{"flink": true}'))
    with pytest.raises(DamagedCheckpointError, match="was not written by penstock"):
        run_program(store.read_metadata("job/chk-1-1/_metadata"), objects)
    good = objects.execute(Get(run_program(store.write_metadata(document()), objects)))
    objects.execute(Put("job/chk-8-1/_metadata", good))
    with pytest.raises(DamagedCheckpointError, match="cannot be copied or renamed"):
        run_program(store.read_metadata("job/chk-8-1/_metadata"), objects)
    later = good.replace(b'"version":3', b'"version":9')
    objects.execute(Put("job/chk-7-1/_metadata", later, create_only=False))
    with pytest.raises(DamagedCheckpointError, match="format version 9; this penstock reads a checkpoint of version 3"):
        run_program(store.read_metadata("job/chk-7-1/_metadata"), objects)


@pytest.mark.parametrize(
    ("content", "why"),
    [(None, "is missing"), (b"12345", "5 bytes, expected are 6"), (b"12345x", "checksum"), (b"1234567", "7 bytes")],
)
def test_damaged_files_are_named(objects: ObstoreObjects, tmp_path: Path, content: bytes | None, why: str) -> None:
    store = job()
    file = run_program(store.uploads(Attempt(1), CheckpointId(1)).put_bytes(b"123456"), objects)
    if content is None:
        objects.execute(Delete((file.name,)))
    else:
        objects.execute(Put(file.name, content, create_only=False))
    with pytest.raises(DamagedCheckpointError, match=f"{file.name} .*{why}"):
        run_program(store.fetch(KeyedHandle("heap", 0, 1, {"rows": file}), tmp_path / "r"), objects)
    with pytest.raises(DamagedCheckpointError, match=f"{file.name} .*{why}"):
        run_program(store.fetch_bytes(file), objects)


def test_names_that_are_not_unique_are_noticed(objects: ObstoreObjects) -> None:
    uploads = CheckpointStore(JobId("job"), lambda: "same").uploads(Attempt(1), CheckpointId(1))
    run_program(uploads.put_bytes(b"1"), objects)
    with pytest.raises(ProtocolError, match="names handed in are not unique"):
        run_program(uploads.put_bytes(b"2"), objects)


def fill(objects: ObstoreObjects) -> CheckpointMetadata:
    """One retained checkpoint of attempt 2, and what three attempts left around it. Returns its metadata."""
    needed = {
        "a": FileHandle("job/shared/1-needed", 0, "", True),
        "b": FileHandle("job/shared/2-needed", 0, "", True),
        "c": FileHandle("job/chk-5-2/own", 0, ""),
    }
    others = (
        "job/shared/1-orphan", "job/shared/2-orphan", "job/shared/3-new", "job/shared/10-newer", "job/chk-5-2/orphan",
        "job/chk-4-1/_metadata", "job/chk-6-2/aborted", "job/chk-6-3/pending", "job/chk-9-10/pending",
        "job/log/00000000000000000001", "job/beat/1", "job2/shared/1-other", "jobs/flights-1/1-job",
    )  # fmt: skip
    for name in (*others, *(file.name for file in needed.values())):
        objects.execute(Put(name, b""))
    metadata = document(needed, attempt=2, checkpoint=5)
    run_program(job().write_metadata(metadata), objects)
    return metadata


def test_a_sweep_takes_only_unreferenced_objects_of_older_attempts(objects: ObstoreObjects) -> None:
    metadata = fill(objects)
    before = set(objects.execute(List("")))
    assert run_program(job().sweep(Attempt(3), [metadata]), objects) == 5
    assert before - set(objects.execute(List(""))) == {
        "job/shared/1-orphan",
        "job/shared/2-orphan",
        "job/chk-5-2/orphan",
        "job/chk-4-1/_metadata",
        "job/chk-6-2/aborted",
    }
    assert run_program(job().sweep(Attempt(3), [metadata]), objects) == 0


def test_clearing_up_after_a_job_keeps_what_it_is_told_to(objects: ObstoreObjects) -> None:
    metadata = fill(objects)
    run_program(job().clear([metadata]), objects)
    kept = ["job/chk-5-2/_metadata", "job/chk-5-2/own", "job/log/00000000000000000001", "job/shared/1-needed"]
    rest = ["job2/shared/1-other", "jobs/flights-1/1-job"]
    assert objects.execute(List("")) == [*kept, "job/shared/2-needed", *rest]
    run_program(job().clear([]), objects)
    assert objects.execute(List("")) == ["job/log/00000000000000000001", *rest]


def test_objects_of_another_job_are_never_deleted(objects: ObstoreObjects) -> None:
    objects.execute(Put("job2/shared/1-a", b""))
    objects.execute(Put("job/shared/1-a", b""))
    run_program(job().delete(["job2/shared/1-a", "job/shared/1-a"]), objects)
    assert objects.execute(List("")) == ["job2/shared/1-a"]


@pytest.mark.parametrize(
    "path",
    [
        "/data/checkpoints/job/chk-7-1",
        "/data/checkpoints/job/chk-7-1/",
        "/data/checkpoints/job/chk-7-1/_metadata",
        "file:///data/checkpoints/job/chk-7-1",
        "job/chk-7-1",
        "./job/chk-7-1/_metadata",
    ],
)
@pytest.mark.parametrize("root", ["/data/checkpoints", "/data/checkpoints/", "file:///data/checkpoints"])
def test_paths_of_a_checkpoint(path: str, root: str) -> None:
    assert metadata_name_of_path(path, root) == "job/chk-7-1/_metadata"


def test_relative_roots_and_urls() -> None:
    assert metadata_name_of_path(".penstock/job/chk-7-1", ".penstock") == "job/chk-7-1/_metadata"
    assert metadata_name_of_path("s3://b/c/job/chk-7-1", "s3://b/c") == "job/chk-7-1/_metadata"
    here = Path.cwd() / ".penstock" / "job" / "chk-7-1"
    assert metadata_name_of_path(str(here), ".penstock") == "job/chk-7-1/_metadata"


@pytest.mark.parametrize("path", ["/data/checkpoints/job", "/other/job/chk-7-1", "chk-7-1", "job/shared/1-a", "newest"])
def test_paths_of_something_else(path: str) -> None:
    with pytest.raises(
        ConfigurationError, match=f"{path} is neither a savepoint nor a checkpoint of the checkpoint directory"
    ):
        metadata_name_of_path(path, "/data/checkpoints")
