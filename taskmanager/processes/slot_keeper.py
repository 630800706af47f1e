"""Keeps the slots of a node: the shell around task_manager.py, without Ray.

One thread looks several times a second which processes have ended, and drives the pool; another one takes the answers
of slots; calls come from any thread. Answers must not be taken on the thread that brings them: it is Ray's own, whoever
holds our lock may just be waiting for it.

Processes are known by pid and start time, so that a pid that is used again is never taken for a slot, and never
killed. That also means that a death is noticed whatever its cause, and that a kill does not go through Ray, which
leaves a hung process alive for seconds.

What a dead slot leaves (working files, its socket, after a while its copies of state) is removed here, and so is what
is left of slots that died while the task manager itself was down. Should this thread meet an error of penstock's own,
the process ends: Ray starts it again, and it finds its slots by their names.
"""

from __future__ import annotations

import logging
import os
import queue
import shutil
import socket
import threading
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Protocol

import psutil

from ...runtime.clock import Clock
from ...runtime.directories import LOCAL, LOGS, WORK, socket_directory
from ...runtime.logs import OutputFile, remove_old_logs
from ...runtime.resources import NO_RESOURCES, Resources
from ...runtime.versions import own_versions
from ...state.ids import Generation, JobId, SlotId
from ...state.store.local_copies import LeftCopies
from ..views import SlotView, TaskManagerView
from .leases import SlotStatus
from .process_metrics import process_metrics, rss_bytes
from .task_manager import AskSlot, Command, KillSlot, SlotOffer, StartSlot, TaskManager

TICK_S = 0.1
ALLOCATE_WAIT_S = 5.0
"""How long an allocation waits for processes that are starting."""
OLD_LOGS = 20
"""Slots that have ended whose logs are kept."""
DYING_S = 30.0
"""A killed process that is still there after this is complained of."""
EXIT_BROKEN = 70

logger = logging.getLogger(__name__)


class SlotActors(Protocol):
    """Starts processes and speaks to them. `answer` is called once, from any thread."""

    def found(self) -> list[SlotId]:
        """Slots of this node that a former life of the task manager has started, and that may live."""
        ...

    def start(self, slot_id: SlotId, resources: Resources, answer: Callable[[Future[SlotStatus]], None]) -> None:
        """May block for a while. The answer comes when the process is ready, or has failed; not before there are its
        resources."""
        ...

    def ask(self, slot_id: SlotId, answer: Callable[[Future[SlotStatus]], None]) -> None: ...

    def kill(self, slot_id: SlotId) -> None:
        """One whose process is not known yet."""
        ...

    def forget(self, slot_id: SlotId) -> None:
        """It is dead."""
        ...


