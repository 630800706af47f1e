"""How jobs end that do not finish: failed for good, cancelled, stopped to be continued."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.jobmanager import events
from penstock.jobmanager.events import JobState
from penstock.jobmanager.options import CheckpointOptions
from penstock.jobmanager.restarts import FixedDelay
from penstock.state.errors import JobFailedError, MalformedRecordError, ObjectStoreDenied, ObjectStoreUnavailable
from penstock.state.ids import Generation, JobId, SlotId, VertexId
from penstock.state.store.job_log import CheckpointCompleted, Finished, LeaderElected
from penstock.taskmanager import messages as m
from penstock.taskmanager.messages import SubtaskId

NewWorld = Any
"""The class World of conftest.py."""
JOB = JobId("job")
ALL = [SubtaskId(VertexId(name), index) for name in ("source", "sink") for index in (0, 1)]


def test_failures_that_come_again_fail_the_job_at_once(new_world: NewWorld) -> None:
    world = new_world().run()
    world.fail_task(ALL[0], MalformedRecordError("line 3 of a.json"))
    assert world.ended is not None
    assert (world.ended.state, str(world.ended.failure)) == (JobState.FAILED, "line 3 of a.json")
    assert isinstance(world.ended.failure, JobFailedError)
    assert isinstance(world.ended.failure.__cause__, MalformedRecordError)
    assert world.log()[-1].state == "FAILED"


def test_the_restart_strategy_gives_up_and_the_last_checkpoint_stays(new_world: NewWorld) -> None:
    world = new_world(restarts=FixedDelay(1, 10)).run()
    world.pass_time(1_000)
    world.fail_task(ALL[0])
    world.pass_time(10)
    world.fail_task(ALL[0])
    assert world.log()[-1] == Finished("FAILED", retained=True)


def test_a_commit_that_never_works_fails_the_job_by_the_sinks_name(new_world: NewWorld) -> None:
    world = new_world(commit_attempts=2).run()
    world.held = {"commit"}
    world.pass_time(1_000)
    world.fail_held("commit", OSError("read-only"))
    world.pass_time(500)
    world.fail_held("commit", OSError("read-only"))
    world.settle()
    assert world.ended is not None
    assert "sink write: committing failed 2 times" in str(world.ended.failure)


def test_a_job_that_is_done_does_not_wait_for_ever_for_a_commit(new_world: NewWorld) -> None:
    world = new_world(commit_attempts=2, commit_timeout_ms=20_000, commit_retry_ms=500).run()
    world.held = {"commit"}
    world.drain()
    assert world.state is JobState.FINISHING
    world.pass_time(41_000)
    assert world.ended is not None
    assert world.ended.state is JobState.FAILED
    assert "it has not returned within 20 s" in str(world.ended.failure)


def test_cancel_first_commits_what_is_logged(new_world: NewWorld, trace: list[str]) -> None:
    world = new_world().run()
    world.held = {"commit"}
    world.pass_time(1_000)
    world.tell(events.CancelRequested())
    world.settle()
    assert (world.state, world.count(m.Cancel)) == (JobState.CANCELING, 0)
    world.held = set()
    world.settle()
    assert (world.ended, trace) == (events.EndJob(JobState.CANCELED), ["commit 1.0", "commit 1.1", "cleanup"])
    assert world.log()[-1] == Finished("CANCELED", retained=True)


def test_cancel_waits_for_commits_only_so_long(new_world: NewWorld) -> None:
    world = new_world(cancel_commit_timeout_ms=10_000).run()
    world.held = {"commit"}
    world.pass_time(1_000)
    world.tell(events.CancelRequested())
    world.pass_time(9_999)
    assert world.state is JobState.CANCELING
    world.pass_time(1)
    assert world.ended == events.EndJob(JobState.CANCELED)


def test_commits_are_not_lost_to_a_sink_that_does_none(new_world: NewWorld) -> None:
    """Where the check before the start could not ask it."""
    world = new_world().run()
    world.held = {"commit"}
    world.pass_time(1_000)
    (completed,) = [each for each in world.log() if isinstance(each, CheckpointCompleted)]
    another = new_world(world.objects, job="next", restore=completed.metadata_name, commits=False)
    another.settle()
    assert another.ended is not None
    assert another.ended.state is JobState.FAILED
    assert "operator 'write': a CommittingNothing commits nothing, and 2 commits" in str(another.ended.failure)
    assert another.deployed == {}


def test_what_a_stop_would_have_waited_for_does_not_hold_the_cancel_that_followed_it(new_world: NewWorld) -> None:
    world = new_world(cancel_commit_timeout_ms=10_000, stop_timeout_ms=60_000, cancel_timeout_ms=80_000).run()
    world.held = {"commit"}
    world.pass_time(1_000)
    world.tell(events.StopRequested())
    world.settle()
    world.mute = {m.Canceled}
    world.tell(events.CancelRequested())
    world.pass_time(10_000)
    assert world.count(m.Cancel) > 0
    world.pass_time(80_000)
    assert world.ended == events.EndJob(JobState.CANCELED)


def test_a_job_that_waits_for_its_last_commits_is_cancelled_at_once(new_world: NewWorld, trace: list[str]) -> None:
    world = new_world().run()
    world.held = {"commit"}
    world.drain()
    assert world.state is JobState.FINISHING
    world.tell(events.CancelRequested())
    assert world.state is JobState.CANCELING
    world.held = set()
    world.settle()
    assert (world.ended, trace) == (events.EndJob(JobState.CANCELED), ["commit 1.0", "commit 1.1", "cleanup"])
    assert world.master.failures.last is None


def test_what_a_cancel_did_not_wait_for_is_committed_when_the_job_goes_on(
    new_world: NewWorld, trace: list[str]
) -> None:
    world = new_world(
        cancel_commit_timeout_ms=10_000, checkpoints=CheckpointOptions(interval_ms=1_000, retain_on_cancel=False)
    ).run()
    world.held = {"commit"}
    world.drain()
    world.tell(events.CancelRequested())
    world.pass_time(10_000)
    assert world.ended == events.EndJob(JobState.CANCELED)
    assert world.log()[-1] == Finished("CANCELED", retained=True), "whatever the options say: it holds what is promised"
    shown = world.master.view(world.now).exceptions[0]
    assert shown.exception.endswith("NotCommittedError")
    assert "sink write: its commit has not returned; it stays recorded in checkpoint 1" in shown.message
    assert (world.count(m.FinishTasks), trace) == (0, [])
    [completed] = [record for record in world.log() if isinstance(record, CheckpointCompleted)]
    again = new_world(world.objects, job="next", restore=completed.metadata_name)
    again.settle()
    assert trace == ["commit 1.0", "commit 1.1", "cleanup"]


def test_a_cancel_says_what_is_lost_with_a_job_without_checkpoints(new_world: NewWorld) -> None:
    world = new_world(checkpoints=None, cancel_commit_timeout_ms=10_000).run()
    world.held = {"commit"}
    world.drain()
    world.fail_held("commit", OSError("read-only"))
    world.tell(events.CancelRequested())
    world.pass_time(10_000)
    assert world.ended == events.EndJob(JobState.CANCELED)
    assert world.master.failures.last is not None
    assert "tries to commit failed with read-only; no checkpoint holds it, so it is lost" in world.master.failures.last


def test_a_cancel_overrules_a_stop_that_waits_for_its_checkpoint(new_world: NewWorld) -> None:
    world = new_world().run()
    world.mute = {m.Acknowledge}
    world.tell(events.StopRequested())
    world.settle()
    assert world.state is JobState.SUSPENDING
    world.tell(events.CancelRequested())
    world.settle()
    assert world.ended == events.EndJob(JobState.CANCELED)


def test_a_cancel_comes_too_late_when_all_is_committed(new_world: NewWorld) -> None:
    world = new_world().run()
    world.mute = {m.Finished}
    world.drain()
    world.tell(events.CancelRequested())
    world.settle()
    assert world.state is JobState.FINISHING
    world.pass_time(30_000)
    assert world.ended == events.EndJob(JobState.FINISHED)


def test_a_cancel_of_a_master_that_has_given_up_changes_nothing(new_world: NewWorld) -> None:
    world = new_world().run()
    world.held = {"log"}
    world.tell(events.CancelRequested())
    world.mute_store()
    world.pass_time(60_000)
    assert world.ended is not None
    assert isinstance(world.ended.failure, ObjectStoreUnavailable)


def test_stop_takes_a_last_checkpoint_and_the_job_can_be_continued(new_world: NewWorld, trace: list[str]) -> None:
    world = new_world().run()
    world.tell(events.StopRequested())
    world.settle()
    assert world.ended == events.EndJob(JobState.SUSPENDED)
    assert (world.completions(), trace) == ([1], ["commit 1.0", "commit 1.1"])
    assert not any(isinstance(record, Finished) for record in world.log())
    again = new_world(world.objects)
    again.run()
    assert again.master.status().checkpoints.restored == 1


def test_stop_does_not_wait_for_a_checkpoint_that_cannot_come(new_world: NewWorld) -> None:
    world = new_world().run()
    world.mute = {m.Acknowledge}
    world.tell(events.StopRequested())
    world.settle()
    assert world.state is JobState.SUSPENDING
    world.fail_task(ALL[0])
    assert world.ended == events.EndJob(JobState.SUSPENDED)


@pytest.mark.parametrize(
    ("request_", "end"),
    [(events.CancelRequested(), JobState.CANCELED), (events.StopRequested(), JobState.SUSPENDED)],
)
@pytest.mark.parametrize("when", ["waiting for slots", "deploying", "waiting to restart"])
def test_requests_are_heeded_whatever_the_job_is_doing(
    new_world: NewWorld, request_: events.Event, end: JobState, when: str
) -> None:
    world = new_world()
    world.settle()
    if when != "waiting for slots":
        world.mute = {m.Initialized} if when == "deploying" else set()
        world.start_slots()
    if when == "waiting to restart":
        world.fail_task(ALL[0])
    world.tell(request_)
    world.settle()
    assert world.ended == events.EndJob(end)


def test_a_cancel_that_the_predecessor_did_not_finish_is_finished(new_world: NewWorld, trace: list[str]) -> None:
    first = new_world().run()
    first.held = {"commit"}
    first.pass_time(1_000)
    first.tell(events.CancelRequested())
    first.settle()
    second = new_world(first.objects)
    second.settle()
    second.pass_time(40_000)
    assert second.ended == events.EndJob(JobState.CANCELED)
    assert trace == ["commit 1.0", "commit 1.1", "cleanup"]
    assert second.count(m.Deploy) == 0
    assert second.log()[-1] == Finished("CANCELED", retained=True)


@pytest.mark.parametrize("died", ["before the end", "after resigning"])
def test_a_stop_that_is_to_be_remembered_outlives_its_master(new_world: NewWorld, died: str) -> None:
    first = new_world().run()
    first.pass_time(1_000)
    if died == "before the end":
        first.mute = {m.Acknowledge}
    first.tell(events.StopRequested(remember=True))
    first.settle()
    second = new_world(first.objects)
    second.settle()
    second.pass_time(40_000)
    assert second.ended == events.EndJob(JobState.SUSPENDED)
    assert second.count(m.Deploy) == 0
    assert second.log()[-1] == LeaderElected(Generation(2))


def test_a_job_that_is_submitted_again_after_a_stop_goes_on(new_world: NewWorld) -> None:
    first = new_world().run()
    first.tell(events.StopRequested(remember=True))
    first.settle()
    assert first.ended == events.EndJob(JobState.SUSPENDED)
    second = new_world(first.objects, continues=1).run()
    assert second.master.status().checkpoints.restored == 1
    second.tell(events.StopRequested(remember=True))
    second.settle()
    third = new_world(first.objects, continues=1)
    third.settle()
    assert third.ended == events.EndJob(JobState.SUSPENDED)


def test_a_stop_of_the_cluster_is_not_remembered(new_world: NewWorld) -> None:
    first = new_world().run()
    first.tell(events.StopRequested())
    first.settle()
    new_world(first.objects).run()


def test_a_cancel_overrules_the_stop_of_an_earlier_master(new_world: NewWorld) -> None:
    first = new_world().run()
    first.tell(events.StopRequested(remember=True))
    first.settle()
    second = new_world(first.objects)
    second.tell(events.CancelRequested())
    second.settle()
    assert second.ended == events.EndJob(JobState.CANCELED)
    assert isinstance(second.log()[-1], Finished)


def test_a_job_that_another_master_leads_is_not_ours_to_cancel(new_world: NewWorld) -> None:
    first = new_world().run()
    second = new_world(first.objects)
    second.settle()
    second.tell(events.CancelRequested())
    assert second.ended == events.EndJob(JobState.SUSPENDED)
    first.pass_time(5_000)
    assert first.state is JobState.RUNNING


def test_a_log_that_refuses_entries_fails_the_job_without_one(new_world: NewWorld) -> None:
    world = new_world().run()
    world.held = {"log"}
    world.pass_time(1_000)
    world.fail_held("log", ObjectStoreDenied("read-only"))
    world.settle()
    world.fail_held("log", ObjectStoreDenied("read-only"))  # the entry Finished
    world.settle()
    assert world.ended is not None
    assert (world.ended.state, str(world.ended.failure)) == (JobState.FAILED, "read-only")
    assert world.completions() == []


def test_a_cancel_right_after_the_start_waits_for_the_leadership(new_world: NewWorld) -> None:
    world = new_world()
    world.tell(events.CancelRequested())
    assert world.ended is None
    world.settle()
    assert world.ended == events.EndJob(JobState.CANCELED)
    assert world.log()[-1] == Finished("CANCELED")


def test_functions_that_do_not_return_when_cancelled_are_told(new_world: NewWorld) -> None:
    world = new_world(cancel_timeout_ms=5_000).run()
    obedient = world.obey
    world.obey = lambda slot, message: None if slot == "slot-2" else obedient(slot, message)
    world.tell(events.CancelRequested())
    world.settle()
    world.pass_time(5_000)
    assert (world.ended, world.discarded) == (events.EndJob(JobState.CANCELED), ["slot-2"])
    [told] = world.master.view(world.now).exceptions
    assert told.exception.endswith("TasksHungError")
    assert "one of read (2/2), write (2/2), in one slot, was told to end" in told.message
    assert "has not returned within 5 s" in told.message
    assert "task.cancellation.timeout" in told.message
    assert (told.task, told.subtask) == ("", -1)


def test_a_function_that_does_not_return_when_its_job_is_done_is_told_by_its_subtask(new_world: NewWorld) -> None:
    world = new_world(cancel_timeout_ms=5_000).run()
    hangs = world.slot_of(ALL[3])
    world.mute = {m.Finished}
    world.drain()
    for subtask in ALL[:3]:
        world.tell(events.SlotMessage(SlotId("slot-1" if subtask.index == 0 else hangs), m.Finished(1, subtask)))
    world.pass_time(5_000)
    assert world.ended == events.EndJob(JobState.FINISHED)
    [told] = world.master.view(world.now).exceptions
    assert told.message.startswith("write (2/2) was told to end")
    assert (told.task, told.subtask, told.vertex) == ("write (2/2)", 1, world.master.view(0).vertices[1].id)
    assert world.master.failures.last == told.message


def test_a_function_that_hangs_while_its_region_restarts_is_told_with_what_failed(new_world: NewWorld) -> None:
    world = new_world(cancel_timeout_ms=5_000).run()
    world.mute = {m.Canceled}
    world.fail_task(ALL[0])
    world.pass_time(5_000)
    [root] = world.master.view(world.now).exceptions
    assert root.message == "boom"
    assert any(each.message.startswith("write (1/2) was told to end") for each in root.concurrent)
