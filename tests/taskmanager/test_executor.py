"""Helper threads answer exactly once, whatever happens there."""

from __future__ import annotations

import queue
from collections.abc import Callable
from typing import Any

import pytest

from penstock.state.errors import PenstockError
from penstock.state.objects import Get, Program
from penstock.state.obstore_objects import ObstoreObjects
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
