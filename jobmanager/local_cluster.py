"""The local runner: a whole job in this process, all slots and the job master on one thread, no Ray.

The same slots and the same job master as on a cluster; only the shell is another one. One loop drains mail, feeds the
job master its events, steps every slot, and sleeps when there is nothing to do. Store access and blocking calls run
on helper threads. Because user functions run on the calling thread, a breakpoint in one of them works, and everything
waits while a person looks around.

A process that is killed leaves the job's log and checkpoints behind; the next one continues from them.
"""

from __future__ import annotations

import heapq
import os
import queue
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..runtime.clock import Clock, SystemClock
from ..state.ids import SlotId, new_nonce
from ..state.objects import ObjectStore
from ..taskmanager.deployment import SlotServices
from ..taskmanager.executor import ThreadExecutor
from ..taskmanager.local_transport import LocalTransport
from ..taskmanager.messages import FromSlot
from ..taskmanager.rare_collections import rare_collections
from ..taskmanager.slot import Slot
from . import events
from .job_master import JobMaster

LONGEST_WAIT_S = 0.5
"""A bound for every sleep, so that a lost wake-up costs half a second and not a job."""
LONGEST_PAUSE_NS = 1_000_000_000
"""The job master's clock goes on at most so much between two looks at it: longer than any sleep of the loop."""
_WORK_PREFIX = "penstock-"


