"""Byte credits of one channel (DESIGN 5, PROTOCOLS 18).

The receiver owns a window of `window_bytes` per channel and the sender may have at most that much outstanding: sent
and not yet granted back. It may choose to use less (drain_time.py). Consuming a frame gives its bytes back, in steps of
a part of the window or when the queue has run empty, so that grants are few and nothing is ever withheld from a sender
that waits for all of it. A frame larger than the window goes only when nothing is outstanding; its credit is then
negative until it is consumed.

Conservation, checked by the simulator: outstanding = bytes in flight + bytes queued + bytes consumed and not granted.
"""

from __future__ import annotations

from ...state.errors import ProtocolError

GRANTS_PER_WINDOW = 16
"""So few that they cost nothing, so many that a sender that uses a part of the window hears of it before that is empty.
"""


class SendWindow:
    """The sender's half."""

    __slots__ = ("outstanding", "window_bytes")

    def __init__(self, window_bytes: int) -> None:
        self.window_bytes = window_bytes
        self.outstanding = 0

    def may_send(self, nbytes: int) -> bool:
        return self.outstanding == 0 or self.outstanding + nbytes <= self.window_bytes

    def sent(self, nbytes: int) -> None:
        if not self.may_send(nbytes):
            raise ProtocolError(f"{nbytes} bytes sent with {self.outstanding} of {self.window_bytes} outstanding")
        self.outstanding += nbytes

    def granted(self, nbytes: int) -> None:
        self.outstanding -= nbytes
        if self.outstanding < 0:
            raise ProtocolError(f"{-self.outstanding} bytes of credit granted that were never sent")


class ReceiveWindow:
    """The receiver's half."""

    __slots__ = ("consumed", "step_bytes")

    def __init__(self, window_bytes: int) -> None:
        self.step_bytes = max(1, window_bytes // GRANTS_PER_WINDOW)
        self.consumed = 0

    def consume(self, nbytes: int, queue_is_empty: bool) -> int:
        """A frame left the queue. Bytes to grant now, 0 for none."""
        self.consumed += nbytes
        if self.consumed < self.step_bytes and not queue_is_empty:
            return 0
        grant, self.consumed = self.consumed, 0
        return grant
