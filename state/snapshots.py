"""What a checkpoint is made of: handles of files, snapshots of operators and subtasks, and the metadata document.

All of it is JSON in `chk-<id>-<attempt>/_metadata` (bytes as base64), written and read by `checkpoint_store.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .ids import Attempt, CheckpointId, OperatorId, VertexId

METADATA_VERSION = 2
"""2: files may lie in packs."""
OLDEST_METADATA_VERSION = 1


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
    """'heap', 'rocksdb' or 'columns'."""
    first_key_group: int
    last_key_group: int
    """Inclusive."""
    files: dict[str, FileHandle]
    meta: bytes = b""
    """The backend's own description (state names, ids, types, serializers), msgspec-encoded."""


@dataclass(frozen=True, slots=True)
class SplitSnapshot:
    """One source split and how far it was read, encoded by the source."""

    split_id: str
    state: bytes
    watermark_state: bytes = b""
    """The split's watermark generator (PROTOCOLS 12)."""


@dataclass(frozen=True, slots=True)
class OperatorSnapshot:
    operator_id: OperatorId
    keyed: tuple[KeyedHandle, ...] = ()
    operator_state: bytes | None = None
    watermark: int = -(2**63)
    idle: bool = False
    splits: tuple[SplitSnapshot, ...] = ()
    committables: tuple[bytes, ...] = ()
    """What a sink's writer has prepared for this checkpoint, encoded by the sink."""


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

    def files(self) -> list[FileHandle]:
        return [f for op in self.operators for handle in op.keyed for f in handle.files.values()]


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
