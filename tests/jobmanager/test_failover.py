"""Failover by region: who is restarted, what survivors may do meanwhile, and who joins (World with strands)."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.jobmanager import events
from penstock.jobmanager.events import JobState
from penstock.jobmanager.options import CheckpointOptions
from penstock.jobmanager.restarts import FixedDelay
from penstock.jobmanager.settings import job_master_options
from penstock.runtime.configuration.config import Configuration
from penstock.state.ids import CheckpointId, OperatorId, SlotId, VertexId
from penstock.state.store.job_log import AttemptStarted, CheckpointCompleted
from penstock.taskmanager import messages as m
from penstock.taskmanager.messages import SubtaskId

NewWorld = Any
"""The class World of conftest.py."""
READ = OperatorId("read")
SOURCES = [SubtaskId(VertexId("source"), index) for index in (0, 1)]
SINKS = [SubtaskId(VertexId("sink"), index) for index in (0, 1)]
FIRST, SECOND = [[SOURCES[i], SINKS[i]] for i in (0, 1)]
"""The two regions; each has a slot."""


def sent(world: Any, kind: type) -> list[tuple[SlotId, Any]]:
    return [(slot, message) for slot, message in world.sent if isinstance(message, kind)]


def deployed(world: Any) -> list[tuple[SubtaskId, int]]:
    return [(SubtaskId(d.vertex.id, d.index), d.attempt) for _, d in sent(world, m.Deploy)]


def states(world: Any, subtasks: list[SubtaskId]) -> list[str]:
    vertices = {vertex.id: vertex.subtask_states for vertex in world.master.status().vertices}
    return [vertices[subtask.vertex][subtask.index] for subtask in subtasks]


def attempts(world: Any) -> dict[str, list[int]]:
    return {v.name: [s.attempt for s in v.subtasks] for v in world.master.view(world.now).vertices}


def test_only_the_region_of_what_has_failed_restarts(new_world: NewWorld, trace: list[str]) -> None:
    world = new_world(strands=True).run()
    world.pass_time(1_000)
    world.sent.clear()
    world.fail_task(SINKS[0])
    assert world.state is JobState.RESTARTING
    assert [(slot, c.subtasks) for slot, c in sent(world, m.Cancel)] == [("slot-1", (SOURCES[0],))]
    assert states(world, SECOND) == ["RUNNING", "RUNNING"]
    world.pass_time(1_000)
    assert world.state is JobState.RUNNING
    assert deployed(world) == [(each, 2) for each in FIRST]
    assert [d.restore[0].snapshots[0].watermark for _, d in sent(world, m.Deploy)[:1]] == [1]
    assert attempts(world) == {"read": [2, 1], "write": [2, 1]}
    assert [slot for slot, _ in sent(world, m.Start)] == ["slot-1"]
    assert world.log()[-1] == AttemptStarted(2)
    assert trace == ["commit 1.0", "commit 1.1"]  # what survivors have pending is theirs


def test_what_the_dead_left_pending_is_removed_at_the_end(new_world: NewWorld, trace: list[str]) -> None:
    world = new_world(strands=True).run()
    world.fail_task(SINKS[0])
    world.pass_time(1_000)
    world.drain()
    assert world.ended == events.EndJob(JobState.FINISHED)
    assert trace == ["commit 1.0", "commit 1.1", "cleanup"]


def test_a_full_restart_removes_it_before(new_world: NewWorld, trace: list[str]) -> None:
    world = new_world(strands=True).run()
    world.fail_task(SINKS[0])
    world.pass_time(1_000)
    world.fail_task(SINKS[0])
    world.fail_task(SINKS[1])
    world.pass_time(1_000)
    assert (world.state, attempts(world)["write"], trace) == (JobState.RUNNING, [3, 3], ["cleanup"])
    world.drain()
    assert trace == ["cleanup", "commit 1.0", "commit 1.1"]


def test_a_cleanup_that_hangs_does_not_keep_the_job_from_its_end(new_world: NewWorld) -> None:
    world = new_world(strands=True, stop_timeout_ms=5_000).run()
    world.fail_task(SINKS[0])
    world.pass_time(1_000)
    world.held = {"clear"}
    world.drain()
    assert world.ended is None
    world.pass_time(5_000)
    assert world.ended == events.EndJob(JobState.FINISHED)


def test_survivors_are_heard_while_others_restart(new_world: NewWorld) -> None:
    world = new_world(strands=True).run()
    world.fail_task(SOURCES[0])
    world.hear(m.SplitRequest, SOURCES[1], READ)
    assert [message.subtask for _, message in sent(world, m.AssignSplits)] == [SOURCES[1]]
    for subtask in SECOND:
        world.hear(m.Drained, subtask)
    world.held = {"log"}
    world.pass_time(1_000)
    assert world.state is JobState.STARTING
    world.held = set()
    world.settle()
    assert (world.state, states(world, SECOND)) == (JobState.RUNNING, ["DRAINED", "DRAINED"])
    for subtask in FIRST:
        world.hear(m.Drained, subtask)
    world.settle()
    assert world.ended == events.EndJob(JobState.FINISHED)


def test_messages_of_a_former_life_are_dropped(new_world: NewWorld) -> None:
    world = new_world(strands=True).run()
    world.fail_task(SINKS[0])
    world.pass_time(1_000)
    old = m.Failed(1, SOURCES[0], "read", "too late", "", None)  # type: ignore[arg-type]
    world.tell(events.SlotMessage(SlotId("slot-1"), old))
    assert world.state is JobState.RUNNING


def test_checkpoints_of_all_go_on_after_the_restart(new_world: NewWorld) -> None:
    world = new_world(strands=True).run()
    world.mute = {m.Acknowledge}
    world.pass_time(1_000)
    world.fail_task(SOURCES[0])
    aborted = [(slot, message.checkpoint_id) for slot, message in sent(world, m.AbortCheckpoint)]
    assert aborted == [("slot-2", 1)]
    world.mute = set()
    survivor = world.acknowledgement(SINKS[1], 1, CheckpointId(1))
    world.tell(events.SlotMessage(SlotId("slot-2"), survivor))
    world.pass_time(1_000)
    world.sent.clear()
    world.pass_time(1_000)
    assert [(t.attempt, t.checkpoint_id) for _, t in sent(world, m.TriggerCheckpoint)] == [(2, 2), (2, 2)]
    assert [(c.attempt, c.checkpoint_id) for c in world.log() if isinstance(c, CheckpointCompleted)] == [(2, 2)]


def test_no_checkpoint_begins_before_all_run(new_world: NewWorld) -> None:
    world = new_world(strands=True, restarts=FixedDelay(3, 10_000)).run()
    world.fail_task(SOURCES[0])
    world.sent.clear()
    world.pass_time(9_000)
    assert sent(world, m.TriggerCheckpoint) == []


def test_a_completion_on_its_way_is_what_the_region_goes_back_to(new_world: NewWorld) -> None:
    world = new_world(strands=True).run()
    world.held = {"log"}
    world.pass_time(1_000)
    world.fail_task(SINKS[0])
    world.pass_time(1_000)
    assert world.state is JobState.RESTARTING
    world.sent.clear()
    world.held = set()
    world.settle()
    assert [slot for slot, _ in sent(world, m.CheckpointCompleted)] == ["slot-2"]
    assert (world.state, world.completions()) == (JobState.RUNNING, [1])
    assert [d.reusable_checkpoint for _, d in sent(world, m.Deploy)] == [1, 1]


def test_a_region_that_fails_meanwhile_joins_and_counts_once(new_world: NewWorld) -> None:
    world = new_world(strands=True, restarts=FixedDelay(1, 1_000)).run()
    world.fail_task(SINKS[0])
    world.fail_task(SOURCES[1])
    assert world.state is JobState.RESTARTING
    world.pass_time(1_000)
    assert (world.state, attempts(world)) == (JobState.RUNNING, {"read": [2, 2], "write": [2, 2]})
    assert world.master.status().restarts == 1


def test_a_region_that_fails_while_others_start_is_another_failure(new_world: NewWorld) -> None:
    world = new_world(strands=True, restarts=FixedDelay(2, 1_000)).run()
    world.fail_task(SINKS[0])
    world.mute = {m.Initialized}
    world.pass_time(1_000)
    assert world.state is JobState.STARTING
    world.mute = set()
    world.fail_task(SOURCES[1])
    assert world.state is JobState.RESTARTING
    world.pass_time(1_000)
    assert (world.state, world.master.status().restarts) == (JobState.RUNNING, 2)
    assert attempts(world) == {"read": [3, 3], "write": [3, 3]}


def test_a_lost_slot_takes_only_its_regions_along(new_world: NewWorld) -> None:
    world = new_world(strands=True).run()
    world.lose(SlotId("slot-2"))
    world.sent.clear()
    world.pass_time(1_000)
    assert (world.state, len(world.wanted)) == (JobState.STARTING, 1)
    world.start_slots()
    assert (world.state, deployed(world)) == (JobState.RUNNING, [(each, 2) for each in SECOND])
    assert {slot for slot, _ in sent(world, m.Deploy)} == {"slot-3"}


def test_a_slot_that_does_not_come_leaves_the_others_alone(new_world: NewWorld) -> None:
    world = new_world(strands=True, slot_timeout_ms=5_000, restarts=FixedDelay(1, 1_000)).run()
    world.lose(SlotId("slot-2"))
    world.pass_time(1_000)
    world.tell(events.SlotsDenied("the cluster is full"))
    assert "the cluster is full" in str(world.master.status().last_failure)
    assert world.state is JobState.FAILING  # its one restart is used up
    world = new_world(strands=True, slot_timeout_ms=5_000, restarts=FixedDelay(9, 1_000)).run()
    world.lose(SlotId("slot-2"))
    world.sent.clear()
    world.pass_time(6_500)
    assert world.master.status().restarts == 2
    assert (sent(world, m.Cancel), states(world, FIRST)) == ([], ["RUNNING", "RUNNING"])


def test_a_slot_that_hangs_takes_along_what_else_ran_in_it(new_world: NewWorld) -> None:
    """Told to end was only one region; the other one loses its slot, too, and joins."""
    world = new_world(strands=True, cancel_timeout_ms=3_000).run()
    graph = world.master._parts.graph
    graph._slots = [SlotId("slot-1")] * 2  # both regions in one slot
    world.deployed[SlotId("slot-1")].update(world.deployed.pop(SlotId("slot-2")))
    world.mute = {m.Canceled}
    world.fail_task(SINKS[0])
    world.pass_time(2_999)
    assert states(world, SECOND) == ["RUNNING", "RUNNING"]
    world.pass_time(1)
    assert (world.discarded, world.state) == (["slot-1"], JobState.STARTING)
    world.mute = set()
    world.start_slots()
    assert (world.state, attempts(world)) == (JobState.RUNNING, {"read": [2, 2], "write": [2, 2]})
    assert world.master.status().restarts == 1


def test_each_is_given_its_own_time_to_end(new_world: NewWorld) -> None:
    world = new_world(strands=True, cancel_timeout_ms=3_000, restarts=FixedDelay(3, 10_000)).run()
    world.fail_task(SINKS[0])
    world.pass_time(2_000)
    world.mute = {m.Canceled}
    world.fail_task(SINKS[1])
    world.pass_time(2_999)
    assert world.discarded == []
    world.pass_time(1)
    assert world.discarded == ["slot-2"]


def test_what_is_no_subtasks_failure_concerns_all(new_world: NewWorld) -> None:
    world = new_world(strands=True, checkpoints=CheckpointOptions(interval_ms=1_000, tolerable_failures=0)).run()
    world.mute = {m.Acknowledge}
    world.pass_time(1_000)
    world.hear(m.Decline, SINKS[0], CheckpointId(1), "disk full")
    world.settle()
    world.pass_time(1_000)
    assert (world.state, attempts(world)) == (JobState.RUNNING, {"read": [2, 2], "write": [2, 2]})


def test_an_enumerator_that_fails_during_a_restart_makes_it_a_full_one(new_world: NewWorld) -> None:
    world = new_world(strands=True).run()
    world.fail_task(SINKS[0])

    def broken(subtask: int, parallelism: int) -> Any:
        raise ValueError("no splits today")

    world.master._parts.sources._coordinators[READ]._enumerator.next_splits = broken
    world.hear(m.SplitRequest, SOURCES[1], READ)
    world.settle()
    world.pass_time(1_000)
    assert (world.state, attempts(world)) == (JobState.RUNNING, {"read": [2, 2], "write": [2, 2]})


def test_a_restarted_reader_gets_again_what_it_was_given_since_the_checkpoint(new_world: NewWorld) -> None:
    world = new_world(strands=True).run()
    world.pass_time(1_000)
    for source in SOURCES:
        world.hear(m.SplitRequest, source, READ)
    given = {message.subtask: message.splits for _, message in sent(world, m.AssignSplits)}
    world.fail_task(SINKS[0])
    world.sent.clear()
    world.pass_time(1_000)
    again = sent(world, m.AssignSplits)
    assert [(slot, message.subtask, message.splits) for slot, message in again] == [
        ("slot-1", SOURCES[0], given[SOURCES[0]])
    ]
    world.pass_time(1_000)  # the next checkpoint holds it
    world.sent.clear()
    world.fail_task(SINKS[0])
    world.pass_time(1_000)
    assert (world.state, sent(world, m.AssignSplits)) == (JobState.RUNNING, [])


@pytest.mark.parametrize(("strategy", "restarted"), [("region", [2, 1]), ("full", [2, 2])])
def test_the_strategy_is_an_option(new_world: NewWorld, strategy: str, restarted: list[int]) -> None:
    options = job_master_options(Configuration({"jobmanager.execution.failover-strategy": strategy}))
    world = new_world(strands=True, failover_by_region=options.failover_by_region).run()
    world.fail_task(SINKS[0])
    world.pass_time(1_000)
    assert (world.state, attempts(world)["read"]) == (JobState.RUNNING, restarted)


def test_who_takes_over_restarts_all(new_world: NewWorld) -> None:
    first = new_world(strands=True).run()
    first.fail_task(SINKS[0])
    first.pass_time(2_000)
    second = new_world(first.objects, strands=True)
    second.settle()
    second.pass_time(40_000)
    second.start_slots()
    assert (second.state, attempts(second)) == (JobState.RUNNING, {"read": [3, 3], "write": [3, 3]})


@pytest.mark.parametrize("ask", [events.CancelRequested(), events.StopRequested()])
def test_a_job_can_be_ended_while_a_region_restarts(new_world: NewWorld, ask: events.Event) -> None:
    world = new_world(strands=True).run()
    world.fail_task(SINKS[0])
    world.tell(ask)
    world.settle()
    assert world.ended is not None
    assert world.ended.state in (JobState.CANCELED, JobState.SUSPENDED)
    assert not any(world.deployed.values())
