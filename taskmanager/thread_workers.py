"""Workers with a model each as threads of this process: where a job runs without Ray (runtime/model_workers.py).

One thread for each, with its own instance. Threads cannot be interrupted: one that is closed in the middle of a batch
ends after it, and is not heard any more.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import pyarrow as pa

from ..runtime import logs
from ..runtime.model_workers import CallEnded, LoadedModel, ModelSpec, Told, WorkerEnded, WorkerEvent, WorkerReady
from ..state.errors import PenstockError

Post = Callable[[Callable[[], None]], None]
logger = logging.getLogger(__name__)


def thread_workers(post: Post, context: logs.TaskContext, spec: ModelSpec, told: Told) -> ThreadWorkers:
    """`post`: runs mail on the slot's thread. `context`: on what the model logs."""
    if spec.resources:
        logger.warning(
            "operator '%s': its models share this process; %s for each is only noted", spec.operator, spec.resources
        )
    return ThreadWorkers(post, context, spec, told)


@dataclass(slots=True)
class _Worker:
    calls: queue.SimpleQueue[tuple[int, pa.RecordBatch] | None] = field(default_factory=queue.SimpleQueue)
    heard: bool = True


class ThreadWorkers:
    """Implements Workers."""

    def __init__(self, post: Post, context: logs.TaskContext, spec: ModelSpec, told: Told) -> None:
        self._post = post
        self._context = context
        self._spec = spec
        self._told = told
        self._workers: dict[int, _Worker] = {}

    def start(self, worker: int) -> None:
        own = self._workers[worker] = _Worker()
        threading.Thread(target=self._run, args=(worker, own), name=f"penstock-model-{worker}", daemon=True).start()

    def call(self, worker: int, number: int, columns: pa.RecordBatch) -> None:
        self._workers[worker].calls.put((number, columns))

    def close(self) -> None:
        for own in self._workers.values():
            own.heard = False
            own.calls.put(None)

    # on a worker's thread

    def _run(self, worker: int, own: _Worker) -> None:
        with logs.use_context(self._context):
            try:
                model = LoadedModel(self._spec)
            except BaseException as error:
                self._say(own, WorkerEnded(worker, "its model cannot be loaded", _as_error(error)))
                return
            self._say(own, WorkerReady(worker))
            while own.heard and (call := own.calls.get()) is not None:
                number, columns = call
                try:
                    answer = CallEnded(worker, number, model(columns))
                except BaseException as error:
                    answer = CallEnded(worker, number, error=_as_error(error))
                self._say(own, answer)

    def _say(self, own: _Worker, event: WorkerEvent) -> None:
        self._post(lambda: self._told(event) if own.heard else None)


def _as_error(error: BaseException) -> Exception:
    """An exit in users' code must not end the thread in silence."""
    if isinstance(error, Exception):
        return error
    wrapped = PenstockError(f"{type(error).__name__}: {error}")
    wrapped.__cause__ = error
    return wrapped
