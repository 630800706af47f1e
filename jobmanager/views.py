"""What can be seen of a job and of a cluster: plain data, made by those who know it, shown by REST and the archive.

Names are ours; rest/ turns them into Flink's wire. Times are ms since the epoch, -1 means "not yet" or "never";
durations are ms. A view is a snapshot: nothing in it changes. It can be written as JSON and read back (msgspec), which
is how the view of an ended job is kept.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from functools import lru_cache

import xxhash

from ..runtime.elements import MIN_WATERMARK
from ..runtime.logs import LogFile as LogFile
from ..state.store.counted_objects import ObjectCounts as ObjectCounts
from ..taskmanager.views import SlotView as SlotView
from ..taskmanager.views import SubtaskDetails as SubtaskDetails
from ..taskmanager.views import TaskManagerView as TaskManagerView

NEVER = -1
_HEX_DIGITS = 32


@lru_cache(maxsize=4096)
def vertex_hex(vertex_id: str) -> str:
    """A vertex's id as it is shown: 32 hex digits, a hash of the job graph's id where that is something else."""
    if len(vertex_id) == _HEX_DIGITS and set(vertex_id) <= set("0123456789abcdef"):
        return vertex_id
    return xxhash.xxh3_128_hexdigest(vertex_id.encode())


@dataclass(frozen=True, slots=True)
class SubtaskMetrics:
    """Counters since the start of the attempt; rates over the last report interval, per second."""

    records_in: int = 0
    records_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    busy_ms: float = 0.0
    idle_ms: float = 0.0
    backpressured_ms: float = 0.0
    records_in_rate: float = 0.0
    records_out_rate: float = 0.0
    bytes_in_rate: float = 0.0
    bytes_out_rate: float = 0.0
    busy_rate: float = 0.0
    """Ms of each second; with the next two about 1,000 together."""
    idle_rate: float = 0.0
    backpressured_rate: float = 0.0
    watermark: int = MIN_WATERMARK
    counters: dict[str, float] = field(default_factory=dict)
    """'<operator name>.<metric>' -> value: the operators' own and the user's."""
    reported_at_ms: int = NEVER
    details: SubtaskDetails = field(default_factory=SubtaskDetails)


@dataclass(frozen=True, slots=True)
class SubtaskView:
    index: int
    state: str
    """Of execution_graph.SubtaskState."""
    attempt: int
    timestamps: dict[str, int]
    """State -> when this attempt of the subtask entered it; states it was never in are missing."""
    metrics: SubtaskMetrics
    slot: str = ""
    task_manager: str = ""
    endpoint: str = ""
    """host:port of its slot."""


@dataclass(frozen=True, slots=True)
class OperatorView:
    id: str
    name: str
    uid: str | None
    kind: str
    face: str
    output_type: str


@dataclass(frozen=True, slots=True)
class VertexView:
    id: str
    """32 hex digits, as Flink's: derived from the job graph's vertex id where that is something else."""
    name: str
    parallelism: int
    max_parallelism: int
    slot_sharing_group: str
    operators: tuple[OperatorView, ...]
    subtasks: tuple[SubtaskView, ...]
    is_source: bool = False
    resources: dict[str, float] = field(default_factory=dict)
    """Of each slot of its group: cpu, memory (bytes), gpu, and others by name."""


@dataclass(frozen=True, slots=True)
class EdgeView:
    source: str
    """Vertex id, as in VertexView."""
    target: str
    ship_strategy: str
    """FORWARD, HASH, REBALANCE, RESCALE, BROADCAST, GLOBAL, CUSTOM or SHUFFLE."""
    side_output: str | None = None


@dataclass(frozen=True, slots=True)
class ExceptionView:
    """A failure of the job, newest first in its history."""

    timestamp_ms: int
    exception: str
    """Qualified name of the exception's class."""
    message: str
    stacktrace: str
    """The user's own frames first."""
    task: str = ""
    """'<vertex name> (2/4)', empty when it was no subtask that failed."""
    vertex: str = ""
    subtask: int = -1
    attempt: int = 0
    operator: str = ""
    task_manager: str = ""
    endpoint: str = ""
    restart_delay_ms: int = NEVER
    """Until the next attempt; -1: there was none."""
    concurrent: tuple[ExceptionView, ...] = ()
    """What else failed of the same attempt while it was being stopped, oldest first."""


@dataclass(frozen=True, slots=True)
class CheckpointSubtaskView:
    index: int
    ack_ms: int
    """When it acknowledged; -1: not yet."""
    start_delay_ms: int = 0
    """From the trigger to the barrier's arrival."""
    align_ms: int = 0
    sync_ms: int = 0
    async_ms: int = 0
    checkpointed_bytes: int = 0
    """Written for this checkpoint."""
    state_bytes: int = 0
    """All that the checkpoint refers to."""
    processed_bytes: int = 0
    """Of input consumed while it aligned."""
    persisted_bytes: int = 0
    """Of records under way that were written into it (unaligned checkpoints)."""
    unaligned: bool = False


