"""The processes of a cluster, on Ray: job masters, task managers, and the nodes they run on.

Every node that offers the resource `penstock_slot` gets a task manager of so many slots; if no node of the Ray cluster
offers it (a cluster that others have started), every node gets one, with as many slots as configured. Names within
the cluster's Ray namespace: `dispatcher`, `job-<job>-<number>`, `taskmanager-<node>`, `slot-...`.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ...runtime.configuration import cluster_options
from ...runtime.configuration.config import Configuration
from ...runtime.logs import remove_old_logs
from ...runtime.versions import own_versions
from ...state.errors import PenstockError
from ...state.ids import JobId
from ...state.store.cluster_store import JobSubmission
from ...taskmanager.processes.actor import SLOT_PREFIX, TaskManagerActor
from ..gateway import StateAnswer, StateQuestion, UnavailableError, UnknownError
from ..startup.cluster_state import say_stopped
from ..views import JobOverview, JobView, LogFile, TaskManagerView
from .dispatcher import TakeBack
from .ray_slots import TASK_MANAGER_PREFIX, ActorHandle
from .task_manager_watch import TaskManagerWatch

SLOT_RESOURCE = "penstock_slot"
JOB_PREFIX = "job-"
ANSWER_S = 15.0
"""Longer than what a master gives its own loop to answer."""
FRESH_S = 0.5
"""So long REST waits for what task managers say now; then it shows what they said last."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 2.0, 60.0
"""After a start of a task manager that failed; doubled with each that follows."""
WATCH_AGAIN_S = 1.0
"""After a connection to a master was lost. Should it be dead, Ray will find out; should it be silent, its heartbeat."""

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Start:
    """Of a task manager."""

    node: Mapping[str, Any]
    count: int = 0
    again_s: float = 0.0
    """When it may be tried again, if it could not begin."""
    problem: str = ""


