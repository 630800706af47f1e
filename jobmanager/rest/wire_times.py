"""When subtasks and vertices began, ended, and how long they were in which state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..views import NEVER, SubtaskView
from .states import SUBTASK_STATES, TERMINAL_SUBTASK_STATES, duration_ms, subtask_state

LASTING_STATES = ("CREATED", "SCHEDULED", "DEPLOYING", "INITIALIZING", "RUNNING")
"""Those a subtask can be in for a while, in their order: what status-duration holds."""


@dataclass(frozen=True, slots=True)
class Times:
    start_ms: int
    """-1: not yet deployed."""
    end_ms: int
    duration_ms: int


def subtask_times(subtask: SubtaskView, now_ms: int) -> Times:
    """From its deployment to its end."""
    start_ms = subtask.timestamps.get("DEPLOYING", NEVER)
    ended = subtask.state in TERMINAL_SUBTASK_STATES
    end_ms = subtask.timestamps.get(subtask.state, NEVER) if ended else NEVER
    return Times(start_ms, end_ms, duration_ms(start_ms, end_ms, now_ms))


def vertex_times(subtasks: Sequence[SubtaskView], now_ms: int) -> Times:
    """From the first deployment to the last end."""
    times = [subtask_times(subtask, now_ms) for subtask in subtasks]
    start_ms = min((t.start_ms for t in times if t.start_ms != NEVER), default=NEVER)
    all_ended = bool(times) and all(subtask.state in TERMINAL_SUBTASK_STATES for subtask in subtasks)
    end_ms = max(t.end_ms for t in times) if all_ended else NEVER
    return Times(start_ms, end_ms, duration_ms(start_ms, end_ms, now_ms))


def status_durations(subtask: SubtaskView, now_ms: int) -> dict[str, int]:
    """LASTING_STATES -> ms in it so far; -1: it was never in it."""
    in_order = sorted(subtask.timestamps.items(), key=lambda entry: entry[1])  # of one ms: as they were entered
    entered = [(at_ms, state) for state, at_ms in in_order if at_ms != NEVER]
    ends = [at_ms for at_ms, _ in entered[1:]]
    ended = subtask.state in TERMINAL_SUBTASK_STATES
    ends.append(entered[-1][0] if entered and ended else now_ms)
    lasted = dict.fromkeys(LASTING_STATES, NEVER)
    for (at_ms, state), end_ms in zip(entered, ends, strict=False):
        shown = subtask_state(state)
        if shown in lasted:
            lasted[shown] = max(lasted[shown], 0) + max(end_ms - at_ms, 0)
    return lasted


def entered_states(subtask: SubtaskView) -> dict[str, int]:
    """When this attempt entered each state, of Flink's names; 0: never."""
    entered = dict.fromkeys(SUBTASK_STATES, 0)
    for state, at_ms in subtask.timestamps.items():
        if state in entered:
            entered[state] = max(at_ms, 0)
    return entered