class LocalCluster:
    """One job's slots and master. `run` drives it; tests may drive it step by step and kill slots in between."""

    def __init__(self, master: JobMaster, objects: ObjectStore, clock: Clock | None = None) -> None:
        self.master = master
        self.slots: dict[SlotId, Slot] = {}
        self.ended: events.EndJob | None = None
        self._clock = clock or SystemClock()
        self._began_ms, self._read_ns, self._lived_ns = self._clock.now_ms(), self._clock.monotonic_ns(), 0
        self._mail: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._events: deque[events.Event] = deque()
        self._timers: list[tuple[int, int, events.Tag]] = []
        self._numbers = 0
        self._uploads, self._programs, self._calls = (ThreadExecutor(objects, self._mail.put) for _ in range(3))
        """Threads of the slots, of the master's programs, of its blocking calls. They do not wait for each other:
        neither slow uploads nor a commit that hangs may hold up the leader's beat."""
        self._transport = LocalTransport()
        self._work_directory = _own_work_directory()
        self._carry_out(self.master.start(self.now_ms()))

    def now_ms(self) -> int:
        """The job master's time: wall-clock time that never jumps back, and stands still while this loop does.

        A user's function may hold the thread for minutes, in a breakpoint for instance. Nobody can answer the master
        meanwhile, so nothing it waits for must time out. (A process that takes the job over meanwhile is not harmed:
        the log decides, whatever either believes of the time.)
        """
        read_ns = self._clock.monotonic_ns()
        self._lived_ns += min(read_ns - self._read_ns, LONGEST_PAUSE_NS)
        self._read_ns = read_ns
        return self._began_ms + self._lived_ns // 1_000_000

    # driving

    def run(self, until: Callable[[], bool] = lambda: False, timeout_s: float | None = None) -> bool:
        """Until the job has ended or `until()` holds; False if the timeout came first."""
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        with rare_collections():
            while self.ended is None and not until():
                if deadline_s is not None and time.monotonic() > deadline_s:
                    return False
                if not self.step():
                    self._sleep()
        return True

    def step(self) -> bool:
        """Everything that can be done now, once. True if there was anything."""
        progressed = self._drain_mail()
        progressed |= self._feed_master()
        for slot in list(self.slots.values()):
            progressed |= slot.step()
        return progressed

    def close(self) -> None:
        """Stop helper threads and remove temporary files. What is in the store stays: a job that has not ended can be
        continued at once."""
        if self.ended is None:
            self._carry_out(self.master.abandon(self.now_ms()))
        for executor in (self._uploads, self._programs, self._calls):
            executor.shutdown()
        shutil.rmtree(self._work_directory, ignore_errors=True)

    def post(self, event: events.Event) -> None:
        """Thread-safe, and safe in a signal handler: an event for the job master from outside."""
        self._mail.put(lambda: self._events.append(event))

    def kill_slot(self, slot_id: SlotId, reason: str = "killed") -> None:
        """As if its process had died: nothing of it runs or is heard any more."""
        if self.slots.pop(slot_id, None) is not None:
            self._transport.detach(slot_id)
            self._events.append(events.SlotLost(slot_id, reason))

    def _drain_mail(self) -> bool:
        progressed = False
        while True:
            try:
                mail = self._mail.get_nowait()
            except queue.Empty:
                return progressed
            mail()
            progressed = True

    def _feed_master(self) -> bool:
        now_ms = self.now_ms()
        while self._timers and self._timers[0][0] <= now_ms:
            self._events.append(events.TimerFired(heapq.heappop(self._timers)[2]))
        progressed = bool(self._events)
        while self._events and self.ended is None:
            self._carry_out(self.master.handle(self._events.popleft(), self.now_ms()))
        return progressed

    def _sleep(self) -> None:
        wait_s = LONGEST_WAIT_S
        if self._timers:
            wait_s = min(wait_s, (self._timers[0][0] - self.now_ms()) / 1_000)
        due_ns = [at for slot in self.slots.values() if (at := slot.next_wakeup_ns()) is not None]
        if due_ns:
            wait_s = min(wait_s, (min(due_ns) - self._clock.monotonic_ns()) / 1e9)
        if wait_s <= 0 or self._events:
            return
        try:
            self._mail.get(timeout=wait_s)()
        except queue.Empty:
            return

    # the job master's commands

    def _carry_out(self, commands: list[events.Command]) -> None:
        for command in commands:
            match command:
                case events.SendToSlot(slot_id, message):
                    if slot_id in self.slots:
                        self.slots[slot_id].deliver(message)
                case events.RunProgram(tag, program):
                    self._programs.submit(program, self._answer(tag))
                case events.RunBlocking(tag, call):
                    self._calls.call(call, self._answer(tag))
                case events.SetTimer(at_ms, tag):
                    self._numbers += 1
                    heapq.heappush(self._timers, (at_ms, self._numbers, tag))
                case events.AcquireSlots(count):
                    for _ in range(count):
                        self._events.append(events.SlotOffered(self._start_slot()))
                case events.ReleaseSlots(slot_ids):
                    for slot_id in slot_ids:
                        self._drop(slot_id)
                case events.DiscardSlot(slot_id):
                    self._drop(slot_id)
                case events.EndJob():
                    self.ended = command

    def _answer(self, tag: events.Tag) -> Callable[[Any, Exception | None], None]:
        def answer(result: Any, error: Exception | None) -> None:
            self._events.append(events.WorkDone(tag, result) if error is None else events.WorkFailed(tag, error))

        return answer

    def _start_slot(self) -> SlotId:
        self._numbers += 1
        slot_id = SlotId(f"slot-{self._numbers}")

        def send(message: FromSlot) -> None:
            if slot_id in self.slots:
                self._events.append(events.SlotMessage(slot_id, message))

        services = SlotServices(
            clock=self._clock,
            transport=self._transport,
            executor=self._uploads,
            send=send,
            post=self._mail.put,
            new_name=new_nonce,
            work_directory=self._work_directory / slot_id,
        )
        slot = Slot(slot_id, services)
        self.slots[slot_id] = slot
        self._transport.attach(slot_id, slot)
        return slot_id

    def _drop(self, slot_id: SlotId) -> None:
        self.slots.pop(slot_id, None)
        self._transport.detach(slot_id)


def _own_work_directory() -> Path:
    """A temporary directory of this process; those of processes that were killed are removed."""
    root = Path(tempfile.gettempdir())
    for left in root.glob(f"{_WORK_PREFIX}*"):
        pid = left.name.removeprefix(_WORK_PREFIX).partition("-")[0]
        if pid.isdigit() and not _is_alive(int(pid)):
            shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{_WORK_PREFIX}{os.getpid()}-"))


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
