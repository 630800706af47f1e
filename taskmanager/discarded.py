"""What a subtask has written for checkpoints that came to nothing: it deletes that itself, while its attempt goes on.
A job may run for months without a restart, and its master only knows of files that were acknowledged.

    noted       a program is about to write an object
    kept        the checkpoint is complete; or it is a savepoint and was acknowledged: from then on its end is the
                master's to see to (jobmanager/savepoints.py)
    discarded   the checkpoint was aborted, or is not acknowledged: its objects are deleted

This is safe because names are given once (checkpoint_store.py), nothing re-uses files of a checkpoint that is
not known complete (PROTOCOLS 7), and one that is aborted, or that a subtask did not acknowledge, never becomes
complete: its master says that it is aborted only if its completion is not on its way into the log.

A deletion that fails is repeated with the next one. What is left when the attempt ends the next one sweeps.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any

from ..state.ids import CheckpointId
from ..state.store.checkpoint_store import DELETE_BATCH
from ..state.store.objects import Delete, Program, with_retries

MOST_NAMES = 10_000
"""Of objects that wait to be deleted, while the store does not serve; more are left to the next attempt's sweep."""
MOST_CHECKPOINTS = 100
"""Whose end is not known: more are never under way."""


class DiscardedUploads:
    """Of one subtask. `submit`: runs a program beside the slot's thread."""

    def __init__(self, submit: Callable[[Program[Any], Callable[[Any, Exception | None], None]], Any]) -> None:
        self._submit = submit
        self._noted: dict[CheckpointId, dict[str, int]] = {}
        self._waiting: dict[str, None] = {}
        self._deleting = False

    def noted(self, checkpoint: CheckpointId) -> dict[str, int]:
        """Names (and sizes) of its objects, to be filled in by the programs that write them."""
        if len(self._noted) >= MOST_CHECKPOINTS and checkpoint not in self._noted:
            self._noted.pop(min(self._noted))
        return self._noted.setdefault(checkpoint, {})

    def keep(self, checkpoint: CheckpointId) -> None:
        self._noted.pop(checkpoint, None)
        self._go_on()

    def discard(self, checkpoint: CheckpointId) -> None:
        """Its programs have ended."""
        names = self._noted.pop(checkpoint, {})
        room = MOST_NAMES - len(self._waiting)
        self._waiting.update(dict.fromkeys(islice(names, max(0, room))))
        self._go_on()

    def _go_on(self) -> None:
        if not self._waiting or self._deleting:
            return
        names = tuple(islice(self._waiting, DELETE_BATCH))
        self._deleting = True

        def done(_result: Any, error: Exception | None) -> None:
            self._deleting = False
            if error is None:
                for name in names:
                    self._waiting.pop(name, None)
                self._go_on()

        self._submit(with_retries(Delete(names)), done)
