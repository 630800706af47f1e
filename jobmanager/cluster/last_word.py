"""How a job ends whose graph no master can read: by its log, as every other job does.

A master that cannot load its job must not just say that the job has failed. Another one may have it in hand: one that
was silent for a while, and was joined by this one. So it becomes a candidate like all masters, and only once it leads
does it end the job. As long as another one leads it waits; if that one brings the job to its end, that is what counts.
"""

from __future__ import annotations

import heapq
import time
from collections import deque

from ...state.errors import DeposedError
from ...state.store.job_log import Finished, JobLog
from ...state.store.objects import ObjectStore, run_program
from ..events import RunProgram, SetTimer, TimerFired, WorkDone, WorkFailed
from ..leadership import TAG, Leadership, LeadershipCommand, NothingToLead, StartLeading, StopLeading


def end_as_failed(leader: Leadership, log: JobLog, store: ObjectStore) -> Finished:
    """The job's end in its log: FAILED, written here, or what another master wrote. Blocks while another one leads.

    Raises what keeps this master from leading: DeposedError, or an error of the store."""
    commands: deque[LeadershipCommand] = deque(leader.start(_now_ms()))
    due_ms: list[int] = []
    while True:
        while commands:
            match commands.popleft():
                case RunProgram(tag, program):
                    event: WorkDone | WorkFailed
                    try:
                        event = WorkDone(tag, run_program(program, store))
                    except Exception as error:  # leadership decides which it can live with
                        event = WorkFailed(tag, error)
                    commands += leader.handle(event, _now_ms())
                case SetTimer(at_ms, _):
                    heapq.heappush(due_ms, at_ms)
                case StartLeading():
                    return _write_end(log, store)
                case StopLeading(reason):
                    raise reason
                case NothingToLead(finished):
                    return finished
        time.sleep(max(0, heapq.heappop(due_ms) - _now_ms()) / 1_000)
        commands += leader.handle(TimerFired((TAG, "tick")), _now_ms())


def _write_end(log: JobLog, store: ObjectStore) -> Finished:
    """What is logged as completed is kept: the job can be continued by a new one."""
    finished = Finished("FAILED", retained=bool(log.state.completed))
    try:
        run_program(log.append_as_leader(finished), store)
    except DeposedError:
        if log.state.finished is None:
            raise
    return log.state.finished or finished


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000
