"""What REST asks of the cluster, answered: the dispatcher's jobs, their masters, the task managers, submissions."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from ...runtime.configuration import cluster_options, options
from ...runtime.configuration.config import Configuration
from ...runtime.configuration.masking import masked
from ...runtime.logs import list_logs, read_log
from ...runtime.versions import own_versions
from ...state.ids import JobId
from ...state.savepoints.disposal import whole_path
from ...state.store.counted_objects import ObjectCounter
from ...state.store.objects import ObjectStore
from ...taskmanager.processes.process_metrics import process_metrics, thread_dump
from ..gateway import (
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
    UnavailableError,
    UnknownError,
)
from ..job_states import JobState
from ..views import DisposalOperation, JobOverview, JobView, LogFile, TaskManagerView
from . import collected
from .dispatcher_service import DispatcherService
from .disposals import Disposals
from .submission import Prepared, Submissions

logger = logging.getLogger(__name__)


class ClusterGateway:
    """Implements gateway.Gateway, in the dispatcher's process."""

    def __init__(
        self,
        config: Configuration,
        storage: str,
        objects: ObjectStore,
        service: DispatcherService,
        submissions: Submissions,
        logs: Path,
        counter: ObjectCounter,
    ) -> None:
        """`storage`, `objects`: of the cluster; `counter` counts what is asked of it. `logs`: directory of the job
        manager's logs."""
        self._config = config
        self._storage = storage
        self._objects = objects
        self._service = service
        self._submissions = submissions
        self._logs = logs
        self._counter = counter
        self._disposals = Disposals(config.to_dict())
        self._started_ms = time.time_ns() // 1_000_000

    # ---- the cluster

    def info(self) -> ClusterInfo:
        return ClusterInfo(
            cluster_id=self._config.get(cluster_options.CLUSTER_ID) or "",
            versions=own_versions(),
            config=masked(self._config.to_dict()),
            storage=self._storage,
            started_ms=self._started_ms,
            jobmanager_pid=os.getpid(),
            environment={"python": sys.version, "executable": sys.executable, "prefix": sys.prefix},
            objects=self._counter.counts(),
        )

    def shutdown(self) -> None:
        self._service.shut_down()

    # ---- jobs

    def jobs(self) -> list[JobOverview]:
        return self._service.overviews()

    def job(self, job_id: str) -> JobView:
        known = self._known(job_id)
        view = self._view(known) or self._service.loading_view(known)
        if view is None:
            raise UnknownError(f"there is no job {job_id}")
        return view

    def _view(self, job_id: JobId) -> JobView | None:
        number = self._service.master(job_id)
        if number is None:
            return self._service.ended_view(job_id)
        try:
            return self._service.processes.view(job_id, number)
        except UnavailableError:
            if self._service.is_live(job_id):
                raise
            return self._service.ended_view(job_id)  # it has ended while it was asked

    def _known(self, job_id: str) -> JobId:
        if not self._service.is_known(JobId(job_id)):
            raise UnknownError(f"there is no job {job_id}")
        return JobId(job_id)

    def cancel(self, job_id: str) -> None:
        self._order(job_id, "cancelled", JobState.CANCELED, self._service.processes.cancel)

    def stop(self, job_id: str) -> None:
        self._order(job_id, "stopped", JobState.SUSPENDED, self._stop_one)

    def _stop_one(self, job_id: JobId, number: int) -> None:
        self._service.processes.stop(job_id, number, remember=True)

    def _order(self, job_id: str, what: str, target: JobState, order: Callable[[JobId, int], None]) -> None:
        known = self._known(job_id)
        ended = self._service.ended(known)
        if ended is not None:
            if ended.state != target.value:
                raise ConflictError(f"job {job_id} cannot be {what}: it has ended as {ended.state}")
            return
        order(known, self._master_of(known))

    def _master_of(self, job_id: JobId) -> int:
        number = self._service.master(job_id)
        if number is None:
            raise UnavailableError(f"job {job_id} has no master at the moment; try again")
        return number

    # ---- savepoints and checkpoints on request

    def savepoint(self, job_id: str, request: str, target: str | None, *, stop: bool, drain: bool) -> None:
        known = self._known(job_id)
        directory = self._savepoint_directory(known, target)
        if not self._asked_before(known, request):
            master = self._master_of(known)
            self._service.processes.savepoint(known, master, request, directory, stop=stop, drain=drain)

    def checkpoint(self, job_id: str, request: str) -> None:
        known = self._known(job_id)
        if not self._asked_before(known, request):
            self._service.processes.checkpoint(known, self._master_of(known), request)

    def _asked_before(self, job_id: JobId, request: str) -> bool:
        """Of a job that has ended, whose last view knows; of others their master does. ConflictError: it was not."""
        ended = self._service.ended(job_id)
        if ended is None:
            return False
        view = self._service.ended_view(job_id)
        known: set[str] = set()
        if view is not None:
            known = {it.request for it in view.savepoints} | {it.request for it in view.requested_checkpoints}
        if request not in known:
            raise ConflictError(f"job {job_id} has ended as {ended.state}: nothing can be taken of it any more")
        return True

    def _savepoint_directory(self, job_id: JobId, target: str | None) -> str:
        record = self._service.record(job_id)
        own = Configuration.from_dict({} if record is None else record.config).get(options.SAVEPOINTS_DIR)
        directory = target or own or self._config.get(options.SAVEPOINTS_DIR)
        if directory is None:
            raise RefusedError(
                f"there is no directory for the savepoint: name one (target-directory), or set "
                f"{options.SAVEPOINTS_DIR.key} of the job or of the cluster"
            )
        return whole_path(directory)

    def dispose(self, path: str, request: str) -> None:
        self._disposals.begin(path, request)

    def disposal(self, request: str) -> DisposalOperation:
        found = self._disposals.find(request)
        if found is None:
            raise UnknownError(f"there is no disposal {request}: it was asked for long ago, or never")
        return found

    def read_state(self, job_id: str, question: StateQuestion) -> StateAnswer:
        known = self._known(job_id)
        ended = self._service.ended(known)
        if ended is not None:
            raise ConflictError(
                f"job {job_id} has ended as {ended.state}: only of one that runs can state be asked for; what "
                "savepoints and checkpoints hold is shown by `penstock state cat`"
            )
        return self._service.processes.read_state(known, self._master_of(known), question)

    def collected(self, job_id: str, collector: str, after: int, wait_s: float) -> CollectedRows:
        known = self._known(job_id)
        return collected.fetch_waiting(
            self._objects, known, collector, after, wait_s, lambda: self._service.is_live(known)
        )

    # ---- submission

    def artefacts(self) -> list[ArtefactView]:
        return self._submissions.artefacts()

    def upload(self, name: str, file: Path) -> ArtefactView:
        return self._submissions.upload(name, file)

    def delete_artefact(self, artefact_id: str) -> None:
        self._submissions.delete_artefact(artefact_id)

    def capture(self, request: RunRequest) -> Captured:
        return self._submissions.capture(request)

    def run(self, request: RunRequest) -> Submitted:
        return self._launch(self._submissions.prepare_run(request))

    def submit(self, request: GraphRequest) -> Submitted:
        return self._launch(self._submissions.prepare_graph(request))

    def _launch(self, prepared: Prepared) -> Submitted:
        """Two submissions of one name at once: one is refused, because names are looked at under a lock of their
        own, from the look to the record in the store."""
        with self._submissions.lock:
            namesake = self._service.live_job_named(prepared.job_name)
            if namesake is not None and not prepared.duplicate_name_allowed:
                raise ConflictError(
                    f"job {namesake} of the name '{prepared.job_name}' is running; cancel it, give this one another "
                    "name (pipeline.name), or allow it with pipeline.allow-duplicate-names"
                )
            if prepared.job_id is not None and self._service.is_known(prepared.job_id):
                raise ConflictError(f"there is a job {prepared.job_id} already; give this one another id, or none")
            submission, continued = self._submissions.record(prepared, self._refuse_running)
            self._service.accept(submission)
        logger.info("job %s (%s) is submitted", submission.job_id, submission.job_name)
        return Submitted(submission.job_id, submission.job_name, prepared.notes, continued)

    def _refuse_running(self, job_id: JobId) -> None:
        if self._service.is_live(job_id):
            raise ConflictError(f"job {job_id} is running: it can be continued when it is stopped")

    # ---- processes

    def task_managers(self) -> list[TaskManagerView]:
        return self._service.processes.task_managers()

    def logs(self, task_manager: str | None) -> list[LogFile]:
        if task_manager is None:
            return list_logs(self._logs)
        return self._service.processes.task_manager_logs(task_manager)

    def log(self, task_manager: str | None, name: str, tail_bytes: int) -> bytes:
        if task_manager is not None:
            return self._service.processes.task_manager_log(task_manager, name, tail_bytes)
        try:
            return read_log(self._logs, name, tail_bytes)
        except FileNotFoundError:
            raise UnknownError(f"there is no log {name}") from None

    def thread_dump(self, task_manager: str | None) -> Mapping[str, str]:
        return thread_dump() if task_manager is None else self._service.processes.task_manager_threads(task_manager)

    def metrics(self) -> Mapping[str, float]:
        return process_metrics()
