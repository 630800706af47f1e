"""A whole cluster in one thread and in virtual time, from a seed: the real slots, job master, log and store protocol,
with faults and checkers.

    python -m penstock.testing.simulation --seeds 2000           all of 0 .. 1999; exit code 1 if one fails
    python -m penstock.testing.simulation --seed 17 --trace      one of them, with everything that happens

A seed draws the job, its configuration, the faults and the order of all events. The same seed gives the same run, to
the last event, in every process; a violation is found again by its seed.

| file                  | what it holds                                                                           |
|-----------------------|-----------------------------------------------------------------------------------------|
| virtual_time.py       | events, processes that die and hang, clocks, the trace                                   |
| simulated_cluster.py  | slots and masters: the shell around the real ones                                        |
| simulated_links.py    | connections between slots, control messages                                              |
| simulated_store.py    | the object store, programs op by op                                                      |
| simulated_pipeline.py | the job                                                                                  |
| simulated_warehouse.py | the world behind its sinks                                                             |
| faults.py             | what goes wrong, and when                                                                |
| log_troubles.py       | old entries of the log are gone, hints are wrong                                         |
| checkers.py           | what must hold on the way; output_oracle.py: what must be written in the end             |
| seeded_bugs.py        | bugs put in on purpose, which the checkers must find                                     |
"""

from __future__ import annotations

import argparse
import multiprocessing
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from random import Random

from ..jobmanager.events import JobState
from ..jobmanager.options import JobMasterOptions, RestoreRequest
from ..jobmanager.settings import job_master_options
from ..runtime.config import Configuration
from ..runtime.graph.job_graph import JobGraph
from ..state.ids import JobId
from .checkers import (
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
)
from .faults import Fault, FaultInjector, FaultPlan, draw_faults, draw_storm
from .log_troubles import LOG_KEPT_MS, WrongHints, short_memory
from .output_oracle import check_output
from .simulated_cluster import JOB, SimulatedCluster
from .simulated_links import Network
from .simulated_pipeline import Workload, build_job, draw_workload
from .simulated_store import SimulatedStore
from .simulated_warehouse import close_warehouse, open_warehouse
from .virtual_time import MS, VirtualTime

CHECK_EVERY_NS = 50 * MS
LIMIT_AFTER_FAULTS_NS = 400_000 * MS
"""Longer than any timeout and pause of a healthy job put together: whoever is not done by then is stuck."""


@dataclass(frozen=True)
class Outcome:
    seed: int
    violation: str | None
    trace_hash: str
    events: int
    virtual_ms: int
    attempts: int
    checkpoints: int
    described: str
    tail: tuple[str, ...] = ()
    """The last events, if there is a violation."""


