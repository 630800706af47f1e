"""The slots of one node: how many processes there are, blank ones ready, and whose each is. Pure.

    STARTING   its process comes up
    FOUND      of a former life of this task manager; it has not said yet whose it is
    BLANK      ready, nobody's
    LET        a job's: offered to its master, which leases it; its process ends with the job (PROTOCOLS 28)
    RETURNING  given back; whether it was leased decides if it is blank again, or must be killed, and it is asked that

A slot that is killed or has died is forgotten at once, and a blank one takes its place. So there are never more than
`total` slots let, and beside them max(1, min(warm, free)) blank ones: also where all slots are let there is one more
process, so that a job that loses one goes on without waiting for a start. While jobs wait for more, more are started.

Slots with resources of their own (an operator asked for a GPU, say) stand beside all that: they are not of the
`total`, nor ever blank. Each is started for one job, when that asks for it; Ray gives its process the resources, or
keeps it waiting for them. It is let to the job when it comes up, and ends when the job lets go of it, does not ask for
it again, or does not lease it. What it has it says itself, likewise.

Events come as method calls, with the time; commands are answered: StartSlot, KillSlot, AskSlot. Whoever carries them
out is slot_keeper.py. What is guaranteed:

- Allocation can be repeated: a slot that is let to the job and that its master does not know (its answer was lost, or
  there is a new master) is offered first, before a further one.
- The truth about whose a slot is, is in the slot: what it says when it introduces itself, or is asked, wins over what
  is written here. That is how a task manager that was restarted finds all as it was.
- A master that was superseded gets SupersededError and changes nothing (PROTOCOLS 5). Which generations there were
  slots know, too.
- A job gives back what it has when it ends. Should that not be heard, the dispatcher, which sees all slots and knows
  which jobs have ended, gives it back in the generation that it sees: a job that goes on meanwhile is later.
- Nothing waits for ever: a start that takes too long, a blank slot that does not answer, a slot that was offered and
  never leased. Starts that fail are repeated with growing pauses, and the last reason is shown.

A slot that a job has leased is never judged here: whether it is hung only its master can tell, who then discards it.
Without a master it ends by itself (contact.py).
"""

from __future__ import annotations

import enum
from collections.abc import Collection
from dataclasses import dataclass

from ...runtime.resources import NO_RESOURCES, Resources
from ...state.ids import Generation, JobId, SlotId
from ..messages import SlotAddress
from .leases import SlotStatus, SupersededError

START_TIMEOUT_MS = 120_000
"""The first start on a machine compiles the kernels, and may share its cores with a whole cluster's start."""
FOUND_TIMEOUT_MS = 30_000
"""A slot of a former life says within this time whose it is."""
UNLEASED_MS = 60_000
"""A slot that was offered and not leased for so long is blank again."""
WANTED_MS = 10_000
"""A job that lacks slots and does not ask again for so long does not want them any more."""
FIRST_PAUSE_MS, LONGEST_PAUSE_MS = 500, 60_000
"""After a start that failed; doubled with each that follows."""
FAILURES_SHOWN = 2
"""So many starts that failed in a row, and the node offers only what it has."""
MAX_STARTING = 4
"""Processes that start at once, with resources for each job: more only take each other's time."""
MAX_JOBS = 1_000
"""Jobs whose highest generation is remembered."""


class SlotState(enum.Enum):
    STARTING = enum.auto()
    FOUND = enum.auto()
    BLANK = enum.auto()
    LET = enum.auto()
    RETURNING = enum.auto()


@dataclass(frozen=True, slots=True)
class SlotOffer:
    """A slot that is let to the job that asked: its master leases it next."""

    slot_id: SlotId
    actor_name: str
    address: SlotAddress
    pid: int
    resources: Resources = NO_RESOURCES
    """It has them to itself."""


@dataclass(frozen=True, slots=True)
class StartSlot:
    """A new process; answered by `started` or `died`."""

    slot_id: SlotId
    resources: Resources = NO_RESOURCES


@dataclass(frozen=True, slots=True)
class KillSlot:
    """At once. It is forgotten already: nothing is answered."""

    slot_id: SlotId
    reason: str


@dataclass(frozen=True, slots=True)
class AskSlot:
    """How it is, and whose; answered by `seen`."""

    slot_id: SlotId


