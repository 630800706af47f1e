"""The source operator over several splits: users' generators, the guard, and splits that wait for those of others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from penstock import OutputTag, WatermarkGenerator, WatermarkStrategy
from penstock.connectors.collections import RangeReader, RangeSplit
from penstock.runtime.connector import ReaderContext, SourceReader
from penstock.runtime.elements import MIN_WATERMARK, Watermark, WatermarkStatus
from penstock.runtime.event_time.watermark_generators import WatermarkOutput
from penstock.runtime.operators.source import SourceOperator
from penstock.runtime.records.record_types import OPAQUE
from penstock.state.snapshots import OperatorSnapshot, SplitSnapshot
from penstock.testing.harness import OperatorHarness
from penstock.testing.lists import ListSource

BOUNDED = WatermarkStrategy.for_bounded_out_of_orderness(0)
ALIGNED = BOUNDED.with_watermark_alignment("group", 10, 100)
IDLE = WatermarkStatus(True)


class OneByOne(RangeReader):
    """Cannot pause splits."""

    pauses_splits = False


class Sequential(ListSource):
    def create_reader(self, context: ReaderContext) -> SourceReader[RangeSplit]:
        return OneByOne(self)


class Subtask:
    """A source subtask over lists of timestamps, one batch per poll, and what it reports."""

    def __init__(
        self,
        splits: Sequence[Sequence[int]],
        strategy: WatermarkStrategy = ALIGNED,
        kind: type[ListSource] = ListSource,
        rows: int = 1,
        restored: Sequence[OperatorSnapshot] = (),
    ) -> None:
        self.source = kind([at for split in splits for at in split], timestamps=int, record_type=int)
        self.rows = rows
        self.reports: list[int | None] = []
        self.harness = OperatorHarness(SourceOperator(self.source, strategy, OPAQUE), restored=restored)
        make = self.harness._context

        def context(directory: Any) -> Any:
            made = make(directory)
            made.report_watermark = lambda group, watermark: self.reports.append(watermark)
            return made

        self.harness._context = context  # type: ignore[method-assign]
        self.operator: Any = self.harness.open().operator
        ends = [sum(map(len, splits[: i + 1])) for i in range(len(splits))]
        if not restored:
            self.add(*(RangeSplit(str(i), end - len(splits[i]), end) for i, end in enumerate(ends)))

    def add(self, *splits: RangeSplit) -> None:
        self.operator.add_splits([SplitSnapshot(each.id, self.source.encode_split(each)) for each in splits], False)

    def poll(self, times: int = 1) -> list[int]:
        """What is read."""
        before = len(self.harness.output)
        for _ in range(times):
            self.operator.poll(self.rows)
        return self.harness.output[before:]


# ---- alignment


def test_splits_that_are_ahead_pause_and_others_are_read() -> None:
    subtask = Subtask([[100, 110, 120], [0, 50, 90, 91]])
    assert subtask.poll() == [100]
    subtask.operator.align(MIN_WATERMARK)
    assert subtask.poll(3) == [0]
    subtask.operator.align(-1)  # up to 9 may be read
    assert subtask.poll(3) == [50]
    subtask.operator.align(49)
    assert subtask.poll(4) == [90]
    subtask.operator.align(89)  # 99 is allowed
    assert sorted(subtask.poll(3)) == [91, 110]
    subtask.operator.align(None)
    assert subtask.poll(5) == [120]


def test_a_split_that_is_assigned_while_another_one_pauses_is_read() -> None:
    subtask = Subtask([[100, 110]])
    subtask.poll()
    subtask.operator.align(0)
    assert subtask.poll(3) == []
    subtask.operator._reader._source.values += [0, 1]
    subtask.add(RangeSplit("assigned later", 2, 4))
    assert subtask.poll(3) == [0, 1]


def test_a_reader_that_cannot_pause_splits_pauses_as_a_whole() -> None:
    """By its lowest split: the one that all wait for may be one that it has not come to yet."""
    subtask = Subtask([[100, 110, 120], [0, 200]], kind=Sequential)
    assert subtask.poll() == [100]
    subtask.operator.align(MIN_WATERMARK)
    assert subtask.poll(4) == [110, 120, 0]
    assert subtask.poll(2) == []
    subtask.operator.align(-1)
    assert subtask.poll() == [200]
    subtask.operator.align(0)
    assert subtask.poll(3) == []


def test_a_split_that_pauses_is_not_idle() -> None:
    subtask = Subtask([[100, 110], [0, 1]], ALIGNED.with_idleness(1_000))
    subtask.poll()
    subtask.operator.align(MIN_WATERMARK)
    subtask.poll()
    subtask.harness.advance_time(5_000)
    assert subtask.poll() == []
    assert subtask.harness.elements == [Watermark(-1)]
    subtask.operator.align(99)
    subtask.harness.advance_time(999)
    assert IDLE not in subtask.harness.elements
    assert subtask.poll() in ([1], [110])
    assert subtask.harness.metrics.values()["alignment_paused_ms_total"] == 5_000


def test_it_reports_by_the_clock_and_who_holds_nobody_back_says_so() -> None:
    subtask = Subtask([[100], [0]], ALIGNED.with_idleness(250))
    assert subtask.reports == [MIN_WATERMARK]
    subtask.poll(4)
    assert subtask.reports == [MIN_WATERMARK, MIN_WATERMARK]
    subtask.operator.align(-1)
    for _ in range(4):
        subtask.harness.advance_time(100)
        subtask.poll()
    assert subtask.reports[2:] == [None, None, None, None]  # both splits are read to their ends


def test_a_split_that_may_be_read_again_has_its_whole_idleness() -> None:
    """However long the answer took."""
    subtask = Subtask([[100, 110]], ALIGNED.with_idleness(250), kind=_Pausing)
    subtask.poll()
    subtask.operator.align(0)
    subtask.poll()
    subtask.harness.clock.advance(10_000)
    subtask.operator.align(None)
    assert subtask.poll() == []
    subtask.harness.advance_time(249)
    assert IDLE not in subtask.harness.elements
    subtask.harness.advance_time(1)
    assert IDLE in subtask.harness.elements


def test_who_has_read_all_says_at_once_that_it_holds_nobody_back() -> None:
    """What it has read may be under way in its task for long."""
    subtask = Subtask([[0]])
    subtask.operator.add_splits([], True)
    subtask.poll(2)
    assert subtask.reports[-1] is not None
    subtask.poll()
    assert subtask.reports[-1] is None


def test_idle_splits_hold_nobody_back() -> None:
    subtask = Subtask([[0, 1]], ALIGNED.with_idleness(250), kind=_Pausing)
    for _ in range(4):
        subtask.poll()
        subtask.harness.advance_time(100)
    assert subtask.reports[-3:] == [-1, -1, None]


class _Pausing(ListSource):
    """Gives one batch, and then nothing for long."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, pause_ms=1_000_000, **settings)


