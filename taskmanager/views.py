"""What can be seen of a node: plain data for REST. Sizes in bytes, times in ms since the epoch."""

from __future__ import annotations

from dataclasses import dataclass, field


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


@dataclass(frozen=True, slots=True)
class TaskManagerView:
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
