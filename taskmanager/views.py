"""What can be seen of a node and what runs there: plain data for REST. Sizes in bytes, times in ms since the epoch."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..runtime.resources import NO_RESOURCES, Resources
from ..state.statistics import StateStatistics
from ..state.store.downloads import RestoredBytes


@dataclass(frozen=True, slots=True)
class SlotView:
    id: str
    job_id: str
    """Empty: blank."""
    pid: int
    rss_bytes: int = 0
    alive: bool = True
    budget_bytes: int = 0
    """What the process may use of memory (memory_budget.py); 0: unknown."""
    resources: Resources = NO_RESOURCES
    """It has them to itself."""
    generation: int = 0
    """The highest of the job's masters' that its task manager knows of."""


@dataclass(frozen=True, slots=True)
class TaskManagerView:
    """One node."""

    id: str
    host: str
    node_id: str
    pid: int
    data_port: int
    slots_total: int
    slots_free: int
    slots: tuple[SlotView, ...]
    heartbeat_ms: int
    """When it was last heard."""
    cores: int
    memory_bytes: int
    """Of the machine."""
    memory_available_bytes: int
    process_memory_bytes: int
    """Resident, of the task manager and all its slots."""
    versions: dict[str, str] = field(default_factory=dict)
    """penstock, python and the packages that must agree."""
    metrics: dict[str, float] = field(default_factory=dict)
    problem: str = ""
    """Why it cannot start slots, if it cannot."""
    resources: Resources = NO_RESOURCES
    """Of the node, for slots and actors that ask for some."""

    @property
    def resources_free(self) -> Resources:
        """As far as slots take them."""
        free = self.resources
        for slot in self.slots:
            free = free.without(slot.resources)
        return free


@dataclass(frozen=True, slots=True)
class KeyGroupRecords:
    """Records of one key group that a subtask has read since its attempt began; of large batches estimated."""

    key_group: int
    records: int


@dataclass(frozen=True, slots=True)
class SubtaskDetails:
    """What a subtask tells of itself to be shown, beside what others need to know: as it was when it reported."""

    batches_in: int = 0
    """Since the start of the attempt; of a source, what it read."""
    credits_available_bytes: int = 0
    """What its receivers would take without having consumed anything more. Over all output channels."""
    queued_in_bytes: int = 0
    """Received and not consumed yet."""
    queued_out_bytes: int = 0
    """Waits for credit."""
    record_latency_ms: int | None = None
    """From the source to here, of the newest latency marker; None: none has come."""
    source_lag_records: int | None = None
    """Of a source that knows."""
    source_timestamp: int | None = None
    """Event timestamp of the record that a source gave last."""
    states: dict[str, StateStatistics] = field(default_factory=dict)
    """Operator id -> what it remembers; operators without state are not in it."""
    restored: RestoredBytes = field(default_factory=RestoredBytes)
    """Files that it began with."""
    hottest_key_groups: tuple[KeyGroupRecords, ...] = ()
    """Of a hash exchange with several receivers: those with most records, the hottest first."""
