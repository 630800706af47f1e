"""What a savepoint or checkpoint holds, for whoever has no more than its path: which states, and their rows.

No class of the job is needed and none is imported. Of a savepoint the columns of its files are shown as they are
(state_tables.py); rows of a checkpoint are read from its backend's files and shown alike. Vectorised operators' state
can be shown from savepoints only: their checkpoints are chains of changes.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa

from ..backend_factory import rows_of_snapshot
from ..errors import ConfigurationError
from ..key_encoding import decode_plain
from ..key_groups import KeyGroupRange
from ..key_signatures import show as show_key
from ..operator_state import RestoredElements
from ..rows.backend_meta import BackendMeta, StateMeta, decode_meta
from ..rows.row_keys import state_of
from ..serialization.plain_rows import PlainRows, as_json
from ..serialization.readable_types import readable
from ..serialization.type_evolution import show
from ..snapshots import CANONICAL, CANONICAL_COLUMNS, CheckpointMetadata, KeyedHandle, OperatorStateHandle
from ..store.checkpoint_store import METADATA, CheckpointStore
from ..store.located_objects import LocatedObjects
from ..store.objects import ObjectStore, Program, run_program
from ..store.obstore_objects import ObstoreObjects
from .canonical import local_name
from .parquet_files import read_row_groups
from .savepoint_store import is_savepoint, located, read_savepoint
from .state_tables import EXACT, StateTable

_CHECKPOINT = re.compile(r"(?P<root>.*)/(?P<name>[^/]+/chk-\d+-\d+)(/_metadata)?/*")
_ROW_BACKENDS = ("heap", "rocksdb", CANONICAL)
_WINDOWS = "windows"
_MOST_ROWS = 4_096
Shown = dict[str, Any]
"""A row: column -> value."""


@dataclass(frozen=True, slots=True)
class StoredState:
    """One state of one operator."""

    operator: str
    """Its id: the uid, if it has one."""
    name: str
    kind: str
    """'value', 'list', 'map', 'reducing', 'aggregating', 'timers', 'windows'; of operator state 'split', 'union' or
    'broadcast'."""
    key: str
    """Types of the keys, as far as they are known; empty where there are none."""
    type: str
    """Of the values; empty where there are none."""
    bytes: int | None
    """None where it lies together with others."""


class StoredSnapshot:
    """A savepoint or checkpoint that was opened."""

    def __init__(self, metadata: CheckpointMetadata, objects: ObjectStore) -> None:
        self.metadata = metadata
        self._objects = objects

    @staticmethod
    def open(path: str, options: Mapping[str, str]) -> StoredSnapshot:
        """`options`: a configuration as flat strings, for the store. ConfigurationError, DamagedCheckpointError,
        ObjectStoreError."""
        directory = located(path)
        if "://" not in directory and not Path(directory).is_dir():  # opening the store would create it
            raise ConfigurationError(f"there is no directory {directory}")
        if is_savepoint(directory):
            root: ObjectStore = ObstoreObjects("memory://")
            objects = LocatedObjects(root, lambda location: ObstoreObjects(location, options))
            return StoredSnapshot(run_program(read_savepoint(directory), objects), objects)
        found = _CHECKPOINT.fullmatch(directory)
        if found is None:
            raise ConfigurationError(
                f"{path} is neither a savepoint (savepoint-<job>-<unique>) nor a checkpoint (<job>/chk-<id>-<attempt>)"
            )
        store = ObstoreObjects(found["root"], options)
        return StoredSnapshot(run_program(CheckpointStore.read_metadata(f"{found['name']}/{METADATA}"), store), store)

    def states(self) -> list[StoredState]:
        return states_of(self.metadata)

    def rows(self, state: StoredState) -> Iterator[Shown]:
        """Of all subtasks. ConfigurationError if they cannot be shown; DamagedCheckpointError names the file."""
        for snapshot in (each for subtask in self.metadata.subtasks for each in subtask.operators):
            if snapshot.operator_id != state.operator:
                continue
            for handle in snapshot.keyed:
                yield from self._rows(handle, state)
            for part in (part for part in snapshot.lists if part.name == state.name and part.mode == state.kind):
                yield from self._elements(part)
                if part.mode == "broadcast":  # all copies are equal
                    return

    def _rows(self, handle: KeyedHandle, state: StoredState) -> Iterator[Shown]:
        if handle.backend not in _ROW_BACKENDS:
            if state.kind == _WINDOWS:
                yield from self._shown_files(_readable(handle, state.operator))
            return
        meta = decode_meta(handle.meta)
        described = next((each for each in meta.states if each.name == state.name), None)
        if described is not None and handle.backend == CANONICAL:
            yield from self._shown_files(_only(handle, local_name(described)))
        elif described is not None:
            with self._fetched(handle) as (fetched, scratch):
                yield from _shown_rows(handle, fetched, scratch, meta, described)

    def _shown_files(self, handle: KeyedHandle) -> Iterator[Shown]:
        with self._fetched(handle) as (fetched, _scratch):
            for name, file in handle.files.items():
                for batch in read_row_groups(fetched / name, file.name, _range_of(handle)):
                    yield from _as_rows(pa.Table.from_batches([batch]))

    @contextmanager
    def _fetched(self, handle: KeyedHandle) -> Iterator[tuple[Path, Path]]:
        with tempfile.TemporaryDirectory(prefix="penstock-state-") as name:
            fetched, scratch = Path(name) / "fetched", Path(name) / "scratch"
            fetched.mkdir()
            self._run(CheckpointStore.fetch(handle, fetched))
            yield fetched, scratch

    def _elements(self, part: OperatorStateHandle) -> Iterator[Shown]:
        data = part.inline if part.file is None else self._run(CheckpointStore.fetch_bytes(part.file))
        rows, column = PlainRows([part.written_as]), readable(part.written_as)
        for number, element in enumerate(RestoredElements.of(part, data).elements):
            shown: Shown = {"index": number}
            if part.mode == "broadcast":
                key, element = msgspec.msgpack.decode(element, type=tuple[bytes, bytes])
                shown = {"key": decode_plain(key)}
            yield {**shown, "value": column.array([rows.value(element)]).to_pylist()[0]}

    def _run(self, program: Program[Any]) -> Any:
        return run_program(program, self._objects)


def states_of(metadata: CheckpointMetadata) -> list[StoredState]:
    """In the order of operators' ids and states' names."""
    found: dict[tuple[str, str], StoredState] = {}
    for state in _parts(metadata):
        known = found.get((state.operator, state.name))
        if known is not None:
            key = known.key or state.key  # of a subtask that had no keys they are not known
            size = None if known.bytes is None or state.bytes is None else known.bytes + state.bytes
            state = replace(state, key=key, bytes=size)
        found[state.operator, state.name] = state
    return [found[place] for place in sorted(found)]


def _parts(metadata: CheckpointMetadata) -> Iterator[StoredState]:
    for snapshot in (each for subtask in metadata.subtasks for each in subtask.operators):
        for handle in snapshot.keyed:
            yield from _described(snapshot.operator_id, handle)
        for part in snapshot.lists:
            size = len(part.inline) if part.file is None else part.file.size_bytes
            yield StoredState(snapshot.operator_id, part.name, part.mode, "", show(part.written_as), size)


def _described(operator: str, handle: KeyedHandle) -> Iterator[StoredState]:
    if handle.backend not in _ROW_BACKENDS:
        whole = sum(file.size_bytes for file in handle.files.values())
        yield StoredState(operator, _WINDOWS, _WINDOWS, "", "", whole)
        return
    meta = decode_meta(handle.meta)
    key = " or ".join(map(show_key, meta.keys))
    for state in meta.states:
        kind = show(state.written_as[-1]) if state.written_as else ""
        file = handle.files.get(local_name(state))
        size = None if handle.backend != CANONICAL else file.size_bytes if file else 0
        yield StoredState(operator, state.name, state.kind, key, kind, size)


def _readable(handle: KeyedHandle, operator: str) -> KeyedHandle:
    if handle.backend != CANONICAL_COLUMNS:
        raise ConfigurationError(f"the state of the vectorised operator '{operator}' can be shown from savepoints only")
    return handle


def _only(handle: KeyedHandle, name: str) -> KeyedHandle:
    return replace(handle, files={each: file for each, file in handle.files.items() if each == name})


def _shown_rows(
    handle: KeyedHandle, fetched: Path, scratch: Path, meta: BackendMeta, state: StateMeta
) -> Iterator[Shown]:
    table = StateTable(meta, state, lambda _class: ())
    rows = (row for row in rows_of_snapshot(handle, fetched, scratch) if state_of(row[0]) == state.state_id)
    while part := list(islice(rows, _MOST_ROWS)):
        yield from _as_rows(table.table(part))


def _as_rows(table: pa.Table) -> list[Shown]:
    rows: list[Shown] = table.select([name for name in table.column_names if name not in EXACT]).to_pylist()
    return rows


def _range_of(handle: KeyedHandle) -> KeyGroupRange:
    return KeyGroupRange(handle.first_key_group, handle.last_key_group)


def as_text(value: Any) -> str:
    """A value of a row, for a table."""
    return value if isinstance(value, str) and value.isprintable() else as_json(value)
