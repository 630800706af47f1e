"""The shell of a job master: time, timers, helper threads, and a queue in front of the pure core.

One thread runs the loop. Events come from three sides: slots and whoever asks something of the job (`post`, from any
thread), helper threads with answers of programs and blocking calls, and timers. Commands go to a `SlotGateway` where
they concern slots: slots in this process (local_cluster.py) or on Ray (ray_slots.py).
"""

from __future__ import annotations

import heapq
import queue
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Protocol, TypeVar

from ..runtime.clock import Clock, SystemClock
from ..runtime.resources import Resources
from ..state.errors import PenstockError
from ..state.ids import SlotId
from ..state.store.objects import ObjectStore
from ..taskmanager.executor import ThreadExecutor
from ..taskmanager.messages import ToSlot
from . import events, leadership
from .gateway import StateAnswer, StateQuestion, UnavailableError
from .job_master import JobMaster

T = TypeVar("T")

LONGEST_WAIT_S = 0.5
"""A bound for every sleep, so that a lost wake-up costs half a second and not a job."""
CALL_THREADS = 16
"""A call that hangs keeps its thread, and so does each further try of a commit, beside those of other sinks."""
LONGEST_PAUSE_NS = 1_000_000_000
"""The job master's clock goes on at most so much between two looks at it: longer than any sleep of the loop."""


class SlotGateway(Protocol):
    """Carries out the commands that concern slots. Called on the loop's thread, never blocks; answers are events."""

    def send(self, slot: SlotId, message: ToSlot) -> None: ...

    def acquire(self, slots: tuple[Resources, ...]) -> None: ...

    def release(self, slots: tuple[SlotId, ...]) -> None: ...

    def discard(self, slot: SlotId, reason: str) -> None: ...


