"""The job manager's Ray actors: thin shells around dispatcher_service.py and job_process.py.

The dispatcher is restarted by Ray when it dies, and finds job masters and task managers by their names. A job master is
not: the dispatcher starts the next one, whose attempt at leadership the job's log decides. Both are detached: they
outlive whoever started them.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ...runtime.configuration import cluster_options
from ...runtime.configuration.config import Configuration
from ...runtime.directories import node_directory
from ...runtime.logs import setup_logging
from ...state.errors import ConfigurationError, PenstockError
from ...state.store.cluster_store import JobSubmission
from ...state.store.counted_objects import CountedObjects, ObjectCounter
from ...state.store.obstore_objects import ObstoreObjects
from ..gateway import StateAnswer, StateQuestion
from ..startup.cluster_state import ClusterFiles
from ..state_queries import MOST_OPEN
from ..views import JobOverview, JobView
from .job_process import JobProcess, JobProcessSettings
from .patient_store import PatientStore
from .ray_slots import ActorHandle, RaySlots

if TYPE_CHECKING:
    from ..rest.server import RunningServer

DISPATCHER = "dispatcher"
NODE = "jobmanager"
"""Name of the job manager's directory and log files."""
START_S = 60.0
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")

logger = logging.getLogger(__name__)


class JobMasterProcess:
    """Of one job. `wait_end` is a waiting call: it ends with the job, or in an error when the process dies."""

    def __init__(
        self,
        submission: JobSubmission,
        number: int,
        config: dict[str, str],
        storage: str,
        secret: bytes,
        gives_up: bool,
    ) -> None:
        cluster = Configuration.from_dict(config)
        directory = node_directory(cluster, NODE)
        setup_logging(
            directory / "logs", f"{NODE}-job-{submission.job_id}-{number}", cluster.get(cluster_options.LOG_LEVEL)
        )
        settings = JobProcessSettings(submission, number, cluster, storage, secret, gives_up)
        self._process = JobProcess(
            settings,
            partial(
                RaySlots,
                submission.job_id,
                request_timeout_s=cluster.get(cluster_options.SLOT_REQUEST_TIMEOUT) / 1_000,
                heartbeat_timeout_ms=cluster.get(cluster_options.HEARTBEAT_TIMEOUT),
            ),
        )
        threading.Thread(target=self._run, name="job master", daemon=True).start()

    def _run(self) -> None:
        try:
            self._process.run()
        except BaseException:
            logger.exception("the master of this job ends; the dispatcher starts another one")
            os._exit(1)

    @ray.method(concurrency_group="wait")
    def wait_end(self) -> None:
        self._process.ended.wait()

    @ray.method(concurrency_group="ask")
    def overview(self) -> JobOverview | None:
        return self._process.overview()

    @ray.method(concurrency_group="ask")
    def view(self) -> JobView | None:
        return self._process.view()

    @ray.method(concurrency_group="ask")
    def cancel(self) -> None:
        self._process.cancel()

    @ray.method(concurrency_group="ask")
    def stop(self, remember: bool) -> None:
        self._process.stop(remember)

    @ray.method(concurrency_group="ask")
    def savepoint(self, request: str, target: str, stop: bool, drain: bool) -> None:
        self._process.savepoint(request, target, stop, drain)

    @ray.method(concurrency_group="ask")
    def checkpoint(self, request: str) -> None:
        self._process.checkpoint(request)

    @ray.method(concurrency_group="read")
    def read_state(self, question: StateQuestion) -> StateAnswer:
        return self._process.read_state(question)


