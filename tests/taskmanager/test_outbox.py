"""What a slot has to say: in order, to the master of its generation, and bounded."""

from __future__ import annotations

import pytest

from penstock.state.errors import ProtocolError
from penstock.state.ids import Attempt, Generation, VertexId
from penstock.taskmanager import outbox
from penstock.taskmanager.messages import Initialized, Running, SubtaskId, TaskReport
from penstock.taskmanager.outbox import Outbox
from penstock.taskmanager.processes.leases import SupersededError

ONE, TWO = SubtaskId(VertexId("v"), 0), SubtaskId(VertexId("v"), 1)


def report(subtask: SubtaskId, records: int) -> TaskReport:
    return TaskReport(Attempt(1), subtask, records, 0, 0, 0, 0, 0.0, 0.0, 0.0)


@pytest.fixture
def box() -> Outbox:
    box = Outbox()
    box.begin(Generation(3))
    return box


def test_messages_come_in_order_and_once(box: Outbox) -> None:
    said = [Initialized(Attempt(1), ONE), Initialized(Attempt(1), TWO), Running(Attempt(1), ONE)]
    for message in said:
        box.add(message)
    assert box.take(3) == said
    assert box.take(3) == []


def test_of_the_reports_of_a_task_only_the_newest_waits(box: Outbox) -> None:
    box.add(report(ONE, 10))
    box.add(report(TWO, 20))
    box.add(Running(Attempt(1), ONE))
    box.add(report(ONE, 11))
    assert box.take(3) == [report(TWO, 20), Running(Attempt(1), ONE), report(ONE, 11)]
    box.add(report(ONE, 12))
    assert box.take(3) == [report(ONE, 12)]


def test_a_new_generation_does_not_hear_what_was_said_to_the_old_one(box: Outbox) -> None:
    box.add(report(ONE, 10))
    box.add(Running(Attempt(1), ONE))
    box.begin(Generation(4))
    assert box.take(4) == []
    box.add(report(ONE, 1))
    assert box.take(4) == [report(ONE, 1)]


def test_the_same_generation_again_loses_nothing(box: Outbox) -> None:
    box.add(Running(Attempt(1), ONE))
    box.begin(Generation(3))
    assert len(box.take(3)) == 1


def test_an_older_generation_is_told_to_stop(box: Outbox) -> None:
    box.add(Running(Attempt(1), ONE))
    for refused in (lambda: box.take(2), lambda: box.begin(Generation(2)), lambda: box.check(2)):
        with pytest.raises(SupersededError, match="generation 2 is superseded by 3"):
            refused()
    assert len(box.take(3)) == 1


def test_a_generation_without_a_lease_gets_nothing(box: Outbox) -> None:
    box.add(Running(Attempt(1), ONE))
    with pytest.raises(ProtocolError, match="no lease"):
        box.take(4)


def test_it_cannot_grow_for_ever(box: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "MAX_MESSAGES", 2)
    for records in range(10):
        box.add(report(ONE, records))
    box.add(Running(Attempt(1), ONE))
    with pytest.raises(ProtocolError, match="2 messages wait"):
        box.add(Running(Attempt(1), TWO))
