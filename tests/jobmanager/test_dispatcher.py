"""Which masters there are for the jobs of a cluster."""

from __future__ import annotations

from dataclasses import replace

import pytest

from penstock.jobmanager.cluster.dispatcher import (
    LOADING_TRIES,
    START_MS,
    Command,
    Dispatcher,
    EndMaster,
    Forget,
    StartMaster,
    TakeBack,
)
from penstock.jobmanager.views import NEVER, JobOverview, SlotView, TaskManagerView
from penstock.state.ids import Generation, JobId, SlotId
from penstock.state.store.cluster_store import JobSubmission

JOB = JobId("a" * 32)
SILENCE_MS = 10_000


@pytest.fixture
def dispatcher() -> Dispatcher:
    return Dispatcher(silence_ms=SILENCE_MS, capacity=3)


def submission(job_id: JobId = JOB, name: str = "clicks") -> JobSubmission:
    return JobSubmission(job_id, name, created_at_ms=1_000, storage="/checkpoints")


def overview(state: str, job_id: JobId = JOB) -> JobOverview:
    return JobOverview(job_id, "clicks", state, 2_000, NEVER, 2_000, False, {})


def starts(commands: list[Command]) -> list[int]:
    return [command.number for command in commands if isinstance(command, StartMaster)]


def test_a_submitted_job_gets_a_master_at_once(dispatcher: Dispatcher) -> None:
    assert dispatcher.submitted(submission(), 0) == [StartMaster(submission(), 1)]
    assert dispatcher.is_live(JOB)
    assert [job.state for job in dispatcher.overviews()] == ["CREATED"]
    assert dispatcher.live_job_named("clicks") == JOB
    assert dispatcher.live_job_named("other") is None


def test_a_dead_master_is_replaced_after_a_pause_that_grows(dispatcher: Dispatcher) -> None:
    dispatcher.submitted(submission(), 0)
    now_ms, pauses = 0, []
    for number in range(1, 5):
        dispatcher.died(JOB, number, now_ms)
        died_ms = now_ms
        while not (commands := dispatcher.tick(now_ms)):
            now_ms += 10
        assert starts(commands) == [number + 1]
        pauses.append(now_ms - died_ms)
    assert pauses == [200, 400, 800, 1_600]


def test_masters_that_do_not_get_to_speak_are_counted_until_one_gives_up(dispatcher: Dispatcher) -> None:
    dispatcher.submitted(submission(), 0)
    now_ms = 0

    def next_start(number: int) -> StartMaster:
        nonlocal now_ms
        dispatcher.died(JOB, number, now_ms)
        now_ms += 60_000
        (command,) = dispatcher.tick(now_ms)
        assert isinstance(command, StartMaster)
        return command

    assert not any(next_start(number).gives_up for number in range(1, LOADING_TRIES - 1))
    assert next_start(LOADING_TRIES - 1).gives_up
    dispatcher.answered(JOB, LOADING_TRIES, overview("RUNNING"), now_ms)
    assert not next_start(LOADING_TRIES).gives_up


def test_a_master_that_lived_long_is_replaced_quickly(dispatcher: Dispatcher) -> None:
    dispatcher.submitted(submission(), 0)
    dispatcher.died(JOB, 1, 0)
    assert starts(dispatcher.tick(200)) == [2]
    dispatcher.answered(JOB, 2, overview("RUNNING"), 100_000)
    dispatcher.died(JOB, 2, 100_000)
    assert dispatcher.tick(100_199) == []
    assert starts(dispatcher.tick(100_200)) == [3]


def test_a_silent_master_is_joined_once_and_not_ended(dispatcher: Dispatcher) -> None:
    dispatcher.submitted(submission(), 0)
    dispatcher.answered(JOB, 1, overview("RUNNING"), 1_000)
    assert dispatcher.tick(1_000 + SILENCE_MS) == []
    assert starts(dispatcher.tick(1_001 + SILENCE_MS)) == [2]
    dispatcher.loading(JOB, 2, 12_000)
    assert dispatcher.tick(12_000 + SILENCE_MS) == []
    assert dispatcher.master(JOB) == 1, "the new one does not lead yet"