class MasterLoop:
    """`start`, then `turn` and `wait` until `ended`; in the end `close`."""

    def __init__(self, master: JobMaster, objects: ObjectStore, slots: SlotGateway, clock: Clock | None = None) -> None:
        self.master = master
        self.ended: events.EndJob | None = None
        self.clock = clock or SystemClock()
        self._slots = slots
        self._began_ms, self._read_ns, self._lived_ns = self.clock.now_ms(), self.clock.monotonic_ns(), 0
        self._mail: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._events: deque[events.Event] = deque()
        self._told: list[tuple[events.Event, Future[None]]] = []
        """What was posted by whom waits until the job master has heard it."""
        self._queries: dict[int, Future[StateAnswer]] = {}
        self._timers: list[tuple[int, int, events.Tag]] = []
        self._numbers = 0
        self._programs = ThreadExecutor(objects, self._mail.put)
        self._calls = ThreadExecutor(objects, self._mail.put, threads=CALL_THREADS)
        self._beats = ThreadExecutor(objects, self._mail.put, threads=2)
        """Threads of the master's programs, of its blocking calls, and of leadership: a commit that hangs, or deletions
        that take long, must not hold up the leader's beat. (Two: it also resigns while a beat is under way.)"""

    def now_ms(self) -> int:
        """The job master's time: wall-clock time that never jumps back, and stands still while this loop does.

        A user's function may hold the thread of a local job for minutes, in a breakpoint for instance, and a process
        may be stopped as a whole. Nobody can answer the master meanwhile, so nothing it waits for must time out. (A
        process that takes the job over meanwhile is not harmed: the log decides, whatever either believes of the time.)
        """
        read_ns = self.clock.monotonic_ns()
        self._lived_ns += min(read_ns - self._read_ns, LONGEST_PAUSE_NS)
        self._read_ns = read_ns
        return self._began_ms + self._lived_ns // 1_000_000

    # from any thread

    def post(self, event: events.Event) -> None:
        """An event for the job master from outside. Safe in a signal handler, too."""
        self._mail.put(lambda: self._events.append(event))

    def tell(self, event: events.Event, timeout_s: float) -> None:
        """`post` from another thread, and wait until the job master has heard it: whoever asks afterwards sees what
        came of it. PenstockError if it does not get to it, or the job ends before."""
        heard: Future[None] = Future()

        def hand_over() -> None:
            self._events.append(event)
            self._told.append((event, heard))

        self._mail.put(hand_over)
        _awaited(heard, timeout_s)

    def mail(self, function: Callable[[], None]) -> None:
        """Runs on the loop's thread."""
        self._mail.put(function)

    def ask(self, question: Callable[[], T], timeout_s: float) -> T:
        """Have something computed on the loop's thread, from another one. PenstockError if it does not get to it."""
        answer: Future[T] = Future()

        def compute() -> None:
            try:
                answer.set_result(question())
            except Exception as error:
                answer.set_exception(error)

        self._mail.put(compute)
        return _awaited(answer, timeout_s)

    def query(self, question: StateQuestion, timeout_s: float) -> StateAnswer:
        """What a key has in a state, asked from another thread. Raises the error that is the answer; UnavailableError
        if there is none."""
        answer: Future[StateAnswer] = Future()

        def put() -> None:
            self._numbers += 1
            self._queries[self._numbers] = answer
            self._events.append(events.StateRequested(self._numbers, question))

        self._mail.put(put)
        try:
            return answer.result(timeout_s)
        except TimeoutError:
            raise UnavailableError(f"the job master has not answered within {timeout_s:g} s; try again") from None

    # on the loop's thread

    def start(self) -> None:
        self._carry_out(self.master.start(self.now_ms()))

    def happened(self, event: events.Event) -> None:
        """`post` from the loop's own thread."""
        self._events.append(event)

    def turn(self) -> bool:
        """Everything that can be done now, once. True if there was anything."""
        progressed = self._drain_mail()
        now_ms = self.now_ms()
        while self._timers and self._timers[0][0] <= now_ms:
            self._events.append(events.TimerFired(heapq.heappop(self._timers)[2]))
        progressed |= bool(self._events)
        while self._events and self.ended is None:
            self._carry_out(self.master.handle(self._events.popleft(), self.now_ms()))
        self._answer_told()
        if self.ended is not None:
            self._end_queries()
        return progressed

    def _end_queries(self) -> None:
        while self._queries:
            _number, answer = self._queries.popitem()
            answer.set_exception(UnavailableError("the job has ended, or is left to another master; try again"))

    def _answer_told(self) -> None:
        while self._told:
            event, heard = self._told.pop()
            if any(each is event for each in self._events):
                heard.set_exception(PenstockError("the job has ended meanwhile"))
            else:
                heard.set_result(None)

    def wait(self, at_most_s: float = LONGEST_WAIT_S) -> None:
        """Until mail comes or a timer is due."""
        wait_s = min(at_most_s, LONGEST_WAIT_S)
        if self._timers:
            wait_s = min(wait_s, (self._timers[0][0] - self.now_ms()) / 1_000)
        if wait_s <= 0 or self._events:
            return
        try:
            self._mail.get(timeout=wait_s)()
        except queue.Empty:
            return

    def close(self) -> None:
        """Stop helper threads; those that hang are left behind after a while. What is in the store stays: a job that
        has not ended can be continued at once."""
        if self.ended is None:
            self._carry_out(self.master.abandon(self.now_ms()))
        for executor in (self._beats, self._programs, self._calls):
            executor.shutdown()

    def _drain_mail(self) -> bool:
        progressed = False
        while True:
            try:
                mail = self._mail.get_nowait()
            except queue.Empty:
                return progressed
            mail()
            progressed = True

    def _carry_out(self, commands: list[events.Command]) -> None:
        for command in commands:
            match command:
                case events.SendToSlot(slot, message):
                    self._slots.send(slot, message)
                case events.RunProgram(tag, program):
                    executor = self._beats if tag[0] == leadership.TAG else self._programs
                    executor.submit(program, self._answer(tag))
                case events.RunBlocking(tag, call):
                    self._calls.call(call, self._answer(tag))
                case events.SetTimer(at_ms, tag):
                    self._numbers += 1
                    heapq.heappush(self._timers, (at_ms, self._numbers, tag))
                case events.AcquireSlots(wanted):
                    self._slots.acquire(wanted)
                case events.ReleaseSlots(slots):
                    self._slots.release(slots)
                case events.DiscardSlot(slot, reason):
                    self._slots.discard(slot, reason)
                case events.AnswerState(number, answer):
                    _settle(self._queries.pop(number), answer)
                case events.EndJob():
                    self.ended = command

    def _answer(self, tag: events.Tag) -> Callable[[Any, Exception | None], None]:
        def answer(result: Any, error: Exception | None) -> None:
            self._events.append(events.WorkDone(tag, result) if error is None else events.WorkFailed(tag, error))

        return answer


def _settle(asked: Future[StateAnswer], answer: StateAnswer | PenstockError) -> None:
    if isinstance(answer, PenstockError):
        asked.set_exception(answer)
    else:
        asked.set_result(answer)


def _awaited(answer: Future[T], timeout_s: float) -> T:
    try:
        return answer.result(timeout_s)
    except TimeoutError:
        raise PenstockError(f"the job master has not answered within {timeout_s:g} s") from None
