"""The jobs of a cluster and who masters them. Pure: events in, commands out, time passed in.

A job is live from its record in the cluster's store to its ending there (cluster_store.py). For every live job
one master process runs, numbered 1, 2, 3, ... (a job that is submitted again counts on, so that what its masters
before have said late is nobody's word):

    started ── answers ──> healthy ── dies ──────────────> the next number is started, after a pause that grows
                              │  └──── silent too long ──> the next number is started beside it; when that one leads,
                              │                            the silent one is ended
                              └── says that the job has ended, which it wrote to the store ──> the job has ended

The dispatcher does not decide who leads a job: the job's log does. So a master that is only slow, or asleep, may be
joined by another one; the log deposes one of them, which then ends by itself, and nothing is done twice. That is why
a guess is good enough here, and why a dispatcher that was restarted simply looks which masters there are.

A job gives its slots back when it ends. What its task managers do not hear, because they are just being started again,
or because the master died before it said so, is made up for here: a task manager that says that slots are let to a job
that has ended is told to take them back, each time that it says so. A job that has ended can go on under its own id,
with slots that it had; so what is told carries the generation that the task manager knew of, and is refused where a
later master has asked for slots meanwhile. Jobs that are not known here are left alone: another dispatcher may know
them.

What is shown of a job is the latest word of a master that leads it (or the last that did).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from ...state.ids import Generation, JobId, SlotId
from ...state.store.cluster_store import JobSubmission
from ..job_states import TERMINAL_STATES, JobState
from ..views import JobOverview, TaskManagerView
from .unloaded import created

FIRST_PAUSE_MS = 200
MAX_PAUSE_MS = 30_000
START_MS = 60_000
"""What the start of a master's process may take, on a busy machine, before it says its first word."""
HEALTHY_MS = 60_000
"""A master that lived so long did not die of what it does at its start: the next pause is the first one again."""


LOADING_TRIES = 12
"""Masters of a job that ran before may die so often, one after the other, without having loaded it. With the pauses
between them that is some minutes: a mirror that is away, a full disk."""


@dataclass(frozen=True, slots=True)
class StartMaster:
    record: JobSubmission
    number: int
    gives_up: bool = False
    """It fails the job if it cannot load it, even one that ran before; enough others have tried."""


@dataclass(frozen=True, slots=True)
class EndMaster:
    """It is not needed any more, or has said its last word."""

    job_id: JobId
    number: int


@dataclass(frozen=True, slots=True)
class Forget:
    """More ended jobs are remembered than may be: delete what the store has of this one."""

    record: JobSubmission


@dataclass(frozen=True, slots=True)
class TakeBack:
    """Their job has ended, and has not given them back, as far as the task manager has heard."""

    task_manager: str
    job_id: JobId
    generation: Generation
    slots: tuple[SlotId, ...]


Command = StartMaster | EndMaster | Forget | TakeBack


@dataclass(slots=True)
class _Master:
    number: int
    started_ms: int
    heard_ms: int
    overview: JobOverview | None = None
    spoken: bool = False
    replaced: bool = False
    """It is silent: there must be another one beside it."""


@dataclass(slots=True)
class _Job:
    record: JobSubmission
    overview: JobOverview
    masters: dict[int, _Master] = field(default_factory=dict)
    last_number: int = 0
    not_loaded: int = 0
    """Masters that died since one has spoken of the job."""
    pause_ms: int = FIRST_PAUSE_MS
    start_at_ms: int | None = None
    """When the next master is to be started."""


@dataclass(frozen=True, slots=True)
class _Ended:
    record: JobSubmission
    overview: JobOverview
    last_number: int = 0
    """Of its masters, as far as this dispatcher knows."""


