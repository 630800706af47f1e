"""The pool of a node's slots: blank ones ready, jobs served, nothing lost, nothing waiting for ever."""

from __future__ import annotations

import random

import pytest

from penstock.state.ids import Generation, JobId, SlotId
from penstock.taskmanager.messages import SlotAddress
from penstock.taskmanager.processes import task_manager
from penstock.taskmanager.processes.leases import SlotStatus, SupersededError
from penstock.taskmanager.processes.task_manager import (
    AskSlot,
    Command,
    KillSlot,
    SlotOffer,
    SlotState,
    StartSlot,
    TaskManager,
)

JOB, OTHER = JobId("job"), JobId("other")
FIRST = Generation(1)


class Node:
    """Carries the commands out, with a time of its own."""

    def __init__(self, total: int = 4, warm: int = 2) -> None:
        self.pool = TaskManager("slot-", total, warm, ask_interval_ms=2_000, ask_timeout_ms=10_000)
        self.now_ms = 1_000
        self.starting: list[SlotId] = []
        self.living: dict[SlotId, str] = {}
        """Processes, and whose each says it is."""
        self.killed: dict[SlotId, str] = {}
        self.asked: list[SlotId] = []

    def do(self, commands: list[Command]) -> None:
        for command in commands:
            match command:
                case StartSlot(slot):
                    self.starting.append(slot)
                case KillSlot(slot, reason):
                    self.killed[slot] = reason
                    self.living.pop(slot, None)
                    if slot in self.starting:
                        self.starting.remove(slot)
                case AskSlot(slot):
                    self.asked.append(slot)

    def tick(self, later_ms: int = 0) -> None:
        self.now_ms += later_ms
        self.do(self.pool.tick(self.now_ms))

    def bring_up(self) -> None:
        while self.starting:
            slot = self.starting.pop(0)
            self.living[slot] = ""
            self.introduce(slot)

    def introduce(self, slot: SlotId) -> None:
        self.do(self.pool.started(slot, self.status(slot), self.now_ms))

    def status(self, slot: SlotId) -> SlotStatus:
        address, job = SlotAddress("tm", "host", 1, f"{slot}.sock", pid=7), self.living[slot]
        return SlotStatus(address, 7, job, 1 if job else 0, 0, 0, 0, 0)

    def answer(self) -> None:
        asked, self.asked = self.asked, []
        for slot in asked:
            if slot in self.living:
                self.do(self.pool.seen(slot, self.status(slot), self.now_ms))

    def allocate(
        self, count: int, known: list[SlotId] | None = None, job: JobId = JOB, generation: int = 1
    ) -> list[SlotOffer]:
        offers, commands = self.pool.allocate(job, Generation(generation), count, known or [], self.now_ms)
        self.do(commands)
        return offers

    def lease(self, offers: list[SlotOffer], job: JobId = JOB) -> list[SlotId]:
        for offer in offers:
            self.living[offer.slot_id] = job
            self.do(self.pool.seen(offer.slot_id, self.status(offer.slot_id), self.now_ms))
        return [offer.slot_id for offer in offers]

    def die(self, slot: SlotId, reason: str = "killed") -> None:
        self.living.pop(slot, None)
        if slot in self.starting:
            self.starting.remove(slot)
        self.do(self.pool.died(slot, reason, self.now_ms))

    def count(self, state: SlotState) -> int:
        return sum(slot.state is state for slot in self.pool.slots.values())


@pytest.fixture
def node() -> Node:
    node = Node()
    node.tick()
    node.bring_up()
    return node


def test_blank_slots_are_ready_before_anybody_asks(node: Node) -> None:
    assert (node.count(SlotState.BLANK), node.pool.free) == (2, 4)
    node.tick(1)
    assert node.starting == []


def test_what_a_job_takes_is_replaced(node: Node) -> None:
    offers = node.allocate(2)
    assert [offer.pid for offer in offers] == [7, 7]
    assert (len(node.starting), node.pool.free) == (2, 2)


