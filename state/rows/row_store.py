"""What a row store is to the layers above it, and what it is given to upload with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..key_groups import KeyGroupRange
from ..snapshots import FileHandle
from ..statistics import StateStatistics
from ..store.objects import Program

if TYPE_CHECKING:
    from .ttl import DeadRows

Row = tuple[bytes, bytes | None]
"""A row's key and value; None deletes."""


class Uploads(Protocol):
    """Where the files of one subtask's part of one checkpoint go; every object gets a name of its own."""

    def put_bytes(self, data: bytes, *, shared: bool = False) -> Program[FileHandle]: ...

    def put_file(self, path: Path, *, shared: bool = False, name: str = "") -> Program[FileHandle]:
        """`name`: what people find it by in a savepoint, a path; elsewhere nobody looks."""
        ...


class LocalCheckpoint(Protocol):
    """The rows of one moment, on this machine."""

    def upload(self, uploads: Uploads) -> Program[dict[str, FileHandle]]:
        """Upload what the object store does not have; gives all files, under their local names."""
        ...

    def discard(self) -> None:
        """Free what is kept here. May be called at any time, more than once."""
        ...


class FrozenRows(Protocol):
    """The rows of one moment, to be read on any thread while the store goes on."""

    def rows_of_state(self, state_id: int, groups: KeyGroupRange) -> Iterator[tuple[bytes, bytes]]:
        """All rows of one state, in order; once, and to the end before the next state's."""
        ...

    def discard(self) -> None:
        """Free what is kept here. May be called at any time, more than once."""
        ...


class RowStore(Protocol):
    """Ordered bytes to bytes. Reads come from the slot's thread, also while a helper thread writes."""

    @property
    def kind(self) -> str:
        """The backend's name in handles."""
        ...

    @property
    def ordered(self) -> bool:
        """`some_of` goes in the order of the rows, and any row's key is a position."""
        ...

    def get(self, key: bytes) -> bytes | None: ...

    def get_all(self, keys: list[bytes]) -> list[bytes | None]: ...

    def scan(
        self, prefix: bytes, most: int | None = None, start: bytes = b"", end: bytes | None = None
    ) -> list[tuple[bytes, bytes]]:
        """The rows of one cell with a suffix from `start` on and before `end`, in order; the first `most` of them."""
        ...

    def write(self, rows: list[Row]) -> None:
        """Apply changes, sorted by key."""
        ...

    def rows_of_state(self, state_id: int, groups: KeyGroupRange) -> Iterator[tuple[bytes, bytes]]:
        """All rows of one state, in order. Not while anybody writes."""
        ...

    def some_of(self, place: bytes, position: Any, most: int) -> tuple[list[tuple[bytes, bytes]], Any]:
        """About `most` rows of a key group and state, from a position on: None for the first, then what the last call
        gave, which is None at the end. If not `ordered`, in whatever order; rows that are written meanwhile may be
        missed."""
        ...

    def checkpoint(self, checkpoint_id: int, dead: DeadRows) -> LocalCheckpoint:
        """The present rows, kept apart from later writes; without those that are dead, if every row is uploaded."""
        ...

    def freeze(self) -> FrozenRows:
        """The present rows, kept apart from later writes; of no consequence for checkpoints."""
        ...

    def statistics(self) -> StateStatistics:
        """Of its rows. Not after it was closed."""
        ...

    def checkpoint_completed(self, checkpoint_id: int) -> None: ...

    def checkpoint_aborted(self, checkpoint_id: int) -> None: ...

    def close(self) -> None: ...
