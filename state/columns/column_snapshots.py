"""Snapshots of column stores: a base and deltas, Arrow IPC files in which rows lie sorted by key group.

The synchronous part copies the rows changed since the last checkpoint that is known complete; the program sorts them
by key group, writes one file and uploads it as shared. A checkpoint refers to the chain of that complete checkpoint
plus its own delta, so a file is re-used only when the checkpoint that uploaded it is known complete (PROTOCOLS 7),
and after an aborted one nothing needs to be undone: its changes still count as changed. A new base is written instead
when the chain's rows would pass one and a half times the live ones; and when a snapshot was taken since then that has
not the whole chain, and of which we know neither completion nor abortion: it may have subsumed that checkpoint. Windows
that are closed are not named in the description any more; their rows in older files are passed over.

A file's columns: key_group, namespace (start of the window), the key columns, the accumulators. Its record batches
begin and end at borders of key groups, and the description tells which groups lie in which batch, so that a restore
at another parallelism reads only what it needs.

A savepoint has all live rows in one Parquet file instead (parquet_files.py), with the names that the stream's columns
have, and nothing of it concerns the chain.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ..errors import IncompatibleStateError, StateError
from ..ids import CheckpointId
from ..key_groups import KeyGroupRange, columns_key_groups, values_of
from ..savepoints.parquet_files import GROUP_ROWS, KEY_GROUP, open_writer, read_row_groups
from ..savepoints.savepoint_store import StatePlace
from ..snapshots import CANONICAL_COLUMNS, FileHandle, KeyedHandle
from ..store.local_files import on_local_disk
from ..store.objects import Program
from .accumulator_spec import AccumulatorSpec
from .column_store import ColumnStore

if TYPE_CHECKING:
    from ..store.checkpoint_store import Uploads

BACKEND = "columns"
_VERSION = 1
_STATE = "windows"
"""What savepoints call the state."""
NAMESPACE = "namespace"
_BATCH_ROWS = 4096
"""Key groups are packed into record batches of about this size: 128 tiny ones would be mostly headers."""
_REBASE_AT = 1.5
"""Rows of a chain per live row. Deltas of half a base cost less to read than rewriting the base more often."""


class _File(msgspec.Struct, frozen=True):
    name: str
    rows: int
    groups: list[tuple[int, int]]
    """First and last key group of every record batch."""


_WHOLE = _File("rows.parquet", 0, [])
"""Of a savepoint: the file says itself what is in it."""


class _Description(msgspec.Struct, frozen=True):
    """KeyedHandle.meta."""

    version: int
    operator: str
    """What the namespaces mean, e.g. the kind and size of windows."""
    keys: list[str]
    accumulators: list[str]
    namespaces: list[int]
    fired: list[int]
    files: list[_File]


@dataclass(frozen=True, slots=True)
class ColumnLayout:
    """What the rows of an operator's stores are made of."""

    operator: str
    key_types: tuple[pa.DataType, ...]
    specs: tuple[AccumulatorSpec, ...]
    key_columns: tuple[str, ...] = ()
    """What they are called in savepoints."""

    @property
    def key_names(self) -> list[str]:
        return [str(kind) for kind in self.key_types]

    @property
    def accumulator_names(self) -> list[str]:
        return [spec.name for spec in self.specs]

    @property
    def readable_names(self) -> list[str]:
        """Of the columns of a savepoint's file, told apart without regard to case, as SQL does it."""
        keys = self.key_columns or [f"key {i}" for i in range(len(self.key_types))]
        values = [spec.kind if spec.column is None else f"{spec.kind}_{spec.column}" for spec in self.specs]
        names = [KEY_GROUP, NAMESPACE]
        taken = set(names)
        for name in (*keys, *values):
            while name.casefold() in taken:
                name += "_"
            taken.add(name.casefold())
            names.append(name)
        return names


@dataclass(frozen=True, slots=True)
class RestoredRows:
    """Rows of one namespace."""

    namespace: int
    fired: bool
    keys: list[pa.Array]
    values: dict[AccumulatorSpec, pa.Array]


_Groups = npt.NDArray[np.uint16]
_Chain = tuple[tuple[_File, FileHandle], ...]


