"""Watermark generators of users' own, the guard against the future, and what strategies refuse."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock import OutputTag, WatermarkGenerator, WatermarkStrategy
from penstock.runtime.elements import MAX_WATERMARK, MIN_WATERMARK, Watermark, WatermarkStatus
from penstock.runtime.event_time.watermark_generators import WatermarkOutput
from penstock.runtime.operators.stateless import WatermarksOperator
from penstock.runtime.records.record_types import OPAQUE
from penstock.state.errors import MalformedRecordError, PipelineError, RecordTypeError, UserCodeError
from penstock.testing.harness import OperatorHarness

Trail = list[Any]


def itself(record: Any, _: int) -> Any:
    return record


class Odd(WatermarkGenerator):
    """Says what records tell it to: multiples of 10 are watermarks, of 7 mark idle, of 5 active; by the clock the
    newest one, less 3."""

    def __init__(self) -> None:
        self.newest = 0

    def on_event(self, event: int, timestamp: int, output: WatermarkOutput) -> None:
        self.newest = max(self.newest, timestamp)
        if event % 10 == 0:
            output.emit_watermark(timestamp)
        elif event % 7 == 0:
            output.mark_idle()
        elif event % 5 == 0:
            output.mark_active()

    def on_periodic_emit(self, output: WatermarkOutput) -> None:
        if self.newest > 40:
            output.emit_watermark(self.newest - 3)


def operator(strategy: WatermarkStrategy, trail: Trail | None = None, **options: Any) -> tuple[OperatorHarness, Trail]:
    """Opened. Records, watermarks and statuses go into the trail, in the order in which they are given out."""
    harness = OperatorHarness(WatermarksOperator(strategy.with_timestamp_assigner(itself), OPAQUE), **options)
    said: Trail = [] if trail is None else trail
    output = harness.open().operator.output

    class Recording:
        emit_side = staticmethod(output.emit_side)
        emit = staticmethod(lambda batch: said.extend(batch.rows()))
        emit_watermark = emit_status = emit_at_once = staticmethod(said.append)

    harness.operator.output = Recording()
    return harness, said


ODD = WatermarkStrategy.for_generator(Odd)
IDLE, ACTIVE = WatermarkStatus(True), WatermarkStatus(False)


def test_what_it_says_takes_effect_behind_the_record() -> None:
    harness, trail = operator(ODD)
    with harness:
        harness.push([1, 10, 3, 20, 10, 7, 14, 1, 5, 30, 7, 40, 2])
    assert trail == [
        1, 10, Watermark(10), 3, 20, Watermark(20), 10, 7, IDLE, 14, 1, 5, ACTIVE, 30, Watermark(30), 7, IDLE, 40,
        ACTIVE, Watermark(40), 2,
    ]  # fmt: skip


def test_it_is_asked_by_the_clock_while_nothing_comes() -> None:
    harness, trail = operator(ODD)
    with harness:
        harness.push([43])
        harness.advance_time(199)
        assert trail == [43]
        harness.advance_time(1)
        assert trail == [43, Watermark(40)]
        harness.push([47])
        harness.advance_time(200)
        assert trail[2:] == [47, Watermark(44)]


def test_the_clock_asks_nobody_whose_split_is_silent() -> None:
    harness, trail = operator(ODD.with_idleness(150))
    with harness:
        harness.push([43])
        harness.advance_time(150)
        harness.advance_time(1_000)
        assert trail == [43, IDLE]
        harness.push([44])
        assert trail[2:] == [ACTIVE, 44]
        harness.advance_time(100)
        assert trail[4:] == [Watermark(41)]


def test_a_clock_that_is_set_back_delays_nothing_for_long() -> None:
    harness, trail = operator(ODD)
    with harness:
        harness.advance_time(1_000_000)
        harness.push([43])
        harness.advance_time(-900_000)
        harness.advance_time(200)
        assert trail == [43, Watermark(40)]


def test_punctuated() -> None:
    strategy = WatermarkStrategy.for_punctuated(lambda record, timestamp: timestamp - 1 if record % 2 else None)
    harness, trail = operator(strategy)
    with harness:
        harness.push([2, 3, 4, 1, 5])
    assert trail == [2, 3, Watermark(2), 4, 1, 5, Watermark(4)]


Steps = list[tuple[str, list[int]]]
STEPS: st.SearchStrategy[Steps] = st.lists(
    st.tuples(st.sampled_from(["push", "push", "push", "clock", "restore"]), st.lists(st.integers(1, 99), max_size=6)),
    max_size=12,
)


def oracle(steps: Steps) -> Trail:
    """One record after the other, by the words of the interface."""
    trail: Trail = []
    watermark, newest, idle = MIN_WATERMARK, 0, False

    def becomes(now_idle: bool, at: int = MIN_WATERMARK) -> None:
        nonlocal watermark, idle
        if idle and not now_idle:
            trail.append(ACTIVE)
        if at > watermark:
            watermark = at
            trail.append(Watermark(at))
        if now_idle and not idle:
            trail.append(IDLE)
        idle = now_idle

    for kind, records in steps:
        if kind == "clock" and newest > 40:
            becomes(False, newest - 3)
        for record in records if kind == "push" else ():
            trail.append(record)
            newest = max(newest, record)
            if record % 10 == 0:
                becomes(False, record)
            elif record % 7 == 0:
                becomes(True)
            elif record % 5 == 0:
                becomes(False)
    return trail


@given(STEPS)
@settings(max_examples=60, deadline=None)
def test_against_an_oracle_however_records_come_in_batches_and_restored_in_the_middle(steps: Steps) -> None:
    harness, trail = operator(ODD)
    for kind, records in steps:
        if kind == "push":
            harness.push(records)
        elif kind == "clock":
            harness.advance_time(200)
        else:
            snapshot = harness.snapshot()
            harness.close()
            harness, _ = operator(ODD, trail, restored=[snapshot])
            newest = max((each.timestamp for each in trail if isinstance(each, Watermark)), default=None)
            assert harness.watermarks == ([] if newest is None else [newest])
    harness.close()
    assert trail == oracle(steps)


# ---- state


class Counting:
    """No subclass, and with a snapshot of its own: the lock must stay out of it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.count = 0

    def on_event(self, event: int, timestamp: int, output: WatermarkOutput) -> None:
        self.count += 1
        output.emit_watermark(self.count)

    def snapshot(self) -> int:
        return self.count

    def restore(self, state: int) -> None:
        self.count = state


