"""What passes between a job's master, the task managers, and the slots that are let to the job.

    master -> task manager   allocate: room for so many slots; answers offers. release, discard: give back, kill
    master -> slot           lease: the slot serves this job from here on, and this generation of its masters
                             deliver, poll: control messages, in both directions (messages.py)

A slot serves one job and one version of its code, over all its restarts, then its process ends: nothing that one job
imported or left behind is seen by another (PROTOCOLS 28). Every call carries the generation of the master that makes
it; task managers and slots remember the highest one per job and answer lower ones with SupersededError (PROTOCOLS 5).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ...runtime.resources import NO_RESOURCES, Resources
from ...state.errors import PenstockError
from ...state.ids import Generation, JobId
from ..messages import SlotAddress
from .user_code import UserCode


class SupersededError(PenstockError):
    """A later master leads the job: whoever gets this must stop."""


class LeaseRefusedError(PenstockError):
    """The slot cannot serve: another job has it, or another version of this job's code. Ask for another slot."""


@dataclass(frozen=True, slots=True)
class JobLease:
    """What a slot needs to know of the job it is let to."""

    job_id: JobId
    job_name: str
    generation: Generation
    storage: str
    """Directory or URL of the job's log and checkpoints."""
    code: UserCode = field(default_factory=UserCode)
    config: dict[str, str] = field(default_factory=dict)
    """Of the cluster, overridden by the job's own."""
    secret: bytes = b""
    """Only slots that know it are let into the job's network."""

    def __repr__(self) -> str:
        """Without the secret and the configuration, which may hold one: a lease can get into a log."""
        return f"JobLease({self.job_id}, {self.job_name!r}, generation {self.generation})"


@dataclass(frozen=True, slots=True)
class SlotStatus:
    """A slot's process as it is now."""

    address: SlotAddress
    pid: int
    job_id: str
    """Empty: blank."""
    generation: int
    rss_bytes: int
    cpu_seconds: float
    stepped_ms: int
    """Since the slot's thread was last seen at work, or waiting for some: large while user code blocks it."""
    contact_ms: int
    """Since it last heard of its master (blank: of its task manager)."""
    metrics: dict[str, float] = field(default_factory=dict)
    """process_metrics.py."""
    budget_bytes: int = 0
    """memory_budget.py."""
    resources: Resources = NO_RESOURCES
    """That Ray started it with."""
