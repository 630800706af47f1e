"""Who leads: one after the other, without comparing clocks, and no longer than anybody can notice."""

from __future__ import annotations

import heapq
import itertools
import random
from typing import Any

import pytest

from penstock.jobmanager.events import RunProgram, SetTimer, TimerFired, WorkDone, WorkFailed
from penstock.jobmanager.leadership import (
    MOST_LEASES_UNSERVED,
    Leadership,
    LeadershipCommand,
    NothingToLead,
    Phase,
    StartLeading,
    StopLeading,
    beat_name,
)
from penstock.state.errors import (
    DeposedError,
    ObjectStoreDenied,
    ObjectStoreNotServing,
    ObjectStoreUnavailable,
    ProtocolError,
)
from penstock.state.ids import Attempt, Generation, JobId
from penstock.state.store.job_log import AttemptStarted, Finished, JobLog, LeaderElected
from penstock.state.store.objects import Get, Pause, Put, StoreOp, run_program
from penstock.state.store.obstore_objects import ObstoreObjects

JOB = JobId("job")
LEASE, BEAT = 8_000, 1_000


class Store:
    """Can be cut off from one master."""

    def __init__(self, inner: ObstoreObjects) -> None:
        self.inner = inner
        self.error: Exception | None = None
        self.spared: type | tuple[()] = ()  # such ops are done in spite of the error
        self.paused_ms = 0

    def execute(self, op: StoreOp) -> Any:
        if isinstance(op, Pause):
            self.paused_ms += op.duration_ms
            return None
        if self.error is not None and not isinstance(op, self.spared):
            raise self.error
        return self.inner.execute(op)


class Candidate:
    """A leadership with its shell: programs run at once, timers when `until` says so."""

    numbers = itertools.count(1)

    def __init__(self, objects: ObstoreObjects, now_ms: int = 0, dead: set[str] | None = None) -> None:
        name = f"master{next(self.numbers)}"
        self.store = Store(objects)
        self.log = JobLog(JOB, lambda: f"{name}-{next(self.numbers)}")
        self.name = name
        self.leadership = Leadership(
            JOB,
            self.log,
            lease_ms=LEASE,
            beat_interval_ms=BEAT,
            process=name,
            is_dead=lambda process: process in (dead or set()),
        )
        self.timers: list[tuple[int, int, SetTimer]] = []
        self.heard: list[tuple[int, LeadershipCommand]] = []
        self.held: list[RunProgram] | None = None
        self._carry_out(self.leadership.start(now_ms), now_ms)

    @property
    def leads(self) -> bool:
        return self.leadership.phase is Phase.LEADING

    def until(self, now_ms: int) -> None:
        while self.timers and self.timers[0][0] <= now_ms:
            at_ms, _, timer = heapq.heappop(self.timers)
            self._carry_out(self.leadership.handle(TimerFired(timer.tag), at_ms), at_ms)

    def stand_still_until(self, now_ms: int) -> None:
        """The next timer fires only then."""
        _at_ms, _, timer = heapq.heappop(self.timers)
        self._carry_out(self.leadership.handle(TimerFired(timer.tag), now_ms), now_ms)

    def resign(self, now_ms: int) -> None:
        self._carry_out(self.leadership.resign(now_ms), now_ms)

    def _carry_out(self, commands: list[LeadershipCommand], now_ms: int) -> None:
        for command in commands:
            if isinstance(command, SetTimer):
                heapq.heappush(self.timers, (command.at_ms, next(self.numbers), command))
            elif isinstance(command, RunProgram):
                if self.held is None:
                    self._run(command, now_ms)
                else:
                    self.held.append(command)
            else:
                self.heard.append((now_ms, command))

    def _run(self, command: RunProgram, now_ms: int) -> None:
        try:
            event: WorkDone | WorkFailed = WorkDone(command.tag, run_program(command.program, self.store))
        except Exception as error:
            event = WorkFailed(command.tag, error)
        self._carry_out(self.leadership.handle(event, now_ms), now_ms)

    def release(self, now_ms: int) -> None:
        """Programs held back come to their end."""
        held, self.held = self.held or [], None
        for command in held:
            self._run(command, now_ms)


