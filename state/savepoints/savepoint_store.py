"""Savepoints in the store: a directory of its own each, that holds all of it and nothing else (Flink's savepoints).

    <target>/savepoint-<job>-<unique>/_metadata          the document that lists all files
    <target>/savepoint-<job>-<unique>/<operator>/<state>/<subtask>-<unique>.parquet
                                                         keyed state (canonical.py): people find it by these names
    <target>/savepoint-<job>-<unique>/<unique>           other files

A savepoint is the user's: no job and no clean-up deletes it, whoever asks for its disposal does. It can be moved or
copied as a directory, because the document names files relative to it; in memory their names are whole again. Its
files are independent of the backend, so that people can read them and any backend can restore them. Nothing is shared
with checkpoints, and nothing packed.

It is complete with its document, which is written last and once: a savepoint without it is garbage of a try that
failed. What a job has to remember of its savepoints stands in its log.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import xxhash

from ..errors import CheckpointError, ConfigurationError, DamagedCheckpointError, ObjectNotFound, ProtocolError
from ..ids import Attempt, CheckpointId, JobId
from ..snapshots import METADATA_VERSION, CheckpointMetadata, FileHandle
from ..store.checkpoint_store import METADATA, Uploads, why_incomplete
from ..store.documents import seal, unseal
from ..store.objects import Delete, Get, List, Program, create_once, with_retries

KIND = "savepoint"
OLDEST_VERSION = 3
"""The first format of the metadata that there were savepoints in."""
ABANDONED = seal("savepoint that nobody finished", 1, "", {})
"""What stands in place of the document when the rest of a try is deleted (unfinished_savepoints.py)."""
_FILE = re.compile(r"^file:(//)?(?=/)")
_DIRECTORY = re.compile(r"(?:.*/)?savepoint-[^/-]{1,6}-[^/]+", re.DOTALL)


def savepoint_path(target: str, job_id: JobId, unique: str) -> str:
    """Of a new savepoint in the directory `target`. `unique`: hex of 12 characters or more."""
    return f"{target.rstrip('/')}/savepoint-{job_id[:6]}-{unique[:12]}"


def is_savepoint(path: str) -> bool:
    return _DIRECTORY.fullmatch(savepoint_directory(path)) is not None


def savepoint_directory(path: str) -> str:
    """Of what people give: the directory, or its document; with `file:` or `file://` in front, or without."""
    return _FILE.sub("", path).rstrip("/").removesuffix(f"/{METADATA}").rstrip("/")


def located(path: str) -> str:
    """A directory as everybody understands it, whatever he works in: a URL, or an absolute path."""
    directory = savepoint_directory(path)
    return directory if "://" in directory else os.path.abspath(directory)


@dataclass(frozen=True, slots=True)
class StatePlace:
    """Whose state it is, as the names of files say it."""

    operator_id: str = "operator"
    subtask: int = 0

    def file_name(self, state: str) -> str:
        """`<operator>/<state>/<subtask>`; what follows is unique."""
        return f"{self.operator_id}/{readable_name(state)}/{self.subtask}"


def readable_name(state: str) -> str:
    """The state's name where it can be part of an object's; else a rest of it with a checksum."""
    if re.fullmatch(r"\w[\w.-]{0,63}(/\w[\w.-]{0,63})?", state, re.ASCII):
        return state
    rest = re.sub(r"[^A-Za-z0-9_]+", "-", state)[:32].strip("-")
    return f"{rest}-{xxhash.xxh32_hexdigest(state.encode())}"


class SavepointUploads(Uploads):
    """Writes the files of one savepoint."""

    def __init__(
        self,
        path: str,
        job_id: JobId,
        attempt: Attempt,
        checkpoint_id: CheckpointId,
        new_name: Callable[[], str],
    ) -> None:
        super().__init__(job_id, attempt, checkpoint_id, new_name)
        self._own = self._shared = f"{path}/"

    def put_bytes(self, data: bytes, *, shared: bool = False) -> Program[FileHandle]:
        """Nothing is shared with other savepoints or checkpoints, whatever the caller says."""
        return (yield from super().put_bytes(data))

    def put_file(self, path: Path, *, shared: bool = False, name: str = "") -> Program[FileHandle]:
        """With a name the object is called that, something unique, and the file's suffix."""
        unique = f"{name}-{self.new_name()}{path.suffix}" if name else self.new_name()
        return (yield from self._put_file(f"{self._own}{unique}", path, shared=False))