@dataclass(frozen=True, slots=True)
class CheckpointView:
    id: int
    attempt: int
    status: str
    """IN_PROGRESS, COMPLETED or FAILED."""
    triggered_ms: int
    expected_subtasks: dict[str, int]
    """Vertex id (as in VertexView) -> parallelism."""
    acknowledged: dict[str, tuple[CheckpointSubtaskView, ...]]
    """Vertex id -> its subtasks that have."""
    latest_ack_ms: int = NEVER
    duration_ms: int = NEVER
    """From the trigger to its end, which is the entry in the log if it completes; under way: until now."""
    checkpointed_bytes: int = 0
    state_bytes: int = 0
    is_savepoint: bool = False
    stops_job: bool = False
    """A savepoint with which the job is to end."""
    external_path: str = ""
    discarded: bool = False
    failure_ms: int = NEVER
    failure: str = ""


@dataclass(frozen=True, slots=True)
class RestoredView:
    id: int
    restored_ms: int
    external_path: str
    is_savepoint: bool = False


@dataclass(frozen=True, slots=True)
class CheckpointsView:
    """Counts are of this master's life; the history holds the newest ones, newest first."""

    triggered: int = 0
    completed: int = 0
    failed: int = 0
    in_progress: int = 0
    restored_count: int = 0
    history: tuple[CheckpointView, ...] = ()
    latest_completed: CheckpointView | None = None
    """No savepoint."""
    latest_savepoint: CheckpointView | None = None
    """Completed."""
    latest_failed: CheckpointView | None = None
    latest_restored: RestoredView | None = None


class OperationState(enum.Enum):
    IN_PROGRESS = "IN_PROGRESS"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"


class Operation:
    """What somebody has asked for, and takes a while."""

    __slots__ = ()

    state: OperationState

    @property
    def ended(self) -> bool:
        return self.state is not OperationState.IN_PROGRESS


@dataclass(frozen=True, slots=True)
class SavepointOperation(Operation):
    """A savepoint that somebody has asked for."""

    request: str
    path: str
    """Where it is, or will be; empty: it was refused."""
    stop: bool
    drain: bool
    state: OperationState
    requested_ms: int = NEVER
    ended_ms: int = NEVER
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class CheckpointOperation(Operation):
    """A checkpoint that somebody has asked for, besides those of the interval."""

    request: str
    state: OperationState
    requested_ms: int = NEVER
    ended_ms: int = NEVER
    checkpoint_id: int = NEVER
    """-1: it waits for its turn, or was refused."""
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class DisposalOperation(Operation):
    """A savepoint that somebody wants to be deleted."""

    request: str
    path: str
    state: OperationState
    ended_ms: int = NEVER
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class CheckpointConfigView:
    interval_ms: int
    timeout_ms: int
    min_pause_ms: int
    max_concurrent: int
    exactly_once: bool
    tolerable_failures: int
    """-1: any number."""
    retained_on_cancel: bool
    state_backend: str
    storage: str
    unaligned_after_ms: int | None = None
    """None: barriers overtake nothing."""


@dataclass(frozen=True, slots=True)
class JobOverview:
    """What a list of jobs shows."""

    id: str
    name: str
    state: str
    """Of job_states.JobState."""
    started_ms: int
    ended_ms: int
    modified_ms: int
    """Of the last change of state."""
    bounded: bool
    subtask_states: dict[str, int]
    """SubtaskState -> how many."""
    parallelism: int = 1
    batch_mode: bool = False


@dataclass(frozen=True, slots=True)
class JobView:
    overview: JobOverview
    attempt: int
    generation: int
    restarts: int
    max_parallelism: int
    timestamps: dict[str, int]
    """JobState -> when it was last entered."""
    vertices: tuple[VertexView, ...]
    edges: tuple[EdgeView, ...]
    checkpoints: CheckpointsView
    checkpoint_config: CheckpointConfigView | None
    """None: checkpoints are off."""
    exceptions: tuple[ExceptionView, ...]
    config: dict[str, str]
    """The job's own options, secrets masked."""
    restart_strategy: str = ""
    warnings: tuple[str, ...] = ()
    collected: tuple[str, ...] = ()
    """Names of the collectors whose records can be fetched."""
    savepoints: tuple[SavepointOperation, ...] = ()
    """What was asked of this master, as long as it is remembered (savepoints.py)."""
    requested_checkpoints: tuple[CheckpointOperation, ...] = ()
    as_of_ms: int = NEVER
    """When this was so."""
    objects: ObjectCounts = field(default_factory=ObjectCounts)
    """What its slots, and on a cluster its master, have asked of object stores in this master's life."""
