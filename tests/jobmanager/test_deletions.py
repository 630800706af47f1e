"""Deletions that fail are begun again when a checkpoint is completed; what a failed savepoint has left is removed."""

from __future__ import annotations

from typing import Any

from penstock.jobmanager.events import SavepointRequested
from penstock.jobmanager.options import CheckpointOptions
from penstock.jobmanager.views import OperationState
from penstock.state.errors import ObjectStoreUnavailable
from penstock.state.store.objects import List, Put
from penstock.taskmanager import messages as m

NewWorld = Any


def documents(world: Any) -> list[str]:
    return [name for name in world.objects.execute(List("job/chk-")) if name.endswith("_metadata")]


def test_a_subsumed_checkpoint_is_deleted_though_the_store_was_away(new_world: NewWorld) -> None:
    world = new_world().run()
    world.pass_time(1_000)
    world.held = {"delete"}
    world.pass_time(1_000)
    world.fail_held("delete", ObjectStoreUnavailable("503"))
    world.held = set()
    assert documents(world) == ["job/chk-1-1/_metadata", "job/chk-2-1/_metadata"]
    world.pass_time(1_000)
    assert documents(world) == ["job/chk-3-1/_metadata"]


def test_a_document_that_is_written_too_late_is_deleted(new_world: NewWorld) -> None:
    world = new_world(checkpoints=CheckpointOptions(interval_ms=1_000, tolerable_failures=None)).run()
    world.held = {"metadata"}
    world.pass_time(1_000)
    world.lose(next(iter(world.deployed)))
    world.held = set()
    world.settle()
    assert documents(world) == []


def test_so_is_one_of_which_it_is_not_known_whether_it_was_written(new_world: NewWorld) -> None:
    world = new_world().run()
    world.held = {"metadata"}
    world.pass_time(1_000)
    world.objects.execute(Put("job/chk-1-1/_metadata", b"written"))
    world.fail_held("metadata", ObjectStoreUnavailable("no answer"))
    world.held = set()
    world.settle()
    assert documents(world) == []


def test_what_comes_late_for_a_savepoint_that_failed_is_removed(new_world: NewWorld) -> None:
    world = new_world().run()
    world.mute = {m.Acknowledge}
    world.tell(SavepointRequested("b" * 32, "savepoints"))
    world.settle()
    subtask = next(iter(next(iter(world.deployed.values()))))
    world.hear(m.Decline, subtask, 1, "no")
    world.settle()
    (operation,) = world.master.savepoints()
    assert operation.state is OperationState.FAILED
    world.objects.execute(Put(f"{operation.path}/late", b"1"))
    other = next(each for tasks in world.deployed.values() for each in tasks if each != subtask)
    late = world.acknowledgement(other, world.attempt_of(other), 1)
    world.hear(m.Acknowledge, other, 1, late.snapshot)
    world.settle()
    assert world.objects.execute(List("savepoints/")) == []
