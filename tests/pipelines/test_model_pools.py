"""Pools of models in whole local jobs, whose actors are threads: exactly once over deaths of slots and another
parallelism, watermarks, errors."""

from __future__ import annotations

import functools
import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import penstock as ps
from penstock.jobmanager.events import JobState
from penstock.state.errors import JobFailedError
from penstock.testing.lists import ListSink, ListSource

NUMBERS = 600


@dataclass
class Row:
    n: int


ROWS = [Row(n) for n in range(NUMBERS)]
EVENT_TIME = ps.WatermarkStrategy.for_monotonous_timestamps().with_timestamp_assigner(lambda row, _: row.n)
loaded: Counter[str] = Counter()
"""Models by what they wait for. Threads of this process add to it."""


class Gated:
    """Batches with a number that seven divides have no answer before the gate is there."""

    def __init__(self, gate: str) -> None:
        self.gate = Path(gate)
        loaded[gate] += 1

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        while (batch["n"] % 7 == 0).any() and not self.gate.exists():
            threading.Event().wait(0.002)
        return {"n": batch["n"] * 2}


class Refuses:
    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        if (batch["n"] == 33).any():
            raise ValueError("33 is no number")
        return batch


class CannotLoad(Refuses):
    def __init__(self) -> None:
        raise OSError("no weights")


def model_behind(gate: Path) -> Any:
    return functools.partial(Gated, str(gate))


def doubled(env: Any, gate: Path, *, concurrency: int, ordered: bool, chained: bool) -> Any:
    rows = env.from_source(
        ListSource(ROWS, splits=5, batch_rows=10, record_type=Row), EVENT_TIME, name="rows", uid="rows"
    )
    rows = rows if chained else rows.rebalance()
    pooled = rows.map_batches(
        model_behind(gate), "numpy", concurrency=concurrency, batch_size=5, ordered=ordered, capacity=4, timeout="10min"
    )
    pooled.uid("pool").sink_to(ListSink("doubled")).uid("doubled")
    options = {  # barriers overtake at once, and little is under way on channels
        "execution.checkpointing.aligned-checkpoint-timeout": "0ms",
        "taskmanager.memory.network.channel-window": "600",
    }
    return env.configure(ps.Configuration(options))


@pytest.mark.parametrize(
    ("before", "after", "concurrency", "ordered", "chained"),
    [(2, 3, 4, True, False), (3, 1, 3, False, True), (1, 2, 1, True, True)],
)
def test_under_way_while_slots_die_and_the_job_goes_on_elsewhere(
    new_env: Any, drive: Any, results: Any, tmp_path: Path,
    before: int, after: int, concurrency: int, ordered: bool, chained: bool,
) -> None:  # fmt: skip
    """All models wait; barriers do not. What is in the checkpoint is sent again, and comes out once."""
    assert results("doubled") == []
    gate = tmp_path / "gate"
    job = drive(doubled(new_env(before), gate, concurrency=concurrency, ordered=ordered, chained=chained))
    job.checkpoints(2).kill().checkpoints(2)
    path = f"{job.job.location}/{job.status.checkpoints.last_metadata_name}"
    job.job.close()
    assert loaded[str(gate)] >= concurrency
    job = drive(doubled(new_env(after, restore=path), gate, concurrency=concurrency, ordered=ordered, chained=chained))
    job.checkpoints(2)
    gate.touch()
    assert job.end().state is JobState.FINISHED
    assert Counter(row.n for row in results("doubled")) == Counter(n * 2 for n in range(NUMBERS))


def test_windows_behind_a_pool_see_every_record_in_time(new_env: Any, drive: Any, results: Any, tmp_path: Path) -> None:
    """No watermark goes ahead of a record before it, so nothing is late."""
    assert results("sums") == []
    (tmp_path / "gate").touch()
    env = new_env(2)
    rows = env.from_source(ListSource(ROWS, splits=2, batch_rows=7, record_type=Row), EVENT_TIME, name="rows")
    pooled = rows.map_batches(model_behind(tmp_path / "gate"), "numpy", concurrency=3, batch_size=16, ordered=False)
    late: ps.OutputTag[Row] = ps.OutputTag("late", Row)
    sums = (
        pooled.key_by(lambda row: 0, key_type=int)
        .window(ps.TumblingEventTimeWindows(100))
        .side_output_late_data(late)
        .reduce(lambda one, other: Row(one.n + other.n))
    )
    sums.sink_to(ListSink("sums"))
    sums.get_side_output(late).sink_to(ListSink("late"))
    assert drive(env).end().state is JobState.FINISHED
    expected = sorted(sum(2 * n for n in range(start, start + 100)) for start in range(0, NUMBERS, 100))
    assert sorted(row.n for row in results("sums")) == expected
    assert results("late") == []


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (Refuses, r"operator 'model', subtask \d: ValueError: 33 is no number \(on a batch of \d+ records, the first"),
        (CannotLoad, r"operator 'model', subtask \d: OSError: no weights \(its model cannot be loaded\)"),
    ],
)
def test_what_a_model_raises_fails_the_job_with_its_words(new_env: Any, drive: Any, model: Any, said: str) -> None:
    env = new_env(1).set_restart_strategy("none")
    rows = env.from_source(ListSource(ROWS, batch_rows=10, record_type=Row), name="rows")
    rows.map_batches(model, "numpy").name("model").sink_to(ListSink("nothing"))
    job = drive(env)
    with pytest.raises(JobFailedError, match=said):
        job.end()
    assert __file__ in (job.status.failure_traceback or ""), "the frames of the model are there"
