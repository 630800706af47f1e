"""Code that a script adds to its job, on its way to where the job runs."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from penstock import StreamExecutionEnvironment
from penstock.api.added_code import AddedCode
from penstock.state.errors import PipelineError
from penstock.taskmanager.processes.archives import UserCodeInstallError


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


# archives ----------------------------------------------------------------------------------------------------------

READS = """
import penstock as ps

def word(n: int) -> str:
    with open("lists/words.txt") as words:
        return words.read().split()[n]

env = ps.StreamExecutionEnvironment()
env.add_python_archive("words.zip", "lists")
env.from_sequence(0, 1).map(word).print()
env.execute("words")
"""


def words(path: Path, text: str = "one two") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("words.txt", text)
    return path


def test_archives_are_told_by_their_place_and_go_along(here: Path, tmp_path: Path) -> None:
    (here / "more").mkdir()
    code = AddedCode()
    assert not code
    code.add_archive(words(here / "words.zip"), None)
    code.add_archive(words(here / "more" / "words.zip", "three"), "more/lists")
    assert code
    assert code.archives() == ((f"{here}/words.zip", "words.zip"), (f"{here}/more/words.zip", "more/lists"))
    assert code.archives(here) == (("words.zip", "words.zip"), ("more/words.zip", "more/lists"))
    target = tmp_path / "copy"
    target.mkdir()
    code.copy_to(target)
    for (path, name), original in zip(code.archives_sent(), code.archives(), strict=True):
        assert (target / path).read_bytes() == Path(original[0]).read_bytes()
        assert name == original[1]


def test_archives_that_cannot_be_used_are_refused_at_once(here: Path) -> None:
    env = StreamExecutionEnvironment()
    (here / "data.csv").write_text("")
    with zipfile.ZipFile(here / "bad.zip", "w") as archive:
        archive.writestr("../escaped", "x")
    words(here / "words.zip")
    with pytest.raises(PipelineError, match=r"gone\.zip is not there"):
        env.add_python_archive("gone.zip")
    with pytest.raises(PipelineError, match=r"data\.csv is none"):
        env.add_python_archive("data.csv")
    with pytest.raises(UserCodeInstallError, match=r"bad\.zip.*'\.\./escaped' lies outside"):
        env.add_python_archive("bad.zip")
    for target in ("../up", "/tmp/x", "."):
        with pytest.raises(PipelineError, match="below the working directory"):
            env.add_python_archive("words.zip", target)
    env.add_python_archive("words.zip", "lists")
    with pytest.raises(PipelineError, match="two archives are to be unpacked to 'lists'"):
        env.add_python_archive("words.zip", "lists")


def test_functions_of_a_job_of_this_process_read_them(here: Path) -> None:
    """Also when the archive has changed; but a directory of the user's own is theirs, and it is told."""

    def run() -> tuple[list[str], str]:
        command = [sys.executable, "-m", "penstock.api.command_line", "run", "--local", "job.py"]
        done = subprocess.run(command, cwd=here, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.split(), done.stderr

    (here / "job.py").write_text(READS)
    words(here / "words.zip")
    assert run()[0] == ["one", "two"]
    words(here / "words.zip", "three four")
    assert run()[0] == ["three", "four"]
    (here / "lists").unlink()
    (here / "lists").mkdir()
    (here / "lists" / "words.txt").write_text("five six")
    printed, told = run()
    assert printed == ["five", "six"]
    assert "note: lists is in the working directory already: it is used, and words.zip is not unpacked" in told
