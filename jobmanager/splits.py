"""Who reads which split: the master's side of one source.

A split is at any time either in the enumerator or in exactly one reader, for every checkpoint alike (PROTOCOLS 9).
The enumerator's snapshot is taken when a checkpoint is triggered; the readers' snapshots follow when they inject the
barrier. A split that changed hands in between would be in both, and after a restore be read twice. So from the
trigger on assignments are *held back* until every reader has injected the barrier, or the checkpoint is aborted.

An assignment before the trigger is safe, because a slot's messages keep their order: AssignSplits arrives before
TriggerCheckpoint, and the split is in the reader's snapshot. Results of discovery may come at any time: what is found
after the enumerator's snapshot is found again after a restore.

Requests that cannot be answered (held back, discovery not done, nothing there now) wait in the order they came.

The enumerator outlives a restart of some of its readers. Such a reader goes back to a checkpoint: the splits that it
had then are restored to it with their positions, and those that it was given afterwards are given to it once more,
from their beginnings, as soon as it runs (`restarted`). To it and to no other: a reader that has gone on may be ahead
of them in event time, and their records would come late there. So that this is known, every assignment is remembered,
with the newest checkpoint that had been triggered before it, until a checkpoint that was triggered after it is
complete: then it is in a reader's snapshot. It does not matter whether the reader ever got it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..runtime.connector import Source
from ..state.ids import CheckpointId, OperatorId
from ..state.snapshots import SplitSnapshot


@dataclass(frozen=True, slots=True)
class Assignment:
    subtask: int
    splits: tuple[SplitSnapshot, ...]
    last: bool = False


@dataclass(frozen=True, slots=True)
class _Given:
    after: CheckpointId
    """The newest checkpoint that had been triggered: it does not hold this, and every later one does."""
    subtask: int
    splits: tuple[SplitSnapshot, ...]


class SplitCoordinator:
    """One source, from one restart of the whole job to the next. Methods answer the assignments to be sent now."""

    def __init__(
        self, source: Source[Any], operator_id: OperatorId, parallelism: int, restored: bytes | None = None
    ) -> None:
        self.operator_id = operator_id
        self._source = source
        self._parallelism = parallelism
        self._enumerator = source.create_enumerator(restored)
        self._discovered = False
        self._waiting: dict[int, None] = {}
        self._holds: dict[CheckpointId, set[int]] = {}
        """Checkpoint -> readers that have not injected its barrier yet."""
        self._triggered = CheckpointId(0)
        self._given: list[_Given] = []
        """What no completed checkpoint holds as a reader's, in order."""

    @property
    def discovery_interval_ms(self) -> int | None:
        return self._enumerator.discovery_interval_ms

    def discovery(self) -> Callable[[], Any]:
        return self._enumerator.discover

    def discovered(self, found: Any) -> list[Assignment]:
        self._enumerator.discovered(found)
        self._discovered = True
        return self._answer()

    def requested(self, subtask: int) -> list[Assignment]:
        self._waiting[subtask] = None
        return self._answer()

    def snapshot(self, checkpoint_id: CheckpointId) -> bytes:
        """What is restored later. Holds assignments back from now on."""
        self._holds[checkpoint_id] = set(range(self._parallelism))
        self._triggered = checkpoint_id
        return self._enumerator.snapshot()

    def injected(self, checkpoint_id: CheckpointId, subtask: int) -> list[Assignment]:
        readers = self._holds.get(checkpoint_id)
        if readers is None:
            return []
        readers.discard(subtask)
        return [] if readers else self.released(checkpoint_id)

    def released(self, checkpoint_id: CheckpointId) -> list[Assignment]:
        """The checkpoint was aborted, or all its barriers are on their way."""
        self._holds.pop(checkpoint_id, None)
        return self._answer()

    # ---- readers that restart while others go on

    def completed(self, checkpoint_id: CheckpointId) -> None:
        """It is what a reader goes back to from now on."""
        self._given = [given for given in self._given if given.after >= checkpoint_id]

    def failed(self, subtask: int) -> None:
        """Nobody waits for an answer there any more."""
        self._waiting.pop(subtask, None)

    def restarted(self, subtask: int) -> list[Assignment]:
        """The reader runs again, from the last completed checkpoint: what it was given since then."""
        again = tuple(split for given in self._given if given.subtask == subtask for split in given.splits)
        return [Assignment(subtask, again)] if again else []

    def _answer(self) -> list[Assignment]:
        if self._holds or not self._discovered:
            return []
        assignments = []
        for subtask in list(self._waiting):
            splits = self._enumerator.next_splits(subtask, self._parallelism)
            if splits is None:
                assignments.append(Assignment(subtask, (), last=True))
            elif splits:
                encoded = tuple(self._encode(split) for split in splits)
                self._given.append(_Given(self._triggered, subtask, encoded))
                assignments.append(Assignment(subtask, encoded))
            else:
                continue
            del self._waiting[subtask]
        return assignments

    def _encode(self, split: Any) -> SplitSnapshot:
        return SplitSnapshot(self._source.split_id(split), self._source.encode_split(split))
