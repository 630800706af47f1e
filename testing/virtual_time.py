"""Virtual time: one heap of events, run one after the other; what happens when is decided by a seeded `Random`.

Everything that happens in a simulation is an event, and belongs to a *process* or to nobody (the store, the network).
A process that was killed gets no events any more: what it had begun is never continued. A process that is paused gets
them late, all of them, in their order; what it had asked others to do is done meanwhile. While a process works, its
clock goes on: every look at it costs some time, so a step takes as long as it does many things, events that arrive
meanwhile wait until it is over, and what it sends leaves when it is sent.

The trace is a hash over all events, and the last ones in words: equal seeds must give equal traces.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from random import Random

import xxhash

EPOCH_MS = 1_700_000_000_000
"""Wall-clock time at which every simulation begins."""
MS = 1_000_000
TAIL = 300
"""Events kept in words, to be shown with a violation."""

MOST_AT_ONCE = 20_000
"""Events at the very same time: more is somebody who wakes himself up for nothing."""

Call = Callable[[], None]


class SpinningError(RuntimeError):
    """Time does not go on."""


class Process:
    """Something that can die or hang: a slot, a master. `look_ns`: what one look at its clock costs."""

    def __init__(self, name: str, look_ns: int = 20_000) -> None:
        self.name = name
        self.look_ns = look_ns
        self.alive = True
        self.paused = False
        self.busy_until_ns = 0
        self.waiting: list[tuple[int, str, Call]] = []
        """Events that came while it was paused: number, label, call."""


class VirtualTime:
    """The one thread of a simulation."""

    def __init__(self, seed: int, show: Callable[[str], None] | None = None) -> None:
        self.random = Random(seed)
        self.now_ns = 0
        self.events = 0
        self.tail: deque[str] = deque(maxlen=TAIL)
        self._heap: list[tuple[int, int, Process | None, str, Call]] = []
        self._numbers = 0
        self._names = 0
        self._last_ns = self._in_a_row = 0
        self._used_ns = 0
        """Time that the event under way has taken so far."""
        self._hash = xxhash.xxh3_128()
        self._show = show

    @property
    def moment_ns(self) -> int:
        """Now, within an event."""
        return self.now_ns + self._used_ns

    @property
    def moment_ms(self) -> int:
        return EPOCH_MS + self.moment_ns // MS

    @property
    def trace_hash(self) -> str:
        return self._hash.hexdigest()

    def use(self, duration_ns: int) -> None:
        """The event under way takes so much longer."""
        self._used_ns += duration_ns

    def new_name(self) -> str:
        """A name that nobody else in this simulation gets; the same ones with the same seed."""
        self._names += 1
        return f"{self._names:x}-{self.random.getrandbits(32):08x}"

    def between(self, low_ns: int, high_ns: int) -> int:
        """A duration; short ones are more likely than long ones."""
        return low_ns + int((high_ns - low_ns) * self.random.random() ** 3)

    # scheduling

    def after(self, delay_ns: int, process: Process | None, label: str, call: Call) -> None:
        self.at(self.moment_ns + delay_ns, process, label, call)

    def at(self, at_ns: int, process: Process | None, label: str, call: Call) -> None:
        self._numbers += 1
        heapq.heappush(self._heap, (at_ns, self._numbers, process, label, call))

    def pause(self, process: Process) -> None:
        process.paused = True

    def resume(self, process: Process) -> None:
        process.paused = False
        for number, label, call in process.waiting:
            heapq.heappush(self._heap, (self.now_ns, number, process, label, call))
        process.waiting = []

    def kill(self, process: Process) -> None:
        process.alive = False
        process.waiting = []

    # running

    def run(self, until: Callable[[], bool], limit_ns: int) -> bool:
        """Until the condition holds; False if the limit came first, or nothing is left to happen."""
        while not until():
            if not self._heap or self._heap[0][0] > limit_ns:
                return False
            self._next()
        return True

    def _next(self) -> None:
        at_ns, number, process, label, call = heapq.heappop(self._heap)
        self.now_ns = at_ns
        self._used_ns = 0
        if process is not None:
            if not process.alive:
                return
            if process.paused:
                process.waiting.append((number, label, call))
                return
            if process.busy_until_ns > at_ns:  # the number is kept: events of one process stay in their order
                heapq.heappush(self._heap, (process.busy_until_ns, number, process, label, call))
                return
        self.events += 1
        self._in_a_row = self._in_a_row + 1 if at_ns == self._last_ns else 0
        self._last_ns = at_ns
        if self._in_a_row > MOST_AT_ONCE:
            raise SpinningError(f"{self._in_a_row} events at one moment, the last: {process and process.name}: {label}")
        self.note(f"{process.name if process else '-'}: {label}")
        call()
        if process is not None:
            process.busy_until_ns = at_ns + self._used_ns

    def note(self, text: str) -> None:
        """Into the trace."""
        line = f"{self.moment_ns / 1e6:.3f} {text}"
        self._hash.update(line.encode())
        self.tail.append(line)
        if self._show is not None:
            self._show(line)


class VirtualClock:
    """A process's clock. Looking at the monotonic one takes time, so that work has a duration."""

    def __init__(self, time: VirtualTime, process: Process) -> None:
        self._time = time
        self._process = process

    def now_ms(self) -> int:
        return self._time.moment_ms

    def monotonic_ns(self) -> int:
        self._time.use(self._process.look_ns)
        return self._time.moment_ns
