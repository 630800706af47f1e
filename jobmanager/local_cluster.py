"""The local runner: a whole job in this process, all slots and the job master on one thread, no Ray.

The same slots and the same job master as on a cluster; only the shell is another one. One loop feeds the job master
its events (master_loop.py), steps every slot, and sleeps when there is nothing to do. Store access and blocking calls
run on helper threads. Because user functions run on the calling thread, a breakpoint in one of them works, and
everything waits while a person looks around.

A process that is killed leaves the job's log and checkpoints behind; the next one continues from them.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from ..runtime.clock import Clock
from ..runtime.directories import LOCAL
from ..runtime.resources import Resources
from ..state.ids import JobId, SlotId, new_nonce
from ..state.store.local_copies import LocalCopies
from ..state.store.objects import ObjectStore
from ..taskmanager.deployment import SlotServices
from ..taskmanager.exchange.local_transport import LocalTransport
from ..taskmanager.executor import ThreadExecutor
from ..taskmanager.messages import FromSlot, ToSlot
from ..taskmanager.processes.rare_collections import rare_collections
from ..taskmanager.slot import Slot
from . import events
from .job_master import JobMaster
from .master_loop import LONGEST_WAIT_S, MasterLoop

_WORK_PREFIX = "penstock-"


class LocalCluster:
    """One job's slots and master. `run` drives it; tests may drive it step by step and kill slots in between."""

    def __init__(self, master: JobMaster, objects: ObjectStore, clock: Clock | None = None) -> None:
        self.master = master
        self.slots: dict[SlotId, Slot] = {}
        self.loop = MasterLoop(master, objects, self, clock)
        self._uploads = ThreadExecutor(objects, self.loop.mail)
        """Threads of the slots: slow uploads do not hold up the master."""
        self._started = 0
        self._transport = LocalTransport()
        self._work_directory = _own_work_directory()
        self._copies = LocalCopies(self._work_directory / LOCAL, JobId(master.status().job_id), "slots")
        self.loop.start()

    @property
    def ended(self) -> events.EndJob | None:
        return self.loop.ended

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
        progressed = self.loop.turn()
        for slot in list(self.slots.values()):
            progressed |= slot.step()
        return progressed

    def close(self) -> None:
        """Stop helper threads and remove temporary files. What is in the store stays: a job that has not ended can be
        continued at once."""
        self.loop.close()
        self._uploads.shutdown()
        shutil.rmtree(self._work_directory, ignore_errors=True)

    def post(self, event: events.Event) -> None:
        """Thread-safe, and safe in a signal handler: an event for the job master from outside."""
        self.loop.post(event)

    def kill_slot(self, slot_id: SlotId, reason: str = "killed") -> None:
        """As if its process had died: nothing of it runs or is heard any more."""
        if self.slots.pop(slot_id, None) is not None:
            self._transport.detach(slot_id)
            self.loop.happened(events.SlotLost(slot_id, reason))

    def _sleep(self) -> None:
        wait_s = LONGEST_WAIT_S
        due_ns = [at for slot in self.slots.values() if (at := slot.next_wakeup_ns()) is not None]
        if due_ns:
            wait_s = (min(due_ns) - self.loop.clock.monotonic_ns()) / 1e9
        self.loop.wait(wait_s)

    # the job master's commands

    def send(self, slot: SlotId, message: ToSlot) -> None:
        if slot in self.slots:
            self.slots[slot].deliver(message)

    def acquire(self, slots: tuple[Resources, ...]) -> None:
        """All in this process: what they ask for is not looked at."""
        for resources in slots:
            self.loop.happened(events.SlotOffered(self._start_slot(), resources=resources))

    def release(self, slots: tuple[SlotId, ...]) -> None:
        for slot in slots:
            self._drop(slot)

    def discard(self, slot: SlotId, reason: str) -> None:
        self._drop(slot)

    def _start_slot(self) -> SlotId:
        self._started += 1
        slot_id = SlotId(f"slot-{self._started}")

        def send(message: FromSlot) -> None:
            if slot_id in self.slots:
                self.loop.happened(events.SlotMessage(slot_id, message))

        services = SlotServices(
            clock=self.loop.clock,
            transport=self._transport,
            executor=self._uploads,
            send=send,
            post=self.loop.mail,
            new_name=new_nonce,
            work_directory=self._work_directory / slot_id,
            copies=self._copies,
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
