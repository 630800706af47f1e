"""The dispatcher at work: what REST asks is answered here, and what dispatcher.py decides is carried out.

One thread ticks: it starts masters that are due, asks all masters for their overview once per heartbeat, and tends the
nodes. REST's threads call the methods of the Gateway. All of them share the pure dispatcher under one lock; nothing
slow happens under it. What runs in other processes is reached through `Processes` (ray_processes.py).

Views of live jobs come from their masters; of ended ones, from the cluster's store, where the newest are remembered.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec

from ..runtime import cluster_options
from ..runtime.config import Configuration
from ..runtime.logs import list_logs, read_log
from ..runtime.masking import masked
from ..runtime.versions import own_versions
from ..state.cluster_store import JobSubmission, forget, get_ended, list_ended, list_records
from ..state.errors import ObjectStoreError, PenstockError
from ..state.ids import JobId
from ..state.objects import ObjectStore, run_program
from ..taskmanager.process_metrics import process_metrics, thread_dump
from . import collected, dispatcher
from .dispatcher import Dispatcher
from .gateway import (
    ArtefactView,
    Captured,
    ClusterInfo,
    CollectedRows,
    ConflictError,
    GraphRequest,
    RunRequest,
    Submitted,
    UnavailableError,
    UnknownError,
)
from .job_states import JobState
from .submission import Prepared, Submissions
from .views import JobOverview, JobView, LogFile, TaskManagerView

T = TypeVar("T")
TICK_S = 0.1
NODES_S = 1.0
"""How often nodes that came or went are looked for."""
COLLECTED_POLL_S = 0.2
SHUTDOWN_S = 90.0
"""What the last checkpoints of all jobs may take together when the cluster stops."""
ENDED_VIEWS = 32
"""Views of ended jobs that are kept at hand."""

logger = logging.getLogger(__name__)


class Processes(Protocol):
    """The other processes of the cluster. Only `ask…` blocks, up to its timeout; UnavailableError."""

    def masters(self) -> dict[JobId, list[int]]:
        """Those that live now, by job."""
        ...

    def start_master(self, submission: JobSubmission, number: int) -> None: ...

    def end_master(self, job_id: JobId, number: int) -> None: ...

    def watch_master(self, job_id: JobId, number: int, over: Callable[[str], None]) -> None:
        """`over` is called from another thread, once: when the job has ended, or the process is dead."""
        ...

    def overview(
        self, job_id: JobId, number: int, answer: Callable[[JobOverview | None, Exception | None], None]
    ) -> None:
        """Answers from another thread, perhaps never. (None, None): it is still loading."""
        ...

    def view(self, job_id: JobId, number: int) -> JobView | None: ...

    def cancel(self, job_id: JobId, number: int) -> None: ...

    def stop(self, job_id: JobId, number: int, remember: bool) -> None: ...

    def tend_nodes(self) -> None:
        """A task manager on every node, and none for nodes that are gone."""
        ...

    def task_managers(self) -> list[TaskManagerView]: ...

    def task_manager_logs(self, name: str) -> list[LogFile]: ...

    def task_manager_log(self, name: str, file: str, tail_bytes: int) -> bytes: ...

    def task_manager_threads(self, name: str) -> Mapping[str, str]: ...

    def end_all(self) -> None:
        """The end of the cluster: masters, slots, task managers, and at last whoever calls."""
        ...


class DispatcherService:
    """Implements gateway.Gateway. `start` it once; `shutdown` ends the cluster."""

    def __init__(
        self,
        config: Configuration,
        storage: str,
        objects: ObjectStore,
        submissions: Submissions,
        processes: Processes,
        logs: Path,
    ) -> None:
        self._config = config
        self._storage = storage
        self._objects = objects
        self._submissions = submissions
        self._processes = processes
        self._logs = logs
        self._started_ms = _now_ms()
        self._heartbeat_s = config.get(cluster_options.HEARTBEAT_INTERVAL) / 1_000
        self._dispatcher = Dispatcher(
            silence_ms=config.get(cluster_options.HEARTBEAT_TIMEOUT),
            capacity=config.get(cluster_options.JOB_STORE_CAPACITY),
        )
        self._lock = threading.Lock()
        self._ended_views: dict[JobId, JobView] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="dispatcher", daemon=True)

    def start(self) -> None:
        """Takes up what the store knows. ObjectStoreError if it cannot be read."""
        ended = run_program(list_ended(), self._objects)
        living = self._processes.masters()
        for submission in run_program(list_records(), self._objects):
            if submission.job_id in ended:
                self._recall(submission)
            else:
                logger.info("job %s (%s) is taken up", submission.job_id, submission.job_name)
                self._accept(submission, living.get(submission.job_id, []))
        for job_id, numbers in living.items():
            if not self._dispatcher.is_live(job_id):
                for number in numbers:
                    self._processes.end_master(job_id, number)
        self._thread.start()

    def _recall(self, submission: JobSubmission) -> None:
        view = self._ended_view(submission.job_id)
        if view is not None:
            self._dispatcher.ended_before(submission, view.overview)

    def _accept(self, submission: JobSubmission, living: list[int]) -> None:
        with self._lock:
            commands = self._dispatcher.submitted(submission, self._now_ms(), living)
            for number in living:
                self._watch(submission.job_id, number)
            self._carry_out(commands)

    # ---- the ticking thread

    def _run(self) -> None:
        next_heartbeat_s = next_nodes_s = 0.0
        while not self._stopping.wait(TICK_S):
            try:
                now_s = time.monotonic()
                with self._lock:
                    self._carry_out(self._dispatcher.tick(self._now_ms()))
                if now_s >= next_heartbeat_s:
                    next_heartbeat_s = now_s + self._heartbeat_s
                    self._ask_overviews()
                if now_s >= next_nodes_s:
                    next_nodes_s = now_s + NODES_S
                    self._processes.tend_nodes()
            except Exception:  # the cluster must go on without what just failed
                logger.exception("the dispatcher goes on after an error")

    def _ask_overviews(self) -> None:
        with self._lock:
            masters = self._dispatcher.masters()
        for job_id, number in masters:
            self._processes.overview(job_id, number, partial(self._answered, job_id, number))

    def _answered(self, job_id: JobId, number: int, overview: JobOverview | None, error: Exception | None) -> None:
        if error is not None:
            return
        with self._lock:
            if overview is None:
                self._dispatcher.loading(job_id, number, self._now_ms())
            else:
                self._carry_out(self._dispatcher.answered(job_id, number, overview, self._now_ms()))

    def _watch(self, job_id: JobId, number: int) -> None:
        self._processes.watch_master(job_id, number, partial(self._over, job_id, number))

    def _over(self, job_id: JobId, number: int, reason: str) -> None:
        """A master says that the job has ended (no reason), or is dead."""
        if not reason:
            self._processes.overview(job_id, number, partial(self._answered, job_id, number))
            return
        logger.warning("master %d of job %s is dead: %s", number, job_id, reason)
        with self._lock:
            self._carry_out(self._dispatcher.died(job_id, number, self._now_ms()))

    def _carry_out(self, commands: list[dispatcher.Command]) -> None:
        """Under the lock; nothing here waits for another process."""
        for command in commands:
            match command:
                case dispatcher.StartMaster(submission, number):
                    if self._stopping.is_set():
                        continue
                    self._processes.start_master(submission, number)
                    self._watch(submission.job_id, number)
                case dispatcher.EndMaster(job_id, number):
                    self._processes.end_master(job_id, number)
                case dispatcher.Forget(submission):
                    self._ended_views.pop(submission.job_id, None)
                    threading.Thread(target=self._forget, args=(submission,), daemon=True).start()

    def _forget(self, submission: JobSubmission) -> None:
        try:
            run_program(forget(submission), self._objects)
        except ObjectStoreError as error:
            logger.warning("job %s could not be forgotten: %s", submission.job_id, error)

    def _now_ms(self) -> int:
        return time.monotonic_ns() // 1_000_000

    # ---- Gateway: the cluster

    def info(self) -> ClusterInfo:
        return ClusterInfo(
            cluster_id=self._config.get(cluster_options.CLUSTER_ID) or "",
            versions=own_versions(),
            config=masked(self._config.to_dict()),
            storage=self._storage,
            started_ms=self._started_ms,
            jobmanager_pid=os.getpid(),
            environment={"python": sys.version, "executable": sys.executable, "prefix": sys.prefix},
        )

    def shutdown(self) -> None:
        threading.Thread(target=self._shut_down, name="shutdown", daemon=True).start()

    def _shut_down(self) -> None:
        self._stopping.set()
        with self._lock:
            masters = self._dispatcher.masters()
        for job_id, number in masters:
            try:
                self._processes.stop(job_id, number, remember=False)
            except PenstockError as error:
                logger.warning("job %s is not stopped in order: %s", job_id, error)
        deadline_s = time.monotonic() + SHUTDOWN_S
        while time.monotonic() < deadline_s and any(self._runs(*master) for master in masters):
            time.sleep(TICK_S)
        self._processes.end_all()

    def _runs(self, job_id: JobId, number: int) -> bool:
        try:
            view = self._processes.view(job_id, number)
        except PenstockError:
            return False
        return view is not None and not JobState(view.overview.state).is_terminal

    # ---- Gateway: jobs

    def jobs(self) -> list[JobOverview]:
        with self._lock:
            return self._dispatcher.overviews()

    def job(self, job_id: str) -> JobView:
        known = self._known(job_id)
        number = self._master(known)
        if number is not None:
            view = self._processes.view(known, number)
            if view is None:
                raise UnavailableError(f"job {job_id} is being loaded by its master; ask again")
            return view
        view = self._ended_view(known)
        if view is None:
            raise UnavailableError(f"job {job_id} has no master at the moment; ask again")
        return view

    def _known(self, job_id: str) -> JobId:
        with self._lock:
            if self._dispatcher.record(JobId(job_id)) is None:
                raise UnknownError(f"there is no job {job_id}")
        return JobId(job_id)

    def _master(self, job_id: JobId) -> int | None:
        with self._lock:
            return self._dispatcher.master(job_id)

    def _ended_view(self, job_id: JobId) -> JobView | None:
        view = self._ended_views.get(job_id)
        if view is None:
            ended = run_program(get_ended(job_id), self._objects)
            if ended is None:
                return None
            view = msgspec.json.decode(ended.view, type=JobView)
            self._ended_views[job_id] = view
            if len(self._ended_views) > ENDED_VIEWS:
                self._ended_views.pop(next(iter(self._ended_views)), None)
        return view

    def cancel(self, job_id: str) -> None:
        self._order(job_id, "cancelled", JobState.CANCELED, self._processes.cancel)

    def stop(self, job_id: str) -> None:
        self._order(job_id, "stopped", JobState.SUSPENDED, partial(self._stop_one))

    def _stop_one(self, job_id: JobId, number: int) -> None:
        self._processes.stop(job_id, number, remember=True)

    def _order(self, job_id: str, what: str, target: JobState, order: Callable[[JobId, int], None]) -> None:
        known = self._known(job_id)
        with self._lock:
            ended = self._dispatcher.ended(known)
        if ended is not None:
            if ended.state != target.value:
                raise ConflictError(f"job {job_id} cannot be {what}: it has ended as {ended.state}")
            return
        number = self._master(known)
        if number is None:
            raise UnavailableError(f"job {job_id} has no master at the moment; try again")
        order(known, number)

    def collected(self, job_id: str, collector: str, after: int, wait_s: float) -> CollectedRows:
        known, deadline_s = self._known(job_id), time.monotonic() + wait_s
        while True:
            with self._lock:
                live = self._dispatcher.is_live(known)
            pages, position = collected.fetch(self._objects, known, collector, after)
            if pages or not live or time.monotonic() >= deadline_s:
                return CollectedRows(pages, position, finished=not live and not pages)
            time.sleep(COLLECTED_POLL_S)

    # ---- Gateway: submission

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
            with self._lock:
                namesake = self._dispatcher.live_job_named(prepared.job_name)
            if namesake is not None and not prepared.duplicate_name_allowed:
                raise ConflictError(
                    f"job {namesake} of the name '{prepared.job_name}' is running; cancel it, give this one another "
                    "name (pipeline.name), or allow it with pipeline.allow-duplicate-names"
                )
            submission, continued = self._submissions.record(prepared)
            self._accept(submission, [])
        logger.info("job %s (%s) is submitted", submission.job_id, submission.job_name)
        return Submitted(submission.job_id, submission.job_name, prepared.notes, continued)

    # ---- Gateway: processes

    def task_managers(self) -> list[TaskManagerView]:
        return self._processes.task_managers()

    def logs(self, task_manager: str | None) -> list[LogFile]:
        if task_manager is None:
            return list_logs(self._logs)
        return self._processes.task_manager_logs(task_manager)

    def log(self, task_manager: str | None, name: str, tail_bytes: int) -> bytes:
        if task_manager is not None:
            return self._processes.task_manager_log(task_manager, name, tail_bytes)
        try:
            return read_log(self._logs, name, tail_bytes)
        except FileNotFoundError:
            raise UnknownError(f"there is no log {name}") from None

    def thread_dump(self, task_manager: str | None) -> Mapping[str, str]:
        return thread_dump() if task_manager is None else self._processes.task_manager_threads(task_manager)

    def metrics(self) -> Mapping[str, float]:
        return process_metrics()


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
