"""Slots as processes have them: own threads, sockets between them, driven by a real job master. Without Ray."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import penstock as ps
from penstock.connectors.discard import DiscardingSink
from penstock.jobmanager import events
from penstock.jobmanager.events import JobState
from penstock.jobmanager.job_master import JobMaster
from penstock.jobmanager.master_loop import MasterLoop
from penstock.jobmanager.settings import job_master_options
from penstock.runtime import logs
from penstock.runtime.configuration.config import Configuration
from penstock.runtime.graph.job_graph import JobGraph
from penstock.state.errors import ConfigurationError, ProtocolError
from penstock.state.ids import Generation, JobId, SlotId, new_job_id, new_nonce
from penstock.state.store.obstore_objects import ObstoreObjects
from penstock.taskmanager.messages import Cancel, Canceled, FromSlot, ToSlot
from penstock.taskmanager.processes import slot_process
from penstock.taskmanager.processes.leases import JobLease, LeaseRefusedError, SupersededError
from penstock.taskmanager.processes.slot_process import EXIT_BROKEN, EXIT_LOST, SlotProcess
from penstock.taskmanager.processes.user_code import UserCode
from penstock.testing.lists import FAIL, ListSink, ListSource

DEADLINE_S = 60.0
SECRET = b"of the job"


def wait_for(condition: Callable[[], Any], what: str) -> None:
    deadline_s, never = time.monotonic() + DEADLINE_S, threading.Event()
    while not condition():
        assert time.monotonic() < deadline_s, f"not within {DEADLINE_S:g} s: {what}"
        never.wait(0.01)


Node = Any
"""Of conftest.py."""


class Driver:
    """A job master and its slots: a gateway of the master's loop, which runs on the test's thread."""

    def __init__(self, node: Node, graph: JobGraph, storage: Path, job_id: JobId | None = None) -> None:
        self.node = node
        self.storage = str(storage)
        self.job_id = job_id or new_job_id()
        self.slots: dict[SlotId, SlotProcess] = {}
        self.silent = False
        """Does not poll any more."""
        self.options: dict[str, object] = {}
        self.master = JobMaster(
            graph,
            job_id=self.job_id,
            options=job_master_options(Configuration.from_dict(graph.config)),
            new_name=new_nonce,
        )
        self.loop = MasterLoop(self.master, ObstoreObjects(storage), self)
        self.loop.start()

    @property
    def generation(self) -> Generation:
        return self.master.log.state.generation

    def run_until(self, condition: Callable[[], Any], what: str) -> None:
        def turn() -> bool:
            if not self.loop.turn():
                self.loop.wait(0.01)
            return bool(condition())

        wait_for(turn, what)

    def run(self) -> JobState:
        self.run_until(lambda: self.loop.ended is not None, "the job's end")
        assert self.loop.ended is not None
        return self.loop.ended.state

    # gateway

    def send(self, slot: SlotId, message: ToSlot) -> None:
        self.slots[slot].deliver(message.generation, [message])

    def acquire(self, slots: tuple[Any, ...]) -> None:
        for _ in slots:
            process = self.node.slot(**self.options)
            process.lease(JobLease(self.job_id, "job", self.generation, self.storage, secret=SECRET))
            self.slots[process.id] = process
            self.loop.happened(events.SlotOffered(process.id, process.address))
            threading.Thread(target=self._poll, args=(process, self.generation), daemon=True).start()

    def _poll(self, process: SlotProcess, generation: int) -> None:
        while not self.silent and process.id in self.slots:
            try:
                messages = process.poll(generation, wait_s=0.2)
            except SupersededError:
                return
            self.loop.mail(partial(self._said, process.id, messages))

    def _said(self, slot: SlotId, messages: list[FromSlot]) -> None:
        for message in messages:
            self.loop.happened(events.SlotMessage(slot, message))

    def release(self, slots: tuple[SlotId, ...]) -> None:
        for slot in slots:
            del self.slots[slot]

    def discard(self, slot: SlotId, reason: str) -> None:
        self.slots.pop(slot, None)


@pytest.fixture
def drive(node: Node, tmp_path: Path) -> Iterator[Callable[..., Driver]]:
    started: list[Driver] = []

    def start(env: ps.StreamExecutionEnvironment, job_id: JobId | None = None) -> Driver:
        started.append(Driver(node, env.job_graph("job"), tmp_path / "store", job_id))
        return started[-1]

    yield start
    for driver in started:
        driver.silent = True
        driver.loop.close()


@pytest.fixture
def results() -> Iterator[Callable[[], list[Any]]]:
    ListSink.clear("out")
    yield lambda: ListSink.results("out")
    ListSink.clear("out")


def environment(parallelism: int = 2) -> ps.StreamExecutionEnvironment:
    env = ps.StreamExecutionEnvironment().set_parallelism(parallelism).set_buffer_timeout("1ms")
    return env.enable_checkpointing("50ms").set_restart_strategy("none")


def lease(generation: int = 1, job: str = "job", **fields: Any) -> JobLease:
    return JobLease(JobId(job), "a job", Generation(generation), "memory://", secret=SECRET, **fields)


# running ----------------------------------------------------------------------------------------------------------


def test_a_job_runs_over_slots_that_meet_at_sockets(
    node: Node, drive: Callable[..., Driver], results: Callable[[], list[Any]]
) -> None:
    env = environment()
    values = ListSource(range(5_000), splits=4, batch_rows=100, record_type=int)
    env.from_source(values).key_by(lambda v: v % 50).map(lambda v: (v, str(v)), output_type=tuple[int, str]).sink_to(
        ListSink("out")
    )
    values = ListSource([*range(300), FAIL, *range(300, 600)], splits=9, batch_rows=20, pause_ms=2, record_type=int)
    env.from_source(values).key_by(lambda v: v % 7).map(lambda v: (-v, ""), output_type=tuple[int, str]).sink_to(
        ListSink("out")
    )
    driver = drive(env.set_restart_strategy("fixed-delay", attempts=1, delay="1ms"))
    assert driver.run() is JobState.FINISHED
    assert sorted(results()) == sorted([*((v, str(v)) for v in range(5_000)), *((-v, "") for v in range(600))])
    attempts = [{each.attempt for each in vertex.subtasks} for vertex in driver.master.view(0).vertices]
    assert (attempts.count({1}), attempts.count({2})) == (2, 2)  # what failed restarted alone, over the same sockets
    assert len(node.slots) == 2
    assert node.exits == []


@pytest.mark.parametrize("kept", [True, False])
def test_a_restart_takes_state_from_local_copies(drive: Callable[..., Driver], tmp_path: Path, kept: bool) -> None:
    def last(_before: int, value: int) -> int:
        if (tmp_path / "disturbed").exists():
            raise ValueError((tmp_path / "disturbed").rename(tmp_path / "was"))
        return value

    env = environment().set_restart_strategy("fixed-delay", attempts=1, delay="1ms")
    env.configure(Configuration({"execution.state-recovery.from-local": kept}))
    values = ListSource(range(100_000), splits=1, batch_rows=5, pause_ms=5, record_type=int)
    env.from_source(values).key_by(lambda v: v % 7).reduce(last).sink_to(DiscardingSink())
    driver = drive(env)
    driver.run_until(lambda: driver.master.view(0).checkpoints.completed > 2, "checkpoints")
    (tmp_path / "disturbed").mkdir()

    def restored() -> list[Any]:
        up = [one for vertex in driver.master.view(0).vertices for one in vertex.subtasks if one.metrics.records_in]
        return [one.metrics.details.restored for one in up if one.attempt == 2]

    driver.run_until(lambda: any(one.total for one in restored()), "it restored files and runs")
    assert all((one.local, one.stored) == ((one.total, 0) if kept else (0, one.total)) for one in restored())


def test_what_users_log_is_told_apart(drive: Callable[..., Driver], results: Callable[[], list[Any]]) -> None:
    def context(value: int) -> str:
        return str(logs.get_context())

    env = environment()
    env.from_source(ListSource(range(100), splits=2, record_type=int)).key_by(lambda v: v).map(
        context, output_type=str
    ).name("told").sink_to(ListSink("out"))
    driver = drive(env)
    assert driver.run() is JobState.FINISHED
    assert all(line.startswith(f"{driver.job_id} ") and "told" in line for line in results())
    assert {line[-3:] for line in results()} == {"0#1", "1#1"}


def test_code_of_the_job_is_there_before_its_functions_are_unpickled(node: Node, tmp_path: Path) -> None:
    (tmp_path / "module_of_a_slot.py").write_text("value = 1")
    slot = node.slot()
    slot.lease(lease(code=UserCode(python_path=(str(tmp_path),))))
    import module_of_a_slot  # type: ignore[import-not-found]

    assert module_of_a_slot.value == 1


# who may speak ----------------------------------------------------------------------------------------------------


def test_a_blank_slot_obeys_nobody(node: Node) -> None:
    slot = node.slot()
    with pytest.raises(ProtocolError, match="not leased"):
        slot.deliver(1, [])
    with pytest.raises(ProtocolError, match="not leased"):
        slot.poll(1)
    assert slot.status().job_id == ""


def test_a_slot_serves_one_job_and_one_version_of_its_code(node: Node) -> None:
    slot = node.slot()
    slot.lease(lease())
    slot.lease(lease())
    with pytest.raises(LeaseRefusedError, match="serves job job, and no other"):
        slot.lease(lease(job="other"))
    with pytest.raises(LeaseRefusedError, match="another version"):
        slot.lease(lease(2, code=UserCode(requirements=("x",))))
    assert (slot.status().job_id, slot.status().generation) == ("job", 1)


def test_a_new_generation_takes_over_and_the_old_one_is_told(node: Node) -> None:
    slot = node.slot()
    slot.lease(lease(1))
    outcomes: list[object] = []

    def wait() -> None:
        try:
            outcomes.append(slot.poll(1, wait_s=DEADLINE_S))
        except SupersededError as error:
            outcomes.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    wait_for(lambda: slot._polls == 1, "the poll")
    slot.lease(lease(3))
    waiting.join(DEADLINE_S)
    assert isinstance(outcomes[0], SupersededError)
    for call in (lambda: slot.poll(2), lambda: slot.deliver(2, []), lambda: slot.lease(lease(2))):
        with pytest.raises(SupersededError):
            call()
    with pytest.raises(ProtocolError, match="not leased to generation 4"):
        slot.poll(4)
    assert slot.poll(3, wait_s=0.01) == []


def test_orders_of_a_master_that_was_superseded_meanwhile_are_not_carried_out(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    slot = node.slot()
    slot.lease(lease(1))
    delivered: list[ToSlot] = []
    assert slot._slot is not None
    monkeypatch.setattr(slot._slot, "deliver", delivered.append)
    busy, go_on = threading.Event(), threading.Event()
    slot._mailbox.post(lambda: (busy.set(), go_on.wait(DEADLINE_S))[0])
    assert busy.wait(DEADLINE_S)
    slot.deliver(1, [Cancel(Generation(1), 1)])  # type: ignore[arg-type]
    slot.lease(lease(2))
    slot.deliver(2, [Cancel(Generation(2), 2)])  # type: ignore[arg-type]
    go_on.set()
    wait_for(lambda: delivered, "the order of the new master")
    assert [message.generation for message in delivered] == [2]


def test_a_later_poll_ends_an_earlier_one(node: Node) -> None:
    slot = node.slot()
    slot.lease(lease())
    answers: list[list[FromSlot]] = []
    waiting = threading.Thread(target=lambda: answers.append(slot.poll(1, wait_s=DEADLINE_S)))
    waiting.start()
    wait_for(lambda: slot._polls == 1, "the first poll")
    assert slot.poll(1, wait_s=0.01) == []
    waiting.join(DEADLINE_S)
    assert answers == [[]]


def test_code_that_cannot_be_installed_fails_the_lease_and_taints_the_slot(node: Node) -> None:
    slot = node.slot()
    with pytest.raises(ConfigurationError):
        slot.lease(JobLease(JobId("job"), "a job", Generation(1), "nonsense://x"))
    assert slot.status().job_id == "job"
    with pytest.raises(LeaseRefusedError):
        slot.lease(lease(job="other"))
    with pytest.raises(ProtocolError, match="not leased"):
        slot.poll(1)


# how it ends ------------------------------------------------------------------------------------------------------


def endless(env: ps.StreamExecutionEnvironment, function: Callable[[int], int]) -> None:
    source = ListSource(range(1_000_000), splits=2, batch_rows=1, pause_ms=5, record_type=int)
    env.from_source(source).map(function, output_type=int).sink_to(ListSink("out"))


def test_without_its_master_a_slot_cancels_its_tasks_and_then_ends(
    node: Node, drive: Callable[..., Driver], results: Callable[[], list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slot_process, "WATCH_S", 0.02)
    env = environment(1)
    endless(env, lambda value: value)
    driver = drive(env)
    driver.options = {
        "taskmanager__master-lost__cancel-after": "500ms",
        "taskmanager__master-lost__exit-after": "2s",
    }
    driver.run_until(lambda: driver.master.state is JobState.RUNNING, "a running job")
    (slot,) = driver.slots.values()
    driver.silent = True
    assert slot._slot is not None
    wait_for(lambda: slot._slot is not None and not slot._slot.tasks, "cancelled tasks")
    assert node.exits == []
    told = slot.poll(driver.generation, wait_s=1)
    assert any(isinstance(message, Canceled) for message in told)
    wait_for(lambda: node.exits == [EXIT_LOST], "the end of the process")
    assert not (node.directory / "work" / slot.id).exists()
    assert not Path(slot.address.unix_path).exists()


def test_the_process_ends_even_if_users_code_never_returns(
    node: Node, drive: Callable[..., Driver], results: Callable[[], list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slot_process, "WATCH_S", 0.02)
    shared = ModuleType("events_of_the_test")
    inside, release = threading.Event(), threading.Event()
    vars(shared).update(inside=inside, release=release)
    monkeypatch.setitem(sys.modules, shared.__name__, shared)
    env = environment(1)
    endless(env, hang)
    driver = drive(env)
    driver.options = {"taskmanager__master-lost__exit-after": "500ms"}
    driver.run_until(inside.is_set, "the function")
    (slot,) = driver.slots.values()
    driver.run_until(lambda: slot.status().stepped_ms > 200, "a status that says so")
    assert node.exits == []
    driver.silent = True
    wait_for(lambda: node.exits == [EXIT_LOST], "the end of the process")
    release.set()


def hang(value: int) -> int:
    """Pickled by value: it finds the test's events in a module."""
    import events_of_the_test  # type: ignore[import-not-found]

    events_of_the_test.inside.set()
    events_of_the_test.release.wait(60)
    return value


def test_an_error_of_ours_on_the_slots_thread_ends_the_process(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    slot = node.slot()
    slot.lease(lease())

    def bug() -> None:
        raise AssertionError("half done")

    with caplog.at_level(logging.CRITICAL):
        slot._mailbox.post(bug)
        wait_for(lambda: node.exits == [EXIT_BROKEN], "the end of the process")
    assert "half done" in caplog.text


def test_nothing_stays_of_a_slot_that_was_stopped(node: Node) -> None:
    slot = node.slot()
    slot.lease(lease())
    work, socket_path = node.directory / "work" / slot.id, Path(slot.address.unix_path)
    assert work.is_dir()
    assert socket_path.is_socket()
    slot.stop()
    assert not work.exists()
    assert not socket_path.exists()


def test_encryption_needs_all_its_files(node: Node) -> None:
    with pytest.raises(ConfigurationError, match=r"security\.ssl\.internal\.key"):
        node.slot(security__ssl__internal__enabled="true")
