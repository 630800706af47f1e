"""Checkpoints that people ask for: each request is answered once, by the checkpoint that served it."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.jobmanager.events import CheckpointRequested, StopRequested
from penstock.jobmanager.operations import KEPT_MS, REMEMBERED, UNDER_WAY
from penstock.jobmanager.options import CheckpointOptions
from penstock.jobmanager.views import CheckpointOperation, OperationState
from penstock.state.ids import CheckpointId, VertexId
from penstock.taskmanager import messages as m
from penstock.taskmanager.messages import SubtaskId

NewWorld = Any
"""The class World of conftest.py."""
SINK = SubtaskId(VertexId("sink"), 0)
RARELY = CheckpointOptions(interval_ms=10_000_000, timeout_ms=60_000)


def asked(world: Any) -> dict[str, CheckpointOperation]:
    return {each.request: each for each in world.master.view(world.now).requested_checkpoints}


def ask(world: Any, request: str) -> CheckpointOperation:
    """And what is known at once."""
    world.tell(CheckpointRequested(request))
    return asked(world)[request]


def test_one_is_taken_at_once_whatever_the_interval(new_world: NewWorld, trace: list[str]) -> None:
    world = new_world(checkpoints=RARELY).run()
    operation = ask(world, "a")
    assert (operation.state, operation.checkpoint_id) == (OperationState.IN_PROGRESS, 1)
    world.now += 5
    world.settle()
    assert asked(world)["a"] == CheckpointOperation("a", OperationState.COMPLETED, 0, 5, 1)
    assert trace == ["commit 1.0", "commit 1.1"], "it is a checkpoint like any other"


def test_the_same_request_again_takes_no_other(new_world: NewWorld) -> None:
    world = new_world(checkpoints=RARELY).run()
    for _ in range(2):
        ask(world, "a")
        world.settle()
    assert len(world.completions()) == 1
    assert list(asked(world)) == ["a"]


def test_who_asks_while_one_is_under_way_gets_the_next_and_all_who_wait_share_it(new_world: NewWorld) -> None:
    world = new_world(checkpoints=RARELY).run()
    ask(world, "a")
    waiting = [ask(world, name) for name in "bc"]
    assert {each.checkpoint_id for each in waiting} == {-1}
    world.settle()
    world.pass_time(0)
    assert {name: (each.state, each.checkpoint_id) for name, each in asked(world).items()} == {
        "a": (OperationState.COMPLETED, 1),
        "b": (OperationState.COMPLETED, 2),
        "c": (OperationState.COMPLETED, 2),
    }


def test_one_that_is_declined_has_failed_and_the_job_goes_on(new_world: NewWorld) -> None:
    world = new_world(checkpoints=RARELY).run()
    world.mute = {m.Acknowledge}
    ask(world, "a")
    world.settle()
    world.hear(m.Decline, SINK, CheckpointId(1), "disk full")
    world.settle()
    operation = asked(world)["a"]
    assert operation.state is OperationState.FAILED
    assert "disk full" in (operation.failure or "")
    assert world.state.value == "RUNNING"


@pytest.mark.parametrize("waits", [False, True])
def test_what_an_attempt_takes_with_it_has_failed(new_world: NewWorld, waits: bool) -> None:
    world = new_world(checkpoints=RARELY).run()
    world.mute = {m.Acknowledge}
    ask(world, "a")
    request = "b" if waits else "a"
    if waits:
        ask(world, "b")
    world.settle()
    world.fail_task(SINK)
    world.settle()
    assert asked(world)[request].state is OperationState.FAILED
    assert asked(world)[request].failure


def test_a_completion_on_its_way_into_the_log_counts_whatever_happens_to_its_attempt(new_world: NewWorld) -> None:
    world = new_world(checkpoints=RARELY).run()
    world.held = {"log"}
    ask(world, "a")
    world.settle()
    world.fail_task(SINK)
    world.settle()
    assert asked(world)["a"].state is OperationState.IN_PROGRESS
    world.held = set()
    world.settle()
    assert asked(world)["a"].state is OperationState.COMPLETED


def test_refused_where_there_are_none_or_the_job_does_not_run(new_world: NewWorld) -> None:
    without = new_world(checkpoints=None).run()
    assert "execution.checkpointing.interval is 0" in (ask(without, "a").failure or "")
    starting = new_world(checkpoints=RARELY)
    starting.settle()
    assert "not running" in (ask(starting, "a").failure or "")
    starting.tell(StopRequested())
    starting.start_slots()
    assert ask(starting, "a").state is OperationState.FAILED, "it is answered as it was the first time"


def test_outcomes_are_remembered_for_a_while(new_world: NewWorld) -> None:
    world = new_world(checkpoints=RARELY).run()
    ask(world, "a")
    world.settle()
    world.pass_time(KEPT_MS - 1)
    ask(world, "b")
    world.settle()
    assert list(asked(world)) == ["a", "b"]
    world.pass_time(1)
    ask(world, "c")
    assert list(asked(world)) == ["b", "c"]


def test_so_many_may_wait_and_so_many_are_remembered(new_world: NewWorld) -> None:
    world = new_world(checkpoints=RARELY).run()
    world.mute = {m.Acknowledge}
    for number in range(UNDER_WAY):
        assert ask(world, f"{number}").failure is None
    assert "wait for a checkpoint already" in (ask(world, "one more").failure or "")
    refused = [ask(world, f"more {number}").request for number in range(REMEMBERED + 10)]
    assert len(asked(world)) == UNDER_WAY + REMEMBERED + 1
    assert list(asked(world))[UNDER_WAY:] == refused[-REMEMBERED - 1 :], "the oldest are forgotten when others come"


def test_the_end_of_the_job_is_the_end_of_what_waits(new_world: NewWorld) -> None:
    world = new_world(checkpoints=RARELY).run()
    world.mute = {m.Acknowledge}
    ask(world, "a")
    ask(world, "b")
    world.settle()
    world.tell(StopRequested())
    world.pass_time(200_000)
    assert world.ended is not None
    assert {each.state for each in asked(world).values()} == {OperationState.FAILED}
