"""What execute() and execute_async() give: results, and handles of jobs that run."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from ..connectors.collect import Collector
from ..jobmanager.events import JobState, JobStatus
from ..jobmanager.gateway import ConflictError, StateQuestion, UnavailableError
from ..jobmanager.local_job import LocalJob
from ..runtime.configuration.config import Configuration
from ..runtime.graph.describe import describe
from ..runtime.graph.job_graph import JobGraph
from ..state.errors import CheckpointError
from . import interruption, session
from .failures import FailureReports
from .operations import ReadsState, TakesSavepoints
from .progress import ProgressLine, records_read

REPORT_INTERVAL_MS = 250
LOOK_S = 0.02
"""Between two looks at what a job on a thread of its own does."""
ANSWER_S = 30.0
"""A question for its state is asked again so long, while the job starts or restarts."""
WAITING_MS = 3_000
"""A job that does not begin for so long has another leader."""


@dataclass(frozen=True, slots=True)
class JobResult:
    """What became of a job that has ended."""

    job_id: str
    job_name: str
    state: JobState
    duration_ms: int
    status: JobStatus = field(repr=False)
    """Counters and checkpoints as they were in the end."""

    def to_dict(self) -> dict[str, Any]:
        return {
            "job_id": self.job_id,
            "job_name": self.job_name,
            "state": self.state.value,
            "duration_ms": self.duration_ms,
            "restarts": self.status.restarts,
            "checkpoints": self.status.checkpoints.completed,
        }


class JobClient(TakesSavepoints, ReadsState):
    """A job of this process. Either `run` it here, or `start` it on a thread of its own."""

    def __init__(self, graph: JobGraph, config: Configuration, why: str) -> None:
        """`why`: it runs here and on no cluster, for the first line that is printed."""
        announce(graph, config, f"runs in this process ({why})")
        self._job = LocalJob(graph, config)
        self._began_ns = time.monotonic_ns()
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None
        self._sources = frozenset(vertex.id for vertex in graph.vertices if vertex.operators[0].is_source)
        self._progress = ProgressLine(self._sources)
        self._failures = FailureReports()
        self._reported_ms = 0
        self._reported_restarts = 0
        self._told_waiting = False
        for note in self._job.notes:
            session.say(f"note: {note}")
        if self._job.continued:
            session.say(f"continuing job {self.job_id}")

    @property
    def job_id(self) -> str:
        return self._job.job_id

    def status(self) -> JobStatus:
        return self._job.status()

    def stop(self) -> None:
        """A last checkpoint, its commits, and the end; `-s latest` continues from there."""
        self._job.stop()

    def cancel(self) -> None:
        self._job.cancel()

    def _savepoint(self, target: str | None, timeout_s: float | None, *, stop: bool, drain: bool) -> str:
        request = self._job.savepoint(target, stop=stop, drain=drain)
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s

        def known() -> bool:
            operation = self._job.operation(request)
            return operation is not None and operation.ended

        self._attend_until(lambda: known() or (deadline_s is not None and time.monotonic() > deadline_s))
        operation = self._job.operation(request)
        if operation is None or operation.failure is not None:
            raise CheckpointError(operation.failure if operation and operation.failure else "the job has ended before")
        if not operation.ended:
            raise TimeoutError(f"the savepoint is not complete after {timeout_s} s")
        return operation.path

    def _read_state(self, question: StateQuestion) -> dict[str, Any]:
        deadline_s = time.monotonic() + ANSWER_S
        while True:
            if self._thread is None or not self._thread.is_alive():
                raise ConflictError(f"job '{self._job.graph.job_name}' has ended, or was not started")
            try:
                return self._job.read_state(question)
            except UnavailableError:
                if time.monotonic() > deadline_s:
                    raise
            self._thread.join(LOOK_S)

    def _attend_until(self, until: Callable[[], bool]) -> None:
        """Or to the job's end, on the thread that runs it: its own, or this one."""
        if self._thread is None:
            self.run_until(until)
            return
        while self._thread.is_alive() and not until():
            self._thread.join(LOOK_S)

    def rows(self, collector: Collector) -> LocalRows:
        """Records that it collects there."""
        return LocalRows(self, collector)

    def start(self) -> JobClient:
        """Run in the background."""
        self._thread = threading.Thread(target=self._run_aside, name=f"job {self._job.graph.job_name}", daemon=True)
        self._thread.start()
        return self

    def _run_aside(self) -> None:
        try:
            self.run_until(lambda: False)
        except Exception as error:  # a bug of ours; whoever asks for the result shall see it
            self._error = error

    def result(self, timeout_s: float | None = None) -> JobResult:
        """Wait for the end of a job that was started. Raises JobFailedError, or TimeoutError."""
        assert self._thread is not None, "start() the job first"
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            raise TimeoutError(f"job '{self._job.graph.job_name}' has not ended after {timeout_s} s")
        if self._error is not None:
            self._job.close()
            raise self._error
        return self.finish()

    def run(self) -> JobResult:
        """To its end, on this thread. Ctrl-C and SIGTERM stop it after a last checkpoint (KeyboardInterrupt)."""
        try:
            with self._progress, stopping_on_signals(self._job.stop) as stopped:
                self.run_until(lambda: False)
        except BaseException:
            self._job.close()
            raise
        result = self.finish()
        if stopped and result.state is not JobState.FINISHED:
            session.say_stopped(result)
            raise interruption.stopped()
        if result.state is JobState.FINISHED:
            read = records_read(result.status, self._sources)
            session.say(f"job '{result.job_name}' has finished: {read:,} records in {result.duration_ms / 1000:.1f} s")
        return result

    def run_until(self, until: Callable[[], bool]) -> bool:
        """Drive the job on this thread until then, or to its end (True)."""

        def report_or_stop() -> bool:
            now_ms = time.monotonic_ns() // 1_000_000
            if now_ms - self._reported_ms >= REPORT_INTERVAL_MS or self._job.restarts != self._reported_restarts:
                self._report(now_ms)
            return until()

        return self._job.run(report_or_stop)

    def _report(self, now_ms: int) -> None:
        status = self._job.status()
        self._reported_ms, self._reported_restarts = now_ms, status.restarts
        if text := self._failures.text(status):
            session.say(text)
        waited_ms = now_ms - self._began_ns // 1_000_000
        if status.state is JobState.CREATED and waited_ms >= WAITING_MS and not self._told_waiting:
            self._told_waiting = True
            session.say(f"another process leads job {self.job_id}, or did until it died: waiting for its end")
        self._progress(status, now_ms)

    def finish(self) -> JobResult:
        """The result of a job that has ended; its temporary files are removed."""
        self._job.close()
        duration_ms = (time.monotonic_ns() - self._began_ns) // 1_000_000
        status = self._job.status()
        if text := self._failures.text(status):
            session.say(text)
        result = JobResult(self.job_id, self._job.graph.job_name, status.state, duration_ms, status)
        session.finished(result)
        self._job.result()
        return result


