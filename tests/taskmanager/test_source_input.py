"""The input of a source subtask: barriers between what was read, and the end of event time before that of a drain."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.runtime.elements import MAX_WATERMARK, Barrier, Savepoint, Watermark
from penstock.runtime.event_time.watermarks import WatermarkStrategy
from penstock.runtime.operators.source import SourceOperator
from penstock.runtime.records.record_types import record_type_of
from penstock.state.ids import CheckpointId
from penstock.state.snapshots import SplitSnapshot
from penstock.taskmanager.exchange.gate import Aligned, AllEnded, Data
from penstock.taskmanager.source_input import SourceInput
from penstock.testing.clock import ManualClock
from penstock.testing.harness import OperatorHarness
from penstock.testing.lists import ListSource

DRAIN = Savepoint("savepoints/savepoint-job-1", stop=True, drain=True)
END = Watermark(MAX_WATERMARK)


def source_input(numbers: int) -> SourceInput:
    """Of a source that has been given all that there is."""
    source = ListSource(list(range(numbers)), timestamps=lambda number: number)
    strategy = WatermarkStrategy.for_bounded_out_of_orderness(0)
    operator = OperatorHarness(SourceOperator(source, strategy, record_type_of(int))).open().operator
    assert isinstance(operator, SourceOperator)
    splits = source.cut(1)
    operator.add_splits([SplitSnapshot(source.split_id(s), source.encode_split(s), b"") for s in splits], last=True)
    made = SourceInput(operator, ManualClock(), 4, 0)
    operator.output = made
    return made


def barrier(number: int, savepoint: Savepoint | None = None) -> Barrier:
    return Barrier(CheckpointId(number), 0, savepoint=savepoint)


def given_out(source: SourceInput, most: int = 20) -> list[Any]:
    return [event for _ in range(most) if (event := source.poll()) is not None]


def test_event_time_ends_before_the_barrier_of_a_drain_and_before_no_earlier_one() -> None:
    """Or the job, should the savepoint fail, would go back to a checkpoint for which time has ended."""
    source = source_input(8)
    assert isinstance(source.poll(), Data)
    source.inject(barrier(1))
    source.inject(barrier(2, DRAIN))
    assert source.barrier_at_rest() is None, "the watermark of what was read comes first"
    events = given_out(source)
    assert events == [Watermark(2), Aligned(barrier(1), 0.0), END, Aligned(barrier(2, DRAIN), 0.0)]


def test_a_backpressured_source_does_not_leave_out_the_end_of_event_time() -> None:
    source = source_input(8)
    source.inject(barrier(1, DRAIN))
    assert source.barrier_at_rest() is None
    assert source.poll() == END
    assert source.barrier_at_rest() == Aligned(barrier(1, DRAIN), 0.0)
    source.inject(barrier(2))
    assert source.poll() is source.barrier_at_rest() is None, "nothing is given out behind it"


def test_event_time_ends_once() -> None:
    source = source_input(2)
    assert [type(event) for event in given_out(source)] == [Data, Watermark, Watermark, AllEnded]
    source.inject(barrier(1, DRAIN))
    assert given_out(source) == [Aligned(barrier(1, DRAIN), 0.0)]


@pytest.mark.parametrize("given", [1, 2], ids=["before its barrier", "behind its barrier"])
def test_behind_the_end_of_event_time_nothing_comes_though_the_drain_was_aborted(given: int) -> None:
    """The attempt is given up, but that is heard later."""
    source = source_input(8)
    source.inject(barrier(1, DRAIN))
    assert source.poll() == END
    assert len(given_out(source, given - 1)) == given - 1
    source.abort(CheckpointId(1))
    assert given_out(source) == []
