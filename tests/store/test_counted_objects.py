"""What is counted of a store's ops."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock.state.counted_objects import CountedObjects
from penstock.state.errors import ObjectAlreadyExists, ObjectNotFound
from penstock.state.objects import Delete, Get, GetFile, GetRange, List, ListDetails, Pause, Put, PutFile
from penstock.state.obstore_objects import ObstoreObjects


def test_ops_outcomes_and_bytes(tmp_path: Path) -> None:
    store = CountedObjects(ObstoreObjects("memory://", sleep=lambda seconds: None))
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
    assert store.execute(List("")) == ["a", "b"]
    store.execute(ListDetails(""))
    store.execute(Delete(("a", "b")))
    store.execute(Pause(1))
    assert store.requests() == {
        ("put", "ok"): 1, ("put", "exists"): 1, ("put_file", "ok"): 1, ("get_file", "ok"): 1, ("get", "ok"): 1,
        ("get", "not_found"): 1, ("get_range", "ok"): 1, ("list", "ok"): 2, ("delete", "ok"): 1,
    }  # fmt: skip
    assert store.bytes() == {"put": 3, "put_file": 7, "get_file": 7, "get": 3, "get_range": 3}
