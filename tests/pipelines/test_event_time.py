"""Event time in whole jobs: generators of users' own, the guard against the future, sources that wait for each other,
and sources that are idle, or have ended, beside others."""

from __future__ import annotations

from typing import Any

import pytest

import penstock as ps
from penstock.runtime.event_time.watermark_generators import WatermarkOutput
from penstock.state.errors import JobFailedError, PipelineError
from penstock.testing.lists import FAIL, ListSink, ListSource

Record = tuple[str, int]
IN_ORDER = ps.WatermarkStrategy.for_monotonous_timestamps().with_timestamp_assigner(lambda record, _: record[1])
LATE: ps.OutputTag[Record] = ps.OutputTag("late")
FUTURE: ps.OutputTag[Record] = ps.OutputTag("future")


def windows(stream: Any) -> None:
    """Of 10 ms; the newest record of each."""
    windowed = stream.key_by(lambda record: record[0], key_type=str).window(ps.TumblingEventTimeWindows("10ms"))
    fired = windowed.side_output_late_data(LATE).reduce(lambda one, other: max(one, other))
    fired.sink_to(ListSink("windows"))
    fired.get_side_output(LATE).sink_to(ListSink("late"))


def records(name: str, *times: int) -> list[Record]:
    return [(name, at) for at in times]


class ByTheClock(ps.WatermarkGenerator):
    """Says nothing until it is asked."""

    def __init__(self) -> None:
        self.newest = 0

    def on_event(self, event: Record, timestamp: int, output: WatermarkOutput) -> None:
        self.newest = max(self.newest, timestamp)

    def on_periodic_emit(self, output: WatermarkOutput) -> None:
        output.emit_watermark(self.newest)


BY_THE_CLOCK = ps.WatermarkStrategy.for_generator(ByTheClock).with_timestamp_assigner(lambda record, _: record[1])


@pytest.mark.parametrize("amid", [False, True])
def test_a_generator_is_asked_by_the_clock_while_nothing_comes(
    new_env: Any, drive: Any, held_source: Any, results: Any, tmp_path: Any, amid: bool
) -> None:
    env, gate = new_env(), tmp_path / "gate"
    env.configure(ps.Configuration({"pipeline.auto-watermark-interval": "3ms"}))
    source = held_source(records("a", 3, 15, 27), gate, 2, record_type=Record)
    if amid:
        stream = env.from_source(source, name="held").assign_timestamps_and_watermarks(BY_THE_CLOCK)
    else:
        stream = env.from_source(source, BY_THE_CLOCK, "held")
    windows(stream)
    job = drive(env).until(lambda _: results("windows") == records("a", 3))
    gate.touch()
    job.end()
    assert sorted(results("windows")) == records("a", 3, 15, 27)


class Watched(ps.ProcessFunction):
    """The watermark at every record."""

    def process_element(self, value: Record, ctx: ps.ProcessFunction.Context) -> Any:
        yield value[1], max(0, ctx.timer_service().current_watermark())


@pytest.mark.parametrize("amid", [False, True])
@pytest.mark.parametrize("batch_rows", [1, 3, 100])
def test_punctuated_watermarks_take_effect_before_the_next_record(
    new_env: Any, drive: Any, results: Any, amid: bool, batch_rows: int
) -> None:
    """Within a chain; channels let records overtake watermarks."""
    values = records("a", 1, 9, 5, 12, 19, 11, 23)
    punctuated = ps.WatermarkStrategy.for_punctuated(lambda _, at: at if at % 10 == 9 else None)
    strategy = punctuated.with_timestamp_assigner(lambda record, _: record[1])
    source = ListSource([*values[:4], FAIL, *values[4:]], batch_rows=batch_rows, record_type=Record)
    env = new_env()
    stream = env.from_source(source, None if amid else strategy, "all")
    stream = stream.assign_timestamps_and_watermarks(strategy) if amid else stream
    stream.process(Watched()).sink_to(ListSink("watched"))
    drive(env).end()
    assert results("watched") == [(1, 0), (9, 0), (5, 9), (12, 9), (19, 9), (11, 19), (23, 19)]


def test_records_from_the_future_are_put_aside(new_env: Any, drive: Any, results: Any) -> None:
    far = 10**15
    strategy = IN_ORDER.with_future_guard("1h", FUTURE)
    env = new_env()
    at_the_source = env.from_source(ListSource(records("a", 1, far, 12), record_type=Record), strategy, "guarded")
    plain = env.from_source(ListSource(records("b", 2, far, 13), record_type=Record), name="plain")
    amid = plain.assign_timestamps_and_watermarks(strategy)
    windows(at_the_source.union(amid))
    for number, stream in enumerate((at_the_source, amid)):
        aside = stream.get_side_output(FUTURE)
        assert aside.record_type == stream.record_type
        aside.sink_to(ListSink(f"aside {number}"))
    status = drive(env).end()
    assert sorted(results("windows")) == [("a", 1), ("a", 12), ("b", 2), ("b", 13)]
    assert results("late") == []
    assert (results("aside 0"), results("aside 1")) == (records("a", far), records("b", far))
    counted = {name: count for vertex in status.vertices for name, count in vertex.counters.items() if "future" in name}
    assert sum(counted.values()) == 2