def test_a_job_that_needs_more_than_are_blank_gets_them_as_they_come_up(node: Node) -> None:
    first = node.allocate(4)
    assert (len(first), len(node.starting)) == (2, 2)
    node.bring_up()
    second = node.allocate(2, known=[offer.slot_id for offer in first])
    assert len({offer.slot_id for offer in (*first, *second)}) == 4
    assert node.pool.free == 0


def test_never_more_than_the_node_has_but_one_process_stays_ready(node: Node) -> None:
    held = node.lease(node.allocate(2))
    node.bring_up()
    held += node.lease(node.allocate(2, known=held))
    node.bring_up()
    assert (node.count(SlotState.LET), node.count(SlotState.BLANK)) == (4, 1)
    assert node.allocate(1, known=held) == []
    assert node.allocate(1, job=OTHER) == []
    node.die(held[0])
    assert len(node.allocate(1, known=held[1:])) == 1


def test_an_allocation_can_be_repeated(node: Node) -> None:
    first = node.allocate(2)
    assert node.allocate(2) == first
    assert node.pool.free == 2


def test_a_new_master_is_offered_what_the_job_has(node: Node) -> None:
    held = node.lease(node.allocate(2))
    assert [offer.slot_id for offer in node.allocate(2, generation=2)] == held
    assert node.count(SlotState.LET) == 2


def test_other_jobs_get_other_slots(node: Node) -> None:
    mine = {offer.slot_id for offer in node.allocate(1)}
    theirs = {offer.slot_id for offer in node.allocate(1, job=OTHER)}
    assert mine.isdisjoint(theirs)


def test_a_superseded_master_changes_nothing(node: Node) -> None:
    held = node.lease(node.allocate(2, generation=5))
    calls = (
        lambda: node.pool.allocate(JOB, Generation(4), 1, [], node.now_ms),
        lambda: node.pool.release(JOB, Generation(4), held, node.now_ms),
        lambda: node.pool.discard(JOB, Generation(4), held[0], "x", node.now_ms),
    )
    for call in calls:
        with pytest.raises(SupersededError):
            call()
    assert (node.killed, node.count(SlotState.LET)) == ({}, 2)


def test_generations_of_many_jobs_are_not_remembered_for_ever(node: Node) -> None:
    for number in range(task_manager.MAX_JOBS + 10):
        node.allocate(0, job=JobId(f"job-{number}"))
    assert len(node.pool._generations) == task_manager.MAX_JOBS


def test_a_released_slot_that_served_is_killed_and_replaced(node: Node) -> None:
    held = node.lease(node.allocate(2))
    node.bring_up()
    node.do(node.pool.release(JOB, FIRST, held, node.now_ms))
    assert set(node.killed) == set(held)
    node.bring_up()
    assert (node.pool.free, node.count(SlotState.BLANK)) == (4, 2)


def test_a_job_can_give_back_all_it_has(node: Node) -> None:
    held = node.lease(node.allocate(2))
    node.do(node.pool.release(JOB, FIRST, None, node.now_ms))
    assert set(node.killed) == set(held)


def test_a_released_slot_that_was_never_leased_is_blank_again(node: Node) -> None:
    offers = node.allocate(1)
    node.do(node.pool.release(JOB, FIRST, [offers[0].slot_id], node.now_ms))
    assert (node.killed, node.count(SlotState.RETURNING)) == ({}, 1)
    node.answer()
    assert (node.killed, node.count(SlotState.RETURNING)) == ({}, 0)
    assert node.pool.slots[offers[0].slot_id].state is SlotState.BLANK


def test_a_released_slot_whose_lease_was_not_known_yet_is_killed(node: Node) -> None:
    offers = node.allocate(1)
    node.living[offers[0].slot_id] = JOB
    node.do(node.pool.release(JOB, FIRST, [offers[0].slot_id], node.now_ms))
    node.answer()
    assert list(node.killed) == [offers[0].slot_id]


