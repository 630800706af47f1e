"""What a master asks of itself while it stops a job with a savepoint, and dies: the next one does the last thing."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.jobmanager import events
from penstock.jobmanager.events import CancelRequested, JobState, SavepointRequested, StopRequested
from penstock.jobmanager.views import OperationState
from penstock.state.store.job_log import SavepointTaken, StopDecided
from penstock.taskmanager import messages as m

NewWorld = Any


@pytest.mark.parametrize(
    ("request_of_user", "ends_as"),
    [(CancelRequested(), JobState.CANCELED), (StopRequested(remember=True), JobState.SUSPENDED)],
)
def test_who_cancels_or_stops_a_job_amid_that_overrules_it(
    new_world: NewWorld, request_of_user: Any, ends_as: JobState
) -> None:
    first = new_world().run()
    first.pass_time(1_000)
    first.mute = {m.Acknowledge}
    first.tell(SavepointRequested("b" * 32, "savepoints", stop=True))
    first.settle()
    first.mute = {m.Acknowledge, m.Canceled}
    first.tell(request_of_user)
    first.settle()
    second = new_world(first.objects)
    second.settle()
    second.pass_time(40_000)
    assert second.ended == events.EndJob(ends_as)


@pytest.mark.parametrize("drain", [False, True])
def test_one_whose_document_is_being_written_is_not_completed_any_more(new_world: NewWorld, drain: bool) -> None:
    """Simulator seed 13: the entry would have been illegal behind the cancel's, and failed the job."""
    world = new_world().run()
    world.pass_time(1_000)
    world.held = {"metadata"}
    world.tell(SavepointRequested("b" * 32, "savepoints", stop=True, drain=drain))
    world.settle()
    world.mute = {m.Canceled}
    world.tell(CancelRequested())
    world.held = set()
    world.settle()
    world.pass_time(40_000)
    assert world.ended == events.EndJob(JobState.CANCELED)
    assert not any(isinstance(each, SavepointTaken) for each in world.log())
    (operation,) = world.master.savepoints()
    assert operation.state is OperationState.FAILED


def test_the_next_master_writes_one_of_its_own(new_world: NewWorld) -> None:
    """Simulator seed 21: the document of the one before was there, without an entry in the log, and in the way."""
    first = new_world().run()
    first.pass_time(1_000)
    first.tell(SavepointRequested("b" * 32, "savepoints", stop=True))
    first.held = {"metadata"}
    first.settle()
    second = new_world(first.objects)
    for command in [each for each in first.work if each.tag[0] == "metadata"]:
        first.done(command)
    second.settle()
    second.pass_time(40_000)
    second.run()
    second.pass_time(40_000)
    assert second.ended == events.EndJob(JobState.FINISHED)
    (operation,) = second.master.savepoints()
    (taken,) = [each for each in second.log() if isinstance(each, SavepointTaken)]
    (decided,) = [each for each in second.log() if isinstance(each, StopDecided)]
    assert (operation.state, operation.path) == (OperationState.COMPLETED, taken.path)
    assert taken.path != decided.path
