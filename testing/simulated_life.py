"""One life of a simulated job: from its beginning, or from a savepoint, to its end; its cluster, and who watches that.

A job that stops with a savepoint has another life, as another job that begins there, in front of the same warehouse. A
job that goes on after a savepoint may be *forked*: another job begins from it at once. In the fork's world, a warehouse
of its own, there is what had been committed when the savepoint was taken, and, prepared, what it holds; so what the
fork writes in the end is complete, like what its parent writes, whatever becomes of that. The parent may be cancelled.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..jobmanager.events import JobState
from ..jobmanager.options import JobMasterOptions, RestoreRequest
from ..jobmanager.views import OperationState
from ..runtime.graph.job_graph import JobGraph
from ..runtime.model_pool import PoolError
from ..state.ids import CheckpointId, JobId
from ..state.store.job_log import StopDecided
from .checkers import (
    Causes,
    ChannelChecker,
    CommitChecker,
    FailureChecker,
    LogChecker,
    PendingChecker,
    StoreChecker,
    Violation,
    check_savepoints,
    commit_what_is_recorded,
    committables_of,
    read_whole_savepoint,
)
from .faults import FORK, Fault, FaultInjector, FaultPlan
from .log_troubles import WrongHints
from .output_oracle import check_drained, check_output
from .simulated_cluster import SimulatedCluster
from .simulated_links import Network
from .simulated_pipeline import build_job
from .simulated_store import SimulatedStore
from .simulated_warehouse import Warehouse
from .simulated_workers import Trouble
from .simulated_workload import Pool, Workload
from .virtual_time import MS, VirtualTime

CANCELLED_PARENTS = 0.5
"""How likely a job that was forked is cancelled soon."""


@dataclass(frozen=True)
class World:
    """What all lives of a simulation share."""

    time: VirtualTime
    store: SimulatedStore
    injector: FaultInjector
    plan: FaultPlan
    workload: Workload
    options: JobMasterOptions
    parallelism: int
    seed: int
    directory: Path


@dataclass(frozen=True)
class Beginning:
    """How a life begins; without a path it is the first."""

    path: str | None = None
    held: tuple[str, ...] = ()
    """What may be committed whatever the job logs."""
    number: int = 0
    """Of lives before it."""
    drained: bool = False
    """Event time has ended in one of them."""
    parent: Life | None = None
    """Of a fork; the savepoint was its checkpoint number ..."""
    checkpoint_id: CheckpointId = CheckpointId(0)  # noqa: RUF009 - an int


class Life:
    """A job with a cluster of its own."""

    def __init__(self, world: World, job_id: JobId, warehouse: Warehouse, begins: Beginning) -> None:
        self.job_id = job_id
        self.warehouse = warehouse
        self.begins = begins
        self.savepoints = 0
        """Taken."""
        self.left_to_commit = 0
        """Transactions that the job, which was cancelled, left to whoever continues it."""
        self._world = world
        self._abandoned = False
        restore = None if begins.path is None else RestoreRequest(begins.path)
        self.network = Network(world.time)
        self.cluster = SimulatedCluster(
            world.time, world.store, self.network, world.directory / job_id, self._build_job, world.options, job_id,
            restore,
        )  # fmt: skip
        self.log = LogChecker(world.store, self.cluster)
        self.stored = StoreChecker(world.store, self.log, self.cluster)
        late = world.workload.late or begins.drained or "restamped" in world.workload.branches
        self.channels = ChannelChecker(self.cluster, late)
        pool = world.workload.pool
        if pool is not None:
            self.cluster.worker_troubles = pool.troubles
        FailureChecker(self.cluster, () if pool is None else _what_fails(pool))
        self.pending = PendingChecker(warehouse, world.store, self.log, self.cluster)
        self.hints = WrongHints(world.store, job_id, world.seed)
        if world.workload.checkpoints:
            warehouse.on_commit = [CommitChecker(self.log, begins.held).asked]
        world.injector.attend(self.cluster, warehouse)

    def start(self) -> None:
        self.cluster.start_master()
        self._world.time.after(1_000 * MS, None, "supervise", lambda: self.cluster.supervise(self.done))

    def _build_job(self) -> JobGraph:
        world = self._world
        again = Fault.RESCALE in world.plan.kinds and (self.cluster.masters or self.begins.number)
        parallelism = world.time.random.randint(1, 3) if again else world.parallelism
        return build_job(world.workload, self.warehouse, parallelism, self.begins.number)

    # on the way

    def check(self) -> None:
        self.channels.check_credit()
        self.log.check_beliefs()
        self.hints.disturb(self.log.state.seq)

    def done(self) -> bool:
        """The job is finished or cancelled, and every master that lives has noticed."""
        ended = self._ended_as(JobState.FINISHED, JobState.CANCELED)
        return ended and not any(master.running for master in self.cluster.masters)

    def _ended_as(self, *states: JobState) -> bool:
        return any(m.ended is not None and m.ended.state in states for m in self.cluster.masters)

    def fork(self) -> Life | None:
        """Another job, if there is a savepoint that is meant for it."""
        operations = (operation for master in self.cluster.masters for operation in master.master.savepoints())
        for operation in operations:
            if operation.request.startswith(FORK) and operation.state is OperationState.COMPLETED:
                fork = self._forked(operation.path)
                if self._world.time.random.random() < CANCELLED_PARENTS:
                    self._world.time.after(self._world.time.between(0, 2_000 * MS), None, "cancel", self._abandon)
                return fork
        return None

    def _forked(self, path: str) -> Life:
        metadata = read_whole_savepoint(path, self._world.store)
        held = set(committables_of(metadata))
        before: set[str] = set()
        after: set[str] = set()
        for checkpoint_id, logged in self.log.metadata.items():
            (before if checkpoint_id < metadata.checkpoint_id else after).update(committables_of(logged))
        shown = (self.warehouse.shown.keys() - (after - before) | before) - held
        try:
            warehouse = self.warehouse.copy_as_of(sorted(shown), sorted(held))
        except KeyError as missing:
            raise Violation(f"{path} holds transaction {missing}, which was not prepared") from None
        begins = Beginning(
            path, tuple(sorted(held)), self.begins.number + 1, self.begins.drained, self, metadata.checkpoint_id
        )
        return Life(self._world, JobId("copy"), warehouse, begins)

    def _abandon(self) -> None:
        running = [master for master in self.cluster.masters if master.running]
        if running:
            self._abandoned = True
            running[-1].cancel()

    # the end

    def check_end(self) -> None:
        """What must hold when the job has ended."""
        self.log.check_beliefs()
        self.savepoints += check_savepoints(self.cluster, self._world.store)
        self.stored.check_leftovers()
        if self._ended_as(JobState.CANCELED) and self.log.state.savepoint is not None:
            return  # which holds what is not committed
        if self._ended_as(JobState.CANCELED):
            self.left_to_commit = commit_what_is_recorded(self.log, self.warehouse)
            return
        if Fault.PAUSE_SLOT not in self._world.plan.kinds:  # one that hung may prepare something after it was given up
            self.pending.check()
        if self._stopped_drained():
            check_drained(self._world.workload, self.warehouse.visible, again=self.begins.drained)

    def next(self) -> Life | None:
        """The next one, if this one has stopped with a savepoint."""
        stopped = self.log.state.savepoint
        if stopped is None:
            return None
        held = [each for metadata in self.log.metadata.values() for each in committables_of(metadata)]
        drained = self.begins.drained or self._stopped_drained()
        begins = Beginning(
            stopped.path, (*self.begins.held, *held), self.begins.number + 1, drained, self.begins.parent,
            self.begins.checkpoint_id,
        )  # fmt: skip
        return Life(self._world, JobId(f"{self.job_id}{begins.number}"), self.warehouse, begins)

    def _stopped_drained(self) -> bool:
        stopped = self.log.state.savepoint
        records = [entry.record for entry in self.log.entries.values()]
        return stopped is not None and any(
            record.drain and record.request == stopped.request for record in records if isinstance(record, StopDecided)
        )

    def check_output(self) -> None:
        """All lives before this one were lived for it; there is none after it, and its parent has ended, too."""
        if self.begins.parent is not None:
            self._take_over(self.begins.held, self.begins.parent)
        if not (self._abandoned and self._ended_as(JobState.CANCELED)):
            check_output(self._world.workload, self.warehouse.visible, drained=self.begins.drained)

    def _take_over(self, held: Iterable[str], parent: Life) -> None:
        """What the parent has committed of what the savepoint holds the fork need not."""
        for name in held:
            if name in self.warehouse.shown or name not in self.warehouse.pending:
                continue
            if name not in parent.warehouse.shown:
                raise Violation(f"the savepoint holds transaction {name}, and nobody has committed it")
            self.warehouse.show(name)
        thrown = [name for name in held if name in parent.warehouse.aborted]
        if thrown and not any(each > self.begins.checkpoint_id for each in parent.log.metadata):
            raise Violation(f"transaction {thrown[0]} is aborted, and the savepoint holds it, after which there is no "
                            "checkpoint")  # fmt: skip


def _what_fails(pool: Pool) -> Causes:
    """What an operator with models may fail of: without workers that are lost it has no reason to give up."""
    deadly = pool.troubles & {Trouble.DIES, Trouble.IS_GIVEN_UP}
    return (TimeoutError, PoolError) if deadly else (TimeoutError,)
