"""A whole cluster in one thread and in virtual time, from a seed: the real slots, job master, log and store protocol,
with faults and checkers.

    python -m penstock.testing.simulation --seeds 2000           all of 0 .. 1999; exit code 1 if one fails
    python -m penstock.testing.simulation --seed 17 --trace      one of them, with everything that happens

A seed draws the job, its configuration, the faults and the order of all events. The same seed gives the same run, to
the last event, in every process; a violation is found again by its seed.

| file                  | what it holds                                                                           |
|-----------------------|-----------------------------------------------------------------------------------------|
| virtual_time.py       | events, processes that die and hang, clocks, the trace                                   |
| simulated_life.py     | a job from its beginning, or from a savepoint, to its end, and who watches it            |
| simulated_cluster.py  | slots and masters: the shell around the real ones                                        |
| simulated_links.py    | connections between slots, control messages                                              |
| simulated_store.py    | the object store, programs op by op                                                      |
| simulated_workload.py | what a seed draws of the job                                                             |
| simulated_pipeline.py | the job; simulated_functions.py: its functions                                           |
| simulated_warehouse.py | the world behind its sinks                                                             |
| simulated_calls.py    | calls of a service; simulated_workers.py: workers of a pool of models                   |
| faults.py             | what goes wrong, and when                                                                |
| log_troubles.py       | old entries of the log are gone, hints are wrong                                         |
| checkers.py           | what must hold on the way                                                                |
| output_oracle.py      | what must be written in the end; joint_oracle.py: by what keeps operator state           |
| seeded_bugs.py        | bugs put in on purpose, which the checkers must find                                     |
"""

from __future__ import annotations

import argparse
import multiprocessing
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from random import Random

from ..jobmanager.options import JobMasterOptions
from ..jobmanager.settings import job_master_options
from ..runtime.configuration.config import Configuration
from .checkers import Violation
from .faults import Fault, FaultInjector, FaultPlan, draw_faults, draw_storm
from .log_troubles import LOG_KEPT_MS, short_memory
from .simulated_cluster import JOB
from .simulated_life import Beginning, Life, World
from .simulated_store import SimulatedStore
from .simulated_warehouse import close_warehouse, open_warehouse
from .simulated_workload import Pool, Workload, draw_workload
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
        self.lives: list[Life] = []
        """In the order of their beginnings."""
        self._directory = directory
        self._under_way: list[Life] = []

    def run(self) -> Outcome:
        violation: str | None = None
        try:
            self._run()
        except Violation as found:
            violation = str(found)
        except Exception as error:
            violation = f"{type(error).__name__} in {self.time.tail[-1]}\n{traceback.format_exc()}"
        finally:
            for life in self.lives:
                close_warehouse(life.warehouse)
        log = self.lives[-1].log
        return Outcome(
            self.seed, violation, self.time.trace_hash, self.time.events, self.time.now_ns // MS,
            log.state.attempt, len(log.metadata), self.describe(), tuple(self.time.tail) if violation else (),
        )  # fmt: skip

    def describe(self) -> str:
        w = self.workload
        kinds = sorted(fault.name for fault in self.plan.kinds)
        lines = [
            f"{len(w.records)} records of {len(w.sources)} sources in {w.splits} splits each, {', '.join(w.branches)},",
            f"{len(w.rules)} rules, ways meet by {w.join}{', windows in two phases' * w.two_phase},",
            f"{'no models' if w.pool is None else _named(w.pool)},",
            f"{len(w.strands)} in strands{', a pipeline each' if w.separate else ''}{', own slots' * w.own_slots},",
            f"parallelism {self.parallelism}, disorder {w.bound_ms} ms{f', late by {w.lateness_ms} ms' * w.late},",
            f"{'not aligned' if w.drift_ms is None else f'aligned within {w.drift_ms} ms'},",
            f"faults: {', '.join(kinds) or 'none'};",
            ", ".join(f"{key.rpartition('.')[2]} {value}" for key, value in w.config.items()),
        ]
        return "\n  ".join(lines)

    def _run(self) -> None:
        store = SimulatedStore(self.time)
        injector = FaultInjector(self.plan, self.time, store)
        world = World(
            self.time, store, injector, self.plan, self.workload, _options(self.workload), self.parallelism, self.seed,
            self._directory,
        )  # fmt: skip
        injector.begin()
        self.time.after(CHECK_EVERY_NS, None, "check", self._check)
        self._begin(Life(world, JOB, open_warehouse(self.time.random), Beginning()))
        last = []
        while self._under_way:
            limit_ns = max(self.time.now_ns, self.plan.horizon_ns) + LIMIT_AFTER_FAULTS_NS
            if not self.time.run(lambda: any(life.done() for life in self._under_way), limit_ns):
                raise Violation(f"the job is stuck\n{self._states()}")
            for life in [each for each in self._under_way if each.done()]:
                self._fork(life)
                self._under_way.remove(life)
                life.check_end()
                following = life.next()
                if following is not None:
                    self._begin(following)
                else:
                    last.append(life)
        for life in last:
            life.check_output()

    def _begin(self, life: Life) -> None:
        self.lives.append(life)
        self._under_way.append(life)
        life.start()

    def _check(self) -> None:
        for life in list(self._under_way):
            life.check()
            self._fork(life)
        self.time.after(CHECK_EVERY_NS, None, "check", self._check)

    def _fork(self, life: Life) -> None:
        """Once: what holds of one fork holds of two."""
        if Fault.FORK in self.plan.kinds and not any(each.begins.parent is not None for each in self.lives):
            fork = life.fork()
            if fork is not None:
                self._begin(fork)

    def _states(self) -> str:
        lines = []
        masters = [master for life in self._under_way for master in life.cluster.masters]
        for master in masters:
            life = "dead" if not master.process.alive else "paused" if master.process.paused else "alive"
            status = master.master.status()
            lines.append(f"{master.process.name} ({life}): {status.state.value}, attempt {status.attempt}")
            lines.append(f"  {status.checkpoints}")
            lines += [f"  {vertex.name}: {', '.join(vertex.subtask_states)}" for vertex in status.vertices]
        for slot in [slot for life in self._under_way for slot in life.cluster.slots]:
            for task in slot.slot.tasks:
                blocked = "blocked, " if task.writers.blocked else ""
                lines.append(
                    f"{slot.process.name}: {task.id} of attempt {task.attempt} is {task.state.name}, {blocked}"
                    f"{task.read.records} in, {task.writers.records_out} out"
                )
        return "\n".join(lines)


def _named(pool: Pool) -> str:
    troubles = sorted(trouble.name for trouble in pool.troubles)
    order = "ordered" if pool.ordered else "unordered"
    return (
        f"{pool.concurrency} models, batches of {pool.batch_size}, {order}, {pool.capacity} held, troubles: "
        f"{', '.join(troubles) or 'none'}"
    )


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