class Dispatcher:
    """Methods answer the commands to carry out. Times in ms that never jump back."""

    def __init__(self, *, silence_ms: int, capacity: int) -> None:
        """`silence_ms`: a master that says nothing for so long is joined by another one. `capacity`: ended jobs that
        are remembered."""
        self._silence_ms = silence_ms
        self._capacity = capacity
        self._live: dict[JobId, _Job] = {}
        self._ended: dict[JobId, _Ended] = {}

    # what there is

    def overviews(self) -> list[JobOverview]:
        """Live jobs, then ended ones; each newest first."""
        live = [job.overview for job in self._live.values()]
        return [*reversed(live), *(job.overview for job in reversed(self._ended.values()))]

    def is_live(self, job_id: JobId) -> bool:
        return job_id in self._live

    def ended(self, job_id: JobId) -> JobOverview | None:
        return self._ended[job_id].overview if job_id in self._ended else None

    def overview(self, job_id: JobId) -> JobOverview | None:
        if job_id in self._live:
            return self._live[job_id].overview
        return self.ended(job_id)

    def live_job_named(self, name: str) -> JobId | None:
        return next((job_id for job_id, job in self._live.items() if job.record.job_name == name), None)

    def record(self, job_id: JobId) -> JobSubmission | None:
        if job_id in self._live:
            return self._live[job_id].record
        return self._ended[job_id].record if job_id in self._ended else None

    def master(self, job_id: JobId) -> int | None:
        """Number of the master to ask about the job: the one that leads, as far as is known."""
        job = self._live.get(job_id)
        if job is None or not job.masters:
            return None
        return max(job.masters.values(), key=lambda m: (_leads(m.overview), m.heard_ms, m.number)).number

    def masters(self) -> list[tuple[JobId, int]]:
        """All that are believed to live."""
        return [(job_id, number) for job_id, job in self._live.items() for number in job.masters]

    # events

    def ended_before(self, record: JobSubmission, overview: JobOverview) -> None:
        """An ended job is found in the store."""
        self._ended[record.job_id] = _Ended(record, overview)

    def submitted(self, record: JobSubmission, now_ms: int, masters: Iterable[int] = ()) -> list[Command]:
        """A job is to run. `masters`: numbers of those that live already (this dispatcher is a new one)."""
        before = self._ended.pop(record.job_id, None)
        job = self._live[record.job_id] = _Job(record, created(record))
        job.last_number = 0 if before is None else before.last_number
        for number in sorted(masters):
            job.masters[number] = _Master(number, now_ms, now_ms)
            job.last_number = number
        return [] if job.masters else [self._start(job, now_ms)]

    def answered(self, job_id: JobId, number: int, overview: JobOverview, now_ms: int) -> list[Command]:
        """A master's word. If it is the job's end, it is in the store."""
        job = self._live.get(job_id)
        if job is None or number not in job.masters:
            return []
        master = job.masters[number]
        master.heard_ms, master.overview, master.spoken, master.replaced = now_ms, overview, True, False
        job.not_loaded = 0
        if now_ms - master.started_ms >= HEALTHY_MS:
            job.pause_ms = FIRST_PAUSE_MS
        state = JobState(overview.state)
        if state is JobState.DEPOSED:
            del job.masters[number]
            return [EndMaster(job_id, number), *self._ensure(job, now_ms)]
        if _leads(overview) or number == self.master(job_id):
            job.overview = replace(overview, started_ms=job.record.created_at_ms)
        if state in TERMINAL_STATES:
            return self._has_ended(job)
        return []

    def task_managers_said(self, views: Iterable[TaskManagerView]) -> list[Command]:
        """How their slots are."""
        left: dict[tuple[str, JobId, Generation], list[SlotId]] = {}
        for view in views:
            for slot in view.slots:
                if (job_id := JobId(slot.job_id)) in self._ended:
                    left.setdefault((view.id, job_id, Generation(slot.generation)), []).append(SlotId(slot.id))
        return [TakeBack(*whose, tuple(slots)) for whose, slots in left.items()]

    def loading(self, job_id: JobId, number: int, now_ms: int) -> None:
        """A master lives, and has nothing to say of the job yet."""
        job = self._live.get(job_id)
        if job is not None and number in job.masters:
            master = job.masters[number]
            master.heard_ms, master.spoken, master.replaced = now_ms, True, False

    def died(self, job_id: JobId, number: int, now_ms: int) -> list[Command]:
        job = self._live.get(job_id)
        master = None if job is None else job.masters.pop(number, None)
        if job is None or master is None:
            return []
        job.not_loaded += master.overview is None
        return self._ensure(job, now_ms)

    def tick(self, now_ms: int) -> list[Command]:
        """Masters that are due, and those that fell silent."""
        commands: list[Command] = []
        for job in self._live.values():
            if job.start_at_ms is not None and now_ms >= job.start_at_ms:
                commands.append(self._start(job, now_ms))
            for master in list(job.masters.values()):
                limit_ms = self._silence_ms if master.spoken else max(START_MS, self._silence_ms)
                if not master.replaced and now_ms - master.heard_ms > limit_ms:
                    master.replaced = True
                    if all(other.replaced for other in job.masters.values()):
                        commands.append(self._start(job, now_ms))
            commands += self._end_superseded(job)
        return commands

    def _end_superseded(self, job: _Job) -> list[Command]:
        """Silent ones, once another one leads: they may hang for ever."""
        if not any(_leads(master.overview) and not master.replaced for master in job.masters.values()):
            return []
        silent = [number for number, master in job.masters.items() if master.replaced]
        for number in silent:
            del job.masters[number]
        return [EndMaster(job.record.job_id, number) for number in silent]

    def _ensure(self, job: _Job, now_ms: int) -> list[Command]:
        """There is, or will be, a master that is not silent."""
        if all(master.replaced for master in job.masters.values()) and job.start_at_ms is None:
            job.start_at_ms = now_ms + job.pause_ms
            job.pause_ms = min(job.pause_ms * 2, MAX_PAUSE_MS)
        return []

    def _start(self, job: _Job, now_ms: int) -> Command:
        job.last_number += 1
        job.start_at_ms = None
        job.masters[job.last_number] = _Master(job.last_number, now_ms, now_ms)
        return StartMaster(job.record, job.last_number, gives_up=job.not_loaded + 1 >= LOADING_TRIES)

    def _has_ended(self, job: _Job) -> list[Command]:
        job_id = job.record.job_id
        del self._live[job_id]
        self._ended[job_id] = _Ended(job.record, job.overview, job.last_number)
        commands: list[Command] = [EndMaster(job_id, number) for number in job.masters]
        while len(self._ended) > self._capacity:
            oldest = next(iter(self._ended))
            commands.append(Forget(self._ended.pop(oldest).record))
        return commands


def _leads(overview: JobOverview | None) -> bool:
    return overview is not None and overview.state not in (JobState.CREATED.value, JobState.DEPOSED.value)
