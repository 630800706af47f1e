"""A cluster in this process: the real REST interface, the real submission with its capture, and jobs as LocalJobs on
threads. What Ray adds (slots that are processes) is tested with it; what clients see of jobs is the same."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from penstock.api import session
from penstock.connectors.collect import keep_collected
from penstock.jobmanager.cluster import collected
from penstock.jobmanager.cluster.disposals import Disposals
from penstock.jobmanager.cluster.submission import Prepared, Submissions
from penstock.jobmanager.events import CheckpointRequested, SavepointRequested
from penstock.jobmanager.gateway import (
    ArtefactView,
    Captured,
    ClusterInfo,
    CollectedRows,
    ConflictError,
    GraphRequest,
    RefusedError,
    RunRequest,
    StateAnswer,
    StateQuestion,
    Submitted,
    UnknownError,
)
from penstock.jobmanager.local_job import LocalJob
from penstock.jobmanager.rest import server
from penstock.jobmanager.rest.app import create_app
from penstock.jobmanager.views import DisposalOperation, JobOverview, JobView, LogFile, TaskManagerView
from penstock.runtime.configuration import options
from penstock.runtime.configuration.config import Configuration
from penstock.runtime.versions import own_versions
from penstock.state.savepoints.disposal import whole_path
from penstock.state.serialization.pickling import loads
from penstock.state.store.obstore_objects import ObstoreObjects
from penstock.taskmanager.processes.user_code import UserCode, activate, install

PATIENCE_S = 60.0


class RunningJob:
    """A LocalJob on a thread of its own, seen from others."""

    def __init__(self, prepared: Prepared, storage: str, directory: Path) -> None:
        code = UserCode(prepared.artefacts, storage, prepared.python_path)
        activate(install(code, directory))
        config = Configuration().merged(prepared.config).set(options.CHECKPOINTS_DIR, prepared.storage)
        self.job = LocalJob(loads(prepared.graph), config)
        self._last: JobView | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def _run(self) -> None:
        self.job.run()
        self._last = self._look()

    def _look(self) -> JobView:
        return self.job.cluster.master.view(time.time_ns() // 1_000_000)

    def view(self) -> JobView:
        if self._thread.is_alive() and self._last is None:
            try:
                return self.job.cluster.loop.ask(self._look, 5)
            except Exception:
                self._thread.join(PATIENCE_S)  # it ended meanwhile, and answers nothing more
        assert self._last is not None
        return self._last

    def close(self) -> None:
        self.job.cancel()
        self._thread.join(PATIENCE_S)
        self.job.close()


class LocalGateway:
    """The dispatcher's part, as far as clients need it."""

    def __init__(self, directory: Path, config: Configuration) -> None:
        self.directory = directory
        self.storage = str(directory / "cluster")
        self.objects = ObstoreObjects(self.storage)
        self.submissions = Submissions(config, self.storage, self.objects, directory)
        self.running: dict[str, RunningJob] = {}
        self.runs: list[RunRequest] = []
        self.graphs: list[GraphRequest] = []
        self.uploads = 0
        self.disposals = Disposals(config.to_dict())
        self.is_shut_down = False

    def info(self) -> ClusterInfo:
        return ClusterInfo("test", own_versions(), {}, self.storage, 1, 1)

    def jobs(self) -> list[JobOverview]:
        return [job.view().overview for job in self.running.values()]

    def job(self, job_id: str) -> JobView:
        return self._known(job_id).view()

    def _known(self, job_id: str) -> RunningJob:
        if job_id not in self.running:
            raise UnknownError(f"there is no job {job_id}")
        return self.running[job_id]

    def cancel(self, job_id: str) -> None:
        self._live(job_id).cancel()

    def stop(self, job_id: str) -> None:
        self._live(job_id).stop()

    def savepoint(self, job_id: str, request: str, target: str | None, *, stop: bool, drain: bool) -> None:
        if target is None:
            raise RefusedError("there is no directory for the savepoint")
        loop = self._live(job_id).cluster.loop
        loop.tell(SavepointRequested(request, whole_path(target), stop, drain), PATIENCE_S)

    def checkpoint(self, job_id: str, request: str) -> None:
        self._live(job_id).cluster.loop.tell(CheckpointRequested(request), PATIENCE_S)

    def read_state(self, job_id: str, question: StateQuestion) -> StateAnswer:
        return self._live(job_id).cluster.loop.query(question, PATIENCE_S)

    def dispose(self, path: str, request: str) -> None:
        self.disposals.begin(path, request)

    def disposal(self, request: str) -> DisposalOperation:
        found = self.disposals.find(request)
        assert found is not None
        return found

    def _live(self, job_id: str) -> LocalJob:
        job = self._known(job_id).job
        if job.ended:
            raise ConflictError(f"job {job_id} has ended")
        return job

    def collected(self, job_id: str, collector: str, after: int, wait_s: float) -> CollectedRows:
        job = self._known(job_id).job
        return collected.fetch_waiting(self.objects, job.job_id, collector, after, wait_s, lambda: not job.ended)

    def artefacts(self) -> list[ArtefactView]:
        return self.submissions.artefacts()

    def upload(self, name: str, file: Path) -> ArtefactView:
        self.uploads += 1
        return self.submissions.upload(name, file)

    def delete_artefact(self, artefact_id: str) -> None:
        self.submissions.delete_artefact(artefact_id)

    def capture(self, request: RunRequest) -> Captured:
        return self.submissions.capture(request)

    def run(self, request: RunRequest) -> Submitted:
        self.runs.append(request)
        return self._launch(self.submissions.prepare_run(request))

    def submit(self, request: GraphRequest) -> Submitted:
        self.graphs.append(request)
        return self._launch(self.submissions.prepare_graph(request))

    def _launch(self, prepared: Prepared) -> Submitted:
        job = RunningJob(prepared, self.storage, self.directory / "code")
        keep_collected(collected.CollectedPages(self.objects, job.job.job_id))
        self.running[job.job.job_id] = job
        job.start()
        return Submitted(job.job.job_id, prepared.job_name, prepared.notes, job.job.continued)

    def task_managers(self) -> list[TaskManagerView]:
        return []

    def logs(self, task_manager: str | None) -> list[LogFile]:
        return [LogFile("jobmanager.log", 20, 2), LogFile("jobmanager.out", 5, 1)]

    def log(self, task_manager: str | None, name: str, tail_bytes: int) -> bytes:
        return b"first line\nsecond line\n" if name.endswith(".log") else b"printed\n"

    def thread_dump(self, task_manager: str | None) -> Mapping[str, str]:
        return {}

    def metrics(self) -> Mapping[str, float]:
        return {}

    def shutdown(self) -> None:
        self.is_shut_down = True


@pytest.fixture
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalGateway]:
    config = Configuration({"jobmanager.capture-timeout": "60s"})
    made = LocalGateway(tmp_path_factory.mktemp("cluster"), config)
    yield made
    keep_collected(None)
    for job in made.running.values():
        job.close()


@pytest.fixture
def address(gateway: LocalGateway) -> Iterator[str]:
    """Of a cluster."""
    running = server.start(create_app(gateway), "127.0.0.1", 0)
    yield running.url
    running.stop()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory; what a command changes in this process is put back."""
    directory = tmp_path / "project"
    directory.mkdir()
    monkeypatch.chdir(directory)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "helper", raising=False)
    monkeypatch.setattr(session, "flags", {})
    monkeypatch.setattr(session, "results", [])
    monkeypatch.setattr(session, "continue_with", session.continue_with)
    monkeypatch.delenv("PENSTOCK_ADDRESS", raising=False)
    monkeypatch.delenv("PENSTOCK__EXECUTION__TARGET", raising=False)
    return directory


def wait_for(condition: Any, timeout_s: float = PATIENCE_S) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "it did not come to hold"
        threading.Event().wait(0.02)
