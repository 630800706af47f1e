"""A failure in one of several regions of a real job: who restarts, who goes on undisturbed, and exactly-once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import penstock as ps
from penstock.connectors.files import FileSink
from penstock.connectors.formats import Json
from penstock.jobmanager.events import JobState, JobStatus
from penstock.jobmanager.views import JobView
from penstock.testing.lists import FAIL, ListSink

READ: Counter[Any] = Counter()
"""How often a record has passed a map, or how many an operator of that name has seen, in this process."""
OPENED: Counter[Any] = Counter()
"""How often a subtask, or one of an operator of that name, was opened."""


class Counting(ps.MapFunction):
    """Notes what it sees."""

    def open(self, runtime_context: ps.RuntimeContext) -> None:
        OPENED[runtime_context.get_index_of_this_subtask()] += 1

    def map(self, value: int) -> int:
        READ[value] += 1
        return value


class Numbered(ps.KeyedProcessFunction):
    """The n-th of its key."""

    def __init__(self, name: str) -> None:
        self.name = name

    def open(self, runtime_context: ps.RuntimeContext) -> None:
        OPENED[self.name] += 1
        self.seen = runtime_context.get_state(ps.ValueStateDescriptor("seen", int, 0))

    def process_element(self, value: int, ctx: Any) -> Iterator[tuple[int, int]]:
        READ[self.name] += 1
        self.seen.update(self.seen.value() + 1)
        yield value, self.seen.value()


@pytest.fixture(autouse=True)
def nothing_read() -> None:
    READ.clear()
    OPENED.clear()


def view(driven: Any) -> JobView:
    cluster = driven.job.cluster
    seen: JobView = cluster.master.view(cluster.loop.now_ms())
    return seen


def attempts(driven: Any) -> dict[str, list[int]]:
    return {vertex.name: [subtask.attempt for subtask in vertex.subtasks] for vertex in view(driven).vertices}


def runs_again(attempt: int) -> Callable[[JobStatus], bool]:
    return lambda status: status.attempt == attempt and status.state is JobState.RUNNING


@pytest.mark.parametrize("strategy", ["region", "full"])
def test_a_strand_restarts_alone(
    new_env: Any, tmp_path: Path, drive: Any, held_source: Any, results: Any, strategy: str
) -> None:
    values, gate = list(range(3_000)), tmp_path / "gate"
    env = new_env(parallelism=3)
    env.configure(ps.Configuration({"jobmanager.execution.failover-strategy": strategy}))
    source = held_source(values, gate, 200, splits=3, batch_rows=20)
    env.from_source(source).map(Counting()).sink_to(ListSink("strands"))
    driven = drive(env).until(lambda _: READ.total() == 600)
    driven.kill().until(runs_again(2))
    (found,) = attempts(driven).values()
    assert sorted(found) == ([1, 1, 2] if strategy == "region" else [2, 2, 2])
    assert [OPENED[index] for index in range(3)] == found
    gate.touch()
    driven.end()
    assert sorted(results("strands")) == values
    again = {value // 1_000 for value, times in READ.items() if times > 1}
    assert len(again) <= (1 if strategy == "region" else 3)  # nobody but the restarted one read anything twice


def test_pipelines_that_have_nothing_in_common(new_env: Any, tmp_path: Path, drive: Any, held_source: Any) -> None:
    """User code fails in one; the other one keeps its state and reads on while the first one is down."""
    ListSink.clear("one")
    ListSink.clear("other")
    gate, values = tmp_path / "gate", list(range(400))
    env = new_env(parallelism=2).set_restart_strategy("fixed-delay", attempts=3, delay="1s")
    failing = held_source([*values[:300], FAIL, *values[300:]], tmp_path / "never", 10_000, splits=4, batch_rows=5)
    steady = held_source(values, gate, 20, splits=4, batch_rows=1)
    for source, name in ((failing, "one"), (steady, "other")):
        stream = env.from_source(source).slot_sharing_group(name)
        stream.key_by(lambda value: value % 7).process(Numbered(name)).name(name).sink_to(ListSink(name))
    driven = drive(env).until(lambda status: status.state is JobState.RESTARTING)
    gate.touch()
    driven.job.run(lambda: READ["other"] == len(values))
    assert driven.status.state is JobState.RESTARTING
    status = driven.end()
    assert status.restarts == 1
    assert (OPENED["one"], OPENED["other"]) == (4, 2)
    assert READ["other"] == len(values)
    for name in ("one", "other"):
        counts: dict[int, list[int]] = {}
        for value, number in ListSink.results(name):
            counts.setdefault(value % 7, []).append(number)
        assert {key: sorted(numbers) for key, numbers in counts.items()} == {
            key: list(range(1, len(values[key::7]) + 1)) for key in range(7)
        }


def test_files_that_survivors_write_are_not_cleaned_up(
    new_env: Any, tmp_path: Path, drive: Any, held_source: Any
) -> None:
    """Closed and open parts of the strands that go on are pending when another one dies, and when it restarts."""
    out, gate, values = tmp_path / "out", tmp_path / "gate", list(range(900))
    env = new_env(parallelism=3).enable_checkpointing("10min")
    source = held_source(values, gate, 100, splits=3, batch_rows=10)
    env.from_source(source).map(Counting()).sink_to(FileSink(out, Json(), roll_rows=30))
    driven = drive(env).until(lambda _: READ.total() == 300)
    pending = sorted(out.glob("_*.pending"))
    assert len(pending) == 12
    driven.kill().until(runs_again(2))
    assert set(pending) <= set(out.glob("_*.pending"))
    gate.touch()
    driven.end()
    lines = [int(line) for path in out.iterdir() for line in path.read_text().splitlines()]
    assert sorted(lines) == values
    assert not list(out.glob("_*"))  # what the dead one left is gone, too


def test_without_checkpoints_a_region_starts_from_its_beginning(
    new_env: Any, tmp_path: Path, drive: Any, held_source: Any, results: Any
) -> None:
    gate, values = tmp_path / "gate", list(range(600))
    env = new_env(parallelism=2).enable_checkpointing("0")
    source = held_source(values, gate, 100, splits=6, batch_rows=10)
    env.from_source(source).map(Counting()).sink_to(ListSink("afresh"))
    driven = drive(env).until(lambda _: READ.total() == 200)
    driven.kill().until(runs_again(2))
    gate.touch()
    driven.end()
    assert sorted(results("afresh")) == values
    assert sorted(OPENED.values()) == [1, 2]