def test_a_record_from_the_future_fails_the_job_at_once(new_env: Any, drive: Any) -> None:
    env = new_env()
    source = ListSource(records("a", 1, 10**15), record_type=Record)
    env.from_source(source, IN_ORDER.with_future_guard("1h", "fail"), "guarded").sink_to(ListSink("none"))
    with pytest.raises(JobFailedError, match=r"operator 'guarded': the timestamp 10+ of the record \('a', 10+\) is"):
        drive(env).end()


@pytest.mark.parametrize("together", ["union", "connect"])
def test_a_source_that_has_ended_does_not_end_the_time_of_one_that_is_idle(
    new_env: Any, drive: Any, held_source: Any, results: Any, tmp_path: Any, together: str
) -> None:
    """The idle one goes on later, and nothing of it is late; nor does it hold anybody back while it is idle."""

    class Same(ps.CoMapFunction):
        def map1(self, value: Record) -> Record:
            return value

        map2 = map1

    env, gate = new_env(), tmp_path / "gate"
    quiet = env.from_source(
        held_source(records("quiet", 1, 11, 25), gate, 1, record_type=Record), IN_ORDER.with_idleness("10ms"), "quiet"
    )
    other = env.from_source(held_source(records("other", 2, 17), gate, 1, record_type=Record), IN_ORDER, "other")
    ended = env.from_source(ListSource(records("ended", 3), record_type=Record), IN_ORDER, "ended")
    if together == "union":
        windows(quiet.union(other, ended))
    else:
        windows(quiet.connect(other.union(ended)).map(Same(), Record))
    job = drive(env)
    job.until(lambda status: _drained(status, "ended")).checkpoints(10)
    assert results("windows") == []
    gate.touch()
    job.end()
    assert results("late") == []
    assert sorted(results("windows")) == [
        ("ended", 3), ("other", 2), ("other", 17), ("quiet", 1), ("quiet", 11), ("quiet", 25),
    ]  # fmt: skip


def _drained(status: Any, name: str) -> bool:
    return any(name in vertex.name and set(vertex.subtask_states) == {"DRAINED"} for vertex in status.vertices)


# ---- alignment

SEEN: list[Record] = []


def seen(record: Record) -> Record:
    SEEN.append(record)
    return record


@pytest.mark.parametrize("killed", [False, True])
def test_a_fast_source_waits_for_a_slow_one_and_both_come_to_their_ends(
    new_env: Any, drive: Any, held_source: Any, results: Any, tmp_path: Any, killed: bool
) -> None:
    SEEN.clear()
    env, gate = new_env(), tmp_path / "gate"
    aligned = IN_ORDER.with_watermark_alignment("both", "100ms", "1ms").with_idleness("1min")
    slow = held_source(records("slow", *range(0, 5_000, 100)), gate, 3, record_type=Record)
    fast = ListSource(records("fast", *range(0, 5_000, 10)), splits=3, batch_rows=1, pause_ms=1, record_type=Record)
    both = [env.from_source(slow, aligned, "slow"), env.from_source(fast, aligned, "fast")]
    both[0].union(both[1]).map(seen, Record).sink_to(ListSink("all"))
    job = drive(env).until(lambda _: ("slow", 200) in SEEN and len(SEEN) > 20).checkpoints(5)
    if killed:
        job.kill().checkpoints(10)
    before = len(SEEN)
    assert before < 500
    job.checkpoints(5)
    assert len(SEEN) == before
    gate.touch()
    status = job.end()
    assert sorted(results("all")) == sorted([*fast.values, *slow.values])
    paused = {name: ms for vertex in status.vertices for name, ms in vertex.counters.items() if "paused" in name}
    assert paused["fast.alignment_paused_ms_total"] > 0


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (lambda s: s.assign_timestamps_and_watermarks(IN_ORDER.with_watermark_alignment("g", 1)), "only sources can"),
        (lambda s: s.assign_timestamps_and_watermarks("5s"), "a WatermarkStrategy is needed, not '5s'"),
    ],
)
def test_strategies_that_do_not_fit_are_refused(build: Any, expected: str) -> None:
    env = ps.StreamExecutionEnvironment()
    build(env.from_collection([1])).print()
    with pytest.raises(PipelineError, match=rf"(?s)timestamps.*{expected}"):
        env.job_graph()


def test_a_source_without_watermarks_cannot_be_aligned() -> None:
    env = ps.StreamExecutionEnvironment()
    strategy = ps.WatermarkStrategy.no_watermarks().with_watermark_alignment("g", "1s")
    env.from_source(ListSource([1]), strategy, "alone").print()
    with pytest.raises(PipelineError, match=r"(?s)alone.*needs watermarks, and this strategy makes none"):
        env.job_graph()
