"""One asynchronous operator alone: records and answers in, results and watermarks out, in the order in which they go.

with AsyncHarness(operator, record_type=int) as harness:
    harness.push([1, 2])
    harness.watermark(5)
    harness.answer(2, "two")                  # what the call for 2 has given
    harness.answer(1, "one")
    assert harness.events == ["one", "two", Watermark(5)]
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..runtime.batch import Batch
from ..runtime.elements import Watermark, WatermarkStatus
from ..runtime.operators.operator import Operator, WaitingOperator
from .calls import ManualCalls
from .harness import OperatorHarness


class AsyncHarness(OperatorHarness):
    """After everything that comes in the operator goes on, as its task lets it."""

    def __init__(self, operator: Operator, **options: Any) -> None:
        """`options`: of an OperatorHarness."""
        self.calls = ManualCalls()
        self.events: list[Any] = []
        """Results, watermarks, statuses."""
        super().__init__(operator, calls=self.calls, **options)

    @property
    def waiting(self) -> WaitingOperator:
        """The operator."""
        assert isinstance(self.operator, WaitingOperator), "an asynchronous operator is needed"
        return self.operator

    def open(self) -> AsyncHarness:
        super().open()
        self.operator.output = _Log(self.events)
        self.go_on()
        return self

    def __enter__(self) -> AsyncHarness:
        return self.open()

    def push(self, rows: Sequence[Any], timestamps: Sequence[int] | None = None, input_index: int = 0) -> None:
        super().push(rows, timestamps, input_index)
        self.go_on()

    def watermark(self, timestamp: int) -> None:
        super().watermark(timestamp)
        self.go_on()

    def status(self, *, idle: bool) -> None:
        self.waiting.process_status(WatermarkStatus(idle))
        self.go_on()

    def advance_time(self, duration_ms: int) -> None:
        super().advance_time(duration_ms)
        self.go_on()

    def answer(self, record: Any, *results: Any) -> None:
        """The call for this record has given these."""
        self.calls.answer(record, *results)
        self.go_on()

    def fail(self, record: Any, error: Exception) -> None:
        self.calls.fail(record, error)
        self.go_on()

    def run(self, record: Any) -> None:
        """The call for this record gives what the function returns."""
        self.calls.run(record)
        self.go_on()

    def go_on(self) -> None:
        """What there is to do by now."""
        waiting, now_ns = self.waiting, self.clock.monotonic_ns()
        while (due_ns := waiting.next_due_ns()) is not None and due_ns <= now_ns:
            waiting.advance(now_ns)

    @property
    def rows(self) -> list[Any]:
        """Results only."""
        return [event for event in self.events if not isinstance(event, (Watermark, WatermarkStatus))]


class _Log:
    def __init__(self, events: list[Any]) -> None:
        self._events = events

    def emit(self, batch: Batch) -> None:
        self._events += batch.rows()

    def emit_side(self, tag: str, batch: Batch) -> None:
        raise AssertionError("asynchronous operators have no side outputs")

    def emit_watermark(self, watermark: Watermark) -> None:
        self._events.append(watermark)

    def emit_at_once(self, element: Watermark | WatermarkStatus) -> None:
        raise NotImplementedError

    def emit_status(self, status: WatermarkStatus) -> None:
        self._events.append(status)