class SlotKeeper:
    """Of one node. `start`, then the other methods from any thread; in the end `close`."""

    def __init__(
        self,
        pool: TaskManager,
        actors: SlotActors,
        node: Path,
        clock: Clock,
        output: OutputFile | None = None,
        exit_process: Callable[[int], None] = os._exit,
        resources: Resources = NO_RESOURCES,
    ) -> None:
        """`node`: the node's directory. `resources`: that it has, for slots that ask for some."""
        self._pool = pool
        self._actors = actors
        self._node = node
        self._clock = clock
        self._output = output
        self._exit_process = exit_process
        self._resources = resources
        self._changed = threading.Condition()
        """Guards the pool and what follows; notified when a slot has changed its state."""
        self._processes: dict[SlotId, psutil.Process] = {}
        self._sockets: dict[SlotId, str] = {}
        self._budgets: dict[SlotId, int] = {}
        self._dying: dict[SlotId, tuple[psutil.Process, int]] = {}
        """Killed, and since when."""
        self._starts = ThreadPoolExecutor(2, thread_name_prefix="slot starts")
        self._answers: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._copies = LeftCopies(node / LOCAL)
        self._closing = threading.Event()
        self._listener = threading.Thread(target=self._listen, name="slot answers", daemon=True)
        self._thread = threading.Thread(target=self._run, name="slot keeper", daemon=True)

    def start(self) -> None:
        """Finds the slots that are there, and starts what lacks."""
        with self._changed:
            found = self._actors.found()
            for slot_id in found:
                logger.info("slot %s is found again", slot_id)
                self._pool.adopt(slot_id, self._now_ms())
                self._actors.ask(slot_id, self._mail(self._introduced, slot_id))
            self._remove_remains(found)
        self._listener.start()
        self._thread.start()

    # ---- jobs

    def allocate(
        self,
        job_id: JobId,
        generation: Generation,
        count: int,
        known: Collection[SlotId],
        wait_s: float,
        resources: Resources = NO_RESOURCES,
    ) -> list[SlotOffer]:
        """Waits for processes that are starting, but not for those with resources: whoever wants them asks many nodes
        in turn, and must be back soon. What is offered then may be less than `count`. SupersededError."""
        deadline_ms = self._now_ms() + (0 if resources else int(wait_s * 1_000))
        with self._changed:
            while True:
                self._notice_deaths()
                now_ms = self._now_ms()
                offers, commands = self._pool.allocate(job_id, generation, count, known, now_ms, resources)
                self._carry_out(commands)
                if len(offers) >= count or now_ms >= deadline_ms or self._closing.is_set():
                    return offers
                self._changed.wait((deadline_ms - now_ms) / 1_000)

    def release(self, job_id: JobId, generation: Generation, slots: Collection[SlotId] | None) -> None:
        with self._changed:
            self._carry_out(self._pool.release(job_id, generation, slots, self._now_ms()))
            if not self._pool.lets_to(job_id):
                self._copies.job_is_gone(job_id, self._now_ms())

    def discard(self, job_id: JobId, generation: Generation, slot_id: SlotId, reason: str) -> None:
        with self._changed:
            self._carry_out(self._pool.discard(job_id, generation, slot_id, reason, self._now_ms()))

    # ---- questions

    @property
    def free(self) -> int:
        with self._changed:
            self._notice_deaths()
            return self._pool.free

    def slots(self) -> list[SlotId]:
        """Whose process has come up."""
        with self._changed:
            return list(self._processes)

    def describe(self, name: str, node_id: str, host: str) -> TaskManagerView:
        with self._changed:
            self._notice_deaths()
            slots = [slot for slot in self._pool.slots.values() if slot.address is not None]
            processes, free, problem = dict(self._processes), self._pool.free, self._pool.problem
            budgets = {slot.id: self._budgets.get(slot.id, 0) for slot in slots}
            generations = {slot.id: self._pool.generation(slot.job_id) for slot in slots}
        views = tuple(
            SlotView(
                slot.id,
                slot.job_id or "",
                slot.pid,
                _rss_bytes(processes.get(slot.id)),
                budget_bytes=budgets[slot.id],
                resources=slot.resources,
                generation=generations[slot.id],
            )
            for slot in slots
        )
        memory, own = psutil.virtual_memory(), process_metrics()
        return TaskManagerView(
            id=name,
            host=host,
            node_id=node_id,
            pid=os.getpid(),
            data_port=next((slot.address.port for slot in slots if slot.address is not None), 0),
            slots_total=self._pool.total,
            slots_free=free,
            slots=views,
            heartbeat_ms=self._clock.now_ms(),
            cores=len(os.sched_getaffinity(0)),
            memory_bytes=memory.total,
            memory_available_bytes=memory.available,
            process_memory_bytes=rss_bytes() + sum(view.rss_bytes for view in views),
            versions=own_versions(),
            metrics=own,
            problem=problem,
            resources=self._resources,
        )

    # ---- the pool's commands

    def _carry_out(self, commands: list[Command]) -> None:
        for command in commands:
            match command:
                case StartSlot(slot_id, resources):
                    self._starts.submit(self._start, slot_id, resources)
                case KillSlot(slot_id, reason):
                    self._kill(slot_id, reason)
                case AskSlot(slot_id):
                    self._actors.ask(slot_id, self._mail(self._answered, slot_id))
        self._changed.notify_all()

    def _start(self, slot_id: SlotId, resources: Resources) -> None:
        if self._closing.is_set():
            return
        try:
            self._actors.start(slot_id, resources, self._mail(self._introduced, slot_id))
        except Exception as error:  # whatever Ray refuses it for, the pool tries again
            self._failed(slot_id, error)

    def _mail(
        self, handler: Callable[[SlotId, Future[SlotStatus]], None], slot_id: SlotId
    ) -> Callable[[Future[SlotStatus]], None]:
        return lambda answer: self._answers.put(partial(handler, slot_id, answer))

    def _listen(self) -> None:
        while (take := self._answers.get()) is not None:
            try:
                take()
            except Exception as error:
                self._broken(error)

    def _introduced(self, slot_id: SlotId, answer: Future[SlotStatus]) -> None:
        if (error := answer.exception()) is not None:
            self._failed(slot_id, error)
            return
        status = answer.result()
        with self._changed:
            try:
                self._processes[slot_id] = psutil.Process(status.pid)
            except psutil.NoSuchProcess:
                self._carry_out(self._pool.died(slot_id, "it died as soon as it was ready", self._now_ms()))
                return
            self._sockets[slot_id] = status.address.unix_path
            self._budgets[slot_id] = status.budget_bytes
            logger.info("slot %s is ready: process %d", slot_id, status.pid)
            self._carry_out(self._pool.started(slot_id, status, self._now_ms()))

    def _failed(self, slot_id: SlotId, error: BaseException) -> None:
        reason = ([line for line in str(error).splitlines() if line.strip()] or [type(error).__name__])[-1].strip()
        logger.error("slot %s cannot be started: %s", slot_id, error)
        with self._changed:
            self._actors.forget(slot_id)
            self._carry_out(self._pool.died(slot_id, reason, self._now_ms()))

    def _answered(self, slot_id: SlotId, answer: Future[SlotStatus]) -> None:
        if answer.exception() is None:  # else it has died, which is noticed, or stays silent, which is, too
            with self._changed:
                self._carry_out(self._pool.seen(slot_id, answer.result(), self._now_ms()))

    def _kill(self, slot_id: SlotId, reason: str) -> None:
        logger.info("slot %s is killed: %s", slot_id, reason)
        process = self._processes.pop(slot_id, None)
        if process is None:
            self._actors.kill(slot_id)
            self._clean(slot_id)
            return
        kill_tree(process)
        self._dying[slot_id] = (process, self._now_ms())

    # ---- the keeper's thread

    def _run(self) -> None:
        try:
            while not self._closing.wait(TICK_S):
                with self._changed:
                    self._notice_deaths()
                    self._bury()
                    self._carry_out(self._pool.tick(self._now_ms()))
                    living = list(self._pool.slots)
                self._copies.tick(living, self._now_ms())
                if self._output is not None:
                    self._output.rotate()
        except Exception as error:
            self._broken(error)

    def _broken(self, error: Exception) -> None:
        logger.critical("an error of penstock ends this task manager:", exc_info=error)
        logging.shutdown()
        self._exit_process(EXIT_BROKEN)

    def _notice_deaths(self) -> None:
        for slot_id, process in list(self._processes.items()):
            if not is_alive(process):
                logger.warning("slot %s has died: process %d has ended", slot_id, process.pid)
                del self._processes[slot_id]
                self._clean(slot_id)
                self._carry_out(self._pool.died(slot_id, "its process has ended", self._now_ms()))

    def _bury(self) -> None:
        for slot_id, (process, since_ms) in list(self._dying.items()):
            if not is_alive(process):
                del self._dying[slot_id]
                self._clean(slot_id)
            elif self._now_ms() - since_ms > DYING_S * 1_000:
                del self._dying[slot_id]
                logger.error("process %d of slot %s does not end, though it was killed", process.pid, slot_id)

    # ---- what dead slots leave

    def _clean(self, slot_id: SlotId) -> None:
        self._actors.forget(slot_id)
        self._budgets.pop(slot_id, None)
        shutil.rmtree(self._node / WORK / slot_id, ignore_errors=True)
        Path(self._sockets.pop(slot_id, "/nonexistent")).unlink(missing_ok=True)
        remove_old_logs(self._node / LOGS, frozenset([*self._pool.slots, self._node.name]), OLD_LOGS)

    def _remove_remains(self, found: list[SlotId]) -> None:
        for path in (self._node / WORK).iterdir():
            if path.name not in found:
                self._clean(SlotId(path.name))
        for path in socket_directory(self._node).glob("*.sock"):
            if not _listens(path):
                path.unlink(missing_ok=True)

    # ---- the end

    def close(self) -> None:
        """All slots are killed."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10)
        with self._changed:
            slots = list(self._pool.slots)
            for slot_id in slots:
                self._kill(slot_id, "the task manager ends")
            psutil.wait_procs([process for process, _ in self._dying.values()], timeout=10)
            self._bury()
            self._changed.notify_all()
        self._copies.remove_all()
        self._starts.shutdown(wait=False, cancel_futures=True)
        self._answers.put(None)

    def _now_ms(self) -> int:
        return self._clock.monotonic_ns() // 1_000_000


def is_alive(process: psutil.Process) -> bool:
    """One that waits to be reaped is dead."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def kill_tree(process: psutil.Process) -> None:
    """A slot's process, and what users' functions have started in it."""
    try:
        children = process.children(recursive=True)
        process.kill()
    except psutil.NoSuchProcess:
        return
    for child in children:
        try:
            child.kill()
        except psutil.NoSuchProcess:
            continue


def _listens(path: Path) -> bool:
    """Whether a process has that socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.setblocking(False)
        try:
            client.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:  # it has many others waiting
            return True
    return True


def _rss_bytes(process: psutil.Process | None) -> int:
    try:
        return 0 if process is None else int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0
