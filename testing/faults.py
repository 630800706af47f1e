"""What goes wrong in a simulated run, and when.

Every seed draws which kinds of faults it has, so that each kind is also seen without the noise of the others, and no
kind hides what another one would show (Groce et al., "Swarm testing", 2012). Faults end at the horizon; from there on
the job must be able to finish.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from random import Random

from ..jobmanager.job_states import JobState
from .simulated_cluster import SimulatedCluster, SimulatedMaster, SimulatedSlot
from .simulated_store import SimulatedStore, StoreTrouble
from .simulated_warehouse import Warehouse
from .virtual_time import MS, Process, VirtualTime


class Fault(enum.Enum):
    KILL_SLOT = "a slot dies"
    PAUSE_SLOT = "a slot hangs, and goes on later"
    SLOW_LINK = "a connection becomes slow"
    CUT_LINK = "a connection breaks"
    SLOW_CONTROL = "messages between slots and masters are late"
    KILL_MASTER = "the master dies"
    PAUSE_MASTER = "the master hangs, and goes on later, perhaps deposed"
    RIVAL_MASTER = "a candidate appears beside a healthy leader"
    STOP = "the job is stopped after a last checkpoint, and continued by another master"
    SAVEPOINT = "a savepoint is asked for"
    STOP_WITH_SAVEPOINT = "the job is stopped with a savepoint, and another job goes on from it"
    DRAIN = "the same, after event time has ended"
    FORK = "a savepoint is asked for, and another job begins from it; this one goes on, or is cancelled"
    RESCALE = "later masters run the job at another parallelism"
    STORE_DOWN = "the store is unavailable for a while"
    STORE_LOSES_ANSWERS = "ops take effect, and time out"
    STORE_IS_LATE = "ops time out, and take effect after that"
    STORE_IS_AMBIGUOUS = "create-only puts answer 'already exists' to their own writer, or with nothing stored"
    STORE_SLOW = "ops take seconds"
    COMMIT_FAILS = "a commit fails, before, while or after it took effect"
    COMMIT_HANGS = "a commit takes longer than its timeout, to take effect or to say so, or for ever"
    USER_CODE_FAILS = "user code raises"
    CANCEL = "the job is cancelled while it waits for its last commits"


STORE_TROUBLES: dict[Fault, tuple[StoreTrouble, ...]] = {
    Fault.STORE_LOSES_ANSWERS: (StoreTrouble.LOST_ANSWER,),
    Fault.STORE_IS_LATE: (StoreTrouble.LATE_EFFECT,),
    Fault.STORE_IS_AMBIGUOUS: (StoreTrouble.MET_ITSELF, StoreTrouble.PHANTOM),
    Fault.STORE_SLOW: (StoreTrouble.SLOW,),
}
"""Present all the time until the horizon, at a low rate."""

MOMENTS = frozenset(
    {
        Fault.KILL_SLOT, Fault.PAUSE_SLOT, Fault.SLOW_LINK, Fault.CUT_LINK, Fault.SLOW_CONTROL, Fault.KILL_MASTER,
        Fault.PAUSE_MASTER, Fault.RIVAL_MASTER, Fault.STOP, Fault.SAVEPOINT, Fault.STOP_WITH_SAVEPOINT, Fault.DRAIN,
        Fault.FORK, Fault.STORE_DOWN,
    }
)  # fmt: skip
"""Happen at some moments."""

STORM = (Fault.KILL_SLOT, Fault.CUT_LINK, Fault.SLOW_LINK, Fault.SLOW_CONTROL, Fault.STORE_DOWN, Fault.SAVEPOINT)
"""Make attempts and checkpoints fail while the job is busy."""
RARE_IN_STORMS = {Fault.STOP_WITH_SAVEPOINT: 0.3, Fault.DRAIN: 0.2, Fault.FORK: 0.3}

HARMLESS_WITHOUT_CHECKPOINTS = frozenset(
    {
        Fault.KILL_SLOT, Fault.PAUSE_SLOT, Fault.SLOW_LINK, Fault.CUT_LINK, Fault.SLOW_CONTROL, Fault.COMMIT_FAILS,
        Fault.COMMIT_HANGS, Fault.USER_CODE_FAILS,
    }
)  # fmt: skip
"""A job that keeps no state begins anew, which is right as long as nothing is committed; and whether something is,
only its master knows."""

FORK = "fork"
"""Savepoints that are asked for under a name that begins so are there for another job."""

MOST_MASTERS = 6
"""Enough to see a deposed one deposed by the next."""


@dataclass(frozen=True)
class FaultPlan:
    kinds: frozenset[Fault]
    moments: tuple[tuple[int, Fault], ...]
    """(virtual ns, kind), in order."""
    horizon_ns: int
    odds: float
    """Of each kind of trouble for one store op."""
    commit_odds: float


def draw_faults(random: Random, lasts_ns: int, checkpoints: bool) -> FaultPlan:
    """For a job that lasts about so long when nothing goes wrong. One seed in eight has no faults at all."""
    share = 0.0 if random.random() < 0.125 else random.choice((0.15, 0.4, 0.8))
    kinds = frozenset(fault for fault in Fault if random.random() < share)
    if not checkpoints:
        kinds &= HARMLESS_WITHOUT_CHECKPOINTS
    possible = [fault for fault in Fault if fault in kinds and fault in MOMENTS]
    horizon_ns = lasts_ns * 3 // 2 + 2_000 * MS
    count = random.randint(1, 10) if possible else 0
    moments = sorted(
        ((random.randrange(horizon_ns), random.choice(possible)) for _ in range(count)), key=lambda moment: moment[0]
    )
    return FaultPlan(kinds, tuple(moments), horizon_ns, random.choice((0.01, 0.05, 0.15)), random.choice((0.1, 0.4)))


def draw_storm(random: Random, lasts_ns: int) -> FaultPlan:
    """Many faults of the kinds in `STORM`, without some of them in every seed."""
    kinds = [fault for fault in STORM if random.random() < 0.75] or [Fault.KILL_SLOT]
    horizon_ns = lasts_ns * 3 // 2 + 2_000 * MS
    drawn = [(random.randrange(500 * MS, horizon_ns), random.choice(kinds)) for _ in range(12)]
    rare = [fault for fault, likely in RARE_IN_STORMS.items() if random.random() < likely]
    drawn += [(random.randrange(500 * MS, horizon_ns), fault) for fault in rare]
    moments = sorted(drawn, key=lambda moment: moment[0])
    commits = [fault for fault in (Fault.COMMIT_FAILS, Fault.COMMIT_HANGS) if random.random() < 0.75]
    return FaultPlan(frozenset((*kinds, *rare, *commits)), tuple(moments), horizon_ns, 0.0, 0.2)


class FaultInjector:
    """Carries a plan out, in all clusters that it was told of. Whom it hits is drawn when it happens."""

    def __init__(self, plan: FaultPlan, time: VirtualTime, store: SimulatedStore) -> None:
        self._clusters: list[SimulatedCluster] = []
        self._warehouses: list[Warehouse] = []
        self._time = time
        self._store = store
        self._plan = plan
        self._over = False
        self._hit: dict[Fault, Callable[[], None]] = {
            Fault.KILL_SLOT: self._kill_slot,
            Fault.PAUSE_SLOT: self._pause_slot,
            Fault.SLOW_LINK: self._slow_link,
            Fault.CUT_LINK: self._cut_link,
            Fault.SLOW_CONTROL: self._slow_control,
            Fault.KILL_MASTER: self._kill_master,
            Fault.PAUSE_MASTER: self._pause_master,
            Fault.RIVAL_MASTER: self._start_rival,
            Fault.STOP: self._stop,
            Fault.SAVEPOINT: self._savepoint,
            Fault.STOP_WITH_SAVEPOINT: partial(self._savepoint, stop=True),
            Fault.DRAIN: partial(self._savepoint, stop=True, drain=True),
            Fault.FORK: partial(self._savepoint, name=FORK),
            Fault.STORE_DOWN: self._store_down,
        }

    def begin(self) -> None:
        odds = self._store.weather.odds
        for fault, troubles in STORE_TROUBLES.items():
            if fault in self._plan.kinds:
                odds.update(dict.fromkeys(troubles, self._plan.odds))
        for at_ns, fault in self._plan.moments:
            self._time.at(at_ns, None, f"fault: {fault.value}", self._hit[fault])
        self._time.at(self._plan.horizon_ns, None, "faults end", self._calm)

    def attend(self, cluster: SimulatedCluster, warehouse: Warehouse) -> None:
        """A cluster that begins."""
        self._clusters.append(cluster)
        self._warehouses.append(warehouse)
        if self._over:
            return
        if Fault.COMMIT_FAILS in self._plan.kinds:
            warehouse.failing = self._plan.commit_odds
        if Fault.COMMIT_HANGS in self._plan.kinds:
            cluster.hanging_commits = self._plan.commit_odds / 2
        if Fault.CANCEL in self._plan.kinds:
            cluster.state_observers.append(self._entered)

    def _calm(self) -> None:
        self._over = True
        self._store.weather.odds.clear()
        for warehouse in self._warehouses:
            warehouse.failing = 0.0
        for cluster in self._clusters:
            cluster.hanging_commits = 0.0

    @property
    def _cluster(self) -> SimulatedCluster:
        """One with something in it that can be hit."""
        busy = [cluster for cluster in self._clusters if cluster.slots or any(m.running for m in cluster.masters)]
        return self._time.random.choice(busy) if len(busy) > 1 else (busy or self._clusters)[-1]

    def _entered(self, master: SimulatedMaster, state: JobState) -> None:
        if state is JobState.FINISHING:
            self._time.after(self._time.between(0, 500 * MS), None, "fault: cancel", master.cancel)

    def _slot(self, cluster: SimulatedCluster) -> SimulatedSlot | None:
        slots = cluster.slots
        return self._time.random.choice(slots) if slots else None

    def _kill_slot(self) -> None:
        cluster = self._cluster
        slot = self._slot(cluster)
        if slot is not None:
            self._note(slot.process.name)
            cluster.kill_slot(slot)

    def _pause_slot(self) -> None:
        slot = self._slot(self._cluster)
        if slot is not None:
            self._pause(slot.process, 8_000)

    def _slow_link(self) -> None:
        cluster = self._cluster
        connection = self._link(cluster)
        if connection is not None:
            a, b = connection
            until_ns = self._time.now_ns + self._time.between(100 * MS, 3_000 * MS)
            cluster.network.connection(a.slot.id, b.slot.id).slow_until_ns = until_ns

    def _cut_link(self) -> None:
        cluster = self._cluster
        connection = self._link(cluster)
        if connection is not None:
            cluster.network.break_connection(connection[0].slot.id, connection[1].slot.id)

    def _link(self, cluster: SimulatedCluster) -> tuple[SimulatedSlot, SimulatedSlot] | None:
        slot = self._slot(cluster)
        others = [other for other in cluster.slots if slot is not None and other is not slot]
        others = [other for other in others if slot is not None and other.master is slot.master]
        if slot is None or not others:
            return None
        other = self._time.random.choice(others)
        self._note(f"{slot.process.name} and {other.process.name}")
        return slot, other

    def _slow_control(self) -> None:
        until_ns = self._time.now_ns + self._time.between(100 * MS, 3_000 * MS)
        self._cluster.network.control_slow_until_ns = until_ns

    def _master(self, cluster: SimulatedCluster) -> SimulatedMaster | None:
        """The youngest that runs leads, or will."""
        running = [master for master in cluster.masters if master.running and not master.process.paused]
        return running[-1] if running and len(cluster.masters) < MOST_MASTERS else None

    def _kill_master(self) -> None:
        cluster = self._cluster
        master = self._master(cluster)
        if master is not None:
            self._note(master.process.name)
            cluster.kill_master(master)
            self._replace(cluster, 2_000)

    def _pause_master(self) -> None:
        cluster = self._cluster
        master = self._master(cluster)
        if master is not None:
            self._pause(master.process, 15_000)
            if self._time.random.random() < 0.7:
                self._replace(cluster, 3_000)

    def _stop(self) -> None:
        cluster = self._cluster
        master = self._master(cluster)
        if master is not None:
            self._note(master.process.name)
            master.stop(remember=len(cluster.masters) % 2 == 1)

    def _savepoint(self, *, stop: bool = False, drain: bool = False, name: str = "request") -> None:
        master = self._master(self._cluster)
        if master is not None:
            self._note(master.process.name)
            master.savepoint(name, stop=stop, drain=drain)

    def _start_rival(self) -> None:
        cluster = self._cluster
        if self._master(cluster) is not None:
            cluster.start_master()

    def _replace(self, cluster: SimulatedCluster, most_ms: int) -> None:
        def replace() -> None:
            if len(cluster.masters) < MOST_MASTERS:
                cluster.start_master()

        self._time.after(self._time.between(0, most_ms * MS), None, "replacement", replace)

    def _store_down(self) -> None:
        odds = self._store.weather.odds
        before = odds.get(StoreTrouble.UNAVAILABLE, 0.0)
        odds[StoreTrouble.UNAVAILABLE] = self._time.random.choice((0.3, 1.0))
        lasts_ns = self._time.between(100 * MS, 6_000 * MS)

        def over() -> None:
            if odds:
                odds[StoreTrouble.UNAVAILABLE] = before

        self._time.after(lasts_ns, None, "the store is back", over)

    def _pause(self, process: Process, most_ms: int) -> None:
        self._note(process.name)
        self._time.pause(process)
        lasts_ns = self._time.between(20 * MS, most_ms * MS)
        self._time.after(lasts_ns, None, f"{process.name} goes on", lambda: self._time.resume(process))

    def _note(self, whom: str) -> None:
        self._time.note(f"  hits {whom}")
