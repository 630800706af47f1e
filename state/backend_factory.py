"""Creates the keyed state of an operator subtask, empty or from the snapshots of the subtasks before.

A snapshot of any backend restores into any other, and any range of key groups from any number of snapshots: rows
outside the range are left out. RocksDB takes the largest snapshot of its own kind as it is, by hard links, and
deletes what is not in its range; the rows of the others are written into it. Where that base is of a completed
checkpoint of this very job, later snapshots may refer to its uploaded files; another job's files go when that job
says so, and are uploaded anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from .backend import KeyedStateBackend
from .errors import IncompatibleStateError
from .ids import CheckpointId
from .key_groups import KeyGroupRange
from .rows.backend_meta import StateRegistry, decode_meta
from .rows.heap import ROWS_FILE, HeapStore, read_rows_file
from .rows.keyed_backend import BackendOptions, RowBackend
from .rows.layers import PIECE_ROWS
from .rows.row_keys import state_of, with_state
from .rows.row_store import Row, RowStore, Uploads
from .savepoints.savepoint_store import StatePlace
from .snapshots import CANONICAL, KeyedHandle

if TYPE_CHECKING:
    import rocksdict

BackendKind = Literal["heap", "rocksdb"]
Restored = tuple[KeyedHandle, Path]
"""A snapshot, and the directory its files were fetched into; nothing in it is changed."""


def create_keyed_backend(
    kind: BackendKind,
    *,
    operator_name: str,
    key_groups: KeyGroupRange,
    max_parallelism: int,
    directory: Path,
    uploads: Callable[[CheckpointId], Uploads],
    now_ms: Callable[[], int],
    restored: Sequence[Restored] = (),
    reuse_files: bool = True,
    options: BackendOptions | None = None,
    place: StatePlace | None = None,
    registry: StateRegistry | None = None,
) -> KeyedStateBackend:
    """`directory` is this attempt's own and new. `now_ms`: processing time, by which state expires. `reuse_files`: what
    is restored is this job's, so snapshots may refer to its files. `place`: what its files in savepoints are called.
    `registry`: for a special one. DamagedCheckpointError, IncompatibleStateError."""
    options = options or BackendOptions()
    registry = registry or StateRegistry(operator_name, max_parallelism)
    parts = [part for part in restored if len(_range_of(part[0]).intersection(key_groups))]
    if kind == "rocksdb":
        store = _restored_rocksdb(directory, parts, key_groups, registry, reuse_files, options, operator_name)
    else:
        store = HeapStore(compress=options.compress_snapshots)
        for part in parts:
            _copy_rows(part, store, key_groups, registry, directory, options)
    return RowBackend(
        store,
        registry,
        operator_name=operator_name,
        key_groups=key_groups,
        max_parallelism=max_parallelism,
        uploads=uploads,
        options=options,
        now_ms=now_ms,
        directory=directory,
        place=place or StatePlace(),
    )


def _range_of(handle: KeyedHandle) -> KeyGroupRange:
    return KeyGroupRange(handle.first_key_group, handle.last_key_group)


def _share(handle: KeyedHandle, key_groups: KeyGroupRange) -> float:
    return len(_range_of(handle).intersection(key_groups)) / len(_range_of(handle))


def _restored_rocksdb(
    directory: Path,
    parts: list[Restored],
    key_groups: KeyGroupRange,
    registry: StateRegistry,
    reuse_files: bool,
    options: BackendOptions,
    operator_name: str,
) -> RowStore:
    from .rows import rocksdb  # loads the native library

    database, batch = _database_options(options), options.tuning.write_batch_bytes
    operator = f"operator '{operator_name}'"
    own = [part for part in parts if part[0].backend == rocksdb.RocksStore.kind]
    if not own:
        store = rocksdb.RocksStore(directory, database, batch_bytes=batch, operator=operator)
    else:
        base = max(own, key=lambda part: sum(file.size_bytes for file in part[0].files.values()))
        parts = [part for part in parts if part is not base]
        handle, fetched = base
        registry.merge(decode_meta(handle.meta), _share(handle, key_groups))
        rocksdb.lay_out(fetched, directory)
        tables = {name: file for name, file in handle.files.items() if name.endswith(".sst") and reuse_files}
        store = rocksdb.RocksStore(directory, database, tables, batch, operator)
        if _range_of(handle).intersection(key_groups) != _range_of(handle):
            store.keep_only(key_groups)
    for part in parts:
        _copy_rows(part, store, key_groups, registry, directory, options)
    return store


def _database_options(options: BackendOptions) -> rocksdict.Options:
    from .rows.rocksdb_options import database_options

    return database_options(options.block_cache_bytes, options.write_buffer_bytes, options.tuning)


def _copy_rows(
    part: Restored,
    store: RowStore,
    key_groups: KeyGroupRange,
    registry: StateRegistry,
    directory: Path,
    options: BackendOptions,
) -> None:
    """Write the rows of one snapshot that belong here into the store, under the ids its states have here."""
    rows = _rows_of(part, key_groups, directory, options)
    moved = registry.merge(decode_meta(part[0].meta), _share(part[0], key_groups))
    while batch := list(islice(rows, PIECE_ROWS)):
        if moved:
            batch = [(with_state(key, moved.get(state_of(key), state_of(key))), value) for key, value in batch]
        batch.sort()  # most are in order
        changes: list[Row] = [*batch]
        store.write(changes)


def _rows_of(
    part: Restored, key_groups: KeyGroupRange, directory: Path, options: BackendOptions
) -> Iterator[tuple[bytes, bytes]]:
    handle, fetched = part
    wanted = _range_of(handle).intersection(key_groups)
    if handle.backend == HeapStore.kind:
        return read_rows_file(fetched / ROWS_FILE, wanted) if handle.files else iter(())
    if handle.backend == "rocksdb":
        from .rows import rocksdb

        database = _database_options(options)
        return rocksdb.read_rows(fetched, directory / "import", database, wanted)
    if handle.backend == CANONICAL:
        from .savepoints.canonical import read_rows

        return read_rows(handle, fetched, wanted)
    raise IncompatibleStateError(
        f"the snapshot holds state of a vectorised operator ('{handle.backend}'), but this operator works on rows now; "
        "give it another uid, or go back to the operator the snapshot was taken of"
    )


def rows_of_snapshot(handle: KeyedHandle, fetched: Path, scratch: Path) -> Iterator[tuple[bytes, bytes]]:
    """All rows of a snapshot of rows. `scratch`: a directory in which nobody else writes meanwhile."""
    return _rows_of((handle, fetched), _range_of(handle), scratch, BackendOptions())


__all__ = ["BackendKind", "BackendOptions", "Restored", "create_keyed_backend", "rows_of_snapshot"]
