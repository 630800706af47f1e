"""Barrier alignment over the channels of one subtask (Chandy-Lamport as in Flink's CheckpointBarrierHandler). Pure.

Exactly-once: a channel whose barrier has come is blocked, it is read as far as it was granted but not consumed, until
the barrier has come on all channels; then the snapshot is taken and everything is unblocked. At-least-once: nothing
is blocked, the snapshot is taken when the last barrier has come. Unaligned: the gate does not wait for it (gate.py).

A checkpoint ends here in one of four ways: aligned, unaligned, aborted by the master, or overtaken (a newer barrier
comes on a channel: the older one can no longer align, because it was aborted elsewhere). Barriers of an ended one
that come late are dropped. Every channel brings barriers until the job finishes, also after its end of input.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...runtime.elements import Barrier
from ...state.ids import CheckpointId


@dataclass(frozen=True, slots=True)
class Alignment:
    """Of one checkpoint, from its first barrier to its last."""

    duration_ns: int
    processed_bytes: int
    """Consumed meanwhile: from channels whose barrier had not come, or from all if none is blocked."""


class BarrierAligner:
    """Which checkpoint the channels of one subtask are aligning, and which of them are blocked for it."""

    def __init__(self, channels: int) -> None:
        self._channels = channels
        self._aligned = CheckpointId(0)
        """The newest that was aligned: it and all older ones have ended here."""
        self._aborted: set[CheckpointId] = set()
        """Newer ones that have ended without."""
        self._arrived: dict[CheckpointId, set[int]] = {}
        self._began: dict[CheckpointId, tuple[int, int]] = {}
        """Time of the first barrier, and what had been consumed by then."""
        self.blocked: set[int] = set()

    def barrier(self, channel: int, barrier: Barrier, now_ns: int, consumed_bytes: int = 0) -> Alignment | None:
        """A barrier was taken from a channel. The alignment if it is complete now, else None. `consumed_bytes`: of all
        channels, so far."""
        checkpoint = barrier.checkpoint_id
        if checkpoint <= self._aligned or checkpoint in self._aborted:
            return None
        if barrier.exactly_once:
            for overtaken in [older for older in self._arrived if older < checkpoint]:
                self.abort(overtaken)
        arrived = self._arrived.setdefault(checkpoint, set())
        began_ns, consumed_before = self._began.setdefault(checkpoint, (now_ns, consumed_bytes))
        arrived.add(channel)
        if len(arrived) == self._channels:
            self._end(checkpoint)
            return Alignment(now_ns - began_ns, consumed_bytes - consumed_before)
        if barrier.exactly_once:
            self.blocked.add(channel)
        return None

    def has_come(self, checkpoint: CheckpointId, channel: int) -> bool:
        """The barrier was taken from that channel."""
        return channel in self._arrived.get(checkpoint, ())

    def is_over(self, checkpoint: CheckpointId) -> bool:
        return checkpoint <= self._aligned or checkpoint in self._aborted

    def overtake(self, checkpoint: CheckpointId, now_ns: int, consumed_bytes: int) -> Alignment:
        """The snapshot is taken now, whatever has come: the checkpoint ends here."""
        began_ns, consumed_before = self._began.get(checkpoint, (now_ns, consumed_bytes))
        for older in [each for each in self._arrived if each < checkpoint]:
            self.abort(older)
        self._end(checkpoint)
        return Alignment(now_ns - began_ns, consumed_bytes - consumed_before)

    def abort(self, checkpoint: CheckpointId) -> None:
        """The master has given it up: its barriers mean nothing any more. Others under way are not touched."""
        if checkpoint > self._aligned:
            self._aborted.add(checkpoint)
        self._forget(checkpoint)

    def _end(self, aligned: CheckpointId) -> None:
        self._aligned = aligned
        self._aborted = {checkpoint for checkpoint in self._aborted if checkpoint > aligned}
        for older in [checkpoint for checkpoint in self._arrived if checkpoint <= aligned]:
            self._forget(older)

    def _forget(self, checkpoint: CheckpointId) -> None:
        self._arrived.pop(checkpoint, None)
        self._began.pop(checkpoint, None)
        if not self._arrived:
            self.blocked.clear()
