"""Slots and task managers as Ray actors: leased, killed, replaced, found again; nothing is left in the end."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

from penstock.jobmanager.startup import node_processes
from penstock.jobmanager.startup.ray_cluster import connect, disconnect, start_head
from penstock.runtime.configuration.config import Configuration
from penstock.runtime.versions import own_versions
from penstock.state.ids import Generation, JobId, SlotId, new_job_id
from penstock.taskmanager.processes.actor import TaskManagerActor
from penstock.taskmanager.processes.leases import JobLease, LeaseRefusedError, SupersededError
from penstock.taskmanager.processes.task_manager import SlotOffer
from penstock.taskmanager.processes.user_code import UserCode
from penstock.taskmanager.views import TaskManagerView

WaitFor = Callable[..., Any]
SLOTS, WARM = 3, 2
CALL_S = 60.0
FIRST = Generation(1)


class Node:
    """A task manager on a Ray of its own, and what a job master asks of it."""

    def __init__(self, handle: Any, directory: Path) -> None:
        self.handle = handle
        self.directory = directory

    def ask(self, method: str, *arguments: Any) -> Any:
        return ray.get(getattr(self.handle, method).remote(*arguments), timeout=CALL_S)

    def describe(self) -> TaskManagerView:
        view: TaskManagerView = self.ask("describe")
        return view

    def allocate(self, job: JobId, count: int, generation: Generation = FIRST) -> list[SlotOffer]:
        """That many, as soon as there are."""
        deadline_s = time.monotonic() + CALL_S
        while True:
            offers: list[SlotOffer] = self.ask("allocate", job, generation, count, [])
            if len(offers) == count:
                return offers
            assert time.monotonic() < deadline_s, f"{len(offers)} slots of {count}"

    def blank(self) -> list[SlotId]:
        return [SlotId(slot.id) for slot in self.describe().slots if not slot.job_id]

    def lease(self, offers: list[SlotOffer], job: JobId, generation: Generation = FIRST, **fields: Any) -> list[Any]:
        handles = [ray.get_actor(offer.actor_name) for offer in offers]
        lease = JobLease(job, "a job", generation, "memory://", secret=b"secret", **fields)
        ray.get([handle.lease.remote(lease) for handle in handles], timeout=CALL_S)
        return handles


@pytest.fixture(scope="module")
def ray_of_the_module(short_directory: Path) -> Iterator[Path]:
    directory = short_directory / "ray"
    head = start_head(Configuration({"taskmanager.numberOfTaskSlots": SLOTS}), directory=directory)
    connect(head.reach, "penstock-slots")
    yield short_directory
    disconnect()
    head.stop()
    assert node_processes.members(str(directory)) == []


@pytest.fixture(scope="module")
def node(ray_of_the_module: Path) -> Iterator[Node]:
    config = Configuration({"io.tmp.dirs": str(ray_of_the_module), "taskmanager.warm-slots": WARM})
    handle = TaskManagerActor.options(
        name="taskmanager-test", lifetime="detached", resources={"penstock_slot": SLOTS}
    ).remote(ray.get_runtime_context().get_node_id(), "taskmanager-test", "127.0.0.1", SLOTS, config.to_dict())
    node = Node(handle, ray_of_the_module / f"penstock-{os.getuid()}" / "default" / "taskmanager-test")
    yield node
    pids = [slot.pid for slot in node.describe().slots]
    node.ask("stop")
    assert [pid for pid in pids if alive(pid)] == []
    assert list((node.directory / "work").iterdir()) == []
    assert list((node.directory / "s").iterdir()) == []
    ray.kill(handle)


@pytest.fixture
def job(node: Node, wait_for: WaitFor) -> Iterator[JobId]:
    """A job, on a node with all slots free; what it holds is taken back."""
    wait_for(lambda: len(node.blank()) >= WARM and node.ask("free") == SLOTS, "blank slots")
    job = new_job_id()
    yield job
    node.ask("release", job, Generation(1_000), None)


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_node_shows_what_it_is(node: Node, job: JobId) -> None:
    view = node.describe()
    assert (view.id, view.slots_total, view.slots_free) == ("taskmanager-test", SLOTS, SLOTS)
    assert view.versions == own_versions()
    assert len(view.slots) >= WARM
    assert all(slot.rss_bytes > 10_000_000 and alive(slot.pid) for slot in view.slots)
    assert view.process_memory_bytes > sum(slot.rss_bytes for slot in view.slots)
    assert view.problem == ""
    dump = node.ask("thread_dump")
    assert any(name.startswith("slot keeper") for name in dump)
    assert any("watchdog" in name for name in dump if name.startswith(f"{view.slots[0].id}: "))


def test_a_leased_slot_answers_its_master_and_logs_for_it(node: Node, job: JobId, tmp_path: Path) -> None:
    (tmp_path / "module_of_the_job.py").write_text("import logging; logging.getLogger('users').info('imported')")
    offers = node.allocate(job, 2)
    assert len({offer.pid for offer in offers}) == 2
    first, second = node.lease(offers, job, code=UserCode(python_path=(str(tmp_path),)))
    assert ray.get(first.poll.remote(1), timeout=CALL_S) == []
    assert ray.get(second.deliver.remote(1, []), timeout=CALL_S) is None
    status = ray.get(first.status.remote(), timeout=CALL_S)
    assert (status.job_id, status.pid, status.address) == (job, offers[0].pid, offers[0].address)
    names = [log.name for log in node.ask("logs")]
    assert {f"{offers[0].slot_id}.log", f"{offers[0].slot_id}.out", "taskmanager-test.log"} <= set(names)
    assert f"leased to job {job}".encode() in node.ask("log", f"{offers[0].slot_id}.log", 100_000)


def test_masters_are_fenced_by_their_generation(node: Node, job: JobId) -> None:
    offers = node.allocate(job, 1, Generation(2))
    (slot,) = node.lease(offers, job, Generation(2))
    assert node.allocate(job, 1, Generation(3)) == offers
    for refused in (
        lambda: node.allocate(job, 1, Generation(2)),
        lambda: node.ask("discard", job, Generation(2), offers[0].slot_id, "old"),
        lambda: node.ask("release", job, Generation(2), None),
        lambda: ray.get(slot.poll.remote(1), timeout=CALL_S),
        lambda: ray.get(slot.deliver.remote(1, []), timeout=CALL_S),
    ):
        with pytest.raises(SupersededError):
            refused()
    with pytest.raises(LeaseRefusedError):
        node.lease(offers, new_job_id())
    assert alive(offers[0].pid)


def test_the_death_of_a_slot_is_heard_at_once_and_it_is_replaced(node: Node, job: JobId, wait_for: WaitFor) -> None:
    offers = node.allocate(job, 2)
    handles = node.lease(offers, job)
    waiting = handles[0].poll.remote(1)
    os.kill(offers[0].pid, signal.SIGKILL)
    with pytest.raises(ray.exceptions.ActorDiedError):
        ray.get(waiting, timeout=1.9)  # before the poll would have ended by itself
    (offer,) = wait_for(lambda: [new for new in node.allocate(job, 2) if new not in offers], "another slot")
    assert alive(offer.pid)
    wait_for(lambda: not (node.directory / "work" / offers[0].slot_id).exists(), "no files of the dead slot")
    assert not Path(offers[0].address.unix_path).exists()


def test_a_hung_slot_is_killed_when_its_master_gives_it_up(node: Node, job: JobId, wait_for: WaitFor) -> None:
    offers = node.allocate(job, 1)
    node.lease(offers, job)
    os.kill(offers[0].pid, signal.SIGSTOP)
    node.ask("discard", job, FIRST, offers[0].slot_id, "it hangs")
    wait_for(lambda: not alive(offers[0].pid), "the end of its process", 2)
    assert node.ask("free") == SLOTS


def test_released_slots_end_and_blank_ones_take_their_place(node: Node, job: JobId, wait_for: WaitFor) -> None:
    offers = node.allocate(job, 2)
    node.lease(offers, job)
    node.ask("release", job, FIRST, [offer.slot_id for offer in offers])
    wait_for(lambda: not any(alive(offer.pid) for offer in offers), "the end of their processes")
    wait_for(lambda: len(node.blank()) == WARM, "blank slots")
    assert not {offer.slot_id for offer in offers} & set(node.blank())


def test_all_slots_of_a_node_can_be_had_and_not_one_more(node: Node, job: JobId, wait_for: WaitFor) -> None:
    offers = node.allocate(job, SLOTS)
    assert len(offers) == SLOTS
    node.lease(offers, job)
    wait_for(lambda: len(node.blank()) == 1, "one blank slot beside them")
    assert node.ask("free") == 0
    assert node.ask("allocate", new_job_id(), FIRST, 1, []) == []


def test_a_restarted_task_manager_finds_its_slots(node: Node, job: JobId, wait_for: WaitFor) -> None:
    offers = node.allocate(job, 2)
    (slot, _) = node.lease(offers, job)
    before = node.describe()
    os.kill(before.pid, signal.SIGKILL)

    def restarted() -> bool:
        try:
            return node.describe().pid != before.pid and node.ask("free") == SLOTS - 2
        except ray.exceptions.RayActorError:
            return False

    wait_for(restarted, "the next life of the task manager")
    assert ray.get(slot.poll.remote(1), timeout=CALL_S) == []
    assert {offer.slot_id for offer in node.allocate(job, 2)} == {offer.slot_id for offer in offers}
    assert all(alive(offer.pid) for offer in offers)
