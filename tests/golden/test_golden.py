"""Checkpoints and savepoints of released versions, and made now: restored at other parallelisms and by other backends,
with types that changed since.

`make golden` writes the ones of this version (README.md); they are made again only as long as it is not released.
"""

from __future__ import annotations

import json
import os
import re
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

import penstock
from penstock.jobmanager.restore_check import Fit, check_restore
from penstock.state.errors import IncompatibleStateError
from penstock.state.savepoints.stored_state import StoredSnapshot

ROOT = Path(__file__).parent
STORED = sorted(ROOT.glob("*/*.tar.gz"))
BACKENDS = ("heap", "rocksdb")
DESCRIPTION = "golden.json"
"""In the archive: where checkpoint and savepoint are, and what was shown before."""
LIMIT_BYTES = 200_000


def backend_of(stored: Path) -> str:
    return stored.name.partition(".")[0]


def unpacked(stored: Path, directory: Path) -> Any:
    """Its description."""
    with tarfile.open(stored) as archive:
        archive.extractall(directory, filter="data")
    return json.loads((directory / DESCRIPTION).read_text())


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
    made = unpacked(stored, directory)
    (other,) = set(BACKENDS) - {backend_of(stored)}
    backend = backend_of(stored) if parallelism < 3 else other
    restore = "latest" if parallelism == 1 else f"{directory}/{made['path']}"
    check(golden, golden.finish(directory, backend, parallelism, restore), made["shown"])


@pytest.mark.parametrize(("parallelism", "same"), [(1, False), (3, True)])
@pytest.mark.parametrize("stored", STORED, ids=lambda path: f"{path.parent.name}-{backend_of(path)}")
def test_a_savepoint_of_every_version_is_restored(
    golden: Any, stored: Path, parallelism: int, same: bool, tmp_path: Path
) -> None:
    """Where nothing else is known of the job that took it."""
    made = unpacked(stored, tmp_path / "unpacked")
    savepoint = (tmp_path / "unpacked" / made["savepoint"]).rename(tmp_path / Path(made["savepoint"]).name)
    backend = backend_of(stored) if same else next(other for other in BACKENDS if other != backend_of(stored))
    check(golden, golden.finish(tmp_path / "store", backend, parallelism, str(savepoint)), made["shown"])


@dataclass
class StrictAccount:
    total: str
    owner: str


@pytest.mark.parametrize("stored", STORED, ids=lambda path: f"{path.parent.name}-{backend_of(path)}")
def test_types_that_do_not_fit_are_told_from_the_metadata_and_refused(
    golden: Any, stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = unpacked(stored, tmp_path)["path"]
    fit = fit_of(golden, f"{tmp_path}/{path}")
    assert (fit.problems, fit.dropped, fit.empty, fit.unknown) == ([], [], [], [])
    monkeypatch.setitem(golden.accounts, 2, StrictAccount)
    (found,) = fit_of(golden, f"{tmp_path}/{path}").problems
    said = "state 'account' of operator 'process Accounting' .* 'total' was int and is now str; declare 'total' so that"
    assert re.search(f"{said}.*field 'owner' is new and has no default", found)
    with pytest.raises(IncompatibleStateError, match=said):
        golden.finish(tmp_path, backend_of(stored), 2, f"{tmp_path}/{path}")


def fit_of(golden: Any, path: str) -> Fit:
    """Of the checkpoint at a path with the job as it is now, which is not run."""
    return check_restore(StoredSnapshot.open(path, {}).metadata, golden.graph(2))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_golden_checkpoint_is_made(golden: Any, backend: str, tmp_path: Path) -> None:
    """So that those who release can. It goes into the repository if GOLDEN is set, as `make golden` does."""
    directory = tmp_path / "store"
    made = golden.make(directory, backend)
    if os.environ.get("GOLDEN"):
        (directory / DESCRIPTION).write_text(json.dumps(asdict(made)))
        target = ROOT / penstock.__version__ / f"{backend}.tar.gz"
        target.parent.mkdir(exist_ok=True)
        with tarfile.open(target, "w:gz") as archive:
            archive.add(directory, ".", filter=of_nobody)
    golden.clear()
    check(golden, golden.finish(directory, backend, 2, "latest"), made.shown)
    golden.clear()
    elsewhere = tmp_path / "elsewhere"
    check(golden, golden.finish(elsewhere, backend, 2, f"{directory}/{made.savepoint}"), made.shown)


def test_both_backends_have_one_of_this_version() -> None:
    assert {backend_of(path) for path in STORED if path.parent.name == penstock.__version__} == set(BACKENDS)


def test_they_are_small() -> None:
    for version in {path.parent for path in STORED}:
        assert sum(path.stat().st_size for path in version.iterdir()) < LIMIT_BYTES
