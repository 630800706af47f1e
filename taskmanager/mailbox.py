"""The slot's thread: one loop over what arrives, mail, and the slot's steps. Nothing else touches the slot.

A turn: wait until a socket is ready, mail comes, or the slot or the transport wants to be woken; hand what arrived to
the slot; run the mail; take a step; send what is due. After a turn in which something happened the wait is no wait at
all, only a look. A slot that is backpressured does nothing in a step and has nothing due, so the thread sleeps until
credit arrives.

`post` may be called from any thread. Mail is run in the order it was posted, a turn's worth at a time, so that mail
that posts mail cannot starve the network. An exception in mail is reported, and the loop goes on: mail that touches a
task handles that task's errors by itself. An exception out of a step is a bug of ours and ends the loop.
"""

from __future__ import annotations

import logging
import os
import select
import threading
from collections import deque
from collections.abc import Callable
from typing import Protocol

from ..runtime.clock import Clock
from .exchange.socket_transport import SocketTransport

LONGEST_WAIT_NS = 500_000_000
"""`last_step_ns` of an idle slot is never older."""
_FUTILE_TURNS = 3
"""After so many wake-ups in a row that were due and did nothing, the thread pauses a millisecond before the next."""

logger = logging.getLogger(__name__)
Mail = Callable[[], None]


class Stepped(Protocol):
    """What the loop drives: a slot."""

    def step(self) -> bool: ...

    def next_wakeup_ns(self) -> int | None: ...


def _log(error: Exception) -> None:
    logger.error("mail of the slot's thread failed", exc_info=error)


class Mailbox:
    """`run` is the thread's function; `post` and `stop` are for all others."""

    def __init__(self, clock: Clock, on_error: Callable[[Exception], None] = _log) -> None:
        """on_error: told of every exception of mail, on the slot's thread."""
        self.last_step_ns = clock.monotonic_ns()
        """When the last turn ended (monotonic): how a watcher sees that the thread hangs."""
        self._clock = clock
        self._on_error = on_error
        self._mail: deque[Mail] = deque()
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._closing = threading.Lock()
        """Nobody writes to the event's descriptor once it may belong to somebody else."""
        self._stopped = False

    def post(self, mail: Mail) -> None:
        """Thread-safe: run it on the slot's thread, between two steps. Dropped when the loop has ended."""
        self._mail.append(mail)
        self._wake()

    def stop(self) -> None:
        """Thread-safe: `run` returns after its current turn."""
        self._stopped = True
        self._wake()

    def close(self) -> None:
        """After `run` has returned, by whoever made the mailbox; later mail goes nowhere."""
        self._stopped = True
        with self._closing:
            event, self._event = self._event, -1
            if event >= 0:
                os.close(event)

    def run(self, slot: Stepped, transport: SocketTransport) -> None:
        """Until `stop`. Raises what a step raises."""
        with select.epoll() as poller:
            poller.register(self._event, select.EPOLLIN)
            transport.register(poller)
            try:
                self._loop(slot, transport, poller)
            finally:
                transport.unregister()

    def _loop(self, slot: Stepped, transport: SocketTransport, poller: select.epoll) -> None:
        wait_ns, futile = 0, 0
        event, clock = self._event, self._clock
        while not self._stopped:
            ready = poller.poll(wait_ns / 1e9)
            if ready or transport.pending:
                futile = 0
                arrived = [pair for pair in ready if pair[0] != event]
                if len(arrived) < len(ready):
                    os.eventfd_read(event)
                transport.handle(arrived)
            self._run_mail()
            progressed = slot.step()
            transport.flush()
            self.last_step_ns = now_ns = clock.monotonic_ns()
            if progressed or self._mail or transport.pending:
                wait_ns, futile = 0, 0
                continue
            wait_ns = self._until_due_ns(slot, transport, now_ns)
            futile = futile + 1 if wait_ns == 0 else 0
            if futile > _FUTILE_TURNS:
                wait_ns = 1_000_000

    def _until_due_ns(self, slot: Stepped, transport: SocketTransport, now_ns: int) -> int:
        wait_ns = LONGEST_WAIT_NS
        for due_ns in (slot.next_wakeup_ns(), transport.next_wakeup_ns()):
            if due_ns is not None:
                wait_ns = min(wait_ns, due_ns - now_ns)
        return max(0, wait_ns)

    def _run_mail(self) -> None:
        for _ in range(len(self._mail)):
            mail = self._mail.popleft()
            try:
                mail()
            except Exception as error:
                self._on_error(error)

    def _wake(self) -> None:
        with self._closing:
            if self._event < 0:
                return
            try:
                os.eventfd_write(self._event, 1)
            except BlockingIOError:  # it is readable already
                pass
