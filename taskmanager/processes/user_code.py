"""The code of a job, installed where its functions run: in slots, job masters, and where scripts are captured.

    <directory>/<sha256>_<name>/     an artefact, unpacked
    <directory>/requirements-<hash>/ what pip installed for a list of requirements
    <directory>/archives-<hash>/     a job's own archives, unpacked: the working directory of its processes

Each is made once per machine, by whoever needs it first: under a lock, in a directory of another name, which is then
renamed. So what has its name is whole, whoever died on the way, and several slots that start at once wait for one.
The name is the hash of the content: another version of the code is another directory, and nothing is ever changed.

Archives come from outside: archives.py. Requirements are installed by pip in a process of its own, held to the versions
of the packages that penstock itself has loaded: a second numpy or pyarrow in the same process would be worse than an
error.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib
import importlib.metadata
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ...state.errors import ObjectStoreError
from ...state.store.artefacts import fetch_artefact, file_sha256
from ...state.store.objects import ObjectStore, run_program
from ...state.store.obstore_objects import ObstoreObjects
from .archives import UserCodeInstallError as UserCodeInstallError
from .archives import check_name, unpack_archive

INSTALL_TIMEOUT_S = 480.0
"""For all requirements; below what a job master waits for a slot."""
LONGEST_INSTALL_S = 2 * INSTALL_TIMEOUT_S + 120
"""What a whole installation may take: waiting for a process that makes the same, then making it oneself."""
PATH_FILE = ".penstock-path"
"""In an archive whose script does not lie at its top."""
_LOCK_POLL_S = 0.05
_COMPLAINT_LINES = 6
_ARCHIVES = (".zip", ".whl")


@dataclass(frozen=True, slots=True)
class UserCode:
    """What a job's functions import, besides what is installed everywhere."""

    artefacts: tuple[str, ...] = ()
    """Ids of uploaded archives and scripts (state/store/artefacts.py)."""
    artefact_storage: str = ""
    """Directory or URL of the store that has them."""
    python_path: tuple[str, ...] = ()
    """Directories on this machine, or below the first artefact."""
    requirements: tuple[str, ...] = ()
    """Lines of a requirements.txt. Relative paths in them are below the first artefact."""
    archives: tuple[tuple[str, str], ...] = ()
    """Files on this machine or below one of the artefacts, each with the directory that it is unpacked to."""


def set_up(code: UserCode, directory: Path, config: Mapping[str, str]) -> None:
    """This process is the job's from here on: its modules can be imported, its archives lie in the working directory.

    What `install` raises."""
    activate(install(code, directory, config))
    if code.archives:
        os.chdir(unpacked_archives(code, directory))


def install(
    code: UserCode, directory: Path, config: Mapping[str, str] | None = None, files: Path | None = None
) -> list[str]:
    """Entries for the front of sys.path, in their order. `config`: how the storage is opened. `files`: where
    relative paths in requirements and in `python_path` begin; else the first artefact.

    UserCodeInstallError; ObjectStoreError: the storage does not answer, or has it not."""
    directory.mkdir(parents=True, exist_ok=True)
    entries = list(_artefacts(code, directory, config or {}))
    if files is None:
        files = directory / code.artefacts[0] if code.artefacts else None
    entries += [str(files / entry if files is not None else entry) for entry in code.python_path]
    if code.requirements:
        entries.append(str(_installed_requirements(code.requirements, directory, files)))
    return entries


def activate(entries: list[str]) -> None:
    """Modules below these directories can be imported from here on, before all others."""
    sys.path[:0] = [entry for entry in entries if entry not in sys.path]
    importlib.invalidate_caches()


def unpack(artefact_id: str, store: ObjectStore, directory: Path) -> None:
    """The artefact's files, in an own directory: an archive's members, or the script itself.

    UserCodeInstallError: it is no archive, or an unsafe one. ObjectNotFound."""
    name = artefact_id.partition("_")[2]
    if not name.endswith(_ARCHIVES):
        run_program(fetch_artefact(artefact_id, directory / name), store)
        return
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=".fetched-") as fetched:
        archive = Path(fetched) / name
        run_program(fetch_artefact(artefact_id, archive), store)
        unpack_archive(archive, directory)


# once per machine -------------------------------------------------------------------------------------------------


def _artefacts(code: UserCode, directory: Path, config: Mapping[str, str]) -> Iterator[str]:
    store: ObjectStore | None = None
    for artefact in code.artefacts:
        target = directory / artefact
        with _making(target) as made:
            if made is not None:
                store = store or ObstoreObjects(code.artefact_storage, config)
                try:
                    unpack(artefact, store, made)
                except (ObjectStoreError, OSError) as error:
                    error.add_note(f"while the job's code {artefact} was installed")
                    raise
        yield from import_roots(target)


def import_roots(directory: Path) -> list[str]:
    """Where modules of unpacked code are imported from: directories its PATH_FILE names, one a line, then the top."""
    file = directory / PATH_FILE
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    below = [(directory / line.strip()).resolve() for line in lines if line.strip()]
    return [*(str(path) for path in below if path.is_relative_to(directory.resolve())), str(directory)]


