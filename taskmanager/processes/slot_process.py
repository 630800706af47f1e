"""The process of a slot, without Ray: what it starts, who may speak to it, and how it ends.

    BLANK     imports are done, sockets are bound; it belongs to nobody
    LEASED    it serves one job: code is installed, its store is open, the slot's thread runs (mailbox.py)
    ENDED     its master or its task manager was silent for too long, something of penstock broke, or it was killed

Threads: the **slot's thread** owns the slot, its tasks, and the sockets; callers (Ray's threads, in actor.py) only
post to its mailbox, and take from its outbox; helper threads run store programs; the **watchdog** looks every second
how long the master has been silent. It ends the process even where a user's function holds the slot's thread for ever.

Who may speak is decided by the generation of the lease (PROTOCOLS 5): a lease of a higher one takes the slot over as it
is, with its tasks, which the new master's first order ends; lower ones are answered with SupersededError. Orders are
carried out in the order in which they came, and one that was posted by a master that has been superseded meanwhile is
dropped. The slot itself checks the attempt.

Nothing here decides over tasks, with one exception: where nobody speaks to the slot any more it cancels them, by an
order like the master's own, of the last attempt it knows (contact.py).
"""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import psutil
import pyarrow as pa

from ...runtime.clock import Clock, SystemClock
from ...runtime.configuration.cluster_options import (
    MASTER_LOST_CANCEL,
    MASTER_LOST_EXIT,
    TLS_AUTHORITY,
    TLS_CERTIFICATE,
    TLS_INTERNAL,
    TLS_KEY,
)
from ...runtime.configuration.config import Configuration
from ...runtime.directories import CODE, LOCAL, WORK, occupy, private_directory, socket_directory
from ...runtime.logs import OutputFile, hide
from ...runtime.resources import NO_RESOURCES, Resources
from ...state.errors import ConfigurationError, ProtocolError
from ...state.ids import Attempt, Generation, SlotId, new_nonce
from ...state.store.counted_objects import CountedObjects, ObjectCounter
from ...state.store.local_copies import LocalCopies
from ...state.store.located_objects import LocatedObjects
from ...state.store.obstore_objects import ObstoreObjects
from ..deployment import MakeSlotWorkers, SlotServices
from ..exchange.socket_transport import SocketTransport
from ..exchange.tls import TlsFiles
from ..executor import ThreadExecutor
from ..mailbox import Mailbox
from ..messages import Cancel, Deploy, FromSlot, ProcessObjects, SlotAddress, TaskReport, ToSlot
from ..outbox import Outbox
from ..slot import Slot
from ..thread_workers import thread_workers
from .contact import Contact, ContactState
from .leases import JobLease, LeaseRefusedError, SlotStatus
from .memory_budget import memory_budget
from .process_metrics import process_metrics, rss_bytes
from .rare_collections import rare_collections
from .user_code import LONGEST_INSTALL_S, set_up

POLL_S = 2.0
"""How long a poll waits for messages: an idle slot is heard this often."""
WATCH_S = 1.0
EXIT_LOST = 3
"""Exit code: nobody has spoken to this process for too long."""
EXIT_BROKEN = 70
"""Exit code: an error of penstock on the slot's thread."""

logger = logging.getLogger(__name__)


def warm_up() -> None:
    """What the first deployment would wait for: compiled loops (from their cache on disk), the row store, Arrow."""
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    from ...state.columns import kernels

    kernels.warm_up()
    pa.array([1])  # the first list that becomes an array makes Arrow import pandas, where that is installed