class Simulation:
    """One run. `show` is given every event as it happens. `stormy`: as many chances as possible for a mistake in
    checkpoints, restores or commits to show."""

    def __init__(
        self, seed: int, directory: Path, show: Callable[[str], None] | None = None, stormy: bool = False
    ) -> None:
        draws = Random(seed)
        self.seed = seed
        self.plan, self.workload = _draw_storm(draws) if stormy else _draw(draws)
        self.parallelism = draws.randint(2 if stormy else 1, 3)
        self.time = VirtualTime(draws.getrandbits(64), show)
        self.warehouse = open_warehouse(self.time.random)
        self.store = SimulatedStore(self.time)
        self.savepoints = 0
        """Taken, over all lives."""
        self._directory = directory
        self._live_as(JOB, None)

    def _live_as(self, job_id: JobId, restore: RestoreRequest | None, held: Iterable[str] = ()) -> None:
        """A job with a cluster of its own, and who watches it. `held`: what may be committed whatever it logs."""
        self.network = Network(self.time)
        self.cluster = SimulatedCluster(
            self.time, self.store, self.network, self._directory / job_id, self._build_job, _options(self.workload),
            job_id, restore,
        )  # fmt: skip
        self.log = LogChecker(self.store, self.cluster)
        self.stored = StoreChecker(self.store, self.log, self.cluster)
        self.channels = ChannelChecker(self.cluster, self.workload.late)
        FailureChecker(self.cluster)
        self.pending = PendingChecker(self.warehouse, self.store, self.log, self.cluster)
        self.hints = WrongHints(self.store, job_id, self.seed)
        self.left_to_commit = 0
        """Transactions that the job, which was cancelled, left to whoever continues it."""
        if self.workload.checkpoints:
            self.warehouse.on_commit = [CommitChecker(self.log, held).asked]

    def run(self) -> Outcome:
        violation: str | None = None
        try:
            self._run()
        except Violation as found:
            violation = str(found)
        except Exception as error:
            violation = f"{type(error).__name__} in {self.time.tail[-1]}\n{traceback.format_exc()}"
        finally:
            close_warehouse(self.warehouse)
        return Outcome(
            self.seed, violation, self.time.trace_hash, self.time.events, self.time.now_ns // MS,
            self.log.state.attempt, len(self.log.metadata), self.describe(), tuple(self.time.tail) if violation else (),
        )  # fmt: skip

    def describe(self) -> str:
        w = self.workload
        kinds = sorted(fault.name for fault in self.plan.kinds)
        lines = [
            f"{len(w.records)} records of {len(w.sources)} sources in {w.splits} splits each, {', '.join(w.branches)},",
            f"{len(w.strands)} in strands{', a pipeline each' if w.separate else ''}{', own slots' * w.own_slots},",
            f"parallelism {self.parallelism}, disorder {w.bound_ms} ms{', late records' if w.late else ''},",
            f"faults: {', '.join(kinds) or 'none'};",
            ", ".join(f"{key.rpartition('.')[2]} {value}" for key, value in w.config.items()),
        ]
        return "\n  ".join(lines)

    def _run(self) -> None:
        FaultInjector(self.plan, self.cluster, self.warehouse).begin()
        self.time.after(CHECK_EVERY_NS, None, "check", self._check)
        self._live()
        stopped = self.log.state.savepoint
        if stopped is not None:
            held = [each for metadata in self.log.metadata.values() for each in committables_of(metadata)]
            self._live_as(JobId("next"), RestoreRequest(stopped.path), held)
            self._live()
        check_output(self.workload, self.warehouse.visible)

    def _live(self) -> None:
        """To the job's end."""
        cluster = self.cluster
        cluster.start_master()
        self.time.after(1_000 * MS, None, "supervise", lambda: cluster.supervise(self._done))
        if not self.time.run(self._done, self.time.now_ns + self.plan.horizon_ns + LIMIT_AFTER_FAULTS_NS):
            raise Violation(f"the job is stuck\n{self._states()}")
        self.log.check_beliefs()
        self.savepoints += check_savepoints(cluster, self.store)
        self.stored.check_leftovers()
        if self._ended_as(JobState.CANCELED) and self.log.state.savepoint is not None:
            return  # which holds what is not committed
        if self._ended_as(JobState.CANCELED):
            self.left_to_commit = commit_what_is_recorded(self.log, self.warehouse)
        elif Fault.PAUSE_SLOT not in self.plan.kinds:  # one that hung may prepare something after it was given up
            self.pending.check()

    def _check(self) -> None:
        self.channels.check_credit()
        self.log.check_beliefs()
        self.hints.disturb(self.log.state.seq)
        self.time.after(CHECK_EVERY_NS, None, "check", self._check)

    def _done(self) -> bool:
        """The job is finished or cancelled, and every master that lives has noticed."""
        ended = self._ended_as(JobState.FINISHED, JobState.CANCELED)
        return ended and not any(master.running for master in self.cluster.masters)

    def _ended_as(self, *states: JobState) -> bool:
        return any(m.ended is not None and m.ended.state in states for m in self.cluster.masters)

    def _build_job(self) -> JobGraph:
        if Fault.RESCALE in self.plan.kinds and self.cluster.masters:
            return build_job(self.workload, self.warehouse, self.time.random.randint(1, 3))
        return build_job(self.workload, self.warehouse, self.parallelism)

    def _states(self) -> str:
        lines = []
        for master in self.cluster.masters:
            life = "dead" if not master.process.alive else "paused" if master.process.paused else "alive"
            status = master.master.status()
            lines.append(f"{master.process.name} ({life}): {status.state.value}, attempt {status.attempt}")
            lines.append(f"  {status.checkpoints}")
            lines += [f"  {vertex.name}: {', '.join(vertex.subtask_states)}" for vertex in status.vertices]
        for slot in self.cluster.slots:
            for task in slot.slot.tasks:
                blocked = "blocked, " if task.writers.blocked else ""
                lines.append(
                    f"{slot.process.name}: {task.id} of attempt {task.attempt} is {task.state.name}, {blocked}"
                    f"{task.records_in} in, {task.writers.records_out} out"
                )
        return "\n".join(lines)