class ColumnSnapshots:
    """Takes the snapshots of one operator in one subtask, and remembers which files are re-usable."""

    def __init__(
        self,
        layout: ColumnLayout,
        key_groups: KeyGroupRange,
        max_parallelism: int,
        uploads: Callable[[CheckpointId], Uploads],
    ) -> None:
        self.epoch = 1
        """Changes are marked with it; it grows at every snapshot."""
        self._layout = layout
        self._key_groups = key_groups
        self._max_parallelism = max_parallelism
        self._uploads = uploads
        self._complete_epoch = 0
        self._complete_chain: _Chain = ()
        self._pending: dict[CheckpointId, tuple[int, _Chain]] = {}
        self._unresolved: dict[CheckpointId, _Chain] = {}
        """What each snapshot has referred to that was there already, until it is known what became of it."""

    def freeze(
        self, checkpoint_id: CheckpointId, stores: Mapping[int, ColumnStore], fired: Sequence[int]
    ) -> Program[tuple[KeyedHandle, ...]]:
        """Copy what changed; the program writes and uploads it. `stores` by namespace."""
        epoch, chain = self.epoch, self._complete_chain
        self.epoch += 1
        changed = {namespace: store.changed_since(self._complete_epoch) for namespace, store in stores.items()}
        live = sum(store.size for store in stores.values())
        rows = sum(file.rows for file, _handle in chain) + sum(map(len, changed.values()))
        if rows > _REBASE_AT * live or any(reused != chain for reused in self._unresolved.values()):
            chain = ()
            changed = {namespace: store.all_slots() for namespace, store in stores.items()}
        self._unresolved[checkpoint_id] = chain
        copied = [
            _copy(self._layout, namespace, stores[namespace], slots)
            for namespace, slots in changed.items()
            if len(slots)
        ]
        return self._write(checkpoint_id, epoch, chain, copied, list(stores), list(fired))

    def freeze_whole(
        self,
        checkpoint_id: CheckpointId,
        stores: Mapping[int, ColumnStore],
        fired: Sequence[int],
        place: StatePlace,
        directory: Path,
    ) -> Program[tuple[KeyedHandle, ...]]:
        """Copy everything; the program writes it as a savepoint's file, which is in `directory` meanwhile."""
        copied = [_copy(self._layout, start, store, store.all_slots()) for start, store in stores.items() if store.size]
        description = self._describe(list(stores), list(fired), [_WHOLE] if copied else [])
        return self._write_whole(checkpoint_id, copied, description, place, directory / f"savepoint-{checkpoint_id}")

    def _write_whole(
        self,
        checkpoint_id: CheckpointId,
        copied: list[pa.RecordBatch],
        description: _Description,
        place: StatePlace,
        directory: Path,
    ) -> Program[tuple[KeyedHandle, ...]]:
        if not description.namespaces:
            return ()
        files: dict[str, FileHandle] = {}
        if copied:
            rows, groups = _sorted(pa.concat_batches(copied), len(self._layout.key_types), self._max_parallelism)
            path = directory / _WHOLE.name
            try:
                with on_local_disk("the savepoint's file of windows cannot be written", directory):
                    _write_parquet(path, rows.rename_columns(self._layout.readable_names), groups)
                name = place.file_name(_STATE)
                files[_WHOLE.name] = yield from self._uploads(checkpoint_id).put_file(path, name=name)
            finally:
                shutil.rmtree(directory, ignore_errors=True)
        return (self._handle(CANONICAL_COLUMNS, files, description),)

    def _describe(self, namespaces: list[int], fired: list[int], files: list[_File]) -> _Description:
        layout = self._layout
        return _Description(
            _VERSION, layout.operator, layout.key_names, layout.accumulator_names, namespaces, fired, files
        )

    def _handle(self, kind: str, files: dict[str, FileHandle], description: _Description) -> KeyedHandle:
        meta = msgspec.json.encode(description)
        return KeyedHandle(kind, self._key_groups.first, self._key_groups.last, files, meta)

    def _write(
        self,
        checkpoint_id: CheckpointId,
        epoch: int,
        chain: _Chain,
        copied: list[pa.RecordBatch],
        namespaces: list[int],
        fired: list[int],
    ) -> Program[tuple[KeyedHandle, ...]]:
        if copied:
            data, rows, groups = _encode(pa.concat_batches(copied), len(self._layout.key_types), self._max_parallelism)
            handle = yield from self._uploads(checkpoint_id).put_bytes(data, shared=True)
            chain = (*chain, (_File(f"{len(chain)}-{checkpoint_id}.arrow", rows, groups), handle))
        # The only thing the slot's thread shares with this program: read after the acknowledgement.
        self._pending[checkpoint_id] = (epoch, chain)
        if not namespaces:
            return ()
        files = {file.name: handle for file, handle in chain}
        return (self._handle(BACKEND, files, self._describe(namespaces, fired, [file for file, _handle in chain])),)

    def checkpoint_completed(self, checkpoint_id: CheckpointId) -> None:
        self._unresolved = {id_: each for id_, each in self._unresolved.items() if id_ > checkpoint_id}
        epoch, chain = self._pending.pop(checkpoint_id, (0, ()))
        if epoch > self._complete_epoch:
            self._complete_epoch, self._complete_chain = epoch, chain
            # a list, at once: the program of an aborted checkpoint may still be putting its own in
            self._pending = {id_: each for id_, each in list(self._pending.items()) if each[0] > epoch}

    def checkpoint_aborted(self, checkpoint_id: CheckpointId) -> None:
        self._pending.pop(checkpoint_id, None)
        self._unresolved.pop(checkpoint_id, None)