class Locked(Counting):
    snapshot = restore = property()  # type: ignore[assignment]


class Slotted:
    __slots__ = ()

    def on_event(self, event: int, timestamp: int, output: WatermarkOutput) -> None: ...


def test_a_snapshot_of_its_own() -> None:
    harness, _ = operator(WatermarkStrategy.for_generator(Counting))
    with harness:
        harness.push([1, 1, 1])
        snapshot = harness.snapshot()
    harness, trail = operator(WatermarkStrategy.for_generator(Counting), restored=[snapshot])
    with harness:
        harness.push([1])
    assert trail == [1, Watermark(4)]


def test_another_strategy_begins_afresh() -> None:
    bounded = WatermarkStrategy.for_bounded_out_of_orderness(3)
    for before, after in ((ODD, bounded), (bounded, ODD)):
        harness, _ = operator(before)
        with harness:
            harness.push([50])
            snapshot = harness.snapshot()
        harness, trail = operator(after, restored=[snapshot])
        with harness:
            harness.push([20])
            assert trail == [20, Watermark(16 if after is bounded else 20)]


@pytest.mark.parametrize(
    ("supplier", "expected"),
    [
        (lambda: 5, "gave 5, which has no method on_event"),
        (Slotted, "Slotted has slots: give it snapshot"),
        (Locked, "Locked cannot be saved with a checkpoint, because its attributes cannot be pickled"),
    ],
)
def test_what_cannot_be_saved_is_refused_when_it_is_made(supplier: Callable[[], Any], expected: str) -> None:
    with pytest.raises(PipelineError, match=rf"operator 'operator': .*{expected}"):
        operator(WatermarkStrategy.for_generator(supplier))


# ---- errors


class Wrong(WatermarkGenerator):
    def __init__(self, says: Any) -> None:
        self.says = says

    def on_event(self, event: int, timestamp: int, output: WatermarkOutput) -> None:
        if event > 1:
            output.emit_watermark(self.says())

    def on_periodic_emit(self, output: WatermarkOutput) -> None:
        raise ZeroDivisionError("by the clock")


