"""Our states in Flink's words. Everything on the wire is one of JOB_STATES or SUBTASK_STATES.

Flink has no word for an attempt that is being set up (CREATED there: waiting for its resources), for a job whose last
commits are awaited, or for one that takes its last checkpoint (both RUNNING there), and none for a subtask that has
read everything and still answers barriers (RUNNING). A master that has been deposed knows nothing of the job any more:
until its successor answers, the job is RECONCILING.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from ..views import NEVER, JobOverview, SubtaskView

JOB_STATES = (
    "INITIALIZING", "CREATED", "RUNNING", "FAILING", "FAILED", "CANCELLING", "CANCELED", "FINISHED", "RESTARTING",
    "SUSPENDED", "RECONCILING",
)  # fmt: skip
SUBTASK_STATES = (
    "CREATED", "SCHEDULED", "DEPLOYING", "INITIALIZING", "RUNNING", "FINISHED", "CANCELING", "CANCELED", "FAILED",
    "RECONCILING",
)  # fmt: skip
TERMINAL_SUBTASK_STATES = frozenset({"FINISHED", "CANCELED", "FAILED"})
ENDED_JOB_STATES = frozenset({"FINISHED", "CANCELED", "FAILED", "SUSPENDED"})

_JOB = {
    "CREATED": "INITIALIZING",
    "STARTING": "CREATED",
    "FINISHING": "RUNNING",
    "SUSPENDING": "RUNNING",
    "CANCELING": "CANCELLING",
    "DEPOSED": "RECONCILING",
}
_FIRST_OF = {"INITIALIZING": "CREATED", "CREATED": "STARTING", "CANCELLING": "CANCELING", "RECONCILING": "DEPOSED"}
"""Which of our states stands for one of Flink's in the table of timestamps."""


def job_state(state: str) -> str:
    """Of job_states.JobState -> of JOB_STATES."""
    return _JOB.get(state, state)


def subtask_state(state: str) -> str:
    """Of execution_graph.SubtaskState -> of SUBTASK_STATES."""
    return "RUNNING" if state == "DRAINED" else state


def application_state(state: str) -> str:
    """Of JobState -> an application's: CREATED RUNNING FAILING FAILED CANCELING CANCELED FINISHED."""
    flinks = job_state(state)
    by_job = {
        "INITIALIZING": "CREATED", "CANCELLING": "CANCELING", "RESTARTING": "RUNNING", "RECONCILING": "RUNNING",
        "SUSPENDED": "FINISHED",
    }  # fmt: skip
    return by_job.get(flinks, flinks)


def job_timestamps(timestamps: Mapping[str, int]) -> dict[str, int]:
    """All of JOB_STATES -> when it was entered; 0: never."""
    found = ((state, timestamps.get(_FIRST_OF.get(state, state), 0)) for state in JOB_STATES)
    return {state: max(at_ms, 0) for state, at_ms in found}


def count_states(counts: Mapping[str, int]) -> dict[str, int]:
    """SubtaskState -> how many, as all of SUBTASK_STATES -> how many."""
    known: Counter[str] = Counter()
    for state, count in counts.items():
        known[subtask_state(state)] += count
    return {state: known[state] for state in SUBTASK_STATES}


def count_subtasks(subtasks: Iterable[SubtaskView]) -> dict[str, int]:
    return count_states(Counter(subtask.state for subtask in subtasks))


def aggregate_state(subtasks: Iterable[SubtaskView]) -> str:
    """A vertex's state: the worst of its subtasks', else the least advanced."""
    counts = count_subtasks(subtasks)
    for state in ("FAILED", "CANCELING", "CANCELED", "INITIALIZING", "RUNNING"):
        if counts[state]:
            return state
    unfinished = sum(counts.values()) - counts["FINISHED"]
    if counts["FINISHED"]:
        return "RUNNING" if unfinished else "FINISHED"
    return next((state for state in ("DEPLOYING", "SCHEDULED") if counts[state]), "CREATED")


def has_ended(job: JobOverview) -> bool:
    return job_state(job.state) in ENDED_JOB_STATES


def duration_ms(started_ms: int, ended_ms: int, now_ms: int) -> int:
    """Until it ended, else until now; -1 before it began."""
    if started_ms == NEVER:
        return NEVER
    return max((now_ms if ended_ms == NEVER else ended_ms) - started_ms, 0)
