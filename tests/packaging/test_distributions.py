"""What is handed out: wheel and sdist hold exactly the package, and the wheel works in an empty environment."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path, PurePosixPath

import pytest

FLOORS = ("state", "runtime", "connectors", "taskmanager", "jobmanager", "api", "testing")

JOB = """
import penstock as ps

if __name__ == "__main__":
    env = ps.StreamExecutionEnvironment()
    results = env.from_collection([1, 2, 3]).map(lambda x: x * 2).execute_and_collect()
    print(ps.__file__)
    print(sorted(results))
"""


@pytest.fixture(scope="module")
def distributions(clone: Path) -> Path:
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", "out", "."]
    done = subprocess.run(command, cwd=clone, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return clone / "out"


@pytest.fixture(scope="module")
def wheel(distributions: Path) -> Path:
    (path,) = distributions.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def package_files(clone: Path) -> set[str]:
    """What belongs to the package, relative to the root: the sources of all floors, and two files of the root."""
    sources = (path for floor in FLOORS for path in (clone / floor).rglob("*.py"))
    return {"__init__.py", "py.typed", *(path.relative_to(clone).as_posix() for path in sources)}


def test_the_wheel_holds_exactly_the_package(wheel: Path, package_files: set[str]) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    metadata = {name for name in names if PurePosixPath(name).parts[0].endswith(".dist-info")}
    assert names - metadata == {f"penstock/{name}" for name in package_files}
    assert {PurePosixPath(*PurePosixPath(name).parts[1:]).as_posix() for name in metadata} == {
        "METADATA",
        "RECORD",
        "WHEEL",
        "entry_points.txt",
        "licenses/LICENSE",
        "top_level.txt",
    }


def test_the_sdist_holds_the_package_and_how_to_build_it(distributions: Path, package_files: set[str]) -> None:
    (sdist,) = distributions.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {PurePosixPath(*PurePosixPath(member.name).parts[1:]) for member in archive if member.isfile()}
    kept = {name.as_posix() for name in names if name.parts[0] != "penstock.egg-info"}
    assert kept == package_files | {"LICENSE", "PKG-INFO", "README.md", "pyproject.toml", "setup.cfg"}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_wheel_runs_a_job_from_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    installed = subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "--no-compile", str(wheel)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert installed.returncode == 0, installed.stdout + installed.stderr
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "job.py").write_text(JOB, encoding="utf-8")
    done = subprocess.run([python, "job.py"], cwd=elsewhere, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    module, results = done.stdout.splitlines()[-2:]
    assert Path(module).is_relative_to(environment)
    assert results == "[2, 4, 6]"
    command = subprocess.run([environment / "bin" / "penstock", "--help"], capture_output=True, check=False)
    assert command.returncode == 0
