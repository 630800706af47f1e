"""What a subtask tells of itself: of a real job in this process, as its master sees it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import penstock as ps
from penstock.jobmanager.local_job import LocalJob
from penstock.jobmanager.views import JobView, SubtaskView
from penstock.runtime.configuration import options
from penstock.runtime.configuration.config import Configuration
from penstock.testing.lists import ListSink, ListSource

KEYS = 7
TIMED = ps.WatermarkStrategy.for_monotonous_timestamps().with_timestamp_assigner(lambda number, _: number * 10)


class Remembers(ps.KeyedProcessFunction):
    def open(self, context: Any) -> None:
        self.last = context.get_state(ps.ValueStateDescriptor[int]("last", int))

    def process_element(self, number: int, context: Any) -> Iterator[int]:
        self.last.update(number)
        context.timer_service().register_event_time_timer(10**9)
        yield number


class Measured(ps.MapFunction):
    """Its gauge cannot be read."""

    def open(self, context: Any) -> None:
        context.get_metrics_group().gauge("broken", lambda: 1 / 0)

    def map(self, number: int) -> int:
        return number


def job_of(directory: Path, function: Any = None, **config: str) -> LocalJob:
    env = ps.StreamExecutionEnvironment(Configuration({key.replace("__", "."): value for key, value in config.items()}))
    env.enable_checkpointing("20ms").set_restart_strategy("none")
    numbers = env.from_source(ListSource(list(range(2_000)), batch_rows=4, pause_ms=4), TIMED, name="numbers")
    if function is not None:
        numbers = numbers.map(function, name="measured")
    numbers.key_by(lambda number: number % KEYS).process(Remembers(), name="keyed").sink_to(ListSink(directory.name))
    graph = env.job_graph("reports")
    return LocalJob(
        graph, Configuration.from_dict(graph.config).set(options.CHECKPOINTS_DIR, str(directory / "checkpoints"))
    )


def view(job: LocalJob) -> JobView:
    return job.cluster.master.view(job.cluster.loop.now_ms())


def subtasks(job: LocalJob) -> tuple[SubtaskView, SubtaskView]:
    source, keyed = view(job).vertices
    return source.subtasks[0], keyed.subtasks[0]


@pytest.mark.parametrize("backend", ["heap", "rocksdb"])
def test_a_job_that_runs_shows_its_channels_state_latency_and_lag(tmp_path: Path, backend: str) -> None:
    job = job_of(tmp_path, metrics__latency__interval="10ms", state__backend__type=backend)
    try:

        def seen() -> bool:
            source, keyed = (one.metrics for one in subtasks(job))
            stored = any(state.bytes for state in keyed.details.states.values())
            return source.records_out > 0 and keyed.details.record_latency_ms is not None and stored

        assert job.cluster.run(seen, timeout_s=60), "it did not come to hold in time"
        source, keyed = (one.metrics for one in subtasks(job))
        assert 0 < (source.details.source_lag_records or 0) < 2_000
        assert source.details.source_timestamp is not None
        assert 0 < source.details.source_timestamp < 20_000
        assert 0 < source.details.credits_available_bytes <= options.CHANNEL_WINDOW.default
        assert (source.details.states, source.details.record_latency_ms) == ({}, None)
        assert 0 < keyed.details.batches_in <= keyed.records_in
        assert keyed.details.source_lag_records is None
        (state,) = keyed.details.states.values()
        assert (state.timers, bool(state.rocksdb)) == (KEYS, backend == "rocksdb")
        assert state.entries >= 2 * KEYS, "values and timers"
        assert keyed.details.record_latency_ms is not None
        assert 0 <= keyed.details.record_latency_ms < 60_000
    finally:
        job.close()


def test_without_an_interval_there_are_no_markers(tmp_path: Path) -> None:
    job = job_of(tmp_path, metrics__latency__interval="0")
    try:
        assert job.cluster.run(lambda: subtasks(job)[1].metrics.details.batches_in > 0, timeout_s=60)
        assert subtasks(job)[1].metrics.details.record_latency_ms is None
    finally:
        job.close()


def test_a_gauge_that_raises_fails_its_task_and_nothing_else(tmp_path: Path) -> None:
    job = job_of(tmp_path, Measured())
    try:
        assert job.cluster.run(lambda: bool(view(job).exceptions), timeout_s=60)
        first = view(job).exceptions[0]
        assert "ZeroDivisionError" in first.exception
        assert first.task.startswith("numbers")
        assert job.run()
        assert view(job).overview.state == "FAILED"
    finally:
        job.close()
