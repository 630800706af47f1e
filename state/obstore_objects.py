"""The object store for real: a local directory, memory, or any URL that obstore opens. One serves all threads.

A local directory has the same semantics as a bucket: objects appear whole or not at all, create-only puts are atomic.
What it does not have is a bucket's durability, so an object is synced, and every directory above it, before its put
returns (PROTOCOLS 6): the log never names what a power failure can take away. Empty directories are removed.

obstore hangs after a fork: open the store in the process that uses it.
"""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    InvalidPathError,
    NotSupportedError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from obstore.store import LocalStore, MemoryStore, from_url

from .errors import (
    ConfigurationError,
    ObjectAlreadyExists,
    ObjectNotFound,
    ObjectStoreDenied,
    ObjectStoreError,
    ObjectStoreUnavailable,
)
from .ids import new_nonce
from .objects import Delete, Get, GetFile, List, Pause, Put, PutFile, StoreOp

_FINAL_ERRNOS = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG})
_FINAL_ERRORS = (PermissionDeniedError, UnauthenticatedError, InvalidPathError, NotSupportedError)
_OS_ERROR = re.compile(r"os error (\d+)")
DOWNLOAD_CHUNK = 4 << 20


class ObstoreObjects:
    """`location`: a path, file://, memory://, or another URL of obstore (s3://...).

    ConfigurationError if it cannot be opened. `sleep` takes seconds: how a Pause is waited for."""

    def __init__(self, location: str | Path, sleep: Callable[[float], None] = time.sleep) -> None:
        self.location = str(location)
        self._sleep = sleep
        self._root: Path | None = None
        if self.location.startswith("memory://"):
            self._store: Any = MemoryStore()
        elif "://" in self.location and not self.location.startswith("file://"):
            try:
                self._store = from_url(self.location)
            except (BaseError, ValueError) as error:
                raise ConfigurationError(f"{self.location} cannot be opened: {_first_line(error)}") from error
        else:
            self._root = Path(self.location.removeprefix("file://")).absolute()
            self._store = self._open_directory(self._root)

    def _open_directory(self, root: Path) -> LocalStore:
        try:
            root.mkdir(parents=True, exist_ok=True)
            return LocalStore(root, automatic_cleanup=True)
        except (OSError, BaseError) as error:
            raise ConfigurationError(f"The checkpoint directory {root} cannot be used: {_reason(error)}.") from error

    def probe(self) -> None:
        """Write, read and delete an object. ConfigurationError that says what is wrong with the directory."""
        name, data = f"probe/{new_nonce()}", b"penstock"
        try:
            self.execute(Put(name, data))
            intact = self.execute(Get(name)) == data
            self.execute(Delete((name,)))
        except ObjectStoreError as error:
            raise ConfigurationError(f"The checkpoint directory {self.location} cannot be used: {error}") from error
        if not intact:
            raise ConfigurationError(f"The checkpoint directory {self.location} does not give back what was written.")

    def execute(self, op: StoreOp) -> Any:
        if isinstance(op, Pause):
            self._sleep(op.duration_ms / 1000)
            return None
        with _translated(op):
            return self._execute(op)

    def _execute(self, op: StoreOp) -> Any:
        match op:
            case Put(name, data, create_only):
                obstore.put(self._store, name, data, mode="create" if create_only else "overwrite")
                if create_only:
                    self._sync(name)
            case PutFile(name, path):
                if not path.is_file():
                    raise ObjectStoreDenied(f"{path}, to be stored as {name}, is not there.")
                obstore.put(self._store, name, path)
                self._sync(name)
            case Get(name):
                return obstore.get(self._store, name).bytes().to_bytes()
            case GetFile(name, path):
                self._download(name, path)
            case List(prefix):
                return self._list(prefix)
            case Delete(names):
                self._delete(names)
        return None

    def _download(self, name: str, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        chunks = obstore.get(self._store, name).stream(min_chunk_size=DOWNLOAD_CHUNK)
        with path.open("wb") as file:
            for chunk in chunks:
                file.write(chunk)

    def _list(self, prefix: str) -> list[str]:
        """obstore lists whole folders only."""
        folder = prefix.rpartition("/")[0]
        batches = obstore.list(self._store, folder or None)
        return sorted(meta["path"] for batch in batches for meta in batch if meta["path"].startswith(prefix))

    def _delete(self, names: tuple[str, ...]) -> None:
        if self._root is None and not isinstance(self._store, MemoryStore):
            obstore.delete(self._store, list(names))
            return
        for name in names:  # in one call these two stop at the first that is missing
            try:
                obstore.delete(self._store, name)
            except FileNotFoundError:
                pass

    def _sync(self, name: str) -> None:
        if self._root is None:
            return
        path = self._root / name
        for synced in (path, *path.parents):
            descriptor = os.open(synced, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            if synced == self._root:
                return


@contextmanager
def _translated(op: StoreOp) -> Iterator[None]:
    """The errors of obstore and of the file system as ours."""
    what = f"{type(op).__name__} {getattr(op, 'name', None) or getattr(op, 'prefix', '')}".rstrip()
    try:
        yield
    except ObjectStoreError:
        raise
    except AlreadyExistsError as error:
        raise ObjectAlreadyExists(f"{what}: it exists already.") from error
    except FileNotFoundError as error:
        raise ObjectNotFound(f"{what}: there is no such object.") from error
    except (BaseError, OSError) as error:
        final = isinstance(error, _FINAL_ERRORS) or _errno(error) in _FINAL_ERRNOS
        raise (ObjectStoreDenied if final else ObjectStoreUnavailable)(f"{what}: {_reason(error)}.") from error


def _errno(error: Exception) -> int | None:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    found = _OS_ERROR.search(str(error))
    return int(found[1]) if found else None


def _reason(error: Exception) -> str:
    number = _errno(error)
    return os.strerror(number).lower() if number is not None else _first_line(error)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0].rstrip(".")
