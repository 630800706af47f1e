"""The code that a job needs, as one archive: what is in it, and that the same code is the same archive.

A script that is sent to a cluster (`penstock run --address`) takes its working directory with it, because it may read
files there while it builds its pipeline. A pipeline that was built here needs only modules: of its script's directory,
and only if the script has imported one from there, or names one in an import. A lonely script needs nothing, for its
own functions travel by value.

What belongs to tools and not to the code is left out (LEFT_OUT), as are storages of clusters and jobs, and what
`.penstockignore` names: one pattern a line, of file names or of paths below the directory (`data/*.parquet`). Symbolic
links are followed if they stay in the directory. An archive is refused when it is larger than the cluster takes, or has
too many files, and what is largest is named.

The archive has no times, owners or order of its own: its SHA-256 is that of the content, so code that is on the
cluster already is not sent again. `.penstock-path` in it lists directories, besides the top, that modules are imported
from: the script's own, where that is not the top.
"""

from __future__ import annotations

import ast
import hashlib
import os
import sys
import sysconfig
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from ..runtime.units import format_size
from ..state.errors import PipelineError
from ..taskmanager.processes.user_code import PATH_FILE

LEFT_OUT = (
    ".git", ".hg", ".svn", ".venv", "venv", "env", ".env", "__pycache__", ".penstock", ".cache", "node_modules",
    ".mypy_cache", ".pytest_cache", ".ruff_cache", ".hypothesis", ".tox", ".nox", ".ipynb_checkpoints", ".idea",
    ".vscode", ".DS_Store", "*.egg-info", "*.pyc", "*.pyo", "*.swp",
)  # fmt: skip
"""Files and directories of these names, anywhere. `.env` files hold secrets as often as not."""
IGNORE_FILE = ".penstockignore"
MAX_FILES = 10_000
NAMED = 3
"""So many of the largest files are named when an archive is too large."""
_EPOCH = (1980, 1, 1, 0, 0, 0)
_READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Package:
    """An archive that is ready to be sent."""

    file: Path
    sha256: str
    name: str
    files: int
    size_bytes: int

    @property
    def artefact_id(self) -> str:
        """As the cluster will call it."""
        return f"{self.sha256}_{self.name}"


def package_directory(
    directory: Path, target: Path, *, limit_bytes: int, import_from: Path | None = None, add: Iterable[Path] = ()
) -> Package:
    """A zip file at `target`. `import_from`: a directory below it that its modules are imported from. `add`: files
    that must be in it, also from outside the directory; they lie at its top. PipelineError: too large, too many."""
    directory = directory.resolve()
    files = list(_with_limits(directory, limit_bytes))
    members = {path.relative_to(directory).as_posix(): path for path in files}
    for path in add:
        members.setdefault(member_name(path, directory), path)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for name in sorted(members):
            with suppress(FileNotFoundError):  # somebody has removed it since
                _write(archive, name, members[name].read_bytes(), executable=os.access(members[name], os.X_OK))
        if import_from is not None and import_from.resolve() != directory:
            inside = import_from.resolve().relative_to(directory).as_posix()
            _write(archive, PATH_FILE, f"{inside}\n".encode(), executable=False)
    size = target.stat().st_size
    if size > limit_bytes:
        raise _too_large(directory, f"{format_size(size)} compressed", limit_bytes, files)
    return Package(target, _sha256(target), f"{_harmless(directory.name)}.zip", len(members), size)


def member_name(path: Path, directory: Path) -> str:
    """What a file is called in the archive of that directory."""
    path, directory = path.resolve(), directory.resolve()
    return path.relative_to(directory).as_posix() if path.is_relative_to(directory) else path.name


def top_of(script: Path, working_directory: Path) -> Path:
    """Which directory goes with a script: the working directory, unless the script lies elsewhere."""
    script, working_directory = script.resolve(), working_directory.resolve()
    return working_directory if script.is_relative_to(working_directory) else script.parent


def needs_modules_of(directory: Path, script: Path | None) -> bool:
    """Whether a pipeline that was built in this process uses code below `directory` besides the script itself."""
    directory = directory.resolve()
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if name == "__main__" or not isinstance(file, str):
            continue
        if is_own_code(Path(file), directory, script):
            return True
    return script is not None and any((_found(directory, name)) for name in _imported_names(script))


def is_own_code(file: Path, directory: Path, script: Path | None) -> bool:
    file = file.resolve()
    if not file.is_relative_to(directory) or (script is not None and file == script.resolve()):
        return False
    if any(file.is_relative_to(installed) for installed in _installed_code()):
        return False
    return not any(_is_left_out(part) for part in file.relative_to(directory).parts)


