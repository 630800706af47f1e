"""One job in this process, from its configuration: which store, which job id, from which checkpoint, and what became
of it.

`-s latest` continues the newest job of the name that has not ended: same id, same log. `-s PATH` starts a new job
from another one's checkpoint. Otherwise a new job starts afresh. Without checkpoints nothing is written anywhere.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from ..runtime import options
from ..runtime.config import Configuration
from ..runtime.graph.job_graph import JobGraph
from ..state.checkpoint_store import metadata_name_of_path
from ..state.errors import CheckpointError, ConfigurationError, JobFailedError
from ..state.ids import JobId, new_job_id, new_nonce
from ..state.job_registry import JobDescription, find_latest, register_job
from ..state.objects import ObjectStore, run_program
from ..state.obstore_objects import ObstoreObjects
from .events import CancelRequested, JobState, JobStatus, StopRequested
from .job_master import JobMaster
from .local_cluster import LocalCluster
from .options import RestoreRequest
from .process_identity import this_process
from .settings import job_master_options

DEFAULT_DIRECTORY = ".penstock/checkpoints"
LATEST = "latest"


class LocalJob:
    """`run` drives it on the calling thread, so a breakpoint in a user's function works. Close it in the end."""

    def __init__(self, graph: JobGraph, config: Configuration) -> None:
        """ConfigurationError, CheckpointError: where it cannot start at all."""
        self.graph = graph
        self.location = _location(config)
        store = ObstoreObjects(self.location)
        store.probe()
        self.job_id, restore, self.continued = _identify(graph.job_name, config, store, self.location)
        self._master = JobMaster(
            graph,
            job_id=self.job_id,
            options=job_master_options(config),
            new_name=new_nonce,
            restore=restore,
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


def _location(config: Configuration) -> str:
    if config.get(options.CHECKPOINT_INTERVAL) == 0 and config.get(options.RESTORE) is None:
        return "memory://"
    return config.get(options.CHECKPOINTS_DIR) or DEFAULT_DIRECTORY


def _identify(
    job_name: str, config: Configuration, store: ObjectStore, location: str
) -> tuple[JobId, RestoreRequest | None, bool]:
    """Job id, where its state comes from unless its own log says so, and whether it is an earlier job continued."""
    wanted = config.get(options.RESTORE)
    if wanted == LATEST:
        found = run_program(find_latest(job_name, new_nonce), store)
        if found is None:
            raise CheckpointError(
                f"there is no job '{job_name}' in {location} that could be continued; run without -s to start afresh"
            )
        origin, last = found.description.restored_from, found.state.last_completed
        if found.state.finished is None or last is None:
            return found.job_id, None if origin is None else RestoreRequest(origin), True
        wanted = f"{location}/{last.metadata_name}"  # cancelled or failed: a new job goes on from what it left
    if wanted is not None and config.get(options.CHECKPOINT_INTERVAL) == 0:
        raise ConfigurationError(f"{options.RESTORE.key} needs checkpoints, but they are switched off")
    restore = None if wanted is None else RestoreRequest(metadata_name_of_path(wanted, location))
    job_id = new_job_id()
    created_at_ms = time.time_ns() // 1_000_000
    origin = None if restore is None else restore.metadata_name
    run_program(register_job(JobDescription(job_id, job_name, created_at_ms, origin), new_nonce), store)
    return job_id, restore, False