def test_a_master_beside_a_silent_one_is_replaced_when_it_dies(dispatcher: Dispatcher) -> None:
    dispatcher.submitted(submission(), 0)
    dispatcher.loading(JOB, 1, 0)
    assert starts(dispatcher.tick(SILENCE_MS + 1)) == [2]
    dispatcher.died(JOB, 2, 11_000)
    assert starts(dispatcher.tick(12_000)) == [3], "the first one may hang for ever"


def test_a_master_that_speaks_again_is_joined_again_when_it_falls_silent(dispatcher: Dispatcher) -> None:
    dispatcher.submitted(submission(), 0)
    dispatcher.answered(JOB, 1, overview("RUNNING"), 0)
    assert starts(dispatcher.tick(SILENCE_MS + 1)) == [2]
    dispatcher.answered(JOB, 1, overview("RUNNING"), 11_000)
    dispatcher.died(JOB, 2, 12_000)
    assert dispatcher.tick(12_200) == [], "the first one is well"
    assert starts(dispatcher.tick(11_001 + SILENCE_MS)) == [3]


def test_a_silent_master_is_ended_once_another_one_leads(dispatcher: Dispatcher) -> None:
    dispatcher.submitted(submission(), 0)
    dispatcher.answered(JOB, 1, overview("RUNNING"), 0)
    assert starts(dispatcher.tick(SILENCE_MS + 1)) == [2]
    dispatcher.answered(JOB, 2, overview("CREATED"), 11_000)
    assert dispatcher.tick(11_100) == [], "it may still be the leader"
    dispatcher.answered(JOB, 2, overview("STARTING"), 12_000)
    assert dispatcher.tick(12_100) == [EndMaster(JOB, 1)]
    assert dispatcher.masters() == [(JOB, 2)]


def test_a_master_that_never_spoke_gets_more_time(dispatcher: Dispatcher) -> None:
    dispatcher.submitted(submission(), 0)
    assert dispatcher.tick(START_MS) == []
    assert starts(dispatcher.tick(START_MS + 1)) == [2]


def test_a_deposed_master_that_wakes_up_is_ended_and_not_shown(dispatcher: Dispatcher) -> None:
    dispatcher.submitted(submission(), 0)
    dispatcher.loading(JOB, 1, 0)
    dispatcher.tick(SILENCE_MS + 1)
    dispatcher.answered(JOB, 2, overview("RUNNING"), 12_000)
    assert dispatcher.answered(JOB, 1, overview("DEPOSED"), 13_000) == [EndMaster(JOB, 1)]
    assert dispatcher.master(JOB) == 2
    assert [job.state for job in dispatcher.overviews()] == ["RUNNING"]


def test_what_a_candidate_says_does_not_hide_the_leader(dispatcher: Dispatcher) -> None:
    dispatcher.submitted(submission(), 0)
    dispatcher.answered(JOB, 1, overview("RUNNING"), 0)
    dispatcher.tick(SILENCE_MS + 1)
    dispatcher.answered(JOB, 2, overview("CREATED"), SILENCE_MS + 2)
    assert [job.state for job in dispatcher.overviews()] == ["RUNNING"]


def test_the_end_of_a_job_ends_all_its_masters(dispatcher: Dispatcher) -> None:
    dispatcher.submitted(submission(), 0)
    dispatcher.loading(JOB, 1, 0)
    dispatcher.tick(SILENCE_MS + 1)
    commands = dispatcher.answered(JOB, 2, overview("FINISHED"), 12_000)
    assert commands == [EndMaster(JOB, 1), EndMaster(JOB, 2)]
    ended = dispatcher.ended(JOB)
    assert ended is not None
    assert (ended.state, ended.started_ms) == ("FINISHED", 1_000)
    assert not dispatcher.is_live(JOB)
    assert dispatcher.died(JOB, 1, 13_000) == []
    assert dispatcher.tick(60_000) == []


