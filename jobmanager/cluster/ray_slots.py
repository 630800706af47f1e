"""The slots of one job on Ray: found, leased, spoken to, watched, given back. A shell of the job master's loop.

    acquire   a helper thread asks all task managers of the cluster for room, takes slots where resource_manager.py
              says, and leases each to the job (its code is installed there). All or none; until the timeout it tries
              again, then the job is told why there are none. Slots with resources: own_slots.py
    send      messages to one slot are gathered over one turn of the loop and go in one call; calls of one slot keep
              their order
    poll      one waiting call per slot brings its messages, and ends in an error some ms after the slot's process
              died. A slot that answers nothing for the heartbeat's timeout is hung: Ray does not notice that, so its
              task manager is told to kill it by pid
    release   the process ends, and a blank one takes its place. Nobody waits for the answer: it is said when the job
              ends, and should it not be heard, the dispatcher takes the slots back (dispatcher.py)

Every call carries the leader's generation, and task managers and slots refuse lower ones: a master that was replaced
while it slept cannot take, speak to or kill what its successor uses (PROTOCOLS 5).
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import ray
from ray.actor import ActorHandle as RayHandle

from ...runtime.configuration.cluster_options import HEARTBEAT_TIMEOUT
from ...runtime.resources import NO_RESOURCES, Resources
from ...state.errors import PenstockError
from ...state.ids import Generation, JobId, SlotId
from ...taskmanager.messages import FromSlot, ToSlot
from ...taskmanager.processes.leases import JobLease, SupersededError
from ...taskmanager.processes.ray_resources import free_resources
from ...taskmanager.processes.task_manager import SlotOffer
from .. import events
from ..master_loop import MasterLoop
from ..views import TaskManagerView
from .own_slots import PATIENCE_S, NodeRoom, OwnSlotsRequest, Views, impossible, node_rooms
from .own_slots import shortage as own_slots_shortage
from .resource_manager import Room, place, shortage

TASK_MANAGER_PREFIX = "taskmanager-"
RETRY_S = 0.25
"""Between two looks for room."""
CALL_TIMEOUT_S = 10.0
"""What a call to a task manager may take: it only keeps accounts."""
LEASE_TIMEOUT_S = 600.0
"""What a lease may take: the job's requirements are installed."""

