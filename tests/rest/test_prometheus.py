"""What Prometheus scrapes: names, labels, units, values."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from penstock.jobmanager.gateway import UnavailableError
from penstock.jobmanager.rest.served_metrics import ROCKSDB, SERVED, full_name

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
    assert value(found, "penstock_watermark_timestamp_seconds", operator="write") == NOW_S - 60
    assert value(found, "penstock_watermark_lag_seconds", operator="write") == 60
    assert len(found["penstock_watermark_timestamp_seconds"]) == 2
    assert value(found, "penstock_batch_rows_count", operator="write", subtask="0") == 3
    assert value(found, "penstock_batch_rows_sum", operator="write", subtask="0") == 60


def test_channels_and_latency(client: TestClient) -> None:
    found = scrape(client)
    assert value(found, "penstock_credits_available_bytes", operator="parse", subtask="0") == 1_000
    queued = "penstock_channel_queued_bytes"
    assert value(found, queued, operator="parse", subtask="0", direction="out") == 300
    assert value(found, queued, operator="write", subtask="0", direction="in") == 70
    assert {(labels["operator"], labels["direction"]) for labels, _ in found[queued]} == {
        ("parse", "out"),
        ("write", "in"),
    }
    assert {labels["operator"] for labels, _ in found["penstock_credits_available_bytes"]} == {"parse"}
    assert value(found, "penstock_record_latency_seconds", operator="write", subtask="0") == 0.25
    assert len(found["penstock_record_latency_seconds"]) == 1, "of those that have had a marker"


def test_lag_is_that_of_sources_that_run(client: TestClient, gateway: ViewsGateway) -> None:
    found = scrape(client)
    assert value(found, "penstock_source_lag_records", operator="read", subtask="0") == 7
    assert value(found, "penstock_source_lag_seconds", operator="read", subtask="0") == 30
    assert len(found["penstock_source_lag_records"]) == len(found["penstock_source_lag_seconds"]) == 1
    source, sink = gateway.views[JOB].vertices
    drained = replace(source, subtasks=tuple(replace(one, state="DRAINED") for one in source.subtasks))
    gateway.views[JOB] = replace(gateway.views[JOB], vertices=(drained, sink))
    assert not {"penstock_source_lag_records", "penstock_source_lag_seconds"} & set(scrape(client))


def test_state_of_operators(client: TestClient) -> None:
    found = scrape(client)
    shown = {
        name: value(found, f"penstock_{name}", operator="write", subtask="0")
        for name in ("state_bytes", "state_entries", "timers", "rocksdb_block_cache_bytes", "rocksdb_write_stopped")
    }
    assert list(shown.values()) == [900, 12, 5, 5_000, 0]
    assert len(found["penstock_state_bytes"]) == 1
    named = ("state_growth_bytes", "named_state_bytes", "named_state_entries", "named_state_growth_bytes")
    shown = {name: value(found, f"penstock_{name}", operator="write", subtask="0") for name in named}
    assert list(shown.values()) == [1.5, 700, 9, 2.5]
    assert value(found, "penstock_named_state_largest_key_bytes", operator="write", state="all sums") == 300
    assert len([name for name in found if "rocksdb" in name]) == 2, "properties without a name here are not shown"


def test_what_subtasks_were_restored_from(client: TestClient) -> None:
    found = scrape(client)
    shown = [value(found, "penstock_restored_bytes", operator="write", source=source) for source in ("store", "local")]
    assert shown == [300, 500]
    assert len(found["penstock_restored_bytes"]) == 2, "nothing of those that began without files"


def test_object_stores(client: TestClient) -> None:
    found = scrape(client)
    requests = "penstock_object_store_requests_total"
    job = {"pipeline": "clicks", "job_id": JOB}
    assert value(found, requests, op="put", code="ok", **job) == 5
    assert value(found, requests, op="put", code="exists", **job) == 1
    assert value(found, "penstock_object_store_bytes_total", op="put", **job) == 4_096
    assert value(found, requests, op="list", code="ok", pipeline="", job_id="") == 9, "the dispatcher's own"


def test_a_restore_lasts_from_deployment_until_the_slowest_has_its_state(
    client: TestClient, gateway: ViewsGateway
) -> None:
    source, sink = gateway.views[JOB].vertices
    times, checkpoints = source.subtasks[0].timestamps, gateway.views[JOB].checkpoints
    read = replace(checkpoints.latest_restored, restored_ms=times["DEPLOYING"] - 1)
    view = replace(gateway.views[JOB], checkpoints=replace(checkpoints, latest_restored=read))

    def with_first(**changes: Any) -> Any:
        first = replace(source.subtasks[0], **changes)
        return replace(view, vertices=(replace(source, subtasks=(first, source.subtasks[1])), sink))

    slow = with_first(timestamps={**times, "INITIALIZING": times["DEPLOYING"] + 2_500})
    older = with_first(attempt=1, timestamps={**times, "INITIALIZING": times["DEPLOYING"] + 9_000})
    for shown, expected in ((view, 0.03), (slow, 2.5), (older, 0.03)):
        gateway.views[JOB] = shown
        assert value(scrape(client), "penstock_restore_duration_seconds") == expected
    opening = with_first(timestamps={"CREATED": 0, "SCHEDULED": 0, "DEPLOYING": times["DEPLOYING"]})
    afresh = replace(view, checkpoints=replace(checkpoints, latest_restored=None))
    later = replace(read, restored_ms=times["DEPLOYING"] + 1)
    again = replace(view, checkpoints=replace(checkpoints, latest_restored=later))
    for shown in (opening, afresh, again):
        gateway.views[JOB] = shown
        assert "penstock_restore_duration_seconds" not in scrape(client)


def test_counters_of_operators_and_users(client: TestClient) -> None:
    found = scrape(client)
    assert value(found, "penstock_records_late_total", operator="write", subtask="0") == 3
    assert value(found, "penstock_user_metric", operator="write", metric="latency") == 0.5
    assert value(found, "penstock_user_metric", operator="read", metric="numbers_total") == 7
    assert value(found, "penstock_records_from_future_total", operator="read", subtask="1") == 2
    assert value(found, "penstock_alignment_paused_seconds_total", operator="read", subtask="1") == 1.5


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
    phases = {labels["phase"]: seconds for labels, seconds in found["penstock_checkpoint_phase_seconds"]}
    assert phases == {"start_delay": 0.005, "align": 0.02, "sync": 0.001, "async": 0.03, "complete": 0.003}
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


CONVENTIONS = {
    "records_in_total", "records_out_total", "bytes_in_total", "bytes_out_total", "records_late_total",
    "records_dead_letter_total", "user_errors_total", "batch_rows", "record_latency_seconds",
    "watermark_timestamp_seconds", "watermark_lag_seconds", "credits_available_bytes", "channel_queued_bytes",
    "checkpoints_total", "checkpoint_duration_seconds", "checkpoint_phase_seconds", "checkpoint_bytes",
    "last_completed_checkpoint_timestamp_seconds", "restore_duration_seconds", "state_bytes", "state_entries",
    "timers", "object_store_requests_total", "object_store_bytes_total", "source_lag_records", "source_lag_seconds",
    "job_state", "job_restarts_total", "slots", "task_managers", "leader", "http_request_duration_seconds",
    "build_info", "subtask_time_seconds_total",
}  # fmt: skip
"""Names that every cluster has to serve; those of transactions come with the first sink that has any."""
PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


def test_the_table_has_the_names_of_the_convention() -> None:
    served = {full_name(name).removeprefix("penstock_") for name in SERVED}
    assert served >= CONVENTIONS
    assert set(ROCKSDB.values()) <= set(SERVED)


def test_names_and_labels_are_those_of_the_table(client: TestClient) -> None:
    client.get("/overview")
    named = {full_name(name): served for name, served in SERVED.items()}
    parts = {"summary": ("_count", "_sum"), "histogram": ("_count", "_sum", "_bucket", "_created")}
    for name, samples in scrape(client).items():
        family = next((n for n, s in named.items() if name in (n, *(n + part for part in parts.get(s.kind, ())))), None)
        assert family is not None, f"{name} is not in the table"
        for labels, _ in samples:
            assert set(labels) - {"le"} == set(named[family].labels), name
        assert re.fullmatch(r"penstock_[a-z0-9_]+", name), name
        assert not {"job", "instance", "job_name"} & set(named[family].labels), name


def test_the_page_tells_of_all_of_them() -> None:
    rows = re.findall(
        r"^\| `(penstock_\w+)` \| (\w+) \| (.*?) \| (.*) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE
    )
    told = {name: (kind, labels, text) for name, kind, labels, text in rows}
    expected = {
        full_name(name): (served.kind, ", ".join(f"`{label}`" for label in served.labels), served.text)
        for name, served in SERVED.items()
    }
    assert told == expected
