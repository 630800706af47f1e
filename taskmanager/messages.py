"""Control messages between the job master and slots. Typed, frozen, picklable; the one list of them.

Every message of a master carries (generation, attempt), the job's newest; a slot refuses lower ones (PROTOCOLS 5).
Every message of a slot carries the attempt that its subtask was deployed with; the master drops those of another one.
Regions restart alone, so subtasks of several attempts run side by side: what a message to a slot concerns is said by
the message, never by its attempt.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ..runtime.elements import Savepoint
from ..runtime.graph.job_graph import Vertex
from ..runtime.graph.partitioning import Partitioning
from ..state.ids import Attempt, CheckpointId, Generation, JobId, OperatorId, SlotId, VertexId
from ..state.rows.cell_reads import CellRead, CellRows
from ..state.snapshots import InFlightHandle, OperatorSnapshot, SplitSnapshot, SubtaskSnapshot
from ..state.store.counted_objects import ObjectCounts
from .views import SubtaskDetails


@dataclass(frozen=True, slots=True)
class SubtaskId:
    """Vertex and index: unique within one attempt."""

    vertex: VertexId
    index: int

    def __str__(self) -> str:
        return f"{self.vertex}[{self.index}]"


@dataclass(frozen=True, slots=True)
class ChannelId:
    """One channel of one edge: from subtask to subtask. `edge` is the edge's index in the job graph."""

    edge: int
    source: int
    target: int


@dataclass(frozen=True, slots=True)
class SlotAddress:
    """Where a slot is reached: its Unix socket from the same machine, else its TCP port."""

    task_manager: str
    """Slots of one task manager share a machine."""
    host: str
    port: int
    unix_path: str
    pid: int = 0


@dataclass(frozen=True, slots=True)
class OutputEdge:
    """How one operator's output leaves a subtask."""

    edge: int
    operator: int
    tag: str | None
    partitioning: Partitioning
    targets: tuple[SlotId, ...]
    """The slot of every subtask of the target vertex."""
    name: str = ""
    """In checkpoints (job_graph.edge_name)."""


@dataclass(frozen=True, slots=True)
class InputEdge:
    edge: int
    input_index: int
    partitioning: Partitioning
    sources: tuple[SlotId, ...]
    name: str = ""
    """In checkpoints."""
    sender: OperatorId = OperatorId("")  # noqa: RUF009 - a str
    """The operator whose output it is."""
    """The slot of every subtask of the source vertex."""


@dataclass(frozen=True, slots=True)
class RestoreOperator:
    """What one new subtask takes over from the last checkpoint, for one operator."""

    operator_id: OperatorId
    snapshots: tuple[OperatorSnapshot, ...]
    """Keyed handles: of all old subtasks whose key groups overlap. operator_state, splits: only those this subtask
    takes over (others are None / empty). Watermark and idleness of all of them are merged by minimum."""


# master -> slot ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Deploy:
    """Create the subtask, fetch and open its state; answer Initialized. No element is accepted before."""

    generation: Generation
    attempt: Attempt
    job_id: JobId
    job_name: str
    vertex: Vertex
    index: int
    inputs: tuple[InputEdge, ...]
    outputs: tuple[OutputEdge, ...]
    target_parallelism: dict[int, int]
    """Edge -> parallelism of its target vertex."""
    target_max_parallelism: dict[int, int]
    topological_index: int = 0
    """Position of the vertex in the job graph: higher is further downstream."""
    restore: tuple[RestoreOperator, ...] = ()
    in_flight: tuple[InFlightHandle, ...] = ()
    """What it sends again before anything new, in this order (in_flight.py)."""
    in_flight_ends: bool = False
    """Something was under way in the restored checkpoint: every channel says when that is over."""
    reusable_checkpoint: CheckpointId | None = None
    """The restored one, if it is this job's: its shared files may be referred to again (PROTOCOLS 7)."""
    config: dict[str, str] = field(default_factory=dict)
    peers: dict[SlotId, SlotAddress] = field(default_factory=dict)
    """Of all slots of the attempt; empty where they share a process."""


@dataclass(frozen=True, slots=True)
class Start:
    """All subtasks that restart together are initialized: run. Those of the slot that wait for it do."""

    generation: Generation
    attempt: Attempt


@dataclass(frozen=True, slots=True)
class Cancel:
    """Stop these tasks; answer Canceled for each."""

    generation: Generation
    attempt: Attempt
    subtasks: tuple[SubtaskId, ...] = ()
    """Empty: all of the slot."""


@dataclass(frozen=True, slots=True)
class TriggerCheckpoint:
    """To source subtasks: inject the barrier. The attempt is a part of the checkpoint's identity."""

    generation: Generation
    attempt: Attempt
    checkpoint_id: CheckpointId
    triggered_at_ms: int
    exactly_once: bool
    persist: bool
    unaligned_after_ms: int | None = None
    savepoint: Savepoint | None = None


@dataclass(frozen=True, slots=True)
class AbortCheckpoint:
    generation: Generation
    attempt: Attempt
    checkpoint_id: CheckpointId


