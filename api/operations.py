"""What a cluster does on request and takes a while for: how a client waits for its end; savepoints."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from ..state.errors import CheckpointError

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 1.0
"""Between two looks; they grow."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """`location` of a savepoint, `checkpoint_id` of a checkpoint."""

    ended: bool
    location: str = ""
    checkpoint_id: int = -1
    failure: str | None = None


def awaited(look: Callable[[], Outcome], timeout_s: float | None = None) -> Outcome:
    """Its end. CheckpointError: it failed, TimeoutError: it goes on. Without a timeout the job's own limits hold."""
    deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
    pause_s = FIRST_PAUSE_S
    while not (outcome := look()).ended:
        if deadline_s is not None and time.monotonic() > deadline_s:
            raise TimeoutError(f"it has not come to its end within {timeout_s} s")
        time.sleep(pause_s)
        pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
    if outcome.failure is not None:
        raise CheckpointError(outcome.failure)
    return outcome


class TakesSavepoints(ABC):
    """A job's client."""

    def trigger_savepoint(self, target: str | None = None, *, timeout_s: float | None = None) -> str:
        """Take a savepoint, wait for it, answer its path. `target`: the directory it goes into, if not
        state.savepoints.dir. CheckpointError: it failed, and the job goes on; TimeoutError."""
        return self._savepoint(target, timeout_s, stop=False, drain=False)

    def stop_with_savepoint(
        self, target: str | None = None, *, drain: bool = False, timeout_s: float | None = None
    ) -> str:
        """The same, and the job ends with it: all that came before is committed. `drain`: event time ends before, so
        that all windows fire."""
        return self._savepoint(target, timeout_s, stop=True, drain=drain)

    @abstractmethod
    def _savepoint(self, target: str | None, timeout_s: float | None, *, stop: bool, drain: bool) -> str: ...
