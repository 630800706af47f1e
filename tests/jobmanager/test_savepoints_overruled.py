"""What a master asks of itself while it stops a job with a savepoint, and dies: the next one does the last thing."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.jobmanager import events
from penstock.jobmanager.events import CancelRequested, JobState, SavepointRequested, StopRequested
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
