"""What simulated jobs do to the reading of their logs: entries are deleted early, hints are wrong.

Milestones, hints and deletions are made so frequent that logs of a hundred entries see them all. At every check a
hint may be lost, replaced by an older one, point behind the end of the log, into what is deleted, or be no hint at all.
None of it may be noticed by anybody.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from unittest.mock import patch

from ..jobmanager import log_care
from ..state.ids import JobId
from ..state.store import log_positions
from ..state.store.documents import seal
from ..state.store.log_positions import HINT_VERSION, LogHint, hint_name, is_milestone, last_milestone
from .simulated_store import SimulatedStore

LOG_KEPT_MS = 1_500
"""Instead of days: masters pause for longer than that."""


@contextmanager
def short_memory() -> Iterator[None]:
    """Milestones are rare, so that most entries may be deleted; hints are frequent."""
    with patch.object(log_positions, "MILESTONE_BITS", 2), patch.object(log_care, "HINT_EVERY", 5):
        yield


class HintTrouble(enum.Enum):
    NONE = "none"
    MISSING = "missing"
    STALE = "stale"
    BEYOND = "beyond the end"
    INTO_A_HOLE = "an entry that may be deleted"
    GARBAGE = "garbage"


class WrongHints:
    """Disturbs the hint in the store from time to time, by draws of its own."""

    def __init__(self, store: SimulatedStore, job_id: JobId, seed: int) -> None:
        self._store = store
        self._name = hint_name(job_id)
        self._random = Random(seed)
        self._first: bytes | None = None
        """The oldest hint that was seen."""

    def disturb(self, newest: int) -> None:
        """`newest`: the last entry of the log."""
        standing = self._store.objects.get(self._name)
        self._first = self._first or standing
        trouble = self._random.choice(list(HintTrouble))
        match trouble:
            case HintTrouble.MISSING:
                self._store.objects.pop(self._name, None)
            case HintTrouble.STALE if self._first is not None:
                self._store.objects[self._name] = self._first
            case HintTrouble.BEYOND:
                self._put(LogHint(newest + self._random.randint(1, 200)))
            case HintTrouble.INTO_A_HOLE:
                self._put(LogHint(self._random.randint(1, max(1, newest))))
            case HintTrouble.GARBAGE:
                self._store.objects[self._name] = b"{"

    def _put(self, hint: LogHint) -> None:
        self._store.objects[self._name] = seal("log hint", HINT_VERSION, "wrong", hint)


def may_be_deleted(name: str, newest: int) -> bool:
    """Whether an entry of this name may, when the log has so many."""
    seq = int(name.rpartition("/")[2])
    return not is_milestone(seq) and seq < last_milestone(newest)
