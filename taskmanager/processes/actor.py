"""The Ray actors of slots and task managers: thin shells around slot_process.py and slot_keeper.py.

Both are detached, so that they outlive whoever started them. A slot is never restarted by Ray: a dead one is replaced
by a blank one. A task manager is, and finds its slots by their names. Ray carries calls and nothing else; records go
over sockets.

Calls are sorted into concurrency groups, each with threads of its own, because waiting calls would hold up others:

| group    | calls                        | why                                                                     |
|----------|------------------------------|-------------------------------------------------------------------------|
| run      | poll                         | waits; ends in an error some ms after the process died (DESIGN 9)       |
| deliver  | deliver                      | one thread: orders keep their order                                     |
| lease    | lease                        | may install code for minutes                                            |
| allocate | allocate                     | waits for processes to come up                                          |
| ctl      | all others                   | answer at once                                                          |

A slot's process imports what it needs before it is ready, so that a lease is quick: that is what a warm pool is for.
This module itself is light: whoever speaks to a slot imports it too.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray.actor import ActorHandle
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ...runtime.configuration.cluster_options import (
    DATA_HOST,
    HEARTBEAT_INTERVAL,
    HEARTBEAT_TIMEOUT,
    LOG_LEVEL,
    WARM_SLOTS,
)
from ...runtime.configuration.config import Configuration
from ...runtime.configuration.node_options import with_node_options
from ...runtime.directories import LOGS, node_directory, occupy, remove_abandoned
from ...runtime.logs import LogFile, list_logs, read_log, redirect_output, setup_logging
from ...runtime.resources import NO_RESOURCES, Resources
from ...state.ids import Generation, JobId, SlotId
from .contact import poll_wait_s
from .ray_resources import ray_options, total_resources

if TYPE_CHECKING:
    from ..messages import FromSlot, ToSlot
    from ..views import TaskManagerView
    from .leases import JobLease, SlotStatus
    from .task_manager import SlotOffer

SLOT_PREFIX = "slot-"
SWITCH_INTERVAL_S = 0.0005
"""How long pure Python may keep the interpreter from a thread that has a call to answer (MEASUREMENTS A1)."""
_POOLS = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "ARROW_IO_THREADS", "POLARS_MAX_THREADS",
    "NUMBA_NUM_THREADS",
)  # fmt: skip
DUMP_TIMEOUT_S = 5.0

logger = logging.getLogger(__name__)


def threads_of_libraries(cores: float) -> dict[str, str]:
    """Environment variables, which are read when the libraries are imported. A slot is one thread's worth of work:
    pools as wide as the machine, in each slot, would only fight. Who has asked for cores has them."""
    return dict.fromkeys(_POOLS, str(max(1, int(cores))))


class SlotShell:
    """One slot. Its actor's name is the slot's id."""

    def __init__(
        self,
        slot_id: str,
        task_manager: str,
        host: str,
        directory: str,
        config: dict[str, str],
        resources: Resources = NO_RESOURCES,
    ) -> None:
        os.environ.update(threads_of_libraries(resources.cpu))
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        configuration = Configuration.from_dict(config)
        logs = Path(directory) / LOGS
        setup_logging(logs, slot_id, configuration.get(LOG_LEVEL))
        output = redirect_output(logs, slot_id)
        from .model_actors import RayWorkers
        from .slot_process import SlotProcess, warm_up

        warm_up()
        self._process = SlotProcess(
            SlotId(slot_id), task_manager, host, Path(directory), configuration, output=output, resources=resources,
            workers=lambda lease: partial(RayWorkers, lease),
        )  # fmt: skip
        self._process.start()
        self._poll_wait_s = poll_wait_s(configuration.get(HEARTBEAT_TIMEOUT))

    @ray.method(concurrency_group="lease")
    def lease(self, lease: JobLease) -> None:
        """SlotProcess.lease."""
        self._process.lease(lease)

    @ray.method(concurrency_group="deliver")
    def deliver(self, generation: int, messages: list[ToSlot]) -> None:
        """SlotProcess.deliver."""
        self._process.deliver(generation, messages)

    @ray.method(concurrency_group="run")
    def poll(self, generation: int) -> list[FromSlot]:
        """SlotProcess.poll."""
        return self._process.poll(generation, self._poll_wait_s)

    @ray.method(concurrency_group="ctl")
    def status(self) -> SlotStatus:
        return self._process.status()

    @ray.method(concurrency_group="ctl")
    def thread_dump(self) -> dict[str, str]:
        """Thread -> stack."""
        from .process_metrics import thread_dump

        return thread_dump()


class TaskManagerShell:
    """The slots of one node; the actor must be on that node."""

    def __init__(
        self,
        node_id: str,
        name: str,
        host: str,
        slots: int,
        config: dict[str, str],
        versions: dict[str, str] | None = None,
    ) -> None:
        """`host`: how other nodes reach this one. `versions`: of the cluster; a node where others are installed has no
        slots, and says why."""
        config = with_node_options(config)
        configuration = Configuration.from_dict(config)
        node = node_directory(configuration, name)
        occupy(node)
        self._logs = node / LOGS
        setup_logging(self._logs, name, configuration.get(LOG_LEVEL))
        output = redirect_output(self._logs, name)
        from ...runtime.clock import SystemClock
        from ...state.ids import new_nonce
        from .slot_keeper import SlotKeeper
        from .task_manager import TaskManager

        own = f"{SLOT_PREFIX}{node_id[:12]}-"
        pool = TaskManager(
            f"{own}{new_nonce()[:6]}-",
            slots,
            configuration.get(WARM_SLOTS),
            ask_interval_ms=configuration.get(HEARTBEAT_INTERVAL),
            ask_timeout_ms=configuration.get(HEARTBEAT_TIMEOUT),
            unfit=_unfit(versions or {}),
        )
        for left in remove_abandoned(node.parent):
            logger.info("what node %s has left is removed", left)
        host = configuration.get(DATA_HOST) or host
        self._name, self._node_id, self._host = name, node_id, host
        self._actors = _RaySlotActors(own, node_id, (name, host, str(node), config))
        self._keeper = SlotKeeper(
            pool, self._actors, node, SystemClock(), output, resources=total_resources().get(node_id, NO_RESOURCES)
        )
        self._keeper.start()

    @ray.method(concurrency_group="allocate")
    def allocate(
        self,
        job_id: JobId,
        generation: Generation,
        count: int,
        known: list[SlotId],
        resources: Resources = NO_RESOURCES,
    ) -> list[SlotOffer]:
        """SlotKeeper.allocate."""
        from .slot_keeper import ALLOCATE_WAIT_S

        return self._keeper.allocate(job_id, generation, count, known, ALLOCATE_WAIT_S, resources)

    @ray.method(concurrency_group="ctl")
    def release(self, job_id: JobId, generation: Generation, slots: list[SlotId] | None) -> None:
        """None: all that the job has here. SupersededError."""
        self._keeper.release(job_id, generation, slots)

    @ray.method(concurrency_group="ctl")
    def discard(self, job_id: JobId, generation: Generation, slot_id: SlotId, reason: str) -> None:
        """Its process is killed at once. SupersededError."""
        self._keeper.discard(job_id, generation, slot_id, reason)

    @ray.method(concurrency_group="ctl")
    def free(self) -> int:
        return self._keeper.free

    @ray.method(concurrency_group="ctl")
    def describe(self) -> TaskManagerView:
        return self._keeper.describe(self._name, self._node_id, self._host)

    @ray.method(concurrency_group="ctl")
    def logs(self) -> list[LogFile]:
        """Of this node: the task manager's own are called as it is, a slot's as the slot."""
        return list_logs(self._logs)

    @ray.method(concurrency_group="ctl")
    def log(self, name: str, tail_bytes: int) -> bytes:
        """FileNotFoundError: there is no log of that name."""
        return read_log(self._logs, name, tail_bytes)

    @ray.method(concurrency_group="ctl")
    def thread_dump(self) -> dict[str, str]:
        """Of this process and of all slots that answer: '<slot>: <thread>' -> stack."""
        from .process_metrics import thread_dump

        return {**thread_dump(), **self._actors.thread_dumps(self._keeper.slots())}

    @ray.method(concurrency_group="ctl")
    def stop(self) -> None:
        """All slots are killed, and no more are started."""
        self._keeper.close()


SlotShell.__name__, TaskManagerShell.__name__ = "SlotActor", "TaskManagerActor"  # what the process list shows
_remote: Any = ray.remote  # its stubs know no concurrency groups
SlotActor = _remote(
    num_cpus=0, max_restarts=0, max_task_retries=0, concurrency_groups={"run": 4, "deliver": 1, "lease": 2, "ctl": 4}
)(SlotShell)
TaskManagerActor = _remote(num_cpus=0, max_restarts=-1, concurrency_groups={"allocate": 8, "ctl": 8})(TaskManagerShell)


def _unfit(cluster: dict[str, str]) -> str:
    """Why slots of this node could not work with the cluster's other processes."""
    from ...runtime.versions import differences, own_versions

    found = differences(own_versions(), cluster, them="this node")
    for sentence in found.warnings:
        logger.warning("%s", sentence)
    reason = "; ".join(found.errors)
    if reason:
        logger.error("this node is not used: %s", reason)
    return reason


