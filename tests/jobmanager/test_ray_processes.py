"""Whether a master or a task manager is taken for dead, and what is shown of one that is silent."""

from __future__ import annotations

import queue
import threading
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError

from penstock.jobmanager.cluster import ray_processes
from penstock.jobmanager.cluster.dispatcher import TakeBack
from penstock.jobmanager.cluster.ray_processes import RayProcesses
from penstock.jobmanager.views import TaskManagerView
from penstock.runtime.configuration.config import Configuration
from penstock.state.ids import Generation, JobId, SlotId
from penstock.state.store.cluster_store import JobSubmission

JOB = JobId("a" * 32)
WAIT_S = 20.0


class Master:
    """Its waiting calls end as the test says."""

    def __init__(self) -> None:
        self.waiting: queue.SimpleQueue[Future[None]] = queue.SimpleQueue()
        self.wait_end = SimpleNamespace(remote=self._wait)

    def _wait(self) -> Any:
        call: Future[None] = Future()
        self.waiting.put(call)
        return SimpleNamespace(future=lambda: call)


@pytest.mark.parametrize("dies", [False, True])
def test_a_master_that_cannot_be_reached_for_a_moment_is_not_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies: bool
) -> None:
    monkeypatch.setattr(ray_processes, "WATCH_AGAIN_S", 0.01)
    master: Any = Master()
    processes = RayProcesses(Configuration(), lambda submission, number, name, gives_up: master, tmp_path)
    processes.start_master(JobSubmission(JOB, "clicks", 1_000, "/storage"), 1, False)
    said: queue.SimpleQueue[str] = queue.SimpleQueue()
    processes.watch_master(JOB, 1, said.put)
    master.waiting.get(timeout=WAIT_S).set_exception(ActorUnavailableError("the connection was lost", None))
    call = master.waiting.get(timeout=WAIT_S)
    assert said.empty()
    if dies:
        call.set_exception(ActorDiedError())
    else:
        call.set_result(None)
    assert bool(said.get(timeout=WAIT_S)) is dies


class TaskManager:
    """Answers when the test says so."""

    def __init__(self) -> None:
        self.calls: list[Future[TaskManagerView]] = []
        self.describe = SimpleNamespace(remote=self._ask)
        self.released: list[tuple[Any, ...]] = []
        self.release = SimpleNamespace(remote=lambda *arguments: self.released.append(arguments))

    def _ask(self) -> Any:
        call: Future[TaskManagerView] = Future()
        self.calls.append(call)
        return SimpleNamespace(future=lambda: call)


NODE = "n" * 20
NAME = ray_processes.task_manager_name(NODE)
VIEW = TaskManagerView(NAME, "host", NODE, 1, 2, 4, 3, (), 0, 2, 0, 0, 0)


@pytest.fixture
def manager(monkeypatch: pytest.MonkeyPatch) -> TaskManager:
    """The only one of a cluster."""
    found = TaskManager()
    monkeypatch.setattr(ray, "nodes", lambda: [{"NodeID": NODE, "Alive": True, "Resources": {}}])
    monkeypatch.setattr(ray.util, "list_named_actors", lambda: [NAME])
    monkeypatch.setattr(ray, "get_actor", lambda name: found)
    return found


def of_a_cluster(tmp_path: Path, manager: Any) -> RayProcesses:
    config = Configuration({"heartbeat.interval": "1s", "heartbeat.timeout": "10s"})
    return RayProcesses(config, lambda submission, number, name, gives_up: manager, tmp_path)


def test_a_task_manager_that_stands_still_is_killed_and_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, manager: TaskManager
) -> None:
    now_s = 0.0
    killed: list[tuple[float, bool]] = []
    monkeypatch.setattr(ray, "kill", lambda handle, no_restart: killed.append((now_s, no_restart)))
    clock = SimpleNamespace(monotonic=lambda: now_s, time_ns=lambda: int(now_s * 1e9))
    monkeypatch.setattr(ray_processes, "time", clock)
    processes = of_a_cluster(tmp_path, manager)
    while now_s < 30:
        now_s += 1
        processes.tend_nodes()
        if now_s <= 15 and not manager.calls[-1].done():
            manager.calls[-1].set_result(VIEW)
    assert killed == [(27.0, False)]
    assert len(manager.calls) > 16, "it is asked again after its death"


def test_what_is_said_to_rest_is_news_too_and_slots_are_taken_back(tmp_path: Path, manager: TaskManager) -> None:
    processes = of_a_cluster(tmp_path, manager)
    assert processes.tend_nodes() == []
    manager.calls[0].set_result(VIEW)
    assert [view.id for view in processes.tend_nodes()] == [NAME]
    assert processes.tend_nodes() == []
    asking = threading.Thread(target=processes.task_managers)
    asking.start()
    asking.join(WAIT_S)
    manager.calls[1].set_result(VIEW)
    assert [view.id for view in processes.tend_nodes()] == [NAME]
    processes.take_back(TakeBack(NAME, JOB, Generation(2), (SlotId("slot-1"),)))
    assert manager.released == [(JOB, 2, ["slot-1"])]


def test_rest_sees_the_last_word_of_one_that_is_silent_and_waits_for_it_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, manager: TaskManager
) -> None:
    processes = of_a_cluster(tmp_path, manager)
    assert processes.task_managers() == [], "no node is known yet"
    processes.tend_nodes()
    manager.calls[0].set_result(VIEW)
    (first,) = processes.task_managers()
    assert replace(first, heartbeat_ms=0) == VIEW
    assert len(manager.calls) == 2, "it was asked how it is now"
    monkeypatch.setattr(ray_processes, "FRESH_S", WAIT_S * 10)
    manager.calls[1].set_result(replace(VIEW, slots_free=0))
    asked = threading.Thread(target=lambda: manager.calls[2].set_result(replace(VIEW, slots_free=1)))
    monkeypatch.setattr(manager, "describe", SimpleNamespace(remote=lambda: (manager._ask(), asked.start())[0]))
    assert [view.slots_free for view in processes.task_managers()] == [1], "an answer in time is what is shown"
