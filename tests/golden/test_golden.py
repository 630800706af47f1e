"""Checkpoints of released versions, and one made now: restored at other parallelisms, with types that changed since.

`make golden` writes the ones of this version (README.md); they are made again only as long as it is not released.
"""

from __future__ import annotations

import json
import os
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import penstock

ROOT = Path(__file__).parent
STORED = sorted(ROOT.glob("*/*.tar.gz"))
BACKENDS = ("heap", "rocksdb")
DESCRIPTION = "golden.json"
"""In the archive: where the checkpoint is, and what was shown before it."""
LIMIT_BYTES = 200_000


def backend_of(stored: Path) -> str:
    return stored.name.partition(".")[0]


def of_nobody(member: tarfile.TarInfo) -> tarfile.TarInfo:
    return member.replace(uid=0, gid=0, uname="", gname="", deep=False)


@pytest.fixture(autouse=True)
def nothing_shown(golden: Any) -> Iterator[None]:
    golden.clear()
    yield
    golden.clear()


def check(golden: Any, shown: dict[str, list[str]], before: dict[str, list[str]]) -> None:
    """Together with what was shown before the checkpoint everything is there, and nothing twice: what is committed
    once more is what the checkpoint held."""
    expected = golden.expected()
    for name, rows in shown.items():
        counted = Counter(rows)
        assert max(counted.values()) == 1, f"{name}: shown twice"
        assert set(rows) | set(before[name]) == set(expected[name]), name
    assert sorted(shown["state"]) == sorted(expected["state"]), "all of it comes at the end"
    assert not before["state"]


@pytest.mark.parametrize("parallelism", [1, 2, 3])
@pytest.mark.parametrize("stored", STORED, ids=lambda path: f"{path.parent.name}-{backend_of(path)}")
def test_a_checkpoint_of_every_version_is_restored(golden: Any, stored: Path, parallelism: int, tmp_path: Path) -> None:
    directory = tmp_path / "store"
    with tarfile.open(stored) as archive:
        archive.extractall(directory, filter="data")
    made = json.loads((directory / DESCRIPTION).read_text())
    (other,) = set(BACKENDS) - {backend_of(stored)}
    backend = backend_of(stored) if parallelism < 3 else other
    restore = "latest" if parallelism == 1 else f"{directory}/{made['path']}"
    check(golden, golden.finish(directory, backend, parallelism, restore), made["shown"])


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_golden_checkpoint_is_made(golden: Any, backend: str, tmp_path: Path) -> None:
    """So that those who release can. It goes into the repository if GOLDEN is set, as `make golden` does."""
    directory = tmp_path / "store"
    made = golden.make(directory, backend)
    if os.environ.get("GOLDEN"):
        (directory / DESCRIPTION).write_text(json.dumps({"path": made.path, "shown": made.shown}))
        target = ROOT / penstock.__version__ / f"{backend}.tar.gz"
        target.parent.mkdir(exist_ok=True)
        with tarfile.open(target, "w:gz") as archive:
            archive.add(directory, ".", filter=of_nobody)
    golden.clear()
    check(golden, golden.finish(directory, backend, 2, "latest"), made.shown)


def test_both_backends_have_one_of_this_version() -> None:
    assert {backend_of(path) for path in STORED if path.parent.name == penstock.__version__} == set(BACKENDS)


def test_they_are_small() -> None:
    for version in {path.parent for path in STORED}:
        assert sum(path.stat().st_size for path in version.iterdir()) < LIMIT_BYTES
