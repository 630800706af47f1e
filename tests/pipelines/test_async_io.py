"""Asynchronous I/O in whole jobs: under way while slots die, held around watermarks, full, late, never answered."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import penstock as ps
from penstock.jobmanager.events import JobState
from penstock.jobmanager.views import OperationState
from penstock.state.errors import JobFailedError
from penstock.state.store.checkpoint_store import CheckpointStore
from penstock.state.store.objects import run_program
from penstock.state.store.obstore_objects import ObstoreObjects
from penstock.testing.lists import ListSink, ListSource

NUMBERS = 400
KEYS = 7


async def a_moment(seconds: float = 0.002) -> None:
    await asyncio.wait({asyncio.get_running_loop().create_future()}, timeout=seconds)


class Gated(ps.AsyncFunction):
    """Every fifth number has no answer before the gate is there; the others have one sooner or later."""

    def __init__(self, gate: Path) -> None:
        self.gate = str(gate)

    async def async_invoke(self, value: int) -> list[int]:
        await a_moment(value % 3 / 1_000)
        while value % 5 == 0 and not Path(self.gate).exists():
            await a_moment()
        return [value]


class GatedThreads(Gated):
    def async_invoke(self, value: int) -> Iterator[int]:  # type: ignore[override]
        while value % 5 == 0 and not Path(self.gate).exists():
            threading.Event().wait(0.002)
        yield value


class Counting(ps.KeyedProcessFunction):
    def open(self, runtime_context: ps.RuntimeContext) -> None:
        self.seen = runtime_context.get_state(ps.ValueStateDescriptor("seen", int, 0))

    def process_element(self, number: int, ctx: Any) -> Iterator[tuple[int, int]]:
        self.seen.update(self.seen.value() + 1)
        yield number % KEYS, self.seen.value()


def key_of(number: int) -> int:
    return number % KEYS


EXPECTED = Counter((key, count) for key in range(KEYS) for count in range(1, len(range(key, NUMBERS, KEYS)) + 1))
Wait = Callable[..., Any]
WAITS = {"ordered": ps.AsyncDataStream.ordered_wait, "unordered": ps.AsyncDataStream.unordered_wait}


def unaligned(env: ps.StreamExecutionEnvironment) -> ps.StreamExecutionEnvironment:
    """Barriers overtake at once, and little is under way on channels."""
    options = {
        "execution.checkpointing.aligned-checkpoint-timeout": "0ms",
        "taskmanager.memory.network.channel-window": "600",
    }
    return env.configure(ps.Configuration(options))


def held_records(job: Any) -> int:
    """In the newest checkpoint."""
    name = job.status.checkpoints.last_metadata_name
    metadata = run_program(CheckpointStore.read_metadata(name), ObstoreObjects(job.job.location))
    states = [state for s in metadata.subtasks for operator in s.operators for state in operator.lists]
    return sum(state.count for state in states if state.name == "held records")


@pytest.mark.parametrize(
    ("function", "wait", "chained", "before", "after", "capacity"),
    [
        (Gated, "unordered", False, 2, 3, 20),
        (Gated, "ordered", True, 3, 1, 4),
        (GatedThreads, "unordered", True, 1, 2, 20),
        (Gated, "unordered", True, 2, 2, 1_000),
    ],
)
def test_under_way_while_slots_die_and_the_job_goes_on_elsewhere(
    new_env: Any, drive: Any, results: Any, tmp_path: Path,
    function: Any, wait: str, chained: bool, before: int, after: int, capacity: int,
) -> None:  # fmt: skip
    """Full of calls without an answer, it still takes checkpoints; what is in them is called for again, once."""
    assert results("counts") == []

    def build(env: ps.StreamExecutionEnvironment) -> ps.StreamExecutionEnvironment:
        source = ListSource(list(range(NUMBERS)), splits=5, batch_rows=10, record_type=int)
        numbers = env.from_source(source, name="numbers", uid="numbers")
        numbers = numbers if chained else numbers.rebalance()
        waiting = WAITS[wait](numbers, function(tmp_path / "gate"), "60s", capacity).uid("waiting")
        counts = waiting.key_by(key_of).process(Counting()).uid("counting")
        counts.sink_to(ListSink("counts")).uid("counts")
        return unaligned(env)

    job = drive(build(new_env(before)))
    job.checkpoints(2).kill().checkpoints(2).kill().checkpoints(2)
    assert held_records(job) > 0
    path = f"{job.job.location}/{job.status.checkpoints.last_metadata_name}"
    job.job.close()
    job = drive(build(new_env(after, restore=path))).checkpoints(2)
    (tmp_path / "gate").touch()
    assert job.end().state is JobState.FINISHED
    assert Counter(results("counts")) == EXPECTED


class OneByOne(ps.AsyncFunction):
    """A number has its answer when there is a file of its name."""

    def __init__(self, directory: Path) -> None:
        self.directory = str(directory)

    async def async_invoke(self, value: int) -> list[int]:
        while not Path(self.directory, str(value)).exists():
            await a_moment()
        return [value]


@pytest.mark.parametrize("drain", [False, True])
def test_a_barrier_does_not_wait_for_the_outputs_of_a_source_that_holds_records(
    new_env: Any, drive: Any, held_source: Any, results: Any, tmp_path: Path, drain: bool
) -> None:
    """All that was read is with the operator, and its outputs are blocked: the next one is full. The barrier does not
    overtake. That of a drain does wait."""
    assert results("passed") == []
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir(), second.mkdir()
    env = unaligned(new_env(1).enable_checkpointing("1h"))
    env.configure(ps.Configuration({"execution.checkpointing.aligned-checkpoint-timeout": "1h"}))
    source = held_source(list(range(NUMBERS)), tmp_path / "gate", NUMBERS, batch_rows=50, record_type=int)
    numbers = env.from_source(source, name="numbers", uid="numbers")
    once = ps.AsyncDataStream.ordered_wait(numbers, OneByOne(first), "60s", 2 * NUMBERS).uid("once")
    again = ps.AsyncDataStream.ordered_wait(once.rebalance(), OneByOne(second), "60s", 1).uid("again")
    again.sink_to(ListSink("passed")).uid("passed")
    job = drive(env)

    def upstream() -> Any:
        tasks = [task for slot in job.job.cluster.slots.values() for task in slot.tasks]
        return next((task for task in tasks if task.deploy.vertex.name.startswith("numbers") and task.active), None)

    looks = 0

    def stays_blocked() -> bool:
        """One more answer whenever the last one has gone out. Blocked only until credit arrives does not count."""
        nonlocal looks
        task = upstream()
        looks = looks + 1 if task is not None and task.writers.blocked else 0
        if task is not None and task.read.records == NUMBERS and not looks:
            (first / str(task.writers.records_out)).touch()
        return looks > 5

    job.job.run(stays_blocked)
    task = upstream()
    task.input._time_ended = drain  # as if that had been before they were blocked
    request = job.job.savepoint(str(tmp_path / "savepoint"), stop=drain, drain=drain)
    deadline_s = time.monotonic() + 20
    job.job.run(lambda: bool(task.checkpoints._attempts or task._held) or time.monotonic() > deadline_s)
    assert (len(task.checkpoints._attempts), len(task._held)) == ((0, 1) if drain else (1, 0))
    assert task.writers.blocked
    assert task.chain.unfinished
    for number in range(NUMBERS):
        (first / str(number)).touch()
        (second / str(number)).touch()
    (tmp_path / "gate").touch()
    assert job.end().state is JobState.FINISHED
    assert job.job.operation(request).state is OperationState.COMPLETED
    assert results("passed") == list(range(NUMBERS))


# ---- order


class Scattered(ps.AsyncFunction):
    """Later ones are often answered earlier."""

    async def async_invoke(self, value: int) -> list[int]:
        await a_moment(value * 7_919 % 5 / 1_000)
        return [value, value]


class Witness(ps.ProcessFunction):
    """Every number with the watermark that was there when it came."""

    def process_element(self, value: int, ctx: ps.ProcessFunction.Context) -> Iterator[tuple[int, int | None, int]]:
        yield value, ctx.timestamp(), ctx.timer_service().current_watermark()


class Bursts(ps.KeyedProcessFunction):
    """Everything at once, at the end of every hundred ms."""

    def open(self, runtime_context: ps.RuntimeContext) -> None:
        self.values = runtime_context.get_list_state(ps.ListStateDescriptor("values", int))

    def process_element(self, value: int, ctx: ps.KeyedProcessFunction.Context) -> None:
        self.values.add(value)
        ctx.timer_service().register_event_time_timer(value // 100 * 100 + 99)

    def on_timer(self, timestamp: int, ctx: ps.KeyedProcessFunction.OnTimerContext) -> Iterator[int]:
        yield from sorted(self.values.get())
        self.values.clear()


EVENT_TIME = ps.WatermarkStrategy.for_monotonous_timestamps()


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("bursts", [True, False])
@pytest.mark.parametrize("capacity", [3, 50])
def test_no_result_passes_a_watermark(
    new_env: Any, drive: Any, results: Any, ordered: bool, bursts: bool, capacity: int
) -> None:
    """In one chain with what makes records and watermarks, another asynchronous operator, and what sees them."""
    assert results("seen") == []
    env = new_env(1).enable_checkpointing("1h")
    source = ListSource(list(range(NUMBERS)), batch_rows=20, record_type=int, timestamps=int)
    numbers = env.from_source(source, EVENT_TIME, name="numbers", uid="numbers")
    if bursts:
        numbers = numbers.key_by(key_of).process(Bursts(), output_type=int).uid("bursts")
    wait = WAITS["ordered" if ordered else "unordered"]
    twice = wait(numbers, Scattered(), "10s", capacity).uid("scattered")
    again = twice.map_async(negative, ordered=ordered, capacity=2, timeout="10s").uid("negative")
    seen = again.process(Witness(), output_type=tuple[int, int, int]).uid("witness")
    seen.sink_to(ListSink("seen")).uid("seen")
    assert len(env.job_graph().vertices) == 1 + bursts, "all in one chain"
    drive(env).end()
    found = results("seen")
    assert Counter(-value for value, _, _ in found) == Counter([*range(NUMBERS), *range(NUMBERS)])
    assert [value for value, at, watermark in found if watermark >= at] == [], "a watermark was ahead of a result"
    early = [value for value, at, watermark in found if watermark < at - 22 and at > 22]
    assert bursts or early == [], "a result was ahead of a watermark"
    if ordered and not bursts:
        assert [-value for value, _, _ in found] == sorted([*range(NUMBERS), *range(NUMBERS)])


async def negative(value: int) -> int:
    await a_moment(value % 2 / 1_000)
    return -value


class Gathered(ps.ProcessWindowFunction):
    def process(self, key: int, context: Any, elements: Any) -> Iterator[tuple[int, ...]]:
        yield (key, *sorted(elements))


def test_a_drained_job_has_given_everything_out(
    new_env: Any, drive: Any, held_source: Any, results: Any, tmp_path: Path
) -> None:
    """Event time ends before the savepoint, but behind what is under way."""
    assert results("windows") == []
    env = new_env(2)
    source = held_source(list(range(100)), tmp_path / "gate", 20, batch_rows=5, record_type=int, timestamps=int)
    numbers = env.from_source(source, EVENT_TIME, name="numbers", uid="numbers")
    slow = ps.AsyncDataStream.unordered_wait(numbers, Gated(tmp_path / "answers"), "60s").uid("slow")
    windows = slow.key_by(key_of).window(ps.TumblingEventTimeWindows("1h")).process(Gathered()).uid("windows")
    windows.sink_to(ListSink("windows")).uid("out")
    job = drive(env).checkpoints(2)
    request = job.job.savepoint(str(tmp_path / "savepoints"), stop=True, drain=True)
    slots = job.job.cluster.slots
    job.job.run(lambda: any(task._held for slot in slots.values() for task in slot.tasks))
    assert not job.job.operation(request).ended, "it waits for what is under way"
    (tmp_path / "answers").touch()
    assert job.end().state is JobState.FINISHED
    assert job.job.operation(request).state is OperationState.COMPLETED
    fired = sorted(number for _key, *numbers in results("windows") for number in numbers)
    assert fired == list(range(len(fired)))
    assert fired


# ---- how many, how long


class Crowd(ps.AsyncFunction):
    """How many are under way at once."""

    def open(self, runtime_context: ps.RuntimeContext) -> None:
        self.now = 0

    async def async_invoke(self, value: int) -> list[int]:
        self.now += 1
        at_once = self.now
        await a_moment()
        self.now -= 1
        return [at_once]


@pytest.mark.parametrize("wait", ["ordered", "unordered"])
def test_as_many_calls_as_there_may_be_and_no_more(new_env: Any, drive: Any, results: Any, wait: str) -> None:
    assert results("crowd") == []
    env = new_env(1)
    numbers = env.from_source(ListSource(list(range(NUMBERS)), record_type=int), name="numbers", uid="numbers")
    WAITS[wait](numbers, Crowd(), "10s", 17).uid("crowd").sink_to(ListSink("crowd")).uid("out")
    drive(env).end()
    assert max(results("crowd")) == 17


class Flaky(ps.AsyncFunction):
    """Answers at the third call."""

    def open(self, runtime_context: ps.RuntimeContext) -> None:
        self.calls: Counter[int] = Counter()

    async def async_invoke(self, value: int) -> list[int]:
        self.calls[value] += 1
        if self.calls[value] < 3:
            raise ConnectionError("try again")
        return [value]


def test_calls_are_repeated(new_env: Any, drive: Any, results: Any) -> None:
    assert results("flaky") == []
    env = new_env(2)
    numbers = env.from_source(ListSource(list(range(NUMBERS)), record_type=int), name="numbers", uid="numbers")
    retry = ps.AsyncRetryStrategy.exponential_backoff(5, "1ms", "4ms")
    flaky = ps.AsyncDataStream.ordered_wait_with_retry(numbers, Flaky(), "10s", retry, 50).uid("flaky")
    flaky.sink_to(ListSink("flaky")).uid("out")
    drive(env).end()
    assert sorted(results("flaky")) == list(range(NUMBERS))


class Silent(ps.AsyncFunction):
    """Odd numbers have no answer."""

    async def async_invoke(self, value: int) -> list[int]:
        if value % 2:
            await asyncio.Event().wait()
        return [value]


class Resigned(Silent):
    def timeout(self, value: int) -> list[int]:
        return [-value]


def test_without_an_answer_in_time_the_handler_s_results_go_out(new_env: Any, drive: Any, results: Any) -> None:
    assert results("resigned") == []
    env = new_env(1)
    numbers = env.from_source(ListSource(list(range(40)), record_type=int), name="numbers", uid="numbers")
    resigned = ps.AsyncDataStream.ordered_wait(numbers, Resigned(), "30ms", 4).uid("resigned")
    resigned.sink_to(ListSink("resigned")).uid("out")
    drive(env).end()
    given = results("resigned")
    assert [abs(value) for value in given] == list(range(40)), "where the machine is busy even numbers are late, too"
    assert [value for value in given if value % 2] == [-value for value in range(1, 40, 2)]


def test_without_a_handler_the_job_fails_and_says_of_what(new_env: Any, drive: Any) -> None:
    env = new_env(1).set_restart_strategy("none")
    numbers = env.from_source(ListSource([3, 5, 7], record_type=int), name="numbers", uid="numbers")
    silent = ps.AsyncDataStream.unordered_wait(numbers, Silent(), "20ms", name="silent").uid("silent")
    silent.sink_to(ListSink("never")).uid("out")
    with pytest.raises(JobFailedError, match=r"operator 'silent', subtask 0: TimeoutError: .*on the record 3: 20 ms"):
        drive(env).end()


def test_a_job_whose_calls_never_end_can_be_cancelled(new_env: Any, drive: Any) -> None:
    env = new_env(2)
    numbers = env.from_source(ListSource(list(range(NUMBERS)), record_type=int), name="numbers", uid="numbers")
    silent = ps.AsyncDataStream.unordered_wait(numbers, Silent(), "1h", 10).uid("silent")
    silent.sink_to(ListSink("never")).uid("out")
    job = drive(unaligned(env)).checkpoints(2)
    job.job.cancel()
    assert job.end().state is JobState.CANCELED
