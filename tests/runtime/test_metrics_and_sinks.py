"""Metrics as numbers, and the sink operator between the chain and a connector's writer."""

from __future__ import annotations

import pytest

from penstock.runtime.batch import Batch
from penstock.runtime.connector import Sink, SinkWriter, WriterContext
from penstock.runtime.metrics import MetricGroup
from penstock.runtime.operators.sink import SinkOperator
from penstock.runtime.records.record_types import OPAQUE
from penstock.state.ids import CheckpointId
from penstock.testing.clock import ManualClock
from penstock.testing.harness import OperatorHarness


def test_metrics_are_a_flat_table_of_numbers() -> None:
    clock = ManualClock()
    group = MetricGroup(clock)
    group.counter("n").inc(3)
    group.counter("n").dec()
    group.gauge("size", lambda: 7)
    inner = group.add_group("kind", "late")
    inner.distribution("delay").update(4)
    group.add_group("kind").add_group("late").distribution("delay").update(-2)
    meter = group.meter("rate", 10)
    meter.mark_event(20)
    clock.advance(9_000)
    meter.mark_event(10)
    assert group.values() == {
        "n": 2, "size": 7, "rate.count": 30, "rate.rate": 3.0,
        "kind.late.delay.count": 2, "kind.late.delay.sum": 2, "kind.late.delay.min": -2, "kind.late.delay.max": 4,
        "kind.late.delay.mean": 1,
    }  # fmt: skip
    clock.advance(1_500)
    assert meter.get_rate() == 1.0
    clock.advance(100_000)
    assert meter.get_rate() == 0.0
    with pytest.raises(ValueError, match="'n' is a Counter already"):
        group.meter("n")


class Pages(Sink):
    """Writes pages of at most two records, and at the latest every 100 ms."""

    def create_writer(self, context: WriterContext) -> SinkWriter:
        return PageWriter(context)


class PageWriter(SinkWriter):
    def __init__(self, context: WriterContext) -> None:
        self.context = context
        self.open_page: list[object] = []
        self.pages: list[bytes] = []
        self.due_ms: int | None = None
        self.closed = False

    def write(self, batch: Batch) -> None:
        self.open_page += batch.rows()
        self.due_ms = self.context.clock.now_ms() + 100

    def between_batches(self) -> None:
        due = self.due_ms is not None and self.due_ms <= self.context.clock.now_ms()
        if len(self.open_page) >= 2 or due:
            self._turn()

    def next_timer(self) -> int | None:
        return self.due_ms

    def prepare_commit(self, checkpoint_id: CheckpointId) -> list[bytes]:
        self._turn()
        pages, self.pages = self.pages, []
        return pages

    def close(self) -> None:
        self.closed = True

    def _turn(self) -> None:
        if self.open_page:
            self.pages.append(repr(self.open_page).encode())
        self.open_page, self.due_ms = [], None


def test_a_sink_hands_its_committables_into_the_snapshot() -> None:
    harness = OperatorHarness(SinkOperator(Pages(), OPAQUE))
    with harness:
        harness.push([1, 2])
        harness.push([3])
        harness.advance_time(99)
        harness.push([4])
        harness.push([5])
        harness.advance_time(100)
        program = harness.begin_snapshot()
        harness.push([6])
        first = (b"[1, 2]", b"[3, 4]", b"[5]")
        assert harness.finish(program).committables == first  # never completed, so the next one has them too
        assert harness.snapshot().committables == (*first, b"[6]")
        assert harness.snapshot().committables == ()
    assert harness.operator.writer.closed  # type: ignore[attr-defined]
