"""Actors of a pool of models, without Ray: what is said where no node has what each of them asks for."""

from __future__ import annotations

import queue
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from penstock.runtime.model_workers import ModelSpec, NoRoomError, WorkerEnded, WorkerEvent
from penstock.runtime.resources import Resources
from penstock.taskmanager.processes import model_actors
from penstock.taskmanager.processes.model_actors import RayWorkers

WAIT_S = 20.0


def test_what_no_node_has_is_said_at_once_with_what_they_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_actors, "total_resources", lambda: {"n" * 20: Resources(cpu=8, gpu=0.5)})
    mail: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
    told: list[WorkerEvent] = []
    lease: Any = SimpleNamespace(job_id="j" * 32)
    context: Any = None
    workers = RayWorkers(lease, mail.put, context, ModelSpec("model", dict, "arrow", Resources(gpu=1)), told.append)
    try:
        workers.start(1)
        mail.get(timeout=WAIT_S)()
    finally:
        workers.close()
    (event,) = told
    assert isinstance(event, WorkerEnded)
    assert isinstance(event.error, NoRoomError)
    assert str(event.error) == (
        "operator 'model' asks for gpu 1 for each of its models, and no node has that (nnnnnnnnnnnn: gpu 0.5); "
        "ask for less, or add a node (penstock cluster join)"
    )


class Unreachable:
    """An actor to which nothing can be sent: the object store is full, say."""

    def __init__(self) -> None:
        self.run = self

    def remote(self, *_: Any) -> Any:
        raise OSError("the object store is full\nand more of that")


def test_a_batch_that_cannot_be_sent_is_the_end_of_its_worker_and_not_of_the_pool(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    killed: list[Any] = []
    monkeypatch.setattr(model_actors.ray, "kill", killed.append)
    mail: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
    told: list[WorkerEvent] = []
    lease: Any = SimpleNamespace(job_id="j" * 32)
    context: Any = None
    workers = RayWorkers(lease, mail.put, context, ModelSpec("model", dict, "arrow"), told.append)
    actors: list[Any] = [Unreachable(), Unreachable()]
    workers._handles.update(zip((1, 2), actors, strict=True))
    workers._living.update((1, 2))
    try:
        workers.call(1, 0, pa.RecordBatch.from_pydict({"n": [1]}))
        mail.get(timeout=WAIT_S)()
    finally:
        workers.close()
    assert told == [WorkerEnded(1, "the object store is full")]
    assert killed == actors, "the helper thread goes on"
