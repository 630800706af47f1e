"""Helper threads answer exactly once, whatever happens there."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

import pytest

from penstock.state.errors import PenstockError
from penstock.state.store.objects import Get, Program
from penstock.state.store.obstore_objects import ObstoreObjects
from penstock.taskmanager.executor import ThreadExecutor


class Panic(BaseException):
    """What compiled code raises when it breaks."""


def breaks() -> Any:
    raise Panic("index out of bounds")


def breaking() -> Program[None]:
    breaks()
    yield Get("a")


@pytest.mark.parametrize("how", ["program", "call"])
def test_also_what_is_no_exception_is_answered(how: str) -> None:
    posted: queue.Queue[Callable[[], None]] = queue.Queue()
    executor = ThreadExecutor(ObstoreObjects("memory://"), posted.put)
    answers: list[Any] = []
    if how == "program":
        executor.submit(breaking(), lambda result, error: answers.append(error))
    else:
        executor.call(breaks, lambda result, error: answers.append(error))
    executor.shutdown()
    posted.get(timeout=5)()
    (error,) = answers
    assert isinstance(error, PenstockError)
    assert str(error) == "Panic: index out of bounds"
    assert isinstance(error.__cause__, Panic)


def test_a_call_that_never_returns_does_not_keep_its_owner() -> None:
    posted: queue.Queue[Callable[[], None]] = queue.Queue()
    executor = ThreadExecutor(ObstoreObjects("memory://"), posted.put, threads=2)
    go_on = threading.Event()
    seen: list[Any] = []

    def hang() -> None:
        seen.append(threading.current_thread())
        go_on.wait(60)

    try:
        executor.call(hang, lambda result, error: None)
        executor.call(lambda: "done", lambda result, error: seen.append(result))
        posted.get(timeout=20)()
        executor.shutdown(timeout_s=0.1)
        assert (seen[0].is_alive(), seen[0].daemon, seen[1]) == (True, True, "done")
    finally:
        go_on.set()


def test_closing_waits_for_what_was_submitted() -> None:
    executor = ThreadExecutor(ObstoreObjects("memory://"), lambda answer: answer(), threads=1)
    done: list[Any] = []
    for number in range(5):
        executor.call(lambda number=number: number, lambda result, error: done.append(result))  # type: ignore[misc]
    executor.shutdown()
    assert done == [0, 1, 2, 3, 4]
    with pytest.raises(RuntimeError, match="have ended"):
        executor.call(lambda: 1, lambda result, error: None)
