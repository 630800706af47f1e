"""Keyed state in savepoints: a Parquet file for every state of a subtask, the same from every backend.

What is in a file is in state_tables.py. A savepoint is taken like a snapshot (keyed_backend.py): at the barrier what
changed goes into a layer, and when the layers are written, the store is frozen (`FrozenRows`). From then on rows are
read from that, converted and written, a row group at a time, on the helper thread. Rows that had expired when the
barrier came are left out, whatever clean-up the state's TTL names.

The description in the handle is that of the other backends (backend_meta.py), so evolution and TTL go on after a
restore, into any backend at any range of key groups; a file is called there by the id of its state.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from ..errors import KeyTypeError
from ..key_classes import key_class_of
from ..key_encoding import key_fields
from ..key_groups import KeyGroupRange
from ..rows.backend_meta import BackendMeta, StateMeta, decode_meta
from ..rows.row_keys import group_of
from ..rows.row_store import FrozenRows, Uploads
from ..rows.ttl import DeadRows
from ..snapshots import FileHandle, KeyedHandle
from ..store.local_files import on_local_disk
from ..store.objects import Pause, Program
from .parquet_files import GROUP_BYTES, GROUP_ROWS, KEY_GROUP, MOST_ROWS, open_writer, read_row_groups
from .savepoint_store import StatePlace
from .state_tables import KEY, SUFFIX, VALUE, Row, StateTable, rows_of_table

_PIECE_ROWS = 1_024
_EXACT_COLUMNS = [KEY_GROUP, KEY, "namespace", SUFFIX, VALUE]


def local_name(state: StateMeta) -> str:
    return f"{state.state_id}.parquet"


class CanonicalCheckpoint:
    """The rows of one moment, to be written as a savepoint's files."""

    def __init__(
        self, rows: FrozenRows, meta: bytes, groups: KeyGroupRange, dead: DeadRows, place: StatePlace, directory: Path
    ) -> None:
        """directory: for the files until they are uploaded; of this savepoint alone."""
        self._rows = rows
        self._meta = meta
        self._groups = groups
        self._dead = dead
        self._place = place
        self._directory = directory

    def upload(self, uploads: Uploads) -> Program[dict[str, FileHandle]]:
        meta = decode_meta(self._meta)
        files: dict[str, FileHandle] = {}
        for state in meta.states:
            path = self._directory / local_name(state)
            with on_local_disk(f"the savepoint's file of state '{state.name}' cannot be written", self._directory):
                written = yield from self._write(path, meta, state)
            if written:
                files[path.name] = yield from uploads.put_file(path, name=self._place.file_name(state.name))
                path.unlink()
        return files

    def _write(self, path: Path, meta: BackendMeta, state: StateMeta) -> Program[bool]:
        """False: there are no rows, and no file. Pauses where it may be given up."""
        rows = self._rows.rows_of_state(state.state_id, self._groups)
        parts = _row_groups((row for row in rows if not self._dead(*row)) if self._dead else rows)
        first = next(parts, None)
        if first is None:
            return False
        table = StateTable(meta, state, field_names)
        expired_ms = self._dead.last_stamp(state.state_id)
        with open_writer(path, table.schema) as writer:
            writer.write_table(table.table(first, expired_ms))
            for part in parts:
                yield Pause(0)
                writer.write_table(table.table(part, expired_ms))
        return True

    def discard(self) -> None:
        self._rows.discard()
        shutil.rmtree(self._directory, ignore_errors=True)


def _row_groups(rows: Iterator[Row]) -> Iterator[list[Row]]:
    part: list[Row] = []
    size = 0
    while piece := list(islice(rows, min(_PIECE_ROWS, GROUP_ROWS, MOST_ROWS))):
        part += piece
        size += sum(len(key) + len(value) for key, value in piece)
        end = 0
        if len(part) >= MOST_ROWS or size >= GROUP_BYTES:
            end = len(part)
        elif len(part) >= GROUP_ROWS:
            end = _last_border(part, len(part) - len(piece))
        if end:
            yield part[:end]
            part = part[end:]
            size = sum(len(key) + len(value) for key, value in part)
    if part:
        yield part


def _last_border(rows: list[Row], since: int) -> int:
    """Where the last key group begins, if that is after `since`; 0: it does not."""
    last = group_of(rows[-1][0])
    return next((end for end in range(len(rows) - 1, since, -1) if group_of(rows[end - 1][0]) != last), 0)


def field_names(key_class: str) -> Sequence[str]:
    """Of a class of keys, which is imported if it was not met yet."""
    try:
        return key_fields(key_class_of(key_class)) or ()
    except KeyTypeError:
        return ()


def read_rows(handle: KeyedHandle, fetched: Path, wanted: KeyGroupRange) -> Iterator[Row]:
    """Rows of the wanted key groups: state by state, and in order within each. DamagedCheckpointError names the
    file."""
    for state in decode_meta(handle.meta).states:
        name = local_name(state)
        if name in handle.files:
            for batch in read_row_groups(fetched / name, handle.files[name].name, wanted, _EXACT_COLUMNS):
                yield from rows_of_table(batch, state.state_id)
