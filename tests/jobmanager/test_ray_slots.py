"""Requests for slots that meet: none is counted twice, and none is left when the job has ended."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from penstock.jobmanager import events
from penstock.jobmanager.cluster import ray_slots
from penstock.jobmanager.cluster.ray_slots import RaySlots
from penstock.runtime.resources import NO_RESOURCES
from penstock.state.ids import Generation, JobId, SlotId
from penstock.taskmanager.messages import SlotAddress
from penstock.taskmanager.processes.task_manager import SlotOffer

JOB = JobId("a" * 32)
WAIT_S = 20.0


class Call:
    """Of an actor's method: noted, and answered by nobody."""

    def __init__(self, name: str, calls: list[tuple[Any, ...]]) -> None:
        self._name, self._calls = name, calls

    def remote(self, *arguments: Any) -> Call:
        self._calls.append((self._name, *arguments))
        return self

    def future(self) -> Call:
        return self

    def add_done_callback(self, answer: Callable[[Any], None]) -> None: ...


class Actor:
    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Call:
        return Call(name, self.calls)


class Cluster(RaySlots):
    """Ten slots. As task managers do, it offers first what the job has and does not know of."""

    def __init__(self) -> None:
        super().__init__(JOB, lambda generation: SimpleNamespace(), request_timeout_s=5.0, heartbeat_timeout_ms=10_000)  # type: ignore[arg-type, return-value]
        self.slots = [SlotId(f"slot-{number}") for number in range(10)]
        self.task_manager, self.process = Actor(), Actor()

    def _take(self, rooms: Any, count: int, generation: Generation, known: set[SlotId]) -> list[tuple[SlotOffer, Any]]:
        free = [slot for slot in self.slots if slot not in known][:count]
        return [
            (SlotOffer(slot, slot, SlotAddress("node", "127.0.0.1", 1, "", 1), 1), self.task_manager) for slot in free
        ]


class Loop:
    """The loop of a master, that looks at its mail when it is told to."""

    def __init__(self) -> None:
        self.mails: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self.events: list[events.Event] = []
        taken_over = SimpleNamespace(state=SimpleNamespace(generation=Generation(2)))
        self.master = SimpleNamespace(generation=Generation(1), log=taken_over)
        """It has just read that another one leads."""

    def mail(self, function: Callable[[], None]) -> None:
        self.mails.put(function)

    def post(self, event: events.Event) -> None:
        self.events.append(event)

    happened = post

    def now_ms(self) -> int:
        return 0

    def read_mail(self, count: int) -> None:
        for _ in range(count):
            self.mails.get(timeout=WAIT_S)()

    def offered(self) -> list[SlotId]:
        return [event.slot for event in self.events if isinstance(event, events.SlotOffered)]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    found = Cluster()
    monkeypatch.setattr(ray_slots, "describe_task_managers", lambda timeout_s: {})
    monkeypatch.setattr(ray_slots, "place", lambda rooms, count: {})
    monkeypatch.setattr("ray.get_actor", lambda name: found.process)
    monkeypatch.setattr("ray.get", lambda call, timeout: None)
    yield found
    found.close()


def wait_for(condition: Callable[[], Any], what: str) -> None:
    deadline_s, pause = time.monotonic() + WAIT_S, threading.Event()
    while not condition():
        assert time.monotonic() < deadline_s, what
        pause.wait(0.01)


def test_requests_that_follow_each_other_at_once_get_different_slots(cluster: Cluster) -> None:
    """As when two slots of a job die together."""
    loop: Any = Loop()
    cluster.bind(loop)
    cluster.acquire((NO_RESOURCES,))
    cluster.acquire((NO_RESOURCES,))
    loop.read_mail(2)
    assert loop.offered() == ["slot-0", "slot-1"]


def test_slots_that_come_too_late_are_given_back(cluster: Cluster) -> None:
    loop: Any = Loop()
    cluster.bind(loop)
    cluster.acquire((NO_RESOURCES,) * 2)
    wait_for(lambda: loop.mails.qsize() == 2, "the slots are not leased")
    loop.read_mail(1)
    cluster.close()
    assert cluster.task_manager.calls == [("release", JOB, 1, [SlotId("slot-1")])]


def test_who_has_read_of_its_successor_does_not_speak_in_its_name(cluster: Cluster) -> None:
    """Else it would take the successor's messages, and kill its slots."""
    loop: Any = Loop()
    cluster.bind(loop)
    cluster.acquire((NO_RESOURCES,) * 2)
    loop.read_mail(2)
    assert cluster.process.calls.count(("poll", 1)) == 2
    cluster.release((SlotId("slot-0"),))
    cluster.discard(SlotId("slot-1"), "it hangs")
    assert [call[:3] for call in cluster.task_manager.calls] == [("release", JOB, 1), ("discard", JOB, 1)]


def test_a_slot_that_died_is_replaced_where_it_was(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """There are copies of its state."""
    lost: list[dict[str, int]] = []
    monkeypatch.setattr(ray_slots, "_rooms", lambda _views, _job, _known, lost_at: lost.append(dict(lost_at)) or {})
    loop: Any = Loop()
    cluster.bind(loop)
    cluster.acquire((NO_RESOURCES,))
    loop.read_mail(1)
    cluster.discard(SlotId("slot-0"), "it hangs")
    cluster.acquire((NO_RESOURCES,))
    loop.read_mail(1)
    cluster.acquire((NO_RESOURCES,))
    loop.read_mail(1)
    assert lost == [{}, {"node": 1}, {}]
