"""A quiet stream closes its windows: while another one goes on, while none does, and at its end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import penstock as ps
from penstock.testing.lists import ListSink, ListSource

Record = tuple[str, int]
IN_ORDER = ps.WatermarkStrategy.for_monotonous_timestamps().with_timestamp_assigner(lambda record, _: record[1])


def windows(stream: Any, trigger: ps.Trigger | None = None) -> None:
    windowed = stream.key_by(lambda record: record[0], key_type=str).window(ps.TumblingEventTimeWindows("10ms"))
    if trigger is not None:
        windowed = windowed.trigger(trigger)
    windowed.reduce(lambda one, other: (one[0], max(one[1], other[1]))).sink_to(ListSink("windows"), name="sink")


def test_an_idle_source_does_not_hold_back_the_windows_of_another_one(
    new_env: Any, drive: Any, held_source: Any, results: Any, tmp_path: Path
) -> None:
    """Neither gives any more, and neither has ended; but only one of them is idle."""
    env, gate = new_env(), tmp_path / "gate"
    quiet = held_source([("quiet", 1), ("quiet", 50)], gate, 1, record_type=Record)
    busy = held_source([("busy", 3), ("busy", 15), ("busy", 40)], gate, 2, record_type=Record)
    windows(
        env.from_source(busy, IN_ORDER, "busy").union(env.from_source(quiet, IN_ORDER.with_idleness("20ms"), "quiet"))
    )
    job = drive(env).until(lambda _: sorted(results("windows")) == [("busy", 3), ("quiet", 1)])
    gate.touch()
    job.end()
    assert {("busy", 15), ("busy", 40)} < set(results("windows"))


def test_a_stream_that_goes_quiet_is_given_out_by_the_clock(
    new_env: Any, drive: Any, held_source: Any, results: Any, tmp_path: Path
) -> None:
    env, gate = new_env(), tmp_path / "gate"
    source = held_source([("a", 1), ("a", 2), ("a", 3)], gate, 2, record_type=Record)
    trigger = ps.PurgingTrigger.of(ps.ProcessingTimeoutTrigger.of(ps.EventTimeTrigger(), "50ms", True, True))
    windows(env.from_source(source, IN_ORDER, "quiet"), trigger)
    job = drive(env).until(lambda _: len(results("windows")) > 0)
    assert max(results("windows")) == ("a", 2)
    gate.touch()
    job.end()
    assert max(results("windows")) == ("a", 3)


def test_the_end_of_the_input_closes_all_windows(new_env: Any, drive: Any, results: Any) -> None:
    env = new_env(2)
    windows(
        env.from_source(ListSource([("a", 1), ("b", 12), ("a", 31)], splits=3, record_type=Record), IN_ORDER, "all")
    )
    drive(env).end()
    assert sorted(results("windows")) == [("a", 1), ("a", 31), ("b", 12)]
