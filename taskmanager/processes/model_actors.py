"""Workers with a model each as actors of Ray: processes of their own, with resources of their own, on any node that has
them (runtime/model_workers.py says what operators may expect).

    slot's thread     start, call, close: notes what there is to do for the helper thread, and goes on
    helper thread     all that may wait for Ray: looks whether any node has the resources, starts, sends, kills
    Ray's threads     answers, and deaths as errors: posted to the slot's thread

An actor belongs to the slot's process: Ray ends it when that ends, however it ends, so none is ever left behind. Ray
starts none again: the operator does, and sends again what was lost. Without resources an actor is on the slot's own
node; with some on that node if it has them, else where they are. It installs the job's code there, as slots do.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray.actor import ActorHandle
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ...runtime import logs
from ...runtime.configuration.cluster_options import LOG_LEVEL
from ...runtime.configuration.config import Configuration
from ...runtime.configuration.node_options import with_node_options
from ...runtime.directories import CODE, LOGS, node_directory, occupy
from ...runtime.model_workers import CallEnded, ModelSpec, NoRoomError, Told, WorkerEnded, WorkerEvent, WorkerReady
from ...runtime.tracebacks import user_traceback
from ...state.errors import PenstockError
from ...state.serialization import pickling
from .actor import threads_of_libraries
from .ray_resources import ray_options, total_resources
from .user_code import UserCode, set_up

if TYPE_CHECKING:
    import pyarrow as pa

    from .leases import JobLease

CLOSE_S = 2.0
"""What closing waits for its actors to be told."""
MAX_NAMED = 10
"""So many nodes are named in a message."""

Post = Callable[[Callable[[], None]], None]
logger = logging.getLogger(__name__)


class ModelShell:
    """One worker. Methods raise nothing but what Ray itself raises: errors of users' code are answers."""

    def __init__(self, name: str, code: UserCode, config: dict[str, str], cores: float) -> None:
        os.environ.update(threads_of_libraries(cores))
        node_name = f"taskmanager-{ray.get_runtime_context().get_node_id()[:12]}"
        self._config = with_node_options(config)
        configuration = Configuration.from_dict(self._config)
        self._node = node_directory(configuration, node_name)
        occupy(self._node)
        logs.setup_logging(self._node / LOGS, name, configuration.get(LOG_LEVEL))
        logs.redirect_output(self._node / LOGS, name)
        self._code = code

    def load(self, pickled: bytes) -> bytes | None:
        """None: the model is loaded. Else the pickled error."""
        from ...runtime.model_workers import LoadedModel

        try:
            set_up(self._code, Path(self._node / CODE), self._config)
            self._model = LoadedModel(pickling.loads(pickled))
        except BaseException as error:
            return _packed(error)
        return None

    def run(self, stream: pa.Buffer) -> tuple[pa.Buffer | None, bytes | None]:
        """What came of a batch, or the pickled error."""
        from ...runtime.records.packed_batches import packed_table, unpacked

        try:
            produced = self._model(unpacked(stream))
            return (None if produced is None else packed_table(produced)), None
        except BaseException as error:
            return None, _packed(error)


ModelShell.__name__ = "ModelActor"  # what the process list shows
_remote: Any = ray.remote
ModelActor = _remote(num_cpus=0, max_restarts=0, max_task_retries=0)(ModelShell)


def _packed(error: BaseException) -> bytes:
    """With its traceback, which does not travel by itself."""
    travelling = error if isinstance(error, Exception) else PenstockError(f"{type(error).__name__}: {error}")
    trace = user_traceback(error)
    try:
        travelling.add_note(f"in the actor:\n{trace}") if trace else None
        packed = pickling.dumps(travelling)
        pickling.loads(packed)
    except Exception:  # some errors cannot be pickled, or not read again
        plain = PenstockError(f"{type(error).__name__}: {error}")
        plain.add_note(f"in the actor:\n{trace}")
        packed = pickling.dumps(plain)
    return packed


