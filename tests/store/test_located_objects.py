"""Savepoints elsewhere on disks: asking for one makes no directory, and what is deleted leaves none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from penstock.state.errors import ObjectNotFound
from penstock.state.store.located_objects import LocatedObjects
from penstock.state.store.objects import Delete, Get, GetFile, GetPart, GetRange, List, ListDetails, Put, PutFile
from penstock.state.store.obstore_objects import ObstoreObjects

NAME = "savepoint-012345-0123456789ab"


@pytest.fixture
def store() -> LocatedObjects:
    return LocatedObjects(ObstoreObjects("memory://"), ObstoreObjects)


def test_looking_for_what_is_not_there_leaves_no_trace(store: LocatedObjects, tmp_path: Path) -> None:
    directory, file = f"{tmp_path}/{NAME}", tmp_path / "file"
    gone = f"{directory}/_metadata"
    reads: list[Any] = [Get(gone), GetRange(gone, 0, 1), GetFile(gone, file), GetPart(gone, 0, 1, file)]
    for read in reads:
        with pytest.raises(ObjectNotFound, match=NAME):
            store.execute(read)
    assert store.execute(List(f"{directory}/")) == store.execute(ListDetails(f"{directory}/")) == []
    store.execute(Delete((gone,)))
    assert list(tmp_path.iterdir()) == []


def test_the_last_object_takes_the_directory_with_it(store: LocatedObjects, tmp_path: Path) -> None:
    directory = tmp_path / NAME
    names = [f"{directory}/orders/totals/0-a.parquet", f"{directory}/b", f"{directory}/_metadata"]
    (tmp_path / "upload").write_bytes(b"1")
    for _ in range(2):  # whoever writes there again finds it as it was
        for name in names:
            store.execute(PutFile(name, tmp_path / "upload"))
        assert store.execute(List(f"{directory}/")) == sorted(names)
        store.execute(Delete(tuple(names[:2])))
        assert [path.name for path in directory.iterdir()] == ["_metadata"]
        store.execute(Delete(tuple(names[2:])))
        assert not directory.exists()
    store.execute(Put(names[0], b"1"))
    assert store.execute(Get(names[0])) == b"1"
