"""Which parts of which packs a restore reads: files that lie close together come with one ranged read. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..snapshots import FileHandle

GAP_BYTES = 64 << 10
"""Bytes that nobody wants and that are read all the same: cheaper than another request."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """A part of one pack."""

    name: str
    offset: int
    length: int

    def holds(self, file: FileHandle) -> bool:
        start = file.offset
        return file.name == self.name and start is not None and self.offset <= start < self.offset + max(1, self.length)

    def cut(self, data: bytes, file: FileHandle) -> bytes:
        """The file out of what was read; short where the pack is."""
        start = (file.offset or 0) - self.offset
        return data[start : start + file.size_bytes]


def stretches(files: Iterable[FileHandle]) -> list[Stretch]:
    """For packed files. Every one of them lies in exactly one stretch."""
    ordered = sorted((file.name, file.offset, file.size_bytes) for file in files if file.offset is not None)
    found: list[Stretch] = []
    for name, offset, size in ordered:
        last = found[-1] if found else None
        if last is not None and last.name == name and offset <= last.offset + last.length + GAP_BYTES:
            length = max(last.length, offset + size - last.offset)
            found[-1] = Stretch(name, last.offset, length)
        else:
            found.append(Stretch(name, offset, size))
    return found
