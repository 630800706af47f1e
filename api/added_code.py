"""Code that a script adds to its job: env.add_python_file, env.set_python_requirements; and env.add_python_archive,
whose files its functions find in their working directory.

job of this process     what was added can be imported here, and archives are linked into the working directory;
                        requirements are the user's own business
embedded cluster        its processes use the same files; requirements are installed for the job
cluster, from here      files and archives go along as an archive of their own; requirements as lines
cluster, script there   all lie in the working directory that went along: told by their paths in it
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path, PurePosixPath

from ..state.errors import PipelineError
from ..taskmanager.processes.archives import TAR_FILES, check_archive, unpack_archive
from ..taskmanager.processes.user_code import UserCode, unpacked_archives

ARCHIVES = (".zip", ".whl", ".egg")
SENT = "penstock-archives"
"""Directory of archives among the files that go along; no module can have this name."""


class AddedCode:
    """Of one environment."""

    def __init__(self) -> None:
        self._files: list[Path] = []
        self._requirements: Path | None = None
        self._archives: dict[str, Path] = {}
        """By the directory that each is unpacked to."""

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

    def add_archive(self, path: str | Path, target: str | None) -> None:
        """A zip or tar file. PipelineError: it is not there, or not for that directory; UserCodeInstallError: it cannot
        be read, or has members that would lie outside of it."""
        found, name = Path(path).resolve(), PurePosixPath(target or Path(path).name)
        if not found.is_file() or not found.name.endswith((*ARCHIVES, *TAR_FILES)):
            raise PipelineError(
                f"add_python_archive takes a .zip or .tar.gz archive; {path} is "
                + ("none" if found.exists() else "not there")
            )
        if name.is_absolute() or ".." in name.parts or not name.parts:
            raise PipelineError(f"the archive {path} is unpacked below the working directory, and {target!r} is not")
        if name.as_posix() in self._archives:
            raise PipelineError(f"two archives are to be unpacked to {name.as_posix()!r}: give each its own target_dir")
        check_archive(found)
        self._archives[name.as_posix()] = found

    def set_requirements(self, path: str | Path) -> None:
        """PipelineError: it is not there."""
        found = Path(path).resolve()
        if not found.is_file():
            raise PipelineError(f"set_python_requirements takes a requirements.txt; {path} is not there")
        self._requirements = found

    def __bool__(self) -> bool:
        return bool(self._files or self._archives)

    def path_entries(self, top: Path | None = None) -> tuple[str, ...]:
        """For sys.path. `top`: those below it are given relative to it."""
        entries = dict.fromkeys(_entry(path) for path in self._files)
        return tuple(_relative(entry, top) for entry in entries)

    def archives(self, top: Path | None = None) -> tuple[tuple[str, str], ...]:
        """Each with the directory it is unpacked to. `top`: as in path_entries."""
        return tuple((_relative(path, top), name) for name, path in self._archives.items())

    def archives_sent(self) -> tuple[tuple[str, str], ...]:
        """The same, by the paths that `copy_to` gives them."""
        return tuple((_sent(number, path), name) for number, (name, path) in enumerate(self._archives.items()))

    def place_archives(self, directory: Path, keep: Path) -> tuple[str, ...]:
        """They are unpacked below `keep`, and linked into `directory`; what is there otherwise stays, and is told."""
        if not self._archives:
            return ()
        keep.mkdir(parents=True, exist_ok=True)
        unpacked = unpacked_archives(UserCode(archives=self.archives()), keep.resolve())
        notes = []
        for name, path in self._archives.items():
            link = directory / name
            if link.is_symlink() and link.readlink().is_relative_to(keep.resolve()):
                link.unlink()
            if os.path.lexists(link):
                notes.append(f"{name} is in the working directory already: it is used, and {path.name} is not unpacked")
                continue
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(unpacked / name)
        return tuple(notes)

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
        for number, path in enumerate(self._archives.values()):
            (directory / SENT).mkdir(exist_ok=True)
            shutil.copy(path, directory / _sent(number, path))


def _entry(path: Path) -> Path:
    return path.parent if path.suffix == ".py" and path.is_file() else path


def _sent(number: int, path: Path) -> str:
    return f"{SENT}/{number}-{path.name}"


def _relative(path: Path, top: Path | None) -> str:
    if top is None or not path.is_relative_to(top.resolve()):
        return str(path)
    return path.relative_to(top.resolve()).as_posix()


def _absolute(word: str) -> str:
    looks_like_path = "/" in word or word.endswith(ARCHIVES)
    return str(Path(word).absolute()) if looks_like_path and "://" not in word and Path(word).exists() else word
