"""What savepoints that were given up leave in the store: removed, and again when something may have come since.

    given up                                            what is there by now
    an acknowledgement, or the document, comes late     what came with it
    the next attempt begins                             what those who died have written to their end
    the job ends                                        what subtasks wrote while they were stopped

One that is given up is in no log and never will be: its completion is logged only from a state in which it cannot be
given up any more (checkpoint_coordinator.py), and of a master before by nobody, once another one leads. So its document
counts for nobody, wherever it comes from, and goes with the rest: without its files it would look like a savepoint.
Directories have one owner, because no master takes up the name of another's. A job does not end while a
document is being written (ending.py). What comes even later, or of a master that has died, `penstock gc` finds
(state/store/garbage.py).
"""

from __future__ import annotations

from functools import partial

from ..state.ids import CheckpointId
from ..state.savepoints.savepoint_store import remove_unfinished
from .deletions import Deletions


class SavepointRemains:
    """Of one job's master."""

    def __init__(self, deletions: Deletions) -> None:
        self._deletions = deletions
        self._paths: dict[str, CheckpointId | None] = {}
        """Directories that something may still come into. None: by a master before."""

    def given_up(self, path: str, checkpoint_id: CheckpointId | None) -> None:
        """`checkpoint_id`: None if it was a master before that had begun it, or may have."""
        self._paths[path] = checkpoint_id
        self.remove(path)

    def remove(self, path: str) -> None:
        """Of one that was given up, in whatever attempt: its document is there."""
        self._deletions.begin(partial(remove_unfinished, path))

    def came_late(self, checkpoint_id: CheckpointId) -> None:
        """Something of a checkpoint that is not under way; perhaps it was no savepoint."""
        for path, given_up in self._paths.items():
            if given_up == checkpoint_id:
                self.remove(path)

    def attempt_begins(self) -> None:
        """Those of the one before can write no more; a master before may just be standing still."""
        self.again()
        self._paths = {path: given_up for path, given_up in self._paths.items() if given_up is None}

    def again(self) -> None:
        """As when the job ends: whoever has written is over, or is being killed."""
        for path in self._paths:
            self.remove(path)
