"""The archive of a working directory: what is in it, what is not, and that it is always the same."""

from __future__ import annotations

import hashlib
import os
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.api import packaging
from penstock.api.packaging import PATH_FILE, Package, needs_modules_of, package_directory, top_of
from penstock.state.errors import PipelineError
from penstock.taskmanager.processes.archives import unpack_archive
from penstock.taskmanager.processes.user_code import import_roots

LIMIT = 2**20


def write(directory: Path, *names: str, content: str = "x = 1\n") -> None:
    for name in names:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(content)


def package(directory: Path, target: Path | None = None, limit_bytes: int = LIMIT) -> Package:
    target = target or directory.parent / "code.zip"
    return package_directory(directory, target, limit_bytes=limit_bytes)


def names(found: Package) -> list[str]:
    with zipfile.ZipFile(found.file) as archive:
        return archive.namelist()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    directory = tmp_path / "my project"
    directory.mkdir()
    return directory


def test_what_belongs_to_tools_is_left_out(project: Path) -> None:
    write(project, "job.py", "package/__init__.py", "package/data.csv", "deep/er/module.py")
    write(project, ".git/config", ".venv/lib/x.py", "package/__pycache__/m.pyc", ".penstock/checkpoints/a")
    write(project, "node_modules/a.js", "my.egg-info/PKG-INFO", ".env", "job.pyc")
    found = package(project)
    assert names(found) == ["deep/er/module.py", "job.py", "package/__init__.py", "package/data.csv"]
    assert found.name == "my_project.zip"
    assert found.sha256 == hashlib.sha256(found.file.read_bytes()).hexdigest()


def test_storages_are_left_out(project: Path) -> None:
    """Of a cluster (with the archives before this one), of a local job, and a savepoint."""
    write(project, "job.py", "store/artefacts/a.zip", "store/cluster/jobs/1-a", "store/jobs/count-1/1-a")
    write(project, "checkpoints/8f/log/1", "checkpoints/8f/beat/1", "checkpoints/8f/chk-1-1/_metadata", "log/notes.txt")
    write(project, "deep/savepoint-8f-1/_metadata", "deep/savepoint-8f-1/sum/0.parquet")
    write(project, "dataset/_metadata")  # of Parquet files, as others write it
    assert names(package(project)) == ["dataset/_metadata", "job.py", "log/notes.txt"]


def test_what_is_removed_meanwhile_is_not_missed(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(project, "job.py", "going", "gone")

    def going(directory: Path) -> Iterator[Path]:
        (project / "gone").unlink()
        yield from (project / name for name in ("job.py", "going", "gone"))
        (project / "going").unlink()

    monkeypatch.setattr(packaging, "files_of", going)
    assert names(package(project)) == ["job.py"]


def test_what_the_ignore_file_names_is_left_out(project: Path) -> None:
    write(project, "job.py", "data/a.parquet", "data/b.txt", "out/x", "notes.md")
    (project / ".penstockignore").write_text("# large\n*.parquet\n/out/\n\nnotes.md\n")
    assert names(package(project)) == [".penstockignore", "data/b.txt", "job.py"]


def test_the_same_files_are_the_same_archive(project: Path, tmp_path: Path) -> None:
    write(project, "b.py", "a.py")
    first = package(project, tmp_path / "1.zip")
    other = tmp_path / "elsewhere" / "my project"
    write(other, "a.py", "b.py")
    os.utime(other / "a.py", (1, 1))
    assert package(other, tmp_path / "2.zip").sha256 == first.sha256
    write(other, "a.py", content="x = 2\n")
    assert package(other, tmp_path / "3.zip").sha256 != first.sha256


def test_links_that_lead_out_of_the_directory_are_not_followed(project: Path, tmp_path: Path) -> None:
    write(tmp_path, "secret.txt")
    write(project, "job.py")
    (project / "inside.py").symlink_to(project / "job.py")
    (project / "outside.py").symlink_to(tmp_path / "secret.txt")
    (project / "broken.py").symlink_to(project / "nothing")
    assert names(package(project)) == ["inside.py", "job.py"]


def test_too_large_names_the_largest_files(project: Path) -> None:
    write(project, "job.py")
    (project / "model.bin").write_bytes(os.urandom(3000))
    with pytest.raises(PipelineError, match=r"model\.bin \(.*\.penstockignore") as raised:
        package(project, limit_bytes=2000)
    assert "rest.server.max-content-length" in str(raised.value)
    (project / "model.bin").write_bytes(os.urandom(9000))  # given up before it is packed
    with pytest.raises(PipelineError, match="more than"):
        package(project, limit_bytes=2000)


def test_too_many_files(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packaging, "MAX_FILES", 3)
    write(project, "a", "b", "c", "d")
    with pytest.raises(PipelineError, match="more than 3 files"):
        package(project)


def test_a_script_in_a_subdirectory_imports_from_there(project: Path, tmp_path: Path) -> None:
    write(project, "jobs/job.py", "jobs/helper.py", "shared.py")
    found = package_directory(project, tmp_path / "code.zip", limit_bytes=LIMIT, import_from=project / "jobs")
    assert PATH_FILE in names(found)
    unpacked = tmp_path / "unpacked"
    unpack_archive(found.file, unpacked)
    assert import_roots(unpacked) == [str(unpacked / "jobs"), str(unpacked)]
    (unpacked / PATH_FILE).write_text("../..\n")
    assert import_roots(unpacked) == [str(unpacked)]


def test_files_from_elsewhere_lie_at_the_top(project: Path, tmp_path: Path) -> None:
    write(project, "job.py", ".venv/hidden.py")
    write(tmp_path, "requirements.txt")
    added = [tmp_path / "requirements.txt", project / ".venv" / "hidden.py"]
    found = package_directory(project, tmp_path / "code.zip", limit_bytes=LIMIT, add=added)
    assert names(found) == [".venv/hidden.py", "job.py", "requirements.txt"]


def test_which_directory_goes_with_a_script(tmp_path: Path) -> None:
    assert top_of(tmp_path / "a" / "b" / "job.py", tmp_path / "a") == tmp_path / "a"
    assert top_of(tmp_path / "c" / "job.py", tmp_path / "a") == tmp_path / "c"


@pytest.mark.parametrize(
    ("script", "needed"),
    [
        ("import os\nimport json", False),
        ("import numpy", False),
        ("import helper", True),
        ("def f():\n    from helper import x", True),
        ("import package.inner", True),
        ("def broken(:", False),
    ],
)
def test_a_pipeline_takes_modules_along_only_if_it_names_one(project: Path, script: str, needed: bool) -> None:
    write(project, "helper.py", "package/inner.py", "unrelated.py", "json.py")
    (project / "job.py").write_text(script)
    assert needs_modules_of(project, project / "job.py") is needed


def test_modules_that_are_loaded_count(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(project, "job.py", "loaded_helper.py")
    monkeypatch.syspath_prepend(str(project))
    assert not needs_modules_of(project, project / "job.py")
    __import__("loaded_helper")
    try:
        assert needs_modules_of(project, project / "job.py")
    finally:
        del sys.modules["loaded_helper"]
