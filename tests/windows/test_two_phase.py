"""Windows in two phases give what one phase gives: the same results as often, and the same records late. In any order,
with sources that are idle, cut into batches anyhow, with limits that are met, restored at another parallelism."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from operator import itemgetter
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import penstock as ps
from penstock.runtime.aggregation.aggregates import RowAggregates
from penstock.runtime.batch import Batch
from penstock.runtime.elements import MAX_WATERMARK, Watermark, WatermarkStatus
from penstock.runtime.event_time.watermark_merge import WatermarkMerge
from penstock.runtime.functions import AggregateFunction
from penstock.runtime.keys import KeyByFunction
from penstock.runtime.records.annotations import field_type_of
from penstock.runtime.records.record_types import OPAQUE, record_type_of
from penstock.runtime.windows import two_phase
from penstock.runtime.windows.assigners import (
    AlignedWindows,
    CalendarEventTimeWindows,
    SlidingEventTimeWindows,
    TumblingEventTimeWindows,
)
from penstock.runtime.windows.building import window_operator
from penstock.runtime.windows.evaluations import Aggregate, Folding, Reduce
from penstock.runtime.windows.two_phase import OF_PARTIALS, LocalWindowOperator, partial_type
from penstock.state.errors import PipelineError
from penstock.taskmanager.exchange.frames import transcoded
from penstock.testing.harness import OperatorHarness, rescaled, subtask_for

LARGEST_SIZE = 60


class Click(NamedTuple):
    key: str
    values: tuple[int, ...]
    at: int


class Values(AggregateFunction):
    """An accumulator that changes in place."""

    def create_accumulator(self) -> list[int]:
        return []

    def add(self, value: Click, accumulator: list[int]) -> list[int]:
        accumulator += value.values
        return accumulator

    def merge(self, acc_a: list[int], acc_b: list[int]) -> list[int]:
        acc_a += acc_b
        return acc_a

    def get_result(self, accumulator: list[int]) -> list[int]:
        return sorted(accumulator)


def joined(one: Click, other: Click) -> Click:
    return Click(one.key, one.values + other.values, min(one.at, other.at))


def named(key: str, context: Any, contents: Iterable[Any]) -> Iterator[Any]:
    (result,) = contents
    yield key, str(context.window()), tuple(sorted(getattr(result, "values", result)))


class Job:
    """Senders with watermarks of their own, and subtasks that have the windows."""

    def __init__(self, windows: AlignedWindows, evaluation: type[Folding], lateness: int, two_phases: bool) -> None:
        self.windows, self.lateness, self.two_phases = windows, lateness, two_phases
        self.evaluation = evaluation
        self.function = Values() if evaluation is Aggregate else joined
        self.results: Counter[Any] = Counter()
        self.late = 0
        self.sent = 0
        self.local: list[OperatorHarness] = []
        self.receivers: list[OperatorHarness] = []
        self.marks = [-1]

    def operator(self) -> Any:
        kind = OF_PARTIALS[self.evaluation] if self.two_phases else self.evaluation
        selector = KeyByFunction(itemgetter(0))
        return window_operator(
            selector, self.windows, kind(self.function, named), OPAQUE, allowed_lateness_ms=self.lateness
        )

    def local_operator(self) -> LocalWindowOperator:
        evaluation = self.evaluation(self.function)
        return LocalWindowOperator(KeyByFunction(itemgetter(0)), self.windows, evaluation, OPAQUE)

    def start(self, senders: int, receivers: int) -> None:
        """From the last checkpoint; sources begin with the least of their watermarks."""
        snapshots = [harness.snapshot() for harness in self.receivers]
        self.close()
        self.receivers = rescaled(self.operator, snapshots, receivers)
        if self.two_phases:
            self.local = [OperatorHarness(self.local_operator()).open() for _ in range(senders)]
        least = min(self.marks)
        self.merge = WatermarkMerge(range(senders))
        self.marks = [-1] * senders
        for sender in range(senders):
            self.watermark(sender, least)

    def records(self, sender: int, clicks: list[Click]) -> None:
        self.status(sender, idle=False)
        rows, timestamps = list(clicks), [click.at for click in clicks]
        if self.two_phases:
            self.local[sender].push(rows, timestamps)
            self.forward(sender)
        else:
            self.send(rows, timestamps)

    def watermark(self, sender: int, timestamp: int) -> None:
        if timestamp <= self.marks[sender]:
            return
        self.status(sender, idle=False)
        self.marks[sender] = timestamp
        if self.two_phases:
            self.local[sender].watermark(timestamp)
            self.forward(sender)
        self.given_out(self.merge.advance(sender, timestamp))

    def status(self, sender: int, idle: bool) -> None:
        if self.merge.is_idle(sender) == idle:
            return
        if self.two_phases:
            self.local[sender].operator.process_status(WatermarkStatus(idle))
            self.forward(sender)
        self.given_out(self.merge.set_idle(sender, idle))

    def barrier(self) -> None:
        for sender, harness in enumerate(self.local):
            harness.operator.prepare_barrier(1)  # type: ignore[arg-type]
            self.forward(sender)

    def forward(self, sender: int) -> None:
        for row, timestamp in self.local[sender].timed_output:
            assert timestamp is not None
            self.send([row], [timestamp])
        self.local[sender].take()

    def send(self, rows: list[Any], timestamps: list[int]) -> None:
        self.sent += len(rows)
        count = len(self.receivers)
        for number, harness in enumerate(self.receivers):
            own = [i for i, row in enumerate(rows) if subtask_for(row[0], count) == number]
            harness.push([rows[i] for i in own], [timestamps[i] for i in own])

    def given_out(self, elements: list[Any]) -> None:
        for element in elements:
            for harness in self.receivers:
                if isinstance(element, Watermark):
                    harness.watermark(element.timestamp)

    def close(self) -> None:
        for harness in self.receivers:
            self.late += int(harness.metrics.values()["records_late_total"])
            self.results.update(harness.timed_output)
        for harness in [*self.local, *self.receivers]:
            harness.close()
        self.local, self.receivers = [], []

    def run(self, script: list[Any]) -> Job:
        for senders, receivers, steps in script:
            self.barrier()
            self.start(senders, receivers)
            for kind, sender, argument in steps:
                getattr(self, kind)(sender % senders, argument)
        for sender in range(len(self.marks)):
            self.watermark(sender, MAX_WATERMARK)
        self.close()
        return self


KEYS = st.sampled_from("aaab")
WINDOWS = st.sampled_from(
    [
        TumblingEventTimeWindows(10),
        TumblingEventTimeWindows(LARGEST_SIZE, 7),
        SlidingEventTimeWindows(30, 10),
        SlidingEventTimeWindows(LARGEST_SIZE, 10, 3),
        SlidingEventTimeWindows(10, 4),
        SlidingEventTimeWindows(20, 20),
    ]
)
TIMES = st.integers(0, 150)
CLICKS = st.lists(st.builds(Click, KEYS, st.tuples(st.integers(0, 9)), TIMES), min_size=1, max_size=8)
SENDER = st.integers(0, 2)
STEPS = st.one_of(
    st.tuples(st.just("records"), SENDER, CLICKS), st.tuples(st.just("watermark"), SENDER, TIMES.map(lambda t: t // 2))
)
WITH_IDLE = st.one_of(STEPS, STEPS, st.tuples(st.just("status"), SENDER, st.just(True)))


def scripts(steps: Any) -> Any:
    stage = st.tuples(st.integers(1, 3), st.integers(1, 3), st.lists(steps, max_size=12))
    return st.lists(stage, min_size=1, max_size=3)


def both(windows: Any, evaluation: type[Folding], lateness: int, script: list[Any], limit: int) -> tuple[Job, Job]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(two_phase, "MAX_PARTIALS", limit)
        one, two = (Job(windows, evaluation, lateness, phases).run(script) for phases in (False, True))
    assert one.results == two.results
    return one, two


EVALUATIONS = st.sampled_from([Aggregate, Reduce])
LIMITS = st.sampled_from([1, 3, 1_000])


@settings(max_examples=20, deadline=None)
@given(WINDOWS, EVALUATIONS, st.sampled_from([0, 5, 40]), scripts(STEPS), LIMITS)
def test_results_and_late_records_are_those_of_one_phase(
    windows: Any, evaluation: type[Folding], lateness: int, script: list[Any], limit: int
) -> None:
    one, two = both(windows, evaluation, lateness, script, limit)
    assert one.late == two.late
    assert two.sent <= one.sent


@settings(max_examples=15, deadline=None)
@given(WINDOWS, EVALUATIONS, scripts(WITH_IDLE), LIMITS)
def test_no_more_and_no_fewer_are_late_when_sources_are_idle(
    windows: Any, evaluation: type[Folding], script: list[Any], limit: int
) -> None:
    one, two = both(windows, evaluation, 0, script, limit)
    assert (one.late > 0) == (two.late > 0)


def test_days_of_a_time_zone() -> None:
    clicks = [Click("a", (n,), n * 3_600_000) for n in range(60)]
    script = [(1, 1, [("records", 0, clicks)])]
    one, two = both(CalendarEventTimeWindows("day", "Asia/Kathmandu"), Aggregate, 0, script, 1_000)
    assert (one.sent, two.sent) == (60, 3)
    assert len(one.results) == 3


# ---- what goes over


def local_of(windows: AlignedWindows) -> OperatorHarness:
    return OperatorHarness(LocalWindowOperator(KeyByFunction(itemgetter(0)), windows, Aggregate(Values()), OPAQUE))


def test_of_a_hot_key_a_partial_goes_over_before_the_watermark_that_passes_the_window() -> None:
    with local_of(TumblingEventTimeWindows(100)) as harness:
        for start in range(0, 300, 10):
            harness.push([Click("hot", (n,), start + n) for n in range(10)], [start + n for n in range(10)])
            harness.watermark(start)
        assert [(key, len(values)) for key, values in harness.output] == [("hot", 100), ("hot", 100)]
        assert [timestamp for _, timestamp in harness.timed_output] == [99, 199]
        assert harness.metrics.values()["partials_held"] == 1
        harness.end_input()
        values = harness.metrics.values()
        assert (values["records_folded_total"], values["partials_sent_total"], values["partials_held"]) == (300, 3, 0)


def test_accumulators_that_grow_are_not_kept_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(two_phase, "MAX_RECORDS", 50)
    with local_of(TumblingEventTimeWindows(1_000)) as harness:
        for at in range(0, 120, 10):
            harness.push([Click("hot", (n,), at) for n in range(10)], [at] * 10)
        assert [len(values) for _, values in harness.output] == [50, 50]


def test_a_barrier_amid_the_giving_out_leaves_nothing_behind() -> None:
    with local_of(SlidingEventTimeWindows(20, 10)) as harness:
        harness.push([Click(key, (1,), at) for at in (5, 15, 25) for key in "ab"], [5, 5, 15, 15, 25, 25])
        firing = harness.operator.process_watermark(Watermark(MAX_WATERMARK))
        next(iter(firing))
        assert len(harness.output) == 2
        harness.operator.prepare_barrier(1)  # type: ignore[arg-type]
        assert len(harness.output) == 6
        for _ in firing:
            pass
        assert len(harness.output) == 6


def test_partials_of_null_keys_and_of_no_values_are_carried_exactly() -> None:
    function = RowAggregates({"mean": ps.avg("x"), "middle": ps.median("x")}, {"x": field_type_of(float | None)})
    accumulator = function.add({"x": None}, function.create_accumulator())
    for annotation, keys in ((str, ["a", None]), (tuple[str, int], [("a", None), None, (None, 1)])):
        kind = partial_type(annotation, record_type_of(function.accumulator_type))
        assert not kind.opaque
        partials = [(key, accumulator) for key in keys]
        carried = transcoded(Batch.of_rows(kind, partials, [0] * len(partials)))
        assert repr(carried.rows()) == repr(partials)


# ---- pipelines


class Unmergeable(ps.AggregateFunction):
    def create_accumulator(self) -> int:
        return 0

    def add(self, value: Any, accumulator: int) -> int:
        return accumulator + 1

    def get_result(self, accumulator: int) -> int:
        return accumulator


class Total(Unmergeable):
    def merge(self, acc_a: int, acc_b: int) -> int:
        return acc_a + acc_b


@pytest.mark.parametrize(
    ("windows", "change", "function", "told"),
    [
        (ps.EventTimeSessionWindows("1s"), None, Total(), "leave two_phase out"),
        (ps.TumblingProcessingTimeWindows("1s"), None, Total(), "windows of event time"),
        (ps.GlobalWindows(), None, Total(), "leave two_phase out"),
        (ps.SlidingEventTimeWindows("1s", "3s"), None, Total(), "gaps"),
        (ps.SlidingEventTimeWindows(1_000, 999), None, Total(), "too many slices"),
        (ps.TumblingEventTimeWindows("1s"), lambda w: w.trigger(ps.CountTrigger(3)), Total(), "the trigger"),
        (ps.TumblingEventTimeWindows("1s"), lambda w: w.evictor(ps.CountEvictor(3)), Total(), "an evictor"),
        (
            ps.TumblingEventTimeWindows("1s"),
            lambda w: w.side_output_late_data(ps.OutputTag("late", Click)),
            Total(),
            "side_output_late_data",
        ),
        (ps.TumblingEventTimeWindows("1s"), None, Unmergeable(), "needs a method merge"),
        (ps.TumblingEventTimeWindows("1s"), None, object(), "no method create_accumulator"),
    ],
)
def test_what_cannot_be_in_two_phases_is_refused(windows: Any, change: Any, function: Any, told: str) -> None:
    env = ps.StreamExecutionEnvironment()
    timed = env.from_collection([Click("a", (1,), 1)]).assign_timestamps_and_watermarks(
        ps.WatermarkStrategy.for_monotonous_timestamps().with_timestamp_assigner(lambda click, _: click.at)
    )
    windowed = timed.key_by(itemgetter(0)).window(windows)
    stream = (change(windowed) if change else windowed).aggregate(function, two_phase=True, name="totals")
    with pytest.raises(PipelineError, match=told) as refused:
        stream.describe()
    assert "local totals" in str(refused.value)
