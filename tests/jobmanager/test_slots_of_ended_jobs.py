"""Slots of jobs that have ended come to be free, whatever is lost; slots that a job uses stay its own.

One task manager's pool and the dispatcher, both pure, and what passes between them and masters: it is lost, comes
late, or twice; masters are replaced, task manager and dispatcher are started again, jobs that have ended go on.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest

from penstock.jobmanager.cluster.dispatcher import Dispatcher, TakeBack
from penstock.jobmanager.views import NEVER, JobOverview, SlotView, TaskManagerView
from penstock.state.ids import Generation, JobId, SlotId
from penstock.state.store.cluster_store import JobSubmission
from penstock.taskmanager.messages import SlotAddress
from penstock.taskmanager.processes.leases import SlotStatus, SupersededError
from penstock.taskmanager.processes.task_manager import AskSlot, Command, KillSlot, StartSlot, TaskManager

NOW_MS = 1_000
SLOTS = 6


@dataclass
class Job:
    id: JobId
    generation: Generation = field(default=Generation(0))
    live: bool = False
    slots: list[SlotId] = field(default_factory=list)
    """That its master believes to have."""

    @property
    def record(self) -> JobSubmission:
        return JobSubmission(self.id, self.id, 1_000, "/storage")

    @property
    def ending(self) -> JobOverview:
        return JobOverview(self.id, self.id, "SUSPENDED", 1_000, NEVER, 1_000, False, {})


@dataclass(frozen=True)
class Release:
    """A call on its way, by a master or the dispatcher."""

    job: JobId
    generation: Generation
    slots: tuple[SlotId, ...]


class World:
    def __init__(self) -> None:
        self.jobs = {job_id: Job(job_id) for job_id in (JobId("job-1"), JobId("job-2"))}
        self.living: dict[SlotId, tuple[JobId, Generation] | None] = {}
        """Processes, and who has leased each."""
        self.silent: list[SlotId] = []
        """Those that have not introduced themselves to this life of the task manager."""
        self.lives = 0
        self.under_way: list[Release | TaskManagerView] = []
        self.task_manager_is_restarted()
        self.dispatcher_is_restarted()

    # ---- the task manager

    def task_manager_is_restarted(self) -> None:
        self.lives += 1
        self.pool = TaskManager(f"slot-{self.lives}-", SLOTS, 2, ask_interval_ms=2_000, ask_timeout_ms=10_000)
        self.silent = list(self.living)
        for slot in self.living:
            self.pool.adopt(slot, NOW_MS)
        self.carry_out(self.pool.tick(NOW_MS))

    def carry_out(self, commands: list[Command]) -> None:
        for command in commands:
            match command:
                case StartSlot(slot):
                    self.living[slot] = None
                    self.silent.append(slot)
                case KillSlot(slot, reason):
                    lease = self.living.pop(slot)
                    assert lease is None or not self.is_used(*lease), (
                        f"{slot} is killed while {lease} uses it: {reason}"
                    )
                case AskSlot(slot):
                    self.carry_out(self.pool.seen(slot, self.status(slot), NOW_MS))

    def is_used(self, job_id: JobId, generation: Generation) -> bool:
        return self.jobs[job_id].live and self.jobs[job_id].generation == generation

    def status(self, slot: SlotId) -> SlotStatus:
        job_id, generation = self.living[slot] or ("", 0)
        return SlotStatus(SlotAddress("tm", "host", 1, "", pid=7), 7, job_id, generation, 0, 0, 0, 0)

    def introduce(self, slot: SlotId) -> None:
        self.silent.remove(slot)
        if slot in self.living:
            self.carry_out(self.pool.started(slot, self.status(slot), NOW_MS))

    def tell(self) -> None:
        """How it is, to the dispatcher."""
        slots = tuple(
            SlotView(slot.id, slot.job_id or "", slot.pid, generation=self.pool.generation(slot.job_id))
            for slot in self.pool.slots.values()
            if slot.address is not None
        )
        view = TaskManagerView("tm", "host", "node", 1, 2, SLOTS, self.pool.free, slots, 0, 2, 0, 0, 0)
        self.under_way.append(view)

    # ---- the dispatcher

    def dispatcher_is_restarted(self) -> None:
        self.dispatcher = Dispatcher(silence_ms=10_000, capacity=100)
        for job in self.jobs.values():
            if job.live:
                self.dispatcher.submitted(job.record, NOW_MS, [1])
            elif job.generation:
                self.dispatcher.ended_before(job.record, job.ending)

    def arrive(self, call: Release | TaskManagerView) -> None:
        if isinstance(call, TaskManagerView):
            for command in self.dispatcher.task_managers_said([call]):
                assert isinstance(command, TakeBack)
                self.under_way.append(Release(command.job_id, command.generation, command.slots))
            return
        try:
            self.carry_out(self.pool.release(call.job, call.generation, call.slots, NOW_MS))
        except SupersededError:
            assert call.generation < self.pool.generation(call.job)

    # ---- jobs

    def leads(self, job: Job) -> None:
        """A further master, of a job that is submitted, goes on, or has lost its master. The former one finds out late,
        and gives back what it has."""
        self.under_way.append(Release(job.id, job.generation, tuple(job.slots)))
        if not job.live:
            job.live = True
            self.dispatcher.submitted(job.record, NOW_MS, [1])
        job.generation, job.slots = Generation(job.generation + 1), []
        self.takes(job, 2)

    def takes(self, job: Job, count: int) -> None:
        offers, commands = self.pool.allocate(job.id, job.generation, count, job.slots, NOW_MS)
        self.carry_out(commands)
        for offer in offers:
            self.living[offer.slot_id] = (job.id, job.generation)
            self.carry_out(self.pool.seen(offer.slot_id, self.status(offer.slot_id), NOW_MS))
            job.slots.append(offer.slot_id)

    def ends(self, job: Job) -> None:
        self.under_way.append(Release(job.id, job.generation, tuple(job.slots)))
        job.live, job.slots = False, []
        self.dispatcher.answered(job.id, 1, job.ending, NOW_MS)

    def left(self) -> list[SlotId]:
        """Slots of jobs that have ended."""
        return [slot for slot, lease in self.living.items() if lease is not None and not self.jobs[lease[0]].live]


@pytest.mark.parametrize("seed", range(100))
def test_whatever_is_lost_or_late(seed: int) -> None:
    draw, world = random.Random(seed), World()
    for _ in range(200):
        job = draw.choice(list(world.jobs.values()))
        match draw.randrange(12):
            case 0:
                world.leads(job)
            case 1 if job.live:
                world.takes(job, 1)
            case 2 if job.live:
                world.ends(job)
            case 3:
                world.task_manager_is_restarted()
            case 4:
                world.dispatcher_is_restarted()
            case 5 | 6:
                world.tell()
            case 7 if world.under_way:
                world.under_way.remove(draw.choice(world.under_way))
            case 8 if world.under_way:
                world.arrive(draw.choice(world.under_way))  # and perhaps again
            case 9 if world.under_way:
                world.arrive(world.under_way.pop(draw.randrange(len(world.under_way))))
            case _ if world.silent:
                world.introduce(draw.choice(world.silent))
    everything_settles(world)


def everything_settles(world: World) -> None:
    """What is under way is lost, and from then on nothing is."""
    world.under_way.clear()
    while world.silent:
        world.introduce(world.silent[0])
    world.tell()
    while world.under_way:
        world.arrive(world.under_way.pop(0))
    assert world.left() == []


@pytest.fixture
def running() -> tuple[World, Job]:
    world = World()
    while world.silent:
        world.introduce(world.silent[0])
    job = world.jobs[JobId("job-1")]
    world.leads(job)
    assert len(job.slots) == 2
    world.under_way.clear()
    return world, job


def test_the_master_gives_back_while_nobody_hears_it(running: tuple[World, Job]) -> None:
    world, job = running
    world.ends(job)
    world.under_way.clear()
    world.task_manager_is_restarted()
    assert len(world.left()) == 2
    everything_settles(world)


def test_what_is_taken_back_too_late_stays_with_the_job_that_goes_on(running: tuple[World, Job]) -> None:
    """With its own slots, which are warm, whether the task manager remembers it or is started again."""
    world, job = running
    slots = list(job.slots)
    world.ends(job)
    given_back = world.under_way.pop()
    world.tell()
    world.arrive(world.under_way.pop())
    taken_back = world.under_way.pop()
    assert taken_back == given_back == Release(job.id, Generation(1), tuple(slots))
    world.leads(job)
    assert job.slots == slots
    world.arrive(taken_back)
    world.task_manager_is_restarted()
    world.arrive(taken_back)
    while world.silent:
        world.introduce(world.silent[0])
        world.arrive(taken_back)
    assert [world.living[slot] for slot in slots] == [(job.id, 2)] * 2