def _copy(layout: ColumnLayout, namespace: int, store: ColumnStore, slots: npt.NDArray[np.int32]) -> pa.RecordBatch:
    values = store.arrays(slots)
    names = [NAMESPACE, *(f"key {i}" for i in range(len(layout.key_types))), *layout.accumulator_names]
    spaces = pa.array(np.full(len(slots), namespace, np.int64))
    return pa.RecordBatch.from_arrays([spaces, *store.keys(slots), *(values[spec] for spec in layout.specs)], names)


def _encode(rows: pa.RecordBatch, key_count: int, max_parallelism: int) -> tuple[bytes, int, list[tuple[int, int]]]:
    """(IPC file of the rows sorted by key group, number of rows, key groups of each record batch)."""
    sorted_rows, groups = _sorted(rows, key_count, max_parallelism)
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)
    borders = []
    with pa.ipc.new_file(sink, sorted_rows.schema, options=options) as writer:
        for start, end in _parts(groups):
            writer.write_batch(sorted_rows.slice(start, end - start))
            borders.append((int(groups[start]), int(groups[end - 1])))
    return sink.getvalue().to_pybytes(), len(groups), borders


def _sorted(rows: pa.RecordBatch, key_count: int, max_parallelism: int) -> tuple[pa.RecordBatch, _Groups]:
    """By key group, which is the first column then; and the key group of each row."""
    groups = columns_key_groups(rows.columns[1 : 1 + key_count], max_parallelism)
    order = np.argsort(groups, kind="stable")
    groups = groups[order]
    names = [KEY_GROUP, *rows.schema.names]
    return pa.RecordBatch.from_arrays([pa.array(groups), *rows.take(pa.array(order)).columns], names), groups


def _write_parquet(path: Path, rows: pa.RecordBatch, groups: _Groups) -> None:
    rows = rows.set_column(0, KEY_GROUP, rows.column(0).cast(pa.int32()))
    with open_writer(path, rows.schema) as writer:
        for start, end in _parts(groups, GROUP_ROWS):
            writer.write_batch(rows.slice(start, end - start), row_group_size=end - start)


def _parts(groups: _Groups, size: int = _BATCH_ROWS) -> Iterator[tuple[int, int]]:
    """Cut sorted rows at borders of key groups into parts of about `size` rows, or one group where that is larger."""
    ends = [*(np.flatnonzero(np.diff(groups)) + 1).tolist(), len(groups)]
    start = 0
    for end in ends:
        if end - start >= size or end == len(groups):
            yield start, end
            start = end


