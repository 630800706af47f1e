"""Code that a script adds to its job: env.add_python_file, env.set_python_requirements.

job of this process     what was added can be imported here; requirements are the user's own business
embedded cluster        its processes import from the same files; requirements are installed for the job
cluster, from here      files go along as an archive of their own; requirements as lines
cluster, script there   both lie in the working directory that went along: told by their paths in it
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

from ..state.errors import PipelineError
from ..taskmanager.user_code import unpack_archive

ARCHIVES = (".zip", ".whl", ".egg")


class AddedCode:
    """Of one environment."""

    def __init__(self) -> None:
        self._files: list[Path] = []
        self._requirements: Path | None = None

    def add_file(self, path: str | Path) -> None:
        """A module, a package's parent directory, or an archive. PipelineError: it is none of them, or not there."""
        found = Path(path).resolve()
        if not found.is_dir() and not (found.is_file() and found.suffix in (".py", *ARCHIVES)):
            raise PipelineError(
                f"add_python_file takes a .py file, a directory that modules are imported from, or a .zip or .whl "
                f"archive; {path} is " + ("none of them" if found.exists() else "not there")
            )
        self._files.append(found)
        entry = str(_entry(found))
        if entry not in sys.path:
            sys.path.append(entry)

    def set_requirements(self, path: str | Path) -> None:
        """PipelineError: it is not there."""
        found = Path(path).resolve()
        if not found.is_file():
            raise PipelineError(f"set_python_requirements takes a requirements.txt; {path} is not there")
        self._requirements = found

    def __bool__(self) -> bool:
        return bool(self._files)

    def path_entries(self, top: Path | None = None) -> tuple[str, ...]:
        """For sys.path. `top`: those below it are given relative to it."""
        entries = dict.fromkeys(_entry(path) for path in self._files)
        return tuple(_relative(entry, top) for entry in entries)

    def requirements(self) -> tuple[str, ...]:
        """The lines that say something."""
        if self._requirements is None:
            return ()
        lines = [line.strip() for line in self._requirements.read_text(encoding="utf-8").splitlines()]
        return tuple(line for line in lines if line and not line.startswith("#"))

    def requirements_here(self) -> tuple[str, ...]:
        """With absolute paths, for processes of this machine."""
        return tuple("".join(_absolute(part) for part in re.split(r"([\s=]+)", line)) for line in self.requirements())

    def requirements_elsewhere(self) -> tuple[str, ...]:
        """PipelineError: one is a path of this machine."""
        for line, here in zip(self.requirements(), self.requirements_here(), strict=True):
            if line != here or re.search(r"(^|[\s@=])(/|file:)", line):
                raise PipelineError(
                    f"the requirement {line!r} is a path, and the cluster may be on another machine: run the script "
                    "with `penstock run`, which takes the working directory along, or name a package"
                )
        return self.requirements()

    def copy_to(self, directory: Path) -> None:
        """All files, as one directory that modules are imported from."""
        for path in self._files:
            if path.is_dir():
                shutil.copytree(path, directory, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
            elif path.suffix in ARCHIVES:
                unpack_archive(path, directory)
            else:
                shutil.copy(path, directory)


def _entry(path: Path) -> Path:
    return path.parent if path.suffix == ".py" and path.is_file() else path


def _relative(path: Path, top: Path | None) -> str:
    if top is None or not path.is_relative_to(top.resolve()):
        return str(path)
    return path.relative_to(top.resolve()).as_posix()


def _absolute(word: str) -> str:
    looks_like_path = "/" in word or word.endswith(ARCHIVES)
    return str(Path(word).absolute()) if looks_like_path and "://" not in word and Path(word).exists() else word
