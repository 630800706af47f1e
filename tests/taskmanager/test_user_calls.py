"""Calls on a real event loop and on real threads, answered on the thread of this test."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from penstock.runtime import logs
from penstock.runtime.calls import Answer, Calls
from penstock.state.ids import JobId
from penstock.taskmanager.user_calls import user_calls

WAIT_S = 20.0
CONTEXT = logs.TaskContext(JobId("job"), "vertex", 1, 2)


class Home:
    """Stands for a slot's thread."""

    def __init__(self) -> None:
        self.mail: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self.posted = 0
        self.answers: dict[int, Answer] = {}
        self.threads: set[int] = set()
        self.made: list[Calls] = []

    def post(self, mail: Callable[[], None]) -> None:
        self.posted += 1
        self.mail.put(mail)

    def answered(self, answers: Sequence[Answer]) -> None:
        self.threads.add(threading.get_ident())
        self.answers.update({answer.number: answer for answer in answers})

    def calls(self, function: Any, *, asynchronous: bool, threads: int = 4) -> Calls:
        made = user_calls(self.post, CONTEXT, function, self.answered, asynchronous=asynchronous, threads=threads)
        self.made.append(made)
        return made

    def until(self, condition: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + WAIT_S
        while not condition():
            self.mail.get(timeout=max(0.0, deadline_s - time.monotonic()))()


@pytest.fixture
def home() -> Iterator[Home]:
    made = Home()
    yield made
    for calls in made.made:
        calls.close()


async def a_moment(seconds: float = 0.001) -> None:
    await asyncio.wait({asyncio.get_running_loop().create_future()}, timeout=seconds)


def both(function: Callable[[Any], Any]) -> list[tuple[Any, bool]]:
    async def awaited(record: Any) -> Any:
        await a_moment()
        return function(record)

    return [(function, False), (awaited, True)]


@pytest.mark.parametrize(("function", "asynchronous"), both(lambda record: [10 // record]))
def test_every_call_is_answered_once_on_the_owner_s_thread(home: Home, function: Any, asynchronous: bool) -> None:
    calls = home.calls(function, asynchronous=asynchronous)
    calls.start([(number, number) for number in range(50)])
    calls.start([(number, number) for number in range(50, 100)])
    home.until(lambda: len(home.answers) == 100)
    assert isinstance(home.answers[0].error, ZeroDivisionError)
    assert [home.answers[number].result for number in range(1, 100)] == [[10 // number] for number in range(1, 100)]
    assert home.threads == {threading.get_ident()}


def exits(record: Any) -> Any:
    raise SystemExit(record)


@pytest.mark.parametrize(("function", "asynchronous"), both(exits))
def test_an_exit_in_a_function_is_an_error_of_its_call(home: Home, function: Any, asynchronous: bool) -> None:
    calls = home.calls(function, asynchronous=asynchronous)
    for number in range(2):
        calls.start([(number, 3)])
        home.until(lambda number=number: number in home.answers)  # type: ignore[misc]
        assert "SystemExit: 3" in str(home.answers[number].error)


def test_async_calls_are_under_way_together_and_a_cancelled_one_ends(home: Home) -> None:
    everybody, begun = asyncio.Event(), []

    async def meet(record: int) -> list[int]:
        begun.append(record)
        if record < 0:
            await asyncio.Event().wait()
        if len(begun) == 101:
            everybody.set()
        await everybody.wait()
        return [record]

    calls = home.calls(meet, asynchronous=True)
    calls.start([(1_000, -1), *((number, number) for number in range(100))])
    home.until(lambda: len(home.answers) == 100)
    calls.cancel(1_000)
    home.until(lambda: 1_000 in home.answers)
    assert "CancelledError" in str(home.answers[1_000].error)
    calls.cancel(1_000)
    assert home.posted < 100, "one mail brings many answers"


def test_a_call_that_is_cancelled_before_it_begins_is_answered(home: Home) -> None:
    """Another one blocks the loop from before its start until after its cancellation."""
    begun, release = threading.Event(), threading.Event()

    async def block(record: int) -> list[int]:
        begun.set()
        release.wait(WAIT_S)
        return [record]

    calls = home.calls(block, asynchronous=True)
    calls.start([(0, 0)])
    assert begun.wait(WAIT_S)
    calls.start([(1, 1), (2, 2)])
    calls.cancel(1)
    release.set()
    home.until(lambda: len(home.answers) == 3)
    assert "CancelledError" in str(home.answers[1].error)
    assert [home.answers[number].result for number in (0, 2)] == [[0], [2]]


def test_as_many_threads_as_there_may_be(home: Home) -> None:
    meeting = threading.Barrier(4)

    def meet(record: int) -> list[int]:
        meeting.wait(WAIT_S)
        return [record]

    home.calls(meet, asynchronous=False).start([(number, number) for number in range(8)])
    home.until(lambda: len(home.answers) == 8)
    assert all(answer.error is None for answer in home.answers.values())


@pytest.mark.parametrize(("function", "asynchronous"), both(lambda record: [str(logs.get_context())]))
def test_what_it_logs_is_its_subtask_s(home: Home, function: Any, asynchronous: bool) -> None:
    home.calls(function, asynchronous=asynchronous).start([(0, 0)])
    home.until(lambda: 0 in home.answers)
    assert home.answers[0].result == [str(CONTEXT)]


async def stubborn(record: threading.Event) -> None:
    while not record.is_set():
        try:
            await a_moment(WAIT_S)
        except asyncio.CancelledError:
            await a_moment()


async def blocks_the_loop(record: threading.Event) -> None:
    record.wait(WAIT_S)


def blocks(record: threading.Event) -> None:
    record.wait(WAIT_S)


@pytest.mark.parametrize(("function", "asynchronous"), [(stubborn, True), (blocks_the_loop, True), (blocks, False)])
def test_closing_does_not_wait_for_calls_that_do_not_end(home: Home, function: Any, asynchronous: bool) -> None:
    """They would go on for twenty seconds."""
    release = threading.Event()
    calls = home.calls(function, asynchronous=asynchronous)
    calls.start([(number, release) for number in range(3)])
    before_s = time.monotonic()
    calls.close()
    assert time.monotonic() - before_s < WAIT_S / 2
    release.set()
    home.made.clear()
    assert home.mail.empty() or home.mail.get() is not None
    assert home.answers == {}


def test_nothing_is_answered_after_the_end(home: Home) -> None:
    calls = home.calls(lambda record: [record], asynchronous=False)
    calls.start([(0, 0)])
    mail = home.mail.get(timeout=WAIT_S)
    calls.close()
    mail()
    assert home.answers == {}