@pytest.fixture
def objects() -> ObstoreObjects:
    return ObstoreObjects("memory://", sleep=lambda seconds: None)


def run_all(candidates: list[Candidate], start_ms: int, end_ms: int) -> None:
    for now_ms in range(start_ms, end_ms + 1, 100):
        for candidate in candidates:
            candidate.until(now_ms)


def test_a_new_job_is_led_at_once(objects: ObstoreObjects) -> None:
    first = Candidate(objects)
    assert first.heard == [(0, StartLeading(Generation(1)))]
    assert first.log.state.leader == first.log.writer


def test_nobody_takes_over_from_a_leader_that_beats(objects: ObstoreObjects) -> None:
    first, second = Candidate(objects), Candidate(objects)
    run_all([first, second], 0, 20 * LEASE)
    assert first.leads
    assert second.heard == []


def test_a_silent_leader_is_replaced_after_a_lease(objects: ObstoreObjects) -> None:
    first, second = Candidate(objects), Candidate(objects)
    run_all([first, second], 0, 5_000)
    run_all([second], 5_000, 5_000 + LEASE - BEAT)
    assert not second.leads
    run_all([second], 5_000 + LEASE - BEAT, 5_000 + LEASE + 2 * BEAT)
    assert [command for _, command in second.heard] == [
        StartLeading(Generation(2), f"it gave no sign of life for {LEASE} ms")
    ]


def test_a_paused_leader_finds_itself_deposed(objects: ObstoreObjects) -> None:
    first, second = Candidate(objects), Candidate(objects)
    run_all([second], 0, 2 * LEASE)
    assert second.leads
    first.leadership._reached_ms = 2 * LEASE  # its own clock stood still, too
    first.until(2 * LEASE)
    ((_, stop),) = first.heard[1:]
    assert isinstance(stop, StopLeading)
    assert isinstance(stop.reason, DeposedError)


def test_a_leader_that_cannot_beat_stops_before_anybody_takes_over(objects: ObstoreObjects) -> None:
    first, second = Candidate(objects), Candidate(objects)
    run_all([first, second], 0, 5_000)
    first.store.error = ObjectStoreUnavailable("cut off")
    run_all([first, second], 5_000, 4 * LEASE)
    ((stopped_ms, stop),) = first.heard[1:]
    assert isinstance(stop, StopLeading)
    assert isinstance(stop.reason, ObjectStoreUnavailable)
    assert stopped_ms <= 5_000 + LEASE // 2
    ((elected_ms, _),) = second.heard
    assert stopped_ms < elected_ms


def test_a_beat_that_hangs_counts_as_none(objects: ObstoreObjects) -> None:
    first = Candidate(objects)
    first.held = []
    first.until(LEASE)
    assert isinstance(first.heard[-1][1], StopLeading)
    assert first.heard[-1][0] <= LEASE // 2
    assert len(first.held) <= 4, "some time is left to each"
    first.release(LEASE)
    assert len(first.heard) == 2, "its late answer changes nothing"


def test_one_beat_that_hangs_does_not_depose_the_leader(objects: ObstoreObjects) -> None:
    first = Candidate(objects)
    first.until(BEAT)
    first.held = []
    first.until(2 * BEAT)
    hung, first.held = first.held, None
    first.until(2 * LEASE)
    first._run(hung[0], 2 * LEASE)
    assert first.leads
    assert len(first.heard) == 1


