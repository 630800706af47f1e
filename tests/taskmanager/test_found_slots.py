"""A task manager that is started again has forgotten who leads its jobs and what was given back; its slots have not."""

from __future__ import annotations

import pytest

from penstock.state.ids import Generation, JobId, SlotId
from penstock.taskmanager.messages import SlotAddress
from penstock.taskmanager.processes.leases import SlotStatus, SupersededError
from penstock.taskmanager.processes.task_manager import KillSlot, SlotState, TaskManager

JOB, OTHER = JobId("job"), JobId("other")
SLOTS = [SlotId("slot-a"), SlotId("slot-b")]


def status(job_id: str, generation: int) -> SlotStatus:
    return SlotStatus(SlotAddress("tm", "host", 1, "", pid=7), 7, job_id, generation, 0, 0, 0, 0)


@pytest.fixture
def pool() -> TaskManager:
    """The next life of one that had two slots."""
    found = TaskManager("next-", 4, 2, ask_interval_ms=2_000, ask_timeout_ms=10_000)
    for slot in SLOTS:
        found.adopt(slot, 0)
    return found


@pytest.mark.parametrize("leased_when_found", [True, False])
def test_a_restarted_task_manager_learns_from_its_slots_who_is_superseded(
    pool: TaskManager, leased_when_found: bool
) -> None:
    """A master that slept until now would take the slots that its successor uses."""
    for slot in SLOTS:
        pool.started(slot, status(JOB, 3) if leased_when_found else status("", 0), 0)
    if not leased_when_found:
        pool.seen(SLOTS[0], status(JOB, 3), 1)
    assert (pool.generation(JOB), pool.generation(OTHER), pool.generation(None)) == (3, 0, 0)
    for refused in (
        lambda: pool.release(JOB, Generation(2), SLOTS, 2),
        lambda: pool.discard(JOB, Generation(2), SLOTS[0], "old", 2),
        lambda: pool.allocate(JOB, Generation(2), 1, [], 2),
    ):
        with pytest.raises(SupersededError):
            refused()
    assert pool.slots[SLOTS[0]].state is SlotState.LET


def test_what_is_given_back_before_a_slot_has_spoken_can_be_given_back_again_and_twice(pool: TaskManager) -> None:
    assert pool.release(JOB, Generation(1), SLOTS, 0) == []
    for slot in SLOTS:
        pool.started(slot, status(JOB, 1), 1)
    assert pool.lets_to(JOB)
    killed = [command for command in pool.release(JOB, Generation(1), SLOTS, 2) if isinstance(command, KillSlot)]
    assert killed == [KillSlot(slot, "released") for slot in SLOTS]
    assert pool.release(JOB, Generation(1), SLOTS, 3) == []
    assert not pool.lets_to(JOB)
