"""What a checkpoint is made of: handles of files, snapshots of operators and subtasks, and the metadata document.

All of it is JSON in `chk-<id>-<attempt>/_metadata` (bytes as base64), written and read by `checkpoint_store.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from .ids import Attempt, CheckpointId, OperatorId, VertexId

METADATA_VERSION = 3
"""2: files may lie in packs. 3: operator state, which a reader of 2 would lose without a word."""
OLDEST_METADATA_VERSION = 1


CANONICAL, CANONICAL_COLUMNS = "canonical", "canonical columns"
"""What handles of savepoints call their backend: rows (canonical.py), and columns of vectorised operators."""


@dataclass(frozen=True, slots=True)
class FileHandle:
    """One object in the store, or a part of one in which several small files are packed (packing.py)."""

    name: str
    size_bytes: int
    checksum: str
    """xxh3_128 of the content, hex."""
    shared: bool = False
    """Later checkpoints may refer to the object too (incremental RocksDB files): reference counted."""
    offset: int | None = None
    """Where the file begins in a pack; None: the file is the whole object."""


@dataclass(frozen=True, slots=True)
class KeyedHandle:
    """Keyed state of one operator subtask: files under the local names the backend knows them by."""

    backend: str
    """'heap', 'rocksdb' or 'columns'; of a savepoint 'canonical' or 'canonical columns'."""
    first_key_group: int
    last_key_group: int
    """Inclusive."""
    files: dict[str, FileHandle]
    meta: bytes = b""
    """The backend's own description (state names, ids, types, serializers), msgspec-encoded."""


@dataclass(frozen=True, slots=True)
class OperatorStateHandle:
    """One operator state of one subtask (operator_state.py): `count` of the elements that were written together."""

    name: str
    mode: str
    """'split', 'union' or 'broadcast': who gets which elements."""
    count: int
    first: int = 0
    """Of a part that a restore hands out; what is written begins with 0."""
    inline: bytes = b""
    file: FileHandle | None = None
    """Where the elements are when they are not inline."""
    written_as: Any = None
    """Description of the values' type (serializers.py)."""


@dataclass(frozen=True, slots=True)
class SplitSnapshot:
    """One source split and how far it was read, encoded by the source."""

    split_id: str
    state: bytes
    watermark_state: bytes = b""
    """The split's watermark generator (PROTOCOLS 12)."""


@dataclass(frozen=True, slots=True)
class OperatorSnapshot:
    """What one operator of a subtask leaves in a checkpoint."""

    operator_id: OperatorId
    keyed: tuple[KeyedHandle, ...] = ()
    operator_state: bytes | None = None
    watermark: int = -(2**63)
    idle: bool = False
    splits: tuple[SplitSnapshot, ...] = ()
    committables: tuple[bytes, ...] = ()
    """What a sink's writer has prepared for this checkpoint, encoded by the sink."""
    lists: tuple[OperatorStateHandle, ...] = ()

    def with_files(self, changed: Callable[[FileHandle], FileHandle]) -> OperatorSnapshot:
        """The same with other handles."""
        keyed = [replace(h, files={name: changed(f) for name, f in h.files.items()}) for h in self.keyed]
        lists = [replace(state, file=changed(state.file)) if state.file is not None else state for state in self.lists]
        return replace(self, keyed=tuple(keyed), lists=tuple(lists))

    def files(self) -> list[FileHandle]:
        keyed = [file for handle in self.keyed for file in handle.files.values()]
        return keyed + [state.file for state in self.lists if state.file is not None]


@dataclass(frozen=True, slots=True)
class InFlightHandle:
    """Batches that an unaligned barrier overtook at one end of a channel, in order (taskmanager/in_flight.py)."""

    operator_id: OperatorId
    """Whose output they are: its subtasks send them again."""
    edge: str
    """Which of its outgoing edges (runtime/graph/job_graph.py, edge_name); empty: they are a source's, still to go
    through its chain."""
    source: int
    """Subtask that sent them."""
    receiver: int
    """Subtask that they were for; -1: not known yet."""
    received: bool
    """They had arrived: they go before what its sender still had."""
    file: FileHandle


@dataclass(frozen=True, slots=True)
class SubtaskSnapshot:
    """What one subtask acknowledges: its operators' snapshots, how long each phase took, and how much it was."""

    vertex_id: VertexId
    subtask: int
    operators: tuple[OperatorSnapshot, ...]
    align_ms: float = 0.0
    sync_ms: float = 0.0
    async_ms: float = 0.0
    uploaded_bytes: int = 0
    """Written for this checkpoint: its new files, and what stands in the metadata itself."""
    state_bytes: int = 0
    """All that it refers to, files of earlier checkpoints as well."""
    start_delay_ms: float = 0.0
    """From the trigger to the first barrier, as far as the two clocks agree."""
    processed_bytes: int = 0
    """Of input consumed from the first barrier to the last."""
    in_flight: tuple[InFlightHandle, ...] = ()
    in_flight_bytes: int = 0
    unaligned: bool = False
    """The snapshot was taken before the barrier had come on all channels, or the barrier overtook output."""

    def with_files(self, changed: Callable[[FileHandle], FileHandle]) -> SubtaskSnapshot:
        return replace(
            self,
            operators=tuple(operator.with_files(changed) for operator in self.operators),
            in_flight=tuple(replace(handle, file=changed(handle.file)) for handle in self.in_flight),
        )

    def files(self) -> list[FileHandle]:
        state = [file for operator in self.operators for file in operator.files()]
        return [*state, *(handle.file for handle in self.in_flight)]


@dataclass(frozen=True, slots=True)
class CheckpointMetadata:
    """The document a restore reads. Complete by construction: every expected subtask is in it."""

    job_id: str
    job_name: str
    attempt: Attempt
    checkpoint_id: CheckpointId
    triggered_at_ms: int
    completed_at_ms: int
    parallelism: dict[str, int]
    """Vertex id -> parallelism of every vertex: with it a reader checks that no subtask is missing."""
    max_parallelism: dict[str, int]
    subtasks: tuple[SubtaskSnapshot, ...]
    enumerators: dict[str, bytes] = field(default_factory=dict)
    """Operator id of a source -> state of its split enumerator."""
    pending_commits: dict[str, tuple[bytes, ...]] = field(default_factory=dict)
    """Operator id of a sink -> committables of EARLIER checkpoints whose commit was not confirmed yet."""
    format_version: int = METADATA_VERSION
