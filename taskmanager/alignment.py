"""Barrier alignment over the channels of one subtask (Chandy-Lamport as in Flink's CheckpointBarrierHandler). Pure.

Exactly-once: a channel whose barrier has come is blocked, it is read as far as it was granted but not consumed, until
the barrier has come on all channels; then the snapshot is taken and everything is unblocked. At-least-once: nothing
is blocked, the snapshot is taken when the last barrier has come.

A checkpoint ends here in one of three ways: aligned, aborted by the master, or overtaken (a newer barrier comes on a
channel: the older one can no longer align, because it was aborted elsewhere). Barriers of an ended checkpoint that
come late are dropped. Every channel brings barriers until the job finishes, also after its end of input.
"""

from __future__ import annotations

from ..runtime.elements import Barrier
from ..state.ids import CheckpointId


class BarrierAligner:
    """Which checkpoint the channels of one subtask are aligning, and which of them are blocked for it."""

    def __init__(self, channels: int) -> None:
        self._channels = channels
        self._ended = CheckpointId(0)
        """All checkpoints up to this one have ended here."""
        self._arrived: dict[CheckpointId, set[int]] = {}
        self._began_ns: dict[CheckpointId, int] = {}
        self.blocked: set[int] = set()

    def barrier(self, channel: int, barrier: Barrier, now_ns: int) -> int | None:
        """A barrier was taken from a channel. Duration of the alignment in ns if it is complete now, else None."""
        checkpoint = barrier.checkpoint_id
        if checkpoint <= self._ended:
            return None
        if barrier.exactly_once and self._arrived and checkpoint > max(self._arrived):
            self.abort(max(self._arrived))
        arrived = self._arrived.setdefault(checkpoint, set())
        began_ns = self._began_ns.setdefault(checkpoint, now_ns)
        arrived.add(channel)
        if len(arrived) == self._channels:
            self.abort(checkpoint)
            return now_ns - began_ns
        if barrier.exactly_once:
            self.blocked.add(channel)
        return None

    def abort(self, checkpoint: CheckpointId) -> None:
        """This checkpoint and all older ones have ended here."""
        self._ended = max(self._ended, checkpoint)
        for old in [c for c in self._arrived if c <= self._ended]:
            del self._arrived[old], self._began_ns[old]
        if not self._arrived:
            self.blocked.clear()
