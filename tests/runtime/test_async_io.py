"""The asynchronous operator alone: its calls are answered by hand, its clock is set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from penstock.runtime.async_functions import AsyncFunction, AsyncRetryStrategy
from penstock.runtime.operators.async_io import MOST_OVERDUE, MOST_THREADS, AsyncOperator, AsyncSettings
from penstock.runtime.records.record_types import OPAQUE, record_type_of
from penstock.state.errors import ConfigurationError, UserCodeError
from penstock.testing import AsyncHarness

INT = record_type_of(int)
TIMEOUT_MS = 1_000


class Doubles(AsyncFunction):
    """As many copies of the double of a record as it is odd (one or two)."""

    async def async_invoke(self, value: int) -> list[int]:
        return doubled(value)


def doubled(value: int) -> list[int]:
    return [value * 2] * (1 + value % 2)


class Patient(Doubles):
    """Gives something else for what had no answer in time."""

    def timeout(self, value: int) -> list[int]:
        return [-value]


def operator(
    function: Any = None, *, ordered: bool = True, capacity: int = 100, asynchronous: bool = True, **more: Any
) -> AsyncOperator:
    settings = AsyncSettings("async_invoke", False, asynchronous, ordered, capacity, TIMEOUT_MS, **more)
    return AsyncOperator(function or Doubles(), INT, INT, settings)


# ---- how many at once


def test_capacity_counts_what_is_under_way_and_what_is_held_back() -> None:
    with AsyncHarness(operator(capacity=3), record_type=int) as harness:
        harness.push([1, 2, 3, 4, 5])
        assert (harness.calls.records, harness.waiting.full) == ([1, 2, 3], True)
        harness.answer(2, 20)
        assert harness.calls.records == [1, 3], "its result is held back, so it still counts"
        harness.answer(1, 10)
        assert harness.calls.records == [3, 4, 5]
        assert harness.waiting.full
        harness.answer(3, 30)
        assert not harness.waiting.full


def test_plain_functions_have_no_more_calls_than_threads() -> None:
    with AsyncHarness(operator(capacity=10_000, asynchronous=False), record_type=int) as harness:
        harness.push([*range(1_000)])
        assert len(harness.calls.records) == MOST_THREADS
        harness.answer(0, 0)
        assert harness.calls.records[-1] == MOST_THREADS


# ---- time


def test_a_call_that_is_never_answered_fails_the_job_and_says_for_which_record() -> None:
    with AsyncHarness(operator(), record_type=int) as harness:
        harness.push([7])
        harness.advance_time(TIMEOUT_MS - 1)
        with pytest.raises(
            UserCodeError,
            match=r"operator 'operator', subtask 0: TimeoutError: no result in time; raise timeout=, or give .*"
            r"on the record 7: 1000 ms",
        ):
            harness.advance_time(1)
        assert harness.calls.cancelled == [7]


def test_a_callable_that_is_never_answered_says_what_can_be_given() -> None:
    with AsyncHarness(operator(doubled), record_type=int) as harness:
        harness.push([7])
        expected = "TimeoutError: gave no result within timeout=1s; raise timeout=, or give on_timeout= .*the record 7:"
        with pytest.raises(UserCodeError, match=expected):
            harness.advance_time(TIMEOUT_MS)


def test_a_timeout_handler_gives_the_results() -> None:
    with AsyncHarness(operator(Patient()), record_type=int) as harness:
        harness.push([1, 2])
        harness.advance_time(500)
        harness.answer(2, 20)
        assert harness.waiting.next_due_ns() == TIMEOUT_MS * 1_000_000
        harness.advance_time(500)
        assert harness.events == [-1, 20]
        harness.answer(1, 99)
        assert harness.events == [-1, 20], "its late answer is of no use"
        assert harness.metrics.values()["async_timeouts_total"] == 1


def test_what_was_answered_in_time_is_not_timed_out_however_late_it_is_looked_at() -> None:
    with AsyncHarness(operator(), record_type=int) as harness:
        harness.push([1])
        harness.calls.answer(1, 5)
        harness.advance_time(10 * TIMEOUT_MS)
        assert harness.events == [5]


def test_what_waits_for_room_has_its_time_before_it() -> None:
    with AsyncHarness(operator(capacity=1), record_type=int) as harness:
        harness.push([1, 2])
        harness.advance_time(900)
        harness.answer(1, 5)
        harness.advance_time(900)
        harness.answer(2, 6)
        assert harness.events == [5, 6]


def test_calls_that_do_not_end_when_they_are_cancelled_fail_the_job_in_the_end() -> None:
    with AsyncHarness(operator(Patient(), capacity=1_000), record_type=int) as harness:
        harness.push([*range(MOST_OVERDUE)])
        harness.answer(0, 0)
        harness.advance_time(TIMEOUT_MS)
        assert len(harness.rows) == MOST_OVERDUE
        harness.answer(1)  # it has ended after all
        harness.push([1_000])
        harness.advance_time(TIMEOUT_MS)
        harness.push([1_001])
        with pytest.raises(UserCodeError, match=f"{MOST_OVERDUE} calls have timed out and go on all the same"):
            harness.advance_time(TIMEOUT_MS)


# ---- again


def test_a_failed_call_fails_the_job() -> None:
    with AsyncHarness(operator(), record_type=int) as harness:
        harness.push([1, 2])
        harness.calls.fail(2, OSError("gone"))
        with pytest.raises(UserCodeError, match=r"OSError: gone \(on the record 2\)"):
            harness.go_on()


def test_it_is_called_again_after_a_pause_and_the_last_error_counts() -> None:
    with AsyncHarness(operator(retry=AsyncRetryStrategy.fixed_delay(2, "100ms")), record_type=int) as harness:
        harness.push([1])
        for _ in range(2):
            harness.fail(1, OSError("gone"))
            harness.advance_time(99)
            assert harness.calls.records == []
            harness.advance_time(1)
            assert harness.calls.records == [1]
        assert harness.metrics.values()["async_retries_total"] == 2
        harness.calls.fail(1, OSError("gone for good"))
        with pytest.raises(UserCodeError, match=r"gone for good .*call 3 for it"):
            harness.go_on()


def test_results_may_be_wanted_again_and_the_last_one_counts() -> None:
    empty = AsyncRetryStrategy.fixed_delay(2, 10, result_predicate=lambda results: not results)
    with AsyncHarness(operator(retry=empty), record_type=int) as harness:
        harness.push([1, 2])
        harness.answer(1)
        harness.answer(2, 20)
        harness.advance_time(10)
        harness.answer(1)
        harness.advance_time(10)
        assert harness.events == []
        harness.answer(1)
        assert harness.events == [20]
        harness.push([3])
        harness.calls.fail(3, OSError("an error is not what is repeated"))
        with pytest.raises(UserCodeError, match="is not what is repeated"):
            harness.go_on()


def test_only_some_errors() -> None:
    some = AsyncRetryStrategy.fixed_delay(5, 10, exception_predicate=lambda error: isinstance(error, ConnectionError))
    with AsyncHarness(operator(retry=some), record_type=int) as harness:
        harness.push([1])
        harness.fail(1, ConnectionError("reset"))
        harness.advance_time(10)
        harness.calls.fail(1, ValueError("no"))
        with pytest.raises(UserCodeError, match="ValueError: no"):
            harness.go_on()


def test_pauses_grow_up_to_a_limit() -> None:
    strategy = AsyncRetryStrategy.exponential_backoff(2_000, "100ms", "1s", 2)
    assert [strategy.delay_ms(attempt) for attempt in (1, 2, 3, 4, 5, 2_000)] == [100, 200, 400, 800, 1_000, 1_000]
    assert strategy.delay_ms(2_001) is None


def test_the_timeout_is_over_all_calls_and_pauses() -> None:
    """Under way, in a pause, or waiting for room: it ends at once, and nothing of it comes back."""
    retry = AsyncRetryStrategy.fixed_delay(100, 300)
    with AsyncHarness(operator(Patient(), retry=retry, ordered=False), record_type=int) as harness:
        harness.push([1])
        for _ in range(3):
            harness.fail(1, OSError("gone"))
            harness.advance_time(300)
        harness.calls.fail(1, OSError("gone"))
        harness.advance_time(100)
        assert harness.events == [-1]
        harness.advance_time(1_000)
        assert (harness.calls.records, harness.waiting.next_due_ns()) == ([], None)


def test_what_times_out_while_it_waits_for_a_thread_makes_no_room() -> None:
    """Two are to be called again, but all threads are taken until their time is over."""
    some, retry = MOST_THREADS, AsyncRetryStrategy.fixed_delay(9, 600)
    settings = {"capacity": some + 2, "asynchronous": False, "ordered": False, "retry": retry}
    with AsyncHarness(operator(Patient(), **settings), record_type=int) as harness:
        harness.push([-1, -2])
        harness.fail(-1, OSError("gone"))
        harness.fail(-2, OSError("gone"))
        harness.advance_time(500)
        harness.push([*range(some + 10)])
        assert len(harness.calls.records) == some
        harness.advance_time(100)
        harness.advance_time(400)
        assert harness.events == [1, 2]
        for number in range(3):
            harness.calls.fail(number, OSError("gone"))
        harness.waiting.advance(harness.clock.monotonic_ns())
        assert harness.calls.records == [*range(3, some + 2)], "with three in a pause that is all there may be"
        assert harness.waiting.next_due_ns() == 1_500 * 1_000_000


def test_the_failure_of_a_timeout_names_the_last_error() -> None:
    with AsyncHarness(operator(retry=AsyncRetryStrategy.fixed_delay(100, 600)), record_type=int) as harness:
        harness.push([1])
        harness.fail(1, OSError("gone"))
        harness.advance_time(600)
        with pytest.raises(UserCodeError, match="there were 2 of them, the last error was OSError: gone"):
            harness.advance_time(400)


def test_a_strategy_that_fails_says_so() -> None:
    wrong = AsyncRetryStrategy.fixed_delay(1, 10, lambda results: results[0] > 1)
    with AsyncHarness(operator(retry=wrong), record_type=int) as harness:
        harness.push([1])
        harness.calls.answer(1)
        with pytest.raises(UserCodeError, match=r"IndexError.*in the retry strategy, on the record 1"):
            harness.go_on()


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: AsyncRetryStrategy.fixed_delay(0, 10), "at least 1, not 0"),
        (lambda: AsyncRetryStrategy.fixed_delay(1, 0), "at least 1 ms"),
        (lambda: AsyncRetryStrategy.fixed_delay(1, "-1s"), "-1s"),
        (lambda: AsyncRetryStrategy.exponential_backoff(1, 1, 1, 0.5), "multiplier must be at least 1"),
        (lambda: AsyncRetryStrategy.fixed_delay(1, 1, result_predicate=3), "a predicate is a function, not 3"),  # type: ignore[arg-type]
    ],
)
def test_strategies_that_cannot_be(make: Callable[[], Any], complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        make()


# ---- checkpoints


def test_what_is_not_given_out_is_called_for_again_at_any_parallelism() -> None:
    with AsyncHarness(operator(ordered=False, capacity=4), record_type=int) as harness:
        harness.push([*range(10)])
        harness.answer(0, 0)
        harness.calls.answer(1, 2)  # there, but not given out
        snapshots = [harness.snapshot()]
        harness.go_on()
    for parallelism in (1, 2, 3):
        found = []
        for subtask in range(parallelism):
            made = operator(ordered=False, capacity=4)
            options = {"record_type": int, "restored": snapshots, "subtask": subtask, "parallelism": parallelism}
            with AsyncHarness(made, **options) as again:
                while again.calls.records:
                    again.run(again.calls.records[-1])
                found += again.rows
        assert Counter(found) == Counter(row for record in range(1, 10) for row in doubled(record)), parallelism


def test_a_pause_ends_with_a_restore() -> None:
    retry = AsyncRetryStrategy.fixed_delay(5, 500)
    with AsyncHarness(operator(retry=retry), record_type=int) as harness:
        harness.push([1])
        harness.fail(1, OSError("gone"))
        snapshot = harness.snapshot()
    with AsyncHarness(operator(retry=retry), record_type=int, restored=[snapshot]) as again:
        assert again.calls.records == [1]


def test_nothing_is_left_in_the_state_of_an_operator_that_holds_nothing() -> None:
    with AsyncHarness(operator(), record_type=int) as harness:
        harness.push([1])
        harness.answer(1, 5)
        snapshot = harness.snapshot()
    assert [(state.name, state.count) for state in snapshot.lists] == [("held records", 0)]


@dataclass
class Order:
    items: list[str]


@pytest.mark.parametrize("record_type", [record_type_of(Order), OPAQUE])
def test_what_the_function_does_to_its_record_is_not_in_the_checkpoint(record_type: Any) -> None:
    def spoil(order: Order) -> list[int]:
        order.items.append("spoilt")
        return [len(order.items)]

    settings = AsyncSettings("async_invoke", False, False, True, 10, TIMEOUT_MS)
    made = lambda: AsyncOperator(spoil, record_type, INT, settings)  # noqa: E731
    with AsyncHarness(made(), record_type=record_type) as harness:
        harness.push([Order(["one"])])
        harness.calls.records[0].items.append("spoilt")
        snapshot = harness.snapshot()
    with AsyncHarness(made(), restored=[snapshot]) as again:
        assert again.calls.records == [Order(["one"])]
        again.run(again.calls.records[0])
        assert again.rows == [2]


# ---- functions


class Plain(AsyncFunction):
    def async_invoke(self, value: int) -> Any:
        if value == 0:
            return "text"
        if value == 1:
            return Doubles().async_invoke(1)
        if value == 2:
            return None
        return (value + n for n in range(value))


def test_what_a_plain_function_may_return() -> None:
    with AsyncHarness(operator(Plain(), asynchronous=False), record_type=int) as harness:
        harness.push([3, 2, 4])
        for record in (3, 2, 4):
            harness.calls.run(record)
        harness.go_on()
        assert harness.rows == [3, 4, 5, 4, 5, 6, 7]


@pytest.mark.parametrize(("record", "complaint"), [(0, "returned a str, which would be taken apart"), (1, "async def")])
def test_what_it_may_not(record: int, complaint: str) -> None:
    with AsyncHarness(operator(Plain(), asynchronous=False), record_type=int) as harness:
        harness.push([record])
        harness.calls.run(record)
        with pytest.raises(UserCodeError, match=complaint):
            harness.go_on()


def test_one_result_per_record() -> None:
    async def none(value: int) -> None:
        return None

    settings = AsyncSettings(
        "map", True, True, True, 10, TIMEOUT_MS, AsyncRetryStrategy.fixed_delay(1, 10, lambda value: value is None),
        on_timeout=lambda value: -value,
    )  # fmt: skip
    with AsyncHarness(AsyncOperator(none, INT, OPAQUE, settings), record_type=int) as harness:
        harness.push([5, 6])
        for _ in range(2):
            harness.calls.run(5)
            harness.go_on()
            harness.advance_time(10)
        harness.advance_time(TIMEOUT_MS)
        assert harness.events == [None, -6]


def test_it_is_closed_with_its_calls() -> None:
    with AsyncHarness(operator(), record_type=int) as harness:
        harness.push([1])
    assert harness.calls.closed
