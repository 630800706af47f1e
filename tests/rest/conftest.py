"""A gateway over plain views, for the wire's shapes; the one over a real job is in test_real_job.py."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fastapi.testclient import TestClient

from penstock.jobmanager import gateway as gw
from penstock.jobmanager import views
from penstock.jobmanager.rest.app import RestOptions, create_app
from penstock.state.ids import JobId, OperatorId
from penstock.state.rows.cell_reads import CellRows
from penstock.state.savepoints.savepoint_store import is_savepoint
from penstock.state.statistics import NamedState, StateStatistics
from penstock.state.store.counted_objects import ObjectCounts
from penstock.state.store.downloads import RestoredBytes
from penstock.taskmanager.views import KeyGroupRecords

NOW_MS = 1_700_000_100_000
STARTED_MS = NOW_MS - 60_000
JOB = "0123456789abcdef0123456789abcdef"
ENDED_JOB = "feedfacefeedfacefeedfacefeedface"
SOURCE = "a" * 32
SINK = "b" * 32
UNKNOWN = "f" * 32
TASK_MANAGER = "node-1"
ENTERED = {"CREATED": STARTED_MS, "SCHEDULED": STARTED_MS + 10, "DEPLOYING": STARTED_MS + 20}

READ = {"numbers_total": 7.0, "records_from_future_total": 2.0, "alignment_paused_ms_total": 1_500.0}


def subtask(index: int, state: str = "RUNNING", **metrics: Any) -> views.SubtaskView:
    entered = {**ENTERED, "INITIALIZING": STARTED_MS + 50, "RUNNING": STARTED_MS + 100}
    if state not in entered:
        entered[state] = STARTED_MS + 30_000
    return views.SubtaskView(
        index=index,
        state=state,
        attempt=2,
        timestamps=entered,
        metrics=views.SubtaskMetrics(reported_at_ms=NOW_MS - 100, **metrics),
        slot=f"slot-{index}",
        task_manager=TASK_MANAGER,
        endpoint=f"127.0.0.1:{40_000 + index}",
    )


def source_vertex() -> views.VertexView:
    measured = {"records_out": 100, "records_out_rate": 10.0, "bytes_out": 1_000, "busy_rate": 700.0}
    details = views.SubtaskDetails(
        batches_in=4, credits_available_bytes=1_000, queued_out_bytes=300, source_lag_records=7,
        source_timestamp=NOW_MS - 30_000,
    )  # fmt: skip
    subtasks = (
        subtask(
            0,
            **measured,
            backpressured_rate=50.0,
            backpressured_ms=500.0,
            busy_ms=1_500.5,
            idle_ms=10.0,
            watermark=NOW_MS - 40_000,
            details=details,
        ),
        subtask(
            1,
            **measured,
            backpressured_rate=300.0,
            counters={f"read <lines>, all.{name}": n for name, n in READ.items()},
        ),
    )
    operators = (
        views.OperatorView("op-1", "read <lines>, all", "read", "source", "rows", "str"),
        views.OperatorView("op-2", "parse", None, "map", "rows", "int"),
    )
    return views.VertexView(SOURCE, "read -> parse", 2, 128, "default", operators, subtasks, is_source=True)


def sink_vertex() -> views.VertexView:
    counters = {"write.records_late_total": 3.0, "write.latency": 0.5}
    totals = NamedState(700, 9, 2.5, (("'a.b'", 300), ("7", 20)), "list", "int")
    rocksdb = {"block-cache-usage": 5_000, "is-write-stopped": 0, "size-of-the-moon": 1}
    details = views.SubtaskDetails(
        batches_in=3,
        queued_in_bytes=70,
        record_latency_ms=250,
        states={"op-3": StateStatistics(900, 12, 5, rocksdb, 1.5, {"all sums": totals}, ("str",))},
        restored=RestoredBytes(total=1_000, stored=300, local=500),
        hottest_key_groups=(KeyGroupRecords(7, 50),),
    )
    subtasks = (
        subtask(
            0, records_in=60, bytes_in=600, watermark=STARTED_MS, counters=counters, idle_rate=1_000.0, details=details
        ),
        subtask(1, state="DRAINED", records_in=140, bytes_in=1_400, counters={"write.records_late_total": 1.0}),
    )
    operators = (views.OperatorView("op-3", "write", "write", "sink", "columns", ""),)
    return views.VertexView(SINK, "write", 2, 128, "default", operators, subtasks)


def checkpoint(number: int, status: str = "COMPLETED", **changes: Any) -> views.CheckpointView:
    acknowledged = views.CheckpointSubtaskView(
        0, STARTED_MS + number * 1_000 + 300, 5, 20, 1, 30, checkpointed_bytes=100 * number, state_bytes=1_000
    )
    view = views.CheckpointView(
        id=number,
        attempt=2,
        status=status,
        triggered_ms=STARTED_MS + number * 1_000,
        expected_subtasks={SOURCE: 2, SINK: 2},
        acknowledged={SOURCE: (acknowledged, replace(acknowledged, index=1)), SINK: (acknowledged,)},
        latest_ack_ms=STARTED_MS + number * 1_000 + 300,
        duration_ms=300 + number,
        checkpointed_bytes=300 * number,
        state_bytes=3_000,
    )
    return replace(view, **changes)


def checkpoints() -> views.CheckpointsView:
    failed = checkpoint(2, "FAILED", failure_ms=STARTED_MS + 2_500, failure="subtask write[1] declined: disk full")
    done = checkpoint(3, external_path="file:/checkpoints/chk-3")
    first = checkpoint(1, external_path="file:/checkpoints/chk-1", discarded=True)
    return views.CheckpointsView(
        triggered=4,
        completed=2,
        failed=1,
        in_progress=1,
        restored_count=1,
        history=(checkpoint(4, "IN_PROGRESS", duration_ms=-1, latest_ack_ms=-1, acknowledged={}), done, failed, first),
        latest_completed=done,
        latest_failed=failed,
        latest_restored=views.RestoredView(1, STARTED_MS + 1_900, "file:/checkpoints/chk-1"),
    )


def job_view(job_id: str = JOB, state: str = "RUNNING", ended_ms: int = -1) -> views.JobView:
    overview = views.JobOverview(
        job_id, "clicks", state, STARTED_MS, ended_ms, STARTED_MS + 2_000, False, {"RUNNING": 3, "DRAINED": 1}, 2
    )
    failure = views.ExceptionView(
        STARTED_MS + 1_800, "ValueError", "no number", "Traceback: ValueError: no number", "write (2/2)", SINK, 1, 1,
        "write", TASK_MANAGER, "127.0.0.1:40001", 1_000,
    )  # fmt: skip
    earlier = replace(failure, timestamp_ms=STARTED_MS + 900, task="", subtask=-1, exception="OSError")
    followed = replace(failure, exception="RuntimeError", task="write (1/2)", subtask=0)
    return views.JobView(
        overview=overview,
        attempt=2,
        generation=1,
        restarts=1,
        max_parallelism=128,
        timestamps={"CREATED": STARTED_MS, "STARTING": STARTED_MS + 5, "RUNNING": STARTED_MS + 2_000},
        vertices=(source_vertex(), sink_vertex()),
        edges=(views.EdgeView(SOURCE, SINK, "HASH"),),
        checkpoints=checkpoints(),
        checkpoint_config=views.CheckpointConfigView(10_000, 600_000, 0, 1, True, -1, True, "rocksdb", "file:/c"),
        exceptions=(replace(failure, concurrent=(followed,)), earlier),
        config={"parallelism.default": "2"},
        restart_strategy="exponential delay",
        collected=("numbers",),
        objects=ObjectCounts({"put": {"ok": 5, "exists": 1}, "get": {"ok": 2}}, {"put": 4_096}),
    )


def task_manager() -> views.TaskManagerView:
    slots = (views.SlotView("slot-0", JOB, 100, 2**20), views.SlotView("slot-9", "", 101, 2**20))
    return views.TaskManagerView(
        TASK_MANAGER, "127.0.0.1", "ab12", 99, 40_100, 4, 3, slots, NOW_MS - 500, 2, 2**33, 2**32, 2**28,
        {"python": "3.11"}, {"Status.JVM.Memory.Heap.Used": 5.0, "Status.JVM.GarbageCollector.generation2.Count": 4.0},
    )  # fmt: skip


class ViewsGateway:
    """Answers from what a test puts into it, and keeps uploads in a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.views = {JOB: job_view(), ENDED_JOB: job_view(ENDED_JOB, "FAILED", NOW_MS - 1_000)}
        self.managers = [task_manager()]
        self.canceled: list[str] = []
        self.stopped: list[str] = []
        self.runs: list[gw.RunRequest] = []
        self.graphs: list[gw.GraphRequest] = []
        self.uploads: dict[str, Path] = {}
        self.is_shut_down = False
        self.polls = threading.Event()
        """Set: records have come, nobody waits any more."""
        self.asked = threading.Event()
        self.waits_s: list[float] = []
        self.failure: Exception | None = None
        self.savepoints: list[tuple[str, str, str | None, bool, bool]] = []
        self.disposals: dict[str, views.DisposalOperation] = {}
        self.questions: list[gw.StateQuestion] = []

    def info(self) -> gw.ClusterInfo:
        if self.failure is not None:
            raise self.failure
        return gw.ClusterInfo(
            "default", {"penstock": "0.1.0", "python": "3.11.2"}, {"rest.port": "8081", "s3.secret-key": "******"},
            "file:/cluster", STARTED_MS, 42, {"arch": "x86_64"}, ObjectCounts({"list": {"ok": 9}}, {}),
        )  # fmt: skip

    def jobs(self) -> list[views.JobOverview]:
        return [view.overview for view in self.views.values()]

    def job(self, job_id: str) -> views.JobView:
        if job_id not in self.views:
            raise gw.UnknownError(f"there is no job {job_id}")
        return self.views[job_id]

    def cancel(self, job_id: str) -> None:
        if self.job(job_id).overview.ended_ms != views.NEVER:
            raise gw.ConflictError(f"job {job_id} has ended")
        self.canceled.append(job_id)

    def stop(self, job_id: str) -> None:
        self.job(job_id)
        self.stopped.append(job_id)

    def savepoint(self, job_id: str, request: str, target: str | None, *, stop: bool, drain: bool) -> None:
        """It is taken at once, unless there is no directory for it, or the one that cannot be written."""
        view = self.job(job_id)
        if target is None:
            raise gw.RefusedError("there is no directory for the savepoint")
        if request in {operation.request for operation in view.savepoints}:
            return
        path = f"{target}/savepoint-{job_id[:6]}-000000000001"
        operation = views.SavepointOperation(request, path, stop, drain, views.OperationState.COMPLETED)
        if target == "/full":
            operation = replace(operation, state=views.OperationState.FAILED, failure="disk full")
        elif target == "/slow":
            operation = replace(operation, state=views.OperationState.IN_PROGRESS)
        self.savepoints.append((job_id, request, target, stop, drain))
        self.views[job_id] = replace(view, savepoints=(*view.savepoints, operation))

    def checkpoint(self, job_id: str, request: str) -> None:
        view = self.job(job_id)
        done = views.CheckpointOperation(request, views.OperationState.COMPLETED, checkpoint_id=7)
        self.views[job_id] = replace(view, requested_checkpoints=(*view.requested_checkpoints, done))

    def read_state(self, job_id: str, question: gw.StateQuestion) -> gw.StateAnswer:
        """Every key has a list of numbers in the state "all sums" of the operator that writes."""
        self.job(job_id)
        self.questions.append(question)
        if (question.operator, question.state) != ("op-3", "all sums"):
            raise gw.UnknownError(f"there is no state {question.state}")
        rows = ((b"", msgspec.msgpack.encode([1, 2, 3])),)
        return gw.StateAnswer(OperatorId("op-3"), 1, CellRows("list", rows, ("int",)))

    def dispose(self, path: str, request: str) -> None:
        if not is_savepoint(path):
            raise gw.RefusedError(f"{path} is not a savepoint")
        state = views.OperationState.FAILED if path.startswith("/gone/") else views.OperationState.COMPLETED
        failure = "there is no savepoint" if state is views.OperationState.FAILED else None
        self.disposals[request] = views.DisposalOperation(request, path, state, NOW_MS, failure)

    def disposal(self, request: str) -> views.DisposalOperation:
        if request not in self.disposals:
            raise gw.UnknownError(f"there is no disposal {request}")
        return self.disposals[request]

    def collected(self, job_id: str, collector: str, after: int, wait_s: float) -> gw.CollectedRows:
        if collector not in self.job(job_id).collected:
            raise gw.UnknownError(f"job {job_id} has no collector {collector}")
        self.waits_s.append(wait_s)
        self.asked.set()
        self.polls.wait(wait_s)
        return gw.CollectedRows((b"\x80\x05page",), after + 1, False)

    def artefacts(self) -> list[gw.ArtefactView]:
        return [
            gw.ArtefactView(artefact, file.name, NOW_MS, file.stat().st_size, file.name)
            for artefact, file in self.uploads.items()
        ]

    def upload(self, name: str, file: Path) -> gw.ArtefactView:
        artefact = f"{'0' * 64}_{name}"
        kept = self.directory / name
        shutil.move(file, kept)
        self.uploads[artefact] = kept
        return gw.ArtefactView(artefact, name, NOW_MS, kept.stat().st_size, name)

    def delete_artefact(self, artefact_id: str) -> None:
        self._known(artefact_id)
        self.uploads.pop(artefact_id).unlink()

    def _known(self, artefact_id: str) -> None:
        if artefact_id not in self.uploads:
            raise gw.UnknownError(f"there is no artefact {artefact_id}")

    def run(self, request: gw.RunRequest) -> gw.Submitted:
        self._known(request.artefact)
        self.runs.append(request)
        return gw.Submitted(JobId(JOB), "clicks", ("operator parse has no uid",))

    def capture(self, request: gw.RunRequest) -> gw.Captured:
        self._known(request.artefact)
        self.runs.append(request)
        return gw.Captured("clicks", {"nodes": []}, "read -> write")

    def submit(self, request: gw.GraphRequest) -> gw.Submitted:
        self.graphs.append(request)
        return gw.Submitted(JobId(JOB), request.job_name)

    def task_managers(self) -> list[views.TaskManagerView]:
        return self.managers

    def _check(self, manager: str | None) -> None:
        if manager is not None and manager not in {one.id for one in self.managers}:
            raise gw.UnknownError(f"there is no task manager {manager}")

    def logs(self, task_manager: str | None) -> list[views.LogFile]:
        self._check(task_manager)
        names = ("penstock.log", "penstock.log.1", "penstock.out")
        return [views.LogFile(name, 10, NOW_MS - age) for age, name in enumerate(names)]

    def log(self, task_manager: str | None, name: str, tail_bytes: int) -> bytes:
        self._check(task_manager)
        if name not in {file.name for file in self.logs(task_manager)}:
            raise gw.UnknownError(f"there is no log {name}")
        return f"line of {name}\n".encode()[-tail_bytes:]

    def thread_dump(self, task_manager: str | None) -> Mapping[str, str]:
        self._check(task_manager)
        return {"MainThread": "  File loop.py, line 1"}

    def metrics(self) -> Mapping[str, float]:
        return {"Status.JVM.Memory.Heap.Used": 1_000.0, "Status.JVM.Memory.Heap.Max": 2.5}

    def shutdown(self) -> None:
        self.is_shut_down = True


@pytest.fixture(scope="session")
def make_gateway() -> Callable[[Path], ViewsGateway]:
    return ViewsGateway


@pytest.fixture
def gateway(tmp_path: Path) -> ViewsGateway:
    return ViewsGateway(tmp_path)


@pytest.fixture
def options(tmp_path: Path) -> RestOptions:
    (tmp_path / "uploads").mkdir()
    return RestOptions(
        upload_limit_bytes=2**20, upload_directory=tmp_path / "uploads", max_waiting_polls=2, now_ms=lambda: NOW_MS
    )


@pytest.fixture
def client(gateway: ViewsGateway, options: RestOptions) -> Iterator[TestClient]:
    with TestClient(create_app(gateway, options)) as client:
        yield client
