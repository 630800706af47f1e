"""The shell of the simulation: slots and masters as processes in virtual time. The twin of jobmanager/local_cluster.py.

A slot takes a step after everything that arrives, and when its own clock says so. A master's commands are carried out
as its shell would: programs op by op against the simulated store, blocking calls somewhere else (once begun they have
their effect, whatever becomes of the master), messages over control links. Several masters may live at once and take
themselves for the leader; each has its own slots, and a slot only its own master. What a process leaves behind when it
dies (slots of a dead master, files of a dead slot, half-done programs) stays for a while, or for ever.

`Supervisor` is what is outside of the cluster in reality: it starts a master when none is left.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..jobmanager import events
from ..jobmanager.job_master import JobMaster
from ..jobmanager.options import JobMasterOptions, RestoreRequest
from ..runtime.calls import Answered
from ..runtime.graph.job_graph import JobGraph
from ..runtime.resources import Resources
from ..state.ids import JobId, SlotId
from ..taskmanager import messages
from ..taskmanager.deployment import SlotServices
from ..taskmanager.slot import Slot
from .simulated_calls import SimulatedCalls
from .simulated_links import Network, SlotTransport
from .simulated_store import SimulatedExecutor, SimulatedStore
from .simulated_workers import SimulatedWorkers, Trouble
from .virtual_time import MS, Call, Process, VirtualClock, VirtualTime

JOB = JobId("job")
NEVER_NS = 10_000_000 * MS
"""After the end of every simulation."""


class SimulatedSlot:
    """One slot process. Its messages go to the master that started it."""

    def __init__(self, cluster: SimulatedCluster, slot_id: SlotId, master: SimulatedMaster) -> None:
        time = cluster.time
        self.process = Process(slot_id, look_ns=time.random.choice((20_000, 150_000, 500_000)))
        self.master = master
        self._cluster = cluster
        self._step_at_ns: int | None = None
        self._steps = 0
        services = SlotServices(
            clock=VirtualClock(time, self.process),
            transport=SlotTransport(cluster.network, slot_id),
            executor=SimulatedExecutor(time, cluster.store, self.process, self._step_soon),
            send=self._send,
            post=self._post,
            new_name=time.new_name,
            work_directory=cluster.directory / slot_id,
            calls=lambda _post, _context: self._calls,
            workers=lambda _post, _context, spec, told: SimulatedWorkers(
                time, self.process, self.receive, cluster.worker_troubles, spec, told
            ),
        )
        self.slot = Slot(slot_id, services)

    def receive(self, call: Call) -> None:
        call()
        self._step_soon()

    def _calls(
        self, function: Callable[[Any], Any], answered: Answered, *, asynchronous: bool, threads: int
    ) -> SimulatedCalls:
        return SimulatedCalls(self._cluster.time, self.process, self.receive, function, answered)

    def _post(self, call: Call) -> None:
        self._cluster.time.after(0, self.process, "mail", lambda: self.receive(call))

    def _send(self, message: messages.FromSlot) -> None:
        cluster, master, slot = self._cluster, self.master, self.slot.id
        for observe in cluster.message_observers:
            observe(slot, message)
        event = events.SlotMessage(slot, message)
        cluster.network.control(slot, master.process, type(message).__name__, lambda: master.handle(event))

    def _step_soon(self) -> None:
        self._step_in(0)

    def _step_in(self, delay_ns: int) -> None:
        at_ns = self._cluster.time.moment_ns + delay_ns
        if self._step_at_ns is not None and self._step_at_ns <= at_ns:
            return
        self._step_at_ns = at_ns
        self._steps += 1
        number = self._steps
        self._cluster.time.at(at_ns, self.process, "step", lambda: self._step(number))

    def _step(self, number: int) -> None:
        if number != self._steps:
            return
        self._step_at_ns = None
        if self.slot.step():
            self._step_soon()
            return
        due_ns = self.slot.next_wakeup_ns()
        if due_ns is not None:
            self._step_in(max(0, due_ns - self._cluster.time.moment_ns))


class SimulatedMaster:
    """One job master process, from candidate to its end."""

    def __init__(self, cluster: SimulatedCluster, name: str, graph: JobGraph, options: JobMasterOptions) -> None:
        time = cluster.time
        self.process = Process(name)
        self.slots: dict[SlotId, SimulatedSlot] = {}
        self.ended: events.EndJob | None = None
        self.stop_requested = False
        self.master = JobMaster(
            graph,
            job_id=cluster.job_id,
            options=options,
            restore=cluster.restore,
            new_name=time.new_name,
            process=name,
            is_dead=lambda other: other in cluster.known_dead,
        )
        self._cluster = cluster
        self._executor = SimulatedExecutor(time, cluster.store, self.process, lambda: None)
        time.after(0, self.process, "start", lambda: self._carry_out(self.master.start(time.moment_ms)))

    @property
    def running(self) -> bool:
        return self.process.alive and self.ended is None

    def stop(self, *, remember: bool) -> None:
        """`remember`: masters that follow carry it out, too, until the job is submitted again."""
        self.stop_requested = True
        self._cluster.stop_remembered |= remember
        self._cluster.time.after(0, self.process, "stop", lambda: self.handle(events.StopRequested(remember)))

    def cancel(self) -> None:
        self._cluster.cancelled = True
        self._cluster.time.after(0, self.process, "cancel", lambda: self.handle(events.CancelRequested()))

    def savepoint(self, name: str, *, stop: bool, drain: bool) -> None:
        event = events.SavepointRequested(f"{name}-{self._cluster.next_number()}", stop=stop, drain=drain)
        self._cluster.time.after(0, self.process, "savepoint", lambda: self.handle(event))

    def handle(self, event: events.Event) -> None:
        if self.ended is not None:
            return
        before = self.master.state
        commands = self.master.handle(event, self._cluster.time.moment_ms)
        if self.master.state is not before:
            self._cluster.time.note(f"{self.process.name} is {self.master.state.value}")
            for observe in self._cluster.state_observers:
                observe(self, self.master.state)
        self._carry_out(commands)

    def _carry_out(self, commands: list[events.Command]) -> None:
        time = self._cluster.time
        for command in commands:
            match command:
                case events.SendToSlot(slot_id, message):
                    self._send(slot_id, message)
                case events.RunProgram(tag, program):
                    self._executor.submit(program, self._answer(tag))
                case events.RunBlocking(tag, call):
                    self._cluster.run_elsewhere(self.process, str(tag[0]), call, self._answer(tag))
                case events.SetTimer(at_ms, tag):
                    delay_ns = max(0, at_ms - time.moment_ms) * MS
                    time.after(delay_ns, self.process, f"timer {tag[0]}", self._handler(events.TimerFired(tag)))
                case events.AcquireSlots(wanted):
                    for resources in wanted:
                        self._start_slot(resources)
                case events.ReleaseSlots(slot_ids):
                    for slot_id in slot_ids:
                        self._cluster.kill_later(self.slots.pop(slot_id, None), 0)
                case events.DiscardSlot(slot_id):
                    self._cluster.kill_later(self.slots.pop(slot_id, None), time.between(0, 2_000 * MS))
                case events.EndJob():
                    self.ended = command
                    if command.state is events.JobState.SUSPENDED:
                        self._cluster.submitted_again(self.master.log.state.generation)
                    for slot in self.slots.values():
                        self._cluster.kill_later(slot, time.between(0, 4_000 * MS))
                    for observe in self._cluster.end_observers:
                        observe(self, command)

    def _handler(self, event: events.Event) -> Call:
        return lambda: self.handle(event)

    def _answer(self, tag: events.Tag) -> Callable[[Any, Exception | None], None]:
        def answer(result: Any, error: Exception | None) -> None:
            if error is not None:
                for observe in self._cluster.error_observers:
                    observe(f"{self.process.name} {tag[0]}", error)
            self.handle(events.WorkDone(tag, result) if error is None else events.WorkFailed(tag, error))

        return answer

    def _send(self, slot_id: SlotId, message: messages.ToSlot) -> None:
        slot = self.slots.get(slot_id)
        if slot is not None:
            self._cluster.network.control(
                self.process.name, slot.process, type(message).__name__,
                lambda: slot.receive(lambda: slot.slot.deliver(message)),
            )  # fmt: skip

    def _start_slot(self, resources: Resources) -> None:
        cluster = self._cluster
        slot_id = SlotId(f"{cluster.prefix}slot-{cluster.next_number()}")
        slot = SimulatedSlot(cluster, slot_id, self)

        def offered() -> None:
            if slot.process.alive:
                self.handle(events.SlotOffered(slot_id, resources=resources))
            else:
                self._start_slot(resources)  # it died while it started: the request still stands

        self.slots[slot_id] = slot
        cluster.network.stations[slot_id] = slot
        cluster.time.after(cluster.time.between(5 * MS, 800 * MS), self.process, f"offered {slot_id}", offered)


class SimulatedCluster:
    """All processes of the simulated world."""

    def __init__(
        self,
        time: VirtualTime,
        store: SimulatedStore,
        network: Network,
        directory: Path,
        build_job: Callable[[], JobGraph],
        options: JobMasterOptions,
        job_id: JobId = JOB,
        restore: RestoreRequest | None = None,
    ) -> None:
        self.job_id = job_id
        self.prefix = "" if job_id == JOB else f"{job_id}-"
        """Of the names of its processes."""
        self.restore = restore
        self.time = time
        self.store = store
        self.network = network
        self.directory = directory
        self.masters: list[SimulatedMaster] = []
        self.known_dead: set[str] = set()
        """Masters of which everybody can tell that they are dead."""
        self.message_observers: list[Callable[[SlotId, messages.FromSlot], None]] = []
        self.error_observers: list[Callable[[str, Exception], None]] = []
        self.state_observers: list[Callable[[SimulatedMaster, events.JobState], None]] = []
        self.hanging_commits = 0.0
        """How likely a commit takes longer than its timeout."""
        self.worker_troubles: frozenset[Trouble] = frozenset()
        """Of those with models."""
        self.end_observers: list[Callable[[SimulatedMaster, events.EndJob], None]] = []
        self.stop_remembered = False
        """A user has stopped the job: it may end before it is submitted again."""
        self.cancelled = False
        """A user has cancelled the job: it may end so."""
        self._build_job = build_job
        self._options = options
        self._numbers = 0

    def next_number(self) -> int:
        self._numbers += 1
        return self._numbers

    @property
    def slots(self) -> list[SimulatedSlot]:
        return [slot for slot in self.network.stations.values() if isinstance(slot, SimulatedSlot)]

    def start_master(self) -> SimulatedMaster:
        name = f"{self.prefix}master-{len(self.masters) + 1}"
        master = SimulatedMaster(self, name, self._build_job(), replace(self._options))
        self.masters.append(master)
        return master

    def submitted_again(self, generation: int) -> None:
        """A job that was stopped: masters that start from now on continue it."""
        self._options = replace(self._options, continues=max(generation, self._options.continues))

    def run_elsewhere(
        self, process: Process, what: str, call: Callable[[], Any], answer: Callable[[Any, Exception | None], None]
    ) -> None:
        """A blocking call: it begins, has its effect, and then the process hears of it, if it still does."""
        time = self.time
        late_ns, silent_ns = self._hangs() if what == "commit" else (0, 0)

        def happen() -> None:
            result, error = None, None
            try:
                result = call()
            except Exception as failure:
                error = failure
            label = f"{what} returned{f' {type(error).__name__}' if error else ''}"
            time.after(silent_ns + time.between(MS, 100 * MS), process, label, lambda: answer(result, error))

        begins_ns, lasts_ns = time.between(0, 5 * MS), late_ns + time.between(0, 200 * MS)
        if time.random.random() < 0.03:
            lasts_ns += time.between(0, 8_000 * MS)
        call_it = lambda: time.after(lasts_ns, None, what, happen)  # noqa: E731
        time.after(begins_ns, process, f"{what} begins", call_it)

    def _hangs(self) -> tuple[int, int]:
        """How much later a commit takes effect, and how much later than that it says so."""
        random = self.time.random
        if random.random() >= self.hanging_commits:
            return 0, 0
        hangs_ns = NEVER_NS if random.random() < 0.2 else self.time.between(500 * MS, 20_000 * MS)
        return (hangs_ns, 0) if random.random() < 0.5 else (0, hangs_ns)

    # deaths

    def kill_slot(self, slot: SimulatedSlot) -> None:
        """Its master hears of it some time later."""
        master, slot_id = slot.master, slot.slot.id
        self._end_slot(slot)
        lost = events.SlotLost(slot_id, "killed")

        def tell() -> None:
            if master.slots.pop(slot_id, None) is not None:
                master.handle(lost)

        self.time.after(self.time.between(5 * MS, 700 * MS), master.process, f"{slot_id} is dead", tell)

    def kill_later(self, slot: SimulatedSlot | None, delay_ns: int) -> None:
        """It is no slot of its master any more, which therefore hears nothing of it."""
        if slot is not None:
            self.time.after(delay_ns, None, f"end {slot.slot.id}", lambda: self._end_slot(slot))

    def kill_master(self, master: SimulatedMaster) -> None:
        self.time.kill(master.process)
        if self.time.random.random() < 0.5:
            self.known_dead.add(master.process.name)
        for slot in master.slots.values():
            self.kill_later(slot, self.time.between(0, 6_000 * MS))

    def _end_slot(self, slot: SimulatedSlot) -> None:
        if slot.process.alive:
            self.time.kill(slot.process)
            self.network.slot_died(slot.slot.id)
            shutil.rmtree(self.directory / slot.slot.id, ignore_errors=True)

    # whoever looks after the cluster

    def supervise(self, done: Callable[[], bool]) -> None:
        """Start a master whenever there is none that could lead."""
        if done():
            return
        if not any(master.running for master in self.masters):
            self.start_master()
        self.time.after(self.time.random.randint(300, 1_500) * MS, None, "supervise", lambda: self.supervise(done))
