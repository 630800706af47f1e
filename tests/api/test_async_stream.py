"""Asynchronous I/O as it is written down: types, plans, and what is refused before anything runs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

import penstock as ps
from penstock.runtime.operators.async_io import AsyncOperator
from penstock.state.errors import PipelineError


async def fetched(number: int) -> str:
    return str(number)


def read(number: int) -> str:
    return str(number)


class Fetches(ps.AsyncFunction):
    async def async_invoke(self, value: int) -> list[str]:
        return [str(value)]


class Reads(ps.AsyncFunction):
    def async_invoke(self, value: int) -> Iterator[str]:
        yield str(value)


class Mapped:
    """With a method as a MapFunction has it."""

    async def map(self, value: int) -> float:
        return value / 2


@pytest.fixture
def env(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> ps.StreamExecutionEnvironment:
    monkeypatch.chdir(tmp_path)
    return ps.StreamExecutionEnvironment()


def settings_of(stream: ps.api.streams.DataStream) -> Any:  # type: ignore[name-defined]
    operator = stream._own_step("").operator
    assert isinstance(operator, AsyncOperator)
    return operator.settings


def test_types_come_from_what_is_annotated(env: ps.StreamExecutionEnvironment) -> None:
    numbers = env.from_collection([1, 2])
    assert str(numbers.map_async(fetched).record_type) == "str"
    assert str(numbers.map_async(Mapped()).record_type) == "float"
    assert str(ps.AsyncDataStream.ordered_wait(numbers, Fetches(), "1s").record_type) == "str"
    assert str(ps.AsyncDataStream.unordered_wait(numbers, Reads(), "1s").record_type) == "str"
    assert str(numbers.map_async(lambda number: number, output_type=int).record_type) == "int"


def test_what_is_said_is_what_is_done(env: ps.StreamExecutionEnvironment) -> None:
    numbers = env.from_collection([1, 2])
    retry = ps.AsyncRetryStrategy.fixed_delay(3, "10ms")
    mapped = settings_of(numbers.map_async(fetched, ordered=False, capacity=7, timeout="2s", retry=retry))
    assert (mapped.single, mapped.asynchronous, mapped.ordered) == (True, True, False)
    assert (mapped.capacity, mapped.timeout_ms, mapped.retry) == (7, 2_000, retry)
    assert not settings_of(numbers.map_async(read)).asynchronous
    ordered = settings_of(ps.AsyncDataStream.ordered_wait_with_retry(numbers, Fetches(), 500, retry, 9))
    assert (ordered.single, ordered.ordered, ordered.capacity, ordered.timeout_ms) == (False, True, 9, 500)
    unordered = settings_of(ps.AsyncDataStream.unordered_wait_with_retry(numbers, Reads(), "1s", retry))
    assert (unordered.ordered, unordered.asynchronous, unordered.capacity) == (False, False, 100)


def test_it_is_told_of_in_the_plan(env: ps.StreamExecutionEnvironment) -> None:
    env.from_collection([1, 2]).map_async(fetched).print()
    text = env.describe()
    assert "async map fetched (async map): rows -> str" in text
    assert "no uid is set for 'async map fetched'" in text


class Yields(ps.AsyncFunction):
    async def async_invoke(self, value: int) -> AsyncIterator[str]:
        yield str(value)


class Opens(Fetches):
    async def open(self, runtime_context: ps.RuntimeContext) -> None: ...  # type: ignore[override]


class Remembers(Fetches, ps.CheckpointedFunction):
    def initialize_state(self, context: ps.FunctionInitializationContext) -> None: ...

    def snapshot_state(self, context: ps.FunctionSnapshotContext) -> None: ...


class Awaits(Fetches):
    async def timeout(self, value: int) -> list[str]:  # type: ignore[override]
        return []


def test_what_cannot_be_is_refused(env: ps.StreamExecutionEnvironment) -> None:
    numbers = env.from_collection([1, 2])
    wait = ps.AsyncDataStream.unordered_wait
    streams = [
        wait(numbers, Yields(), "1s", name="a"),
        wait(numbers, Opens(), "1s", name="b"),
        wait(numbers, Remembers(), "1s", name="c"),
        wait(numbers, Awaits(), "1s", name="d"),
        wait(numbers, Fetches(), 0, name="e"),
        wait(numbers, Fetches(), "1s", 0, name="f"),
        wait(numbers, Fetches(), "soon", name="g"),
        numbers.map_async(Reads().async_invoke, name="h"),
        numbers.map_async(3, name="i"),
        numbers.map_async(fetched, retry="often", name="j"),  # type: ignore[arg-type]
        numbers.map_async(fetched, on_timeout=fetched, name="k"),
        numbers.map(fetched, name="l"),
        wait(numbers, Fetches(), "1s", True, name="m"),
    ]
    for stream in streams:
        stream.print()
    with pytest.raises(PipelineError) as caught:
        env.job_graph()
    problems = {line.partition("operator '")[2][:1]: line for line in str(caught.value).splitlines()[1:]}
    for name, complaint in {
        "a": "'Yields' is async def and yields; return its results, in a list",
        "b": "open() of 'Opens' is async def; only calls for records are awaited",
        "c": "'Remembers' is a CheckpointedFunction, but asynchronous calls have no state",
        "d": "what handles a timeout is a plain function",
        "e": "the timeout must be at least 1 ms",
        "f": "the capacity must be between 1 and 1000000, not 0",
        "g": "'soon' is not a duration",
        "h": "'async_invoke' yields; use an AsyncFunction",
        "i": "a function is needed, but 3 is not callable",
        "j": "the retry strategy is an AsyncRetryStrategy, not 'often'",
        "k": "what handles a timeout is a plain function",
        "l": "use a plain function, or map_async",
        "m": "not True",
    }.items():
        assert complaint in problems[name]
        assert "test_async_stream.py:" in problems[name]
