"""Watermarks, timestamps, and the source operator that makes them per split."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.runtime.batch import NO_TIMESTAMP, Batch
from penstock.runtime.connector import (
    NeedsSplit,
    NotReady,
    PollResult,
    ReaderContext,
    ReaderEnd,
    Source,
    SourceReader,
    SplitBatch,
    SplitEnumerator,
    SplitFinished,
)
from penstock.runtime.elements import MAX_WATERMARK, MIN_WATERMARK, Watermark, WatermarkStatus
from penstock.runtime.event_time.watermark_merge import WatermarkMerge
from penstock.runtime.event_time.watermarks import WatermarkStrategy
from penstock.runtime.operators.source import SourceOperator
from penstock.runtime.operators.stateless import WatermarksOperator
from penstock.runtime.records.record_types import OPAQUE, record_type_of
from penstock.state.errors import RecordTypeError, UserCodeError
from penstock.state.snapshots import SplitSnapshot
from penstock.testing.harness import OperatorHarness, rescaled

BOUNDED = WatermarkStrategy.for_bounded_out_of_orderness(5).with_timestamp_assigner(lambda record, _: record)
IDLE, ACTIVE = WatermarkStatus(True), WatermarkStatus(False)


# ---- merge


def test_the_minimum_of_the_active_inputs() -> None:
    merge = WatermarkMerge(["a", "b"])
    assert merge.advance("a", 10) == []
    assert merge.advance("b", 5) == [Watermark(5)]
    assert merge.advance("b", 4) == []
    assert merge.set_idle("b", True) == [Watermark(10)]
    assert merge.set_idle("b", False) == []  # it holds the watermark where it is
    assert merge.advance("a", 20) == []
    assert merge.advance("b", 15) == [Watermark(15)]
    assert merge.remove("b") == [Watermark(20)]
    assert merge.remove("a") == []


def test_when_all_are_idle_the_newest_watermark_goes_out_first() -> None:
    merge = WatermarkMerge(["a", "b"])
    merge.advance("a", 10)
    merge.advance("b", 5)
    merge.set_idle("a", True)
    assert merge.set_idle("b", True) == [Watermark(10), IDLE]
    assert merge.advance("a", 30) == [Watermark(30)]
    assert merge.set_idle("b", False) == [ACTIVE]
    assert merge.add({"c": MIN_WATERMARK}) == []


@given(st.lists(st.tuples(st.sampled_from("awise"), st.integers(0, 3), st.integers(0, 50)), max_size=40))
def test_never_back_and_never_beyond_what_an_active_input_allows(steps: list[tuple[str, int, int]]) -> None:
    merge = WatermarkMerge()
    known: dict[int, tuple[int, bool]] = {}
    last, idle = MIN_WATERMARK, False
    for kind, which, value in steps:
        out: list[Any] = []
        if kind == "a" and which not in known:
            known[which] = (value, False)
            out = merge.add({which: value})
        elif which in known and kind == "w":
            known[which] = (max(known[which][0], value), known[which][1])
            out = merge.advance(which, value)
        elif which in known and kind in "is":
            known[which] = (known[which][0], kind == "i")
            out = merge.set_idle(which, kind == "i")
        elif which in known and kind == "e":
            del known[which]
            out = merge.remove(which)
        for element in out:
            if isinstance(element, Watermark):
                assert element.timestamp > last
                last = element.timestamp
            else:
                assert element.idle is not idle
                idle = element.idle
        active = [mark for mark, is_idle in known.values() if not is_idle]
        if known:
            assert idle is (not active)
            assert last >= (min(active) if active else max(mark for mark, _ in known.values()))
        assert merge.watermark == last


# ---- timestamps


def times(assigner: Any, rows: list[Any], kind: Any = OPAQUE) -> list[int]:
    strategy = WatermarkStrategy.for_monotonous_timestamps().with_timestamp_assigner(assigner)
    return strategy.assign(Batch.of_rows(record_type_of(kind), rows)).timestamp_list()


def test_timestamps_of_callables() -> None:
    assert times(lambda r, _: r, [1, np.int64(2)]) == [1, 2]
    at = datetime(1970, 1, 1, 2, 0, 1, 999, tzinfo=timezone(timedelta(hours=2)))
    assert times(lambda r, _: r, [at]) == [1000]
    assert times(lambda r, _: r, [datetime(1969, 12, 31, 23, 59, 59, 999_500, tzinfo=UTC)]) == [-1]
    before = Batch.of_rows(OPAQUE, ["a"], [7])
    assert BOUNDED.with_timestamp_assigner(lambda _, previous: previous + 1).assign(before).timestamp_list() == [8]

    class Assigner:
        def extract_timestamp(self, value: Any, record_timestamp: int) -> int:
            return int(value)

    assert times(Assigner(), ["5"]) == [5]


@pytest.mark.parametrize("wrong", [None, 1.5, True, "1", datetime(2020, 1, 1)])
def test_refused_timestamps(wrong: Any) -> None:
    with pytest.raises(RecordTypeError, match=r"naive datetime|int ms or an aware datetime"):
        times(lambda r, _: wrong, [1])


@dataclass
class Timed:
    at: datetime
    ms: int


def test_timestamps_of_a_column_are_the_same_on_both_faces() -> None:
    rows = [Timed(datetime(1970, 1, 1, microsecond=1500, tzinfo=UTC), 3), Timed(datetime(1969, 12, 31, tzinfo=UTC), 4)]
    kind = record_type_of(Timed)
    columns = Batch.of_columns(kind, kind.to_columns(rows))
    for name, expected in (("at", [1, -86_400_000]), ("ms", [3, 4])):
        assert times(name, rows, Timed) == expected
        assert BOUNDED.with_timestamp_assigner(name).assign(columns).timestamp_list() == expected
    assert times("t", [{"t": 5}]) == [5]


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array([1500, -1], pa.timestamp("us", "UTC")), [1, -1]),
        (pa.array([1_500_000, -1], pa.timestamp("ns", "Europe/Berlin")), [1, -1]),
        (pa.array([2, -1], pa.timestamp("s", "UTC")), [2000, -1000]),
        (pa.array([2, -1], pa.timestamp("ms", "UTC")), [2, -1]),
        (pa.array([2, 1], pa.int32()), [2, 1]),
        (pa.array([2, 1], pa.timestamp("ms")), "no time zone"),
        (pa.array([2, None], pa.int64()), "1 nulls"),
        (pa.array([2.0, 1.0]), "double"),
    ],
)
def test_timestamps_of_arrow_columns(column: pa.Array, expected: Any) -> None:
    columns = pa.RecordBatch.from_arrays([column], ["t"])
    batch = Batch.of_columns(OPAQUE, columns)
    strategy = BOUNDED.with_timestamp_assigner("t")
    if isinstance(expected, list):
        assert strategy.assign(batch).timestamp_list() == expected
    else:
        with pytest.raises(RecordTypeError, match=expected):
            strategy.assign(batch)
    with pytest.raises(RecordTypeError, match="no timestamp column 'x'"):
        BOUNDED.with_timestamp_assigner("x").assign(batch)


# ---- in the middle of a pipeline


def test_watermarks_operator() -> None:
    operator = WatermarksOperator(BOUNDED.with_idleness("1s"), OPAQUE)
    with OperatorHarness(operator) as harness:
        harness.push([10, 3])
        harness.push([4])
        assert harness.timed_output == [(10, 10), (3, 3), (4, 4)]
        assert harness.elements == [Watermark(4)]
        harness.advance_time(999)
        assert harness.elements == [Watermark(4)]
        harness.advance_time(1)
        harness.push([20])
        assert harness.elements == [Watermark(4), IDLE, ACTIVE, Watermark(14)]
        behind = harness.snapshot()
        harness.push([100])
        ahead = harness.snapshot()
        harness.end_input()
        assert harness.elements[-1] == Watermark(MAX_WATERMARK)
    (merged,) = rescaled(lambda: operator, [ahead, behind], 1)
    with merged:
        assert merged.elements == [Watermark(14)]
        merged.push([15])
        assert merged.elements == [Watermark(14)]


def test_who_is_asked_late_was_blocked_and_its_input_is_not_silent() -> None:
    with OperatorHarness(WatermarksOperator(BOUNDED.with_idleness("1s"), OPAQUE)) as harness:
        harness.push([10])
        harness.advance_time(60_000)
        harness.push([20])
        assert harness.elements == [Watermark(4), Watermark(14)], "what came meanwhile goes first"
        harness.advance_time(60_000)
        harness.advance_time(1_000 // 8)
        assert harness.elements[2:] == [IDLE], "nothing came"


def test_errors_of_assigners_name_the_operator() -> None:
    for assigner, error in ((lambda r, _: None, RecordTypeError), (lambda r, _: r.no, UserCodeError)):
        operator = WatermarksOperator(BOUNDED.with_timestamp_assigner(assigner), OPAQUE)
        with OperatorHarness(operator) as harness, pytest.raises(error, match="operator 'operator'"):
            harness.push([1])


# ---- sources


@dataclass(frozen=True)
class Script:
    """A split that is a script of what its polls give."""

    name: str
    steps: tuple[Any, ...]
    position: int = 0


class ScriptSource(Source[Script]):
    record_type = OPAQUE

    def __init__(self, bounded: bool = True) -> None:
        self.bounded = bounded

    def create_enumerator(self, restored: bytes | None) -> SplitEnumerator[Script]:
        raise NotImplementedError

    def create_reader(self, context: ReaderContext) -> SourceReader[Script]:
        return ScriptReader()

    def split_id(self, split: Script) -> str:
        return split.name

    def encode_split(self, split: Script) -> bytes:
        return repr(split).encode()

    def decode_split(self, state: bytes) -> Script:
        return eval(state)  # type: ignore[no-any-return]

    @property
    def side_tags(self) -> frozenset[str]:
        return frozenset({"malformed"})


class ScriptReader(SourceReader[Script]):
    """Takes the splits in turn; None in a script is "nothing now"."""

    def __init__(self) -> None:
        self.splits: deque[Script] = deque()
        self.last = False

    def add_splits(self, splits: Sequence[Script]) -> None:
        self.splits.extend(splits)

    def no_more_splits(self) -> None:
        self.last = True

    def poll(self, max_rows: int) -> PollResult:
        if not self.splits:
            return ReaderEnd() if self.last else NeedsSplit()
        split = self.splits.popleft()
        if split.position == len(split.steps):
            return SplitFinished(split.name)
        step = split.steps[split.position]
        self.splits.append(replace(split, position=split.position + 1))
        if step is None:
            return NotReady()
        batch = Batch.of_rows(OPAQUE, list(step))
        return SplitBatch(split.name, batch, ("malformed", batch) if -1 in step else None)

    def snapshot(self) -> list[Script]:
        return list(self.splits)


def split(name: str, *steps: Any) -> SplitSnapshot:
    return SplitSnapshot(name, ScriptSource().encode_split(Script(name, steps)))


def source(strategy: WatermarkStrategy = BOUNDED, bounded: bool = True) -> OperatorHarness:
    return OperatorHarness(SourceOperator(ScriptSource(bounded), strategy, OPAQUE))


def poll(harness: OperatorHarness, times: int = 1) -> list[Any]:
    operator: Any = harness.operator
    return [operator.poll(1000) for _ in range(times)]


def test_the_watermark_is_the_minimum_over_splits_and_follows_the_batch() -> None:
    with source() as harness:
        operator: Any = harness.operator
        assert poll(harness, 3) == [NotReady()] * 3
        assert harness.requests == 1
        operator.add_splits((split("a", [100], [200]), split("b", [50, 10])), last=False)
        assert poll(harness, 2) == [None, None]
        assert harness.timed_output == [(100, 100), (50, 50), (10, 10)]
        assert harness.elements == [Watermark(44)]
        poll(harness, 3)  # 200, end of b, end of a
        assert harness.elements == [Watermark(44), Watermark(194)]
        assert poll(harness) == [NotReady()]
        assert harness.requests == 2
        operator.add_splits((), last=True)
        assert poll(harness, 2) == [ReaderEnd(), ReaderEnd()]
        assert harness.elements[-1] == Watermark(MAX_WATERMARK)
        assert harness.watermarks.count(MAX_WATERMARK) == 1


def test_a_silent_split_becomes_idle_by_the_clock_and_active_again() -> None:
    with source(BOUNDED.with_idleness(100)) as harness:
        operator: Any = harness.operator
        operator.add_splits((split("a", [100], None, [300]), split("b", None, None, None, [250])), last=True)
        poll(harness, 4)
        assert harness.elements == []
        assert operator.next_processing_timer() == 100
        harness.advance_time(100)
        assert harness.elements == [Watermark(94), IDLE]
        poll(harness)  # a: 300; the watermark may go on
        assert harness.elements == [Watermark(94), IDLE, ACTIVE, Watermark(294)]
        poll(harness, 3)
        assert harness.output == [100, 300, 250]


def test_time_without_polling_is_no_silence() -> None:
    """While the subtask is backpressured its splits cannot show that they are not idle."""
    with source(BOUNDED.with_idleness(100)) as harness:
        operator: Any = harness.operator
        operator.add_splits((split("a", [100], [200]), split("b", [1], [2])), last=True)
        poll(harness, 2)
        harness.advance_time(100_000)
        poll(harness, 2)
        assert IDLE not in harness.elements
        assert harness.watermarks == [-5, -4]


def test_a_subtask_that_waits_for_a_split_is_idle_after_a_while_if_the_source_is_unbounded() -> None:
    with source(bounded=False) as harness:
        operator: Any = harness.operator
        poll(harness)
        assert harness.elements == []
        harness.advance_time(1_000)
        assert harness.elements == [IDLE]
        operator.add_splits((split("a", [100]),), last=False)
        assert harness.elements == [IDLE, ACTIVE]
    with source(bounded=True) as harness:
        poll(harness)
        harness.advance_time(100_000)
        assert harness.elements == []


def test_restored_splits_keep_their_generators() -> None:
    with source() as harness:
        operator: Any = harness.operator
        operator.add_splits((split("a", [100], [90]), split("b", [50], [60])), last=True)
        poll(harness, 2)
        snapshot = harness.snapshot()
        assert harness.watermarks == [44]
    operator = SourceOperator(ScriptSource(), BOUNDED, OPAQUE)
    with OperatorHarness(operator, restored=[snapshot]) as harness:
        assert harness.watermarks == [44]
        poll(harness, 2)
        assert harness.output == [90, 60]
        assert harness.watermarks == [44, 54]  # not 84, and a's newest is still 100


def test_malformed_records_go_to_their_side_output() -> None:
    with source() as harness:
        operator: Any = harness.operator
        operator.add_splits((split("a", [-1, 5]),), last=True)
        poll(harness)
        assert harness.side_output("malformed") == [-1, 5]


def test_no_strategy_no_watermarks_before_the_end() -> None:
    with source(WatermarkStrategy.no_watermarks()) as harness:
        operator: Any = harness.operator
        operator.add_splits((split("a", [1]),), last=True)
        poll(harness, 3)
        assert harness.timed_output == [(1, None)]
        assert harness.watermarks == [MAX_WATERMARK]
        assert NO_TIMESTAMP == MIN_WATERMARK