def test_a_store_that_is_slow_all_the_time_does_not_depose_the_leader(objects: ObstoreObjects) -> None:
    """An answer counts though a later beat was begun."""
    first = Candidate(objects)
    waiting: list[tuple[int, RunProgram]] = []
    for now_ms in range(0, 4 * LEASE, 500):
        first.held = []
        first.until(now_ms)
        waiting += [(now_ms + LEASE // 4, program) for program in first.held]
        first.held = None
        for due_ms, program in [each for each in waiting if each[0] <= now_ms]:
            waiting.remove((due_ms, program))
            first._run(program, now_ms)
    assert first.leads


def test_a_leader_that_stood_still_beats_and_goes_on(objects: ObstoreObjects) -> None:
    """As at a breakpoint: no timer fires for long."""
    first = Candidate(objects)
    first.until(2 * BEAT)
    first.stand_still_until(5 * LEASE)
    assert first.leads
    first.until(7 * LEASE)
    assert [type(command) for _, command in first.heard] == [StartLeading]


def test_a_leader_that_stood_still_and_was_replaced_stops_at_its_next_beat(objects: ObstoreObjects) -> None:
    first, second = Candidate(objects), Candidate(objects)
    run_all([second], 0, 2 * LEASE)
    assert second.leads
    first.stand_still_until(2 * LEASE)
    assert isinstance(first.heard[-1][1], StopLeading)
    assert isinstance(first.heard[-1][1].reason, DeposedError)


def test_a_short_outage_is_borne(objects: ObstoreObjects) -> None:
    first = Candidate(objects)
    first.store.error = ObjectStoreUnavailable("?")
    run_all([first], 0, LEASE // 2 - 2 * BEAT)
    first.store.error = None
    run_all([first], LEASE // 2, 3 * LEASE)
    assert first.leads


def test_a_store_that_answers_503_for_a_minute_deposes_nobody(objects: ObstoreObjects) -> None:
    """Who takes over would have to write there, too. Only for ever it is not waited for."""
    first = Candidate(objects)
    first.store.error = refusal = ObjectStoreNotServing("the store answers 503 SlowDown.")
    run_all([first], 0, 11 * LEASE)
    first.store.error = None
    second = Candidate(objects, 11 * LEASE)
    run_all([first, second], 11 * LEASE, 14 * LEASE)
    assert (first.leads, second.heard) == (True, [])
    first.store.error = refusal
    run_all([first], 14 * LEASE, (15 + MOST_LEASES_UNSERVED) * LEASE)
    (stopped_ms, stop) = first.heard[-1]
    assert stopped_ms >= (14 + MOST_LEASES_UNSERVED) * LEASE
    assert "could not beat for half a lease: the store answers 503 SlowDown." in str(stop.reason)


@pytest.mark.parametrize("spared", [(), Get])
def test_who_was_refused_and_replaced_meanwhile_stops_at_its_next_beat(objects: ObstoreObjects, spared: Any) -> None:
    first, second = Candidate(objects), Candidate(objects)
    first.store.error, first.store.spared = ObjectStoreNotServing("only for us"), spared
    run_all([first, second], 0, 2 * LEASE)
    assert (first.leads, second.leads) == (not spared, True)
    first.store.error = None
    first.until(2 * LEASE + BEAT)
    assert isinstance(first.heard[-1][1].reason, DeposedError)


@pytest.mark.parametrize("error", [ObjectStoreDenied("read-only"), ProtocolError("broken")])
def test_what_cannot_be_mended_ends_it(objects: ObstoreObjects, error: Exception) -> None:
    first = Candidate(objects)
    first.store.error = error
    first.until(BEAT)
    assert first.heard[-1] == (BEAT, StopLeading(error))


def test_a_candidate_gives_up_when_the_store_is_away_for_a_lease(objects: ObstoreObjects) -> None:
    Candidate(objects)
    second = Candidate(objects)
    second.store.error = ObjectStoreUnavailable("?")
    run_all([second], 0, LEASE - BEAT)
    assert second.heard == []
    run_all([second], LEASE - BEAT, LEASE + 2 * BEAT)
    assert second.heard[0][1] == StopLeading(second.store.error)


def test_a_dead_process_is_not_waited_for(objects: ObstoreObjects) -> None:
    first = Candidate(objects)
    second = Candidate(objects, dead={first.name})
    assert second.heard == [(0, StartLeading(Generation(2), "its process has ended"))]


def test_nor_is_one_that_resigned(objects: ObstoreObjects) -> None:
    first = Candidate(objects)
    first.resign(10)
    second = Candidate(objects, now_ms=20)
    assert second.heard == [(20, StartLeading(Generation(2)))]
    first.until(LEASE)
    assert len(first.heard) == 1, "nothing more of it"


def test_a_log_that_grows_is_a_sign_of_life(objects: ObstoreObjects) -> None:
    first, second = Candidate(objects), Candidate(objects)
    for number in range(1, 40):
        second.until(number * BEAT)
        run_program(first.log.append_as_leader(AttemptStarted(Attempt(number))), objects)
    assert second.heard == []


def test_a_beat_that_cannot_be_read_is_only_compared(objects: ObstoreObjects) -> None:
    Candidate(objects)
    objects.execute(Put(beat_name(JOB, 1), b"torn", create_only=False))
    second = Candidate(objects)
    run_all([second], 0, LEASE - BEAT)
    assert second.heard == []
    run_all([second], LEASE - BEAT, LEASE + 2 * BEAT)
    assert second.leads


def test_a_job_that_has_ended_is_not_led(objects: ObstoreObjects) -> None:
    first = Candidate(objects)
    run_program(first.log.append_as_leader(Finished("FINISHED")), objects)
    second = Candidate(objects)
    assert second.heard == [(0, NothingToLead(Finished("FINISHED")))]
    second.until(LEASE)
    assert len(second.heard) == 1


def test_an_election_of_unknown_outcome_is_found_out(objects: ObstoreObjects) -> None:
    """The entry is written, the answer and all questions for it are lost."""

    class Deaf(Store):
        def execute(self, op: StoreOp) -> Any:
            result = super().execute(op)
            if isinstance(op, Put) and "/log/" in op.name:
                self.error = ObjectStoreUnavailable("no answer")
                raise self.error
            return result

    first = Candidate.__new__(Candidate)
    deaf = Deaf(objects)
    log = JobLog(JOB, lambda: "w")
    leadership = Leadership(JOB, log, lease_ms=LEASE, beat_interval_ms=BEAT)
    first.leadership, first.log, first.store, first.name = leadership, log, deaf, "w"
    first.timers, first.heard, first.held = [], [], None
    first._carry_out(leadership.start(0), 0)
    assert first.heard == []
    deaf.error = None
    first.until(BEAT)
    assert first.heard == [(BEAT, StartLeading(Generation(1)))]
    assert deaf.paused_ms > 0


def test_another_election_in_between_is_respected(objects: ObstoreObjects) -> None:
    first, second, third = (Candidate(objects) for _ in range(3))
    first.resign(5)
    second.held = []
    second.until(BEAT)  # its observation is under way
    third.until(BEAT)
    assert third.leads
    second.release(BEAT)
    run_all([second, third], BEAT, 3 * LEASE)
    assert not second.leads
    assert [type(entry.record) for entry in run_program(JobLog(JOB, lambda: "r").read(), objects)] == [
        LeaderElected,
        LeaderElected,
    ]


def test_the_lease_must_fit_several_beats() -> None:
    with pytest.raises(ProtocolError, match="too slow for a lease"):
        Leadership(JOB, JobLog(JOB, lambda: "w"), lease_ms=1_000, beat_interval_ms=500)


def test_at_most_one_believes_to_lead_while_clocks_run_alike() -> None:
    """Masters are paused, cut off and replaced at random. (Safety does not rest on this; politeness does.)"""
    takeovers = 0
    for seed in range(40):
        chance = random.Random(seed)
        objects = ObstoreObjects("memory://", sleep=lambda seconds: None)
        candidates = [Candidate(objects) for _ in range(3)]
        for now_ms in range(0, 20 * LEASE, 200):
            for number, candidate in enumerate(candidates):
                if chance.random() < 0.01:
                    candidate.store.error = None if candidate.store.error else ObjectStoreUnavailable("cut off")
                candidate.until(now_ms)
                if candidate.leadership.phase is Phase.STOPPED:
                    candidates[number] = Candidate(objects, now_ms)
            leaders = [candidate.name for candidate in candidates if candidate.leads]
            assert len(leaders) <= 1, f"seed {seed}: {leaders} lead at {now_ms}"
        reader = JobLog(JOB, lambda: "r")
        run_program(reader.read(), objects)
        takeovers += reader.state.generation - 1
    assert takeovers > 40
