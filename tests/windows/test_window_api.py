"""Windows as a pipeline writes them: results of whole jobs, and mistakes that are found when it is built."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Any, NamedTuple

import pytest

import penstock as ps
from penstock.state.errors import ConfigurationError, PipelineError


class Click(NamedTuple):
    user: str
    value: int
    at: int


CLICKS = [Click("a", 1, 0), Click("b", 2, 5), Click("a", 3, 12), Click("a", 4, 40), Click("b", 5, 55)]


def environment(parallelism: int = 2) -> ps.StreamExecutionEnvironment:
    """At 1 records stay in order."""
    return ps.StreamExecutionEnvironment().set_parallelism(parallelism)


def clicks(env: ps.StreamExecutionEnvironment) -> Any:
    strategy = ps.WatermarkStrategy.for_bounded_out_of_orderness("100ms").with_timestamp_assigner(lambda c, _: c.at)
    return env.from_collection(CLICKS, Click).assign_timestamps_and_watermarks(strategy)


class Total(ps.AggregateFunction):
    def create_accumulator(self) -> int:
        return 0

    def add(self, value: Click, accumulator: int) -> int:
        return accumulator + value.value

    def merge(self, acc_a: int, acc_b: int) -> int:
        return acc_a + acc_b

    def get_result(self, accumulator: int) -> int:
        return accumulator


class Windowed(ps.ProcessWindowFunction):
    def process(self, key: str, context: Any, elements: Iterable[Any]) -> Iterator[tuple[str, int, int, list[Any]]]:
        yield key, context.window().start, context.window().end, sorted(elements)


class AllWindowed(ps.ProcessAllWindowFunction):
    def process(self, context: Any, elements: Iterable[Any]) -> Iterator[tuple[int, int]]:
        yield context.window().start, sum(elements)


class Counted(ps.AllWindowFunction):
    def apply(self, window: Any, inputs: Iterable[Click]) -> Iterator[int]:
        yield sum(click.value for click in inputs)


def results(stream: Any) -> list[Any]:
    with stream.execute_and_collect() as collected:
        return sorted(collected, key=repr)


def test_sessions_with_an_aggregate_and_a_function() -> None:
    stream = clicks(environment()).key_by(lambda c: c.user).window(ps.EventTimeSessionWindows.with_gap("20ms"))
    assert results(stream.aggregate(Total(), Windowed())) == [
        ("a", 0, 32, [4]), ("a", 40, 60, [4]), ("b", 5, 25, [2]), ("b", 55, 75, [5]),
    ]  # fmt: skip


def test_sessions_with_gaps_of_their_own() -> None:
    windows = ps.EventTimeSessionWindows.with_dynamic_gap(lambda click: timedelta(milliseconds=click.value * 10))
    stream = clicks(environment()).key_by(lambda c: c.user).window(windows)
    assert results(stream.aggregate(Total())) == [1, 2, 5, 7]


def test_gaps_as_text() -> None:
    windows = ps.EventTimeSessionWindows.with_dynamic_gap(lambda click: f"{click.value * 10}ms")
    stream = clicks(environment()).key_by(lambda c: c.user).window(windows)
    assert results(stream.aggregate(Total())) == [1, 2, 5, 7]


@pytest.mark.parametrize("gap", [0, 1.5, "-5ms", "soon", True, None])
def test_gaps_that_are_none(gap: Any) -> None:
    with pytest.raises(PipelineError, match="the gap of an element"):
        ps.EventTimeSessionWindows.with_dynamic_gap(lambda _: gap).gap(5)


def test_lengths_and_latenesses_that_are_no_durations() -> None:
    with pytest.raises(PipelineError, match=r"a window's size: a duration is an int \(ms\), .* not 1.5"):
        ps.TumblingEventTimeWindows(1.5)  # type: ignore[arg-type]
    windows = clicks(environment()).key_by("user").window(ps.TumblingEventTimeWindows("1s"))
    with pytest.raises(ConfigurationError, match="allowed_lateness: the duration '-1s' is negative"):
        windows.allowed_lateness("-1s")


def test_named_aggregates_over_sliding_windows_and_sessions() -> None:
    sliding = clicks(environment()).key_by("user").window(ps.SlidingEventTimeWindows("40ms", "20ms"))
    rows = results(sliding.agg(n=ps.count(), total=ps.sum("value")))
    assert [(r["user"], r["window_start"], r["n"], r["total"]) for r in rows] == [
        ("a", -20, 2, 4), ("a", 0, 2, 4), ("a", 20, 1, 4), ("a", 40, 1, 4),
        ("b", -20, 1, 2), ("b", 0, 1, 2), ("b", 20, 1, 5), ("b", 40, 1, 5),
    ]  # fmt: skip
    sessions = clicks(environment()).key_by("user").window(ps.EventTimeSessionWindows("20ms"))
    assert [r["total"] for r in results(sessions.agg(total=ps.sum("value")))] == [4, 4, 2, 5]


def test_count_windows() -> None:
    keyed = clicks(environment(1)).key_by(lambda c: c.user)
    assert results(keyed.count_window(2).aggregate(Total())) == [4, 7]
    keyed = clicks(environment(1)).key_by(lambda c: c.user)
    assert results(keyed.count_window(2, 1).aggregate(Total())) == [1, 2, 4, 7, 7]
    rows = results(clicks(environment(1)).key_by("user").count_window(2).agg(total=ps.sum("value")))
    assert rows == [{"user": "a", "total": 4}, {"user": "b", "total": 7}]


def test_windows_without_keys() -> None:
    tumbling = ps.TumblingEventTimeWindows("30ms")
    assert results(clicks(environment()).window_all(tumbling).apply(Counted())) == [6, 9]
    assert results(clicks(environment()).window_all(tumbling).aggregate(Total(), AllWindowed())) == [(0, 6), (30, 9)]
    rows = results(clicks(environment()).window_all(tumbling).agg(n=ps.count()))
    assert rows == [
        {"window_start": 0, "window_end": 30, "n": 3},
        {"window_start": 30, "window_end": 60, "n": 2},
    ]
    assert len(results(clicks(environment()).count_window_all(2).apply(Counted()))) == 2
    stream = clicks(environment()).window_all(tumbling).process(lambda context, elements: [len(elements)])
    assert results(stream) == [2, 3]


def test_a_trigger_and_an_evictor() -> None:
    stream = (
        clicks(environment(1)).key_by(lambda c: c.user).window(ps.GlobalWindows())
        .trigger(ps.DeltaTrigger.of(1, lambda old, new: new.value - old.value)).evictor(ps.CountEvictor.of(1))
    )  # fmt: skip
    assert results(stream.aggregate(Total())) == [3, 5]


class Parametrised(ps.WindowFunction[Click, int, str, ps.TimeWindow]):  # type: ignore[type-arg]
    def apply(self, key: str, window: ps.TimeWindow, inputs: Iterable[Click]) -> Iterator[int]:
        yield len(list(inputs))


class Weekly(ps.Trigger[Click, ps.TimeWindow]):  # type: ignore[type-arg]
    on_element = on_event_time = on_processing_time = clear = lambda *_: ps.TriggerResult.CONTINUE


def test_classes_take_the_type_parameters_of_pyflinks() -> None:
    assert issubclass(Weekly, ps.Trigger)
    stream = clicks(environment()).key_by(lambda c: c.user).count_window(2).apply(Parametrised())
    assert results(stream) == [2, 2]


class NoMerge(Total):
    merge = ps.AggregateFunction.merge


MISTAKES: list[Any] = [
    pytest.param(lambda s: s.window("1min").aggregate(Total()), "takes a window assigner", id="no assigner"),
    pytest.param(
        lambda s: s.window(ps.GlobalWindows()).trigger("now").aggregate(Total()), "takes a Trigger", id="no trigger"
    ),
    pytest.param(
        lambda s: s.window(ps.GlobalWindows()).evictor(3).aggregate(Total()), "takes an Evictor", id="no evictor"
    ),
    pytest.param(
        lambda s: s.window(ps.EventTimeSessionWindows(5)).aggregate(NoMerge()), "NoMerge needs a method merge",
        id="an aggregate that does not merge",
    ),
    pytest.param(
        lambda s: s.window(ps.EventTimeSessionWindows(5)).trigger(ps.DeltaTrigger(1, lambda a, b: 0)).reduce(max),
        "cannot: it needs can_merge",
        id="a trigger that does not merge",
    ),
    pytest.param(lambda s: s.window(ps.GlobalWindows()).apply(3), "a function is needed", id="no function"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "message"), MISTAKES)
def test_mistakes_are_found_when_the_pipeline_is_built(make: Any, message: str) -> None:
    env = environment()
    make(clicks(env).key_by(lambda c: c.user)).print()
    with pytest.raises(PipelineError, match=message):
        env.execute()


def test_event_time_without_timestamps_is_found_when_the_pipeline_is_built() -> None:
    env = environment()
    records = env.from_collection(CLICKS, Click, name="bare").map(lambda click: click, Click).filter(lambda click: True)
    records.key_by("user").window(ps.EventTimeSessionWindows("1s")).aggregate(Total()).print()
    with pytest.raises(PipelineError, match="those of 'bare' have none; give it a WatermarkStrategy"):
        env.execute()


def test_windows_by_count_need_none() -> None:
    totals = environment().from_collection(CLICKS, Click).key_by("user").count_window(1).aggregate(Total())
    assert results(totals.key_by(lambda total: 0).count_window(5).reduce(max)) == [5]


@pytest.mark.parametrize(
    "make",
    [
        lambda: ps.TumblingEventTimeWindows("-1s"),
        lambda: ps.TumblingProcessingTimeWindows(0),
        lambda: ps.SlidingEventTimeWindows("1s", 0),
        lambda: ps.SlidingEventTimeWindows("-1s", "1s"),
        lambda: ps.SlidingProcessingTimeWindows("10s", "2s", "2s"),
        lambda: ps.EventTimeSessionWindows(0),
        lambda: ps.ProcessingTimeSessionWindows("-5s"),
        lambda: clicks(environment()).key_by("user").count_window(0),
        lambda: clicks(environment()).count_window_all(3, -1),
    ],
)
def test_sizes_gaps_and_counts_that_cannot_be_are_refused_at_once(make: Any) -> None:
    with pytest.raises(PipelineError, match=r"at least 1|not smaller"):
        make()


def test_results_of_count_windows_get_timestamps_before_windows_of_event_time() -> None:
    counted = clicks(environment(1)).key_by("user").count_window(2).reduce(max)
    strategy = ps.WatermarkStrategy.for_monotonous_timestamps().with_timestamp_assigner(lambda click, _: click.at)
    timed = counted.assign_timestamps_and_watermarks(strategy).key_by("user")
    assert results(timed.window(ps.TumblingEventTimeWindows("20ms")).aggregate(Total())) == [3, 5]