class RayWorkers:
    """Implements Workers."""

    def __init__(self, lease: JobLease, post: Post, context: logs.TaskContext, spec: ModelSpec, told: Told) -> None:
        self._lease = lease
        self._post = post
        self._spec = spec
        self._told = told
        self._name = f"model-{lease.job_id[:8]}-{_file_name(spec.operator)}-{os.getpid()}"
        self._pickled = pickling.dumps(spec)
        self._handles: dict[int, ActorHandle[Any]] = {}
        """Only on the helper thread."""
        self._living: set[int] = set()
        """Only on the slot's thread: those that may be heard."""
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="penstock-model-actors", daemon=True)
        self._thread.start()

    # on the slot's thread

    def start(self, worker: int) -> None:
        self._living.add(worker)
        self._jobs.put(partial(self._start, worker))

    def call(self, worker: int, number: int, columns: pa.RecordBatch) -> None:
        self._jobs.put(partial(self._call, worker, number, columns))

    def close(self) -> None:
        self._living.clear()
        self._jobs.put(self._end_all)
        self._jobs.put(None)
        self._thread.join(CLOSE_S)  # else they end with this process

    def _hear(self, event: WorkerEvent) -> None:
        if event.worker not in self._living:
            return
        if isinstance(event, WorkerEnded):  # as far as is known here: one that cannot be reached may go on
            self._living.discard(event.worker)
            self._jobs.put(partial(self._end, event.worker))
        self._told(event)

    # on the helper thread

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()

    def _start(self, worker: int) -> None:
        try:
            self._handles[worker] = handle = self._actor(worker)
            loading: Future[Any] = handle.load.remote(self._pickled).future()
        except Exception as error:  # whatever Ray refuses it for
            self._say(WorkerEnded(worker, "it cannot be started", error))
            return
        loading.add_done_callback(partial(self._loaded, worker))

    def _actor(self, worker: int) -> ActorHandle[Any]:
        resources, nodes = self._spec.resources, total_resources()
        if resources and not any(resources.fits(has) for has in nodes.values()):
            names = resources.amounts().keys()
            there = "; ".join(f"{node[:12]}: {has.only(names)}" for node, has in list(nodes.items())[:MAX_NAMED])
            raise NoRoomError(
                f"operator '{self._spec.operator}' asks for {resources} for each of its models, and no node has that "
                f"({there}); ask for less, or add a node (penstock cluster join)"
            )
        here = ray.get_runtime_context().get_node_id()
        handle: ActorHandle[Any] = ModelActor.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(here, soft=bool(resources)), **ray_options(resources)
        ).remote(f"{self._name}-{worker}", self._lease.code, self._lease.config, resources.cpu)
        return handle

    def _call(self, worker: int, number: int, columns: pa.RecordBatch) -> None:
        from ...runtime.records.packed_batches import packed

        handle = self._handles.get(worker)
        if handle is None:
            return
        try:
            answer: Future[Any] = handle.run.remote(packed(columns)).future()
        except Exception as error:  # the object store is full, say
            self._say(WorkerEnded(worker, _first_line(error)))
            return
        answer.add_done_callback(partial(self._answered, worker, number))

    def _end(self, worker: int) -> None:
        handle = self._handles.pop(worker, None)
        if handle is not None:
            ray.kill(handle)

    def _end_all(self) -> None:
        for worker in list(self._handles):
            self._end(worker)

    # on threads of Ray's

    def _loaded(self, worker: int, answer: Future[bytes | None]) -> None:
        error = answer.exception()
        if error is not None:
            self._say(WorkerEnded(worker, _first_line(error)))
        elif (failed := answer.result()) is not None:
            self._say(WorkerEnded(worker, "its model cannot be loaded", _unpacked(failed)))
        else:
            self._say(WorkerReady(worker))

    def _answered(self, worker: int, number: int, answer: Future[tuple[pa.Buffer | None, bytes | None]]) -> None:
        from ...runtime.records.packed_batches import unpacked_table

        error = answer.exception()
        if error is not None:
            self._say(WorkerEnded(worker, _first_line(error)))
            return
        stream, failed = answer.result()
        if failed is not None:
            self._say(CallEnded(worker, number, error=_unpacked(failed)))
        else:
            self._say(CallEnded(worker, number, None if stream is None else unpacked_table(stream)))

    def _say(self, event: WorkerEvent) -> None:
        self._post(partial(self._hear, event))


def _unpacked(failed: bytes) -> Exception:
    error: Exception = pickling.loads(failed)
    return error


def _file_name(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name)[:40]


def _first_line(error: BaseException) -> str:
    """For the user, whom Ray's actors do not concern."""
    if isinstance(error, ray.exceptions.RayActorError):
        return "its process has ended: it was killed (by the system, where memory is short), or it crashed"
    return (str(error).strip() or type(error).__name__).splitlines()[0]
