"""Over a real job: what its master knows arrives on the wire, through a slot's death and to the end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

import penstock as ps
from penstock.jobmanager.local_job import LocalJob
from penstock.jobmanager.rest.app import RestOptions, create_app
from penstock.runtime.configuration import options as option
from penstock.runtime.configuration.config import Configuration
from penstock.testing.lists import ListSink, ListSource

RECORDS = 2_000
"""About a second: the first checkpoints come long before its end, also on a busy machine."""
UNKNOWN_WATERMARK = "-9223372036854775808"
ViewsGateway = Any


@dataclass
class Event:
    user: str
    at: int


@pytest.fixture
def job(tmp_path: Path) -> Iterator[LocalJob]:
    env = ps.StreamExecutionEnvironment()
    env.set_parallelism(2)
    env.enable_checkpointing("20ms")
    strategy = ps.WatermarkStrategy.for_monotonous_timestamps().with_timestamp_assigner("at")
    source = ListSource([Event(f"u{i % 7}", i * 10) for i in range(RECORDS)], splits=4, batch_rows=5, pause_ms=5)
    events = env.from_source(source, strategy, name="events, all")
    counts = events.key_by("user").window(ps.TumblingEventTimeWindows("1s")).agg(n=ps.count(), name="per user")
    counts.sink_to(ListSink(tmp_path.name), name="out")
    graph = env.job_graph("clicks")
    config = Configuration.from_dict(graph.config).set(option.CHECKPOINTS_DIR, str(tmp_path / "checkpoints"))
    config.set("restart-strategy.exponential-delay.initial-backoff", "10ms")
    found = LocalJob(graph, config)
    yield found
    found.close()


class Seen:
    """REST over the views of a job that is driven by the test itself."""

    def __init__(self, job: LocalJob, gateway: ViewsGateway) -> None:
        self.job = job
        self._gateway = gateway
        gateway.views.clear()
        self._client = TestClient(create_app(gateway, RestOptions(now_ms=job.cluster.loop.now_ms)))

    def run_until(self, condition: Any) -> None:
        assert self.job.cluster.run(condition, timeout_s=60), "it did not come to hold in time"

    def get(self, path: str = "", **query: Any) -> Any:
        cluster = self.job.cluster
        self._gateway.views[self.job.job_id] = cluster.master.view(cluster.loop.now_ms())
        answer = self._client.get(f"/v1/jobs/{self.job.job_id}{path}", params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()


@pytest.fixture
def seen(job: LocalJob, gateway: ViewsGateway) -> Seen:
    return Seen(job, gateway)


def test_a_job_from_its_first_checkpoint_to_its_end(job: LocalJob, seen: Seen) -> None:
    assert seen.get()["state"] == "INITIALIZING"
    seen.run_until(lambda: job.status().checkpoints.completed >= 1)
    found = seen.get()
    assert (found["state"], found["name"], found["end-time"]) == ("RUNNING", "clicks", -1)
    assert found["start-time"] <= found["timestamps"]["RUNNING"] <= found["now"]
    assert len(found["plan"]["nodes"]) == len(found["vertices"]) >= 2
    assert {vertex["status"] for vertex in found["vertices"]} == {"RUNNING"}
    checkpoints = seen.get("/checkpoints")
    last = checkpoints["latest"]["completed"]
    details = seen.get(f"/checkpoints/details/{last['id']}")
    assert (details["className"], set(details["tasks"])) == ("completed", {one["id"] for one in found["vertices"]})
    assert details["num_acknowledged_subtasks"] == details["num_subtasks"]
    for vertex in found["vertices"]:
        subtasks = seen.get(f"/checkpoints/details/{last['id']}/subtasks/{vertex['id']}")["subtasks"]
        assert [subtask["className"] for subtask in subtasks] == ["completed"] * vertex["parallelism"]
    assert seen.get("/checkpoints/config")["interval"] == 20
    assert job.run()
    ended = seen.get()
    assert (ended["state"], {one["status"] for one in ended["vertices"]}) == ("FINISHED", {"FINISHED"})
    assert ended["end-time"] >= ended["timestamps"]["FINISHED"] > 0
    assert seen.get("/execution-result")["job-execution-result"]["application-status"] == "SUCCEEDED"


def test_records_and_watermarks_of_its_vertices(job: LocalJob, seen: Seen) -> None:
    assert job.run()
    source, sink = _ends(seen)
    assert source["metrics"]["write-records"] == RECORDS
    path = f"/vertices/{sink['id']}"
    assert seen.get(path)["aggregated"]["metrics"]["read-records"]["sum"] == sink["metrics"]["read-records"] > 0
    assert seen.get(f"/vertices/{source['id']}/watermarks") == []
    marks = seen.get(f"{path}/watermarks")
    assert len(marks) == 2
    assert UNKNOWN_WATERMARK not in {mark["value"] for mark in marks}
    (records,) = seen.get(f"{path}/subtasks/metrics", get="numRecordsIn", agg="sum")
    assert records["sum"] == sink["metrics"]["read-records"]
    for part in ("subtasktimes", "taskmanagers", "backpressure", "accumulators", "metrics", "subtasks/accumulators"):
        assert seen.get(f"{path}/{part}")


def _ends(seen: Seen) -> tuple[Any, Any]:
    vertices = seen.get()["vertices"]
    return vertices[0], vertices[-1]


def test_a_slot_that_dies_is_an_exception_and_a_restart(job: LocalJob, seen: Seen) -> None:
    seen.run_until(lambda: job.status().checkpoints.completed >= 1)
    job.cluster.kill_slot(next(iter(job.cluster.slots)), "killed by the test")
    seen.run_until(lambda: job.restarts == 1)
    entry = seen.get("/exceptions")["exceptionHistory"]["entries"][0]
    assert "killed by the test" in entry["stacktrace"]
    seen.run_until(lambda: seen.get("/status")["status"] == "RUNNING")
    subtasks = seen.get(f"/vertices/{_ends(seen)[0]['id']}")["subtasks"]
    assert {subtask["attempt"] for subtask in subtasks} == {2}
    assert seen.get("/metrics", get="numRestarts") == [{"id": "numRestarts", "value": "1"}]
    assert seen.get("/checkpoints")["counts"]["restored"] == 1
    assert seen.get("/checkpoints")["latest"]["restored"]["id"] >= 1