def write_savepoint(path: str, metadata: CheckpointMetadata, nonce: str) -> Program[str]:
    """Answers the name of its document. ProtocolError if a subtask is missing, or a file lies elsewhere;
    CheckpointError if it was taken for one that nobody writes any more."""
    incomplete = why_incomplete(metadata)
    foreign = [f.name for s in metadata.subtasks for f in s.files() if not f.name.startswith(f"{path}/")]
    if incomplete or foreign:
        raise ProtocolError(f"{path} is not to be written: {incomplete or f'it refers to {foreign[0]}'}.")
    document = _renamed(metadata, lambda name: name.removeprefix(f"{path}/"))
    data = seal(KIND, METADATA_VERSION, nonce, document)
    standing = yield from create_once(f"{path}/{METADATA}", data)
    if standing == ABANDONED:
        raise CheckpointError(f"penstock gc has deleted {path}, of which nothing had been written for long")
    if standing != data:
        raise ProtocolError(f"{path} was written by another master.")
    return f"{path}/{METADATA}"


def remove_unfinished(path: str) -> Program[None]:
    """What there is by now of a savepoint that failed, and counts for nobody; its document first, as in `dispose`."""
    names = yield from with_retries(List(f"{path}/"))
    document = f"{path}/{METADATA}"
    if document in names:
        yield from with_retries(Delete((document,)))
    files = tuple(name for name in names if name != document)
    if files:
        yield from with_retries(Delete(files))


def read_savepoint(path: str) -> Program[CheckpointMetadata]:
    """The document, verified, with whole names. `path` as people give it. DamagedCheckpointError names the object."""
    directory = savepoint_directory(path)
    name = f"{directory}/{METADATA}"
    try:
        data = yield from with_retries(Get(name))
    except ObjectNotFound:
        raise DamagedCheckpointError(f"{name} is missing: no such savepoint, or it was disposed of.") from None
    if data == ABANDONED:
        raise DamagedCheckpointError(
            f"{directory} was never finished, and penstock gc has deleted what there was of it."
        )
    metadata = unseal(name, KIND, METADATA_VERSION, data, CheckpointMetadata, oldest=OLDEST_VERSION)
    incomplete = why_incomplete(metadata)
    if incomplete is not None:
        raise DamagedCheckpointError(f"{name} is incomplete: {incomplete}.")
    return _renamed(metadata, lambda file: f"{directory}/{file}")


def dispose(path: str) -> Program[int]:
    """Delete a savepoint, its document first, so that nobody begins to restore half of it. Answers how many objects.

    ConfigurationError if the path is no savepoint's."""
    directory = savepoint_directory(path)
    if not is_savepoint(directory):
        raise ConfigurationError(f"{path} is not a savepoint: their directories are named savepoint-<job>-<unique>.")
    names = yield from with_retries(List(f"{directory}/"))
    if f"{directory}/{METADATA}" not in names:
        raise ConfigurationError(f"there is no savepoint at {path}.")
    yield from with_retries(Delete((f"{directory}/{METADATA}",)))
    yield from with_retries(Delete(tuple(name for name in names if name != f"{directory}/{METADATA}")))
    return len(names)


def _renamed(metadata: CheckpointMetadata, rename: Callable[[str], str]) -> CheckpointMetadata:
    def file(handle: FileHandle) -> FileHandle:
        return replace(handle, name=rename(handle.name))

    return replace(metadata, subtasks=tuple(subtask.with_files(file) for subtask in metadata.subtasks))