def test_a_short_idleness_passes_while_another_split_gives_something_all_the_time() -> None:
    subtask = Subtask([list(range(100, 120)), [0]], BOUNDED.with_idleness(5))
    for _ in range(10):
        subtask.poll()
        subtask.harness.advance_time(1)
    assert subtask.harness.elements[0] == Watermark(104), "the quiet one holds nobody back"


# ---- several splits with users' generators, against an oracle


class Sevens(WatermarkGenerator):
    """Each multiple of 7 is a watermark."""

    def on_event(self, event: int, timestamp: int, output: WatermarkOutput) -> None:
        if timestamp % 7 == 0:
            output.emit_watermark(timestamp)


SPLITS = st.lists(st.lists(st.integers(1, 120), min_size=1, max_size=12), min_size=1, max_size=3)


@given(SPLITS, st.integers(1, 5), st.integers(0, 30))
@settings(max_examples=60, deadline=None)
def test_punctuated_splits_restored_in_the_middle(splits: list[list[int]], rows: int, restored_after: int) -> None:
    strategy = WatermarkStrategy.for_generator(Sevens)
    subtask, elements, read = Subtask(splits, strategy, rows=rows), [], []
    for step in range(sum(map(len, splits)) + len(splits) + 1):
        read += subtask.poll()
        if step == restored_after:
            elements += subtask.harness.watermarks
            snapshot = subtask.harness.snapshot()
            subtask.harness.close()
            subtask = Subtask(splits, strategy, rows=rows, restored=[snapshot])
    elements += subtask.harness.watermarks
    assert read == [at for split in splits for at in split]  # one split after the other
    assert sorted(set(elements)) == _minima(splits)


def _minima(splits: list[list[int]]) -> list[int]:
    """Of the splits that are not at their ends, after every record."""
    marks = [MIN_WATERMARK] * len(splits)
    seen: list[int] = []

    def look(first: int) -> None:
        lowest = min(marks[first:], default=MIN_WATERMARK)
        if lowest > max(seen, default=MIN_WATERMARK):
            seen.append(lowest)

    for index, split in enumerate(splits):
        for at in split:
            marks[index] = max(marks[index], at) if at % 7 == 0 else marks[index]
            look(index)
        look(index + 1)
    return seen


# ---- the guard


def test_records_from_the_future_advance_no_watermark_of_a_source() -> None:
    tag: OutputTag[int] = OutputTag("future")
    subtask = Subtask([[10, 90_000, 20], [15]], BOUNDED.with_future_guard(100, tag), rows=3)
    assert subtask.operator.side_tags == {"future"}
    subtask.poll(4)
    assert subtask.harness.output == [10, 20, 15]
    assert subtask.harness.side_output(tag) == [90_000]
    assert subtask.harness.watermarks == [14]