def restored_rows(
    layout: ColumnLayout, keyed: Sequence[tuple[KeyedHandle, Path]], key_groups: KeyGroupRange
) -> Iterator[RestoredRows]:
    """The rows of these snapshots that belong to the key groups; later rows of a key replace earlier ones.

    IncompatibleStateError when the snapshot is of another operator, of other keys, or lacks an aggregate."""
    for handle, directory in keyed:
        description = _described(layout, handle)
        for file in description.files:
            path = directory / file.name
            if handle.backend == CANONICAL_COLUMNS:
                parts = _read_parquet(path, handle.files[file.name].name, layout, description, key_groups)
            else:
                parts = _read(path, file, key_groups)
            for rows in parts:
                yield from _by_namespace(layout, description, rows)


def without_rows(handle: KeyedHandle) -> KeyedHandle:
    """What the handle says of its state, and none of it."""
    description = msgspec.json.decode(handle.meta, type=_Description)
    meta = msgspec.json.encode(msgspec.structs.replace(description, files=[]))
    return replace(handle, files={}, meta=meta)


def _described(layout: ColumnLayout, handle: KeyedHandle) -> _Description:
    if handle.backend not in (BACKEND, CANONICAL_COLUMNS):
        raise IncompatibleStateError(
            f"the snapshot holds state of the {handle.backend!r} backend, but this operator is vectorised now; "
            "give it another uid, or go back to the operator the snapshot was taken of"
        )
    try:
        description = msgspec.json.decode(handle.meta, type=_Description)
    except msgspec.DecodeError as error:
        raise StateError(f"the description of vectorised state cannot be read: {error}") from error
    if description.version != _VERSION:
        raise IncompatibleStateError(
            f"vectorised state has format {description.version}, this version of penstock reads {_VERSION}"
        )
    _compare("windows", description.operator, layout.operator)
    _compare("key columns", ", ".join(description.keys), ", ".join(layout.key_names))
    missing = set(layout.accumulator_names) - set(description.accumulators)
    if missing:
        raise IncompatibleStateError(
            f"the snapshot has no aggregate {', '.join(sorted(missing))}; give the operator another uid to start empty"
        )
    return description


def _compare(what: str, old: str, new: str) -> None:
    if old != new:
        raise IncompatibleStateError(f"the snapshot's {what} are ({old}), the operator's are ({new})")


def _read(path: Path, file: _File, key_groups: KeyGroupRange) -> Iterator[pa.RecordBatch]:
    with pa.OSFile(str(path)) as source, pa.ipc.open_file(source) as reader:
        for i, (first, last) in enumerate(file.groups):
            if not len(key_groups.intersection(KeyGroupRange(first, last))):
                continue
            rows = reader.get_batch(i)
            groups = values_of(rows.column(0), np.uint16)
            start, end = np.searchsorted(groups, [key_groups.first, key_groups.last + 1]).tolist()
            yield rows.slice(start, end - start)


def _read_parquet(
    path: Path, name: str, layout: ColumnLayout, description: _Description, key_groups: KeyGroupRange
) -> Iterator[pa.RecordBatch]:
    """In the columns' own types, under the names that they have in checkpoints."""
    names = [KEY_GROUP, NAMESPACE, *(f"key {i}" for i in range(len(layout.key_types))), *description.accumulators]
    for rows in read_row_groups(path, name, key_groups):
        columns = rows.columns
        columns[2 : 2 + len(layout.key_types)] = [
            column.cast(kind) for column, kind in zip(columns[2:], layout.key_types, strict=False)
        ]
        yield pa.RecordBatch.from_arrays(columns, names)


def _by_namespace(layout: ColumnLayout, description: _Description, rows: pa.RecordBatch) -> Iterator[RestoredRows]:
    namespaces: npt.NDArray[Any] = values_of(rows.column(1), np.int64)
    key_count = len(layout.key_types)
    for namespace in description.namespaces:
        here = np.flatnonzero(namespaces == namespace)
        if len(here):
            part = rows.take(pa.array(here))
            values = {spec: part.column(spec.name) for spec in layout.specs}
            keys = part.columns[2 : 2 + key_count]
            yield RestoredRows(namespace, namespace in description.fired, keys, values)
