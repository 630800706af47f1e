"""Small files in packs: few objects, the same bytes back, and whatever is wrong with a pack is named."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import xxhash

from penstock.state.errors import DamagedCheckpointError, ObjectStoreUnavailable
from penstock.state.ids import Attempt, CheckpointId, JobId, OperatorId, VertexId
from penstock.state.snapshots import (
    METADATA_VERSION,
    CheckpointMetadata,
    FileHandle,
    KeyedHandle,
    OperatorSnapshot,
    SubtaskSnapshot,
)
from penstock.state.store import packing
from penstock.state.store.checkpoint_store import CheckpointStore
from penstock.state.store.counted_objects import CountedObjects
from penstock.state.store.objects import Delete, Get, List, Put, StoreOp, run_program
from penstock.state.store.obstore_objects import ObstoreObjects
from penstock.state.store.packing import SubtaskUploads
from penstock.state.store.retained_checkpoints import RetainedCheckpoints
from penstock.state.store.stretches import GAP_BYTES, Stretch, stretches

ONE = CheckpointId(1)


@pytest.fixture(params=["memory", "directory", "s3"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> CountedObjects:
    if request.param == "s3":
        options = request.getfixturevalue("s3_server").options
        return CountedObjects(ObstoreObjects(request.getfixturevalue("s3_location"), options))
    return CountedObjects(ObstoreObjects("memory://" if request.param == "memory" else tmp_path / "checkpoints"))


@pytest.fixture
def store() -> CheckpointStore:
    numbers = itertools.count(1)
    return CheckpointStore(JobId("job"), lambda: f"u{next(numbers)}")


@pytest.fixture
def uploads(store: CheckpointStore) -> SubtaskUploads:
    return SubtaskUploads(lambda checkpoint: store.uploads(Attempt(1), checkpoint))


def keyed(files: dict[str, FileHandle]) -> KeyedHandle:
    return KeyedHandle("rocksdb", 0, 127, files)


def checkpoint(files: dict[str, FileHandle], number: int = 1) -> CheckpointMetadata:
    subtask = SubtaskSnapshot(VertexId("v"), 0, (OperatorSnapshot(OperatorId("op"), (keyed(files),)),))
    return CheckpointMetadata(
        "job", "name", Attempt(1), CheckpointId(number), 0, 0, {"v": 1}, {"v": 128}, (subtask,)
    )  # fmt: skip


def test_many_files_are_one_object_and_come_back(
    objects: CountedObjects, store: CheckpointStore, uploads: SubtaskUploads, tmp_path: Path
) -> None:
    contents = {f"{number:06}.sst": os.urandom(number * 100) for number in range(40)}
    files = {}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        files[name] = run_program(uploads.of(ONE).put_file(tmp_path / name, shared=True), objects)
    files["meta"] = run_program(uploads.of(ONE).put_bytes(b"manifest"), objects)
    assert objects.counts().requests == {}, "nothing goes before the pack is full, or finished"
    run_program(uploads.finish(ONE), objects)
    assert objects.counts().requests == {"put": {"ok": 1}}
    assert objects.execute(List("job/")) == ["job/shared/1-u1"]
    assert all(file.shared for file in files.values()), "what is in a shared object lives as long as it"
    name = run_program(store.write_metadata(checkpoint(files)), objects)
    handle = run_program(store.read_metadata(name), objects).subtasks[0].operators[0].keyed[0]
    run_program(store.fetch(handle, tmp_path / "restored"), objects)
    assert {path.name: path.read_bytes() for path in (tmp_path / "restored").iterdir()} == {
        **contents, "meta": b"manifest"
    }  # fmt: skip
    assert objects.counts().requests["get_range"]["ok"] == 1, "files that lie side by side come together"
    assert run_program(store.fetch_bytes(files["000007.sst"]), objects) == contents["000007.sst"]


def test_large_files_are_objects_of_their_own(
    objects: CountedObjects, store: CheckpointStore, uploads: SubtaskUploads, tmp_path: Path
) -> None:
    (tmp_path / "large").write_bytes(bytes(packing.SMALL_BYTES))
    file = run_program(uploads.of(ONE).put_file(tmp_path / "large", shared=True), objects)
    data = run_program(uploads.of(ONE).put_bytes(bytes(packing.SMALL_BYTES)), objects)
    assert (file.offset, data.offset) == (None, None)
    assert objects.execute(List("job/")) == ["job/chk-1-1/u2", "job/shared/1-u1"]
    run_program(store.fetch(keyed({"large": file, "data": data}), tmp_path / "restored"), objects)
    assert (tmp_path / "restored" / "large").stat().st_size == packing.SMALL_BYTES


def test_a_full_pack_goes_at_once(
    objects: CountedObjects, store: CheckpointStore, uploads: SubtaskUploads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "PACK_BYTES", 1_000)
    put = uploads.of(ONE).put_bytes
    files = [run_program(put(bytes([number]) * 300, shared=True), objects) for number in range(10)]
    run_program(uploads.finish(ONE), objects)
    assert [len(objects.execute(Get(name))) for name in objects.execute(List("job/"))] == [900, 900, 900, 300]
    for number, file in enumerate(files):
        assert run_program(store.fetch_bytes(file), objects) == bytes([number]) * 300


def test_what_goes_with_its_checkpoint_does_not_lie_with_what_stays(
    objects: CountedObjects, uploads: SubtaskUploads
) -> None:
    own = run_program(uploads.of(ONE).put_bytes(b"1"), objects)
    shared = run_program(uploads.of(ONE).put_bytes(b"2", shared=True), objects)
    rows = run_program(uploads.of(ONE).put_bytes(bytes(packing.TINY_BYTES + 1)), objects)
    tiny = run_program(uploads.of(ONE).put_bytes(b"4"), objects)
    assert own.name == rows.name
    assert own.name.startswith("job/chk-1-1/")
    assert tiny.name == shared.name
    assert (own.shared, rows.shared, shared.shared, tiny.shared) == (False, False, True, True)


def test_checkpoints_and_failures_do_not_mix(objects: CountedObjects, uploads: SubtaskUploads) -> None:
    two = CheckpointId(2)
    first = run_program(uploads.of(ONE).put_bytes(b"1"), objects)
    second = run_program(uploads.of(two).put_bytes(b"2"), objects)
    assert first.name != second.name
    uploads.forget(ONE)
    run_program(uploads.finish(ONE), objects)
    run_program(uploads.finish(two), objects)
    assert objects.execute(List("job/")) == [second.name], "the first was given up"


class Failing(CountedObjects):
    def execute(self, op: StoreOp) -> Any:
        if isinstance(op, Put):
            raise ObjectStoreUnavailable("away")
        return super().execute(op)


def test_a_pack_that_cannot_be_written_fails_the_snapshot(uploads: SubtaskUploads) -> None:
    away = Failing(ObstoreObjects("memory://", sleep=lambda seconds: None))
    run_program(uploads.of(ONE).put_bytes(b"1"), away)
    with pytest.raises(ObjectStoreUnavailable, match="unknown whether job/chk-1-1/u1 was written"):
        run_program(uploads.finish(ONE), away)


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda data: None, "is missing"),
        (lambda data: data[:-1], r"\(from byte 6\) is damaged: it has 5 bytes, expected are 6"),
        (lambda data: data[:3], "is damaged: it has"),
        (lambda data: data[:6] + b"x" + data[7:], "checksum"),
    ],
)
def test_damaged_packs_are_named(
    objects: CountedObjects, store: CheckpointStore, uploads: SubtaskUploads, damage: Any, why: str, tmp_path: Path
) -> None:
    files = {f"f{n}": run_program(uploads.of(ONE).put_bytes(bytes([n]) * 6), objects) for n in range(2)}
    run_program(uploads.finish(ONE), objects)
    name = files["f1"].name
    bad = damage(objects.execute(Get(name)))
    objects.execute(Delete((name,)))
    if bad is not None:
        objects.execute(Put(name, bad))
    for program in (store.fetch(keyed(files), tmp_path / "r"), store.fetch_bytes(files["f1"])):
        with pytest.raises(DamagedCheckpointError, match=f"{name}.*{why}" if "byte" not in why else why):
            run_program(program, objects)


def test_documents_of_the_version_before_are_read(objects: CountedObjects, store: CheckpointStore) -> None:
    """Written by penstock 0.1 before there were packs."""
    file = FileHandle("job/shared/1-a", 3, "", True)
    name = run_program(store.write_metadata(checkpoint({"a.sst": file})), objects)
    sealed = json.loads(objects.execute(Get(name)))
    assert sealed["version"] == METADATA_VERSION
    old = sealed["document"]
    old["format_version"] = 1
    for keyed_handle in old["subtasks"][0]["operators"][0]["keyed"]:
        del keyed_handle["files"]["a.sst"]["offset"]

    raw = msgspec.json.encode(old)
    envelope = {**sealed, "version": 1, "checksum": xxhash.xxh3_128_hexdigest(raw), "document": msgspec.Raw(raw)}
    objects.execute(Put(name, msgspec.json.encode(envelope), create_only=False))
    read = run_program(store.read_metadata(name), objects)
    assert read.format_version == 1
    assert read.subtasks[0].files() == [file]


def test_a_pack_stays_while_one_of_its_files_is_needed() -> None:
    def in_pack(pack: str, offset: int) -> FileHandle:
        return FileHandle(f"job/shared/1-{pack}", 1, "", True, offset)

    retained = RetainedCheckpoints(JobId("job"))
    retained.complete(checkpoint({"1": in_pack("p", 0), "2": in_pack("p", 1)}, 1))
    retained.complete(checkpoint({"2": in_pack("p", 1), "3": in_pack("q", 0)}, 2))
    assert retained.subsume(CheckpointId(1)) == ("job/chk-1-1/_metadata",)
    retained.complete(checkpoint({"3": in_pack("q", 0), "4": in_pack("q", 1)}, 3))
    assert retained.subsume(CheckpointId(2)) == ("job/chk-2-1/_metadata", "job/shared/1-p")


def test_an_own_pack_is_deleted_once() -> None:
    retained = RetainedCheckpoints(JobId("job"))
    own = {str(n): FileHandle("job/chk-1-1/p", 1, "", False, n) for n in range(3)}
    retained.complete(checkpoint(own, 1))
    retained.complete(checkpoint({}, 2))
    assert sorted(retained.subsume(CheckpointId(1))) == ["job/chk-1-1/_metadata", "job/chk-1-1/p"]


def in_packs() -> Iterator[FileHandle]:
    yield FileHandle("p", 10, "", True, 0)
    yield FileHandle("p", 10, "", True, 10)
    yield FileHandle("p", 5, "", True, 20 + GAP_BYTES)
    yield FileHandle("p", 5, "", True, 26 + 2 * GAP_BYTES)
    yield FileHandle("q", 5, "", True, 7)
    yield FileHandle("whole", 5, "")


def test_what_lies_close_together_is_read_together() -> None:
    found = stretches(reversed(list(in_packs())))
    assert found == [
        Stretch("p", 0, 25 + GAP_BYTES), Stretch("p", 26 + 2 * GAP_BYTES, 5), Stretch("q", 7, 5)
    ]  # fmt: skip
    for file in in_packs():
        holders = [stretch for stretch in found if stretch.holds(file)]
        assert len(holders) == (file.offset is not None)
    assert stretches([replace(next(in_packs()), size_bytes=0)]) == [Stretch("p", 0, 0)]