class LocalRows:
    """Records of one collector; asking for more runs the job on this thread."""

    def __init__(self, client: JobClient, collector: Collector) -> None:
        self._client = client
        self._collector = collector
        self._ended = False

    def more(self) -> list[Any] | None:
        """What has come since; None: the job has ended and nothing follows."""
        if self._ended:
            return None
        rows: list[Any] = []

        def arrived() -> bool:
            rows.extend(self._collector.take())
            return bool(rows)

        self._ended = self._client.run_until(arrived)
        arrived()
        return rows

    def close(self) -> None:
        """Nobody is interested any more: what still arrives is dropped."""
        self._ended = True
        self._collector.close()


def announce(graph: JobGraph, config: Configuration, where: str) -> None:
    """Where the job runs, how its operators run, and what should be known about it."""
    session.say(f"job '{graph.job_name}' {where}{', in batch mode' if graph.batch_mode else ''}")
    session.say("\n".join(describe(graph).splitlines()[1:]))
    for note in config.notes:
        session.say(f"note: {note}")


@contextmanager
def stopping_on_signals(stop: Callable[[], None], again: str = "to stop at once") -> Iterator[list[int]]:
    """The first Ctrl-C or SIGTERM calls `stop`, a second one interrupts at once. Gives the signals that came.
    `again`: what a second one is for."""
    came: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        came.append(number)
        if len(came) > 1:
            raise KeyboardInterrupt
        session.say(f"stopping after a last checkpoint; once more {again}")
        stop()

    if threading.current_thread() is not threading.main_thread():
        yield came
        return
    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
