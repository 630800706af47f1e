"""Which worker of a pool has which batch, and what becomes of both when it dies. Pure: events in, orders out.

    batch     waits -> with a worker -> done
                ^           |
                └───────────┘  the worker ended: it is sent again, before all that wait

    worker    starting -> ready -> ended -> (after a pause) the next one, with a new number

A worker has up to two batches: the second one is on its way while it works on the first. Batches go to the worker that
has fewest, in the order in which they came.

**Deaths.** A worker that ends by itself is replaced, after a pause that grows while none of them answers anything in
between; who is left takes over what it had. The pool gives up, and the operator fails with it, when that has happened
too often in a row, to each worker on average, because a node may take all of them with it; when one batch was being
worked on at several deaths, because it is then most likely what they die of; and when a worker does not come up in
time. What no node has room for is tried again for a moment only: a node may be about to join.

Time is monotonic ns.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from ..state.errors import PenstockError

MS = 1_000_000
CALLS_PER_WORKER = 2
"""The one that it works on, and the next one."""
FIRST_PAUSE_MS, LONGEST_PAUSE_MS = 100, 10_000
"""Before a worker is replaced; doubled with each death in a row."""
DEATHS_IN_A_ROW = 6
"""Of each worker. More, with no answer in between, and the pool gives up."""
DEATHS_PER_BATCH = 3
"""So many workers died working on one batch: it is the batch."""
NO_ROOM_MS, NO_ROOM_PAUSE_MS = 30_000, 1_000
"""So long it is tried what no node has room for, and how often."""


class PoolError(PenstockError):
    """The pool cannot go on. `number`: of the batch that it dies of; None: it is not one batch."""

    def __init__(self, message: str, number: int | None = None) -> None:
        super().__init__(message)
        self.number = number


@dataclass(frozen=True, slots=True)
class StartWorker:
    worker: int


@dataclass(frozen=True, slots=True)
class SendBatch:
    worker: int
    number: int


Order = StartWorker | SendBatch


@dataclass(slots=True)
class _Worker:
    started_ns: int
    ready: bool = False
    calls: list[int] = field(default_factory=list)
    """In the order in which they were sent; it works on the first."""


class ModelPool:
    """Of one operator of one subtask. Methods answer the orders to carry out."""

    def __init__(self, size: int, start_timeout_ms: int) -> None:
        self._size = size
        self._start_timeout_ms = start_timeout_ms
        self._workers: dict[int, _Worker] = {}
        self._waiting: deque[int] = deque()
        self._again_ns: list[int] = []
        """When workers that ended are replaced."""
        self._numbers = 0
        self._in_a_row = 0
        self._no_room_since_ns: int | None = None
        self._died_of: dict[int, int] = {}
        """Batch -> workers that died working on it."""

    def start(self, now_ns: int) -> list[Order]:
        return [self._start(now_ns) for _ in range(self._size)]

    @property
    def idle(self) -> bool:
        """A worker would begin with a further batch at once."""
        return not self._waiting and any(worker.ready and not worker.calls for worker in self._workers.values())

    @property
    def ready(self) -> int:
        """Workers whose model is loaded."""
        return sum(worker.ready for worker in self._workers.values())

    def working_on(self, worker: int) -> int | None:
        """The batch that it works on; the others that it has wait there."""
        known = self._workers.get(worker)
        return known.calls[0] if known is not None and known.calls else None

    def has(self, worker: int, number: int) -> bool:
        """Whether it has that batch, and has not ended."""
        return worker in self._workers and number in self._workers[worker].calls

    def submit(self, number: int) -> list[Order]:
        """A batch; numbers grow."""
        self._waiting.append(number)
        return self._send()

    def worker_ready(self, worker: int) -> list[Order]:
        self._no_room_since_ns = None
        if worker in self._workers:
            self._workers[worker].ready = True
        return self._send()

    def answered(self, worker: int, number: int) -> list[Order]:
        """That batch, which it has, is done."""
        self._in_a_row = 0
        self._died_of.pop(number, None)
        self._workers[worker].calls.remove(number)
        return self._send()

    def worker_ended(self, worker: int, reason: str, now_ns: int) -> list[int]:
        """It will be replaced. Answers what it had. PoolError. One whose end is known already changes nothing."""
        ended = self._workers.pop(worker, None)
        if ended is None:
            return []
        self._in_a_row += 1
        self._waiting = deque(sorted([*ended.calls, *self._waiting]))
        if ended.calls:
            number = ended.calls[0]
            died = self._died_of[number] = self._died_of.get(number, 0) + 1
            if died >= DEATHS_PER_BATCH:
                raise PoolError(f"{died} of its actors have ended while they worked on one batch; {reason}", number)
        if self._in_a_row > DEATHS_IN_A_ROW * self._size:
            raise PoolError(f"{self._in_a_row} of its actors have ended in a row without an answer; {reason}")
        pause_ms = min(FIRST_PAUSE_MS << ((self._in_a_row - 1) // self._size), LONGEST_PAUSE_MS)
        self._again_ns.append(now_ns + pause_ms * MS)
        return ended.calls

    def no_room(self, worker: int, now_ns: int) -> bool:
        """No node could ever give it what it asks for. False: none has come meanwhile that could."""
        del self._workers[worker]
        self._again_ns.append(now_ns + NO_ROOM_PAUSE_MS * MS)
        if self._no_room_since_ns is None:
            self._no_room_since_ns = now_ns
        return now_ns - self._no_room_since_ns < NO_ROOM_MS * MS

    def next_due_ns(self) -> int | None:
        limits = [each.started_ns + self._start_timeout_ms * MS for each in self._workers.values() if not each.ready]
        return min([*self._again_ns, *limits], default=None)

    def tick(self, now_ns: int) -> list[Order]:
        """What is due; and batches of workers that ended, to those that are left. PoolError."""
        due = [at_ns for at_ns in self._again_ns if at_ns <= now_ns]
        self._again_ns = [at_ns for at_ns in self._again_ns if at_ns > now_ns]
        orders: list[Order] = [self._start(now_ns) for _ in due]
        for each in self._workers.values():
            if not each.ready and now_ns - each.started_ns >= self._start_timeout_ms * MS:
                raise PoolError(
                    f"an actor did not come up within {self._start_timeout_ms // 1_000} s: its model takes longer to "
                    "load, or no node has room for it now"
                )
        return orders + self._send()

    def _start(self, now_ns: int) -> StartWorker:
        self._numbers += 1
        self._workers[self._numbers] = _Worker(now_ns)
        return StartWorker(self._numbers)

    def _send(self) -> list[Order]:
        orders: list[Order] = []
        while self._waiting:
            able = [
                (len(each.calls), name)
                for name, each in self._workers.items()
                if each.ready and len(each.calls) < CALLS_PER_WORKER
            ]
            if not able:
                break
            _, worker = min(able)
            number = self._waiting.popleft()
            self._workers[worker].calls.append(number)
            orders.append(SendBatch(worker, number))
        return orders
