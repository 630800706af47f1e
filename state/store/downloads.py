"""Fetches the files of a restore: from copies on this machine where there are any, else from the store.

What comes from the store comes in parts, several at a time: large files by ranges, written where they belong in the
local file; files that lie in packs by stretches of these (stretches.py). So one connection's speed is not what a
restore takes, and of nothing more is in memory than of the parts under way. A part that fails is tried again alone.

Every file is verified as a whole, wherever it comes from, before anything of the restore is opened: a copy that does
not fit its checksum is removed and the object downloaded; an object that does not is a DamagedCheckpointError that
names it. A file that several want (after a rescale old subtasks share files) is fetched once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import xxhash

from ..errors import DamagedCheckpointError, ObjectNotFound
from ..ids import CheckpointId
from ..snapshots import FileHandle, KeyedHandle
from .local_copies import LocalCopies, link_or_copy
from .objects import Get, GetPart, GetRange, Program, all_with_retries
from .stretches import Stretch, stretches

PART_BYTES = 8 << 20
"""Large enough that a request is not what a part costs, small enough to have several in memory."""
PARTS_PER_ROUND = 32
"""After each round of parts progress is told. At its end some connections have nothing to do."""
READ_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class RestoredBytes:
    """How far a restore is with its files. Operators may still read what is there."""

    total: int = 0
    stored: int = 0
    """Came from the store."""
    local: int = 0
    """Came from copies on the machine."""

    @property
    def done(self) -> int:
        return self.stored + self.local


@dataclass(frozen=True, slots=True)
class _Part:
    """What one request brings."""

    op: GetPart | GetRange
    size_bytes: int
    """Of what is wanted of it."""
    whole: FileHandle | None = None
    """The file that is there with this part."""
    stretch: Stretch | None = None


class Downloads:
    """Of one restore, on one helper thread."""

    def __init__(self, copies: LocalCopies | None = None, restored: CheckpointId | None = None) -> None:
        """`restored`: the checkpoint, if its files are this job's."""
        self.so_far = RestoredBytes()
        """May be read by any thread."""
        self._copies = copies
        self._restored = restored

    def expect(self, keyed: Iterable[FileHandle], others: Iterable[FileHandle] = ()) -> None:
        """These will be fetched: `keyed` by `fetch`, which does it once each, and the others by `fetch_bytes`."""
        self.so_far = RestoredBytes(total=sum(file.size_bytes for file in (*set(keyed), *others)))

    def fetch(self, handles: Iterable[tuple[KeyedHandle, Path]]) -> Program[None]:
        """All files of keyed state, under their local names in a directory each. DamagedCheckpointError."""
        wanted: dict[FileHandle, list[Path]] = {}
        for handle, directory in handles:
            for local_name, file in handle.files.items():
                wanted.setdefault(file, []).append(directory / local_name)
        for path in (path for paths in wanted.values() for path in paths):
            path.parent.mkdir(parents=True, exist_ok=True)
        missing = {file: paths[0] for file, paths in wanted.items() if not self._copied(file, paths[0])}
        parts = list(_parts(missing))
        for start in range(0, len(parts), PARTS_PER_ROUND):
            yield from self._round(parts[start : start + PARTS_PER_ROUND], missing)
        for paths in wanted.values():
            for path in paths[1:]:
                link_or_copy(paths[0], path)

    def fetch_bytes(self, file: FileHandle) -> Program[bytes]:
        """The verified content of one file. DamagedCheckpointError."""
        for copy in self._found(file):
            kept = _content(copy, file)
            if kept is not None and why_damaged(file, len(kept), checksum_of(kept)) is None:
                self._came(local=file.size_bytes)
                return kept
        op = Get(file.name) if file.offset is None else GetRange(file.name, file.offset, file.size_bytes)
        [result] = yield from all_with_retries([op])
        data: bytes = _present(op, result)
        verify(file, len(data), checksum_of(data))
        self._came(stored=file.size_bytes)
        return data

    # from copies

    def _found(self, file: FileHandle) -> Iterator[Path]:
        return iter(()) if self._copies is None else self._copies.find(file.name)

    def _copied(self, file: FileHandle, path: Path) -> bool:
        for copy in self._found(file):
            if _take(copy, file, path):
                self._keep(file, path)
                self._came(local=file.size_bytes)
                return True
            path.unlink(missing_ok=True)  # as a link it is the copy itself, into which nothing must be written
            copy.unlink(missing_ok=True)
        return False

    def _keep(self, file: FileHandle, path: Path) -> None:
        """The next restore may need it, too."""
        if self._copies is not None and self._restored is not None and file.offset is None:
            self._copies.link(file.name, path, self._restored)

    # from the store

    def _round(self, parts: list[_Part], missing: dict[FileHandle, Path]) -> Program[None]:
        results = yield from all_with_retries([part.op for part in parts])
        for part, result in zip(parts, results, strict=True):
            answer = _present(part.op, result)
            if part.stretch is not None:
                _unpack(part.stretch, answer, missing)
            elif part.whole is not None:
                path = missing[part.whole]
                size, checksum = measure(path)
                verify(part.whole, max(size, answer), checksum)
                self._keep(part.whole, path)
        self._came(stored=sum(part.size_bytes for part in parts))

    def _came(self, *, stored: int = 0, local: int = 0) -> None:
        self.so_far = replace(self.so_far, stored=self.so_far.stored + stored, local=self.so_far.local + local)


