"""What went wrong in a job, and whether it is worth another attempt."""

from __future__ import annotations

from ..runtime.graph.job_graph import JobGraph
from ..state.errors import ConfigurationError, JobFailedError, PenstockError, ProtocolError, UserCodeError
from ..state.serialization import pickling
from ..taskmanager.messages import Failed
from .exception_history import ExceptionHistory
from .restarts import MAX_REMEMBERED_FAILURES, RestartStrategy, helped_by_restart
from .views import NEVER


class Failures:
    """The memory of a restart strategy, and what is shown of the last failure."""

    def __init__(self, strategy: RestartStrategy, exceptions: ExceptionHistory) -> None:
        self._strategy = strategy
        self.exceptions = exceptions
        self._times_ms: list[int] = []
        self.last: str | None = None
        self.last_subtask: Failed | None = None
        """None when it was no subtask that failed last."""
        self.last_delay_ms: int | None = None
        self.restarts = 0

    def delay_ms(self, error: Exception, now_ms: int, subtask: Failed | None) -> int | None:
        """An attempt has failed: how long to wait before the next one; None: there is none."""
        self.last, self.last_subtask = str(error), subtask
        self._times_ms = [*self._times_ms[-MAX_REMEMBERED_FAILURES + 1 :], now_ms]
        delay_ms = self._strategy.delay_ms(self._times_ms) if helped_by_restart(error) else None
        self.restarts += delay_ms is not None
        self.last_delay_ms = delay_ms
        self.exceptions.add(error, now_ms, subtask, NEVER if delay_ms is None else delay_ms)
        return delay_ms

    def too_late(self, error: Exception, now_ms: int, subtask: Failed | None, *, is_root: bool, is_last: bool) -> None:
        """The attempt is over, or ends anyway. `is_root`: nobody told the subtask to end, so it is no consequence of
        that. `is_last`: the error of a function's close(), say, when all output is safe; to be told as the last one."""
        if not self.exceptions.add_concurrent(error, now_ms, subtask) and is_root:
            self.exceptions.add(error, now_ms, subtask)
        if is_last:
            self.last, self.last_subtask = str(error), subtask

    def fatal(self, error: Exception, now_ms: int, subtask: Failed | None = None) -> None:
        """Nothing of an attempt: the job ends, or comes to its end with it."""
        self.last, self.last_subtask = str(error), subtask
        self.exceptions.add(error, now_ms, subtask)


def no_slots(reason: str, graph: JobGraph, *, hopeless: bool) -> PenstockError:
    """`hopeless`: the job never ran, and no node could give it what it asks for. One that ran waits for its nodes."""
    asking = [f"'{vertex.name}' asks for {vertex.resources}" for vertex in graph.vertices if vertex.resources]
    who = f" ({'; '.join(asking)})" if asking else ""
    return (ConfigurationError if hopeless else PenstockError)(f"no slots: {reason}{who}")


def job_failed(error: Exception) -> JobFailedError:
    """The cause is the user's own exception, if there is one."""
    failure = JobFailedError(str(error))
    failure.__cause__ = (error.__cause__ if isinstance(error, UserCodeError) else None) or error
    return failure


def error_of(failed: Failed) -> Exception:
    """What a subtask died of, with the user's own exception as cause if it could travel."""
    error = UserCodeError(failed.message, operator=failed.operator, subtask=failed.subtask.index)
    if failed.pickled_cause is not None:
        try:
            error.__cause__ = pickling.loads(failed.pickled_cause)
        except Exception:  # a class that cannot be imported here: the text must do
            error.__cause__ = None
    return error


def as_ours(error: Exception, what: str) -> PenstockError:
    """To be raised: an error of ours as it is, another's (or a bug's, far away) with what was being done."""
    if isinstance(error, PenstockError) and not isinstance(error, ProtocolError):
        return error
    ours = PenstockError(f"{what}: {error}")
    ours.__cause__ = error
    return ours