def unpacked_archives(code: UserCode, directory: Path) -> Path:
    """What all of them are unpacked to, each under its own name."""
    roots = [directory / artefact for artefact in code.artefacts]
    archives = [(_archive(path, roots), name) for path, name in code.archives]
    content = "\n".join(f"{file_sha256(path)} {path.name} {name}" for path, name in archives)
    target = directory / f"archives-{hashlib.sha256(content.encode()).hexdigest()[:32]}"
    with _making(target) as made:
        if made is not None:
            for path, name in archives:
                check_name(path, name)
                (made / name).mkdir(parents=True, exist_ok=True)
                unpack_archive(path, made / name)
    return target


def _archive(path: str, roots: list[Path]) -> Path:
    for place in [Path(path)] if Path(path).is_absolute() else [root / path for root in roots]:
        if place.is_file():
            return place
    raise UserCodeInstallError(f"the job's archive {path} is not there, neither in its code nor on this machine")


@contextmanager
def _making(target: Path) -> Iterator[Path | None]:
    """A new directory that becomes `target` if the block succeeds; None where it is there already."""
    if target.is_dir():
        yield None
        return
    with _locked(target.with_name(f".{target.name}.lock")):
        if target.is_dir():  # somebody else's, who had the lock before
            yield None
            return
        made = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name[:40]}-"))
        try:
            yield made
            made.rename(target)
        except BaseException:
            shutil.rmtree(made, ignore_errors=True)
            raise


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """The lock goes with the process that holds it."""
    deadline_s = time.monotonic() + INSTALL_TIMEOUT_S + 60
    with path.open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline_s:
                    raise UserCodeInstallError(
                        f"another process has been installing into {path.parent} for too long"
                    ) from None
                time.sleep(_LOCK_POLL_S)
        yield


# requirements -----------------------------------------------------------------------------------------------------


def _installed_requirements(requirements: tuple[str, ...], directory: Path, files: Path | None) -> Path:
    constraints = _constraints()
    with_files = files is not None and any(_is_local(line, files) for line in requirements)
    content = "\n".join((sys.version, *requirements, "", *constraints, _digest(files) if files and with_files else ""))
    target = directory / f"requirements-{hashlib.sha256(content.encode()).hexdigest()[:32]}"
    with _making(target) as made:
        if made is not None:
            _pip_install(requirements, constraints, made, files if with_files else None)
    return target


def _is_local(line: str, files: Path) -> bool:
    """Whether it speaks of something beside it: ./wheels/x.whl, -r more.txt, --find-links wheels."""
    return any(word and (files / word).exists() for word in re.split(r"[\s=\[@;]+", line))


def _digest(files: Path) -> str:
    """Of all that requirements could speak of; what Python itself has put beside it does not count."""
    digest = hashlib.sha256()
    for path in sorted(path for path in files.rglob("*") if path.is_file() and path.suffix != ".pyc"):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(files).as_posix()}\n{content}\n".encode())
    return digest.hexdigest()


def _constraints() -> tuple[str, ...]:
    """The versions of what penstock imports, as they are installed here."""
    names = {"penstock"}
    for requirement in importlib.metadata.requires("penstock") or ():
        if "extra ==" not in requirement and (match := re.match(r"[A-Za-z0-9._-]+", requirement)):
            names.add(match[0])
    versions = {name: importlib.metadata.version(name) for name in names}
    return tuple(f"{name}=={version}" for name, version in sorted(versions.items()) if name != "penstock")


def _pip_install(requirements: tuple[str, ...], constraints: tuple[str, ...], target: Path, files: Path | None) -> None:
    """`files`: where requirements are found that are paths; pip works in a copy of it, for it builds in place."""
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".pip-") as scratch:
        wanted, held = Path(scratch) / "requirements.txt", Path(scratch) / "constraints.txt"
        wanted.write_text("\n".join(requirements) + "\n", encoding="utf-8")
        held.write_text("\n".join(constraints) + "\n", encoding="utf-8")
        command = [
            sys.executable, "-m", "pip", "install", "--target", str(target), "--no-input", "--no-warn-conflicts",
            "--disable-pip-version-check", "--quiet", "--requirement", str(wanted), "--constraint", str(held),
        ]  # fmt: skip
        environment = {**os.environ, "TMPDIR": scratch}
        copy = Path(scratch) / "files"
        if files is not None:
            shutil.copytree(files, copy)
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment,
            cwd=scratch if files is None else copy, start_new_session=True,
        )  # fmt: skip
        try:
            output, _ = process.communicate(timeout=INSTALL_TIMEOUT_S)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)  # with the processes pip has started
            process.wait()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            raise UserCodeInstallError(
                f"the job's requirements were not installed within {INSTALL_TIMEOUT_S:g} s: {', '.join(requirements)}"
            ) from None
    if process.returncode != 0:
        raise UserCodeInstallError(_complaint(requirements, output.decode(errors="replace")))


def _complaint(requirements: tuple[str, ...], output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")] or lines
    told = "\n  ".join(errors[:_COMPLAINT_LINES]) or "pip said nothing"
    return f"the job's requirements ({', '.join(requirements)[:500]}) cannot be installed:\n  {told}"
