"""What is counted of a store's ops."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock.state.errors import ObjectAlreadyExists, ObjectNotFound
from penstock.state.store.counted_objects import CountedObjects, ObjectCounter, ObjectCounts, summed
from penstock.state.store.objects import Delete, Get, GetFile, GetPart, GetRange, List, ListDetails, Pause, Put, PutFile
from penstock.state.store.obstore_objects import ObstoreObjects


def test_ops_outcomes_and_bytes(tmp_path: Path) -> None:
    counter = ObjectCounter()
    store = CountedObjects(ObstoreObjects("memory://", sleep=lambda seconds: None), counter)
    (tmp_path / "file").write_bytes(b"1234567")
    store.execute(Put("a", b"123"))
    with pytest.raises(ObjectAlreadyExists):
        store.execute(Put("a", b"123"))
    store.execute(PutFile("b", tmp_path / "file"))
    store.execute(GetFile("b", tmp_path / "copy"))
    assert store.execute(Get("a")) == b"123"
    with pytest.raises(ObjectNotFound):
        store.execute(Get("c"))
    assert store.execute(GetRange("b", 2, 3)) == b"345"
    store.execute(GetPart("b", 0, 2, tmp_path / "copy"))
    assert store.execute(List("")) == ["a", "b"]
    store.execute(ListDetails(""))
    store.execute(Delete(("a", "b")))
    store.execute(Pause(1))
    found = counter.counts()
    assert found.requests == {
        "put": {"ok": 1, "exists": 1}, "put_file": {"ok": 1}, "get_file": {"ok": 1}, "get": {"ok": 1, "not_found": 1},
        "get_range": {"ok": 2}, "list": {"ok": 2}, "delete": {"ok": 1},
    }  # fmt: skip
    assert found.bytes == {"put": 3, "put_file": 7, "get_file": 7, "get": 3, "get_range": 5}


def test_stores_of_a_process_are_counted_together_and_counts_do_not_change() -> None:
    counter = ObjectCounter()
    stores = [CountedObjects(ObstoreObjects("memory://"), counter) for _ in range(2)]
    stores[0].execute(Put("a", b"1"))
    before = counter.counts()
    stores[1].execute(Put("a", b"22"))
    assert (before.requests, before.bytes) == ({"put": {"ok": 1}}, {"put": 1})
    assert counter.counts().requests == {"put": {"ok": 2}}


def test_counts_of_processes_are_summed_up() -> None:
    one = ObjectCounts({"put": {"ok": 2, "exists": 1}, "list": {"ok": 1}}, {"put": 10})
    other = ObjectCounts({"put": {"ok": 3}, "get": {"ok": 4}}, {"put": 5, "get": 7})
    assert summed([one, other]) == ObjectCounts(
        {"put": {"ok": 5, "exists": 1}, "list": {"ok": 1}, "get": {"ok": 4}}, {"put": 15, "get": 7}
    )
    assert one.bytes == {"put": 10}
