"""Calls of asynchronous functions in virtual time: a service that answers soon, late, with an error, or never.

Functions of simulated jobs wait for nothing by themselves; when their answer comes is drawn here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..runtime.calls import Answer, Answered
from .calls import answer_at_once
from .virtual_time import MS, Call, Process, VirtualTime

ERRORS, SILENCES = 0.02, 0.005
"""How many calls end so."""


class ServiceError(Exception):
    """What the simulated service answers now and then."""


class SimulatedCalls:
    """Of one operator of one subtask. `receive`: runs what has arrived at the slot, which then takes a step."""

    def __init__(
        self,
        time: VirtualTime,
        process: Process,
        receive: Callable[[Call], None],
        function: Callable[[Any], Any],
        answered: Answered,
    ) -> None:
        self._time = time
        self._process = process
        self._receive = receive
        self._function = function
        self._answered = answered
        self._under_way: set[int] = set()
        self._closed = False

    def start(self, calls: Sequence[tuple[int, Any]]) -> None:
        random = self._time.random
        for number, record in calls:
            self._under_way.add(number)
            fate = random.random()
            if fate < SILENCES:
                continue
            error = ServiceError("busy") if fate < SILENCES + ERRORS else None
            longest_ms = random.choice((1, 20, 200))
            self._answer_in(self._time.between(0, longest_ms * MS), number, record, error)

    def cancel(self, number: int) -> None:
        self._answer_in(self._time.between(0, MS), number, None, ServiceError("cancelled"))

    def close(self) -> None:
        self._closed = True

    def _answer_in(self, delay_ns: int, number: int, record: Any, error: Exception | None) -> None:
        self._time.after(delay_ns, self._process, "call ends", lambda: self._answer(number, record, error))

    def _answer(self, number: int, record: Any, error: Exception | None) -> None:
        if self._closed or number not in self._under_way:
            return
        self._under_way.remove(number)
        answer = Answer(number, error=error) if error else answer_at_once(number, self._function, record)
        self._receive(lambda: self._answered([answer]))
