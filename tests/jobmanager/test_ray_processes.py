"""Whether a master is taken for dead."""

from __future__ import annotations

import queue
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError

from penstock.jobmanager.cluster import ray_processes
from penstock.jobmanager.cluster.ray_processes import RayProcesses
from penstock.runtime.config import Configuration
from penstock.state.cluster_store import JobSubmission
from penstock.state.ids import JobId

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
        self.calls: list[Future[int]] = []
        self.free = SimpleNamespace(remote=self._ask)

    def _ask(self) -> Any:
        call: Future[int] = Future()
        self.calls.append(call)
        return SimpleNamespace(future=lambda: call)


def test_a_task_manager_that_stands_still_is_killed_and_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node, now_s = "n" * 20, 0.0
    manager: Any = TaskManager()
    killed: list[tuple[float, bool]] = []
    name = ray_processes.task_manager_name(node)
    monkeypatch.setattr(ray, "nodes", lambda: [{"NodeID": node, "Alive": True, "Resources": {}}])
    monkeypatch.setattr(ray.util, "list_named_actors", lambda: [name])
    monkeypatch.setattr(ray, "get_actor", lambda name: manager)
    monkeypatch.setattr(ray, "kill", lambda handle, no_restart: killed.append((now_s, no_restart)))
    monkeypatch.setattr(ray_processes, "time", SimpleNamespace(monotonic=lambda: now_s))
    config = Configuration({"heartbeat.interval": "1s", "heartbeat.timeout": "10s"})
    processes = RayProcesses(config, lambda submission, number, name, gives_up: manager, tmp_path)
    while now_s < 30:
        now_s += 1
        processes.tend_nodes()
        if now_s <= 15 and not manager.calls[-1].done():
            manager.calls[-1].set_result(1)
    assert killed == [(27.0, False)]
    assert len(manager.calls) > 16, "it is asked again after its death"
