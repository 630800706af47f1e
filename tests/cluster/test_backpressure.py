"""A sink that is slow: everything before it waits, nothing piles up, and REST says so."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from penstock.api.rest_client import RestClient
from penstock.jobmanager.gateway import RunRequest

if TYPE_CHECKING:
    from conftest import Cluster, WaitFor

SCRIPT = Path(__file__).with_name("slow_sink_job.py")
WINDOW_BYTES = 256 * 1024
MOST_ON_THE_WAY = 10_000
"""Records: four windows of 250, a batch of 1,024 before each of them, and what is consumed between two reports."""


@pytest.fixture(scope="module")
def cluster_settings() -> dict[str, object]:
    return {"taskmanager__numberOfTaskSlots": 2}


class Vertices:
    """The job's two, as REST shows them now."""

    def __init__(self, cluster: Cluster, job_id: str) -> None:
        self._cluster, self._job_id = cluster, job_id
        self.source, self.sink = cluster.get(f"/jobs/{job_id}")["vertices"]

    def written(self) -> int:
        count: int = self.source["metrics"]["write-records"]
        return count

    def consumed(self) -> int:
        count: int = self.sink["metrics"]["read-records"]
        return count

    def backpressure(self, vertex: dict[str, Any]) -> dict[str, Any]:
        answer: dict[str, Any] = self._cluster.get(f"/jobs/{self._job_id}/vertices/{vertex['id']}/backpressure")
        return answer


def test_a_slow_sink_throttles_the_source_in_bounded_memory(cluster: Cluster, wait_for: WaitFor) -> None:
    rest = RestClient(cluster.address)
    try:
        artefact = rest.upload(SCRIPT, SCRIPT.name)
        config = {"taskmanager.memory.network.channel-window": str(WINDOW_BYTES)}
        job_id = rest.run(RunRequest(artefact, parallelism=2, config=config)).job_id
        wait_for(lambda: cluster.get(f"/jobs/{job_id}")["state"] == "RUNNING", "it runs")
        wait_for(lambda: Vertices(cluster, job_id).consumed() > 4_000, "the sink takes records")

        def as_it_should() -> bool:
            """The ratios are of the last seconds, so they come to be so."""
            now = Vertices(cluster, job_id)
            before, behind = now.backpressure(now.source), now.backpressure(now.sink)
            return (
                before["backpressureLevel"] == "high"
                and all(each["ratio"] > 0.8 and each["busyRatio"] < 0.2 for each in before["subtasks"])
                and behind["backpressureLevel"] == "ok"
                and all(each["ratio"] < 0.1 and each["busyRatio"] > 0.8 for each in behind["subtasks"])
            )

        wait_for(as_it_should, "the source is backpressured, the sink is busy")
        now = Vertices(cluster, job_id)
        assert now.written() - now.consumed() <= MOST_ON_THE_WAY
        manager = cluster.get("/taskmanagers")["taskmanagers"][0]
        slots = cluster.get(f"/taskmanagers/{manager['id']}")["slots"]
        assert sum(slot["jobId"] == job_id for slot in slots) == 2
        for slot in slots:
            assert 0 < slot["residentBytes"] <= slot["budgetBytes"], slot
        rest.cancel(job_id)
        wait_for(lambda: cluster.get(f"/jobs/{job_id}")["state"] == "CANCELED", "it ends although all of it waits")
    finally:
        rest.close()
