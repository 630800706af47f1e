"""What is asked of a job that runs: savepoints, for whose end a client waits; what a key has in its state."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

import msgspec

from ..state.errors import CheckpointError

if TYPE_CHECKING:
    from ..jobmanager.gateway import StateQuestion

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


class ReadsState(ABC):
    """A job's client."""

    def read_state(
        self, operator: str, state: str, key: object, *, map_key: object = None, namespace: int = 0
    ) -> dict[str, Any]:
        """What a key has in a keyed state now, ahead of the last checkpoint, without stopping the job; under the names
        of REST: "found" says whether there is anything, "value" what, "truncated" that it is only the beginning.

        `operator`: its uid or id, or its name. `map_key`: of a map only what is under it. `namespace`: of a window's
        state its start, ms. UnknownError, RefusedError: there is no such state, or key; ConflictError: the job has
        ended; UnavailableError: nobody can answer at the moment."""
        entry = None if map_key is None else _as_text(map_key)
        from ..jobmanager.gateway import StateQuestion

        return self._read_state(StateQuestion(operator, state, _as_text(key), entry, namespace))

    @abstractmethod
    def _read_state(self, question: StateQuestion) -> dict[str, Any]: ...


def _as_text(key: object) -> str:
    """As state/savepoints/written_keys.py reads it."""
    return msgspec.json.encode(_plain(key)).decode()


def _plain(key: Any) -> Any:
    if isinstance(key, Enum):
        return key.name
    if is_dataclass(key) and not isinstance(key, type):
        return [_plain(getattr(key, part.name)) for part in fields(key)]
    return [_plain(part) for part in key] if isinstance(key, tuple | list) else key
