"""Values: states, times, plan, backpressure, watermarks, metrics, checkpoints, exceptions; and what ends a job."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest
from fastapi.testclient import TestClient

from penstock.jobmanager import views
from penstock.jobmanager.job_states import JobState
from penstock.jobmanager.rest import states
from penstock.jobmanager.rest.statistics import metric_statistics, percentile
from penstock.jobmanager.rest.wire_metrics import indexes, skew
from penstock.jobmanager.rest.wire_vertices import backpressure_level

NOW_MS = 1_700_000_100_000
STARTED_MS = NOW_MS - 60_000
JOB = "0123456789abcdef0123456789abcdef"
ENDED_JOB = "feedfacefeedfacefeedfacefeedface"
UNKNOWN = "f" * 32
SOURCE, SINK = "a" * 32, "b" * 32
ViewsGateway = Any


def get(client: TestClient, path: str, **query: Any) -> Any:
    answer = client.get(path, params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


# states ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", JobState)
def test_every_state_of_a_job_has_one_of_the_wires(state: JobState) -> None:
    assert states.job_state(state.value) in states.JOB_STATES
    assert states.application_state(state.value) in (
        "CREATED", "RUNNING", "FAILING", "FAILED", "CANCELING", "CANCELED", "FINISHED",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("ours", "flinks"),
    [("CANCELING", "CANCELLING"), ("FINISHING", "RUNNING"), ("STARTING", "CREATED"), ("CREATED", "INITIALIZING")],
)
def test_states_that_have_another_name(client: TestClient, gateway: ViewsGateway, ours: str, flinks: str) -> None:
    view = gateway.views[JOB]
    gateway.views[JOB] = replace(view, overview=replace(view.overview, state=ours))
    assert get(client, f"/jobs/{JOB}/status") == {"status": flinks}
    assert get(client, f"/jobs/{JOB}")["state"] == flinks


@pytest.mark.parametrize(("batch_mode", "kind"), [(False, "STREAMING"), (True, "BATCH")])
def test_a_job_says_in_which_mode_it_runs(
    client: TestClient, gateway: ViewsGateway, batch_mode: bool, kind: str
) -> None:
    view = gateway.views[JOB]
    gateway.views[JOB] = replace(view, overview=replace(view.overview, batch_mode=batch_mode))
    job = get(client, f"/jobs/{JOB}")
    assert (job["job-type"], job["plan"]["type"]) == (kind, kind)


@pytest.mark.parametrize(
    ("subtasks", "vertex"),
    [
        (["RUNNING", "FAILED"], "FAILED"),
        (["RUNNING", "CANCELING"], "CANCELING"),
        (["RUNNING", "INITIALIZING"], "INITIALIZING"),
        (["FINISHED", "DRAINED"], "RUNNING"),
        (["FINISHED", "FINISHED"], "FINISHED"),
        (["FINISHED", "SCHEDULED"], "RUNNING"),
        (["CREATED", "SCHEDULED"], "SCHEDULED"),
        (["DEPLOYING", "SCHEDULED"], "DEPLOYING"),
        (["CREATED", "CREATED"], "CREATED"),
    ],
)
def test_a_vertex_is_as_its_subtasks_are(subtasks: list[str], vertex: str) -> None:
    found = [views.SubtaskView(0, state, 1, {}, views.SubtaskMetrics()) for state in subtasks]
    assert states.aggregate_state(found) == vertex


def test_a_drained_subtask_runs(client: TestClient) -> None:
    vertex = get(client, f"/jobs/{JOB}/vertices/{SINK}")
    assert [subtask["status"] for subtask in vertex["subtasks"]] == ["RUNNING", "RUNNING"]
    (first, second) = vertex["subtasks"]
    assert first["status-duration"] == {
        "CREATED": 10, "SCHEDULED": 10, "DEPLOYING": 30, "INITIALIZING": 50, "RUNNING": 59_900,
    }  # fmt: skip
    assert second["status-duration"] == first["status-duration"]
    assert (first["start-time"], first["start_time"], first["end-time"]) == (STARTED_MS + 20, STARTED_MS + 20, -1)
    assert first["duration"] == 59_980


def test_how_far_restores_are(client: TestClient) -> None:
    restores = [subtask["restore"] for subtask in get(client, f"/jobs/{JOB}/vertices/{SINK}")["subtasks"]]
    assert restores == [
        {"bytes": 800, "total-bytes": 1_000, "local-bytes": 500},
        {"bytes": 0, "total-bytes": 0, "local-bytes": 0},
    ]


def test_counts_of_jobs_and_slots(client: TestClient, gateway: ViewsGateway) -> None:
    view = gateway.views[ENDED_JOB]
    gateway.views["1" * 32] = replace(view, overview=replace(view.overview, state="SUSPENDED"))
    found = get(client, "/overview")
    counts = {name: found[f"jobs-{name}"] for name in ("running", "finished", "cancelled", "failed", "suspended")}
    assert counts == {"running": 1, "finished": 0, "cancelled": 0, "failed": 1, "suspended": 1}
    assert (found["taskmanagers"], found["slots-total"], found["slots-available"]) == (1, 4, 3)


def test_times_of_jobs(client: TestClient) -> None:
    running, ended = get(client, "/jobs/overview")["jobs"]
    assert (running["start-time"], running["end-time"], running["duration"]) == (STARTED_MS, -1, 60_000)
    assert (ended["end-time"], ended["duration"]) == (NOW_MS - 1_000, 59_000)
    timestamps = get(client, f"/jobs/{JOB}")["timestamps"]
    entered = {state: at_ms for state, at_ms in timestamps.items() if at_ms}
    assert entered == {"INITIALIZING": STARTED_MS, "CREATED": STARTED_MS + 5, "RUNNING": STARTED_MS + 2_000}


def test_the_plan_connects_vertices_and_its_names_are_no_html(client: TestClient) -> None:
    source, sink = get(client, f"/jobs/{JOB}/plan")["plan"]["nodes"]
    assert source["description"] == "read &lt;lines&gt;, all<br/>parse"
    assert sink["inputs"] == [{"id": SOURCE, "num": 0, "exchange": "pipelined_bounded", "ship_strategy": "HASH"}]


def test_the_whole_view_can_be_read_back(client: TestClient, gateway: ViewsGateway) -> None:
    answer = client.get(f"/jobs/{JOB}/view")
    assert msgspec.json.decode(answer.content, type=views.JobView) == gateway.views[JOB]


# vertices --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ratio", "level"), [(0.0, "ok"), (0.10, "ok"), (0.101, "low"), (0.5, "low"), (0.501, "high"), (1.0, "high")]
)
def test_levels_of_backpressure(ratio: float, level: str) -> None:
    assert backpressure_level(ratio) == level


def test_a_vertex_is_as_backpressured_as_its_worst_subtask(client: TestClient) -> None:
    found = get(client, f"/jobs/{JOB}/vertices/{SOURCE}/backpressure")
    assert found["backpressureLevel"] == found["backpressure-level"] == "low"
    assert [(one["backpressureLevel"], one["ratio"], one["busyRatio"]) for one in found["subtasks"]] == [
        ("ok", 0.05, 0.7), ("low", 0.3, 0.7),
    ]  # fmt: skip
    assert found["end-timestamp"] == NOW_MS - 100


def test_watermarks_are_text_and_a_source_has_none(client: TestClient) -> None:
    assert get(client, f"/jobs/{JOB}/vertices/{SOURCE}/watermarks") == []
    assert get(client, f"/jobs/{JOB}/vertices/{SINK}/watermarks") == [
        {"id": "0.currentInputWatermark", "value": str(STARTED_MS)},
        {"id": "1.currentInputWatermark", "value": "-9223372036854775808"},
    ]


def test_how_records_are_spread(client: TestClient) -> None:
    found = get(client, f"/jobs/{JOB}/vertices/{SINK}/skew")
    assert (found["read-records"], found["times-the-mean"]) == (200, 1.4)
    assert [one["share"] for one in found["subtasks"]] == [0.3, 0.7]
    assert found["key-groups"] == [{"key-group": 7, "subtask": 0, "read-records": 50, "share": 0.25}]
    assert get(client, f"/jobs/{JOB}/vertices/{SOURCE}/skew")["key-groups"] == []


def test_sums_and_statistics_over_subtasks(client: TestClient) -> None:
    found = get(client, f"/jobs/{JOB}/vertices/{SINK}")["aggregated"]["metrics"]["read-records"]
    assert found == {"min": 60, "max": 140, "avg": 100, "sum": 200, "median": 100, "p25": 60, "p75": 140, "p95": 140}
    (source, sink) = get(client, f"/jobs/{JOB}")["vertices"]
    assert sink["metrics"]["read-records"] == 200
    assert source["metrics"]["accumulated-busy-time"] == 1_500.5


def test_statistics_of_nothing_are_the_text_nan() -> None:
    assert metric_statistics([]) == {
        "min": 0, "max": 0, "avg": 0, "sum": 0, "median": "NaN", "p25": "NaN", "p75": "NaN", "p95": "NaN",
    }  # fmt: skip


def test_percentiles_are_interpolated() -> None:
    assert percentile([1, 2, 3, 4], 50) == 2.5
    assert percentile([10, 20, 30, 40, 50], 25) == 15
    assert percentile([7], 99.9) == 7


def test_subtasks_of_a_vertex_by_where_they_run(client: TestClient, gateway: ViewsGateway) -> None:
    view = gateway.views[JOB]
    source, sink = view.vertices
    moved = replace(sink.subtasks[1], task_manager="node-2")
    vertices = (source, replace(sink, subtasks=(sink.subtasks[0], moved)))
    gateway.views[JOB] = replace(view, vertices=vertices)
    found = get(client, f"/jobs/{JOB}/vertices/{SINK}/taskmanagers")["taskmanagers"]
    assert [(one["taskmanager-id"], one["metrics"]["read-records"]) for one in found] == [
        ("node-1", 60),
        ("node-2", 140),
    ]
    assert found[0]["status-counts"]["RUNNING"] == 1


def test_counters_are_accumulators(client: TestClient) -> None:
    found = get(client, f"/jobs/{JOB}/vertices/{SINK}/accumulators")["user-accumulators"]
    assert {"name": "write.records_late_total", "type": "LongCounter", "value": "4"} in found
    assert {"name": "write.latency", "type": "DoubleCounter", "value": "0.5"} in found
    of_job = get(client, f"/jobs/{JOB}/accumulators")["user-task-accumulators"]
    assert {one["name"] for one in of_job} >= {"write.latency", "read <lines>, all.numbers_total"}


@pytest.mark.parametrize("path", [f"vertices/{UNKNOWN}", f"vertices/{SINK}/subtasks/2", f"vertices/{UNKNOWN}/metrics"])
def test_unknown_parts_are_404(client: TestClient, path: str) -> None:
    assert client.get(f"/jobs/{JOB}/{path}").status_code == 404


# metrics ---------------------------------------------------------------------------------------------------------


def test_metrics_that_are_asked_for_and_no_others(client: TestClient) -> None:
    found = get(
        client, f"/jobs/{JOB}/vertices/{SINK}/metrics", get="1.numRecordsIn,0.write.latency,9.no,0.isBackPressured"
    )
    assert found == [
        {"id": "1.numRecordsIn", "value": "140"},
        {"id": "0.write.latency", "value": "0.5"},
        {"id": "0.isBackPressured", "value": "false"},
    ]


def test_metrics_over_subtasks_are_numbers(client: TestClient) -> None:
    path = f"/jobs/{JOB}/vertices/{SINK}/subtasks/metrics"
    (found,) = get(client, path, get="numRecordsIn")
    assert found == {"id": "numRecordsIn", "min": 60, "max": 140, "avg": 100, "sum": 200, "skew": 40}
    assert get(client, path, get="numRecordsIn", agg="max,sum") == [{"id": "numRecordsIn", "max": 140, "sum": 200}]
    (one,) = get(client, path, get="numRecordsIn", subtasks="1-5")
    assert (one["min"], one["max"], one["skew"]) == (140, 140, 0)
    assert get(client, path, get="numRecordsIn", subtasks="7") == []
    assert get(client, path, get="nothing") == []


def test_wrong_filters_are_400(client: TestClient) -> None:
    path = f"/jobs/{JOB}/vertices/{SINK}/subtasks/metrics"
    for query in ({"agg": "median"}, {"subtasks": "a"}, {"subtasks": "3-1"}, {"subtasks": "1,"}):
        assert client.get(path, params={"get": "numRecordsIn", **query}).status_code == 400, query


def test_indexes_of_subtasks() -> None:
    assert indexes(None, 3) == [0, 1, 2]
    assert indexes("0-2,1,5", 6) == [0, 1, 2, 5]
    assert indexes("0-999999", 2) == [0, 1]
    assert skew([0, 0]) == 0


def test_metrics_of_a_job(client: TestClient) -> None:
    names = "uptime,numRestarts,lastCheckpointSize,numberOfCompletedCheckpoints,lastCheckpointExternalPath,downtime"
    found = {one["id"]: one["value"] for one in get(client, f"/jobs/{JOB}/metrics", get=names)}
    assert found == {
        "uptime": "58000", "numRestarts": "1", "lastCheckpointSize": "900", "numberOfCompletedCheckpoints": "2",
        "lastCheckpointExternalPath": "file:/checkpoints/chk-3", "downtime": "0",
    }  # fmt: skip
    (restarts,) = get(client, "/jobs/metrics", get="numRestarts", agg="sum", jobs=f"{JOB},{ENDED_JOB}")
    assert restarts == {"id": "numRestarts", "sum": 2}


# checkpoints and exceptions --------------------------------------------------------------------------------------


def test_checkpoints_tell_what_they_are(client: TestClient) -> None:
    found = get(client, f"/jobs/{JOB}/checkpoints")
    assert found["counts"] == {"restored": 1, "total": 4, "in_progress": 1, "completed": 2, "failed": 1}
    assert [(one["id"], one["className"]) for one in found["history"]] == [
        (4, "in_progress"), (3, "completed"), (2, "failed"), (1, "completed"),
    ]  # fmt: skip
    assert [one["tasks"] for one in found["history"]] == [{}] * 4
    assert (found["summary"]["checkpointed_size"]["min"], found["summary"]["checkpointed_size"]["max"]) == (300, 900)
    assert found["latest"]["restored"]["external_path"] == "file:/checkpoints/chk-1"


def test_one_checkpoint_and_its_subtasks(client: TestClient) -> None:
    path = f"/jobs/{JOB}/checkpoints/details/3"
    tasks = get(client, path)["tasks"]
    assert {vertex: (task["num_subtasks"], task["num_acknowledged_subtasks"]) for vertex, task in tasks.items()} == {
        SOURCE: (2, 2), SINK: (2, 1),
    }  # fmt: skip
    found = get(client, f"{path}/subtasks/{SINK}")
    assert [one["className"] for one in found["subtasks"]] == ["completed", "pending"]
    assert found["subtasks"][1] == {"className": "pending", "index": 1, "status": "pending_or_failed"}
    assert found["subtasks"][0]["checkpoint"] == {"sync": 1, "async": 30}
    assert found["summary"]["start_delay"]["max"] == 5


def test_checkpoints_that_are_not_there_are_404(client: TestClient, gateway: ViewsGateway) -> None:
    assert client.get(f"/jobs/{JOB}/checkpoints/details/99").status_code == 404
    assert client.get(f"/jobs/{JOB}/checkpoints/details/3/subtasks/{UNKNOWN}").status_code == 404
    assert client.get(f"/jobs/{JOB}/checkpoints/details/x").status_code == 400
    gateway.views[JOB] = replace(
        gateway.views[JOB], checkpoint_config=None, checkpoints=views.CheckpointsView(), vertices=()
    )
    answer = client.get(f"/jobs/{JOB}/checkpoints/config")
    assert answer.status_code == 404
    assert "execution.checkpointing.interval" in answer.json()["errors"][0]
    summary = get(client, f"/jobs/{JOB}/checkpoints")["summary"]["state_size"]
    assert (summary["min"], summary["p99"]) == (0, "NaN")


def test_exceptions_newest_first_and_at_most_so_many(client: TestClient) -> None:
    path = f"/jobs/{JOB}/exceptions"
    found = get(client, path)["exceptionHistory"]
    assert [entry["exceptionName"] for entry in found["entries"]] == ["ValueError", "OSError"]
    assert [entry["taskName"] for entry in found["entries"]] == ["write (2/2)", None]
    assert [other["exceptionName"] for other in found["entries"][0]["concurrentExceptions"]] == ["RuntimeError"]
    assert found["truncated"] is False
    one = get(client, path, maxExceptions=1)["exceptionHistory"]
    assert (len(one["entries"]), one["truncated"]) == (1, True)
    assert client.get(path, params={"maxExceptions": 0}).status_code == 400


# ending a job ----------------------------------------------------------------------------------------------------


def test_cancel_in_all_its_forms(client: TestClient, gateway: ViewsGateway) -> None:
    for answer in (
        client.patch(f"/v1/jobs/{JOB}?mode=cancel"),
        client.patch(f"/jobs/{JOB}"),
        client.get(f"/jobs/{JOB}/yarn-cancel"),
        client.post(f"/applications/{JOB}/cancel"),
    ):
        assert (answer.status_code, answer.json()) == (202, {})
    assert gateway.canceled == [JOB] * 4
    assert client.patch(f"/jobs/{JOB}?mode=stop").status_code == 400
    assert client.patch(f"/jobs/{UNKNOWN}?mode=cancel").status_code == 404
    assert client.patch(f"/jobs/{ENDED_JOB}?mode=cancel").status_code == 409
    assert gateway.canceled == [JOB] * 4


def test_suspend_and_shutdown(client: TestClient, gateway: ViewsGateway) -> None:
    assert client.post(f"/jobs/{JOB}/suspend").status_code == 202
    assert gateway.stopped == [JOB]
    answer = client.delete("/v1/cluster")
    assert (answer.status_code, answer.json(), gateway.is_shut_down) == (200, {}, True)


def test_results_of_running_and_ended_jobs(client: TestClient) -> None:
    running = get(client, f"/jobs/{JOB}/execution-result")
    assert running == {"status": {"id": "IN_PROGRESS"}, "job-execution-result": None}
    ended = get(client, f"/jobs/{ENDED_JOB}/execution-result")
    assert ended["status"] == {"id": "COMPLETED"}
    assert ended["job-execution-result"]["application-status"] == "FAILED"
    assert ended["job-execution-result"]["failure-cause"]["class"] == "ValueError"


def test_an_attached_clients_heartbeat_is_taken(client: TestClient) -> None:
    path = f"/jobs/{JOB}/clientHeartbeat"
    assert client.patch(path, json={"expiredTimestamp": NOW_MS}).status_code == 202
    assert client.patch(path, json={"expiredTimestamp": "soon"}).status_code == 400


@pytest.mark.parametrize(
    ("method", "path", "hint"),
    [
        ("POST", "/v1/jobs", "POST /jars/upload"),
        ("PUT", f"/jobs/{JOB}/resource-requirements", "-p N"),
    ],
)
def test_what_is_not_there_yet_says_what_to_do(client: TestClient, method: str, path: str, hint: str) -> None:
    answer = client.request(method, path, files={"request": (None, "{}"), "file_0": ("graph.bin", b"\xac\xed" * 1_000)})
    assert answer.status_code == 501
    assert hint in answer.json()["errors"][0]


@pytest.mark.parametrize("path", ["rescales/overview", "rescales/history", "coordinators/x"])
def test_tabs_of_what_does_not_exist_are_404(client: TestClient, path: str) -> None:
    assert client.get(f"/jobs/{JOB}/{path}").status_code == 404


def test_channels_lag_and_rocksdb_under_flinks_ids(client: TestClient) -> None:
    source = get(
        client, f"/jobs/{JOB}/vertices/{SOURCE}/subtasks/0/metrics",
        get="Shuffle.Netty.Output.Buffers.outputQueueSize,read_<lines>__all.pendingRecords,"
        "read_<lines>__all.currentEmitEventTimeLag,read_<lines>__all.watermarkLag",
    )  # fmt: skip
    assert [one["value"] for one in source] == ["300", "7", "29900", "39900"], "lags are of the time of the report"
    sink = get(
        client, f"/jobs/{JOB}/vertices/{SINK}/subtasks/0/metrics",
        get="Shuffle.Netty.Input.Buffers.inputQueueSize,write.rocksdb.block-cache-usage,write.pendingRecords",
    )  # fmt: skip
    assert [one["value"] for one in sink] == ["70", "5000"]
    named = ["bytes", "entries", "growth", "largestKeys.'a_b'", "largestKeys.7"]
    ids = ",".join(f"write.state.all_sums.{name}" for name in named)
    states = get(client, f"/jobs/{JOB}/vertices/{SINK}/subtasks/0/metrics", get=ids)
    assert [one["value"] for one in states] == ["700", "9", "2.5", "300", "20"]
    (restored,) = get(client, f"/jobs/{JOB}/metrics", get="lastCheckpointRestoreTimestamp")
    assert int(restored["value"]) == 1_700_000_100_000 - 60_000 + 1_900