class RayProcesses:
    """Implements dispatcher_service.Processes. `make_master` creates the actor of a job master."""

    def __init__(
        self, config: Configuration, make_master: Callable[[JobSubmission, int, str, bool], ActorHandle], logs: Path
    ) -> None:
        """`logs`: where masters have theirs; those of as many as ended jobs are remembered are kept."""
        self._config = config
        self._logs = logs
        self._make_master = make_master
        self._handles: dict[tuple[JobId, int], ActorHandle] = {}
        self._starts: dict[str, _Start] = {}
        """Of task managers, by this dispatcher."""
        self._watch = TaskManagerWatch(
            interval_s=config.get(cluster_options.HEARTBEAT_INTERVAL) / 1_000,
            timeout_s=config.get(cluster_options.HEARTBEAT_TIMEOUT) / 1_000,
        )
        self._heard = threading.Condition()
        """Guards the watch. Nobody calls Ray under it, whose threads tell what was heard."""

    # ---- job masters

    def masters(self) -> dict[JobId, list[int]]:
        found: dict[JobId, list[int]] = {}
        for name in ray.util.list_named_actors():
            if name.startswith(JOB_PREFIX):
                job_id, _, number = name.removeprefix(JOB_PREFIX).partition("-")
                found.setdefault(JobId(job_id), []).append(int(number))
        return found

    def start_master(self, submission: JobSubmission, number: int, gives_up: bool) -> None:
        name = master_name(submission.job_id, number)
        self._handles[submission.job_id, number] = self._make_master(submission, number, name, gives_up)

    def end_master(self, job_id: JobId, number: int) -> None:
        handle = self._handles.pop((job_id, number), None) or _find(master_name(job_id, number))
        if handle is not None:
            ray.kill(handle)
        living = frozenset(self._logs_of(*master) for master in self._handles) | {self._logs.parent.name}
        remove_old_logs(self._logs, living, self._config.get(cluster_options.JOB_STORE_CAPACITY))

    def _logs_of(self, job_id: JobId, number: int) -> str:
        return f"{self._logs.parent.name}-{master_name(job_id, number)}"

    def watch_master(self, job_id: JobId, number: int, over: Callable[[str], None]) -> None:
        handle = self._master(job_id, number)
        if handle is None:
            threading.Thread(target=over, args=("it is not there",), daemon=True).start()
            return

        def answered(future: Future[None]) -> None:
            error = future.exception()
            if isinstance(error, ray.exceptions.ActorUnavailableError):  # not heard, which is not dead
                again = threading.Timer(WATCH_AGAIN_S, self.watch_master, (job_id, number, over))
                again.daemon = True
                again.start()
                return
            if error is not None:
                self._handles.pop((job_id, number), None)
            over("" if error is None else _first_line(error))

        handle.wait_end.remote().future().add_done_callback(answered)

    def overview(
        self, job_id: JobId, number: int, answer: Callable[[JobOverview | None, Exception | None], None]
    ) -> None:
        handle = self._master(job_id, number)
        if handle is None:
            return

        def answered(future: Future[JobOverview | None]) -> None:
            error = future.exception()
            if error is None:
                answer(future.result(), None)
            else:
                answer(None, error if isinstance(error, Exception) else UnavailableError(str(error)))

        handle.overview.remote().future().add_done_callback(answered)

    def view(self, job_id: JobId, number: int) -> JobView | None:
        view: JobView | None = self._ask_master(job_id, number, "view")
        return view

    def cancel(self, job_id: JobId, number: int) -> None:
        self._ask_master(job_id, number, "cancel")

    def stop(self, job_id: JobId, number: int, remember: bool) -> None:
        self._ask_master(job_id, number, "stop", remember)

    def savepoint(self, job_id: JobId, number: int, request: str, target: str, *, stop: bool, drain: bool) -> None:
        self._ask_master(job_id, number, "savepoint", request, target, stop, drain)

    def checkpoint(self, job_id: JobId, number: int, request: str) -> None:
        self._ask_master(job_id, number, "checkpoint", request)

    def read_state(self, job_id: JobId, number: int, question: StateQuestion) -> StateAnswer:
        answer: StateAnswer = self._ask_master(job_id, number, "read_state", question)
        return answer

    def _ask_master(self, job_id: JobId, number: int, question: str, *arguments: object) -> Any:
        handle = self._master(job_id, number)
        if handle is None:
            raise UnavailableError(f"the master of job {job_id} is gone; another one is being started, try again")
        return _ask(handle, f"the master of job {job_id}", question, *arguments)

    def _master(self, job_id: JobId, number: int) -> ActorHandle | None:
        handle = self._handles.get((job_id, number)) or _find(master_name(job_id, number))
        if handle is not None:
            self._handles[job_id, number] = handle
        return handle

    # ---- task managers

    def tend_nodes(self) -> list[TaskManagerView]:
        nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
        alive = {node["NodeID"]: node for node in nodes if node["Alive"]}
        offering = {node_id for node_id, node in alive.items() if node["Resources"].get(SLOT_RESOURCE)}
        known = {name for name in ray.util.list_named_actors() if name.startswith(TASK_MANAGER_PREFIX)}
        wanted = {task_manager_name(node_id): node_id for node_id in (offering or alive)}
        for name in wanted.keys() - known:
            start = self._starts.setdefault(name, _Start(alive[wanted[name]]))
            if time.monotonic() >= start.again_s:
                self._start_task_manager(name, start)
        self._starts = {name: start for name, start in self._starts.items() if name in wanted}
        here = {task_manager_name(node_id) for node_id in alive}
        for name in known - here:
            handle = _find(name)
            if handle is not None:
                logger.warning("%s has lost its node", name)
                ray.kill(handle)
        self._end_hung(known & here)
        with self._heard:
            return self._watch.news()

    def _end_hung(self, names: set[str]) -> None:
        """A task manager that stands still: Ray starts it again, and it finds its slots."""
        with self._heard:
            ask, kill = self._watch.look(names, time.monotonic())
        self._ask_task_managers(ask)
        for name in kill:
            handle = _find(name)
            if handle is not None:
                logger.warning("%s does not answer: its process is killed, Ray starts it again", name)
                ray.kill(handle, no_restart=False)

    def _ask_task_managers(self, names: list[str]) -> None:
        for name in names:
            handle = _find(name)
            if handle is not None:
                handle.describe.remote().future().add_done_callback(partial(self._hear, name))

    def _hear(self, name: str, answer: Future[TaskManagerView]) -> None:
        """On a thread of Ray's."""
        view = None
        if answer.exception() is None:
            view = replace(answer.result(), heartbeat_ms=time.time_ns() // 1_000_000)  # by one clock for all nodes
        with self._heard:
            self._watch.answered(name, view, time.monotonic())
            self._heard.notify_all()

    def _start_task_manager(self, name: str, start: _Start) -> None:
        """Ray restarts one that dies, so a second start means that it could not begin."""
        node = start.node
        offered = int(node["Resources"].get(SLOT_RESOURCE, 0))
        configured = self._config.get(cluster_options.TASK_SLOTS)
        slots = offered or configured or int(node["Resources"].get("CPU", 0)) or 1
        logger.info("%s: %d slots on node %s", name, slots, node["NodeManagerAddress"])
        host = self._config.get(cluster_options.DATA_HOST) or node["NodeManagerAddress"]
        actor: Any = TaskManagerActor
        handle = actor.options(
            name=name,
            lifetime="detached",
            num_cpus=0,
            max_restarts=-1,
            resources={SLOT_RESOURCE: offered} if offered else None,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
        ).remote(node["NodeID"], name, host, slots, self._config.to_dict(), own_versions())
        start.again_s = time.monotonic() + min(FIRST_PAUSE_S * 2**start.count, LONGEST_PAUSE_S)
        start.count += 1

        def begun(future: Future[int]) -> None:
            error = future.exception()
            start.problem = "" if error is None else _last_line(error)
            if error is not None:
                logger.error("%s cannot start: %s", name, error)

        handle.free.remote().future().add_done_callback(begun)

    def take_back(self, slots: TakeBack) -> None:
        handle = _find(slots.task_manager)
        if handle is not None:
            handle.release.remote(slots.job_id, slots.generation, list(slots.slots))

    def task_managers(self) -> list[TaskManagerView]:
        with self._heard:
            asked_s = time.monotonic()
            ask = self._watch.ask_now(asked_s)
        self._ask_task_managers(ask)
        with self._heard:
            self._heard.wait_for(lambda: not self._watch.awaits(asked_s - FRESH_S), FRESH_S)
            views = {view.id: view for view in self._watch.views(time.monotonic())}
        failed = [
            _without_process(name, start)
            for name, start in dict(self._starts).items()
            if start.problem and name not in views
        ]
        return [*views.values(), *failed]

    def task_manager_logs(self, name: str) -> list[LogFile]:
        logs: list[LogFile] = self._ask_task_manager(name, "logs")
        return logs

    def task_manager_log(self, name: str, file: str, tail_bytes: int) -> bytes:
        data: bytes = self._ask_task_manager(name, "log", file, tail_bytes)
        return data

    def task_manager_threads(self, name: str) -> Mapping[str, str]:
        threads: Mapping[str, str] = self._ask_task_manager(name, "thread_dump")
        return threads

    def _ask_task_manager(self, name: str, question: str, *arguments: object) -> Any:
        handle = _find(name) if name.startswith(TASK_MANAGER_PREFIX) else None
        if handle is None:
            raise UnknownError(f"there is no task manager {name}")
        return _ask(handle, f"task manager {name}", question, *arguments)

    # ---- the end

    def end_all(self) -> None:
        """Masters first: they would miss their slots. The dispatcher itself last."""
        names = ray.util.list_named_actors()
        for prefix in (JOB_PREFIX, TASK_MANAGER_PREFIX, SLOT_PREFIX):
            for name in names:
                handle = _find(name) if name.startswith(prefix) else None
                if handle is not None:
                    ray.kill(handle)
        say_stopped(self._config)
        own = ray.get_runtime_context().current_actor
        threading.Timer(0.2, lambda: (ray.kill(own), os._exit(0))).start()


def _without_process(name: str, start: _Start) -> TaskManagerView:
    """Of a node whose task manager cannot begin."""
    return TaskManagerView(
        id=name,
        host=start.node["NodeManagerAddress"],
        node_id=start.node["NodeID"],
        pid=0,
        data_port=0,
        slots_total=0,
        slots_free=0,
        slots=(),
        heartbeat_ms=time.time_ns() // 1_000_000,
        cores=0,
        memory_bytes=0,
        memory_available_bytes=0,
        process_memory_bytes=0,
        problem=start.problem,
    )


def master_name(job_id: JobId, number: int) -> str:
    return f"{JOB_PREFIX}{job_id}-{number}"


def task_manager_name(node_id: str) -> str:
    return f"{TASK_MANAGER_PREFIX}{node_id[:12]}"


def _find(name: str) -> ActorHandle | None:
    try:
        return ray.get_actor(name)
    except ValueError:
        return None


def _ask(handle: ActorHandle, who: str, question: str, *arguments: object) -> Any:
    try:
        return ray.get(getattr(handle, question).remote(*arguments), timeout=ANSWER_S)
    except (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError) as error:
        raise UnavailableError(f"{who} does not answer ({_first_line(error)}); try again") from None
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, PenstockError):  # without Ray's account of where it was raised
            raise error.cause from None
        raise


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _last_line(error: BaseException) -> str:
    """Ray puts its own words and the stack before what was raised."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
