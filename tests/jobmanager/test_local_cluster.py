"""The local cluster's clock: nothing that the job master waits for may time out while user code holds the thread."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import penstock as ps
from penstock.jobmanager.local_cluster import LocalCluster
from penstock.jobmanager.local_job import LocalJob
from penstock.state.store.obstore_objects import ObstoreObjects
from penstock.testing.clock import ManualClock


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[LocalCluster, ManualClock]]:
    env = ps.StreamExecutionEnvironment()
    env.enable_checkpointing("10s", storage=tmp_path)
    env.from_collection([1, 2, 3]).print()
    job = LocalJob(env.job_graph("paused"), env.configuration)
    clock = ManualClock()
    cluster = LocalCluster(job.cluster.master, ObstoreObjects("memory://"), clock)
    yield cluster, clock
    cluster.close()
    job.close()


def test_the_masters_time_stands_still_in_a_breakpoint(cluster: tuple[LocalCluster, ManualClock]) -> None:
    local, clock = cluster
    began_ms = local.loop.now_ms()
    clock.advance(3_600_000)
    assert local.loop.now_ms() - began_ms == 1_000, "an hour in which nobody could answer"
    for _ in range(20):
        clock.advance(100)
        local.loop.now_ms()
    assert local.loop.now_ms() - began_ms == 3_000, "it goes on as ever afterwards"
