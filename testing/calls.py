"""Calls of asynchronous functions that are answered when the test says so.

calls = ManualCalls()
with OperatorHarness(operator, calls=calls) as harness:
    harness.push(["a", "b"])
    calls.answer("b", "B")           # or calls.run("b"), calls.fail("b", OSError())
    harness.go_on()
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..runtime.calls import Answer, Answered


class ManualCalls:
    """Of one operator, which makes it with its function."""

    def __init__(self) -> None:
        self.under_way: dict[int, Any] = {}
        """Records by the numbers of their calls."""
        self.most = 0
        """So many were under way at once."""
        self.cancelled: list[Any] = []
        """Records whose calls were cancelled; they are under way until they are answered."""
        self.closed = False
        self._function: Callable[[Any], Any] | None = None
        self._answered: Answered | None = None

    def __call__(
        self, function: Callable[[Any], Any], answered: Answered, *, asynchronous: bool, threads: int
    ) -> ManualCalls:
        self._function, self._answered = function, answered
        return self

    # what the operator asks for

    def start(self, calls: Sequence[tuple[int, Any]]) -> None:
        self.under_way.update(calls)
        self.most = max(self.most, len(self.under_way))

    def cancel(self, number: int) -> None:
        self.cancelled.append(self.under_way[number])

    def close(self) -> None:
        self.closed = True

    # what the test does

    @property
    def records(self) -> list[Any]:
        """Those whose calls are under way, in the order of their calls."""
        return list(self.under_way.values())

    def answer(self, record: Any, *results: Any) -> None:
        """The call for this record (the oldest, of several) has these results."""
        self._tell(Answer(self._take(record), list(results)))

    def fail(self, record: Any, error: Exception) -> None:
        self._tell(Answer(self._take(record), error=error))

    def run(self, record: Any) -> None:
        """Call the operator's own function, which must not wait for anything."""
        assert self._function is not None, "nothing has been called"
        self._tell(answer_at_once(self._take(record), self._function, record))

    def _take(self, record: Any) -> int:
        number = next(number for number, each in self.under_way.items() if each == record)
        del self.under_way[number]
        return number

    def _tell(self, answer: Answer) -> None:
        assert self._answered is not None, "nothing has been called"
        self._answered([answer])


def answer_at_once(number: int, function: Callable[[Any], Any], record: Any) -> Answer:
    """Of a function that waits for nothing, `async def` or not."""
    try:
        produced = function(record)
        if hasattr(produced, "send"):
            produced.send(None)
            raise AssertionError("the function waits for something")
    except StopIteration as returned:
        produced = returned.value
    except Exception as error:
        return Answer(number, error=error)
    return Answer(number, produced)
