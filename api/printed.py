"""What functions and print sinks of a job print on a cluster that is this script's own, on the script's terminal.

Its slots are other processes, and what they print goes to files (runtime/logs.py). The cluster runs on this machine
and has no other jobs, so those files are followed from where they are, at every look at a job and once more at its end.

Bounds: a look copies at most LOOK_BYTES; a function that prints faster than that is still told all, later. What is
rotated away before it was copied is lost here, and said to be. Lines come whole; those of several slots mingle.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ..runtime.directories import LOGS

LOOK_BYTES = 1 << 20
"""Of one file at one look."""
END_BYTES = 32 << 20
"""Of one file at a job's end: three rotated ones have 30 MiB."""
LONGEST_LINE = 64 << 10
"""One that is longer is told in parts."""


@dataclass(slots=True)
class _File:
    file: IO[bytes]
    identity: tuple[int, int]
    rest: bytes = b""
    """The beginning of a line."""


class PrintedOutput:
    """Of the slots of one cluster. `show` what is new; not for several threads at once."""

    def __init__(self, cluster_directory: Path) -> None:
        self._directory = cluster_directory
        self._files: dict[Path, _File] = {}

    def show(self, *, all_of_it: bool = False) -> None:
        """On standard output. A terminal that is gone is no failure of the job."""
        limit = END_BYTES if all_of_it else LOOK_BYTES
        text = b"".join(self._new(limit)).decode(errors="replace")
        if text:
            sys.stdout.write(text)
            sys.stdout.flush()

    def close(self) -> None:
        for known in self._files.values():
            known.file.close()
        self._files.clear()

    def _new(self, limit: int) -> Iterator[bytes]:
        for path in sorted(self._directory.glob(f"*/{LOGS}/slot-*.out")):
            known = self._files.get(path)
            if known is None:
                known = self._files[path] = _open(path)
            elif known.identity != _identity(path):
                yield from _lines(known, END_BYTES)  # to the end of what has another name now
                known.file.close()
                if known.identity != _identity(path.with_name(f"{path.name}.1")):
                    yield f"(some of what {path.stem} printed went by too fast: penstock logs)\n".encode()
                known = self._files[path] = _open(path)
            yield from _lines(known, limit)


def _open(path: Path) -> _File:
    file = path.open("rb")
    status = os.fstat(file.fileno())
    return _File(file, (status.st_dev, status.st_ino))


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _lines(known: _File, limit: int) -> Iterator[bytes]:
    """Whole lines of what is new in the file."""
    data = known.rest + known.file.read(limit)
    whole, newline, known.rest = data.rpartition(b"\n")
    if newline:
        yield whole + newline
    if len(known.rest) > LONGEST_LINE:
        yield known.rest
        known.rest = b""
