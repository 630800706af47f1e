"""When a process that died is started again, and when not any more; and when a service that is silent is given up.

Both are fed with what happens and with the time, and answer what to do. The supervisors (cluster_supervisor.py,
node_supervisor.py) do it.
"""

from __future__ import annotations

from collections import deque
from enum import Enum

WINDOW_MS = 600_000
MAX_FAILURES = 5
FIRST_DELAY_MS = 500
LONGEST_DELAY_MS = 30_000


class RestartBudget:
    """So many failures within a window; each next one within it is answered later."""

    def __init__(self, *, failures: int = MAX_FAILURES, window_ms: int = WINDOW_MS) -> None:
        self._allowed, self._window_ms = failures, window_ms
        self._failed_ms: deque[int] = deque()

    def failed(self, now_ms: int) -> int | None:
        """Milliseconds to wait before the next start; None: there is none, it has failed too often."""
        while self._failed_ms and now_ms - self._failed_ms[0] >= self._window_ms:
            self._failed_ms.popleft()
        self._failed_ms.append(now_ms)
        if len(self._failed_ms) > self._allowed:
            return None
        return min(FIRST_DELAY_MS << (len(self._failed_ms) - 1), LONGEST_DELAY_MS)

    def __str__(self) -> str:
        return f"{self._allowed} failures within {self._window_ms // 60_000} minutes"


class Remedy(Enum):
    """For a service that does not answer."""

    NONE = "none"
    KILL = "kill"
    """Its process: Ray starts it again."""
    RESTART = "restart"
    """All of Ray: killing the process has not helped."""


class Vigil:
    """Watches a service that is asked regularly. Silence of `silence_ms` has its process killed, once; if it stays
    silent for `patience_ms` more, which is the time that a new process has to come up, everything is restarted."""

    def __init__(self, *, silence_ms: int, patience_ms: int, now_ms: int) -> None:
        self._silence_ms, self._patience_ms = silence_ms, patience_ms
        self._heard_ms = now_ms
        self._killed_ms: int | None = None

    def answered(self, now_ms: int) -> None:
        self._heard_ms, self._killed_ms = now_ms, None

    def remedy(self, now_ms: int) -> Remedy:
        """KILL and RESTART are each answered once: whoever asks does them."""
        if self._killed_ms is not None:
            if now_ms - self._killed_ms < self._patience_ms:
                return Remedy.NONE
            self.answered(now_ms)
            return Remedy.RESTART
        if now_ms - self._heard_ms < self._silence_ms:
            return Remedy.NONE
        self._killed_ms = now_ms
        return Remedy.KILL

    def silent_ms(self, now_ms: int) -> int:
        return now_ms - self._heard_ms
