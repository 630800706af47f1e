"""What a savepoint that failed leaves in the store: nothing, whoever adds to it too late."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.jobmanager.events import (
    CancelRequested,
    JobState,
    RunProgram,
    SavepointRequested,
    StopRequested,
    WorkFailed,
)
from penstock.jobmanager.views import OperationState
from penstock.state.errors import ObjectStoreUnavailable
from penstock.state.store.job_log import SavepointTaken, SavepointWritten, StopDecided
from penstock.state.store.objects import List, Put
from penstock.taskmanager import messages as m

NewWorld = Any
REQUEST = "b" * 32


def written(world: Any) -> list[str]:
    names: list[str] = world.objects.execute(List("savepoints/"))
    return names


def begun(new_world: NewWorld, **how: bool) -> Any:
    """A world whose savepoint has files in its directory, and whose document is being written."""
    world = new_world().run()
    world.held = {"metadata"}
    world.tell(SavepointRequested(REQUEST, "savepoints", **how))
    world.settle()
    (operation,) = world.master.savepoints()
    world.objects.execute(Put(f"{operation.path}/file", b"1"))
    return world


def document_of(world: Any) -> RunProgram:
    command: RunProgram = next(each for each in world.work if each.tag[0] == "metadata")
    return command


def put_document_and_say_nothing(world: Any) -> None:
    """It is there, and its writer has not heard so."""
    command = document_of(world)
    world.done(command)
    world.work.remove(command)
    world.tell(WorkFailed(command.tag, ObjectStoreUnavailable("no answer")))


@pytest.mark.parametrize("drain", [False, True])
def test_one_that_a_cancel_has_overruled(new_world: NewWorld, drain: bool) -> None:
    world = begun(new_world, stop=True, drain=drain)
    world.mute = {m.Canceled}
    world.tell(CancelRequested())
    world.held = set()
    world.settle()
    assert written(world) == []
    world.pass_time(40_000)
    assert world.ended.state is JobState.CANCELED


@pytest.mark.parametrize("how", [{}, {"stop": True}, {"stop": True, "drain": True}], ids=str)
def test_one_of_which_it_is_not_known_whether_it_was_written(new_world: NewWorld, how: dict[str, bool]) -> None:
    world = begun(new_world, **how)
    put_document_and_say_nothing(world)
    world.settle()
    assert written(world) == []
    assert world.master.savepoints()[0].state is OperationState.FAILED


@pytest.mark.parametrize("how", [{}, {"stop": True}], ids=str)
def test_one_whose_document_is_written_in_a_later_attempt(new_world: NewWorld, how: dict[str, bool]) -> None:
    world = begun(new_world, **how)
    world.lose(next(iter(world.deployed)))
    world.pass_time(1_000)
    world.run()
    assert world.attempt == 2
    world.held = set()
    world.settle()
    assert written(world) == []


@pytest.mark.parametrize("how", [{}, {"stop": True}], ids=str)
def test_one_whose_files_come_while_the_job_is_being_cancelled(new_world: NewWorld, how: dict[str, bool]) -> None:
    world = new_world().run()
    world.mute = {m.Acknowledge}
    world.tell(SavepointRequested(REQUEST, "savepoints", **how))
    world.settle()
    (operation,) = world.master.savepoints()
    world.mute = {m.Acknowledge, m.Canceled}
    world.tell(CancelRequested())
    world.settle()
    world.objects.execute(Put(f"{operation.path}/late", b"1"))
    world.pass_time(40_000)
    world.settle()
    assert world.ended.state is JobState.CANCELED
    assert written(world) == []


def test_one_whose_master_has_died(new_world: NewWorld) -> None:
    """The next master stops the job with one of its own, which counts, and stays."""
    first = begun(new_world, stop=True)
    first.done(document_of(first))
    second = new_world(first.objects)
    second.settle()
    second.pass_time(40_000)
    second.run()
    (decided,) = [each for each in second.log() if isinstance(each, StopDecided)]
    second.objects.execute(Put(f"{decided.path}/late", b"from a slot of the first master"))
    second.pass_time(40_000)
    second.settle()
    assert second.ended.state is JobState.FINISHED
    (taken,) = [each for each in second.log() if isinstance(each, SavepointTaken)]
    assert written(second) == [f"{taken.path}/_metadata"]


@pytest.mark.parametrize("how", [{}, {"stop": True}], ids=str)
@pytest.mark.parametrize("ends", [CancelRequested(), StopRequested()], ids=lambda event: type(event).__name__)
def test_one_whose_document_is_being_written_when_the_job_ends(new_world: NewWorld, how: Any, ends: Any) -> None:
    world = begun(new_world, **how)
    world.tell(ends)
    world.settle()
    world.pass_time(10_000)
    assert world.ended is None, "whoever writes it is waited for"
    world.held = set()
    world.settle()
    world.pass_time(50_000)
    assert world.ended is not None
    assert [name for name in written(world) if not is_taken(world, name)] == []


def is_taken(world: Any, name: str) -> bool:
    return any(
        isinstance(each, SavepointTaken | SavepointWritten) and name.startswith(each.path) for each in world.log()
    )


def test_a_job_does_not_wait_for_ever_for_who_writes_a_document(new_world: NewWorld) -> None:
    world = begun(new_world)
    world.tell(CancelRequested())
    world.settle()
    world.pass_time(31_000)
    assert world.ended.state is JobState.CANCELED
