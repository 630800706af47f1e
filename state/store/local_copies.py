"""Copies of uploaded state on the machine that uploaded it: a restore takes them instead of downloads.

    <root>/<job>/<owner>/<object's name with - for />     root: of the node; owner: a slot

They are a cache, by the name of the object: names are given once and objects never change, so a copy is never stale. A
file that is there already is linked, which costs nothing until its owner deletes it; bytes are written. Whatever is
wrong with a copy (missing, cut short, damaged, the disk full) is no failure: the object is downloaded.

Who does what:

- A slot keeps what it uploads and what it has downloaded (checkpoint_store.py, downloads.py), and reads the copies of
  all slots of its job on the machine: a subtask finds those of the slot that died, or of its own last attempt.
- It remembers with every copy the last checkpoint that refers to it. When a checkpoint is completed it deletes those
  that only earlier ones refer to. So there is about one checkpoint on disk, and of RocksDB only what the database has
  rewritten since takes more room than the database itself.
- The copies of a slot that is gone stay for some minutes, in which its job restarts, or until its job gives back its
  last slot on the machine. The task manager removes them (`LeftCopies`).

Only objects of the job itself are kept: what it restores from savepoints or other jobs' checkpoints is read once.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path

from ..ids import CheckpointId, JobId

LEFT_MS = 10 * 60_000
"""How long copies of a slot that is gone are kept: longer than any restart strategy waits by default."""
LOOK_MS = 1_000

logger = logging.getLogger(__name__)


class LocalCopies:
    """Those of one job on one machine, of which one owner's can be changed. For all threads of a process."""

    def __init__(self, root: Path, job_id: JobId, owner: str) -> None:
        self._job_id = job_id
        self._all = root / job_id
        self._own = self._all / owner
        self._last: dict[str, CheckpointId] = {}
        """Object that the owner has a copy of -> the last checkpoint that refers to it."""
        self._lock = threading.Lock()
        self._warned = False

    def link(self, name: str, path: Path, checkpoint_id: CheckpointId) -> None:
        """Keep a file that is the object; it must not be changed any more."""
        self._keep(name, checkpoint_id, lambda copy: os.link(path, copy))

    def write(self, name: str, data: bytes, checkpoint_id: CheckpointId) -> None:
        """Keep an object's content."""
        self._keep(name, checkpoint_id, lambda copy: _write(copy, data))

    def _keep(self, name: str, checkpoint_id: CheckpointId, put: Callable[[Path], None]) -> None:
        if not name.startswith(f"{self._job_id}/"):
            return
        copy = self._own / self._file(name)
        try:
            self._own.mkdir(parents=True, exist_ok=True)
            put(copy)
        except FileExistsError:
            pass
        except OSError as error:
            if not self._warned:
                self._warned = True
                logger.warning("no local copies of state are kept in %s: %s. Restores download it.", self._own, error)
            return
        with self._lock:
            self._last[name] = max(self._last.get(name, checkpoint_id), checkpoint_id)

    def needed(self, names: Iterable[str], checkpoint_id: CheckpointId) -> None:
        """That checkpoint refers to these objects, whoever has copies of them."""
        with self._lock:
            for name in self._last.keys() & set(names):
                self._last[name] = max(self._last[name], checkpoint_id)

    def completed(self, checkpoint_id: CheckpointId) -> None:
        """Nothing older will be restored: delete what only older checkpoints refer to. Not on a slot's thread."""
        with self._lock:
            dropped = [name for name, last in self._last.items() if last < checkpoint_id]
            for name in dropped:
                del self._last[name]
        for name in dropped:
            (self._own / self._file(name)).unlink(missing_ok=True)

    def find(self, name: str) -> Iterator[Path]:
        """Where copies of the object may be, the owner's first. They may be gone or damaged."""
        if not name.startswith(f"{self._job_id}/"):
            return iter(())
        file = self._file(name)
        try:
            others = sorted(path for path in self._all.iterdir() if path != self._own)
        except OSError:  # there are none
            others = []
        return (path for directory in (self._own, *others) if (path := directory / file).is_file())

    def _file(self, name: str) -> str:
        return name.removeprefix(f"{self._job_id}/").replace("/", "-")


class LeftCopies:
    """Of a whole node: removes what nobody will restore from."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._left_ms: dict[Path, int] = {}
        """Directory without an owner -> when it may go."""
        self._gone_ms: dict[Path, int] = {}
        """Directory of a job that is gone -> when it may go, as soon as it has no owner any more."""
        self._next_ms = 0
        self._lock = threading.Lock()

    def tick(self, living: Collection[str], now_ms: int) -> None:
        """`living`: owners that there are. To be called often; looks once a second."""
        if now_ms < self._next_ms:
            return
        self._next_ms = now_ms + LOOK_MS
        with self._lock:
            found = set(self._root.glob("*/*"))
            self._gone_ms = gone_ms = {each: at_ms for each, at_ms in self._gone_ms.items() if each in found}
        left = [directory for directory in found if directory.name not in living]
        self._left_ms = {directory: self._left_ms.get(directory, now_ms + LEFT_MS) for directory in left}
        for directory, at_ms in self._left_ms.items():
            if min(at_ms, gone_ms.get(directory, at_ms)) <= now_ms:
                shutil.rmtree(directory, ignore_errors=True)
                _remove_if_empty(directory.parent)

    def job_is_gone(self, job_id: JobId, now_ms: int) -> None:
        """It has given back all its slots here; their processes may still be about to end."""
        with self._lock:
            self._gone_ms.update(dict.fromkeys((self._root / job_id).glob("*"), now_ms + LOOK_MS))

    def remove_all(self) -> None:
        """The node ends."""
        shutil.rmtree(self._root, ignore_errors=True)


def link_or_copy(source: Path, target: Path) -> None:
    """OSError: neither can be done."""
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)


def _write(copy: Path, data: bytes) -> None:
    """Whole or not at all."""
    part = copy.with_name(f"{copy.name}.part")
    try:
        part.write_bytes(data)
        part.replace(copy)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def _remove_if_empty(directory: Path) -> None:
    try:
        directory.rmdir()
    except OSError:
        pass
