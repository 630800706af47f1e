"""Everything of a job in the store: one class owns the names, and reads and writes what is under them.

    jobs/<name>-<hash>/<created>-<job>      a job of that name exists (job_registry.py)
    <job>/log/<seq>                         the job's log (job_log.py)
    <job>/beat/<generation>                 the leader's sign of life (jobmanager/leadership.py)
    <job>/shared/<attempt>-<unique>         files that several checkpoints may refer to
    <job>/chk-<id>-<attempt>/<unique>       files of one checkpoint
    <job>/chk-<id>-<attempt>/_metadata      the document that lists all of them (snapshots.py)

A checkpoint is complete when the log says so, not when its metadata exists. Names of state contain the attempt and a
unique part, so two attempts, or two masters, never write the same one, and an upload can be tried again. Deletes
cannot be fenced (PROTOCOLS 4); what makes them safe:

- SubsumedUpTo is logged before the objects of a subsumed checkpoint are deleted, so nobody will restore it.
- `sweep` removes what no retained checkpoint refers to and what was written by an *older* attempt: the slots of that
  attempt may still be uploading, but no checkpoint will ever be completed with it.
- What aborted checkpoints of the running attempt have written the subtasks that wrote it delete, when no upload of it
  is under way any more (taskmanager/discarded.py); what a subtask does not get to goes with the next attempt's sweep.

Small files of a subtask share one object, a pack (packing.py): their handles say where in it they lie.

Every file is listed with size and xxh3_128 checksum, the metadata carries a checksum of itself: whatever is missing,
cut short, altered or not ours is a DamagedCheckpointError that names the object, and nothing is restored from it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from ..errors import ConfigurationError, DamagedCheckpointError, ObjectNotFound, ProtocolError
from ..ids import Attempt, CheckpointId, JobId
from ..snapshots import METADATA_VERSION, OLDEST_METADATA_VERSION, CheckpointMetadata, FileHandle, KeyedHandle
from .documents import seal, unseal
from .downloads import Downloads, checksum_of, measure
from .local_copies import LocalCopies
from .objects import Delete, Get, List, Program, PutFile, create_once, with_retries

METADATA = "_metadata"
DELETE_BATCH = 1_000
"""Objects per delete op: what S3 takes in one request."""
_STATE_NAME = re.compile(r"(?P<job>[^/]+)/(?:shared/(?P<shared>\d+)-|chk-(?P<id>\d+)-(?P<attempt>\d+)/)[^/]+")


class Uploads:
    """Writes the files of one checkpoint. Its programs may run at the same time. `copies`: keep them on the machine."""

    def __init__(
        self,
        job_id: JobId,
        attempt: Attempt,
        checkpoint_id: CheckpointId,
        new_name: Callable[[], str],
        copies: LocalCopies | None = None,
    ) -> None:
        self.job_id, self.attempt, self.checkpoint_id, self.new_name = job_id, attempt, checkpoint_id, new_name
        self.copies = copies
        self._shared = f"{job_id}/shared/{attempt}-"
        self._own = checkpoint_prefix(job_id, attempt, checkpoint_id)

    def put_bytes(self, data: bytes, *, shared: bool = False) -> Program[FileHandle]:
        name = self._name(shared)
        yield from self._put(name, data)
        return FileHandle(name, len(data), checksum_of(data), shared)

    def put_file(self, path: Path, *, shared: bool = False, name: str = "") -> Program[FileHandle]:
        """The file must not change while this runs. `name` is for savepoints."""
        return (yield from self._put_file(self._name(shared), path, shared))

    def _put(self, name: str, data: bytes) -> Program[None]:
        if (yield from create_once(name, data)) != data:
            raise ProtocolError(f"{name} is taken: the names handed in are not unique.")
        if self.copies is not None:
            self.copies.write(name, data, self.checkpoint_id)

    def _put_file(self, name: str, path: Path, shared: bool) -> Program[FileHandle]:
        size, checksum = measure(path)
        yield from with_retries(PutFile(name, path))
        if self.copies is not None:
            self.copies.link(name, path, self.checkpoint_id)
        return FileHandle(name, size, checksum, shared)

    def _name(self, shared: bool) -> str:
        return (self._shared if shared else self._own) + self.new_name()


class CheckpointStore:
    """The checkpoints of one job. `new_name` gives names that nobody else uses; it is called from any thread."""

    def __init__(self, job_id: JobId, new_name: Callable[[], str]) -> None:
        self.job_id = job_id
        self._new_name = new_name

    def uploads(self, attempt: Attempt, checkpoint_id: CheckpointId, copies: LocalCopies | None = None) -> Uploads:
        """`copies`: what is uploaded is kept there, too."""
        return Uploads(self.job_id, attempt, checkpoint_id, self._new_name, copies)

    def write_metadata(self, metadata: CheckpointMetadata) -> Program[str]:
        """Returns the object's name, to be logged. ProtocolError if a subtask is missing, or a file would not live as
        long as the checkpoint does: files of its own directory and shared ones of this job do."""
        name = metadata_name(self.job_id, metadata.attempt, metadata.checkpoint_id)
        reason = why_incomplete(metadata) or self._why_not_owned(metadata)
        if reason is not None:
            raise ProtocolError(f"{name} is not to be written: {reason}.")
        data = seal("checkpoint", METADATA_VERSION, self._new_name(), metadata)
        if (yield from create_once(name, data)) != data:
            raise ProtocolError(f"{name} was written by another master of the same attempt.")
        return name

    @staticmethod
    def read_metadata(name: str) -> Program[CheckpointMetadata]:
        """The document, verified. DamagedCheckpointError names the object."""
        try:
            data = yield from with_retries(Get(name))
        except ObjectNotFound:
            raise DamagedCheckpointError(f"{name} is missing: no such checkpoint, or it was deleted.") from None
        metadata = unseal(
            name, "checkpoint", METADATA_VERSION, data, CheckpointMetadata, oldest=OLDEST_METADATA_VERSION
        )
        if name != metadata_name(JobId(metadata.job_id), metadata.attempt, metadata.checkpoint_id):
            raise DamagedCheckpointError(
                f"{name} holds checkpoint {metadata.checkpoint_id} of attempt {metadata.attempt} of job "
                f"{metadata.job_id}: checkpoints cannot be copied or renamed."
            )
        incomplete = why_incomplete(metadata)
        if incomplete is not None:
            raise DamagedCheckpointError(f"{name} is incomplete: {incomplete}.")
        return metadata

    @staticmethod
    def fetch(handle: KeyedHandle, directory: Path) -> Program[None]:
        """Download the files of keyed state under their local names, and verify them. DamagedCheckpointError."""
        return Downloads().fetch([(handle, directory)])

    @staticmethod
    def fetch_bytes(file: FileHandle) -> Program[bytes]:
        """The verified content of one file. DamagedCheckpointError."""
        return Downloads().fetch_bytes(file)

    def delete(self, names: Iterable[str]) -> Program[None]:
        """Objects of this job only; missing ones are fine."""
        ours = [name for name in names if name.startswith(f"{self.job_id}/")]
        for start in range(0, len(ours), DELETE_BATCH):
            yield from with_retries(Delete(tuple(ours[start : start + DELETE_BATCH])))

    def sweep(self, current: Attempt, retained: Iterable[CheckpointMetadata]) -> Program[int]:
        """Delete what older attempts left and no retained checkpoint needs. Returns how many objects.

        To be run by the leader after it logged AttemptStarted(current), with the metadata of all checkpoints that the
        log retains: what it restores from is among them."""
        return self._delete_state(_referenced(retained), before=current)

    def clear(self, retained: Iterable[CheckpointMetadata]) -> Program[int]:
        """After the end of the job is logged and all its tasks have ended: delete all state but the checkpoints to be
        kept, and the beats. The log and the job's description stay."""
        deleted = yield from self._delete_state(_referenced(retained), before=None)
        yield from self.delete((yield from with_retries(List(f"{self.job_id}/beat/"))))
        return deleted

    def _why_not_owned(self, metadata: CheckpointMetadata) -> str | None:
        own, shared = checkpoint_prefix(self.job_id, metadata.attempt, metadata.checkpoint_id), f"{self.job_id}/shared/"
        for subtask in metadata.subtasks:
            for file in subtask.files():
                if not file.name.startswith(shared if file.shared else own):
                    return f"subtask {subtask.subtask} of {subtask.vertex_id} refers to {file.name}"
        return None

    def _delete_state(self, needed: set[str], before: Attempt | None) -> Program[int]:
        orphans = []
        for prefix in (f"{self.job_id}/shared/", f"{self.job_id}/chk-"):
            for name in (yield from with_retries(List(prefix))):
                attempt = attempt_of(name)
                if name not in needed and attempt is not None and (before is None or attempt < before):
                    orphans.append(name)
        yield from self.delete(orphans)
        return len(orphans)