class _RaySlotActors:
    """Implements slot_keeper.SlotActors."""

    def __init__(self, prefix: str, node_id: str, arguments: tuple[str, str, str, dict[str, str]]) -> None:
        """`prefix`: of the names of all slots of this node. `arguments`: of SlotActor, after the slot's id."""
        self._prefix = prefix
        self._arguments = arguments
        self._where = NodeAffinitySchedulingStrategy(node_id, soft=False)
        self._handles: dict[SlotId, ActorHandle[Any]] = {}

    def found(self) -> list[SlotId]:
        return [SlotId(name) for name in ray.util.list_named_actors() if name.startswith(self._prefix)]

    def start(self, slot_id: SlotId, resources: Resources, answer: Callable[[Future[SlotStatus]], None]) -> None:
        self._handles[slot_id] = SlotActor.options(
            name=slot_id, lifetime="detached", scheduling_strategy=self._where, **ray_options(resources)
        ).remote(slot_id, *self._arguments, resources)
        self.ask(slot_id, answer)

    def ask(self, slot_id: SlotId, answer: Callable[[Future[SlotStatus]], None]) -> None:
        try:
            handle = self._handle(slot_id)
        except ValueError as error:  # there is no actor of that name any more
            failed: Future[SlotStatus] = Future()
            failed.set_exception(error)
            answer(failed)
            return
        handle.status.remote().future().add_done_callback(answer)

    def kill(self, slot_id: SlotId) -> None:
        try:
            ray.kill(self._handle(slot_id))
        except ValueError:
            pass

    def forget(self, slot_id: SlotId) -> None:
        self._handles.pop(slot_id, None)

    def thread_dumps(self, slots: list[SlotId]) -> dict[str, str]:
        calls: dict[SlotId, Any] = {slot_id: self._handle(slot_id).thread_dump.remote() for slot_id in slots}
        done, _ = ray.wait(list(calls.values()), num_returns=len(calls), timeout=DUMP_TIMEOUT_S) if calls else ([], [])
        return {
            f"{slot_id}: {thread}": stack
            for slot_id, call in calls.items()
            if call in done
            for thread, stack in _result(call).items()
        }

    def _handle(self, slot_id: SlotId) -> ActorHandle[Any]:
        if slot_id not in self._handles:
            self._handles[slot_id] = ray.get_actor(slot_id)
        return self._handles[slot_id]


def _result(call: Any) -> dict[str, str]:
    try:
        stacks: dict[str, str] = ray.get(call, timeout=0)
    except ray.exceptions.RayError:  # it has died meanwhile
        return {}
    return stacks
