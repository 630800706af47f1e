"""Rows in RocksDB, for state of any size; checkpoints upload only files the store does not have.

The database is a cache of the last checkpoint: no write-ahead log, a new directory for every attempt, never restored
from. Writes are sorted and small (write_queue.py), and `flush` comes before the checkpoint, because both
`write(WriteBatch)` and `create_checkpoint` hold the GIL while flushing does not. A local checkpoint is a directory
of hard links that lives until it is uploaded.

Which uploaded files a snapshot may refer to (PROTOCOLS 7): those of the last checkpoint of whose completion we were
told, and no others. If there were snapshots since then of which we know neither completion nor abortion, one of them
may be complete and have subsumed that checkpoint; so a file must be in all of those, under the same object, too.
Within one database a file's number is never used twice; across databases it is, so objects have names of their own.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
from rocksdict import AccessType, Checkpoint, Options, Rdict, ReadOptions, WriteBatch, WriteOptions

from ..errors import BrokenStateError, DamagedCheckpointError
from ..key_groups import KeyGroupRange
from ..snapshots import FileHandle
from ..statistics import StateStatistics
from ..store.local_copies import link_or_copy
from ..store.local_files import full_disk, is_full, on_local_disk
from ..store.objects import Program
from .row_keys import first_of_group, state_prefix
from .row_store import Row, Uploads
from .ttl import DeadRows
from .tuning import RocksTuning

SMALL_FILES = "rocksdb.meta"
"""One object for everything of a checkpoint that is not a table file: manifest, options, current."""

logger = logging.getLogger(__name__)

_ABOVE_ALL = b"\xff" * 8
_PROPERTIES = (
    "block-cache-usage", "cur-size-all-mem-tables", "estimate-pending-compaction-bytes", "live-sst-files-size",
    "num-files-at-level0", "num-running-compactions", "is-write-stopped", "actual-delayed-write-rate",
)  # fmt: skip
"""What is shown of a database; the block cache is that of the whole process. None of them reads a file."""
_CLIP_BATCH = 10_000


class RocksCheckpoint:
    """Hard links to the files of one moment, and what of them is uploaded already."""

    def __init__(self, directory: Path, reused: dict[str, FileHandle]) -> None:
        self._directory = directory
        self.reused = reused
        self.tables: dict[str, FileHandle] = {}
        """All table files, once they are uploaded."""

    def upload(self, uploads: Uploads) -> Program[dict[str, FileHandle]]:
        names = sorted(os.listdir(self._directory))
        small = {}
        for name in names:
            if name in self.reused:
                self.tables[name] = self.reused[name]
            elif name.endswith(".sst"):
                self.tables[name] = yield from uploads.put_file(self._directory / name, shared=True)
            else:
                small[name] = (self._directory / name).read_bytes()
        packed = yield from uploads.put_bytes(msgspec.msgpack.encode(small))
        return {**self.tables, SMALL_FILES: packed}

    def discard(self) -> None:
        shutil.rmtree(self._directory, ignore_errors=True)


class FrozenRocks:
    """Hard links to the files of one moment, read without filling the cache of those who go on."""

    def __init__(self, directory: Path, options: Options) -> None:
        self._directory = directory
        self._options = options

    def rows_of_state(self, state_id: int, groups: KeyGroupRange) -> Iterator[tuple[bytes, bytes]]:
        database = Rdict(str(self._directory), self._options, access_type=AccessType.read_only(False))
        try:
            for group in range(groups.first, groups.last + 1):
                prefix = state_prefix(group, state_id)
                yield from rows_between(database, prefix, _after(prefix), fill_cache=False)
        finally:
            database.close()

    def discard(self) -> None:
        shutil.rmtree(self._directory, ignore_errors=True)


class RocksStore:
    """One database in a directory of its own."""

    kind = "rocksdb"
    ordered = True

    def __init__(
        self,
        directory: Path,
        options: Options,
        uploaded: dict[str, FileHandle] | None = None,
        batch_bytes: int = RocksTuning().write_batch_bytes,
        operator: str = "an operator",
    ) -> None:
        """Open or create the database in a directory. `uploaded`: its table files that a completed checkpoint has.
        `batch_bytes`: rows are written in batches of about this size. `operator`: whose state it is, for errors."""
        self._directory = directory
        self._operator = operator
        self._options = options
        self._batch_bytes = batch_bytes
        self._without_log = WriteOptions()
        self._without_log.disable_wal = True  # type: ignore[method-assign,assignment]  # the stub says it is a method
        self._without_log.memtable_insert_hint_per_batch = True  # rows come sorted
        with self._writing():
            directory.mkdir(parents=True, exist_ok=True)
            self._database = Rdict(str(directory / "db"), options)
        self._database.set_write_options(self._without_log)
        self._completed: tuple[int, dict[str, FileHandle]] = (-1, uploaded or {})
        self._unresolved: dict[int, RocksCheckpoint] = {}
        self._checkpoints = 0

    def get(self, key: bytes) -> bytes | None:
        value: bytes | None = self._database.get(key)
        return value

    def get_all(self, keys: list[bytes]) -> list[bytes | None]:
        values: list[bytes | None] = self._database.get(keys)  # type: ignore[arg-type,assignment]
        return values

    def scan(
        self, prefix: bytes, most: int | None = None, start: bytes = b"", end: bytes | None = None
    ) -> list[tuple[bytes, bytes]]:
        upper = _after(prefix) if end is None else prefix + end
        return list(islice(self._between(prefix + start, upper), most))

    def rows_of_state(self, state_id: int, groups: KeyGroupRange) -> Iterator[tuple[bytes, bytes]]:
        for group in range(groups.first, groups.last + 1):
            yield from self.scan(state_prefix(group, state_id))

    def some_of(
        self, place: bytes, position: bytes | None, most: int
    ) -> tuple[list[tuple[bytes, bytes]], bytes | None]:
        rows = list(islice(self._between(position or place, _after(place)), most))
        return rows, rows[-1][0] + b"\0" if len(rows) == most else None

    def _between(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        return rows_between(self._database, start, end)

    def write(self, rows: list[Row]) -> None:
        """A batch that fails leaves those before it written: the same rows are written again then."""
        batch, room = WriteBatch(raw_mode=True), self._batch_bytes
        for key, value in rows:
            if value is None:
                del batch[key]
            else:
                batch[key] = value
                room -= len(value)
                if room < 0:
                    self._write(batch)
                    batch, room = WriteBatch(raw_mode=True), self._batch_bytes
        self._write(batch)

    def _write(self, batch: WriteBatch) -> None:
        with self._writing():
            self._database.write(batch, self._without_log)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """What RocksDB fails with once it answers to every write from then on. BrokenStateError."""
        try:
            yield
        except Exception as error:  # it has no class of its own
            why = full_disk(self._directory) if is_full(error) else str(error).partition("\n")[0]
            raise BrokenStateError(f"{self._operator}: its state cannot be written by RocksDB: {why}") from error

    def keep_only(self, groups: KeyGroupRange) -> None:
        """Delete the rows of all other key groups; compaction frees their space later."""
        self._database.delete_range(b"", first_of_group(groups.first), self._without_log)
        self._database.delete_range(first_of_group(groups.last + 1), _ABOVE_ALL, self._without_log)

    def checkpoint(self, checkpoint_id: int, dead: DeadRows) -> RocksCheckpoint:
        directory = self._linked()
        taken = RocksCheckpoint(directory, self._reusable(os.listdir(directory)))
        self._unresolved[checkpoint_id] = taken
        return taken

    def freeze(self) -> FrozenRocks:
        return FrozenRocks(self._linked(), self._options)

    def _linked(self) -> Path:
        """A new directory with the files of this moment."""
        self._checkpoints += 1
        directory = self._directory / f"checkpoint-{self._checkpoints}"
        with self._writing():
            self._database.flush()
            Checkpoint(self._database).create_checkpoint(str(directory))
        return directory

    def _reusable(self, names: list[str]) -> dict[str, FileHandle]:
        completed, uploaded = self._completed
        later = [taken.reused for number, taken in list(self._unresolved.items()) if number > completed]
        return {
            name: uploaded[name]
            for name in sorted(names)
            if name in uploaded and all(reused.get(name) == uploaded[name] for reused in later)
        }

    def statistics(self) -> StateStatistics:
        """Bytes: of files, as far as what is in them is not known to be outdated, and of memtables."""
        shown = {name: self._property(name) for name in _PROPERTIES}
        in_files, rows = self._property("estimate-live-data-size"), self._property("estimate-num-keys")
        return StateStatistics(in_files + shown["cur-size-all-mem-tables"], rows, rocksdb=shown)

    def _property(self, name: str) -> int:
        return self._database.property_int_value(f"rocksdb.{name}") or 0

    def checkpoint_completed(self, checkpoint_id: int) -> None:
        taken = self._unresolved.get(checkpoint_id)
        if taken is not None and checkpoint_id > self._completed[0]:
            self._completed = (checkpoint_id, taken.tables)
        for number in [number for number in self._unresolved if number <= checkpoint_id]:
            del self._unresolved[number]

    def checkpoint_aborted(self, checkpoint_id: int) -> None:
        self._unresolved.pop(checkpoint_id, None)

    def close(self) -> None:
        """Nothing in it is needed any more. (Closing flushes, which a full disk refuses. The files must be let go of
        all the same: their room is free only then.)"""
        try:
            self._database.close()
        except Exception as error:
            logger.debug("%s was closed without its last rows: %s", self._directory, error)
        del self._database


def rows_between(
    database: Rdict, start: bytes, end: bytes, *, fill_cache: bool = True
) -> Iterator[tuple[bytes, bytes]]:
    """Start <= key < end. The database stays locked while the iterator lives, even when it is closed."""
    bounds = ReadOptions()
    if not fill_cache:
        bounds.fill_cache(False)  # type: ignore[call-arg]  # the stub lacks it
    bounds.set_iterate_upper_bound(end)
    rows: Any = database.items(from_key=start, read_opt=bounds)
    yield from rows


def _after(prefix: bytes) -> bytes:
    """The first key above all that begin with the prefix."""
    return (int.from_bytes(prefix, "big") + 1).to_bytes(len(prefix), "big")


# ---- files of a checkpoint that were fetched


def lay_out(fetched: Path, directory: Path) -> None:
    """Make a database directory from fetched files, which stay as they are: table files are linked, or copied."""
    packed = fetched / SMALL_FILES
    try:
        small = msgspec.msgpack.decode(packed.read_bytes(), type=dict[str, bytes])
    except (OSError, msgspec.DecodeError) as error:
        raise DamagedCheckpointError(f"the state file {SMALL_FILES} cannot be read: {error}") from error
    target = directory / "db"
    with on_local_disk("fetched state cannot be opened", directory):
        target.mkdir(parents=True, exist_ok=True)
        for source in sorted(fetched.iterdir()):
            if source.name.endswith(".sst"):
                link_or_copy(source, target / source.name)
        for name, data in small.items():
            (target / Path(name).name).write_bytes(data)


def read_rows(fetched: Path, scratch: Path, options: Options, wanted: KeyGroupRange) -> Iterator[tuple[bytes, bytes]]:
    """Rows of the wanted key groups of fetched files, in order."""
    lay_out(fetched, scratch)
    try:
        database = Rdict(str(scratch / "db"), options, access_type=AccessType.read_only(False))
        try:
            yield from rows_between(database, first_of_group(wanted.first), first_of_group(wanted.last + 1))
        finally:
            database.close()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
