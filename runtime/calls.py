"""Calls of users' functions beside the slot's thread: what an operator asks for, and how it is answered.

An operator starts calls by number and goes on; each is answered once, on the slot's thread, unless the operator is
closed before. A call that is cancelled is answered, too, when it has really ended: one that does not heed it, or that
blocks a thread, is known to be under way still. Threads and event loops are in taskmanager/user_calls.py; the
simulator has calls of its own, in virtual time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

from ..state.errors import ProtocolError


@dataclass(frozen=True, slots=True)
class Answer:
    """How a call has ended: with a result, or with an error."""

    number: int
    result: Any = None
    error: Exception | None = None


Answered = Callable[[Sequence[Answer]], None]
"""Called on the slot's thread, between two steps, with what has come in since."""


class Calls(Protocol):
    """Calls of one function by one operator of one subtask. Its methods return at once."""

    def start(self, calls: Sequence[tuple[int, Any]]) -> None:
        """(number, record) of each. A number is not used twice while its call is under way."""
        ...

    def cancel(self, number: int) -> None:
        """Its result is of no use any more."""
        ...

    def close(self) -> None:
        """Cancel all; nothing is answered from now on. Waits at most a moment."""
        ...


class MakeCalls(Protocol):
    """What an operator finds in its context."""

    def __call__(
        self, function: Callable[[Any], Any], answered: Answered, *, asynchronous: bool, threads: int
    ) -> Calls:
        """asynchronous: the function is `async def`, all calls share an event loop. Otherwise each occupies one of
        `threads` threads; more wait for one."""
        ...


def no_calls(function: Callable[[Any], Any], answered: Answered, *, asynchronous: bool, threads: int) -> NoReturn:
    """Of contexts in which operators are only opened."""
    raise ProtocolError("an operator that is only opened calls nothing")
