"""Code that a script adds to its job, on its way to where the job runs."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import pytest

from penstock import StreamExecutionEnvironment
from penstock.api.added_code import AddedCode
from penstock.state.errors import PipelineError


def files(here: Path) -> AddedCode:
    (here / "one.py").write_text("value = 1")
    (here / "libraries" / "package").mkdir(parents=True)
    (here / "libraries" / "package" / "__init__.py").write_text("")
    with zipfile.ZipFile(here / "more.zip", "w") as archive:
        archive.writestr("three.py", "value = 3")
    code = AddedCode()
    for name in ("one.py", "libraries", "more.zip"):
        code.add_file(name)
    return code


def test_the_script_itself_imports_it(here: Path) -> None:
    files(here)
    assert {str(here), str(here / "libraries"), str(here / "more.zip")} <= set(sys.path)


def test_where_processes_import_it_from(here: Path) -> None:
    code = files(here)
    assert code.path_entries() == (str(here), str(here / "libraries"), str(here / "more.zip"))
    assert code.path_entries(here) == (".", "libraries", "more.zip")
    assert code.path_entries(here / "libraries") == (str(here), ".", str(here / "more.zip"))


def test_it_goes_along_as_one_directory(here: Path, tmp_path: Path) -> None:
    target = tmp_path / "copy"
    target.mkdir()
    files(here).copy_to(target)
    names = {path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()}
    assert names == {"one.py", "package/__init__.py", "three.py"}


def test_requirements_are_lines(here: Path) -> None:
    (here / "wheels").mkdir()
    (here / "wheels" / "a-1.0-py3-none-any.whl").write_text("")
    (here / "requirements.txt").write_text("# ours\nrequests>=2\n\n./wheels/a-1.0-py3-none-any.whl\n")
    code = AddedCode()
    assert code.requirements() == ()
    code.set_requirements("requirements.txt")
    assert code.requirements() == ("requests>=2", "./wheels/a-1.0-py3-none-any.whl")
    assert code.requirements_here() == ("requests>=2", str(here / "wheels" / "a-1.0-py3-none-any.whl"))
    with pytest.raises(PipelineError, match=r"'\./wheels/a-1\.0-py3-none-any\.whl' is a path.*penstock run"):
        code.requirements_elsewhere()


@pytest.mark.parametrize("line", ["requests>=2", "requests[socks]==2.0; python_version > '3'", "--no-index"])
def test_packages_are_found_anywhere(here: Path, line: str) -> None:
    (here / "requirements.txt").write_text(line)
    code = AddedCode()
    code.set_requirements("requirements.txt")
    assert code.requirements_here() == code.requirements_elsewhere() == (line,)


def test_what_is_not_there_is_named(here: Path) -> None:
    (here / "data.csv").write_text("")
    env = StreamExecutionEnvironment()
    with pytest.raises(PipelineError, match=r"missing\.py is not there"):
        env.add_python_file("missing.py")
    with pytest.raises(PipelineError, match=r"data\.csv is none of them"):
        env.add_python_file("data.csv")
    with pytest.raises(PipelineError, match=r"requirements\.txt is not there"):
        env.set_python_requirements("requirements.txt")