def _installed_code() -> list[Path]:
    """Python's own modules, installed packages, and penstock, which may itself lie in the working directory."""
    paths = sysconfig.get_paths()
    own = Path(__file__).resolve().parents[1]
    return [own, *(Path(paths[kind]).resolve() for kind in ("stdlib", "platstdlib", "purelib", "platlib"))]


def _imported_names(script: Path) -> set[str]:
    """First parts of the names that a script imports, wherever in it."""
    try:
        tree = ast.parse(script.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return set()
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


def _found(directory: Path, module: str) -> bool:
    if module in sys.stdlib_module_names:
        return False
    return (directory / f"{module}.py").is_file() or (directory / module).is_dir()


# which files -------------------------------------------------------------------------------------------------------


def _with_limits(directory: Path, limit_bytes: int) -> Iterator[Path]:
    """Stops early: a home directory has a million files. Uncompressed, code may be four times the limit."""
    seen: list[Path] = []
    total = 0
    for path in files_of(directory):
        with suppress(FileNotFoundError):
            total += path.stat().st_size
            seen.append(path)
        if len(seen) > MAX_FILES:
            raise PipelineError(
                f"{directory} has more than {MAX_FILES:,} files, too many for the code of a job: run from the "
                f"directory of your project, or name what is not needed in {IGNORE_FILE}"
            )
        if total > 4 * limit_bytes:
            raise _too_large(directory, f"more than {format_size(4 * limit_bytes)}", limit_bytes, seen)
        yield path


def files_of(directory: Path) -> Iterator[Path]:
    """All that goes into the archive, in an order of its own. PipelineError for what cannot be read."""
    ignored = _ignored(directory)
    for folder, folders, names in os.walk(directory):
        below = Path(folder).relative_to(directory)
        folders[:] = sorted(
            name
            for name in folders
            if not (_is_left_out(name) or _matches(below / name, ignored) or _is_storage(Path(folder) / name))
        )
        for name in sorted(names):
            path = Path(folder) / name
            if _is_left_out(name) or _matches(below / name, ignored) or not path.is_file():
                continue
            if path.is_symlink() and not path.resolve().is_relative_to(directory):
                continue
            if not os.access(path, os.R_OK):
                raise PipelineError(f"{path} cannot be read; name it in {IGNORE_FILE} if the job does not need it")
            yield path


def _is_left_out(name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in LEFT_OUT)


def _is_storage(directory: Path) -> bool:
    """Of a cluster or of a job, or a savepoint. (With an archive in it that holds those before it, it would double with
    every job.)"""
    of_a_job = (directory / "log").is_dir() and (directory / "beat").is_dir()
    savepoint = directory.name.startswith("savepoint-") and (directory / "_metadata").is_file()
    return of_a_job or savepoint or (directory / "cluster" / "jobs").is_dir()


def _ignored(directory: Path) -> list[str]:
    file = directory / IGNORE_FILE
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    return [line.strip().rstrip("/") for line in lines if line.strip() and not line.lstrip().startswith("#")]


def _matches(path: Path, patterns: list[str]) -> bool:
    return any(fnmatch(path.name, pattern) or fnmatch(path.as_posix(), pattern.lstrip("/")) for pattern in patterns)


def _too_large(directory: Path, size: str, limit_bytes: int, files: list[Path]) -> PipelineError:
    largest = sorted(files, key=lambda path: path.stat().st_size, reverse=True)[:NAMED]
    named = ", ".join(f"{member_name(path, directory)} ({format_size(path.stat().st_size)})" for path in largest)
    return PipelineError(
        f"the code in {directory} is too large for the cluster: {size}, and it takes {format_size(limit_bytes)} "
        f"(rest.server.max-content-length). The largest files are {named}: name what is not needed in {IGNORE_FILE}, "
        "or run from the directory of your project"
    )


# the archive -------------------------------------------------------------------------------------------------------


def _write(archive: zipfile.ZipFile, name: str, content: bytes, *, executable: bool) -> None:
    member = zipfile.ZipInfo(name, _EPOCH)
    member.compress_type = zipfile.ZIP_DEFLATED
    member.create_system = 3
    member.external_attr = (0o100755 if executable else 0o100644) << 16
    archive.writestr(member, content)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(_READ_BYTES):
            digest.update(part)
    return digest.hexdigest()


def _harmless(name: str) -> str:
    """As the cluster keeps names (state/store/artefacts.py)."""
    kept = "".join(letter if letter.isascii() and (letter.isalnum() or letter in "._+-") else "_" for letter in name)
    return kept.lstrip("._+-")[-90:] or "code"