def _parts(missing: dict[FileHandle, Path]) -> Iterator[_Part]:
    for file, path in missing.items():
        if file.offset is None:
            for start in range(0, max(1, file.size_bytes), PART_BYTES):
                size = min(PART_BYTES, file.size_bytes - start)
                last = start + size == file.size_bytes
                yield _Part(GetPart(file.name, start, size, path), size, file if last else None)
    packed = [file for file in missing if file.offset is not None]
    for stretch in stretches(packed):
        wanted = sum(file.size_bytes for file in packed if stretch.holds(file))
        yield _Part(GetRange(stretch.name, stretch.offset, stretch.length), wanted, stretch=stretch)


def _unpack(stretch: Stretch, data: bytes, missing: dict[FileHandle, Path]) -> None:
    for file, path in missing.items():
        if stretch.holds(file):
            content = stretch.cut(data, file)
            verify(file, len(content), checksum_of(content))
            path.write_bytes(content)


def _take(copy: Path, file: FileHandle, path: Path) -> bool:
    """Make a copy of the object the local file; False if it is not what it should be, or cannot be read."""
    try:
        if file.offset is None:
            link_or_copy(copy, path)
        else:
            path.write_bytes(_content(copy, file) or b"")
        return why_damaged(file, *measure(path)) is None
    except OSError:
        return False


def _content(copy: Path, file: FileHandle) -> bytes | None:
    """The file's bytes in a copy of its object; None if it is gone."""
    try:
        with copy.open("rb") as source:
            source.seek(file.offset or 0)
            return source.read(file.size_bytes)
    except OSError:
        return None


def _present(op: Get | GetPart | GetRange, result: Any) -> Any:
    """The result of reading an object that the checkpoint needs."""
    if isinstance(result, ObjectNotFound):
        raise DamagedCheckpointError(f"{op.name} is missing, and the checkpoint needs it.") from result
    if isinstance(result, Exception):
        raise result
    return result


# content and checksum -------------------------------------------------------------------------------------------


def checksum_of(data: bytes) -> str:
    return xxhash.xxh3_128_hexdigest(data)


def measure(path: Path) -> tuple[int, str]:
    """Size and checksum of a local file."""
    digest, size = xxhash.xxh3_128(), 0
    with path.open("rb") as file:
        while chunk := file.read(READ_CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return size, digest.hexdigest()


def why_damaged(file: FileHandle, size: int, checksum: str) -> str | None:
    if size != file.size_bytes:
        return f"it has {size} bytes, expected are {file.size_bytes}"
    return None if checksum == file.checksum else "its checksum does not fit its content"


def verify(file: FileHandle, size: int, checksum: str) -> None:
    """DamagedCheckpointError names the object."""
    reason = why_damaged(file, size, checksum)
    if reason is not None:
        where = file.name if file.offset is None else f"{file.name} (from byte {file.offset})"
        raise DamagedCheckpointError(f"{where} is damaged: {reason}.")
