"""The slot's thread: when it runs, when it sleeps, and what it survives."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from penstock.runtime.clock import SystemClock
from penstock.runtime.elements import Watermark
from penstock.state.ids import Attempt, SlotId
from penstock.taskmanager.exchange.socket_transport import SocketTransport
from penstock.taskmanager.exchange.transport import Frame
from penstock.taskmanager.mailbox import LONGEST_WAIT_NS, Mailbox
from penstock.taskmanager.messages import ChannelId

WAIT_S = 20.0
CHANNEL = ChannelId(0, 0, 0)


class Driven:
    """What the loop drives: counts its steps, wants to be woken when the test says so, and echoes what comes."""

    def __init__(self, name: str, directory: Path, machine: str = "one") -> None:
        self.clock = SystemClock()
        self.errors: list[Exception] = []
        self.id = SlotId(name)
        self.mailbox = Mailbox(self.clock, self.errors.append)
        self.transport = SocketTransport(
            self.id,
            directory=directory,
            host="127.0.0.1",
            task_manager=machine,
            secret=b"secret",
            clock=self.clock,
        )
        self.transport.attach(self)
        self.steps = 0
        self.wake_at_ns: int | None = None
        self.stepped_at_ns: list[int] = []
        self.echo_to: SlotId | None = None
        self.got: list[Frame] = []
        self.lost: list[SlotId] = []
        self.raised: BaseException | None = None
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        try:
            self.mailbox.run(self, self.transport)
        except BaseException as error:
            self.raised = error

    def step(self) -> bool:
        self.steps += 1
        self.stepped_at_ns.append(self.clock.monotonic_ns())
        if self.wake_at_ns is not None and self.clock.monotonic_ns() >= self.wake_at_ns:
            self.wake_at_ns = None
        return False

    def next_wakeup_ns(self) -> int | None:
        return self.wake_at_ns

    def receive(self, frame: Frame) -> None:
        self.got.append(frame)
        if self.echo_to is not None:
            self.transport.send(self.echo_to, frame)

    def granted(self, attempt: Attempt, channel: ChannelId, nbytes: int) -> None:
        raise AssertionError(channel)

    def disconnected(self, peer: SlotId, newest: Attempt | None, reason: str = "") -> None:
        self.lost.append(peer)

    def stop(self) -> None:
        self.mailbox.stop()
        if self.thread.ident is not None:
            self.thread.join(WAIT_S)
        self.transport.close()
        self.mailbox.close()

    def on_thread(self, call: Callable[[], Any]) -> Any:
        """The call's result, made on the slot's thread."""
        done, result = threading.Event(), []

        def mail() -> None:
            result.append(call())
            done.set()

        self.mailbox.post(mail)
        assert done.wait(WAIT_S)
        return result[0]


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        pause.wait(0.002)


@pytest.fixture
def driven(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driven]:
    slot = Driven("a", tmp_path_factory.mktemp("s"))
    slot.thread.start()
    yield slot
    slot.stop()


def test_mail_is_run_in_order_on_the_slots_thread(driven: Driven) -> None:
    ran: list[tuple[int, threading.Thread]] = []
    for number in range(1_000):
        driven.mailbox.post(lambda number=number: ran.append((number, threading.current_thread())))  # type: ignore[misc]
    wait_for(lambda: len(ran) == 1_000)
    assert [number for number, _ in ran] == list(range(1_000))
    assert {thread for _, thread in ran} == {driven.thread}


def test_mail_that_raises_is_reported_and_the_loop_goes_on(driven: Driven) -> None:
    error = ValueError("in mail")

    def fail() -> None:
        raise error

    driven.mailbox.post(fail)
    assert driven.on_thread(lambda: 5) == 5
    assert driven.errors == [error]


def test_mail_that_posts_mail_does_not_keep_the_slot_from_its_steps(driven: Driven) -> None:
    steps: list[int] = []

    def again() -> None:
        steps.append(driven.steps)
        if len(steps) < 100:
            driven.mailbox.post(again)

    driven.mailbox.post(again)
    wait_for(lambda: len(steps) == 100)
    assert steps == sorted(set(steps))


def test_an_idle_slot_sleeps_and_shows_that_it_lives(driven: Driven) -> None:
    driven.on_thread(lambda: None)
    steps, began_ns = driven.steps, time.monotonic_ns()
    wait_for(lambda: driven.mailbox.last_step_ns > began_ns + LONGEST_WAIT_NS)
    turns = (time.monotonic_ns() - began_ns) / LONGEST_WAIT_NS
    assert driven.steps - steps <= turns + 3


def test_it_wakes_when_the_slot_wants_to_and_not_before(driven: Driven) -> None:
    def wake_later() -> int:
        driven.wake_at_ns = driven.clock.monotonic_ns() + 60_000_000
        driven.stepped_at_ns.clear()
        return driven.wake_at_ns

    at_ns = driven.on_thread(wake_later)
    wait_for(lambda: driven.wake_at_ns is None)
    before = [ns for ns in driven.stepped_at_ns if ns < at_ns]
    assert len(before) <= 2  # the one after the mail, and one more if something else woke it


def test_a_wish_to_be_woken_that_does_nothing_is_no_busy_loop(driven: Driven) -> None:
    class Stuck(Driven):
        def step(self) -> bool:
            self.steps += 1
            return False

    driven.__class__ = Stuck

    def stick() -> int:
        driven.wake_at_ns = 1
        return driven.steps

    steps, began = driven.on_thread(stick), time.monotonic()
    wait_for(lambda: driven.steps > steps + 50)
    assert driven.steps - steps <= (time.monotonic() - began) * 1_000 + 10


def test_an_error_of_a_step_ends_the_loop(driven: Driven) -> None:
    class Broken(Driven):
        def step(self) -> bool:
            raise RuntimeError("in a step")

    driven.__class__ = Broken
    driven.mailbox.post(lambda: None)
    driven.thread.join(WAIT_S)
    assert str(driven.raised) == "in a step"
    driven.mailbox.post(lambda: None)  # goes nowhere, and raises nothing


def test_mail_from_many_threads_and_after_the_end(tmp_path_factory: pytest.TempPathFactory) -> None:
    slot = Driven("a", tmp_path_factory.mktemp("s"))
    slot.thread.start()
    ran: list[int] = []

    def post() -> None:
        for number in range(500):
            slot.mailbox.post(lambda number=number: ran.append(number))  # type: ignore[misc]

    threads = [threading.Thread(target=post) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    wait_for(lambda: len(ran) == 2_000)
    slot.stop()
    slot.mailbox.post(lambda: ran.append(-1))
    assert len(ran) == 2_000


# other processes


def _echo(directory: Path, pipe: Connection, machine: str) -> None:
    slot = Driven("b", directory, machine)
    slot.echo_to = SlotId("a")
    pipe.send(slot.transport.address)
    slot.transport.meet(pipe.recv())
    slot.mailbox.run(slot, slot.transport)


@pytest.mark.parametrize("machine", ["one", "another"])
def test_a_killed_process_is_a_lost_connection(tmp_path_factory: pytest.TempPathFactory, machine: str) -> None:
    directory = tmp_path_factory.mktemp("s")
    slot = Driven("a", directory)
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_echo, args=(directory, theirs, machine), daemon=True)
    process.start()
    try:
        assert ours.poll(60)
        peers = {SlotId("a"): slot.transport.address, SlotId("b"): ours.recv()}
        ours.send(peers)
        slot.transport.meet(peers)
        slot.thread.start()
        there = Frame(Attempt(1), CHANNEL, Watermark(7), 0)
        slot.mailbox.post(lambda: slot.transport.send(SlotId("b"), there))
        wait_for(lambda: slot.got == [there])
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        wait_for(lambda: slot.lost == ["b"])
    finally:
        process.kill()
        process.join(WAIT_S)
        slot.stop()
    assert slot.errors == []
