"""What can be seen of running jobs: a sink that is slow, and everything before it waits; a source that waits for
another one; what Prometheus scrapes."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from penstock.api.rest_client import RestClient
from penstock.jobmanager.gateway import RunRequest
from penstock.jobmanager.rest.served_metrics import SERVED, full_name
from penstock.runtime.configuration.options import CHANNEL_WINDOW

if TYPE_CHECKING:
    from conftest import Cluster, WaitFor

SCRIPT = Path(__file__).with_name("slow_sink_job.py")
METERED = Path(__file__).with_name("metered_job.py")
ALIGNED = Path(__file__).with_name("aligned_job.py")
WINDOW_BYTES = 256 * 1024
DEFAULT_WINDOW_BYTES = CHANNEL_WINDOW.default or 0
KEYS = 100
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


class Scrape:
    """The samples that /metrics has of a job now, and of no job."""

    def __init__(self, cluster: Cluster, job_id: str) -> None:
        with urllib.request.urlopen(f"{cluster.address}/metrics", timeout=30) as answer:
            text = answer.read().decode()
        self._samples = [
            (sample.name.removeprefix("penstock_"), sample.labels, sample.value)
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.labels.get("job_id", "") in ("", job_id)
        ]

    @property
    def names(self) -> set[str]:
        return {name for name, _labels, _value in self._samples}

    def values(self, name: str, **labels: str) -> list[float]:
        return [value for has, own, value in self._samples if has == name and labels.items() <= own.items()]

    def sum(self, name: str, **labels: str) -> float:
        return sum(self.values(name, **labels))

    def read(self, job_id: str) -> float:
        """Bytes, from the object store."""
        return sum(
            self.sum("object_store_bytes_total", op=op, job_id=job_id) for op in ("get", "get_range", "get_file")
        )


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
        waits = Scrape(cluster, job_id)
        assert waits.sum("credits_available_bytes", operator="map page") < 2 * WINDOW_BYTES
        assert waits.sum("channel_queued_bytes", direction="in") > 0
        manager = cluster.get("/taskmanagers")["taskmanagers"][0]
        slots = cluster.get(f"/taskmanagers/{manager['id']}")["slots"]
        assert sum(slot["jobId"] == job_id for slot in slots) == 2
        for slot in slots:
            assert 0 < slot["residentBytes"] <= slot["budgetBytes"], slot
        rest.cancel(job_id)
        wait_for(lambda: cluster.get(f"/jobs/{job_id}")["state"] == "CANCELED", "it ends although all of it waits")
    finally:
        rest.close()


def test_a_fast_source_pauses_while_a_slow_one_is_behind(cluster: Cluster, wait_for: WaitFor, tmp_path: Path) -> None:
    rest, gate, out = RestClient(cluster.address), tmp_path / "gate", tmp_path / "out"
    try:
        arguments = ("--gate", str(gate), "--out", str(out))
        artefact = rest.upload(ALIGNED, ALIGNED.name)
        job_id = rest.run(RunRequest(artefact, arguments=arguments, parallelism=2)).job_id

        def paused_s() -> float:
            """Of the subtask of the fast one that has paused less: one stands at 300 ms, the other one at 2,500."""
            found = Scrape(cluster, job_id).values("alignment_paused_seconds_total", operator="fast")
            return min(found) if len(found) == 2 else 0

        def read(source: str) -> int:
            vertices = cluster.get(f"/jobs/{job_id}")["vertices"]
            return sum(each["metrics"]["write-records"] for each in vertices if each["name"].startswith(source))

        wait_for(lambda: cluster.get(f"/jobs/{job_id}")["state"] == "RUNNING", "it runs")
        wait_for(lambda: read("slow") == 3, "the slow one stands")
        began_s = paused_s()
        wait_for(lambda: paused_s() > began_s + 0.5, "both splits of the fast one pause")
        before, then_s = read("fast"), paused_s()
        assert 0 < before < 400, "of 500"
        wait_for(lambda: paused_s() > then_s + 0.5, "they go on pausing")
        assert (read("slow"), read("fast")) == (3, before)
        gate.touch()
        wait_for(lambda: cluster.get(f"/jobs/{job_id}")["state"] == "FINISHED", "both come to their ends")
        rows = [json.loads(row) for part in out.glob("part-*.json") for row in part.read_text().splitlines()]
        expected = [("slow", at) for at in range(0, 5_000, 100)] + [("fast", at) for at in range(0, 5_000, 10)]
        assert sorted((row["source"], row["at"]) for row in rows) == sorted(expected)
    finally:
        rest.close()


NOT_OF_THIS_JOB = {
    "records_late_total", "records_malformed_total", "records_dead_letter_total", "user_errors_total", "user_metric",
    "batch_rows", "http_request_duration_seconds", "restore_duration_seconds", "restored_bytes",
    "records_from_future_total", "alignment_paused_seconds_total",
}  # fmt: skip
"""Nothing of it happens here; and what has samples under longer names, or only after a failure."""


def test_prometheus_sees_all_of_a_job_with_state(cluster: Cluster, wait_for: WaitFor) -> None:
    rest = RestClient(cluster.address)
    try:
        job_id = rest.run(RunRequest(rest.upload(METERED, METERED.name), parallelism=2)).job_id
        expected = {full_name(name).removeprefix("penstock_") for name in SERVED} - NOT_OF_THIS_JOB
        missing: set[str] = set()

        def complete() -> bool:
            """Also of checkpoints, of which the first one comes after a while."""
            nonlocal missing
            seen = Scrape(cluster, job_id)
            missing = expected - seen.names
            return not missing and seen.sum("timers") == KEYS and seen.sum("checkpoints_total", outcome="completed") > 1

        try:
            wait_for(complete, "all names are there")
        finally:
            assert not missing
        seen = Scrape(cluster, job_id)
        _is_plausible(seen)
        slots = cluster.get("/taskmanagers/" + cluster.get("/taskmanagers")["taskmanagers"][0]["id"])["slots"]
        psutil.Process(next(slot["pid"] for slot in slots if slot["jobId"] == job_id)).kill()
        wait_for(lambda: Scrape(cluster, job_id).values("restore_duration_seconds"), "it is restored")
        wait_for(lambda: Scrape(cluster, job_id).sum("timers") == KEYS, "it reports again")
        after = Scrape(cluster, job_id)
        assert 0 <= after.values("restore_duration_seconds")[0] < 60
        assert after.sum("object_store_requests_total", op="put") > seen.sum("object_store_requests_total", op="put")
        assert after.read(job_id) > seen.read(job_id)
        rest.cancel(job_id)
        wait_for(lambda: cluster.get(f"/jobs/{job_id}")["state"] == "CANCELED", "it ends")
    finally:
        rest.close()


def _is_plausible(seen: Scrape) -> None:
    windows = 2 * 2 * DEFAULT_WINDOW_BYTES
    assert 0 < seen.sum("credits_available_bytes", operator="slow") <= windows
    assert seen.sum("batch_rows_count", operator="counted") > 0
    assert seen.sum("batch_rows_sum", operator="counted") == seen.sum("records_in_total", operator="counted") > 0
    assert all(0 <= latency < 60 for latency in seen.values("record_latency_seconds", operator="counted"))
    assert seen.sum("state_entries", operator="counted") >= KEYS
    assert seen.sum("state_bytes", operator="counted") > 0
    assert seen.sum("rocksdb_live_sst_bytes", operator="counted") > 0
    assert 0 < seen.sum("source_lag_records", operator="numbers") < 10**9
    assert all(-60 < lag < 600 for lag in seen.values("source_lag_seconds", operator="numbers"))
    phases = {"start_delay", "align", "sync", "async", "complete"}
    longest = {phase: seen.sum("checkpoint_phase_seconds", phase=phase) for phase in phases}
    assert all(0 <= seconds < 60 for seconds in longest.values())
    assert sum(longest.values()) > 0
    assert seen.sum("object_store_requests_total", op="put", code="ok", pipeline="metered") > 0
    assert seen.sum("object_store_requests_total", job_id="") > 0
    assert seen.sum("object_store_bytes_total", op="put", pipeline="metered") > 0