class DispatcherProcess:
    """Of the cluster: jobs, REST, nodes. What only it needs is imported here: masters must start fast.

    A store that cannot be used is told at the cluster's very first start, by an error. Later one waits for it
    (`patiently`): Ray does not start again what raises at its start, and REST must answer."""

    def __init__(self, config: dict[str, str], storage: str, secret: bytes, patiently: bool = False) -> None:
        from .cluster_gateway import ClusterGateway
        from .dispatcher_service import DispatcherService
        from .ray_processes import RayProcesses
        from .submission import Submissions

        cluster = Configuration.from_dict(config)
        if ray.get_runtime_context().was_current_actor_reconstructed:
            cluster.set(cluster_options.RESUME_JOBS, True)  # the jobs are this cluster's own
            patiently = True
        directory = node_directory(cluster, NODE)
        logs = directory / "logs"
        setup_logging(logs, NODE, cluster.get(cluster_options.LOG_LEVEL))
        counter = ObjectCounter()
        objects = CountedObjects(PatientStore(storage, config) if patiently else _probed(storage, config), counter)

        def make_master(submission: JobSubmission, number: int, name: str, gives_up: bool) -> ActorHandle:
            handle: ActorHandle = JobMasterActor.options(
                name=name, lifetime="detached", num_cpus=0, max_restarts=0, scheduling_strategy=_beside_this()
            ).remote(submission, number, config, storage, secret, gives_up)
            return handle

        service = DispatcherService(cluster, objects, RayProcesses(cluster, make_master, logs))
        submissions = Submissions(cluster, storage, objects, directory)
        self._gateway = ClusterGateway(cluster, storage, objects, service, submissions, logs, counter)
        service.start(patiently=patiently)
        self._rest = self._serve(cluster, directory)
        logger.info("REST answers at %s", self._rest.url)

    def _serve(self, cluster: Configuration, directory: Path) -> RunningServer:
        from ..rest.app import create_app
        from ..rest.parameters import RestOptions
        from ..rest.server import start as start_rest

        rest = RestOptions(
            upload_limit_bytes=cluster.get(cluster_options.UPLOAD_LIMIT),
            refresh_interval_ms=cluster.get(cluster_options.WEB_REFRESH),
            web_submit=cluster.get(cluster_options.WEB_SUBMIT),
            web_cancel=cluster.get(cluster_options.WEB_CANCEL),
            upload_directory=directory / "work",
            allowed_origins=tuple(filter(None, (cluster.get(cluster_options.ALLOWED_ORIGINS) or "").split(","))),
        )
        host, port = cluster.get(cluster_options.REST_BIND_ADDRESS), cluster.get(cluster_options.REST_PORT)
        return start_rest(create_app(self._gateway, rest), host or "127.0.0.1", port)

    @ray.method(concurrency_group="ask")
    def url(self) -> str:
        """Of REST."""
        return self._rest.url


_remote: Any = ray.remote
"""Its types do not know concurrency groups."""
JobMasterActor = _remote(concurrency_groups={"wait": 4, "ask": 8, "read": 2 * MOST_OPEN})(JobMasterProcess)
DispatcherActor = _remote(concurrency_groups={"ask": 4})(DispatcherProcess)


def start_dispatcher(config: Configuration, storage: str, secret: bytes) -> str:
    """Start the cluster's dispatcher, or find it; answers the URL of its REST.

    Ray must be connected, in the cluster's namespace. PenstockError: it cannot start, and why."""
    try:
        handle = ray.get_actor(DISPATCHER)
    except ValueError:
        patiently = _is_restarted(config)
        if not patiently:
            _check_storage(config, storage)
        handle = DispatcherActor.options(
            name=DISPATCHER, lifetime="detached", num_cpus=0, max_restarts=-1, scheduling_strategy=_beside_this()
        ).remote(config.to_dict(), storage, secret, patiently)
    return _url(handle)


def _is_restarted(config: Configuration) -> bool:
    """Whether the supervisor on this machine brings its cluster back: it had a store that could be used."""
    state = ClusterFiles.of(config).read()
    return state is not None and state.phase == "restarting"


def _probed(storage: str, config: dict[str, str]) -> ObstoreObjects:
    """ConfigurationError: the store cannot be used."""
    objects = ObstoreObjects(storage, config)
    objects.probe()
    return objects


def _check_storage(config: Configuration, storage: str) -> None:
    """Told here in a sentence; the dispatcher, which looks again, could only die of it. ConfigurationError."""
    try:
        _probed(storage, config.to_dict())
    except ConfigurationError as error:
        raise ConfigurationError(
            f"the cluster cannot keep its jobs there ({cluster_options.CLUSTER_STORAGE.key}). {error}"
        ) from None


def _beside_this() -> NodeAffinitySchedulingStrategy:
    """On the same node: there REST is expected, and the job manager's processes keep their logs together. Not as a mere
    wish (soft): an actor without resources would then be put on any node, as Ray ignores wishes for these. If this node
    is gone, so is whoever started the cluster."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def _url(handle: Any) -> str:
    deadline_s = time.monotonic() + START_S
    while True:
        try:
            url: str = ray.get(handle.url.remote(), timeout=max(0.1, deadline_s - time.monotonic()))
            return url
        except ray.exceptions.ActorUnavailableError:  # it is being restarted
            if time.monotonic() > deadline_s:
                raise PenstockError("the dispatcher does not come up") from None
            time.sleep(0.2)
        except ray.exceptions.RayError as error:
            lines = [line.strip() for line in _COLOUR.sub("", str(error)).splitlines() if line.strip()]
            reason = lines[-1] if lines else type(error).__name__  # of a traceback, what was raised
            raise PenstockError(f"the dispatcher cannot start: {reason}") from error
