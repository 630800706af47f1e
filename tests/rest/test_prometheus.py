"""What Prometheus scrapes: names, labels, units, values."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from penstock.jobmanager.gateway import UnavailableError

NOW_S = 1_700_000_100
JOB = "0123456789abcdef0123456789abcdef"
ENDED_JOB = "feedfacefeedfacefeedfacefeedface"
ViewsGateway = Any


def scrape(client: TestClient) -> dict[str, list[tuple[dict[str, str], float]]]:
    answer = client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def value(found: Any, name: str, **labels: str) -> float:
    (one,) = (number for has, number in found[name] if labels.items() <= has.items())
    return float(one)


def test_records_and_times_of_subtasks(client: TestClient) -> None:
    found = scrape(client)
    labels, _ = found["penstock_records_in_total"][0]
    assert set(labels) == {"pipeline", "job_id", "operator", "subtask"}
    assert value(found, "penstock_records_in_total", operator="write", subtask="1") == 140
    assert value(found, "penstock_records_out_total", operator="parse", subtask="0") == 100
    assert value(found, "penstock_bytes_in_total", operator="write", subtask="0") == 600
    time = "penstock_subtask_time_seconds_total"
    assert value(found, time, operator="read", subtask="0", state="busy") == 1.5005
    assert value(found, time, operator="read", subtask="0", state="backpressured") == 0.5
    assert value(found, "penstock_watermark_timestamp_seconds", subtask="0") == NOW_S - 60
    assert value(found, "penstock_watermark_lag_seconds", subtask="0") == 60
    assert len(found["penstock_watermark_timestamp_seconds"]) == 1


def test_counters_of_operators_and_users(client: TestClient) -> None:
    found = scrape(client)
    assert value(found, "penstock_records_late_total", operator="write", subtask="0") == 3
    assert value(found, "penstock_user_metric", operator="write", metric="latency") == 0.5
    assert value(found, "penstock_user_metric", operator="read", metric="numbers_total") == 7


def test_jobs_checkpoints_and_the_cluster(client: TestClient) -> None:
    found = scrape(client)
    job = {"pipeline": "clicks", "job_id": JOB}
    assert value(found, "penstock_job_state", state="running", **job) == 1
    assert value(found, "penstock_job_state", state="failed", **job) == 0
    assert value(found, "penstock_job_state", state="failed", job_id=ENDED_JOB) == 1
    assert value(found, "penstock_job_restarts_total", **job) == 1
    assert value(found, "penstock_checkpoints_total", outcome="completed") == 2
    assert value(found, "penstock_checkpoint_duration_seconds") == 0.303
    assert value(found, "penstock_checkpoint_bytes", kind="full") == 3_000
    assert value(found, "penstock_last_completed_checkpoint_timestamp_seconds") == NOW_S - 60 + 3.303
    assert value(found, "penstock_slots", state="free") == 3
    assert value(found, "penstock_slots", state="used") == 1
    assert value(found, "penstock_task_managers") == 1
    assert value(found, "penstock_build_info", version="0.1.0") == 1


def test_subtasks_of_ended_jobs_are_not_shown(client: TestClient) -> None:
    found = scrape(client)
    assert {labels["job_id"] for labels, _ in found["penstock_records_in_total"]} == {JOB}


def test_a_job_that_does_not_answer_does_not_hide_the_others(client: TestClient, gateway: ViewsGateway) -> None:
    other = "1" * 32
    view = gateway.views[JOB]
    gateway.views[other] = replace(view, overview=replace(view.overview, id=other))
    answer = gateway.job

    def job(job_id: str) -> Any:
        if job_id == JOB:
            raise UnavailableError("its master does not answer")
        return answer(job_id)

    gateway.job = job
    found = scrape(client)
    assert {labels["job_id"] for labels, _ in found["penstock_records_in_total"]} == {other}
    assert value(found, "penstock_job_state", state="running", job_id=JOB) == 1


def test_requests_are_timed_by_path_template(client: TestClient) -> None:
    client.get(f"/v1/jobs/{JOB}/plan")
    client.get("/nothing")
    name = "penstock_http_request_duration_seconds_count"
    found = scrape(client)
    assert value(found, name, method="GET", path="/jobs/{job_id}/plan", status="200") == 1
    assert value(found, name, path="unknown path", status="404") == 1


def test_names_and_labels_are_those_of_the_convention(client: TestClient) -> None:
    found = scrape(client)
    for name, samples in found.items():
        assert re.fullmatch(r"penstock_[a-z_]+", name), name
        assert not {"job", "instance", "job_name"} & {label for labels, _ in samples for label in labels}, name