def test_more_ended_jobs_than_may_be_are_forgotten_oldest_first(dispatcher: Dispatcher) -> None:
    forgotten = []
    for i in range(5):
        job_id = JobId(f"{i:032x}")
        record = submission(job_id, f"job {i}")
        dispatcher.submitted(record, i)
        commands = dispatcher.answered(job_id, 1, replace(overview("FINISHED"), id=job_id), i)
        forgotten += [command.record.job_id for command in commands if isinstance(command, Forget)]
    assert forgotten == [f"{i:032x}" for i in range(2)]
    assert len(dispatcher.overviews()) == 3
    assert dispatcher.record(JobId(f"{0:032x}")) is None


def test_a_new_dispatcher_takes_over_living_masters(dispatcher: Dispatcher) -> None:
    assert dispatcher.submitted(submission(), 0, masters=[3]) == []
    assert dispatcher.masters() == [(JOB, 3)]
    dispatcher.died(JOB, 3, 1_000)
    assert starts(dispatcher.tick(1_200)) == [4], "a number is never used twice"


def test_a_job_that_ended_and_goes_on_is_live_again(dispatcher: Dispatcher) -> None:
    dispatcher.ended_before(submission(), overview("SUSPENDED"))
    assert dispatcher.ended(JOB) is not None
    dispatcher.submitted(submission(), 0)
    assert dispatcher.ended(JOB) is None
    assert dispatcher.is_live(JOB)


def test_words_of_masters_of_a_life_before_change_nothing(dispatcher: Dispatcher) -> None:
    """They were on their way when the job ended and was submitted again."""
    dispatcher.submitted(submission(), 0)
    dispatcher.answered(JOB, 1, overview("SUSPENDED"), 1)
    assert starts(dispatcher.submitted(submission(), 2)) == [2]
    assert dispatcher.answered(JOB, 1, overview("SUSPENDED"), 3) == []
    assert dispatcher.died(JOB, 1, 3) == []
    assert dispatcher.masters() == [(JOB, 2)]
    assert [job.state for job in dispatcher.overviews()] == ["CREATED"]


def test_slots_are_taken_back_from_jobs_that_have_ended_each_time_they_are_seen(dispatcher: Dispatcher) -> None:
    other = JobId("b" * 32)
    slots = tuple(
        SlotView(slot, job_id, 1, generation=generation)
        for slot, job_id, generation in [("s1", JOB, 2), ("s2", other, 1), ("s3", "", 0), ("s4", JOB, 2)]
    )
    view = TaskManagerView("tm", "host", "node", 1, 2, 4, 1, slots, 0, 2, 0, 0, 0)
    assert dispatcher.task_managers_said([view]) == [], "jobs that are not known here"
    dispatcher.submitted(submission(), 0)
    assert dispatcher.task_managers_said([view]) == []
    dispatcher.answered(JOB, 1, overview("FINISHED"), 0)
    taken_back = TakeBack("tm", JOB, Generation(2), (SlotId("s1"), SlotId("s4")))
    for _ in range(2):
        assert dispatcher.task_managers_said([view]) == [taken_back]
    dispatcher.submitted(submission(), 0)
    assert dispatcher.task_managers_said([view]) == [], "it goes on"


def test_words_of_unknown_masters_change_nothing(dispatcher: Dispatcher) -> None:
    assert dispatcher.answered(JOB, 1, overview("RUNNING"), 0) == []
    dispatcher.submitted(submission(), 0)
    assert dispatcher.answered(JOB, 7, overview("FINISHED"), 0) == []
    assert dispatcher.is_live(JOB)
