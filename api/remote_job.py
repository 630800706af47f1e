"""A job on a cluster, as its client sees it: what JobClient is for a job of this process.

    RemoteJob  ── GET /jobs/:id/view, several times a second ──>  progress, failures, the end
               ── suspend, cancel ──────────────────────────────>  taken at once, done later: seen in the view
               ── stop, savepoints ─────────────────────────────>  likewise; awaited by the request's id
    RemoteRows ── GET /jobs/:id/collected/:name?after=n ────────>  records, each once

The job does not depend on its client: one that goes away leaves it running. A cluster that is being restarted is
waited for (rest_client.py); its jobs go on.

Records are asked for by the number behind the last ones that arrived. Asking again with the same number gives the same
records again, so an answer that got lost is no loss; asking with the next one lets the cluster forget them.

Ctrl-C while a job is attended asks for a stop with a last checkpoint, and waits for it; once more leaves it alone.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable
from typing import Any

from ..jobmanager.events import CheckpointStatus, JobState, JobStatus, VertexStatus
from ..jobmanager.gateway import ConflictError, StateQuestion
from ..jobmanager.views import NEVER, CheckpointsView, ExceptionView, JobView, SubtaskView, VertexView
from ..runtime.elements import MIN_WATERMARK
from ..state.errors import JobFailedError
from ..state.ids import Attempt, CheckpointId, VertexId
from ..state.savepoints.savepoint_store import located
from . import interruption, session
from .failures import FailureReports
from .job_client import JobResult, stopping_on_signals
from .operations import ReadsState, TakesSavepoints, awaited
from .printed import PrintedOutput
from .progress import ProgressLine, records_read
from .rest_client import Accepted, RestClient

LOOK_S = 0.25
"""Between two looks at a job."""
WAIT_S = 1.0
"""How long the cluster may wait for collected records before it answers that there are none."""


class RemoteJob(TakesSavepoints, ReadsState):
    """A job that was submitted, or is found on a cluster. Not for several threads at once."""

    def __init__(self, client: RestClient, accepted: Accepted, printed: PrintedOutput | None = None) -> None:
        """`printed`: shown here, too."""
        self.job_id = accepted.job_id
        self.job_name = accepted.job_name
        self._client = client
        self._view: JobView | None = None
        self._printed = printed
        self._failures = FailureReports()
        self._progress = ProgressLine(frozenset())
        self._looked_s = 0.0
        self._stop_asked = False

    # asking

    def view(self) -> JobView:
        """Everything that is known of it (jobmanager/views.py)."""
        self._view = self._client.job(self.job_id)
        return self._view

    def status(self) -> JobStatus:
        return status_of(self.view())

    def accumulators(self) -> dict[str, float]:
        """'<operator name>.<metric>' -> sum over subtasks, of the current attempt."""
        totals: dict[str, float] = {}
        for vertex in self.view().vertices:
            for name, value in _counters(vertex).items():
                totals[name] = totals.get(name, 0) + value
        return totals

    # ending

    def stop(self) -> None:
        """A last checkpoint, its commits, and the end; `-s latest` continues from there. Does not wait for it."""
        try:
            self._client.stop(self.job_id)
        except ConflictError:
            return  # it has ended by itself

    def cancel(self) -> None:
        """Does not wait for it."""
        try:
            self._client.cancel(self.job_id)
        except ConflictError:
            return

    def _savepoint(self, target: str | None, timeout_s: float | None, *, stop: bool, drain: bool) -> str:
        directory = None if target is None else located(target)
        request = self._client.begin_savepoint(self.job_id, directory, stop=stop, drain=drain)
        return awaited(lambda: self._client.savepoint(self.job_id, request), timeout_s).location

    def _read_state(self, question: StateQuestion) -> dict[str, Any]:
        return self._client.state(self.job_id, question)

    def collectors(self) -> tuple[str, ...]:
        """What it collects, as far as the last look has shown."""
        return () if self._view is None else self._view.collected

    def rows(self, collector: str) -> RemoteRows:
        """Records that it collects under that name."""
        return RemoteRows(self._client, self, collector)

    def give_way(self) -> None:
        """Before something is printed, where the progress of a job that is attended may be shown."""
        self._progress.give_way()

    # waiting

    def start(self) -> RemoteJob:
        """It runs already."""
        return self

    def result(self, timeout_s: float | None = None) -> JobResult:
        """Wait for its end. Raises JobFailedError, or TimeoutError."""
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        if not self.run_until(lambda: deadline_s is not None and time.monotonic() >= deadline_s):
            raise TimeoutError(f"job '{self.job_name}' has not ended after {timeout_s} s")
        return self.finish()

    def run(
        self, at_each_look: Callable[[], None] = lambda: None, at_end: Callable[[], None] = lambda: None
    ) -> JobResult:
        """Attend it to its end. Ctrl-C and SIGTERM stop it after a last checkpoint. KeyboardInterrupt: it was stopped
        or cancelled, by them or from elsewhere. `at_end` is called before it is said how the job ended."""
        again = "to leave the job alone" if self._printed is None else "to stop at once"  # with its cluster
        with stopping_on_signals(self._ask_for_stop, again) as stopped:
            try:
                with self._progress:
                    self._attend(at_each_look)
            except KeyboardInterrupt:
                session.say(
                    f"left job {self.job_id}, which is to stop after a last checkpoint: penstock describe {self.job_id}"
                )
                raise
        result = self.finish()
        finished = result.state is JobState.FINISHED
        if finished or not stopped:
            at_end()
        if finished:
            read = records_read(result.status, _sources(self._view))
            session.say(f"job '{self.job_name}' has finished: {read:,} records in {result.duration_ms / 1000:.1f} s")
            return result
        if not stopped:
            session.say(f"job '{self.job_name}' has ended as {result.state.value}, which was not asked for here")
        session.say_stopped(result)
        raise interruption.stopped()

    def _ask_for_stop(self) -> None:
        """From a signal handler, which must not use a connection that may be in use."""
        self._stop_asked = True

    def run_until(self, until: Callable[[], bool]) -> bool:
        """Attend it until then, or to its end (True)."""
        while True:
            if self.look():
                return True
            if until():
                return False
            time.sleep(LOOK_S)

    def _attend(self, at_each_look: Callable[[], None]) -> None:
        while not self.look():
            at_each_look()
            time.sleep(LOOK_S)

    def look(self) -> bool:
        """Tell what is new. True if it has ended."""
        if self._stop_asked:
            self._stop_asked = False
            self.stop()
        status = self.status()
        self._looked_s = time.monotonic()
        if text := self._failures.text(status):
            session.say(text)
        self._progress.sources = _sources(self._view)
        self._progress(status, time.monotonic_ns() // 1_000_000)
        if self._printed is not None:
            self._printed.show(all_of_it=status.state.is_terminal)
        return status.state.is_terminal

    def look_sometimes(self) -> None:
        if time.monotonic() - self._looked_s >= LOOK_S:
            self.look()

    def finish(self) -> JobResult:
        """The result of a job that has ended."""
        view = self._view if self._view is not None and _has_ended(self._view) else self.view()
        status, overview = status_of(view), view.overview
        ended_ms = overview.ended_ms if overview.ended_ms != NEVER else overview.modified_ms
        duration_ms = max(0, ended_ms - overview.started_ms)
        result = JobResult(self.job_id, self.job_name, status.state, duration_ms, status)
        session.finished(result)
        if status.state is JobState.FAILED:
            raise _failure(view)
        return result


class RemoteRows:
    """Records of one collector, in order."""

    def __init__(self, client: RestClient, job: RemoteJob, collector: str) -> None:
        self._client = client
        self._job = job
        self._collector = collector
        self._after = 0
        self._finished = False

    def more(self, wait_s: float = WAIT_S) -> list[Any] | None:
        """What has come since, perhaps nothing yet; None: the job has ended and nothing follows."""
        if self._finished:
            return None
        answer = self._client.collected(self._job.job_id, self._collector, self._after, wait_s)
        self._after, self._finished = answer.next, answer.finished
        if not self._finished:
            self._job.look_sometimes()
        rows = [row for page in answer.pages for row in pickle.loads(page)]
        return None if self._finished and not rows else rows

    def close(self) -> None:
        """Nobody is interested any more."""
        self._finished = True


# a view in the terms of a job of this process ----------------------------------------------------------------------


def status_of(view: JobView) -> JobStatus:
    last = view.exceptions[0] if view.exceptions else None
    return JobStatus(
        job_id=view.overview.id,
        job_name=view.overview.name,
        state=JobState(view.overview.state),
        attempt=Attempt(view.attempt),
        restarts=view.restarts,
        vertices=tuple(_vertex_status(vertex) for vertex in view.vertices),
        checkpoints=_checkpoint_status(view.checkpoints),
        last_failure=None if last is None else last.message,
        failed_operator=None if last is None else last.operator or None,
        failure_traceback=None if last is None else last.stacktrace,
        restart_delay_ms=None if last is None or last.restart_delay_ms == NEVER else last.restart_delay_ms,
    )


def _vertex_status(vertex: VertexView) -> VertexStatus:
    metrics = [subtask.metrics for subtask in vertex.subtasks]
    return VertexStatus(
        id=VertexId(vertex.id),
        name=vertex.name,
        parallelism=vertex.parallelism,
        subtask_states=tuple(subtask.state for subtask in vertex.subtasks),
        records_in=sum(m.records_in for m in metrics),
        records_out=sum(m.records_out for m in metrics),
        bytes_in=sum(m.bytes_in for m in metrics),
        bytes_out=sum(m.bytes_out for m in metrics),
        watermark=min((m.watermark for m in metrics), default=MIN_WATERMARK),
        busy_ms=sum(m.busy_ms for m in metrics),
        idle_ms=sum(m.idle_ms for m in metrics),
        backpressured_ms=sum(m.backpressured_ms for m in metrics),
        counters={name: int(value) for name, value in _counters(vertex).items()},
    )


def _counters(vertex: VertexView) -> dict[str, float]:
    totals: dict[str, float] = {}
    subtasks: tuple[SubtaskView, ...] = vertex.subtasks
    for subtask in subtasks:
        for name, value in subtask.metrics.counters.items():
            totals[name] = totals.get(name, 0) + value
    return totals


def _checkpoint_status(view: CheckpointsView) -> CheckpointStatus:
    last, failed, restored = view.latest_completed, view.latest_failed, view.latest_restored
    return CheckpointStatus(
        triggered=view.triggered,
        completed=view.completed,
        failed=view.failed,
        in_progress=view.in_progress,
        last_completed=None if last is None else CheckpointId(last.id),
        last_metadata_name=None if last is None else last.external_path,
        last_duration_ms=0 if last is None else last.duration_ms,
        last_uploaded_bytes=0 if last is None else last.checkpointed_bytes,
        last_failure=None if failed is None else failed.failure,
        restored=None if restored is None else CheckpointId(restored.id),
    )


def _sources(view: JobView | None) -> frozenset[str]:
    return frozenset() if view is None else frozenset(vertex.id for vertex in view.vertices if vertex.is_source)


def _has_ended(view: JobView) -> bool:
    return JobState(view.overview.state).is_terminal


def _failure(view: JobView) -> JobFailedError:
    if not view.exceptions:
        return JobFailedError(f"job '{view.overview.name}' failed; the job manager's log says why: penstock logs")
    last: ExceptionView = view.exceptions[0]
    failure = JobFailedError(last.message)
    if "File " in last.stacktrace:
        failure.add_note(last.stacktrace.rstrip())
    return failure
