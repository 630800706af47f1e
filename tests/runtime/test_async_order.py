"""In which order the results of an asynchronous operator go out, and its watermarks with them."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.runtime.elements import Watermark, WatermarkStatus
from penstock.runtime.operators.async_io import AsyncOperator, AsyncSettings
from penstock.runtime.records.record_types import record_type_of
from penstock.testing import AsyncHarness, ManualCalls, OperatorHarness

INT = record_type_of(int)


def doubled(value: int) -> list[int]:
    """One or two results."""
    return [value * 2] * (1 + value % 2)


def operator(*, ordered: bool, capacity: int = 100) -> AsyncOperator:
    return AsyncOperator(doubled, INT, INT, AsyncSettings("async_invoke", False, False, ordered, capacity, 1_000))


def test_ordered_results_wait_for_those_before_them() -> None:
    with AsyncHarness(operator(ordered=True), record_type=int) as harness:
        harness.push([1, 2, 3])
        harness.answer(3, 30)
        harness.answer(2, 20, 21)
        assert harness.events == []
        harness.answer(1)
        assert harness.events == [20, 21, 30]
        assert not harness.waiting.unfinished


def test_results_carry_the_timestamp_of_their_record() -> None:
    calls = ManualCalls()
    with OperatorHarness(operator(ordered=False), record_type=int, calls=calls) as harness:
        harness.push([1, 2], timestamps=[10, 20])
        calls.answer(2, 5, 6)
        calls.answer(1, 7)
        assert isinstance(harness.operator, AsyncOperator)
        harness.operator.advance(0)
        assert harness.timed_output == [(5, 20), (6, 20), (7, 10)]


def test_unordered_results_come_as_they_come_but_pass_no_watermark() -> None:
    with AsyncHarness(operator(ordered=False), record_type=int) as harness:
        harness.push([1, 2])
        harness.watermark(20)
        harness.push([3])
        harness.watermark(30)
        harness.answer(3, 30)
        harness.answer(2, 20)
        assert harness.events == [20]
        harness.answer(1, 10)
        assert harness.events == [20, 10, Watermark(20), 30, Watermark(30)]


def test_marks_without_records_between_them_are_one() -> None:
    with AsyncHarness(operator(ordered=True), record_type=int) as harness:
        harness.push([1])
        for n in range(100):
            harness.watermark(n)
            harness.status(idle=n % 2 == 1)
        harness.answer(1, 5)
        assert harness.events == [5, Watermark(99), WatermarkStatus(idle=True)]
        harness.status(idle=False)
        harness.watermark(100)
        harness.go_on()
        assert harness.events[3:] == [WatermarkStatus(idle=False), Watermark(100)]


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("push"), st.integers(1, 7)),
        st.tuples(st.just("answer"), st.integers(0, 50)),
        st.tuples(st.just("watermark"), st.just(0)),
        st.tuples(st.just("restore"), st.just(0)),
    ),
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(ACTIONS, st.booleans(), st.integers(1, 6))
def test_against_an_oracle(actions: list[tuple[str, int]], ordered: bool, capacity: int) -> None:
    """Whatever is answered when, and wherever it is restored: in order, or in order of the watermarks; every record
    once, and never more calls under way than there may be."""
    made = operator(ordered=ordered, capacity=capacity)
    harness = AsyncHarness(made, record_type=int).open()
    arrived: list[int | Watermark] = []
    before: list[Any] = []
    """What had gone out when it was restored last."""
    restored = False
    try:
        for action, number in actions:
            match action:
                case "push":
                    records = range(len(arrived), len(arrived) + number)
                    arrived += records
                    harness.push(records)
                case "answer" if harness.calls.records:
                    harness.run(harness.calls.records[number % len(harness.calls.records)])
                case "watermark":
                    arrived.append(Watermark(len(arrived)))
                    harness.watermark(len(arrived) - 1)
                case "restore":
                    snapshot, restored = harness.snapshot(), True
                    before += harness.events
                    harness.close()
                    harness = AsyncHarness(made, record_type=int, restored=[snapshot]).open()
                    newest = [each.timestamp for each in arrived if isinstance(each, Watermark)][-1:]
                    for timestamp in newest:  # comes again, as from a source (PROTOCOLS 12)
                        harness.watermark(timestamp)
            assert harness.calls.most <= capacity
        while harness.calls.records:
            harness.run(harness.calls.records[-1])
        assert not harness.waiting.unfinished
        assert harness.waiting.next_due_ns() is None
    finally:
        harness.close()
    check(arrived, before + harness.events, ordered=ordered, restored=restored)


def check(arrived: list[int | Watermark], out: list[Any], *, ordered: bool, restored: bool) -> None:
    """Of what is restored nothing is known but that it had not been given out: it goes before the next watermark."""
    rows = [row for record in arrived if isinstance(record, int) for row in doubled(record)]
    given_out = [event for event in out if isinstance(event, int)]
    assert given_out == rows if ordered else Counter(given_out) == Counter(rows)
    passed: set[int] = set()
    for position, event in enumerate(out):
        if isinstance(event, Watermark) and event.timestamp not in passed:
            passed.add(event.timestamp)
            before = arrived[: arrived.index(event)]
            expected = Counter(row for record in before if isinstance(record, int) for row in doubled(record))
            found = Counter(each for each in out[:position] if isinstance(each, int))
            assert found >= expected if restored else found == expected
    newest = [each.timestamp for each in arrived if isinstance(each, Watermark)][-1:]
    assert set(newest) <= passed
