"""What a savepoint alone holds of sinks' output, when its job goes on: nobody removes it before a later checkpoint."""

from __future__ import annotations

from typing import Any

from penstock.jobmanager import events
from penstock.jobmanager.events import CancelRequested, JobState, SavepointRequested
from penstock.jobmanager.options import CheckpointOptions
from penstock.state.errors import DeposedError
from penstock.state.store.job_log import CheckpointCompleted, SavepointWritten

NewWorld = Any


def with_savepoint(new_world: NewWorld, **options: Any) -> Any:
    """A job that runs, has completed checkpoint 1, and went on after savepoint 2."""
    world = new_world(**options).run()
    world.pass_time(1_000)
    world.tell(SavepointRequested("b" * 32, "savepoints"))
    world.settle()
    assert [type(each) for each in world.log()[-2:]] == [CheckpointCompleted, SavepointWritten]
    return world


def test_a_restart_leaves_it_and_the_next_one_after_a_checkpoint_does_not(
    new_world: NewWorld, trace: list[str]
) -> None:
    world = with_savepoint(new_world)
    trace.clear()
    world.lose(next(iter(world.deployed)))
    world.pass_time(1_000)
    world.run()
    assert "cleanup" not in trace
    world.pass_time(1_000)
    assert world.completions()[-1] == 3, "ids go on above the savepoint's"
    world.lose(next(iter(world.deployed)))
    world.pass_time(1_000)
    world.run()
    assert trace[-1] == "cleanup"


def test_the_next_master_knows(new_world: NewWorld, trace: list[str]) -> None:
    first = with_savepoint(new_world)
    second = new_world(first.objects)
    second.settle()
    second.pass_time(40_000)
    second.run()
    second.tell(CancelRequested())
    second.settle()
    second.pass_time(40_000)
    assert second.ended == events.EndJob(JobState.CANCELED)
    assert "cleanup" not in trace


def test_one_that_another_master_has_taken_over_from_is_not_said_to_be_there(new_world: NewWorld) -> None:
    first = new_world().run()
    first.held = {"metadata"}
    first.tell(SavepointRequested("b" * 32, "savepoints"))
    first.settle()
    second = new_world(first.objects)
    second.settle()
    second.pass_time(40_000)
    second.run()
    first.held = set()
    first.settle()
    assert isinstance(first.ended.failure, DeposedError)
    (operation,) = first.master.savepoints()
    assert operation.failure
    assert not any(isinstance(each, SavepointWritten) for each in second.log())


def test_a_checkpoint_that_is_completed_after_a_younger_savepoint_is_not_as_new(
    new_world: NewWorld, trace: list[str]
) -> None:
    """Two may be under way, and the savepoint's subtasks may be the first to be through."""
    world = new_world(checkpoints=CheckpointOptions(interval_ms=1_000, max_concurrent=2)).run()
    world.pass_time(999)
    held: list[Any] = []
    obey = world.obey
    world.obey = lambda slot, message: held.append((slot, message))
    world.pass_time(1)
    world.obey = obey
    world.tell(SavepointRequested("b" * 32, "savepoints"))
    world.settle()
    for slot, message in held:
        world.obey(slot, message)
    world.settle()
    assert [type(each) for each in world.log()[-2:]] == [SavepointWritten, CheckpointCompleted]
    trace.clear()
    world.tell(CancelRequested())
    world.settle()
    world.pass_time(40_000)
    assert world.ended == events.EndJob(JobState.CANCELED)
    assert "cleanup" not in trace