@pytest.mark.parametrize("says", [1.5, None, True, "1", np.int64(3), MAX_WATERMARK, 2**70])
def test_watermarks_that_are_none(says: Any) -> None:
    harness, _ = operator(WatermarkStrategy.for_generator(lambda: Wrong(lambda: says)))
    with harness, pytest.raises(RecordTypeError, match=r"operator 'operator': .*(int ms|out of range)"):
        harness.push([1, 2])


def test_what_it_raises_names_the_operator_and_the_record() -> None:
    harness, _ = operator(WatermarkStrategy.for_generator(lambda: Wrong(lambda: 1 / 0)))
    with harness, pytest.raises(UserCodeError, match=r"operator 'operator'.*division.*generator, on the record 2"):
        harness.push([1, 2, 3])
    harness, _ = operator(WatermarkStrategy.for_generator(lambda: Wrong(lambda: 1)))
    with harness, pytest.raises(UserCodeError, match=r"operator 'operator'.*by the clock .*by the clock\)"):
        harness.advance_time(200)
    with pytest.raises(UserCodeError, match=r"operator 'operator'.*when the watermark generator was made"):
        operator(WatermarkStrategy.for_generator(lambda: 1 / 0))


BOUNDED = WatermarkStrategy.for_bounded_out_of_orderness(0)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: WatermarkStrategy.for_bounded_out_of_orderness(-1), "negative"),
        (lambda: WatermarkStrategy.for_bounded_out_of_orderness(timedelta(seconds=-1)), "negative"),
        (lambda: WatermarkStrategy.for_bounded_out_of_orderness(float("nan")), "for_bounded_out_of_orderness"),
        (lambda: BOUNDED.with_idleness(0), "with_idleness: 0 is too short"),
        (lambda: BOUNDED.with_idleness("-5s"), "with_idleness"),
        (lambda: BOUNDED.with_future_guard(0), "with_future_guard, max_ahead: 0 is too short"),
        (lambda: BOUNDED.with_future_guard("-1h"), "with_future_guard, max_ahead: the duration '-1h' is negative"),
        (lambda: BOUNDED.with_future_guard("1h", "ignore"), "'drop', 'fail' or an OutputTag, not 'ignore'"),
        (lambda: BOUNDED.with_watermark_alignment("", "1s"), "the group is a name"),
        (lambda: BOUNDED.with_watermark_alignment("g", -1), "max_drift.*negative"),
        (lambda: BOUNDED.with_watermark_alignment("g", "1s", 0), "update_interval: 0 is too short"),
        (lambda: WatermarkStrategy.for_generator(5), "for_generator takes a function without arguments"),
        (lambda: WatermarkStrategy.for_generator(lambda context: None), "for_generator takes a function without"),
        (lambda: WatermarkStrategy.for_punctuated(None), "for_punctuated takes a function of record and timestamp"),
    ],
)
def test_refused_strategies(make: Callable[[], Any], expected: str) -> None:
    with pytest.raises(PipelineError, match=expected):
        make()


# ---- the guard


def test_records_from_the_future_are_dropped_and_counted() -> None:
    harness, trail = operator(BOUNDED.with_future_guard(100))
    with harness:
        harness.push([100, 101, 50, 5_000, 99])
        harness.push([7_000])
        assert trail == [100, 50, 99, Watermark(99)]
        assert harness.metrics.values()["records_from_future_total"] == 3
        harness.advance_time(1)
        harness.push([101])
        assert trail[4:] == [101, Watermark(100)]


def test_records_from_the_future_go_to_a_side_output_or_fail_the_job() -> None:
    tag: OutputTag[int] = OutputTag("future")
    harness, trail = operator(ODD.with_future_guard(100, tag))
    assert harness.operator.side_tags == {"future"}
    with harness:
        harness.push([110, 10, 120])
        assert trail == [10, Watermark(10)]
        assert harness.timed_side_output(tag) == [(110, 110), (120, 120)]
    harness, _ = operator(BOUNDED.with_future_guard("100ms", "fail"))
    expected = "operator 'operator': the timestamp 103 of the record 103 is more than 100 ms ahead of the clock, at 0"
    with harness, pytest.raises(MalformedRecordError, match=expected):
        harness.push([100, 103, 102])


def test_who_gives_only_what_comes_from_the_future_is_silent() -> None:
    harness, trail = operator(BOUNDED.with_future_guard(100).with_idleness(1_000))
    with harness:
        harness.push([10])
        harness.advance_time(999)
        harness.push([90_000])
        harness.advance_time(1)
        assert trail == [10, Watermark(9), IDLE]