def test_a_slot_cannot_be_given_back_by_another_job(node: Node) -> None:
    held = node.lease(node.allocate(1))
    node.do(node.pool.release(OTHER, FIRST, held, node.now_ms))
    node.do(node.pool.discard(OTHER, FIRST, held[0], "x", node.now_ms))
    assert node.killed == {}


def test_a_discarded_slot_is_killed_at_once(node: Node) -> None:
    held = node.lease(node.allocate(1))
    node.do(node.pool.discard(JOB, FIRST, held[0], "it hangs", node.now_ms))
    assert node.killed == {held[0]: "it hangs"}
    assert len(node.allocate(1)) == 1


def test_a_slot_that_died_is_replaced(node: Node) -> None:
    held = node.lease(node.allocate(2))
    node.bring_up()
    node.die(held[0])
    assert node.pool.free == 3
    assert [offer.slot_id for offer in node.allocate(1, known=[held[1]])] != [held[0]]


def test_an_offer_that_nobody_takes_up_returns(node: Node) -> None:
    offers = node.allocate(1)
    for _ in range(task_manager.UNLEASED_MS // 2_000):
        assert node.pool.slots[offers[0].slot_id].state is SlotState.LET
        node.tick(2_000)
        node.answer()
    assert node.pool.slots[offers[0].slot_id].state is SlotState.BLANK


def test_a_lease_that_came_after_the_slot_had_returned_is_the_truth(node: Node) -> None:
    offers = node.allocate(1)
    node.do(node.pool.release(JOB, FIRST, [offers[0].slot_id], node.now_ms))
    node.answer()
    node.living[offers[0].slot_id] = JOB
    node.tick(2_000)
    node.answer()
    slot = node.pool.slots[offers[0].slot_id]
    assert (slot.state, slot.job_id) == (SlotState.LET, JOB)


def test_a_blank_slot_that_does_not_answer_is_replaced(node: Node) -> None:
    node.tick(2_000)
    silent, *others = node.asked
    node.asked = others
    node.answer()
    node.tick(10_001)
    assert list(node.killed) == [silent]
    assert "silent" in node.killed[silent]


def test_slots_that_jobs_have_leased_are_left_alone(node: Node) -> None:
    node.lease(node.allocate(2))
    for _ in range(100):
        node.tick(2_000)
        node.bring_up()
        assert node.count(SlotState.LET) == 2
        assert all(not node.living[slot] for slot in node.asked)
        node.answer()


def test_starts_that_fail_are_tried_again_later_and_later_and_the_reason_is_shown() -> None:
    node = Node(total=2, warm=1)
    node.tick()
    pauses_ms = []
    for number in range(12):
        assert len(node.starting) == 1
        node.die(node.starting[0], f"no memory {number}")
        since_ms = node.now_ms
        while not node.starting:
            node.tick(100)
        pauses_ms.append(node.now_ms - since_ms)
    assert pauses_ms[:4] == [500, 1_000, 2_000, 4_000]
    assert pauses_ms[-1] == task_manager.LONGEST_PAUSE_MS
    assert (node.pool.problem, node.pool.free) == ("no memory 11", 0)
    node.bring_up()
    assert (node.pool.problem, node.pool.free) == ("", 2)


def test_a_start_that_takes_too_long_is_given_up() -> None:
    node = Node(total=1, warm=1)
    node.tick()
    hung = node.starting[0]
    node.tick(task_manager.START_TIMEOUT_MS + 1)
    assert "did not come up" in node.killed[hung]
    assert "did not come up" in node.pool.problem
    node.living[hung] = ""
    node.introduce(hung)
    assert node.killed[hung] == "it came up too late"


def test_starts_are_limited() -> None:
    node = Node(total=20, warm=20)
    node.tick()
    assert len(node.starting) == task_manager.MAX_STARTING
    node.bring_up()
    assert node.count(SlotState.BLANK) == 20


def test_what_was_started_for_a_job_that_went_away_is_ended(node: Node) -> None:
    node.allocate(4, job=OTHER)
    node.do(node.pool.release(OTHER, FIRST, None, node.now_ms))
    node.answer()
    node.bring_up()
    assert node.count(SlotState.BLANK) == 4
    node.tick(task_manager.WANTED_MS + 1)
    node.tick(1)
    assert node.count(SlotState.BLANK) == 2


def test_a_restarted_task_manager_finds_its_slots_as_they_are() -> None:
    node = Node(total=2)
    for name, job in {"slot-a": JOB, "slot-b": "", "slot-c": JOB}.items():
        node.living[SlotId(name)] = job
        node.pool.adopt(SlotId(name), node.now_ms)
    node.tick()
    assert node.starting == []
    assert node.allocate(1, job=OTHER) == []
    for slot in list(node.living):
        node.introduce(slot)
    assert (node.count(SlotState.LET), node.count(SlotState.BLANK), node.pool.free) == (2, 1, 0)
    assert [offer.slot_id for offer in node.allocate(2, generation=2)] == ["slot-a", "slot-c"]


def test_a_found_slot_that_says_nothing_is_killed() -> None:
    node = Node(total=1)
    node.pool.adopt(SlotId("slot-a"), node.now_ms)
    node.tick(task_manager.FOUND_TIMEOUT_MS)
    assert node.starting == []
    node.tick(1)
    assert "slot-a" in node.killed
    assert len(node.starting) == 1
    assert node.pool.problem == ""


@pytest.mark.parametrize("seed", range(30))
def test_whatever_happens_accounts_and_processes_agree(seed: int) -> None:
    draw = random.Random(seed)
    node = Node(total=draw.randint(1, 6), warm=draw.randint(1, 4))
    jobs = [JobId(f"job-{number}") for number in range(3)]
    held: dict[JobId, list[SlotId]] = {job: [] for job in jobs}

    def living(job: JobId) -> list[SlotId]:
        held[job] = [slot for slot in held[job] if node.living.get(slot) == job]
        return held[job]

    for _ in range(300):
        job = draw.choice(jobs)
        match draw.randrange(8):
            case 0:
                offers = node.allocate(draw.randint(0, 3), living(job), job)
                assert len({offer.slot_id for offer in offers} | set(held[job])) == len(offers) + len(held[job])
                held[job] += node.lease(offers, job)
            case 1 if living(job):
                slots = draw.sample(held[job], draw.randint(1, len(held[job])))
                node.do(node.pool.release(job, FIRST, slots, node.now_ms))
            case 2 if living(job):
                node.do(node.pool.discard(job, FIRST, draw.choice(held[job]), "x", node.now_ms))
            case 3 if node.living:
                node.die(draw.choice(list(node.living)))
            case 4 if node.starting:
                node.die(draw.choice(node.starting))
            case 5:
                node.answer()
            case 6:
                node.bring_up()
            case _:
                node.tick(draw.choice([10, 1_000, 3_000]))
        assert node.count(SlotState.LET) <= node.pool.total
        assert set(node.pool.slots) == {*node.living, *node.starting}
        owners = {slot.id: slot.job_id for slot in node.pool.slots.values() if slot.leased}
        assert owners == {slot: job for slot, job in node.living.items() if job}
    for _ in range(100):
        node.tick(1_000)
        node.answer()
        node.bring_up()
    let = node.count(SlotState.LET)
    assert node.pool.free == node.pool.total - let
    assert node.count(SlotState.BLANK) == max(1, min(node.pool._warm, node.pool.free))


def test_a_node_that_is_unfit_has_no_slots_and_starts_none() -> None:
    pool = TaskManager("slot-", 4, 2, ask_interval_ms=2_000, ask_timeout_ms=10_000, unfit="another Python")
    assert pool.tick(1_000) == []
    assert pool.allocate(JOB, FIRST, 1, [], 1_000) == ([], [])
    assert (pool.total, pool.free, pool.problem) == (0, 0, "another Python")
