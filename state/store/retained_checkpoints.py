"""Which completed checkpoints a job keeps, and which files may be deleted when older ones are subsumed. Pure.

The master tells what happens: `begin`, then `complete` or `abort`; it logs SubsumedUpTo with what `complete` answers,
and when that is logged, `subsume` and later ends of checkpoints answer the objects to delete.

A file of a checkpoint's own directory goes with its checkpoint. A shared file goes when no retained checkpoint refers
to it AND every checkpoint that was pending at that moment has ended: its subtasks may be about to refer to it.

That is not yet enough. A slot refers to files of the last checkpoint that it *was told* is complete, and a barrier may
reach a subtask before the message does; so even a checkpoint begun later may come with a file that is deleted
already. `claim` finds that: such a checkpoint is aborted, and the next one, after the slot was told, succeeds. What
is claimed is not deleted before its checkpoint has ended, though it was given free before that checkpoint began.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass

from ..errors import ProtocolError
from ..ids import CheckpointId, JobId
from ..snapshots import CheckpointMetadata, SubtaskSnapshot
from .checkpoint_store import metadata_name

REMEMBERED_RELEASES = 64
"""Completions for which the deleted files are remembered, for `missing`. A slot that acknowledges barriers has handled
every message that is 64 checkpoints old: they are handled in the same loop."""


@dataclass(frozen=True, slots=True)
class _Retained:
    own: tuple[str, ...]
    shared: frozenset[str]


class RetainedCheckpoints:
    """`completed`: what the job's log retains, as restored. Files of other jobs are never deleted."""

    def __init__(self, job_id: JobId, num_retained: int = 1, completed: Iterable[CheckpointMetadata] = ()) -> None:
        if num_retained < 1:
            raise ProtocolError(f"{num_retained} retained checkpoints: the last one is always kept.")
        self._prefix = f"{job_id}/"
        self._num_retained = num_retained
        self._retained: dict[CheckpointId, _Retained] = {}
        self._references: Counter[str] = Counter()
        self._pending: set[CheckpointId] = set()
        self._claims: dict[CheckpointId, frozenset[str]] = {}
        """Pending checkpoint whose metadata is being written or logged -> shared files it refers to."""
        self._waiting: list[tuple[CheckpointId, frozenset[str]]] = []
        """Unreferenced shared files, and the last checkpoint that was pending when they became so."""
        self._released: deque[frozenset[str]] = deque(maxlen=REMEMBERED_RELEASES)
        for metadata in sorted(completed, key=lambda m: m.checkpoint_id):
            self._retain(metadata)

    @property
    def ids(self) -> tuple[CheckpointId, ...]:
        """Retained checkpoints, oldest first."""
        return tuple(self._retained)

    def begin(self, checkpoint_id: CheckpointId) -> None:
        """Before its barriers are injected."""
        self._pending.add(checkpoint_id)

    def abort(self, checkpoint_id: CheckpointId) -> tuple[str, ...]:
        """It will not complete. Returns shared files to delete that waited for it; its own files wait for a sweep."""
        self._pending.discard(checkpoint_id)
        self._claims.pop(checkpoint_id, None)
        return self._release()

    def claim(self, checkpoint_id: CheckpointId, subtasks: Iterable[SubtaskSnapshot]) -> tuple[str, ...]:
        """Files that the checkpoint's snapshots refer to and that are deleted already: if any, it must be aborted; if
        none, they stay until it has ended. To be asked before the metadata is written."""
        referenced = {file.name for subtask in subtasks for file in subtask.files() if file.shared}
        missing = tuple(sorted(name for name in referenced if any(name in released for released in self._released)))
        if not missing:
            self._claims[checkpoint_id] = frozenset(referenced)
        return missing

    def complete(self, metadata: CheckpointMetadata) -> CheckpointId | None:
        """It is in the log. Returns up to which checkpoint all are subsumed now, to be logged, or None."""
        if self._retained and metadata.checkpoint_id <= max(self._retained):
            raise ProtocolError(f"Checkpoint {metadata.checkpoint_id} completed after {max(self._retained)}.")
        self._pending.discard(metadata.checkpoint_id)
        self._claims.pop(metadata.checkpoint_id, None)
        self._retain(metadata)
        superfluous = self.ids[: -self._num_retained]
        return superfluous[-1] if superfluous else None

    def subsume(self, up_to: CheckpointId) -> tuple[str, ...]:
        """SubsumedUpTo(up_to) is in the log. Returns the objects to delete now."""
        subsumed = [checkpoint_id for checkpoint_id in self._retained if checkpoint_id <= up_to]
        if len(subsumed) == len(self._retained):
            raise ProtocolError(f"Subsuming up to {up_to} would leave nothing to restore: {self.ids} are retained.")
        own: list[str] = []
        unreferenced: set[str] = set()
        for checkpoint_id in subsumed:
            retained = self._retained.pop(checkpoint_id)
            own.extend(retained.own)
            self._references.subtract(retained.shared)
            unreferenced.update(name for name in retained.shared if self._references[name] == 0)
        for name in unreferenced:
            del self._references[name]
        if unreferenced:
            self._waiting.append((max(self._pending, default=CheckpointId(0)), frozenset(unreferenced)))
        return (*own, *self._release())

    def _retain(self, metadata: CheckpointMetadata) -> None:
        files = [f for subtask in metadata.subtasks for f in subtask.files() if f.name.startswith(self._prefix)]
        document = metadata_name(JobId(metadata.job_id), metadata.attempt, metadata.checkpoint_id)
        own = list(dict.fromkeys(f.name for f in files if not f.shared))  # several in one pack
        if document.startswith(self._prefix):
            own.append(document)
        shared = frozenset(f.name for f in files if f.shared)
        self._retained[metadata.checkpoint_id] = _Retained(tuple(own), shared)
        self._references.update(shared)

    def _release(self) -> tuple[str, ...]:
        oldest_pending = min(self._pending, default=None)
        claimed = frozenset().union(*self._claims.values())
        released: set[str] = set()
        waiting = []
        for last_pending, names in self._waiting:
            if oldest_pending is None or oldest_pending > last_pending:
                # A checkpoint that was pending then may have completed with some of them.
                released.update(name for name in names - claimed if self._references[name] == 0)
                names &= claimed
            if names:
                waiting.append((last_pending, names))
        self._waiting = waiting
        if released:
            self._released.append(frozenset(released))
        return tuple(sorted(released))
