"""The file system as the file connectors see it. Another kind (object stores) is added here and nowhere else."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

import pyarrow as pa

from ...state.errors import PenstockError
from ..formats.base import FileRange

_COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".lz4": "lz4"}


class InputFileError(PenstockError):
    """A file of the input is gone, cannot be opened, or is not what it was."""


class CommitError(PenstockError):
    """Output of a completed checkpoint can neither be committed nor has been: it is lost or was tampered with."""


@dataclass(frozen=True, slots=True)
class FoundFile:
    path: str
    size: int


def find_files(path: str) -> list[FoundFile]:
    """The non-empty files of a path (file, directory with everything below it, or glob), in the order of their paths.

    Hidden ones are left out: names that start with `_` or `.` below a directory or matched by a glob.
    """
    if os.path.exists(path):
        candidates = _walk(path) if os.path.isdir(path) else iter([path])
    else:
        candidates = _matching(path)
    found = {}
    for each in candidates:
        try:
            size = os.stat(each).st_size
        except FileNotFoundError:
            continue  # a pending file that was committed (renamed) meanwhile
        if size:
            found[each] = FoundFile(each, size)
    return [found[each] for each in sorted(found)]


def _matching(pattern: str) -> Iterator[str]:
    fixed = pattern[: re.search(r"[*?\[]|$", pattern).start()]  # type: ignore[union-attr]  # always matches
    known = fixed.rpartition("/")[0]
    for path in glob.glob(pattern, recursive=True):
        if not any(map(_hidden, path[len(known) :].split("/"))):
            yield from _walk(path) if os.path.isdir(path) else [path]


def _walk(root: str) -> Iterator[str]:
    for directory, subdirectories, names in os.walk(root, onerror=_refuse):
        subdirectories[:] = [name for name in subdirectories if not _hidden(name)]
        yield from (os.path.join(directory, name) for name in names if not _hidden(name))


def _refuse(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise InputFileError(f"directory {error.filename} cannot be read: {error.strerror}") from error


def _hidden(name: str) -> bool:
    return name.startswith(("_", "."))


def compression_of(path: str) -> str | None:
    return _COMPRESSIONS.get(os.path.splitext(path)[1].lower())


def open_input(path: str, size: int) -> pa.NativeFile:
    """A new stream of a file that had `size` bytes when it was discovered; uncompressed by its extension."""
    try:
        file = pa.OSFile(path)
        if file.size() < size:
            raise InputFileError(
                f"{path} has shrunk from {size} to {file.size()} bytes since it was discovered;"
                " files must not change once they are there"
            )
    except FileNotFoundError as error:
        raise InputFileError(f"{path} has disappeared since it was discovered") from error
    except OSError as error:
        raise InputFileError(f"{path} cannot be read: {error}") from error
    codec = compression_of(path)
    return file if codec is None else pa.CompressedInputStream(file, codec)


def whole_file(file: FoundFile) -> FileRange:
    compressed = compression_of(file.path) is not None
    return FileRange(file.path, 0, file.size, file.size, partial(open_input, file.path, file.size), compressed)


def create_output(path: Path) -> IO[bytes]:
    """A new file; its directory is made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return open(path, "xb")


def make_durable(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def make_directory_durable(directory: Path, root: Path) -> None:
    """The entries of a directory, and of those above it up to `root`, which may be new too."""
    for each in [directory, *directory.parents]:
        descriptor = os.open(each, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if each == root or root not in each.parents:
            break


def publish(pending: Path, final: Path) -> None:
    """Give a pending file its final name. Doing it twice is fine; another file of that name is not overwritten."""
    if not pending.exists():
        if final.exists():
            return
        raise CommitError(
            f"neither {pending} nor {final} exists: output of a completed checkpoint was removed by somebody else"
        )
    if final.exists():
        raise CommitError(f"{final} exists already, and is not what {pending} would become; it is left as it is")
    os.rename(pending, final)
