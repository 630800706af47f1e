"""The contract of an object store, held by every store that programs may meet."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from penstock.state.errors import ObjectAlreadyExists, ObjectNotFound, ObjectStoreDenied
from penstock.state.store.objects import (
    Delete,
    Get,
    GetFile,
    GetPart,
    GetRange,
    List,
    ListDetails,
    ObjectStore,
    Pause,
    Put,
    PutFile,
)
from penstock.state.store.obstore_objects import ObstoreObjects


@pytest.fixture(params=["memory", "directory", "file-url", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    if request.param == "s3":
        options = request.getfixturevalue("s3_server").options
        return ObstoreObjects(request.getfixturevalue("s3_location"), options)
    locations = {"memory": "memory://", "directory": str(tmp_path / "s"), "file-url": f"file://{tmp_path}/s"}
    return ObstoreObjects(locations[request.param])


def test_an_object_is_given_back(store: ObjectStore) -> None:
    assert store.execute(Put("job/log/1", b"entry")) is None
    data = store.execute(Get("job/log/1"))
    assert (type(data), data) == (bytes, b"entry")


def test_empty_and_large_objects(store: ObjectStore) -> None:
    large = bytes(range(256)) * 50_000
    store.execute(Put("a/empty", b""))
    store.execute(Put("a/large", large))
    assert store.execute(Get("a/empty")) == b""
    assert store.execute(Get("a/large")) == large


def test_create_only_does_not_overwrite(store: ObjectStore) -> None:
    store.execute(Put("a/b", b"first"))
    with pytest.raises(ObjectAlreadyExists, match="a/b"):
        store.execute(Put("a/b", b"second"))
    assert store.execute(Get("a/b")) == b"first"


def test_other_puts_overwrite(store: ObjectStore) -> None:
    store.execute(Put("a/beat", b"a long one", create_only=False))
    store.execute(Put("a/beat", b"2", create_only=False))
    assert store.execute(Get("a/beat")) == b"2"


def test_of_many_who_create_at_once_one_wins(store: ObjectStore) -> None:
    winners = []
    start = threading.Barrier(8)

    def create(number: int) -> None:
        start.wait()
        try:
            store.execute(Put("job/log/1", bytes([number])))
            winners.append(number)
        except ObjectAlreadyExists:
            pass

    threads = [threading.Thread(target=create, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(winners) == 1
    assert store.execute(Get("job/log/1")) == bytes(winners)


def test_missing_objects(store: ObjectStore, tmp_path: Path) -> None:
    for op in (Get("nothing/here"), GetFile("nothing/here", tmp_path / "x"), GetPart("nothing", 0, 5, tmp_path / "x")):
        with pytest.raises(ObjectNotFound, match="nothing"):
            store.execute(op)
    assert store.execute(List("nothing")) == []


def test_files_go_up_and_down(store: ObjectStore, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "new" / "folder" / "target"
    source.write_bytes(b"0123456789" * 1_000_000)
    store.execute(PutFile("job/shared/1-a", source))
    store.execute(GetFile("job/shared/1-a", target))
    assert target.read_bytes() == source.read_bytes()


def test_a_file_is_uploaded_again_over_a_first_try(store: ObjectStore, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"content")
    store.execute(PutFile("a/b", tmp_path / "f"))
    store.execute(PutFile("a/b", tmp_path / "f"))
    assert store.execute(Get("a/b")) == b"content"


def test_a_local_file_that_is_not_there_is_not_a_missing_object(store: ObjectStore, tmp_path: Path) -> None:
    with pytest.raises(ObjectStoreDenied, match="gone"):
        store.execute(PutFile("a/b", tmp_path / "gone"))


def test_parts_of_a_file(store: ObjectStore, tmp_path: Path) -> None:
    store.execute(Put("a/b", b"0123456789"))
    target = tmp_path / "target"
    for offset, length in ((4, 4), (0, 4), (8, 5), (10, 5)):
        assert store.execute(GetPart("a/b", offset, length, target)) == 10
    assert target.read_bytes() == b"0123456789", "what there is of it"
    store.execute(Put("a/empty", b""))
    assert store.execute(GetPart("a/empty", 0, 0, tmp_path / "empty")) == 0
    assert (tmp_path / "empty").read_bytes() == b""


def test_ranges(store: ObjectStore) -> None:
    store.execute(Put("a/b", b"0123456789"))
    assert store.execute(GetRange("a/b", 0, 10)) == b"0123456789"
    assert store.execute(GetRange("a/b", 3, 4)) == b"3456"
    assert store.execute(GetRange("a/b", 8, 5)) == b"89", "what there is of it"
    assert store.execute(GetRange("a/b", 10, 5)) == b""
    assert store.execute(GetRange("a/b", 100, 5)) == b""
    assert store.execute(GetRange("a/b", 4, 0)) == b""
    store.execute(Put("a/empty", b""))
    assert store.execute(GetRange("a/empty", 0, 5)) == b""
    for length in (0, 5):
        with pytest.raises(ObjectNotFound, match="a/gone"):
            store.execute(GetRange("a/gone", 0, length))


def test_details_of_a_listing(store: ObjectStore) -> None:
    before_ms = time.time() * 1000
    store.execute(Put("a/1", b"12"))
    store.execute(Put("a/0", b""))
    store.execute(Put("b/0", b""))
    found = store.execute(ListDetails("a/"))
    assert [(each.name, each.size_bytes) for each in found] == [("a/0", 0), ("a/1", 2)]
    assert all(abs(each.modified_at_ms - before_ms) < 60_000 for each in found)


def test_lists_by_any_prefix_in_order(store: ObjectStore) -> None:
    for name in ("j/chk-2-1/b", "j/chk-10-1/a", "j/chk-2-1/a", "j/shared/1-x", "jj/log/1"):
        store.execute(Put(name, b""))
    assert store.execute(List("j/chk-")) == ["j/chk-10-1/a", "j/chk-2-1/a", "j/chk-2-1/b"]
    assert store.execute(List("j/chk-2-1/")) == ["j/chk-2-1/a", "j/chk-2-1/b"]
    assert store.execute(List("j/shared/1-")) == ["j/shared/1-x"]
    assert store.execute(List("j/")) == ["j/chk-10-1/a", "j/chk-2-1/a", "j/chk-2-1/b", "j/shared/1-x"]
    assert len(store.execute(List(""))) == 5


def test_deletes_many_and_does_not_mind_missing_ones(store: ObjectStore) -> None:
    for name in ("a/1", "a/2", "a/3"):
        store.execute(Put(name, b""))
    store.execute(Delete(("a/0", "a/1", "a/gone", "a/3", "b/gone")))
    assert store.execute(List("")) == ["a/2"]
    store.execute(Delete(()))


def test_a_deleted_name_can_be_created_again(store: ObjectStore) -> None:
    store.execute(Put("a/b", b"1"))
    store.execute(Delete(("a/b",)))
    store.execute(Put("a/b", b"2"))
    assert store.execute(Get("a/b")) == b"2"


def test_pauses_are_slept(tmp_path: Path) -> None:
    slept: list[float] = []
    ObstoreObjects("memory://", sleep=slept.append).execute(Pause(250))
    assert slept == [0.25]