@dataclass(frozen=True, slots=True)
class CheckpointCompleted:
    """The completion is in the log (PROTOCOLS 1, 7)."""

    generation: Generation
    attempt: Attempt
    checkpoint_id: CheckpointId


@dataclass(frozen=True, slots=True)
class AssignSplits:
    """To one source subtask, as answer to its SplitRequest or on its own account. `last`: no more will come."""

    generation: Generation
    attempt: Attempt
    subtask: SubtaskId
    operator_id: OperatorId
    splits: tuple[SplitSnapshot, ...]
    last: bool = False


@dataclass(frozen=True, slots=True)
class AlignWatermark:
    """To one source subtask, as answer to its ReportWatermark (jobmanager/watermark_alignment.py)."""

    generation: Generation
    attempt: Attempt
    subtask: SubtaskId
    lowest: int | None
    """Watermark of the group; None: nobody holds the others back."""


@dataclass(frozen=True, slots=True)
class FinishTasks:
    """The final checkpoint is logged and committed: all drained tasks end as FINISHED (PROTOCOLS 10)."""

    generation: Generation
    attempt: Attempt


@dataclass(frozen=True, slots=True)
class ReadState:
    """Somebody asks what a key has in a state of this subtask: answer StateRead."""

    generation: Generation
    attempt: Attempt
    subtask: SubtaskId
    number: int
    """Of the question."""
    operator_id: OperatorId
    read: CellRead


ToSlot = (
    Deploy | Start | Cancel | TriggerCheckpoint | AbortCheckpoint | CheckpointCompleted | AssignSplits | FinishTasks
    | ReadState | AlignWatermark
)  # fmt: skip

# slot -> master ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Initialized:
    attempt: Attempt
    subtask: SubtaskId


@dataclass(frozen=True, slots=True)
class Running:
    attempt: Attempt
    subtask: SubtaskId


@dataclass(frozen=True, slots=True)
class Drained:
    """End of input reached, all output sent; barriers are still answered."""

    attempt: Attempt
    subtask: SubtaskId


@dataclass(frozen=True, slots=True)
class Finished:
    attempt: Attempt
    subtask: SubtaskId


@dataclass(frozen=True, slots=True)
class Canceled:
    attempt: Attempt
    subtask: SubtaskId


@dataclass(frozen=True, slots=True)
class Failed:
    """The task is closed already. `pickled_cause`: cloudpickle of the exception if it can be pickled."""

    attempt: Attempt
    subtask: SubtaskId
    operator: str
    message: str
    traceback: str
    pickled_cause: bytes | None = None
    exception: str = ""
    """Qualified name of the cause's class."""


@dataclass(frozen=True, slots=True)
class BarrierInjected:
    """A source subtask has put the barrier into its outputs: its splits may be assigned again (PROTOCOLS 9)."""

    attempt: Attempt
    subtask: SubtaskId
    checkpoint_id: CheckpointId


@dataclass(frozen=True, slots=True)
class Acknowledge:
    attempt: Attempt
    subtask: SubtaskId
    checkpoint_id: CheckpointId
    snapshot: SubtaskSnapshot


@dataclass(frozen=True, slots=True)
class Decline:
    attempt: Attempt
    subtask: SubtaskId
    checkpoint_id: CheckpointId
    reason: str


@dataclass(frozen=True, slots=True)
class SplitRequest:
    attempt: Attempt
    subtask: SubtaskId
    operator_id: OperatorId


@dataclass(frozen=True, slots=True)
class ReportWatermark:
    """Of a source subtask that is aligned with others, again and again."""

    attempt: Attempt
    subtask: SubtaskId
    group: str
    watermark: int | None
    """The lowest of its active splits; None: it holds nobody back."""


@dataclass(frozen=True, slots=True)
class ProcessObjects:
    """What a slot's process has asked of the object store since it serves the job."""

    slot: SlotId
    counts: ObjectCounts


@dataclass(frozen=True, slots=True)
class TaskReport:
    """Pushed about once a second while running: counters since the start of the attempt, gauges as they are."""

    attempt: Attempt
    subtask: SubtaskId
    records_in: int
    records_out: int
    bytes_in: int
    bytes_out: int
    watermark: int
    busy_ms: float
    idle_ms: float
    backpressured_ms: float
    counters: dict[str, int] = field(default_factory=dict)
    """'<operator name>.<metric>' -> value, e.g. 'windows.records_late_total'."""
    at_ns: int = 0
    """When this was so, on the slot's monotonic clock: rates are differences of reports over differences of this."""
    details: SubtaskDetails = field(default_factory=SubtaskDetails)
    objects: ProcessObjects | None = None
    """Put in where the slot has a process of its own."""


@dataclass(frozen=True, slots=True)
class StateRead:
    """The answer to ReadState."""

    attempt: Attempt
    subtask: SubtaskId
    number: int
    found: CellRows | str
    """Or why there is no answer."""
    unknown: bool = False
    """Because there is no such state."""


FromSlot = (
    Initialized | Running | Drained | Finished | Canceled | Failed | BarrierInjected | Acknowledge | Decline
    | SplitRequest | TaskReport | StateRead | ReportWatermark
)  # fmt: skip