ActorHandle = RayHandle[Any]
"""Ray's types do not say which methods an actor has."""

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Slot:
    handle: ActorHandle
    task_manager: ActorHandle
    home: str
    """Name of the task manager."""
    pid: int
    heard_ms: int
    outgoing: list[ToSlot] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A request for slots."""

    slots: tuple[Resources, ...]
    generation: Generation
    known: frozenset[SlotId]
    lost_at: Mapping[str, int]


class _ImpossibleError(PenstockError):
    """No node could give what is asked for."""


class RaySlots:
    """Methods are called on the loop's thread; `lease` makes the lease for a generation."""

    def __init__(
        self,
        job_id: JobId,
        lease: Callable[[Generation], JobLease],
        *,
        request_timeout_s: float,
        heartbeat_timeout_ms: int,
    ) -> None:
        self._job_id = job_id
        self._lease = lease
        self._request_timeout_s = request_timeout_s
        self._heartbeat_timeout_ms = heartbeat_timeout_ms
        self._slots: dict[SlotId, _Slot] = {}
        self._coming: dict[SlotId, ActorHandle] = {}
        """Let to the job and being leased: not yet known on the loop's thread. With their task managers."""
        self._lost_at: Counter[str] = Counter()
        """Task manager -> slots that died and were not replaced yet."""
        self._wanted: queue.SimpleQueue[_Wanted | None] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._acquire_all, name="slot requests", daemon=True)
        self._loop: MasterLoop

    def bind(self, loop: MasterLoop) -> None:
        """Before the loop starts: each needs the other."""
        self._loop = loop
        self._thread.start()

    def close(self) -> None:
        """Slots that are still on their way are given back: nobody waits for them any more."""
        self._closing.set()
        self._wanted.put(None)
        self._give_back()
        self._thread.join(timeout=CALL_TIMEOUT_S)

    def _give_back(self) -> None:
        for slot, task_manager in list(self._coming.items()):
            task_manager.release.remote(self._job_id, self._generation, [slot])

    # commands of the job master

    def send(self, slot: SlotId, message: ToSlot) -> None:
        known = self._slots.get(slot)
        if known is None:
            return
        if not known.outgoing:
            self._loop.mail(partial(self._flush, slot))
        known.outgoing.append(message)

    def acquire(self, slots: tuple[Resources, ...]) -> None:
        self._wanted.put(_Wanted(slots, self._generation, frozenset(self._slots), self._lost_at))
        self._lost_at = Counter()

    def release(self, slots: tuple[SlotId, ...]) -> None:
        for slot in slots:
            self._flush(slot)
            known = self._slots.pop(slot, None)
            if known is not None:
                known.task_manager.release.remote(self._job_id, self._generation, [slot])

    def discard(self, slot: SlotId, reason: str) -> None:
        known = self._slots.pop(slot, None)
        if known is not None:
            logger.warning("slot %s is given up: %s", slot, reason)
            self._lost_at[known.home] += 1
            known.task_manager.discard.remote(self._job_id, self._generation, slot, reason)

    def check(self, now_ms: int) -> None:
        """Give up slots that have not been heard for too long; the loop calls it about every half second."""
        for slot, known in list(self._slots.items()):
            if now_ms - known.heard_ms > self._heartbeat_timeout_ms:
                reason = (
                    f"its process {known.pid} has not answered for {self._heartbeat_timeout_ms} ms "
                    f"({HEARTBEAT_TIMEOUT.key}), and is killed"
                )
                self.discard(slot, reason)
                self._loop.happened(events.SlotLost(slot, reason))

    @property
    def _generation(self) -> Generation:
        return self._loop.master.generation

    # talking

    def _flush(self, slot: SlotId) -> None:
        known = self._slots.get(slot)
        if known is None or not known.outgoing:
            return
        messages, known.outgoing = known.outgoing, []
        _when_done(
            known.handle.deliver.remote(messages[0].generation, messages), partial(self._mail, self._delivered, slot)
        )

    def _delivered(self, slot: SlotId, future: Future[None]) -> None:
        if (error := future.exception()) is not None:
            self._lost(slot, error)

    def _poll(self, slot: SlotId) -> None:
        known = self._slots.get(slot)
        if known is not None:
            _when_done(known.handle.poll.remote(self._generation), partial(self._mail, self._polled, slot))

    def _polled(self, slot: SlotId, future: Future[list[FromSlot]]) -> None:
        known = self._slots.get(slot)
        if known is None:
            return
        if (error := future.exception()) is not None:
            self._lost(slot, error)
            return
        known.heard_ms = self._loop.now_ms()
        for message in future.result():
            self._loop.happened(events.SlotMessage(slot, message))
        self._poll(slot)

    def _mail(self, function: Callable[[SlotId, Any], None], slot: SlotId, future: Any) -> None:
        """From Ray's thread to the loop's."""
        self._loop.mail(partial(function, slot, future))

    def _lost(self, slot: SlotId, error: BaseException) -> None:
        """Its process died, or it does not obey this master: a new one is asked for, if the job is still ours."""
        known = self._slots.pop(slot, None)
        if known is None:
            return
        if not isinstance(error, (ray.exceptions.RayActorError, SupersededError)):
            logger.error("slot %s failed: %s", slot, error)
        if not isinstance(error, SupersededError):
            self._lost_at[known.home] += 1
            known.task_manager.discard.remote(self._job_id, self._generation, slot, "lost")
        self._loop.happened(events.SlotLost(slot, _why_lost(error, known.pid)))

    # acquiring, on its own thread

    def _acquire_all(self) -> None:
        had: set[SlotId] = set()
        """All that this thread got: those that a request which has waited here could not know."""
        while (wanted := self._wanted.get()) is not None:
            had |= wanted.known
            try:
                self._acquire(wanted, had)
            except Exception as error:  # whatever happens to a request, the job must hear of it
                logger.warning("slots cannot be had: %s", error)
                self._loop.post(events.SlotsDenied(_first_line(error), never=isinstance(error, _ImpossibleError)))

    def _acquire(self, wanted: _Wanted, known: set[SlotId]) -> None:
        """What it gets is put into `known`. Slots with resources first: those that are not leased end by themselves."""
        began_s = time.monotonic()
        patience_s = min(CALL_TIMEOUT_S, self._heartbeat_timeout_ms / 1_000)
        count, generation = wanted.slots.count(NO_RESOURCES), wanted.generation
        with_resources = [resources for resources in wanted.slots if resources]
        request = OwnSlotsRequest(with_resources)
        while not self._closing.is_set():
            views = describe_task_managers(patience_s)
            rooms = _rooms(views, self._job_id, known, wanted.lost_at)
            nodes = node_rooms(views, free_resources(), self._job_id, known, wanted.lost_at) if with_resources else {}
            offers = self._take_own(request, nodes, generation, known) if place(rooms, count) is not None else None
            plain = self._take(rooms, count, generation, known) if count and offers is not None else []
            if offers is None or len(plain) < count:
                self._out_of_time(began_s, rooms, nodes, count, with_resources)
                self._closing.wait(RETRY_S)
                continue
            offers = [*offers, *plain]
            known.update(offer.slot_id for offer, _ in offers)
            self._coming.update({offer.slot_id: task_manager for offer, task_manager in offers})
            if self._closing.is_set():  # it did not see these
                self._give_back()
            self._lease_all(offers, generation)
            return

    def _out_of_time(
        self,
        began_s: float,
        rooms: Mapping[str, Room],
        nodes: Mapping[str, NodeRoom],
        count: int,
        with_resources: list[Resources],
    ) -> None:
        """Raises if it is."""
        waited_s = time.monotonic() - began_s
        if impossible(nodes, with_resources):
            if waited_s > min(PATIENCE_S, self._request_timeout_s):
                raise _ImpossibleError(own_slots_shortage(nodes, with_resources))
        elif waited_s > self._request_timeout_s:
            lacks_plain = place(rooms, count) is None or not with_resources
            why = shortage(rooms, count) if lacks_plain else own_slots_shortage(nodes, with_resources)
            raise PenstockError(f"after {self._request_timeout_s:g} s (slot.request.timeout), {why}")

    def _take_own(
        self, request: OwnSlotsRequest, nodes: Mapping[str, NodeRoom], generation: Generation, known: set[SlotId]
    ) -> list[tuple[SlotOffer, ActorHandle]] | None:
        """All of them; None: not yet."""

        def ask(name: str, count: int, resources: Resources) -> list[SlotOffer]:
            return [offer for offer, _ in self._ask(name, count, generation, known, resources)]

        found = request.look(nodes, ask, time.monotonic())
        return None if found is None else [(offer, ray.get_actor(name)) for offer, name in found]

    def _ask(
        self, name: str, count: int, generation: Generation, known: set[SlotId], resources: Resources = NO_RESOURCES
    ) -> list[tuple[SlotOffer, ActorHandle]]:
        """One that does not answer has nothing."""
        try:
            task_manager = ray.get_actor(name)
            call: Any = task_manager.allocate.remote(self._job_id, generation, count, sorted(known), resources)
            return [(offer, task_manager) for offer in ray.get(call, timeout=CALL_TIMEOUT_S)]
        except (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError, ValueError) as error:
            logger.warning("task manager %s does not answer: %s", name, _first_line(error))
            return []

    def _take(
        self, rooms: dict[str, Room], count: int, generation: Generation, known: set[SlotId]
    ) -> list[tuple[SlotOffer, ActorHandle]]:
        """All of them, or none: what another job was faster with is waited for, and the rest given back."""
        plan = place(rooms, count)
        if plan is None:
            return []
        offers = [offer for name, wanted in plan.items() for offer in self._ask(name, wanted, generation, known)]
        if len(offers) < count:
            for offer, task_manager in offers:
                task_manager.release.remote(self._job_id, generation, [offer.slot_id])
            return []
        return offers

    def _lease_all(self, offers: list[tuple[SlotOffer, ActorHandle]], generation: Generation) -> None:
        """All at once. Those that could be leased are the job's even if others could not."""
        leases: list[tuple[SlotOffer, ActorHandle, ActorHandle, Any]] = []
        for offer, task_manager in offers:
            handle = ray.get_actor(offer.actor_name)
            leases.append((offer, task_manager, handle, handle.lease.remote(self._lease(generation))))
        failure: Exception | None = None
        for offer, task_manager, handle, call in leases:
            try:
                ray.get(call, timeout=LEASE_TIMEOUT_S)
            except Exception as error:  # the job's code cannot be installed, or the process died
                self._coming.pop(offer.slot_id, None)
                task_manager.discard.remote(self._job_id, generation, offer.slot_id, "it could not be leased")
                failure = error
            else:
                self._loop.mail(partial(self._leased, offer, handle, task_manager))
        if failure is not None:
            raise failure

    def _leased(self, offer: SlotOffer, handle: ActorHandle, task_manager: ActorHandle) -> None:
        self._coming.pop(offer.slot_id, None)
        self._slots[offer.slot_id] = _Slot(
            handle, task_manager, offer.address.task_manager, offer.pid, self._loop.now_ms()
        )
        self._poll(offer.slot_id)
        self._loop.happened(events.SlotOffered(offer.slot_id, offer.address, offer.resources))


