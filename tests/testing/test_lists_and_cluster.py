"""List source, list sink and the cluster of the testing kit, with the local runner."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.api.environment import StreamExecutionEnvironment
from penstock.jobmanager.events import JobState
from penstock.runtime.configuration import options
from penstock.runtime.configuration.config import Configuration
from penstock.runtime.graph.job_graph import JobGraph
from penstock.state.errors import JobFailedError
from penstock.testing.cluster import Cluster
from penstock.testing.lists import FAIL, InjectedFailure, ListSink, ListSource


@pytest.fixture
def sink() -> Iterator[str]:
    name = "testing kit"
    ListSink.clear(name)
    yield name
    ListSink.clear(name)


def job(source: ListSource, sink: str, parallelism: int = 2, **further: str) -> JobGraph:
    config = Configuration(
        {
            options.CHECKPOINT_INTERVAL.key: "30ms",
            options.INITIAL_BACKOFF.key: "10ms",
            options.STATE_BACKEND.key: "heap",
            options.TOLERABLE_FAILED_CHECKPOINTS.key: "-1",
            **{key.replace("__", "."): value for key, value in further.items()},
        }
    )
    env = StreamExecutionEnvironment(config).set_parallelism(parallelism)
    env.from_source(source).map(square).sink_to(ListSink(sink))
    return env.job_graph("squares")


def square(value: int) -> int:
    return value * value


def squares(count: int) -> list[int]:
    return [value * value for value in range(count)]


def test_every_value_once_although_the_source_fails_twice(tmp_path: Path, sink: str) -> None:
    values = [*range(50), FAIL, *range(50, 70), FAIL, *range(70, 100)]
    source = ListSource(values, splits=3, batch_rows=5, pause_ms=5)
    with Cluster(job(source, sink), tmp_path) as cluster:
        assert cluster.finish() is JobState.FINISHED
        assert cluster.restarts == 2
    assert sorted(ListSink.results(sink)) == squares(100)


def test_a_mark_fails_the_job_that_does_not_restart(tmp_path: Path, sink: str) -> None:
    graph = job(ListSource([1, FAIL, 2]), sink, **{"restart-strategy__type": "none"})
    with Cluster(graph, tmp_path) as cluster, pytest.raises(JobFailedError) as failure:
        cluster.finish()
    assert isinstance(failure.value.__cause__, InjectedFailure)


def test_a_killed_slot_costs_nothing_but_time(tmp_path: Path, sink: str) -> None:
    source = ListSource(range(400), splits=8, batch_rows=5, pause_ms=3)
    with Cluster(job(source, sink), tmp_path) as cluster:
        cluster.run_until(lambda: cluster.completed_checkpoints >= 1)
        killed = cluster.kill_slot()
        assert cluster.finish() is JobState.FINISHED
        assert cluster.restarts == 1
        assert killed not in cluster.slots
    assert sorted(ListSink.results(sink)) == squares(400)


def test_a_cluster_that_is_gone_is_continued_at_another_parallelism(tmp_path: Path, sink: str) -> None:
    source = ListSource(range(400), splits=8, batch_rows=5, pause_ms=3)
    with Cluster(job(source, sink), tmp_path) as cluster:
        cluster.run_until(lambda: cluster.completed_checkpoints >= 2)
    visible = len(ListSink.results(sink))
    assert visible < 400
    with Cluster(job(source, sink, parallelism=3), tmp_path, restore="latest") as cluster:
        assert cluster.finish() is JobState.FINISHED
    assert sorted(ListSink.results(sink)) == squares(400)


def test_a_stopped_job_is_continued(tmp_path: Path, sink: str) -> None:
    source = ListSource(range(300), splits=4, batch_rows=5, pause_ms=3)
    with Cluster(job(source, sink), tmp_path) as cluster:
        cluster.run_until(lambda: cluster.completed_checkpoints >= 1)
        assert cluster.stop() is JobState.SUSPENDED
    with Cluster(job(source, sink), tmp_path, restore="latest") as cluster:
        cluster.finish()
    assert sorted(ListSink.results(sink)) == squares(300)


def test_a_condition_that_never_holds_is_an_error(tmp_path: Path, sink: str) -> None:
    with Cluster(job(ListSource([1, 2]), sink), tmp_path) as cluster, pytest.raises(AssertionError, match="FINISHED"):
        cluster.run_until(lambda: False)
    slow = job(ListSource(range(50), batch_rows=1, pause_ms=50), sink)
    with Cluster(slow, tmp_path) as cluster, pytest.raises(TimeoutError):
        cluster.run_until(lambda: False, timeout_s=0.1)
