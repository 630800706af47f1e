"""Slots with resources of their own, in the pool of a node: started for one job, ended with what needed them."""

from __future__ import annotations

import queue
import threading
from pathlib import Path
from typing import Any

import pytest

from penstock.runtime.resources import NO_RESOURCES, Resources
from penstock.state.ids import Generation, JobId, SlotId
from penstock.taskmanager.messages import SlotAddress
from penstock.taskmanager.processes.leases import SlotStatus
from penstock.taskmanager.processes.slot_keeper import SlotKeeper
from penstock.taskmanager.processes.task_manager import (
    MAX_STARTING,
    UNLEASED_MS,
    WANTED_MS,
    AskSlot,
    Command,
    KillSlot,
    SlotOffer,
    SlotState,
    StartSlot,
    TaskManager,
)
from penstock.testing.clock import ManualClock

JOB, OTHER = JobId("job"), JobId("other")
FIRST = Generation(1)
GPU, CORE = Resources(gpu=1), Resources(cpu=1)


def status(slot: SlotId, job: str, resources: Resources = NO_RESOURCES) -> SlotStatus:
    address = SlotAddress("tm", "host", 1, f"{slot}.sock", pid=7)
    return SlotStatus(address, 7, job, 1 if job else 0, 0, 0, 0, 0, resources=resources)


class Node:
    """A pool without plain slots, whose commands are carried out when the test says so."""

    def __init__(self) -> None:
        self.pool = TaskManager("slot-", 2, 0, ask_interval_ms=2_000, ask_timeout_ms=10_000)
        self.now_ms = 1_000
        self.started: dict[SlotId, Resources] = {}
        self.killed: dict[SlotId, str] = {}
        self.asked: list[SlotId] = []

    def do(self, commands: list[Command]) -> None:
        for command in commands:
            match command:
                case StartSlot(slot, resources):
                    if resources:
                        self.started[slot] = resources
                case KillSlot(slot, reason):
                    self.killed[slot] = reason
                case AskSlot(slot):
                    self.asked.append(slot)

    def allocate(
        self, count: int = 1, resources: Resources = GPU, job: JobId = JOB, known: tuple[SlotId, ...] = ()
    ) -> list[SlotOffer]:
        offers, commands = self.pool.allocate(job, FIRST, count, known, self.now_ms, resources)
        self.do(commands)
        return offers

    def come_up(self, slot: SlotId, leased_by: str = "", resources: Resources | None = None) -> None:
        had = self.started.get(slot, NO_RESOURCES) if resources is None else resources
        self.do(self.pool.started(slot, status(slot, leased_by, had), self.now_ms))

    def seen(self, slot: SlotId, job: str) -> None:
        self.do(self.pool.seen(slot, status(slot, job), self.now_ms))

    def pass_ms(self, ms: int) -> None:
        self.now_ms += ms
        self.do(self.pool.tick(self.now_ms))

    def leased(self) -> SlotOffer:
        self.allocate()
        (slot,) = self.started
        self.come_up(slot)
        (offer,) = self.allocate()
        self.seen(slot, JOB)
        return offer


@pytest.fixture
def node() -> Node:
    return Node()


def test_one_is_started_for_the_job_and_let_to_it_when_it_comes_up(node: Node) -> None:
    assert node.allocate(2) == []
    first, second = node.started
    assert set(node.started.values()) == {GPU}
    assert node.allocate(2) == []
    assert len(node.started) == 2, "those that are starting are counted"
    node.come_up(first)
    assert [offer.slot_id for offer in node.allocate(2)] == [first]
    node.come_up(second)
    assert [(offer.slot_id, offer.resources) for offer in node.allocate(2)] == [(first, GPU), (second, GPU)]


def test_it_is_none_of_the_node_s_slots(node: Node) -> None:
    node.leased()
    assert (node.pool.total, node.pool.free) == (2, 2)
    assert [slot.resources for slot in node.pool.slots.values() if slot.state is SlotState.LET] == [GPU]


def test_others_do_not_get_it_nor_does_the_job_for_something_else(node: Node) -> None:
    offer = node.leased()
    assert node.allocate(job=OTHER) == []
    assert node.allocate(resources=CORE) == []
    assert node.allocate(known=(offer.slot_id,)) == []
    assert sorted(map(str, node.started.values())) == ["cpu 1", "gpu 1", "gpu 1", "gpu 1"]