_TAKEN = (SlotState.LET, SlotState.RETURNING, SlotState.FOUND)
_COMING = (SlotState.STARTING, SlotState.FOUND)

Command = StartSlot | KillSlot | AskSlot


@dataclass(slots=True)
class PooledSlot:
    """What is known of one process."""

    id: SlotId
    state: SlotState
    since_ms: int
    """When it entered the state."""
    address: SlotAddress | None = None
    pid: int = 0
    job_id: JobId | None = None
    leased: bool = False
    """It has said itself that it is the job's."""
    asked_ms: int | None = None
    """Since when an answer is owed."""
    next_ask_ms: int = 0
    resources: Resources = NO_RESOURCES
    """If it has any it is one job's, and never blank."""
    wanted_until_ms: int = 0
    """Of one with resources that is starting."""


class TaskManager:
    """Methods answer the commands to carry out."""

    def __init__(
        self, prefix: str, total: int, warm: int, *, ask_interval_ms: int, ask_timeout_ms: int, unfit: str = ""
    ) -> None:
        """Slots are called `<prefix><number>`: the prefix is of this life of the task manager alone. `unfit`: why this
        node must have no slots."""
        self.total = 0 if unfit else total
        self.unfit = unfit
        self.slots: dict[SlotId, PooledSlot] = {}
        """Oldest first."""
        self.problem = unfit
        """Why there are no slots, or why they could not be started the last time."""
        self._prefix = prefix
        self._warm = warm
        self._ask_interval_ms, self._ask_timeout_ms = ask_interval_ms, ask_timeout_ms
        self._number = 0
        self._failures = 0
        self._retry_ms = 0
        self._wanted: dict[JobId, tuple[int, int]] = {}
        """Slots that a job lacks, and until when it is believed."""
        self._generations: dict[JobId, Generation] = {}

    @property
    def free(self) -> int:
        """Slots that a job could be let. Where starts fail, only those that are there."""
        room = self._room()
        return min(room, self._count(SlotState.BLANK)) if self._failures >= FAILURES_SHOWN else room

    def _room(self) -> int:
        return max(0, self.total - self._count(*_TAKEN))

    def _count(self, *states: SlotState) -> int:
        """Of those without resources."""
        return sum(slot.state in states and not slot.resources for slot in self.slots.values())

    # ---- jobs

    def allocate(
        self,
        job_id: JobId,
        generation: Generation,
        count: int,
        known: Collection[SlotId],
        now_ms: int,
        resources: Resources = NO_RESOURCES,
    ) -> tuple[list[SlotOffer], list[Command]]:
        """At most `count`; what lacks is being started, if the node may have it. SupersededError."""
        self._fence(job_id, generation)
        held = [slot for slot in self._of_job(job_id, None) if slot.resources == resources]
        chosen = [slot for slot in held if slot.id not in known][:count]
        if resources:
            commands = self._start_for(job_id, count - len(chosen), resources, now_ms)
            return [offer for slot in chosen if (offer := _offer(slot))], commands
        blank = [slot for slot in self.slots.values() if slot.state is SlotState.BLANK]
        for slot in blank[: max(0, min(self._room(), count - len(chosen)))]:
            slot.job_id, slot.leased = job_id, False
            self._enter(slot, SlotState.LET, now_ms)
            slot.next_ask_ms = now_ms + self._ask_interval_ms
            chosen.append(slot)
        self._wanted.pop(job_id, None)
        if len(chosen) < count:
            self._wanted[job_id] = (count - len(chosen), now_ms + WANTED_MS)
        return [offer for slot in chosen if (offer := _offer(slot))], self._fill(now_ms)

    def _start_for(self, job_id: JobId, lacking: int, resources: Resources, now_ms: int) -> list[Command]:
        """Slots with resources, for one job. Those of others may wait for Ray: they do not count."""
        own = (slot for slot in self.slots.values() if slot.resources and slot.job_id == job_id)
        starting = [slot for slot in own if slot.state is SlotState.STARTING]
        for slot in starting:
            if slot.resources == resources:
                slot.wanted_until_ms = now_ms + WANTED_MS
                lacking -= 1
        if self.unfit or now_ms < self._retry_ms:
            return []
        commands: list[Command] = []
        for _ in range(min(lacking, MAX_STARTING - len(starting))):
            command = self._start(now_ms, resources)
            slot = self.slots[command.slot_id]
            slot.job_id, slot.wanted_until_ms = job_id, now_ms + WANTED_MS
            commands.append(command)
        return commands

    def release(
        self, job_id: JobId, generation: Generation, slots: Collection[SlotId] | None, now_ms: int
    ) -> list[Command]:
        """The job needs them no more (None: all it has). SupersededError."""
        self._fence(job_id, generation)
        commands: list[Command] = []
        for slot in self._of_job(job_id, slots):
            if slot.leased:
                commands.append(self._kill(slot, "released"))
            else:
                self._enter(slot, SlotState.RETURNING, now_ms)
                commands.append(self._ask(slot, now_ms))
        return commands + self._fill(now_ms)

    def discard(
        self, job_id: JobId, generation: Generation, slot_id: SlotId, reason: str, now_ms: int
    ) -> list[Command]:
        """It did not obey: it is killed, whatever it does. SupersededError."""
        self._fence(job_id, generation)
        commands: list[Command] = [self._kill(slot, reason) for slot in self._of_job(job_id, [slot_id])]
        return commands + self._fill(now_ms)

    def generation(self, job_id: JobId | None) -> Generation:
        """The highest of the job's masters' that was heard of; 0: none was."""
        return Generation(0) if job_id is None else self._generations.get(job_id, Generation(0))

    def lets_to(self, job_id: JobId) -> bool:
        """Whether the job has a slot."""
        return bool(self._of_job(job_id, None))

    def _of_job(self, job_id: JobId, slots: Collection[SlotId] | None) -> list[PooledSlot]:
        own = [slot for slot in self.slots.values() if slot.job_id == job_id and slot.state is SlotState.LET]
        return own if slots is None else [slot for slot in own if slot.id in slots]

    def _fence(self, job_id: JobId, generation: Generation) -> None:
        highest = self._remember(job_id, generation)
        if generation < highest:
            raise SupersededError(f"generation {generation} of job {job_id} is superseded by {highest}")

    def _remember(self, job_id: JobId, generation: Generation) -> Generation:
        """Answers the highest."""
        highest = max(self._generations.pop(job_id, generation), generation)
        self._generations[job_id] = highest  # the newest stand last
        if len(self._generations) > MAX_JOBS:
            del self._generations[next(iter(self._generations))]
        return highest

    # ---- processes

    def adopt(self, slot_id: SlotId, now_ms: int) -> None:
        """A process of a former life of this task manager: it introduces itself next, like one that was started."""
        self.slots.setdefault(slot_id, PooledSlot(slot_id, SlotState.FOUND, now_ms))

    def started(self, slot_id: SlotId, status: SlotStatus, now_ms: int) -> list[Command]:
        """It introduced itself. One that is not expected any more is killed."""
        slot = self.slots.get(slot_id)
        if slot is None:
            return [KillSlot(slot_id, "it came up too late")]
        slot.address, slot.pid = status.address, status.pid
        self._failures, self.problem = 0, self.unfit
        started_for = slot.job_id if status.resources and slot.state is SlotState.STARTING else None
        slot.resources = status.resources
        if started_for is None or status.job_id:
            return self._settle(slot, status, now_ms) + self._fill(now_ms)
        self._enter(slot, SlotState.LET, now_ms)
        slot.next_ask_ms = now_ms + self._ask_interval_ms
        return []

    def died(self, slot_id: SlotId, reason: str, now_ms: int) -> list[Command]:
        """Its process has ended, or could not be started."""
        slot = self.slots.pop(slot_id, None)
        if slot is not None and slot.state is SlotState.STARTING:
            self._start_failed(reason, now_ms)
        return self._fill(now_ms)

    def seen(self, slot_id: SlotId, status: SlotStatus, now_ms: int) -> list[Command]:
        """It answered: a job has leased it, or nobody."""
        slot = self.slots.get(slot_id)
        if slot is None:
            return []
        slot.asked_ms, slot.next_ask_ms = None, now_ms + self._ask_interval_ms
        if slot.state is SlotState.RETURNING and status.job_id == slot.job_id:
            return [self._kill(slot, "released"), *self._fill(now_ms)]
        if slot.state is SlotState.LET and not status.job_id and now_ms - slot.since_ms < UNLEASED_MS:
            return []  # its master is about to lease it
        return self._settle(slot, status, now_ms) + self._fill(now_ms)

    def _settle(self, slot: PooledSlot, status: SlotStatus, now_ms: int) -> list[Command]:
        """As the slot itself says."""
        job_id = JobId(status.job_id) if status.job_id else None
        if slot.resources and job_id is None:
            return [self._kill(slot, "nobody needs it")]
        if job_id is not None:
            self._remember(job_id, Generation(status.generation))
        slot.leased, slot.job_id = job_id is not None, job_id
        state = SlotState.BLANK if job_id is None else SlotState.LET
        if slot.state is not state:
            self._enter(slot, state, now_ms)
        return []

    # ---- time

    def tick(self, now_ms: int) -> list[Command]:
        """To be called several times a second."""
        commands: list[Command] = []
        for slot in list(self.slots.values()):
            if slot.state in _COMING:
                commands += self._await(slot, now_ms)
            elif not slot.leased:
                commands += self._look_after(slot, now_ms)
        self._wanted = {job: wanted for job, wanted in self._wanted.items() if wanted[1] > now_ms}
        return commands + self._fill(now_ms) + self._trim()

    def _await(self, slot: PooledSlot, now_ms: int) -> list[Command]:
        if slot.resources:
            waits = now_ms <= slot.wanted_until_ms
            return [] if waits else [self._kill(slot, "its job does not ask for it any more")]
        limit_ms = START_TIMEOUT_MS if slot.state is SlotState.STARTING else FOUND_TIMEOUT_MS
        if now_ms - slot.since_ms <= limit_ms:
            return []
        reason = f"its process did not come up within {limit_ms // 1_000} s"
        if slot.state is SlotState.STARTING:
            self._start_failed(reason, now_ms)
        return [self._kill(slot, reason)]

    def _look_after(self, slot: PooledSlot, now_ms: int) -> list[Command]:
        if slot.asked_ms is not None:
            silent_ms = now_ms - slot.asked_ms
            return [self._kill(slot, f"silent for {silent_ms} ms")] if silent_ms > self._ask_timeout_ms else []
        return [self._ask(slot, now_ms)] if now_ms >= slot.next_ask_ms else []

    def _target(self) -> int:
        """How many processes there should be that are nobody's."""
        if self.unfit:
            return 0
        free = self._room()
        wanted = sum(count for count, _ in self._wanted.values())
        return max(1, min(self._warm, free), min(wanted, free))

    def _fill(self, now_ms: int) -> list[Command]:
        if now_ms < self._retry_ms:
            return []
        coming = self._count(*_COMING)
        missing = self._target() - coming - self._count(SlotState.BLANK)
        return [self._start(now_ms) for _ in range(min(missing, MAX_STARTING - coming))]

    def _trim(self) -> list[Command]:
        """Blank ones that were started for a job that did not want them in the end."""
        blank = [slot for slot in self.slots.values() if slot.state is SlotState.BLANK]
        surplus = 0 if self._count(*_COMING) else len(blank) - self._target()
        return [self._kill(slot, "not needed") for slot in blank[: max(0, surplus)]]

    def _start(self, now_ms: int, resources: Resources = NO_RESOURCES) -> StartSlot:
        self._number += 1
        slot_id = SlotId(f"{self._prefix}{self._number}")
        self.slots[slot_id] = PooledSlot(slot_id, SlotState.STARTING, now_ms, resources=resources)
        return StartSlot(slot_id, resources)

    def _start_failed(self, reason: str, now_ms: int) -> None:
        self._failures += 1
        self._retry_ms = now_ms + min(FIRST_PAUSE_MS << min(self._failures - 1, 10), LONGEST_PAUSE_MS)
        self.problem = reason

    def _kill(self, slot: PooledSlot, reason: str) -> KillSlot:
        del self.slots[slot.id]
        return KillSlot(slot.id, reason)

    def _ask(self, slot: PooledSlot, now_ms: int) -> AskSlot:
        slot.asked_ms = now_ms
        return AskSlot(slot.id)

    def _enter(self, slot: PooledSlot, state: SlotState, now_ms: int) -> None:
        slot.state, slot.since_ms, slot.asked_ms = state, now_ms, None


def _offer(slot: PooledSlot) -> SlotOffer | None:
    return None if slot.address is None else SlotOffer(slot.id, slot.id, slot.address, slot.pid, slot.resources)
