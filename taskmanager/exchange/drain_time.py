"""How much of a channel's window is used, so that what is under way on it is consumed within a target time. Pure.

A barrier waits for everything that was sent before it. How long that takes depends on how fast the receiver consumes,
which no window of fixed size can know: one that keeps a fast receiver busy holds seconds of work for a slow one. So
the sender measures at which rate credit comes back, and uses of its window what is consumed at that rate within the
target (Flink's buffer debloating, decided at the sender: nothing more goes over the wire).

The first measurement of a channel, and every one after it, can be as short as one frame there and back, so a limit
that is too small grows by a factor each time. It shrinks to one half at most: while a gate aligns it consumes nothing
of a channel, and that says little about its speed.
"""

from __future__ import annotations

LEAST_BYTES = 32 * 1024
"""However slow the receiver is."""
MEASURED_NS = 50_000_000
"""A measurement of a channel that never runs empty takes at least so long."""


class DrainTime:
    """The sender's view of one channel; times are monotonic."""

    __slots__ = ("_drained", "_most_bytes", "_since_ns", "_target_ns", "limit_bytes")

    def __init__(self, window_bytes: int, target_ns: int) -> None:
        """target_ns: 0 uses the whole window."""
        self.limit_bytes = min(LEAST_BYTES, window_bytes) if target_ns else window_bytes
        """So much may be outstanding."""
        self._most_bytes = window_bytes
        self._target_ns = target_ns
        self._since_ns = 0
        self._drained = 0

    def began(self, now_ns: int) -> None:
        """Something was sent where nothing was outstanding."""
        self._since_ns, self._drained = now_ns, 0

    def granted(self, nbytes: int, outstanding: int, now_ns: int) -> None:
        """Credit has come back; so much is still outstanding."""
        self._drained += nbytes
        took_ns = now_ns - self._since_ns
        if not self._target_ns or (outstanding > 0 and took_ns < MEASURED_NS):
            return
        in_target = self._drained * self._target_ns // max(1, took_ns)
        least = max(min(LEAST_BYTES, self._most_bytes), self.limit_bytes // 2)
        self.limit_bytes = max(least, min(in_target, self._most_bytes))
        self._since_ns, self._drained = now_ns, 0
