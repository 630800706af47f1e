"""The object store for real: a local directory, memory, or any URL that obstore opens. One serves all threads.

A local directory has the same semantics as a bucket: objects appear whole or not at all, create-only puts are atomic.
What it does not have is a bucket's durability, so an object is synced, and every directory above it, before its put
returns (PROTOCOLS 6): the log never names what a power failure can take away. Empty directories are removed.

S3 (object_store_options.py says how it is reached, obstore_errors.py what its errors mean): obstore tries nothing
again, the programs do (objects.py), so that there is one budget. Create-only is If-None-Match. Large files go up in
parts, a few at a time, and come down as a stream: neither is ever whole in memory.

obstore hangs after a fork: open the store in the process that uses it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from copy import copy
from datetime import timedelta
from pathlib import Path
from typing import Any

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, MemoryStore, S3Store, from_url

from ..errors import ConfigurationError, ObjectStoreDenied, ObjectStoreError
from ..ids import new_nonce
from .object_store_options import S3Access, s3_access
from .objects import (
    Delete,
    Get,
    GetFile,
    GetPart,
    GetRange,
    List,
    ListDetails,
    Pause,
    Put,
    PutFile,
    RetryBudget,
    StoredObject,
    StoreOp,
    run_program,
    with_retries,
)
from .obstore_errors import BEYOND_THE_END, answer_of, first_line, local_reason, translated

DOWNLOAD_CHUNK = 4 << 20
PART_BYTES = 8 << 20
"""Of a multipart upload. S3 takes 5 MiB and more, and at most 10,000 parts."""
MAX_PARTS = 10_000
PARTS_AT_ONCE = 4
"""With PART_BYTES: what an upload needs of memory, for each helper thread."""
_CONNECT_TIMEOUT = timedelta(seconds=5)
_SILENCE_TIMEOUT = timedelta(seconds=60)
"""A store that sends nothing for so long is unavailable; time enough for a part over a slow line."""
_OP_TIMEOUT = timedelta(hours=6)
"""A large object over a slow line; what hangs is found by the silence."""
_PROBE_TIMEOUT = timedelta(seconds=8)
_PROBE_BUDGET = RetryBudget(tries=2, first_pause_ms=500)
_NO_RETRIES: dict[str, Any] = {
    "max_retries": 0,
    "retry_timeout": timedelta(0),
    "backoff": {"init_backoff": timedelta(milliseconds=1), "max_backoff": timedelta(milliseconds=1), "base": 2},
}


_DOING: dict[type[StoreOp], str] = {
    Put: "writing", PutFile: "writing", Get: "reading", GetRange: "reading", GetFile: "reading",
    GetPart: "reading", List: "listing", ListDetails: "listing", Delete: "deleting",
}  # fmt: skip
"""For errors."""


class ObstoreObjects:
    """`location`: a path, file://, memory://, or another URL of obstore (s3://bucket/path).

    `options`: a configuration as flat strings, of which those named s3.* are read. ConfigurationError if it cannot be
    opened. `sleep` takes seconds: how a Pause is waited for."""

    def __init__(
        self,
        location: str | Path,
        options: Mapping[str, str] | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.location = str(location)
        self._sleep = sleep
        self._root: Path | None = None
        self._s3: S3Access | None = None
        if self.location.startswith("memory://"):
            self._store: Any = MemoryStore()
        elif self.location.startswith(("s3://", "s3a://")):
            self.location = "s3://" + self.location.partition("://")[2]
            self._s3 = s3_access(self.location, options or {}, os.environ)
            self._store = self._open_s3(_SILENCE_TIMEOUT, _OP_TIMEOUT)
        elif "://" in self.location and not self.location.startswith("file://"):
            try:
                self._store = from_url(self.location)
            except (BaseError, ValueError) as error:
                raise ConfigurationError(f"{self.location} cannot be opened: {first_line(error)}") from error
        else:
            self._root = Path(self.location.removeprefix("file://")).absolute()
            self._store = self._open_directory(self._root)

    def __repr__(self) -> str:
        return f"ObstoreObjects({self.location!r})"

    def _open_directory(self, root: Path) -> LocalStore:
        try:
            root.mkdir(parents=True, exist_ok=True)
            return LocalStore(root, automatic_cleanup=True)
        except (OSError, BaseError) as error:
            reason = local_reason(error)
            raise ConfigurationError(f"The checkpoint directory {root} cannot be used: {reason}.") from error

    def _open_s3(self, silence: timedelta, whole: timedelta) -> S3Store:
        access = self._s3
        assert access is not None
        client: dict[str, Any] = {
            "allow_http": (access.endpoint or "").startswith("http://"),
            "connect_timeout": min(_CONNECT_TIMEOUT, silence),
            "read_timeout": silence,
            "timeout": whole,
        }
        known: Any = {**access.credentials, "expires_at": None}
        try:
            return S3Store.from_url(
                self.location,
                # given so, no variable of the environment gets between key, secret and token
                credential_provider=(lambda: known) if access.credentials else None,
                config=access.config(),  # type: ignore[arg-type]  # the stub lists every key there is
                client_options=client,  # type: ignore[arg-type]
                retry_config=_NO_RETRIES,  # type: ignore[arg-type]
            )
        except (BaseError, ValueError):  # its text may show the configuration
            raise ConfigurationError(f"{self.location} cannot be opened: it is not s3://bucket/path.") from None

    def probe(self) -> None:
        """Write, read, list and delete an object; a refusal or a store that does not answer is found in seconds.
        ConfigurationError that says what is wrong with the directory."""
        name, data = f"probe/{new_nonce()}", b"penstock"
        asked = copy(self)
        if self._s3 is not None:
            asked._store = self._open_s3(_PROBE_TIMEOUT, _PROBE_TIMEOUT)
        try:
            run_program(with_retries(Put(name, data, create_only=False), _PROBE_BUDGET), asked)
            intact = run_program(with_retries(Get(name), _PROBE_BUDGET), asked) == data
            intact = intact and run_program(with_retries(List(name), _PROBE_BUDGET), asked) == [name]
            run_program(with_retries(Delete((name,)), _PROBE_BUDGET), asked)
        except ObjectStoreError as error:
            cause = None if self._s3 is not None else error
            raise ConfigurationError(f"The checkpoint directory {self.location} cannot be used: {error}") from cause
        if not intact:
            raise ConfigurationError(f"The checkpoint directory {self.location} does not give back what was written.")

    def execute(self, op: StoreOp) -> Any:
        if isinstance(op, Pause):
            self._sleep(op.duration_ms / 1000)
            return None
        with translated(self._doing(op), s3=self._s3 is not None):
            return self._execute(op)

    def _doing(self, op: StoreOp) -> str:
        name = getattr(op, "name", None) or getattr(op, "prefix", "")
        named = name if self._root is None else f"{self._root}/{name}"
        into = f" into {op.path}" if isinstance(op, GetFile | GetPart) else ""
        return f"{_DOING[type(op)]} {named}{into}".rstrip()

    def _execute(self, op: StoreOp) -> Any:
        match op:
            case Put(name, data, create_only):
                # in one request: a create-only put is refused as a whole, or done
                mode: Any = "create" if create_only else "overwrite"
                obstore.put(self._store, name, data, mode=mode, use_multipart=False)
                if create_only:
                    self._sync(name)
            case PutFile(name, path):
                self._upload(name, path)
            case Get(name):
                return obstore.get(self._store, name).bytes().to_bytes()
            case GetRange(name, offset, length):
                return self._part(name, offset, length)[0].to_bytes()
            case GetPart(name, offset, length, path):
                return self._download_part(name, offset, length, path)
            case GetFile(name, path):
                self._download(name, path)
            case List(prefix):
                return sorted(meta["path"] for meta in self._listed(prefix))
            case ListDetails(prefix):
                return sorted(map(_stored, self._listed(prefix)), key=lambda found: found.name)
            case Delete(names):
                self._delete(names)
        return None

    def _upload(self, name: str, path: Path) -> None:
        if not path.is_file():
            raise ObjectStoreDenied(f"{path}, to be stored as {name}, is not there.")
        part = max(PART_BYTES, -(-path.stat().st_size // MAX_PARTS))
        obstore.put(self._store, name, path, chunk_size=part, max_concurrency=PARTS_AT_ONCE)
        self._sync(name)

    def _part(self, name: str, offset: int, length: int) -> tuple[obstore.Bytes, int]:
        """What there is of a range, and the object's size."""
        if length <= 0:
            return obstore.Bytes(b""), self._part(name, offset, 1)[1]
        try:
            found = obstore.get(self._store, name, options={"range": (offset, offset + length)})
            return found.bytes(), found.meta["size"]
        except (BaseError, ValueError) as error:
            # stores differ in what they say when nothing, or not all, of the range is there
            if self._s3 is not None and answer_of(error).code != BEYOND_THE_END:
                raise
            size = obstore.head(self._store, name)["size"]
            if offset + length <= size:
                raise
            return (obstore.Bytes(b""), size) if offset >= size else self._part(name, offset, size - offset)

    def _download_part(self, name: str, offset: int, length: int, path: Path) -> int:
        part, size = self._part(name, offset, length)
        content = memoryview(part)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            while content:
                written = os.pwrite(descriptor, content, offset)
                content, offset = content[written:], offset + written
        finally:
            os.close(descriptor)
        return size

    def _download(self, name: str, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        chunks = obstore.get(self._store, name).stream(min_chunk_size=DOWNLOAD_CHUNK)
        with path.open("wb") as file:
            for chunk in chunks:
                file.write(chunk)

    def _listed(self, prefix: str) -> list[Any]:
        """obstore lists whole folders only."""
        folder = prefix.rpartition("/")[0]
        batches = obstore.list(self._store, folder or None)
        return [meta for batch in batches for meta in batch if meta["path"].startswith(prefix)]

    def _delete(self, names: tuple[str, ...]) -> None:
        if self._root is None and not isinstance(self._store, MemoryStore):
            if names:
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


def _stored(meta: Any) -> StoredObject:
    return StoredObject(meta["path"], meta["size"], int(meta["last_modified"].timestamp() * 1000))