def task_managers() -> dict[str, ActorHandle]:
    """Of this cluster (Ray namespace), by name. Those that have just died may be among them."""
    found = {}
    for name in ray.util.list_named_actors():
        if name.startswith(TASK_MANAGER_PREFIX):
            try:
                found[name] = ray.get_actor(name)
            except ValueError:  # gone since the listing
                continue
    return found


def describe_task_managers(timeout_s: float = CALL_TIMEOUT_S) -> dict[str, TaskManagerView]:
    """Those that answer in this time, asked all at once. One that is cut off is alive for Ray, for half a minute."""
    calls: dict[str, Any] = {name: handle.describe.remote() for name, handle in task_managers().items()}
    ray.wait(list(calls.values()), num_returns=len(calls), timeout=timeout_s) if calls else None
    views: dict[str, TaskManagerView] = {}
    for name, call in calls.items():
        try:
            views[name] = ray.get(call, timeout=0)
        except (ray.exceptions.RayError, TimeoutError) as error:
            logger.warning("task manager %s does not answer: %s", name, _first_line(error))
    return views


def _rooms(views: Views, job_id: JobId, known: set[SlotId], lost_at: Mapping[str, int]) -> dict[str, Room]:
    rooms = {}
    for name, view in views.items():
        mine = [SlotId(slot.id) for slot in view.slots if slot.job_id == job_id and slot.alive and not slot.resources]
        used = len(known.intersection(mine))
        rooms[name] = Room(
            view.slots_total, view.slots_free, len(mine) - used, used, lost_at.get(name, 0), view.problem
        )
    return rooms


def _when_done(call: Any, answer: Callable[[Future[Any]], None]) -> None:
    call.future().add_done_callback(answer)


def _why_lost(error: BaseException, pid: int) -> str:
    """For the user, whom Ray's actors do not concern."""
    if isinstance(error, ray.exceptions.ActorUnavailableError):
        return f"its process {pid} cannot be reached, or has ended"
    if isinstance(error, ray.exceptions.RayActorError):
        return f"its process {pid} has ended: it was killed (by the system, where memory is short), or it crashed"
    return _first_line(error)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
