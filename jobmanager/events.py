"""What the job master is told and what it orders: the one list of its events and commands.

The job master (job_master.py) is pure. A shell (local_cluster.py, the simulator, later an actor) feeds it one event
at a time, with the time, and carries out the commands it answers, in their order:

| command      | the shell ...                                                    | and answers, some time later   |
|--------------|------------------------------------------------------------------|--------------------------------|
| SendToSlot   | delivers the message; one slot's messages keep their order       | SlotMessage, when a slot talks |
| RunProgram   | drives the program against the store, on a helper thread         | WorkDone or WorkFailed         |
| RunBlocking  | calls the function on a helper thread                            | WorkDone or WorkFailed         |
| SetTimer     | waits until that time; timers are never taken back               | TimerFired                     |
| AcquireSlots | starts or finds slots                                            | SlotOffered each, SlotsDenied  |
| ReleaseSlots | takes the slots back; they are idle and may serve again          |                                |
| DiscardSlot  | kills the slot: it did not obey, nothing may be heard of it again |                               |
| EndJob       | stops feeding: this is the last command                          |                                |
| AnswerState  | hands it to whoever asked, in StateRequested                     |                                |

`WorkDone` and the others carry the tag of their command. Tags tell attempts and checkpoints apart, so an answer that
comes too late is recognised by its tag alone. For every RunProgram and RunBlocking there is exactly one answer.

Time is in ms and never jumps back: a shell anchors its monotonic clock at the wall-clock time of its start.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..runtime.elements import MIN_WATERMARK
from ..runtime.resources import NO_RESOURCES, Resources
from ..state.errors import PenstockError
from ..state.ids import Attempt, CheckpointId, SlotId, VertexId
from ..state.store.objects import Program
from ..taskmanager.messages import FromSlot, SlotAddress, ToSlot
from .gateway import StateAnswer, StateQuestion
from .job_states import JobState as JobState

Tag = tuple[Any, ...]
"""Hashable; made and understood by the job master alone. The first item says what it is about."""

# events -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SlotMessage:
    slot: SlotId
    message: FromSlot


@dataclass(frozen=True, slots=True)
class WorkDone:
    tag: Tag
    result: Any


@dataclass(frozen=True, slots=True)
class WorkFailed:
    tag: Tag
    error: Exception


@dataclass(frozen=True, slots=True)
class SlotOffered:
    """The slot is up, runs nothing, and is this job's until it is released, discarded or lost."""

    slot: SlotId
    address: SlotAddress | None = None
    """None where all slots share a process."""
    resources: Resources = NO_RESOURCES
    """What it was asked for with, and has."""


@dataclass(frozen=True, slots=True)
class SlotsDenied:
    """The slots asked for cannot be had; those already offered remain."""

    reason: str
    never: bool = False
    """No node could give such slots, however idle it were."""


@dataclass(frozen=True, slots=True)
class SlotLost:
    """The slot is known to be dead: nothing of it runs any more."""

    slot: SlotId
    reason: str


@dataclass(frozen=True, slots=True)
class TimerFired:
    tag: Tag


@dataclass(frozen=True, slots=True)
class CancelRequested:
    """Commit what is logged, stop everything, forget the job."""


@dataclass(frozen=True, slots=True)
class StopRequested:
    """Take a last checkpoint, commit it, stop; the job can be continued from there (Ctrl-C, SIGTERM)."""

    remember: bool = False
    """In the log: if this master does not live to carry it out, the next one does, instead of running the job."""


@dataclass(frozen=True, slots=True)
class SavepointRequested:
    """Take a savepoint, and perhaps stop with it; what became of it is shown by `request` (savepoints.py)."""

    request: str
    """Whoever asks again with the same one gets the same answer."""
    target: str | None = None
    """The directory it goes into; None: state.savepoints.dir."""
    stop: bool = False
    drain: bool = False
    """Before the job stops, event time ends: all windows fire."""


@dataclass(frozen=True, slots=True)
class CheckpointRequested:
    """Take a checkpoint now, whatever the interval says (requested_checkpoints.py). `request` as above."""

    request: str


@dataclass(frozen=True, slots=True)
class StateRequested:
    """Somebody asks what a key has in a state (state_queries.py); `number`: for the answer."""

    number: int
    question: StateQuestion


Event = (
    SlotMessage | WorkDone | WorkFailed | SlotOffered | SlotsDenied | SlotLost | TimerFired | CancelRequested
    | StopRequested | SavepointRequested | CheckpointRequested | StateRequested
)  # fmt: skip

# commands ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SendToSlot:
    slot: SlotId
    message: ToSlot


@dataclass(frozen=True, slots=True)
class RunProgram:
    tag: Tag
    program: Program[Any]


@dataclass(frozen=True, slots=True)
class RunBlocking:
    """User or connector code that may block: discovering splits, committing, cleaning up."""

    tag: Tag
    call: Callable[[], Any]


@dataclass(frozen=True, slots=True)
class SetTimer:
    at_ms: int
    tag: Tag


@dataclass(frozen=True, slots=True)
class AcquireSlots:
    """One more for each, that has these resources."""

    slots: tuple[Resources, ...]


@dataclass(frozen=True, slots=True)
class ReleaseSlots:
    slots: tuple[SlotId, ...]


@dataclass(frozen=True, slots=True)
class DiscardSlot:
    slot: SlotId
    reason: str


@dataclass(frozen=True, slots=True)
class EndJob:
    """The job is in its last state. `failure`: why, if that is FAILED or DEPOSED."""

    state: JobState
    failure: Exception | None = None


@dataclass(frozen=True, slots=True)
class AnswerState:
    number: int
    answer: StateAnswer | PenstockError


Command = (
    SendToSlot | RunProgram | RunBlocking | SetTimer | AcquireSlots | ReleaseSlots | DiscardSlot | EndJob | AnswerState
)  # fmt: skip

# what can be seen from outside ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class VertexStatus:
    id: VertexId
    name: str
    parallelism: int
    subtask_states: tuple[str, ...]
    records_in: int = 0
    """Since the start of the attempt, like all counters here."""
    records_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    watermark: int = MIN_WATERMARK
    """The lowest of its subtasks."""
    busy_ms: float = 0.0
    idle_ms: float = 0.0
    backpressured_ms: float = 0.0
    counters: dict[str, int] = field(default_factory=dict)
    """'<operator name>.<metric>' -> sum over subtasks."""


@dataclass(frozen=True, slots=True)
class CheckpointStatus:
    """Counts are of this master's life; `last_completed` may come from an earlier one."""

    triggered: int = 0
    completed: int = 0
    failed: int = 0
    in_progress: int = 0
    last_completed: CheckpointId | None = None
    last_metadata_name: str | None = None
    last_duration_ms: int = 0
    """From the trigger to the entry in the log."""
    last_uploaded_bytes: int = 0
    last_failure: str | None = None
    restored: CheckpointId | None = None
    """What the current attempt was restored from."""


@dataclass(frozen=True, slots=True)
class JobStatus:
    job_id: str
    job_name: str
    state: JobState
    attempt: Attempt
    restarts: int
    vertices: tuple[VertexStatus, ...]
    checkpoints: CheckpointStatus
    last_failure: str | None = None
    failed_operator: str | None = None
    failure_traceback: str | None = None
    """Of the subtask, if the last failure was one's."""
    restart_delay_ms: int | None = None
    """Between the last failure and the attempt after it; None where there is none."""
