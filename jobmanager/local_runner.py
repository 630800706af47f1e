"""A job from its graph to its end in this process: which store, which checkpoint, which job it continues."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from ..runtime import options
from ..runtime.config import Configuration
from ..runtime.graph.job_graph import JobGraph
from ..state.checkpoint_store import metadata_name_of_path
from ..state.errors import CheckpointError, ConfigurationError
from ..state.ids import JobId, new_job_id, new_nonce
from ..state.job_registry import JobDescription, find_latest, register_job
from ..state.objects import ObjectStore, run_program
from ..state.obstore_objects import ObstoreObjects
from .events import JobStatus, StopRequested
from .job_master import JobMaster
from .local_cluster import LocalCluster
from .options import RestoreRequest
from .process_identity import this_process
from .settings import job_master_options

DEFAULT_DIRECTORY = ".penstock"
"""In the working directory: where checkpoints go when nothing is configured."""
PROGRESS_S = 0.5
LATEST = "latest"


@dataclass(frozen=True, slots=True)
class Beginning:
    """Which job is run: a new one, one that is continued, or a new one from another's checkpoint."""

    job_id: JobId
    restore: RestoreRequest | None = None


def start_local(graph: JobGraph, config: Configuration) -> LocalCluster:
    """The job, set up and not yet run. ConfigurationError, CheckpointError for what cannot be used or found."""
    objects, root = _open_store(config)
    beginning = _begin(graph.job_name, config.get(options.RESTORE), objects, root)
    master = JobMaster(
        graph,
        job_id=beginning.job_id,
        options=job_master_options(config),
        new_name=new_nonce,
        process=this_process(),
        restore=beginning.restore,
    )
    return LocalCluster(master, objects)


def run_local(
    graph: JobGraph, config: Configuration, progress: Callable[[JobStatus], None] = lambda status: None
) -> tuple[JobStatus, Exception | None]:
    """Run the job to its end, on this thread. Its last status, and why it FAILED if it did.

    `progress` is called about twice a second. Ctrl-C and SIGTERM let the job take a last checkpoint, commit and stop
    (SUSPENDED); a second Ctrl-C ends it at once, like any death of the process.
    """
    cluster = start_local(graph, config)
    due_s = [time.monotonic() + PROGRESS_S]

    def show() -> bool:
        if time.monotonic() >= due_s[0]:
            due_s[0] = time.monotonic() + PROGRESS_S
            progress(cluster.master.status())
        return False

    try:
        with _stopping_on_signals(cluster):
            cluster.run(until=show)
    finally:
        cluster.close()
    status = cluster.master.status()
    progress(status)
    return status, cluster.ended.failure if cluster.ended is not None else None


def _open_store(config: Configuration) -> tuple[ObjectStore, str]:
    """Without checkpoints the job's log is needed only while the process lives."""
    if config.get(options.CHECKPOINT_INTERVAL) == 0 and config.get(options.RESTORE) is None:
        return ObstoreObjects("memory://"), ""
    root = config.get(options.CHECKPOINTS_DIR) or DEFAULT_DIRECTORY
    objects = ObstoreObjects(root)
    objects.probe()
    return objects, root


def _begin(job_name: str, restore: str | None, objects: ObjectStore, root: str) -> Beginning:
    if restore == LATEST:
        return _continue_latest(job_name, objects, root)
    job_id = new_job_id()
    run_program(register_job(JobDescription(job_id, job_name, time.time_ns() // 1_000_000), new_nonce), objects)
    request = None if restore is None else RestoreRequest(metadata_name_of_path(restore, root))
    return Beginning(job_id, request)


def _continue_latest(job_name: str, objects: ObjectStore, root: str) -> Beginning:
    """The same job goes on under its own id and log, so that the old process, should it still live, is deposed."""
    found = run_program(find_latest(job_name, new_nonce), objects)
    if found is None:
        raise ConfigurationError(
            f"there is no job '{job_name}' to continue in {root}: run it without -s, or set state.checkpoints.dir"
        )
    if found.state.finished is None:
        return Beginning(found.job_id)
    last = found.state.last_completed
    if last is None:
        raise CheckpointError(f"job '{job_name}' in {root} has ended and has left no checkpoint")
    job_id = new_job_id()
    run_program(register_job(JobDescription(job_id, job_name, time.time_ns() // 1_000_000), new_nonce), objects)
    return Beginning(job_id, RestoreRequest(last.metadata_name))


@contextmanager
def _stopping_on_signals(cluster: LocalCluster) -> Iterator[None]:
    """Only the main thread may set handlers; elsewhere signals are the caller's business."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        for each, handler in previous.items():
            signal.signal(each, handler)
        cluster.post(StopRequested())

    previous = {each: signal.signal(each, stop) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for each, handler in previous.items():
            signal.signal(each, handler)
