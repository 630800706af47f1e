"""How long a slot goes on without its master (PROTOCOLS 8). Pure: time is handed in.

A slot that was cut off must not go on for ever: its master may have been replaced, and another slot may do its work
by now. What it writes is fenced by attempts, so this is not what keeps records from being doubled; it frees the
machine, and stops what cannot be fenced, like calls of user functions to other systems.

    HEARD      the current generation asks and orders
    SILENT     nothing heard for `cancel_after_ms`: all tasks are cancelled; whoever comes back finds them cancelled
    LOST       nothing heard for `exit_after_ms`: the process ends

A blank slot has no master. It listens for its task manager, which asks it every few seconds how it is, and ends its
process likewise: whatever became of the task manager, no process is left behind.

Only calls of the current generation count. A waiting call counts when it comes, not as long as it waits, because the
slot does not learn of the death of whoever made it; so it must not wait longer than a fraction of the limits. The one
exception is the lease itself, which installs code for some minutes: it counts until it is done, within a limit.
"""

from __future__ import annotations

import enum

LONGEST_POLL_MS = 2_000
POLLS_PER_TIMEOUT = 4


def poll_wait_s(heartbeat_timeout_ms: int) -> float:
    """How long a poll of an idle slot waits for messages: its master hears it several times per timeout."""
    return min(LONGEST_POLL_MS, heartbeat_timeout_ms // POLLS_PER_TIMEOUT) / 1_000


class ContactState(enum.Enum):
    HEARD = enum.auto()
    SILENT = enum.auto()
    LOST = enum.auto()


class Contact:
    """Of one slot with whoever it belongs to. Times are ms of a monotonic clock."""

    def __init__(self, now_ms: int, cancel_after_ms: int, exit_after_ms: int) -> None:
        self._cancel_after_ms = min(cancel_after_ms, exit_after_ms)
        self._exit_after_ms = exit_after_ms
        self._leased = False
        self._heard_ms = now_ms
        self._state = ContactState.HEARD

    def leased(self, now_ms: int) -> None:
        """It has a master now, or another generation of it."""
        self._leased = True
        self._hear(now_ms)

    def installing(self, now_ms: int, at_most_ms: int) -> None:
        """Its master waits for the job's code, and cannot speak: not silence, for so long. `leased` ends it."""
        self._hear(now_ms + at_most_ms)

    def heard_master(self, now_ms: int) -> None:
        """A call of the current generation has come."""
        self._hear(now_ms)

    def heard_task_manager(self, now_ms: int) -> None:
        """Counts while it is blank."""
        if not self._leased:
            self._hear(now_ms)

    def _hear(self, now_ms: int) -> None:
        if self._state is not ContactState.LOST:
            self._heard_ms, self._state = now_ms, ContactState.HEARD

    def tick(self, now_ms: int) -> ContactState | None:
        """The state that was entered since the last tick, if any: SILENT once per silence, then LOST."""
        silent_ms = self.silent_ms(now_ms)
        if silent_ms >= self._exit_after_ms:
            entered = ContactState.LOST
        elif silent_ms >= self._cancel_after_ms and self._leased:
            entered = ContactState.SILENT
        else:
            return None
        if entered is self._state or self._state is ContactState.LOST:
            return None
        self._state = entered
        return entered

    def silent_ms(self, now_ms: int) -> int:
        return max(0, now_ms - self._heard_ms)