# names ------------------------------------------------------------------------------------------------------------


def checkpoint_prefix(job_id: JobId, attempt: Attempt, checkpoint_id: CheckpointId) -> str:
    return f"{job_id}/chk-{checkpoint_id}-{attempt}/"


def metadata_name(job_id: JobId, attempt: Attempt, checkpoint_id: CheckpointId) -> str:
    return checkpoint_prefix(job_id, attempt, checkpoint_id) + METADATA


def attempt_of(name: str) -> Attempt | None:
    """The attempt that wrote an object of state; None if it is something else."""
    match = _STATE_NAME.fullmatch(name)
    return None if match is None else Attempt(int(match["shared"] or match["attempt"]))


def metadata_name_of_path(path: str, root: str) -> str:
    """What `-s <path>` means: a checkpoint's directory or its `_metadata`, with or without the configured checkpoint
    directory `root` in front. ConfigurationError if it is neither, or lies outside of the root."""
    name, base = path.removeprefix("file://").rstrip("/"), root.removeprefix("file://").rstrip("/")
    if "://" not in base and not name.startswith(base + "/"):
        absolute, absolute_base = os.path.abspath(name), os.path.abspath(base)
        name, base = (absolute, absolute_base) if absolute.startswith(absolute_base + "/") else (name, base)
    name = name.removeprefix(base + "/").removeprefix("./").removesuffix("/" + METADATA) + "/" + METADATA
    match = _STATE_NAME.fullmatch(name)
    if match is None or match["id"] is None:
        raise ConfigurationError(
            f"{path} is neither a savepoint nor a checkpoint of the checkpoint directory {root}: give 'latest', the "
            "path of a savepoint that exists, or that of a directory <job>/chk-<id>-<attempt> in the checkpoint "
            "directory, with state.checkpoints.dir set to where that is."
        )
    return name


# what a checkpoint consists of -------------------------------------------------------------------------------------


def why_incomplete(metadata: CheckpointMetadata) -> str | None:
    """Every subtask of every vertex is in it exactly once, or the reason why not."""
    seen = sorted((str(s.vertex_id), s.subtask) for s in metadata.subtasks)
    expected = sorted((vertex, index) for vertex, p in metadata.parallelism.items() for index in range(p))
    if missing := sorted(set(expected) - set(seen)):
        return f"subtask {missing[0][1]} of {missing[0][0]} is missing"
    return None if seen == expected else f"its subtasks are {seen}, expected are {expected}"


# files ------------------------------------------------------------------------------------------------------------


def _referenced(retained: Iterable[CheckpointMetadata]) -> set[str]:
    return {name for metadata in retained for name in objects_of(metadata)}


def objects_of(metadata: CheckpointMetadata) -> Iterator[str]:
    """All objects that a restore of the checkpoint reads."""
    yield metadata_name(JobId(metadata.job_id), metadata.attempt, metadata.checkpoint_id)
    for subtask in metadata.subtasks:
        for file in subtask.files():
            yield file.name