def _draw(random: Random) -> tuple[FaultPlan, Workload]:
    job_seed = random.getrandbits(64)
    workload = draw_workload(Random(job_seed), failing=False)
    plan = draw_faults(random, workload.lasts_ms * MS, workload.checkpoints)
    if Fault.USER_CODE_FAILS in plan.kinds:
        workload = draw_workload(Random(job_seed), failing=True)
    return plan, workload


def _draw_storm(random: Random) -> tuple[FaultPlan, Workload]:
    workload = draw_workload(Random(random.getrandbits(64)), failing=False, stormy=True)
    return draw_storm(random, workload.lasts_ms * MS), workload


def _options(workload: Workload) -> JobMasterOptions:
    """Those of the job, with timeouts that are short enough to be seen at work."""
    return replace(
        job_master_options(Configuration(workload.config)),
        lease_ms=4_000,
        beat_interval_ms=500,
        cancel_timeout_ms=3_000,
        slot_timeout_ms=20_000,
        commit_attempts=1_000,
        commit_timeout_ms=2_000,
        cancel_commit_timeout_ms=1_000,
        log_kept_ms=LOG_KEPT_MS,
        savepoints_directory="savepoints",
    )


def run_seed(seed: int, show: Callable[[str], None] | None = None, stormy: bool = False) -> Outcome:
    """One run, start to end. Nothing of it is left behind."""
    directory = Path(tempfile.mkdtemp(prefix="penstock-simulation-"))
    try:
        with short_memory():
            return Simulation(seed, directory, show, stormy).run()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def report(outcome: Outcome) -> str:
    verdict = outcome.violation or "no violation"
    return "\n".join(
        [
            *outcome.tail,
            f"seed {outcome.seed}: {verdict}",
            f"  {outcome.described}",
            f"  {outcome.events} events, {outcome.virtual_ms} ms, {outcome.attempts} attempts,"
            f" {outcome.checkpoints} checkpoints, trace {outcome.trace_hash}",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="penstock.testing.simulation", description=__doc__.split("\n\n")[0])
    parser.add_argument("--seeds", type=int, default=300, help="how many seeds (300)")
    parser.add_argument("--first", type=int, default=0, help="the first of them (0)")
    parser.add_argument("--jobs", type=int, default=2, help="processes (2)")
    parser.add_argument("--seed", type=int, help="this one alone")
    parser.add_argument("--trace", action="store_true", help="with --seed: print every event")
    parser.add_argument("--stormy", action="store_true", help="small jobs, many checkpoints, many faults")
    given = parser.parse_args(arguments)
    if given.seed is not None:
        outcome = run_seed(given.seed, print if given.trace else None, given.stormy)
        print(report(outcome))
        return 0 if outcome.violation is None else 1
    failed = run_seeds(range(given.first, given.first + given.seeds), given.jobs, given.stormy)
    if failed:
        print(f"{len(failed)} of {given.seeds} seeds failed: {' '.join(str(outcome.seed) for outcome in failed)}")
        return 1
    print(f"{given.seeds} seeds without a violation")
    return 0


def run_seeds(seeds: range, jobs: int, stormy: bool = False) -> list[Outcome]:
    """The outcomes with violations, in order; progress and violations are printed as they come."""
    failed: list[Outcome] = []
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        outcomes = pool.imap_unordered(partial(run_seed, stormy=stormy), seeds, chunksize=4)
        for number, outcome in enumerate(outcomes, start=1):
            if outcome.violation is not None:
                failed.append(outcome)
                print(report(outcome))
            if number % 100 == 0:
                print(f"{number} of {len(seeds)} seeds, {len(failed)} failed", flush=True)
    return sorted(failed, key=lambda outcome: outcome.seed)


if __name__ == "__main__":
    sys.exit(main())