class SlotProcess:
    """Methods may be called from any thread; `start` once, before all others."""

    def __init__(
        self,
        slot_id: SlotId,
        task_manager: str,
        host: str,
        node: Path,
        config: Configuration,
        *,
        clock: Clock | None = None,
        output: OutputFile | None = None,
        exit_process: Callable[[int], None] | None = None,
        resources: Resources = NO_RESOURCES,
        workers: Callable[[JobLease], MakeSlotWorkers] | None = None,
    ) -> None:
        """`node`: the directory of the task manager. `exit_process`: instead of ending this process. `resources`: that
        it was started with. `workers`: pools of models for a job; without them they are threads of this process."""
        self.id = slot_id
        self._node = node
        self._clock = clock or SystemClock()
        self._output = output
        self._exit_process = exit_process or _exit_with_children
        self._resources = resources
        self._workers = workers
        occupy(node)
        self._work = private_directory(node / WORK / slot_id)
        self._mailbox = Mailbox(self._clock, on_error=self._broken)
        self._transport = SocketTransport(
            slot_id,
            directory=socket_directory(node),
            host=host,
            task_manager=task_manager,
            secret=b"",  # until it is leased nobody can prove to be of its job
            clock=self._clock,
            tls=_tls(config),
        )
        self._slot: Slot | None = None
        self._executor: ThreadExecutor | None = None
        self._objects = ObjectCounter()
        self._thread: threading.Thread | None = None
        self._fence = (Generation(0), Attempt(0))
        """Of the newest order; only used on the slot's thread."""
        self._leasing = threading.Lock()
        """Held while code is installed, which may take minutes."""
        self._said = threading.Condition()
        """Guards what follows; notified when the outbox has something, or whoever waits must look again."""
        self._outbox = Outbox()
        self._lease: JobLease | None = None
        self._polls = 0
        self._contact = Contact(self._now_ms(), config.get(MASTER_LOST_CANCEL), config.get(MASTER_LOST_EXIT))
        self._stopping = threading.Event()
        self._blank_bytes = rss_bytes()
        self._budget = memory_budget(config, self._blank_bytes)
        logger.info("memory budget of slot %s: %s", slot_id, self._budget)

    def start(self) -> None:
        """The watchdog: from here on the process ends by itself when nobody wants it."""
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        atexit.register(self._clean)

    @property
    def address(self) -> SlotAddress:
        """Where the slots of its job reach it."""
        return self._transport.address

    # ---- the lease

    def lease(self, lease: JobLease) -> None:
        """Serve this job, or this generation of its masters. Returns when orders can be given.

        SupersededError; LeaseRefusedError; what installing its code and opening its store raise: the process is of no
        use to anybody then, and must be given back."""
        with self._leasing:
            with self._said:
                self._check_lease(lease)
                self._lease = lease
                self._contact.leased(self._now_ms())
            hide(lease.secret.hex())
            if self._slot is None:
                with self._said:
                    self._contact.installing(self._now_ms(), round(LONGEST_INSTALL_S * 1_000))
                try:
                    self._begin(lease)
                finally:
                    with self._said:
                        self._contact.leased(self._now_ms())
            with self._said:
                self._outbox.begin(lease.generation)
                self._contact.leased(self._now_ms())
                self._said.notify_all()
        logger.info("leased to job %s (%s), generation %d", lease.job_id, lease.job_name, lease.generation)

    def _check_lease(self, lease: JobLease) -> None:
        known = self._lease
        if known is None:
            return
        if known.job_id != lease.job_id:
            raise LeaseRefusedError(f"slot {self.id} serves job {known.job_id}, and no other")
        self._outbox.check(lease.generation)
        if known.code != lease.code or known.storage != lease.storage:
            raise LeaseRefusedError(f"slot {self.id} serves another version of job {known.job_id}'s code")

    def _begin(self, lease: JobLease) -> None:
        self._budget = memory_budget(Configuration.from_dict(lease.config), self._blank_bytes)
        logger.info("memory budget of slot %s for job %s: %s", self.id, lease.job_id, self._budget)
        set_up(lease.code, self._node / CODE, lease.config)
        root = ObstoreObjects(lease.storage, lease.config)
        located = LocatedObjects(root, lambda location: ObstoreObjects(location, lease.config))
        store = CountedObjects(located, self._objects)
        self._transport.use_secret(lease.secret)
        self._executor = ThreadExecutor(store, self._mailbox.post)
        services = SlotServices(
            clock=self._clock,
            transport=self._transport,
            executor=self._executor,
            send=self._send,
            post=self._mailbox.post,
            new_name=new_nonce,
            work_directory=self._work,
            copies=LocalCopies(self._node / LOCAL, lease.job_id, self.id),
            workers=thread_workers if self._workers is None else self._workers(lease),
        )
        slot = Slot(self.id, services)
        self._transport.attach(slot)
        self._thread = threading.Thread(target=self._run, args=(slot,), name="slot", daemon=True)
        self._thread.start()
        self._slot = slot

    # ---- the slot's thread

    def _run(self, slot: Slot) -> None:
        try:
            with rare_collections():
                self._mailbox.run(slot, self._transport)
        except BaseException as error:
            self._broken(error)

    def _broken(self, error: BaseException) -> None:
        """On the slot's thread. Errors of users' code are their tasks'; what gets here leaves the slot half done."""
        logger.critical("an error of penstock on this slot's thread ends its process:", exc_info=error)
        self.end(EXIT_BROKEN)

    def _send(self, message: FromSlot) -> None:
        if isinstance(message, TaskReport):
            message = replace(message, objects=ProcessObjects(self.id, self._objects.counts()))
        with self._said:
            self._outbox.add(message)
            self._said.notify_all()

    def _carry_out(self, slot: Slot, generation: int, messages: list[ToSlot]) -> None:
        if generation < self._outbox.generation:
            return
        for message in messages:
            fence = (message.generation, message.attempt)
            if fence >= self._fence and isinstance(message, Deploy):
                self._transport.meet(message.peers)
            self._fence = max(self._fence, fence)
            slot.deliver(message)

    def _cancel(self, slot: Slot) -> None:
        if slot.tasks:
            slot.deliver(Cancel(*self._fence))

    # ---- orders and messages

    def deliver(self, generation: int, messages: list[ToSlot]) -> None:
        """Orders of the master, to be carried out in this order. SupersededError; ProtocolError: it has no lease."""
        with self._said:
            slot = self._speaks(generation)
        self._mailbox.post(partial(self._carry_out, slot, generation, messages))

    def poll(self, generation: int, wait_s: float = POLL_S) -> list[FromSlot]:
        """What there is to say to the master: as soon as there is anything, [] after `wait_s`. A later poll ends it."""
        deadline_s = time.monotonic() + wait_s
        with self._said:
            self._speaks(generation)
            self._polls += 1
            mine = self._polls
            self._said.notify_all()
            while True:
                self._outbox.check(generation)
                left_s = deadline_s - time.monotonic()
                if mine != self._polls or self._stopping.is_set():
                    return []
                if len(self._outbox):
                    return self._outbox.take(generation)
                if left_s <= 0:
                    return []
                self._said.wait(left_s)

    def _speaks(self, generation: int) -> Slot:
        """Whether the master of that generation may speak to this slot; that it did, is contact."""
        self._outbox.check(generation)
        if self._slot is None or generation > self._outbox.generation:
            raise ProtocolError(f"slot {self.id} is not leased to generation {generation}")
        self._contact.heard_master(self._now_ms())
        return self._slot

    # ---- questions

    def status(self) -> SlotStatus:
        """Asked by the task manager, which is its contact while it is blank."""
        with self._said:
            now_ms = self._now_ms()
            self._contact.heard_task_manager(now_ms)
            silent_ms, lease = self._contact.silent_ms(now_ms), self._lease
        metrics = process_metrics()
        stepped_ns = self._clock.monotonic_ns() - self._mailbox.last_step_ns if self._slot is not None else 0
        return SlotStatus(
            address=self.address,
            pid=os.getpid(),
            job_id="" if lease is None else lease.job_id,
            generation=0 if lease is None else lease.generation,
            rss_bytes=int(metrics["memory.rss_bytes"]),
            cpu_seconds=metrics["cpu.user_seconds"] + metrics["cpu.system_seconds"],
            stepped_ms=stepped_ns // 1_000_000,
            contact_ms=silent_ms,
            budget_bytes=self._budget.total,
            metrics=metrics,
            resources=self._resources,
        )

    # ---- the end

    def _watch(self) -> None:
        while not self._stopping.wait(WATCH_S):
            with self._said:
                now_ms = self._now_ms()
                entered, silent_s = self._contact.tick(now_ms), self._contact.silent_ms(now_ms) // 1_000
            if entered is ContactState.SILENT and self._slot is not None:
                logger.warning("the master has not been heard for %d s: tasks are cancelled", silent_s)
                self._mailbox.post(partial(self._cancel, self._slot))
            elif entered is ContactState.LOST:
                logger.error("nobody has spoken to this slot for %d s: its process ends", silent_s)
                self.end(EXIT_LOST)
            if self._output is not None:
                self._output.rotate()

    def end(self, code: int) -> None:
        """The process ends at once, whatever else fails, and nothing of it stays but its logs."""
        try:
            self._clean()
            logging.shutdown()
        except OSError as error:
            logger.error("not all of this slot could be removed: %s", error)
        finally:
            self._exit_process(code)

    def stop(self, timeout_s: float = 10.0) -> None:
        """Everything but the process itself: threads, sockets, files."""
        self._stopping.set()
        with self._said:
            self._said.notify_all()
        if self._thread is not None:
            self._mailbox.stop()
            self._thread.join(timeout_s)
        self._transport.close()
        self._mailbox.close()
        if self._executor is not None:
            self._executor.shutdown()
        self._clean()

    def _clean(self) -> None:
        """Files of this slot; its task manager does the same for one that was killed."""
        atexit.unregister(self._clean)
        shutil.rmtree(self._work, ignore_errors=True)
        Path(self.address.unix_path).unlink(missing_ok=True)

    def _now_ms(self) -> int:
        return self._clock.monotonic_ns() // 1_000_000


def _exit_with_children(code: int) -> None:
    """Also what users' functions have started."""
    try:
        for child in psutil.Process().children(recursive=True):
            try:
                child.kill()
            except psutil.NoSuchProcess:
                continue
    finally:
        os._exit(code)


def _tls(config: Configuration) -> TlsFiles | None:
    if not config.get(TLS_INTERNAL):
        return None
    files = {option.key: config.get(option) for option in (TLS_CERTIFICATE, TLS_KEY, TLS_AUTHORITY)}
    if missing := [key for key, file in files.items() if file is None]:
        raise ConfigurationError(f"{TLS_INTERNAL.key} is on, but {', '.join(missing)} is not set")
    return TlsFiles(*(str(file) for file in files.values()))
