"""Small files of one subtask's part of a checkpoint go into one object: a *pack*, which is nothing but their bytes,
one after the other. A store takes as long for a request of 2 KB as for one of 200 KB, and bills the request.

Backends hand their files in as always and get a handle at once: name of the pack, offset, size, checksum. The pack
itself is uploaded when it is full, or by `finish`, which the subtask's program runs before it acknowledges
(taskmanager/snapshotting.py): a handle that a master gets to see is of an object that stands. When the program fails
or is cancelled before, `forget` drops the packs, and no one ever hears of those names.

An object lives as long as anything refers to it, and is counted as one. So files that later checkpoints may refer to
(shared) do not lie with larger ones that are gone with their checkpoint; tiny ones may, that is what saves the second
request of each RocksDB checkpoint, and then they are handles of a shared object too.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import xxhash

from ..ids import CheckpointId
from ..savepoints.savepoint_store import SavepointUploads
from ..snapshots import FileHandle
from .checkpoint_store import Uploads
from .objects import Program

SMALL_BYTES = 1 << 20
"""A file of this size or more is an object of its own: the request is no longer what it costs."""
PACK_BYTES = 4 << 20
"""Most that a pack holds: it is kept in memory until it is uploaded, and whole as long as one file of it is needed."""
TINY_BYTES = 64 << 10
"""A file up to this size may go into a shared pack, though only its own checkpoint needs it."""


class _Pack:
    def __init__(self, name: str) -> None:
        self.name = name
        self.data = bytearray()


class PackedUploads(Uploads):
    """Uploads of one subtask and checkpoint, one program at a time."""

    def __init__(self, direct: Uploads) -> None:
        super().__init__(direct.job_id, direct.attempt, direct.checkpoint_id, direct.new_name, direct.copies)
        self._packs: dict[bool, _Pack] = {}
        """Shared or not -> the pack that is being filled."""

    def put_bytes(self, data: bytes, *, shared: bool = False) -> Program[FileHandle]:
        if len(data) >= SMALL_BYTES:
            return (yield from super().put_bytes(data, shared=shared))
        shared = shared or (len(data) <= TINY_BYTES and True in self._packs)
        pack = self._packs.get(shared)
        if pack is not None and len(pack.data) + len(data) > PACK_BYTES:
            yield from self._put_pack(shared)
            pack = None
        if pack is None:
            pack = self._packs[shared] = _Pack(self._name(shared))
        offset = len(pack.data)
        pack.data += data
        return FileHandle(pack.name, len(data), xxhash.xxh3_128_hexdigest(data), shared, offset)

    def put_file(self, path: Path, *, shared: bool = False, name: str = "") -> Program[FileHandle]:
        """The file must not change while this runs."""
        if path.stat().st_size >= SMALL_BYTES:
            return (yield from super().put_file(path, shared=shared))
        return (yield from self.put_bytes(path.read_bytes(), shared=shared))

    def finish(self) -> Program[None]:
        """Upload what is not yet."""
        while self._packs:
            yield from self._put_pack(next(iter(self._packs)))

    def _put_pack(self, shared: bool) -> Program[None]:
        pack = self._packs.pop(shared)
        yield from self._put(pack.name, bytes(pack.data))


class SubtaskUploads:
    """The uploads of a subtask, by checkpoint: all its operators share packs, but not in savepoints, whose files people
    read. Called on helper threads; those of one checkpoint one after the other."""

    def __init__(self, direct: Callable[[CheckpointId], Uploads]) -> None:
        self._direct = direct
        self._open: dict[CheckpointId, Uploads] = {}

    def of(self, checkpoint_id: CheckpointId) -> Uploads:
        uploads = self._open.get(checkpoint_id)
        if uploads is None:
            direct = self._direct(checkpoint_id)
            packed = direct if isinstance(direct, SavepointUploads) else PackedUploads(direct)
            uploads = self._open[checkpoint_id] = packed
        return uploads

    def finish(self, checkpoint_id: CheckpointId) -> Program[None]:
        """Everything that was handed in for the checkpoint is in the store."""
        uploads = self._open.get(checkpoint_id)
        if isinstance(uploads, PackedUploads):
            yield from uploads.finish()

    def forget(self, checkpoint_id: CheckpointId) -> None:
        """Nothing more of this checkpoint."""
        self._open.pop(checkpoint_id, None)
