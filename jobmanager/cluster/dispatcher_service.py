"""The dispatcher at work: what dispatcher.py decides is carried out.

One thread ticks: it starts masters that are due, asks all masters for their overview once per heartbeat, and tends the
nodes. What other processes answer is mail for it, because Ray's own threads must not be kept waiting. Questions come on
threads of REST (cluster_gateway.py), and share the pure dispatcher under one lock; nothing slow happens under it. What
runs in other processes is reached through `Processes` (ray_processes.py).

Views of live jobs come from their masters; of ended ones, from the cluster's store, where the newest are remembered.

A dispatcher that takes the place of another one begins although the store cannot be read: jobs run on, REST answers,
and what only the store knows is answered with UnavailableError until it has been read.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Protocol

import msgspec

from ...runtime.configuration import cluster_options
from ...runtime.configuration.config import Configuration
from ...state.errors import ObjectStoreError, PenstockError
from ...state.ids import JobId, new_nonce
from ...state.store.cluster_store import EndedJob, JobSubmission, forget, get_ended, list_ended, list_records, put_ended
from ...state.store.job_log import JobLog
from ...state.store.objects import ObjectStore, run_program
from ...state.store.obstore_objects import ObstoreObjects
from ..gateway import StateAnswer, StateQuestion, UnavailableError
from ..job_states import JobState
from ..leadership import is_abandoned
from ..process_identity import is_dead
from ..startup.cluster_rest import JOBS_STOP_TIMEOUT_S
from ..views import JobOverview, JobView, LogFile, TaskManagerView
from . import dispatcher
from .dispatcher import Dispatcher
from .unloaded import loading, without_master

TICK_S = 0.1
NODES_S = 1.0
"""How often nodes that came or went are looked for."""
TAKE_UP_S = 10.0
"""How long a patient start waits for the store before questions are let in."""
TAKE_UP_PAUSE_S = 1.0
"""Between two attempts to read the store; each has retries of its own."""
NEVER_LED_MS = 600_000
"""A job that nobody has begun to lead for so long after its submission is not about to be started."""
ENDED_VIEWS = 32
"""Views of ended jobs that are kept at hand."""

logger = logging.getLogger(__name__)


class Processes(Protocol):
    """The other processes of the cluster. Only `ask…` blocks, up to its timeout; UnavailableError."""

    def masters(self) -> dict[JobId, list[int]]:
        """Those that live now, by job."""
        ...

    def start_master(self, submission: JobSubmission, number: int, gives_up: bool) -> None: ...

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

    def savepoint(self, job_id: JobId, number: int, request: str, target: str, *, stop: bool, drain: bool) -> None: ...

    def checkpoint(self, job_id: JobId, number: int, request: str) -> None: ...

    def read_state(self, job_id: JobId, number: int, question: StateQuestion) -> StateAnswer: ...

    def tend_nodes(self) -> list[TaskManagerView]:
        """A task manager on every node, and none for nodes that are gone; what they have said since the last time."""
        ...

    def take_back(self, slots: dispatcher.TakeBack) -> None: ...

    def task_managers(self) -> list[TaskManagerView]: ...

    def task_manager_logs(self, name: str) -> list[LogFile]: ...

    def task_manager_log(self, name: str, file: str, tail_bytes: int) -> bytes: ...

    def task_manager_threads(self, name: str) -> Mapping[str, str]: ...

    def end_all(self) -> None:
        """The end of the cluster: masters, slots, task managers, and at last whoever calls."""
        ...


class DispatcherService:
    """`start` it once; `shut_down` ends the cluster. Questions may come from any thread."""

    def __init__(self, config: Configuration, objects: ObjectStore, processes: Processes) -> None:
        self._config = config
        self._objects = objects
        self.processes = processes
        self._resumes = config.get(cluster_options.RESUME_JOBS)
        self._heartbeat_s = config.get(cluster_options.HEARTBEAT_INTERVAL) / 1_000
        self._dispatcher = Dispatcher(
            silence_ms=config.get(cluster_options.HEARTBEAT_TIMEOUT),
            capacity=config.get(cluster_options.JOB_STORE_CAPACITY),
        )
        self._lock = threading.Lock()
        self._ended_views: dict[str, JobView] = {}
        """By life: a job may be submitted again, and end anew."""
        self._stopping = threading.Event()
        self._taken_up = threading.Event()
        self._untold = "the cluster's jobs are still being read from its store"
        """Why questions about jobs cannot be answered before they are taken up."""
        self._mail: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="dispatcher", daemon=True)

    def start(self, *, patiently: bool = False) -> None:
        """Takes up what the store knows. ObjectStoreError if it cannot be read; `patiently`: it is tried until it can,
        and questions about jobs are UnavailableErrors until then."""
        if not patiently:
            self._take_up()
        self._thread.start()
        if patiently:
            self._taken_up.wait(TAKE_UP_S)

    def _take_up(self) -> None:
        """May be repeated after an error: what is taken up stays so."""
        ended = run_program(list_ended(), self._objects)
        living = self.processes.masters()
        for submission in run_program(list_records(), self._objects):
            if self._dispatcher.record(submission.job_id) is not None:
                continue
            if submission.life in ended:
                self._recall(submission)
            elif submission.job_id not in living and not self._resumes:
                if (state := self._left_as(submission)) is not None:
                    self._lay_down(submission, state)
                    self._recall(submission)
            else:
                logger.info("job %s (%s) is taken up", submission.job_id, submission.job_name)
                self.accept(submission, living.get(submission.job_id, []))
        for job_id, numbers in living.items():
            if not self._dispatcher.is_live(job_id):
                for number in numbers:
                    self.processes.end_master(job_id, number)
        self._taken_up.set()

    def _try_to_take_up(self) -> None:
        try:
            self._take_up()
        except Exception as error:  # whatever it is, jobs that run go on, and whoever asks is told
            self._untold = f"the cluster's jobs cannot be read from its store at the moment: {error}"
            logger.warning("%s; it is tried again", self._untold)

    def _left_as(self, submission: JobSubmission) -> JobState | None:
        """What became of a job that nobody has in hand. None: somebody may. The store can be another cluster's, too."""
        log = JobLog(submission.job_id, new_nonce)
        try:
            store = ObstoreObjects(submission.storage, {**self._config.to_dict(), **submission.config})
            abandoned = run_program(is_abandoned(submission.job_id, log, is_dead), store)
        except PenstockError as error:
            logger.warning("job %s is left as it is: %s", submission.job_id, error)
            return None
        if log.state.finished is not None:
            return JobState(log.state.finished.state)
        old = submission.created_at_ms < time.time_ns() // 1_000_000 - NEVER_LED_MS
        return JobState.SUSPENDED if abandoned or (not log.state.generation and old) else None

    def _lay_down(self, submission: JobSubmission, state: JobState) -> None:
        """It was interrupted, and whoever started this cluster says whether it goes on."""
        now_ms = time.time_ns() // 1_000_000
        view = without_master(submission, state, now_ms)
        ended = EndedJob(submission.life, view.overview.state, now_ms, msgspec.json.encode(view))
        run_program(put_ended(ended, new_nonce), self._objects)

    def _recall(self, submission: JobSubmission) -> None:
        view = self._last_view(submission)
        if view is not None:
            self._dispatcher.ended_before(submission, view.overview)

    def accept(self, submission: JobSubmission, living: Iterable[int] = ()) -> None:
        """A job is to run. `living`: numbers of masters that it has already."""
        living = list(living)
        with self._lock:
            commands = self._dispatcher.submitted(submission, self._now_ms(), living)
            for number in living:
                self._watch(submission.job_id, number)
            self._carry_out(commands)

    # ---- the ticking thread

    def _run(self) -> None:
        next_heartbeat_s = next_nodes_s = next_try_s = 0.0
        while not self._stopping.is_set():
            try:
                self._read_mail()
                if not self._taken_up.is_set() and time.monotonic() >= next_try_s:
                    self._try_to_take_up()
                    next_try_s = time.monotonic() + TAKE_UP_PAUSE_S
                now_s = time.monotonic()
                with self._lock:
                    self._carry_out(self._dispatcher.tick(self._now_ms()))
                if now_s >= next_heartbeat_s:
                    next_heartbeat_s = now_s + self._heartbeat_s
                    self._ask_overviews()
                if now_s >= next_nodes_s:
                    next_nodes_s = now_s + NODES_S
                    said = self.processes.tend_nodes()
                    with self._lock:
                        self._carry_out(self._dispatcher.task_managers_said(said))
            except Exception:  # the cluster must go on without what just failed
                logger.exception("the dispatcher goes on after an error")

    def _read_mail(self) -> None:
        """All there is; waits for some at most until the next tick."""
        try:
            mail = self._mail.get(timeout=TICK_S)
            while True:
                mail()
                mail = self._mail.get_nowait()
        except queue.Empty:
            return

    def _by_mail(self, function: Callable[..., None], *arguments: object) -> Callable[..., None]:
        """To be called on any thread: the function runs on the ticking one."""

        def send(*answer: object) -> None:
            self._mail.put(partial(function, *arguments, *answer))

        return send

    def _ask_overviews(self) -> None:
        with self._lock:
            masters = self._dispatcher.masters()
        for job_id, number in masters:
            self.processes.overview(job_id, number, self._by_mail(self._answered, job_id, number))

    def _answered(self, job_id: JobId, number: int, overview: JobOverview | None, error: Exception | None) -> None:
        if error is not None:
            return
        with self._lock:
            if overview is None:
                self._dispatcher.loading(job_id, number, self._now_ms())
            else:
                self._carry_out(self._dispatcher.answered(job_id, number, overview, self._now_ms()))

    def _watch(self, job_id: JobId, number: int) -> None:
        self.processes.watch_master(job_id, number, self._by_mail(self._over, job_id, number))

    def _over(self, job_id: JobId, number: int, reason: str) -> None:
        """A master says that the job has ended (no reason), or is dead."""
        if not reason:
            self.processes.overview(job_id, number, self._by_mail(self._answered, job_id, number))
            return
        logger.warning("master %d of job %s is dead: %s", number, job_id, reason)
        with self._lock:
            self._carry_out(self._dispatcher.died(job_id, number, self._now_ms()))

    def _carry_out(self, commands: list[dispatcher.Command]) -> None:
        """Under the lock; nothing here waits for another process."""
        for command in commands:
            match command:
                case dispatcher.StartMaster(submission, number, gives_up):
                    if not self._stopping.is_set():
                        self._start_master(submission, number, gives_up)
                case dispatcher.EndMaster(job_id, number):
                    self.processes.end_master(job_id, number)
                case dispatcher.TakeBack():
                    self.processes.take_back(command)
                case dispatcher.Forget(submission):
                    self._ended_views.pop(submission.life, None)
                    threading.Thread(target=self._forget, args=(submission,), daemon=True).start()

    def _start_master(self, submission: JobSubmission, number: int, gives_up: bool) -> None:
        try:
            self.processes.start_master(submission, number, gives_up)
            self._watch(submission.job_id, number)
        except Exception as error:  # whatever Ray refuses it for, and other jobs' commands follow
            logger.exception("master %d of job %s cannot be started", number, submission.job_id)
            self._by_mail(self._over, submission.job_id, number)(f"it cannot be started: {error}")

    def _forget(self, submission: JobSubmission) -> None:
        try:
            run_program(forget(submission), self._objects)
        except ObjectStoreError as error:
            logger.warning("job %s could not be forgotten: %s", submission.job_id, error)

    def _now_ms(self) -> int:
        return time.monotonic_ns() // 1_000_000

    # ---- questions

    @contextmanager
    def _asked(self) -> Iterator[None]:
        if not self._taken_up.is_set():
            raise UnavailableError(self._untold)
        with self._lock:
            yield

    def overviews(self) -> list[JobOverview]:
        with self._asked():
            return self._dispatcher.overviews()

    def is_known(self, job_id: JobId) -> bool:
        return self.record(job_id) is not None

    def record(self, job_id: JobId) -> JobSubmission | None:
        """As it was submitted; None: there is no such job."""
        with self._asked():
            return self._dispatcher.record(job_id)

    def loading_view(self, job_id: JobId) -> JobView | None:
        """What can be said of a job without its master; None: there is no such job."""
        with self._asked():
            record, overview = self._dispatcher.record(job_id), self._dispatcher.overview(job_id)
        return None if record is None or overview is None else loading(record, overview)

    def is_live(self, job_id: JobId) -> bool:
        with self._asked():
            return self._dispatcher.is_live(job_id)

    def live_job_named(self, name: str) -> JobId | None:
        with self._asked():
            return self._dispatcher.live_job_named(name)

    def ended(self, job_id: JobId) -> JobOverview | None:
        with self._asked():
            return self._dispatcher.ended(job_id)

    def master(self, job_id: JobId) -> int | None:
        """Number of the one to ask about the job."""
        with self._asked():
            return self._dispatcher.master(job_id)

    def ended_view(self, job_id: JobId) -> JobView | None:
        """The last view of a job that has ended; None: it has not."""
        with self._asked():
            submission = None if self._dispatcher.is_live(job_id) else self._dispatcher.record(job_id)
        return None if submission is None else self._last_view(submission)

    def _last_view(self, submission: JobSubmission) -> JobView | None:
        view = self._ended_views.get(submission.life)
        if view is None:
            ended = run_program(get_ended(submission.life), self._objects)
            if ended is None:
                return None
            view = msgspec.json.decode(ended.view, type=JobView)
            self._ended_views[submission.life] = view
            if len(self._ended_views) > ENDED_VIEWS:
                self._ended_views.pop(next(iter(self._ended_views)), None)
        return view

    # ---- the end

    def shut_down(self) -> None:
        """Answers at once: jobs stop with a last checkpoint and can be resumed; then all processes end."""
        threading.Thread(target=self._shut_down, name="shutdown", daemon=True).start()

    def _shut_down(self) -> None:
        self._stopping.set()
        with self._lock:
            masters = self._dispatcher.masters()
        if not self._taken_up.is_set():
            masters = [(job_id, number) for job_id, numbers in self.processes.masters().items() for number in numbers]
        for job_id, number in masters:
            try:
                self.processes.stop(job_id, number, remember=False)
            except PenstockError as error:
                logger.warning("master %d of job %s does not stop it in order: %s", number, job_id, error)
                self.processes.end_master(job_id, number)  # it might take the job up when the other one lets go of it
        deadline_s = time.monotonic() + JOBS_STOP_TIMEOUT_S
        while time.monotonic() < deadline_s and any(self._runs(*master) for master in masters):
            time.sleep(TICK_S)
        self.processes.end_all()

    def _runs(self, job_id: JobId, number: int) -> bool:
        try:
            view = self.processes.view(job_id, number)
        except PenstockError:
            return False
        return view is not None and not JobState(view.overview.state).is_terminal
