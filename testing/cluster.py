"""A cluster in this process, driven by a test: run a pipeline until something holds, kill a slot, go on, restore.

    with Cluster(env.job_graph(), directory) as cluster:
        cluster.run_until(lambda: cluster.completed_checkpoints >= 1)
        cluster.kill_slot()
        assert cluster.finish() is JobState.FINISHED

    with Cluster(graph, directory) as cluster:           # the process "dies" in the middle: close without finishing
        cluster.run_until(lambda: cluster.completed_checkpoints >= 1)
    with Cluster(graph, directory, restore="latest") as cluster:
        cluster.finish()

The same slots and job master as everywhere, on the calling thread (jobmanager/local_cluster.py): a condition is looked
at between two steps, and a breakpoint in a function works. Configuration is the job graph's own.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from ..jobmanager.events import JobState, JobStatus
from ..jobmanager.local_job import LocalJob
from ..runtime.configuration import options
from ..runtime.configuration.config import Configuration
from ..runtime.graph.job_graph import JobGraph
from ..state.ids import SlotId

PATIENCE_S = 60.0
"""A test that waits longer for its condition fails."""


class Cluster:
    """One job. Closing it before the job has ended is like kill -9: only what is in `directory` stays."""

    def __init__(self, graph: JobGraph, directory: Path | str, restore: str | None = None) -> None:
        """`directory`: for checkpoints. `restore`: 'latest' or the path of a checkpoint."""
        config = Configuration.from_dict(graph.config).set(options.CHECKPOINTS_DIR, str(directory))
        if restore is not None:
            config.set(options.RESTORE, restore)
        self._job = LocalJob(graph, config)

    def run_until(self, condition: Callable[[], bool], timeout_s: float = PATIENCE_S) -> None:
        """TimeoutError if it does not come to hold; AssertionError if the job ends before."""
        if not self._job.cluster.run(condition, timeout_s):
            raise TimeoutError(f"it did not come to hold within {timeout_s} s; the job is {self.status().state.value}")
        assert condition(), f"the job has ended as {self.status().state.value} before it held"

    def finish(self, timeout_s: float = PATIENCE_S) -> JobState:
        """Run to the end. Raises JobFailedError, whose cause is what the user's function raised."""
        if not self._job.cluster.run(timeout_s=timeout_s):
            raise TimeoutError(f"the job is still {self.status().state.value} after {timeout_s} s")
        return self._job.result()

    def stop(self, timeout_s: float = PATIENCE_S) -> JobState:
        """Take a last checkpoint, commit it, end; a Cluster with restore='latest' goes on from there."""
        self._job.stop()
        return self.finish(timeout_s)

    def kill_slot(self, slot: SlotId | None = None) -> SlotId:
        """As if the slot's process had died: this one, or the oldest. The job restarts from its last checkpoint."""
        killed = next(iter(self.slots)) if slot is None else slot
        self._job.cluster.kill_slot(killed)
        return killed

    @property
    def slots(self) -> tuple[SlotId, ...]:
        return tuple(self._job.cluster.slots)

    @property
    def completed_checkpoints(self) -> int:
        """Since this cluster was started."""
        return self.status().checkpoints.completed

    @property
    def restarts(self) -> int:
        return self._job.restarts

    def status(self) -> JobStatus:
        return self._job.status()

    def close(self) -> None:
        self._job.close()

    def __enter__(self) -> Cluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
