"""Who leads a job: one master at a time believes it, and the job's log decides (PROTOCOLS 1, 2).

    watching ── nobody leads, or the leader is silent ──> campaigning ── our LeaderElected stands last ──> leading
        ^                                                     |                                              |
        └───────── another's entry stood there first ─────────┘          no beat for half a lease, deposed   v
                                                                                                          stopped

Safety comes from the log alone: LeaderElected(generation) is an entry in the same sequence as every completion, so a
leader that was replaced finds another's entry where it wants to write (job_log.py). What is here is liveness and
politeness, and no clock is compared with another process's:

- The leader overwrites its own object `<job>/beat/<generation>` with a counter.
- A candidate that sees neither beat nor log change for a whole lease, on its own clock, takes over. It does so at once
  if the beat says that the leader has resigned, or names a process known to be dead.
- A leader that has not managed to beat for half a lease stops by itself, before anybody may take over. One request
  that hangs does not depose it: after an eighth of a lease the next beat is begun beside it. At each beat it
  looks for the beat of a later generation, even if the store refuses its own, so it learns that it is deposed even if
  it has nothing to log.
- A store that answers, and that it cannot serve now, cannot serve a candidate either, as far as it says: so long the
  leader goes on (its checkpoints fail), though not without end. Should somebody have taken over after all, it learns so
  with its next beat.
- Time in which nobody ran this process (a breakpoint, a function of a user that takes long in a local job, a machine
  that slept) counts as no time: it says nothing about the store. The next beat tells whether somebody took over.

Events in, commands out; time in ms that never jumps back. The tag of every command begins with TAG. While this leads,
it does not touch the log: the log then belongs to the journal.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass

from ..state.errors import (
    DamagedCheckpointError,
    DeposedError,
    ObjectNotFound,
    ObjectStoreNotServing,
    ObjectStoreUnavailable,
    ProtocolError,
)
from ..state.ids import Generation, JobId
from ..state.store.documents import seal, unseal
from ..state.store.job_log import Finished, JobLog, LeaderElected
from ..state.store.objects import Get, Program, Put, with_retries
from .events import RunProgram, SetTimer, TimerFired, WorkDone, WorkFailed

TAG = "leadership"
BEAT_VERSION = 1
MOST_LEASES_UNSERVED = 20
"""So long (10 min by default) a leader goes on whose store answers that it cannot serve: without checkpoints all that
it does may be for nothing."""


class Phase(enum.Enum):
    WATCHING = "watching"
    CAMPAIGNING = "campaigning"
    LEADING = "leading"
    STOPPED = "stopped"


LEGAL = {
    Phase.WATCHING: {Phase.CAMPAIGNING, Phase.LEADING, Phase.STOPPED},
    Phase.CAMPAIGNING: {Phase.WATCHING, Phase.LEADING, Phase.STOPPED},
    Phase.LEADING: {Phase.STOPPED},
    Phase.STOPPED: set[Phase](),
}


@dataclass(frozen=True, slots=True)
class StartLeading:
    """The job is ours. The log is read to its end: its state says what to do."""

    generation: Generation
    lost: str = ""
    """What became of the leader before; empty if there was none, or it has resigned."""


@dataclass(frozen=True, slots=True)
class StopLeading:
    """Stop everything and write nothing more: deposed, silent for too long, or the store cannot be used."""

    reason: Exception


@dataclass(frozen=True, slots=True)
class NothingToLead:
    """The job has ended."""

    finished: Finished


LeadershipCommand = RunProgram | SetTimer | StartLeading | StopLeading | NothingToLead


@dataclass(frozen=True, slots=True)
class Beat:
    """`process`: who leads, in a form that `is_dead` understands; never interpreted here."""

    generation: Generation
    counter: int
    process: str
    resigned: bool = False


@dataclass(frozen=True, slots=True)
class _Observation:
    news: bool
    """The log has grown."""
    beat: bytes | None


class Leadership:
    """`process` describes this one, for `is_dead` of others: it must answer False when it is not sure."""

    def __init__(
        self,
        job_id: JobId,
        log: JobLog,
        *,
        lease_ms: int = 30_000,
        beat_interval_ms: int = 3_000,
        process: str = "",
        is_dead: Callable[[str], bool] = lambda process: False,
    ) -> None:
        if beat_interval_ms * 4 > lease_ms:
            raise ProtocolError(f"A beat every {beat_interval_ms} ms is too slow for a lease of {lease_ms} ms.")
        self.phase = Phase.WATCHING
        self.generation = Generation(0)
        self._job_id = job_id
        self._log = log
        self._lease_ms, self._beat_interval_ms = lease_ms, beat_interval_ms
        self._process, self._is_dead = process, is_dead
        self._work = 0
        """Number of the program under way; an answer with another number is not waited for."""
        self._began_ms = 0
        """When that program was begun."""
        self._busy = False
        self._beats: dict[int, int] = {}
        """Under way: their numbers, and when they were begun."""
        self._seen: bytes | None = None
        self._lost = ""
        """Why a leader before this one is believed to be gone."""
        self._seen_ms = 0
        """When the leader last gave a sign of life: its beat or the log changed."""
        self._reached_ms = 0
        """When the store last answered (watching), or when the last beat that succeeded was begun (leading), or, for a
        while, the last one that the store itself refused."""
        self._beaten_ms = 0
        """When the last beat that succeeded was begun."""
        self._why = ""
        """What the last beat failed with."""
        self._due_ms = 0
        """When the next tick is to come."""
        self._counter = 0

    def start(self, now_ms: int) -> list[LeadershipCommand]:
        self._reached_ms = self._seen_ms = now_ms
        return [self._run(self._observe(), now_ms)]

    def handle(self, event: WorkDone | WorkFailed | TimerFired, now_ms: int) -> list[LeadershipCommand]:
        """An event whose tag begins with TAG."""
        if self.phase is Phase.STOPPED:
            return []
        if isinstance(event, TimerFired):
            return self._tick(now_ms)
        if self.phase is Phase.LEADING:
            return self._beat_answered(event, now_ms)
        if event.tag != (TAG, self._work) or not self._busy:
            return []
        self._busy = False
        if isinstance(event, WorkFailed):
            return self._failed(event.error, now_ms)
        if self.phase is Phase.WATCHING:
            return self._observed(event.result, now_ms)
        return self._lead(now_ms) if self._log.leads else self._watch_anew(now_ms)

    def resign(self, now_ms: int) -> list[LeadershipCommand]:
        """Stop for good; if we led, tell the next one that it need not wait. The last command of this."""
        led = self.phase is Phase.LEADING
        if self.phase is not Phase.STOPPED:
            self._move(Phase.STOPPED)
        return [self._run(self._beat(resigned=True), now_ms)] if led else []

    # watching and campaigning

    def _observe(self) -> Program[_Observation]:
        news = yield from self._log.read_newest()
        state = self._log.state
        if state.generation == 0 or state.finished is not None or self._log.leads:
            return _Observation(news, None)
        try:
            beat = yield from with_retries(Get(beat_name(self._job_id, state.generation)))
        except ObjectNotFound:
            beat = None
        return _Observation(news, beat)

    def _observed(self, seen: _Observation, now_ms: int) -> list[LeadershipCommand]:
        self._reached_ms = now_ms
        state = self._log.state
        if state.finished is not None:
            self._move(Phase.STOPPED)
            return [NothingToLead(state.finished)]
        if self._log.leads:  # an append of unknown outcome did succeed
            return self._lead(now_ms)
        if seen.news or seen.beat != self._seen:
            self._seen, self._seen_ms = seen.beat, now_ms
        silent = self._began_ms - self._seen_ms >= self._lease_ms
        beat = self._read_beat(seen.beat)
        resigned, died = (False, False) if beat is None else (beat.resigned, self._is_dead(beat.process))
        if state.generation == 0 or silent or resigned or died:
            why = "its process has ended" if died else f"it gave no sign of life for {self._lease_ms} ms"
            self._lost = "" if resigned or state.generation == 0 else why
            self._move(Phase.CAMPAIGNING)
            return [self._run(self._log.append(LeaderElected(Generation(state.generation + 1))), now_ms)]
        return [self._next_tick(now_ms)]

    def _read_beat(self, data: bytes | None) -> Beat | None:
        """None also where it is damaged: only its bytes count then, whether they change."""
        if data is None:
            return None
        try:
            return unseal(beat_name(self._job_id, self._log.state.generation), "beat", BEAT_VERSION, data, Beat)
        except DamagedCheckpointError:
            return None

    def _watch_anew(self, now_ms: int) -> list[LeadershipCommand]:
        """After a campaign that was not won, or not known to be: who leads now?"""
        self._move(Phase.WATCHING)
        self._seen_ms = now_ms
        return [self._run(self._observe(), now_ms)]

    # leading

    def _lead(self, now_ms: int) -> list[LeadershipCommand]:
        self._move(Phase.LEADING)
        self.generation = self._log.state.generation
        self._reached_ms = self._beaten_ms = now_ms
        return [StartLeading(self.generation, self._lost), self._run_beat(now_ms), self._next_tick(now_ms)]

    def _run_beat(self, now_ms: int) -> RunProgram:
        program = self._run(self._beat(), now_ms)
        self._beats[self._work] = now_ms
        return program

    def _beat(self, resigned: bool = False) -> Program[bool]:
        """Returns whether we are deposed. No retries: the next beat is one."""
        self._counter += 1
        beat = Beat(self.generation, self._counter, self._process, resigned)
        data = seal("beat", BEAT_VERSION, f"{self._log.writer}-{self._counter}", beat)
        return _beat_and_look(self._job_id, self.generation, data)

    def _beat_answered(self, event: WorkDone | WorkFailed, now_ms: int) -> list[LeadershipCommand]:
        began_ms = self._beats.pop(event.tag[1], None)
        if began_ms is None:
            return []
        if isinstance(event, WorkFailed):
            patience_ms = MOST_LEASES_UNSERVED * self._lease_ms
            if isinstance(event.error, ObjectStoreNotServing) and now_ms - self._beaten_ms < patience_ms:
                self._reached_ms = max(self._reached_ms, began_ms)
            return self._failed(event.error, now_ms)
        if event.result:
            return self._stop(DeposedError(f"Job {self._job_id}: generation {self.generation} was replaced."))
        self._reached_ms = max(self._reached_ms, began_ms)
        self._beaten_ms = max(self._beaten_ms, began_ms)
        return []

    # both

    def _tick(self, now_ms: int) -> list[LeadershipCommand]:
        still_ms = max(0, now_ms - self._due_ms)
        self._reached_ms, self._beaten_ms = self._reached_ms + still_ms, self._beaten_ms + still_ms
        if self.phase is Phase.LEADING:
            if now_ms - self._reached_ms >= self._lease_ms // 2:
                return self._stop(self._silence("beat for half a lease"))
            waits = self._beats and now_ms - max(self._beats.values()) < self._lease_ms // 8
            beats = [] if waits else [self._run_beat(now_ms)]
            return [*beats, self._next_tick(now_ms)]
        return [] if self._busy else [self._run(self._observe(), now_ms)]

    def _failed(self, error: Exception, now_ms: int) -> list[LeadershipCommand]:
        if not isinstance(error, ObjectStoreUnavailable):
            return self._stop(error)
        match self.phase:
            case Phase.LEADING:
                self._why = str(error)
                return []  # the next tick beats again, or gives up
            case Phase.CAMPAIGNING:
                return self._watch_anew(now_ms)
            case _ if now_ms - self._reached_ms >= self._lease_ms:
                return self._stop(error)
        return [self._next_tick(now_ms)]

    def _silence(self, what: str) -> Exception:
        why = f": {self._why.rstrip('.')}" if self._why else ""
        return ObjectStoreUnavailable(f"Job {self._job_id}: generation {self.generation} could not {what}{why}.")

    def _stop(self, reason: Exception) -> list[LeadershipCommand]:
        self._move(Phase.STOPPED)
        return [StopLeading(reason)]

    def _move(self, phase: Phase) -> None:
        if phase not in LEGAL[self.phase]:
            raise ProtocolError(f"Leadership of job {self._job_id}: {self.phase.value} cannot become {phase.value}.")
        self.phase = phase

    def _run(self, program: Program[object], now_ms: int) -> RunProgram:
        self._work += 1
        self._began_ms, self._busy = now_ms, True
        return RunProgram((TAG, self._work), program)

    def _next_tick(self, now_ms: int) -> SetTimer:
        self._due_ms = now_ms + self._beat_interval_ms
        return SetTimer(self._due_ms, (TAG, "tick"))


def is_abandoned(job_id: JobId, log: JobLog, is_dead: Callable[[str], bool]) -> Program[bool]:
    """Whether it is certain that nobody leads the job any more: its leader has resigned, or its process is dead."""
    yield from log.read_newest()
    name = beat_name(job_id, log.state.generation)
    try:
        beat = unseal(name, "beat", BEAT_VERSION, (yield from with_retries(Get(name))), Beat)
    except (ObjectNotFound, DamagedCheckpointError):
        return False
    return beat.resigned or is_dead(beat.process)


def beat_name(job_id: JobId, generation: int) -> str:
    return f"{job_id}/beat/{generation}"


def _beat_and_look(job_id: JobId, generation: int, data: bytes) -> Program[bool]:
    refusal = None
    try:
        yield Put(beat_name(job_id, generation), data, create_only=False)
    except ObjectStoreNotServing as error:  # perhaps only of writes, or only of ours: another may lead all the same
        refusal = error
    try:
        yield Get(beat_name(job_id, generation + 1))
    except (ObjectNotFound, ObjectStoreUnavailable) as error:
        if refusal is not None:
            raise refusal from None
        if isinstance(error, ObjectNotFound):
            return False
        raise
    return True
