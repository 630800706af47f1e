"""Which tasks of a slot an order concerns, when regions restart alone and masters are replaced."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import penstock as ps
from penstock.connectors.discard import DiscardingSink
from penstock.jobmanager.execution_graph import ExecutionGraph
from penstock.runtime.clock import SystemClock
from penstock.state.ids import Attempt, CheckpointId, Generation, JobId, OperatorId, SlotId, new_nonce
from penstock.state.key_encoding import encode_key
from penstock.state.rows.cell_reads import CellRead
from penstock.state.snapshots import FileHandle, KeyedHandle, OperatorSnapshot
from penstock.state.store.downloads import RestoredBytes, checksum_of
from penstock.state.store.objects import Put, StoreOp
from penstock.state.store.obstore_objects import ObstoreObjects
from penstock.taskmanager import messages as m
from penstock.taskmanager.deployment import SlotServices
from penstock.taskmanager.exchange.local_transport import LocalTransport
from penstock.taskmanager.executor import ThreadExecutor
from penstock.taskmanager.messages import SubtaskId
from penstock.taskmanager.slot import Slot

SLOT, JOB = SlotId("slot"), JobId("job")
FIRST = Generation(1)


class Home:
    """A slot with the mail it gets and what it says; its job has two subtasks that have nothing in common."""

    def __init__(self, directory: Path) -> None:
        self.mail: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self.said: list[m.FromSlot] = []
        self.objects = ObstoreObjects("memory://")
        self.executor = ThreadExecutor(self.objects, self.mail.put)
        transport = LocalTransport()
        services = SlotServices(
            SystemClock(), transport, self.executor, self.said.append, self.mail.put, new_nonce, directory
        )
        self.slot = Slot(SLOT, services)
        transport.attach(SLOT, self.slot)
        env = ps.StreamExecutionEnvironment().set_parallelism(2)
        env.from_sequence(1, 10).sink_to(DiscardingSink())
        self.graph = ExecutionGraph(env.job_graph("two"))
        self.one, self.other = self.graph.subtasks

    def deploy(self, subtask: SubtaskId, attempt: int, generation: int = 1) -> None:
        self.begin_deployment(subtask, attempt, generation)
        self.until(lambda: m.Initialized(Attempt(attempt), subtask) in self.said)

    def begin_deployment(
        self, subtask: SubtaskId, attempt: int, generation: int = 1, restore: tuple[m.RestoreOperator, ...] = ()
    ) -> None:
        if attempt > self.graph.attempt:
            self.graph.begin_attempt(Attempt(attempt), [subtask])
        self.graph._slots = [SLOT] * 2
        self.graph._attempts[subtask] = Attempt(attempt)
        deploy = self.graph.deployment(
            subtask, generation=Generation(generation), job_id=JOB, restore=restore, reusable_checkpoint=None, peers={}
        )
        self.slot.deliver(deploy)

    def start(self, attempt: int) -> None:
        self.slot.deliver(m.Start(FIRST, Attempt(attempt)))

    def until(self, condition: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < deadline_s, self.said
            self.slot.step()
            try:
                self.mail.get(timeout=0.01)()
            except queue.Empty:
                continue

    def running(self) -> set[tuple[SubtaskId, int]]:
        return {(task.id, task.attempt) for task in self.slot.tasks if task.active}


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    made = Home(tmp_path)
    yield made
    made.executor.shutdown()


def test_tasks_of_several_attempts_live_side_by_side(home: Home) -> None:
    home.deploy(home.one, 1)
    home.deploy(home.other, 1)
    home.start(1)
    home.slot.deliver(m.Cancel(FIRST, Attempt(1), (home.one,)))
    home.until(lambda: m.Canceled(Attempt(1), home.one) in home.said)
    home.deploy(home.one, 2)
    assert home.running() == {(home.other, 1)}
    home.start(2)
    assert home.running() == {(home.one, 2), (home.other, 1)}
    assert home.said.count(m.Running(Attempt(1), home.other)) == 1


def test_a_restore_tells_how_far_it_is(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.state.store.downloads.PART_BYTES", 10)
    monkeypatch.setattr("penstock.state.store.downloads.PARTS_PER_ROUND", 1)
    monkeypatch.setattr("penstock.taskmanager.slot.REPORT_NS", 10_000_000)
    home.objects.execute(Put("job/shared/1-a", bytes(40)))
    file = FileHandle("job/shared/1-a", 40, checksum_of(bytes(40)))
    execute, allowed = home.objects.execute, threading.Semaphore(0)

    def when_allowed(op: StoreOp) -> Any:
        assert allowed.acquire(timeout=30)
        return execute(op)

    def told() -> RestoredBytes | None:
        reports = [said.details.restored for said in home.said if isinstance(said, m.TaskReport)]
        return reports[-1] if reports else None

    monkeypatch.setattr(home.objects, "execute", when_allowed)
    operator = OperatorId("any")
    snapshot = OperatorSnapshot(operator, keyed=(KeyedHandle("heap", 0, 127, {"rows": file}),))
    home.begin_deployment(home.one, 1, restore=(m.RestoreOperator(operator, (snapshot,)),))
    home.until(lambda: told() == RestoredBytes(total=40))
    allowed.release(3)
    home.until(lambda: told() == RestoredBytes(total=40, stored=30))
    assert m.Initialized(Attempt(1), home.one) not in home.said
    allowed.release()
    home.until(lambda: m.Initialized(Attempt(1), home.one) in home.said and told() == RestoredBytes(40, stored=40))
    home.start(1)
    running = m.Running(Attempt(1), home.one)
    home.until(lambda: running in home.said and isinstance(home.said[-1], m.TaskReport))
    assert told() == RestoredBytes(40, stored=40), "and what it was is told on"


def test_a_deployment_ends_an_older_task_of_its_own_subtask(home: Home) -> None:
    home.deploy(home.one, 1)
    home.deploy(home.other, 1)
    home.start(1)
    home.deploy(home.one, 2)
    home.until(lambda: m.Canceled(Attempt(1), home.one) in home.said)
    assert home.running() == {(home.other, 1)}


def test_a_new_master_ends_everything_older_and_the_old_one_is_refused(home: Home) -> None:
    home.deploy(home.one, 1)
    home.deploy(home.other, 2)
    home.start(2)
    home.deploy(home.one, 3, generation=2)
    home.until(lambda: m.Canceled(Attempt(2), home.other) in home.said)
    home.slot.deliver(m.Cancel(FIRST, Attempt(9)))
    assert [(task.id, task.attempt) for task in home.slot.tasks] == [(home.one, 3)]


def test_an_order_of_a_lower_attempt_is_refused(home: Home) -> None:
    home.deploy(home.one, 2)
    home.start(2)
    home.slot.deliver(m.Cancel(FIRST, Attempt(1)))
    assert home.running() == {(home.one, 2)}


def test_files_carry_the_attempt_of_their_checkpoint(home: Home) -> None:
    """The task may be older: its region has not been restarted."""
    home.deploy(home.one, 1)
    home.start(1)
    (task,) = home.slot.tasks
    trigger = m.TriggerCheckpoint(FIRST, Attempt(7), CheckpointId(4), 0, exactly_once=True, persist=True)
    home.slot.deliver(trigger)
    home.until(lambda: any(isinstance(each, m.Acknowledge) for each in home.said))
    (acknowledged,) = [each for each in home.said if isinstance(each, m.Acknowledge)]
    assert (acknowledged.attempt, acknowledged.checkpoint_id) == (1, 4)
    assert task.attempt_of(CheckpointId(4)) == 7
    home.slot.deliver(m.CheckpointCompleted(FIRST, Attempt(7), CheckpointId(4)))
    assert task.attempt_of(CheckpointId(5)) == 1


def test_a_lost_connection_dooms_those_who_may_have_used_it(home: Home) -> None:
    home.deploy(home.one, 1)
    home.deploy(home.other, 2)
    home.start(2)
    peer = SlotId("peer")
    for task in home.slot.tasks:
        task.peers = frozenset([peer])
    home.slot.disconnected(peer, Attempt(1))
    home.until(lambda: any(isinstance(each, m.Failed) for each in home.said))
    assert home.running() == {(home.other, 2)}
    home.slot.disconnected(peer, None)
    home.until(lambda: not home.slot.tasks)


def test_a_question_is_answered_by_the_subtask_that_runs_and_fails_nothing(home: Home) -> None:
    def ask(number: int, subtask: SubtaskId) -> None:
        operator = home.slot.tasks[0].chain.described[0].id
        read = CellRead("total", encode_key("a"))
        home.slot.deliver(m.ReadState(FIRST, Attempt(1), subtask, number, operator, read))

    home.deploy(home.one, 1)
    ask(1, home.one)
    home.start(1)
    home.until(lambda: home.running() == {(home.one, 1)})
    ask(2, home.one)
    ask(3, home.other)
    found = "operator 'sequence' keeps nothing by key"
    assert [said for said in home.said if isinstance(said, m.StateRead)] == [
        m.StateRead(Attempt(1), home.one, 2, found)
    ]
    assert home.running() == {(home.one, 1)}