def test_the_next_master_is_offered_what_its_job_has(node: Node) -> None:
    offer = node.leased()
    offers, _ = node.pool.allocate(JOB, Generation(2), 1, (), node.now_ms, GPU)
    assert offers == [offer]


def test_a_job_that_does_not_ask_again_does_not_want_it(node: Node) -> None:
    node.allocate()
    (slot,) = node.started
    node.pass_ms(WANTED_MS)
    node.allocate()
    node.pass_ms(WANTED_MS)
    assert node.killed == {}, "it waits for as long as it is asked for"
    node.pass_ms(1)
    assert node.killed == {slot: "its job does not ask for it any more"}
    node.come_up(slot, resources=GPU)
    assert node.killed[slot] == "it came up too late"


def test_one_that_is_not_leased_ends(node: Node) -> None:
    node.allocate()
    (slot,) = node.started
    node.come_up(slot)
    node.pass_ms(UNLEASED_MS)
    assert slot in node.asked
    node.seen(slot, "")
    assert node.killed == {slot: "nobody needs it"}


def test_one_that_is_given_back_ends_and_its_resources_are_free(node: Node) -> None:
    offer = node.leased()
    node.do(node.pool.release(JOB, FIRST, [offer.slot_id], node.now_ms))
    assert node.killed == {offer.slot_id: "released"}
    assert node.allocate(job=OTHER) == []
    assert len(node.started) == 2


def test_a_dead_one_is_forgotten_and_another_one_started_when_the_job_asks(node: Node) -> None:
    offer = node.leased()
    node.do(node.pool.died(offer.slot_id, "killed", node.now_ms))
    assert offer.slot_id not in node.pool.slots
    node.allocate()
    assert list(node.started.values()) == [GPU, GPU]


def test_a_task_manager_that_was_restarted_finds_them_as_they_are(node: Node) -> None:
    for name in ("slot-a", "slot-b"):
        node.pool.adopt(SlotId(name), node.now_ms)
    node.come_up(SlotId("slot-a"), leased_by=JOB, resources=GPU)
    node.come_up(SlotId("slot-b"), resources=GPU)
    assert node.killed == {SlotId("slot-b"): "nobody needs it"}
    assert [offer.slot_id for offer in node.allocate()] == ["slot-a"]
    assert node.pool.free == 2


def test_not_too_many_start_at_once(node: Node) -> None:
    node.allocate(MAX_STARTING + 3)
    assert len(node.started) == MAX_STARTING


def test_starts_that_wait_for_their_resources_hold_up_no_other_job(node: Node) -> None:
    node.allocate(MAX_STARTING)
    node.allocate(1, CORE, OTHER)
    assert list(node.started.values()) == [GPU] * MAX_STARTING + [CORE]


def test_after_a_start_that_failed_there_is_a_pause(node: Node) -> None:
    node.allocate()
    (slot,) = node.started
    node.do(node.pool.died(slot, "no room", node.now_ms))
    node.allocate()
    assert len(node.started) == 1
    assert node.pool.problem == "no room"
    node.pass_ms(10_000)
    node.allocate()
    assert len(node.started) == 2


class NothingComesUp:
    """Actors that wait for their resources."""

    def __init__(self) -> None:
        self.started: queue.SimpleQueue[Resources] = queue.SimpleQueue()

    def start(self, slot_id: SlotId, resources: Resources, answer: object) -> None:
        self.started.put(resources)


def test_nobody_waits_at_a_node_for_one_of_them(tmp_path: Path) -> None:
    """Its master asks other nodes as well, and what it has not asked for again for a while is not wanted any more."""
    pool = TaskManager("slot-", 2, 0, ask_interval_ms=2_000, ask_timeout_ms=10_000)
    actors: Any = NothingComesUp()
    keeper = SlotKeeper(pool, actors, tmp_path, ManualClock())  # the time to wait would never be over
    asking = threading.Thread(target=keeper.allocate, args=(JOB, FIRST, 1, (), 60.0, GPU), daemon=True)
    asking.start()
    assert actors.started.get(timeout=20) == GPU
    asking.join(20)
    assert not asking.is_alive()
