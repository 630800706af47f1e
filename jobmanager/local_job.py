"""One job in this process, from its configuration: which store, which job id, from which checkpoint, and what became
of it. Without checkpoints nothing is written anywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ..runtime.configuration import options
from ..runtime.configuration.config import Configuration
from ..runtime.graph.job_graph import JobGraph
from ..state.errors import JobFailedError, KeyTypeError
from ..state.ids import new_nonce
from ..state.savepoints.savepoint_store import located
from ..state.store.located_objects import LocatedObjects
from ..state.store.objects import ObjectStore
from ..state.store.obstore_objects import ObstoreObjects
from .events import CancelRequested, JobState, JobStatus, SavepointRequested, StopRequested
from .gateway import RefusedError, StateQuestion
from .identity import identify, restored_metadata
from .job_master import JobMaster
from .local_cluster import LocalCluster
from .options import RestoreRequest
from .process_identity import this_process
from .settings import job_master_options
from .views import SavepointOperation

ANSWER_S = 6.0
"""Longer than a slot has for it (state_queries.py)."""
DEFAULT_DIRECTORY = ".penstock/checkpoints"


class LocalJob:
    """`run` drives it on the calling thread, so a breakpoint in a user's function works. Close it in the end."""

    def __init__(self, graph: JobGraph, config: Configuration) -> None:
        """ConfigurationError, CheckpointError, IncompatibleStateError: where it cannot start at all."""
        self.graph = graph
        self.location = _location(config)
        root = ObstoreObjects(self.location, config.to_dict())
        root.probe()
        store = LocatedObjects(root, lambda location: ObstoreObjects(location, config.to_dict()))
        self.notes = [*_checked_restore(graph, config, store, self.location), *_unheeded_resources(graph)]
        """What its user should know."""
        identity = identify(graph.job_name, config, store, self.location)
        self.job_id, self.continued = identity.job_id, identity.continued
        self._master = JobMaster(
            graph,
            job_id=self.job_id,
            options=replace(job_master_options(config), storage=self.location, continues=identity.generation),
            new_name=new_nonce,
            restore=None if identity.origin is None else RestoreRequest(identity.origin),
            process=this_process(),
        )
        self.cluster = LocalCluster(self._master, store)

    def run(self, until: Callable[[], bool] = lambda: False) -> bool:
        """True when the job has ended; False if `until()` became true before."""
        self.cluster.run(until)
        return self.ended

    @property
    def ended(self) -> bool:
        return self.cluster.ended is not None

    def stop(self) -> None:
        """Last checkpoint, commit, end; it can be continued. Safe from any thread and from signal handlers."""
        self.cluster.post(StopRequested())

    def savepoint(self, target: str | None = None, *, stop: bool = False, drain: bool = False) -> str:
        """Take one, and perhaps stop with it; answers the request, by which `operation` says what became of it."""
        request = new_nonce()
        directory = None if target is None else located(target)
        self.cluster.post(SavepointRequested(request, directory, stop, drain))
        return request

    def operation(self, request: str) -> SavepointOperation | None:
        """None: it is not known yet."""
        found = self._master.savepoints()
        return next((operation for operation in found if operation.request == request), None)

    def read_state(self, question: StateQuestion) -> dict[str, Any]:
        """What a key has, in the words of REST; asked from another thread than the one that runs the job.

        UnavailableError: nobody can answer at the moment; UnknownError, RefusedError."""
        from .rest.wire_state import keyed_value

        try:
            return dict(keyed_value(question, self.cluster.loop.query(question, ANSWER_S)))
        except KeyTypeError as error:
            raise RefusedError(str(error)) from error

    def cancel(self) -> None:
        self.cluster.post(CancelRequested())

    def status(self) -> JobStatus:
        return self._master.status()

    @property
    def restarts(self) -> int:
        """So far; cheap, unlike the status."""
        return self._master.failures.restarts

    def result(self) -> JobState:
        """The last state of a job that has ended. Raises JobFailedError, or what deposed it."""
        ended = self.cluster.ended
        assert ended is not None, "the job has not ended"
        if ended.failure is None:
            return ended.state
        raise self._failure(ended.failure)

    def _failure(self, failure: Exception) -> Exception:
        if not isinstance(failure, JobFailedError):
            return failure
        trace = self.status().failure_traceback
        if trace and "File " in trace:
            failure.add_note(trace.rstrip())
        return failure

    def close(self) -> None:
        self.cluster.close()


def _checked_restore(graph: JobGraph, config: Configuration, store: ObjectStore, location: str) -> list[str]:
    if config.get(options.RESTORE) is None:
        return []
    from .restore_check import require_fit  # with what all operators need

    metadata = restored_metadata(graph.job_name, config, store, location)
    return [] if metadata is None else require_fit(metadata, graph, config)


def _unheeded_resources(graph: JobGraph) -> list[str]:
    asking = [f"'{vertex.name}' ({vertex.resources})" for vertex in graph.vertices if vertex.resources]
    if not asking:
        return []
    return [f"resources are only noted: all slots of a local job share this process; {', '.join(asking)}"]


def _location(config: Configuration) -> str:
    if config.get(options.CHECKPOINT_INTERVAL) == 0 and config.get(options.RESTORE) is None:
        return "memory://"
    return config.get(options.CHECKPOINTS_DIR) or DEFAULT_DIRECTORY
