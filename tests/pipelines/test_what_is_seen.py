"""The view of a real job: what its slots measure arrives in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import penstock as ps
from penstock.jobmanager.views import JobView
from penstock.testing.lists import ListSink


def view(driven: Any) -> JobView:
    cluster = driven.job.cluster
    seen: JobView = cluster.master.view(cluster.loop.now_ms())
    return seen


def test_rates_and_checkpoints_of_a_running_job(
    new_env: Callable[..., ps.StreamExecutionEnvironment],
    drive: Any,
    held_source: Any,
    tmp_path: Path,
    results: Callable[[str], list[Any]],
) -> None:
    gate = tmp_path / "gate"
    env = new_env(2).set_state_backend("rocksdb")
    source = held_source(list(range(4_000)), gate, 1_500)
    counts = env.from_source(source).key_by(lambda x: x % 97).reduce(lambda a, b: a + b)
    counts.sink_to(ListSink("seen"))
    driven = drive(env)
    driven.until(lambda status: sum(v.records_in for v in status.vertices) >= 3_000).checkpoints(2)
    driven.until(lambda _: view(driven).vertices[1].subtasks[0].metrics.idle_rate > 0)
    seen = view(driven)
    metrics = [subtask.metrics for vertex in seen.vertices for subtask in vertex.subtasks]
    for each in metrics:
        assert each.busy_rate + each.idle_rate + each.backpressured_rate == pytest.approx(1_000, abs=2)
    latest = seen.checkpoints.latest_completed
    assert latest is not None
    assert {key: len(subtasks) for key, subtasks in latest.acknowledged.items()} == latest.expected_subtasks
    assert latest.state_bytes > latest.checkpointed_bytes > 0, "files of earlier checkpoints are not written again"
    assert latest.external_path == f"{driven.job.location}/{driven.status.checkpoints.last_metadata_name}"
    gate.touch()
    driven.end()
    ended = view(driven)
    assert (ended.overview.state, ended.overview.bounded) == ("FINISHED", True)
    assert ended.checkpoints.latest_completed is not None
    assert ended.checkpoints.latest_completed.discarded
    assert list(ended.timestamps)[-1] == "FINISHED"
    assert len(results("seen")) == 4_000
