"""Every field that Flink's clients and dashboards read is there, with the type they read.

The tables are those of the wire, written anew: a field is `name: kind`. n: an integer (no boolean), d: a number, s: a
string, b: a boolean, p: a percentile (a number or "NaN"), ?: may also be null, {}: a map whose values are as the one
in it, []: a list of such with something in it, (): one that may be empty. The Java client fails on a field that is
missing or null where it has a primitive.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
from fastapi.testclient import TestClient

JOB = "0123456789abcdef0123456789abcdef"
ENDED_JOB = "feedfacefeedfacefeedfacefeedface"
SOURCE, SINK = "a" * 32, "b" * 32
VERTEX = f"/jobs/{JOB}/vertices/{SINK}"
DETAILS = f"/jobs/{JOB}/checkpoints/details"

JOB_STATES = {
    "INITIALIZING", "CREATED", "RUNNING", "FAILING", "FAILED", "CANCELLING", "CANCELED", "FINISHED", "RESTARTING",
    "SUSPENDED", "RECONCILING",
}  # fmt: skip
SUBTASK_STATES = {
    "CREATED", "SCHEDULED", "DEPLOYING", "INITIALIZING", "RUNNING", "FINISHED", "CANCELING", "CANCELED", "FAILED",
    "RECONCILING",
}  # fmt: skip


def fields(text: str) -> dict[str, str]:
    """'a,b: n; c: s' -> {'a': 'n', 'b': 'n', 'c': 's'}."""
    found = {}
    for group in text.split(";"):
        names, _, kind = group.rpartition(":")
        found.update({name.strip(): kind.strip() for name in names.split(",")})
    return found


IO = fields(
    "read-bytes, write-bytes, read-records, write-records: n; accumulated-backpressured-time: n;"
    "accumulated-idle-time: n; accumulated-busy-time: d;"
    "read-bytes-complete, write-bytes-complete, read-records-complete, write-records-complete: b"
)
STATISTICS = fields("min, max, avg, sum: n; median, p25, p75, p95: p")
SUMMARY = fields("min, max, avg: n; p50, p90, p95, p99, p999: p")
AGGREGATED = {"metrics": {"{}": STATISTICS}, "status-duration": {"{}": STATISTICS}}
UPPER = dict.fromkeys(SUBTASK_STATES, "n")
LOWER = dict.fromkeys(["total", *(state.lower() for state in SUBTASK_STATES)], "n")
JOB_SUMMARY = {
    **fields("jid, name, jobType, schedulerType, state: s; start-time, end-time, duration, last-modification: n;"
             "pending-operators: n"),
    "tasks": LOWER,
}  # fmt: skip
PLAN = {
    **fields("jid, name, type: s"),
    "nodes": [
        {
            **fields("id, operator, operator_strategy, description: s; parallelism: n"),
            "optimizer_properties": {"{}": "s"},
            "inputs": (fields("id, exchange, ship_strategy: s; num: n"),),
        }
    ],
}
JOB_DETAILS = {
    **fields("jid, application-id, name, state, job-type, schedulerType: s; isStoppable: b; start-time, end-time: n;"
             "duration, maxParallelism, now, pending-operators: n"),
    "timestamps": dict.fromkeys(JOB_STATES, "n"),
    "vertices": [
        {
            **fields("id, slotSharingGroupId, name, status: s; maxParallelism, parallelism, start-time: n;"
                     "end-time, duration: n"),
            "tasks": UPPER,
            "metrics": IO,
        }
    ],
    "status-counts": UPPER,
    "plan": PLAN,
}  # fmt: skip
SUBTASK = {
    **fields("subtask, attempt, start-time, end-time, duration, start_time: n; status, endpoint, taskmanager-id: s"),
    "metrics": IO,
    "status-duration": {"{}": "n"},
    "restore": fields("bytes, total-bytes, local-bytes: n"),
}
CHECKPOINT = {
    **fields("className, status, checkpoint_type: s; savepointFormat: s?; is_savepoint: b; id, trigger_timestamp: n;"
             "latest_ack_timestamp, checkpointed_size, state_size, end_to_end_duration, alignment_buffered: n;"
             "processed_data, persisted_data, num_subtasks, num_acknowledged_subtasks: n"),
    "tasks": {"{}": "any"},
}  # fmt: skip
COMPLETED = {**CHECKPOINT, "external_path": "s", "discarded": "b"}
FAILED = {**CHECKPOINT, "failure_timestamp": "n", "failure_message": "s"}
TASK_CHECKPOINT = fields(
    "status: s; id, latest_ack_timestamp, checkpointed_size, state_size, end_to_end_duration, alignment_buffered: n;"
    "processed_data, persisted_data, num_subtasks, num_acknowledged_subtasks: n"
)
SYNC_ASYNC, ALIGNMENT = ("sync", "async"), ("buffered", "processed", "persisted", "duration")
EXCEPTION = {
    **fields("exceptionName, stacktrace: s; timestamp: n; taskName, endpoint, taskManagerId: s?"),
    "failureLabels": {"{}": "s"},
}
RESOURCE = {
    **fields("cpuCores: d; taskHeapMemory, taskOffHeapMemory, managedMemory, networkMemory: n"),
    "extendedResources": {"{}": "d"},
}
TASK_MANAGER = {
    **fields("id, path: s; dataPort, jmxPort, timeSinceLastHeartbeat, slotsNumber, freeSlots, assignedTasks: n"),
    "totalResource": RESOURCE,
    "freeResource": RESOURCE,
    "hardware": fields("cpuCores, physicalMemory, freeMemory, managedMemory: n"),
    "memoryConfiguration": fields(
        "frameworkHeap, taskHeap, frameworkOffHeap, taskOffHeap, networkMemory, managedMemory, jvmMetaspace: n;"
        "jvmOverhead, totalFlinkMemory, totalProcessMemory: n"
    ),
}
MEMORY_METRICS = [
    *(f"{pool}{what}" for pool in ("heap", "nonHeap") for what in ("Used", "Committed", "Max")),
    *(f"{pool}{what}" for pool in ("direct", "mapped") for what in ("Count", "Used", "Max")),
    *(f"nettyShuffleMemory{unit}{what}" for unit in ("", "Segments") for what in ("Available", "Used", "Total")),
]
LEVELS = fields("backpressureLevel, backpressure-level: s")
ACCUMULATORS = [fields("name, type, value: s")]
APPLICATION = fields("id, name, status: s; start-time, end-time, duration: n")
METRIC = [fields("id, value: s")]
AGGREGATED_METRIC = [fields("id: s; min, max, avg, sum, skew: d")]
LOGS = {"logs": [fields("name: s; size, mtime: n")]}
THREADS = {"threadInfos": [fields("threadName, stringifiedThreadInfo: s")]}

SHAPES: dict[str, Any] = {
    "/config": {
        **fields("refresh-interval, timezone-offset: n; timezone-name, flink-version, flink-revision: s"),
        "features": fields("web-submit, web-cancel, web-rescale, web-history: b"),
    },
    "/overview": fields(
        "taskmanagers, slots-total, slots-available, jobs-running, jobs-finished, jobs-cancelled, jobs-failed: n;"
        "flink-version, flink-commit: s"
    ),
    "/applications/overview": {"applications": [{**APPLICATION, "jobs": {"{}": "n"}}]},
    f"/applications/{JOB}": {**APPLICATION, "timestamps": {"{}": "n"}, "jobs": [JOB_SUMMARY]},
    f"/applications/{JOB}/exceptions": {"exceptionHistory": {"entries": "any", "truncated": "b"}},
    "/jobs": {"jobs": [fields("id, status: s")]},
    "/jobs/overview": {"jobs": [JOB_SUMMARY]},
    f"/jobs/{JOB}": JOB_DETAILS,
    f"/jobs/{JOB}/plan": {"plan": PLAN},
    f"/jobs/{JOB}/status": {"status": "s"},
    f"/jobs/{JOB}/config": {
        **fields("jid, name: s"),
        "execution-config": {
            **fields("restart-strategy: s; job-parallelism: n; object-reuse-mode: b"),
            "user-config": {"{}": "s"},
        },
    },
    VERTEX: {
        **fields("id, name: s; parallelism, maxParallelism, now: n"),
        "subtasks": [SUBTASK],
        "aggregated": AGGREGATED,
    },
    f"{VERTEX}/subtasks/1": SUBTASK,
    f"{VERTEX}/subtasktimes": {
        **fields("id, name: s; now: n"),
        "subtasks": [{**fields("subtask, duration: n; endpoint: s"), "timestamps": UPPER}],
    },
    f"{VERTEX}/taskmanagers": {
        **fields("id, name: s; now: n"),
        "taskmanagers": [
            {
                **fields("endpoint, status, taskmanager-id: s; start-time, end-time, duration: n"),
                "metrics": IO,
                "status-counts": UPPER,
                "aggregated": AGGREGATED,
            }
        ],
    },
    f"{VERTEX}/backpressure": {
        **fields("status: s; end-timestamp: n"),
        **LEVELS,
        "subtasks": [{**fields("subtask, attempt-number: n; ratio, idleRatio, busyRatio: d"), **LEVELS}],
    },
    f"{VERTEX}/skew": {
        **fields("id, name: s; parallelism, maxParallelism, now, read-records: n; times-the-mean: d"),
        "subtasks": [fields("subtask, read-records: n; share: d")],
        "key-groups": [fields("key-group, subtask, read-records: n; share: d")],
    },
    f"{VERTEX}/watermarks": METRIC,
    f"{VERTEX}/accumulators": {"id": "s", "user-accumulators": ACCUMULATORS},
    f"{VERTEX}/subtasks/accumulators": {
        **fields("id: s; parallelism: n"),
        "subtasks": [{**fields("subtask, attempt: n; endpoint: s"), "user-accumulators": ACCUMULATORS}],
    },
    f"/jobs/{JOB}/accumulators?includeSerializedValue=true": {
        "job-accumulators": "any",
        "user-task-accumulators": ACCUMULATORS,
        "serialized-user-task-accumulators": {"{}": "s"},
    },
    f"{VERTEX}/metrics": [{"id": "s"}],
    f"{VERTEX}/metrics?get=0.numRecordsIn,1.write.records_late_total": METRIC,
    f"{VERTEX}/subtasks/metrics": [{"id": "s"}],
    f"{VERTEX}/subtasks/metrics?get=busyTimeMsPerSecond,numRecordsInPerSecond": AGGREGATED_METRIC,
    f"/jobs/{JOB}/metrics?get=uptime,lastCheckpointExternalPath": METRIC,
    "/jobs/metrics?get=numRestarts": AGGREGATED_METRIC,
    "/taskmanagers/metrics?get=Status.JVM.Memory.Heap.Used": AGGREGATED_METRIC,
    "/taskmanagers/node-1/metrics?get=Status.JVM.Memory.Heap.Used": METRIC,
    "/jobmanager/metrics?get=numRunningJobs,taskSlotsTotal,Status.JVM.Memory.Heap.Max": METRIC,
    f"/jobs/{JOB}/checkpoints": {
        "counts": fields("restored, total, in_progress, completed, failed: n"),
        "summary": dict.fromkeys(
            ("checkpointed_size", "state_size", "end_to_end_duration", "alignment_buffered", "processed_data",
             "persisted_data"), SUMMARY,
        ),
        "latest": {
            "completed": COMPLETED,
            "savepoint": "null",
            "failed": FAILED,
            "restored": fields("id, restore_timestamp: n; is_savepoint: b; external_path: s"),
        },
        "history": [CHECKPOINT],
    },
    f"{DETAILS}/2": {**FAILED, "tasks": {"{}": TASK_CHECKPOINT}},
    f"{DETAILS}/3": {**COMPLETED, "tasks": {"{}": TASK_CHECKPOINT}},
    f"{DETAILS}/4": {**CHECKPOINT, "tasks": {"{}": TASK_CHECKPOINT}},
    f"{DETAILS}/3/subtasks/{SOURCE}": {
        **TASK_CHECKPOINT,
        "summary": {
            **dict.fromkeys(("checkpointed_size", "state_size", "end_to_end_duration", "start_delay"), SUMMARY),
            "checkpoint_duration": dict.fromkeys(SYNC_ASYNC, SUMMARY),
            "alignment": dict.fromkeys(ALIGNMENT, SUMMARY),
        },
        "subtasks": [
            {
                **fields("className, status: s; unaligned_checkpoint, aborted: b; index, ack_timestamp: n;"
                         "end_to_end_duration, checkpointed_size, state_size, start_delay: n"),
                "checkpoint": dict.fromkeys(SYNC_ASYNC, "n"),
                "alignment": dict.fromkeys(ALIGNMENT, "n"),
            }
        ],
    },
    f"/jobs/{JOB}/checkpoints/config": {
        **fields("mode, state_backend, checkpoint_storage, changelog_storage: s; interval, timeout, min_pause: n;"
                 "max_concurrent, tolerable_failed_checkpoints, aligned_checkpoint_timeout: n;"
                 "changelog_periodic_materialization_interval: n;"
                 "unaligned_checkpoints, checkpoints_after_tasks_finish, state_changelog_enabled: b"),
        "externalization": fields("enabled, delete_on_cancellation: b"),
    },
    f"/jobs/{JOB}/exceptions": {
        "exceptionHistory": {"entries": [{**EXCEPTION, "concurrentExceptions": (EXCEPTION,)}], "truncated": "b"}
    },
    f"/jobs/{ENDED_JOB}/execution-result": {
        "status": {"id": "s"},
        "job-execution-result": {
            **fields("id, application-status: s; net-runtime: n"),
            "accumulator-results": {"{}": "s"},
            "failure-cause": fields("class, stack-trace: s"),
        },
    },
    "/taskmanagers": {"taskmanagers": [TASK_MANAGER]},
    "/taskmanagers/node-1": {
        **TASK_MANAGER,
        "metrics": {**dict.fromkeys(MEMORY_METRICS, "n"), "garbageCollectors": [fields("name: s; count, time: n")]},
        "allocatedSlots": [{"jobId": "s", "resource": RESOURCE, "assignedTasks": "n"}],
    },
    "/taskmanagers/node-1/logs": LOGS,
    "/taskmanagers/node-1/thread-dump": THREADS,
    "/jobmanager/logs": LOGS,
    "/jobmanager/thread-dump": THREADS,
    "/jobmanager/config": [fields("key, value: s")],
    "/jobmanager/environment": {"jvm": {**fields("version, arch: s"), "options": "any"}, "classpath": "any"},
    "/jars": {"address": "s", "files": "any"},
}  # fmt: skip

KINDS: dict[str, Any] = {
    "n": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "d": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "s": lambda value: isinstance(value, str),
    "s?": lambda value: value is None or isinstance(value, str),
    "b": lambda value: isinstance(value, bool),
    "p": lambda value: value == "NaN" or (isinstance(value, int | float) and not isinstance(value, bool)),
    "null": lambda value: value is None,
    "any": lambda value: isinstance(value, list | dict),
}


def wrong(value: Any, shape: Any, where: str) -> list[str]:
    """Where a value is not as its shape."""
    if isinstance(shape, str):
        return [] if KINDS[shape](value) else [f"{where}: {value!r} is no {shape}"]
    if isinstance(shape, list | tuple):
        if not isinstance(value, list) or (isinstance(shape, list) and not value):
            return [f"{where}: {value!r} is no list with something in it"]
        return [problem for i, item in enumerate(value) for problem in wrong(item, shape[0], f"{where}[{i}]")]
    if not isinstance(value, dict):
        return [f"{where}: {value!r} is no object"]
    if "{}" in shape:
        return [problem for key, item in value.items() for problem in wrong(item, shape["{}"], f"{where}.{key}")]
    problems = [f"{where}.{name} is missing" for name in shape if name not in value]
    return problems + [p for name in shape if name in value for p in wrong(value[name], shape[name], f"{where}.{name}")]


@pytest.mark.parametrize("path", SHAPES)
def test_every_field_is_there_with_its_type(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 200, answer.text
    assert wrong(answer.json(), SHAPES[path], "") == []


def test_maps_of_states_hold_exactly_the_states_of_the_wire(client: TestClient) -> None:
    job = client.get(f"/jobs/{JOB}").json()
    assert set(job["timestamps"]) == JOB_STATES
    assert set(job["status-counts"]) == set(job["vertices"][0]["tasks"]) == SUBTASK_STATES
    (first, _) = client.get("/jobs/overview").json()["jobs"]
    assert set(first["tasks"]) == {"total", *(state.lower() for state in SUBTASK_STATES)}


def test_a_shape_finds_what_is_wrong() -> None:
    shape = {"a": "n", "b": [{"c": "p"}], "d": {"{}": "s"}}
    assert wrong({"a": 1, "b": [{"c": "NaN"}], "d": {}}, shape, "") == []
    assert wrong({"a": True, "b": [{"c": None}], "d": {"x": 1}}, shape, "") == [
        ".a: True is no n", ".b[0].c: None is no p", ".d.x: 1 is no s",
    ]  # fmt: skip
    assert wrong({"a": 1, "b": []}, shape, "") == [".d is missing", ".b: [] is no list with something in it"]


def test_ids_of_metrics_hold_no_comma(client: TestClient) -> None:
    ids = [metric["id"] for metric in client.get(f"/jobs/{JOB}/vertices/{SOURCE}/metrics").json()]
    assert "1.read_<lines>__all.numbers_total" in ids
    assert [name for name in ids if re.search(r"[ ,:]", name)] == []
