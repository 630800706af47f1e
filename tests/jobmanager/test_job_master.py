"""The job master, from submission to every end: each race is an order of events (conftest.py)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from penstock.jobmanager import events
from penstock.jobmanager.events import JobState
from penstock.jobmanager.job_states import TERMINAL_STATES, TRANSITIONS
from penstock.jobmanager.options import CheckpointOptions
from penstock.jobmanager.restarts import FixedDelay
from penstock.state.errors import DeposedError, ObjectStoreUnavailable
from penstock.state.ids import CheckpointId, JobId, OperatorId, SlotId, VertexId
from penstock.state.store.job_log import Finished, JobLog, LeaderElected
from penstock.state.store.objects import run_program
from penstock.taskmanager import messages as m
from penstock.taskmanager.messages import SubtaskId

NewWorld = Any
"""The class World of conftest.py."""
JOB = JobId("job")
ALL = [SubtaskId(VertexId(name), index) for name in ("source", "sink") for index in (0, 1)]


def test_a_bounded_job_from_its_start_to_its_end(new_world: NewWorld, trace: list[str]) -> None:
    world = new_world().run()
    assert (world.count(m.Deploy), world.count(m.Start)) == (4, 2)
    world.drain()
    assert world.ended == events.EndJob(JobState.FINISHED)
    assert trace == ["commit 1.0", "commit 1.1"]
    assert world.log()[-1] == Finished("FINISHED")
    assert world.count(m.FinishTasks) == 2


def test_without_checkpoints_output_is_committed_once_at_the_end(new_world: NewWorld, trace: list[str]) -> None:
    world = new_world(checkpoints=None).run()
    world.pass_time(100_000)
    assert world.count(m.TriggerCheckpoint) == 0
    world.drain()
    assert world.ended == events.EndJob(JobState.FINISHED)
    assert trace == ["commit 1.0", "commit 1.1"]
    assert world.completions() == []


def test_no_commit_and_no_notification_before_the_completion_is_logged(new_world: NewWorld, trace: list[str]) -> None:
    world = new_world().run()
    world.held = {"log"}
    world.pass_time(1_000)
    assert (trace, world.count(m.CheckpointCompleted)) == ([], 0)
    world.held = set()
    world.settle()
    assert trace == ["commit 1.0", "commit 1.1"]
    assert world.count(m.CheckpointCompleted) == 2
    assert world.master.status().checkpoints.last_completed == 1


def test_subsumed_checkpoints_are_logged_before_they_are_deleted(new_world: NewWorld) -> None:
    world = new_world().run()
    world.pass_time(1_000)
    world.held = {"delete"}
    world.pass_time(1_000)
    (deletion,) = world.work
    assert deletion.tag[0] == "delete"
    assert [type(record).__name__ for record in world.log()][-2:] == ["CheckpointCompleted", "SubsumedUpTo"]


def test_finish_tasks_waits_for_every_commit(new_world: NewWorld) -> None:
    world = new_world().run()
    world.held = {"commit"}
    world.drain()
    assert (world.state, world.count(m.FinishTasks)) == (JobState.FINISHING, 0)
    world.held = set()
    world.settle()
    assert world.ended == events.EndJob(JobState.FINISHED)


@pytest.mark.parametrize("lost", ["slot-1", "slot-2"])
def test_whatever_happens_to_slots_once_everything_is_safe_the_job_finishes(new_world: NewWorld, lost: str) -> None:
    world = new_world().run()
    world.held = {"commit"}
    world.drain()
    world.lose(SlotId(lost))
    world.held = set()
    world.settle()
    assert world.ended == events.EndJob(JobState.FINISHED)
    assert world.attempt == 1


def test_a_failed_task_ends_the_attempt_and_the_next_one_restores(new_world: NewWorld, trace: list[str]) -> None:
    world = new_world().run()
    world.pass_time(1_000)
    world.fail_task(ALL[2])
    assert world.state is JobState.RESTARTING
    assert world.count(m.Cancel) == 2
    world.sent.clear()
    world.pass_time(1_000)
    assert (world.state, world.attempt) == (JobState.RUNNING, 2)
    deploys = [message for _, message in world.sent if isinstance(message, m.Deploy)]
    assert [d.reusable_checkpoint for d in deploys] == [1] * 4
    assert deploys[0].restore[0].snapshots[0].watermark == 1
    assert trace == ["commit 1.0", "commit 1.1", "cleanup"]
    status = world.master.status()
    assert (status.restarts, status.last_failure, status.checkpoints.restored) == (1, "boom", 1)


def test_a_lost_slot_is_replaced_and_the_survivor_is_used_again(new_world: NewWorld) -> None:
    world = new_world().run()
    world.lose(SlotId("slot-1"))
    assert world.state is JobState.RESTARTING
    world.pass_time(1_000)
    assert (world.state, len(world.wanted)) == (JobState.STARTING, 1)
    world.start_slots()
    assert world.state is JobState.RUNNING
    assert sorted(slot for slot, tasks in world.deployed.items() if tasks) == ["slot-2", "slot-3"]


def test_the_traceback_shown_is_that_of_the_last_failure(new_world: NewWorld) -> None:
    world = new_world().run()
    world.fail_task(ALL[2])
    status = world.master.status()
    assert (status.failed_operator, status.failure_traceback, status.restart_delay_ms) == ("map", "traceback", 1_000)
    world.pass_time(1_000)
    world.lose(SlotId("slot-1"))
    status = world.master.status()
    assert (status.restarts, status.last_failure) == (2, "slot slot-1 was lost: died")
    assert (status.failed_operator, status.failure_traceback) == (None, None)


def test_slots_that_do_not_obey_are_discarded(new_world: NewWorld) -> None:
    world = new_world(cancel_timeout_ms=5_000).run()
    world.mute = {m.Canceled}
    world.fail_task(ALL[0])
    world.pass_time(4_999)
    assert world.state is JobState.RESTARTING
    world.pass_time(1)
    assert sorted(world.discarded) == ["slot-1", "slot-2"]
    world.mute = set()
    world.start_slots()
    assert (world.state, world.attempt) == (JobState.RUNNING, 2)


@pytest.mark.parametrize("mute", [m.Initialized, m.Running, m.Canceled])
def test_further_failures_while_starting_or_cancelling_change_nothing(new_world: NewWorld, mute: type) -> None:
    world = new_world(cancel_timeout_ms=500)
    world.mute = {mute}
    world.settle()
    world.start_slots()
    world.fail_task(ALL[1])
    assert world.state is JobState.RESTARTING
    for slot in ("slot-1", "slot-2"):
        world.lose(SlotId(slot))
    world.tell(events.SlotLost(SlotId("slot-1"), "again"))
    assert (world.state, world.master.status().restarts) == (JobState.RESTARTING, 1)
    world.mute = set()
    world.pass_time(1_000)
    world.start_slots()
    assert (world.state, world.attempt) == (JobState.RUNNING, 2)


@pytest.mark.parametrize("kind", ["restore", "cleanup"])
def test_a_failure_while_restoring_is_a_failed_attempt(new_world: NewWorld, kind: str) -> None:
    world = new_world().run()
    world.pass_time(1_000)
    world.held = {kind}
    world.fail_task(ALL[0])
    world.pass_time(1_000)
    world.fail_held(kind, ObjectStoreUnavailable("no"))
    assert world.state is JobState.RESTARTING
    world.held = set()
    world.pass_time(1_000)
    assert (world.state, world.attempt) == (JobState.RUNNING, 3)


def test_messages_of_an_attempt_that_is_over_are_dropped(new_world: NewWorld) -> None:
    world = new_world().run()
    late = world.acknowledgement(ALL[0], world.attempt, CheckpointId(1))
    world.fail_task(ALL[0])
    world.pass_time(1_000)
    slot = world.slot_of(ALL[0])
    for message in (
        late,
        m.Failed(late.attempt, ALL[0], "map", "late", ""),
        m.Drained(late.attempt, ALL[0]),
        m.SplitRequest(late.attempt, ALL[0], OperatorId("read")),
    ):
        world.tell(events.SlotMessage(slot, message))
    assert (world.state, world.attempt) == (JobState.RUNNING, 2)


def test_a_completion_on_its_way_into_the_log_is_what_is_restored(new_world: NewWorld, trace: list[str]) -> None:
    world = new_world().run()
    world.held = {"log"}
    world.pass_time(1_000)
    world.fail_task(ALL[0])
    world.pass_time(5_000)
    assert world.state is JobState.RESTARTING  # nothing may be chosen before the log is known
    world.held = set()
    world.settle()
    world.pass_time(0)
    assert (world.state, world.master.status().checkpoints.restored) == (JobState.RUNNING, 1)
    assert world.count(m.CheckpointCompleted) == 0
    assert trace == ["commit 1.0", "commit 1.1", "cleanup"]


def test_an_append_of_unknown_outcome_is_tried_until_the_log_says_what_it_was(
    new_world: NewWorld, trace: list[str]
) -> None:
    world = new_world().run()
    world.held = {"log"}
    world.pass_time(1_000)
    honest = world.objects
    world.mute_store()
    world.held = set()
    world.settle()
    world.objects = honest
    assert (world.completions(), trace) == ([1], [])  # written, but nobody heard of it
    world.pass_time(1_000)
    assert world.completions()[:1] == [1]
    assert world.completions().count(1) == 1
    assert trace[:2] == ["commit 1.0", "commit 1.1"]


def test_metadata_of_a_failed_attempt_is_never_logged(new_world: NewWorld, trace: list[str]) -> None:
    world = new_world().run()
    world.held = {"metadata"}
    world.pass_time(1_000)
    world.fail_task(ALL[0])
    world.pass_time(1_000)
    world.held = set()
    world.settle()
    assert (world.state, world.completions(), trace) == (JobState.RUNNING, [], ["cleanup"])


def test_writers_start_only_after_commits_of_the_restored_checkpoint(new_world: NewWorld, trace: list[str]) -> None:
    world = new_world().run()
    world.held = {"commit"}
    world.pass_time(1_000)
    world.fail_task(ALL[0])
    world.sent.clear()
    world.pass_time(1_000)
    assert (world.state, world.count(m.Deploy), trace) == (JobState.STARTING, 0, [])
    world.held = set()
    world.settle()
    assert (world.state, trace) == (JobState.RUNNING, ["commit 1.0", "commit 1.1", "cleanup"])


def test_a_master_that_takes_over_commits_what_its_predecessor_did_not(new_world: NewWorld, trace: list[str]) -> None:
    first = new_world(lease_ms=30_000).run()
    first.held = {"commit"}
    first.pass_time(2_000)
    assert first.completions() == [1, 2]
    second = new_world(first.objects)
    second.settle()
    second.pass_time(40_000)
    second.start_slots()
    assert (second.state, second.attempt) == (JobState.RUNNING, 2)
    assert trace == ["commit 1.0", "commit 1.1", "commit 2.0", "commit 2.1", "cleanup"]
    assert second.master.status().checkpoints.restored == 2
    (told,) = second.master.view(0).exceptions
    assert "master (generation 1) was lost: it gave no sign of life for 30000 ms" in told.message


def test_a_deposed_master_stops_and_writes_nothing(new_world: NewWorld, trace: list[str]) -> None:
    world = new_world().run()
    log = JobLog(JOB, lambda: "other")
    run_program(log.read(), world.objects)
    run_program(log.append(LeaderElected(log.state.generation + 1)), world.objects)  # type: ignore[arg-type]
    before = len(world.log())
    world.sent.clear()
    world.pass_time(1_000)
    assert world.ended is not None
    assert (world.state, type(world.ended.failure)) == (JobState.DEPOSED, DeposedError)
    assert (len(world.log()), world.completions(), trace) == (before, [], [])
    assert world.count(m.Cancel) == 2


def test_slots_that_do_not_come_in_time_are_a_failure_with_its_reason(new_world: NewWorld) -> None:
    world = new_world(slot_timeout_ms=5_000, restarts=FixedDelay(0))
    world.settle()
    world.tell(events.SlotOffered(SlotId("slot-1")))
    world.pass_time(5_000)
    assert world.ended is not None
    assert str(world.ended.failure) == "1 of 2 slots were there after 5 s"


def test_declined_checkpoints_fail_the_attempt_when_not_tolerated(new_world: NewWorld) -> None:
    world = new_world(checkpoints=CheckpointOptions(interval_ms=1_000, tolerable_failures=0)).run()
    world.mute = {m.Acknowledge}
    world.pass_time(1_000)
    slot = world.slot_of(ALL[2])
    world.tell(events.SlotMessage(slot, m.Decline(world.attempt, ALL[2], CheckpointId(1), "disk full")))
    assert world.state is JobState.RESTARTING
    assert "declined by sink[0]: disk full" in str(world.master.status().last_failure)


def test_splits_are_handed_out_only_outside_of_barriers(new_world: NewWorld) -> None:
    world = new_world().run()
    world.mute = {m.BarrierInjected, m.Acknowledge}
    world.pass_time(1_000)
    slot = world.slot_of(ALL[0])
    world.tell(events.SlotMessage(slot, m.SplitRequest(world.attempt, ALL[0], OperatorId("read"))))
    assert world.count(m.AssignSplits) == 0
    for subtask in ALL[:2]:
        message = m.BarrierInjected(world.attempt, subtask, CheckpointId(1))
        world.tell(events.SlotMessage(world.slot_of(subtask), message))
    assert world.count(m.AssignSplits) == 1


def test_every_terminal_state_is_final() -> None:
    assert {state for state, following in TRANSITIONS.items() if not following} == TERMINAL_STATES


def test_the_same_events_give_the_same_commands(new_world: NewWorld) -> None:
    def shape(command: events.Command) -> Any:
        return command.tag if isinstance(command, events.RunProgram | events.RunBlocking) else command

    def played() -> list[Any]:
        seen: list[Any] = []
        new_world.names = 0
        world = new_world()
        carry_out: Callable[[list[events.Command]], None] = world.carry_out

        def watched(commands: list[events.Command]) -> None:
            seen.extend(map(shape, commands))
            carry_out(commands)

        world.carry_out = watched  # type: ignore[method-assign]
        world.run()
        world.pass_time(3_000)
        world.lose(SlotId("slot-2"))
        world.pass_time(1_000)
        world.start_slots()
        world.drain()
        assert world.ended == events.EndJob(JobState.FINISHED)
        return seen

    assert played() == played()
