"""`make chaos`: faults drawn at random, several in each run of the golden job, also while it recovers from others.

Every run prints its seed; `make chaos SEED=7 ROUNDS=1` repeats what is drawn, though not the moment it hits.
"""

from __future__ import annotations

import os
import random
import threading
from typing import TYPE_CHECKING

import psutil
import pytest

if TYPE_CHECKING:
    from conftest import Cluster, Golden, NewGolden

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]

SEED, ROUNDS = int(os.environ.get("SEED", "1")), int(os.environ.get("ROUNDS", "10"))
LONGEST_PAUSE_S = 8.0
"""Between two faults, and for processes that stand still: about twice what it takes to notice them."""


class Faults:
    """Methods are faults; all of them can be drawn."""

    def __init__(self, golden: Golden, drawn: random.Random) -> None:
        self._cluster, self._golden, self._drawn = golden.cluster, golden, drawn
        self.sleeping: list[psutil.Process] = []

    def kill_slots(self) -> None:
        for slot in self._some("SlotActor"):
            slot.kill()

    def kill_masters(self) -> None:
        for master in self._cluster.actors("JobMaster"):
            master.kill()

    def kill_dispatcher(self) -> None:
        for dispatcher in self._cluster.actors("Dispatcher"):
            dispatcher.kill()

    def kill_task_manager(self) -> None:
        for manager in self._cluster.actors("TaskManager"):
            manager.kill()

    def kill_several(self) -> None:
        for process in self._some(""):
            process.kill()

    def kill_ray(self) -> None:
        self._cluster.ray_process(self._drawn.choice(["gcs_server", "raylet"])).kill()

    def stop_slots(self) -> None:
        self._stop(self._some("SlotActor"))

    def stop_masters(self) -> None:
        self._stop(self._cluster.actors("JobMaster"))

    def stop_dispatcher(self) -> None:
        self._stop(self._cluster.actors("Dispatcher"))

    def stop_task_manager(self) -> None:
        self._stop(self._cluster.actors("TaskManager"))

    def _some(self, kind: str) -> list[psutil.Process]:
        """At least one of the cluster's actors, if there are any."""
        found = [actor for name in ([kind] if kind else KINDS) for actor in self._cluster.actors(name)]
        return self._drawn.sample(found, self._drawn.randint(1, len(found))) if found else []

    def _stop(self, processes: list[psutil.Process]) -> None:
        for process in processes:
            process.suspend()
            self.sleeping.append(process)

    def wake(self) -> None:
        for process in self.sleeping:
            try:
                process.resume()
            except psutil.NoSuchProcess:
                continue
        self.sleeping.clear()


KINDS = ("SlotActor", "JobMaster", "Dispatcher", "TaskManager")
FAULTS = [name for name in vars(Faults) if name.startswith(("kill_", "stop_"))]


@pytest.fixture
def golden_of_round(cluster: Cluster, start_golden: NewGolden, clean_jobs: None) -> Golden:
    return start_golden(cluster, rows=400_000)


@pytest.mark.parametrize("seed", range(SEED, SEED + ROUNDS))
def test_whatever_happens(golden_of_round: Golden, seed: int) -> None:
    golden, drawn, clock = golden_of_round, random.Random(seed), threading.Event()
    faults = Faults(golden.in_mid_stream(), drawn)
    chosen = drawn.choices(FAULTS, k=drawn.randint(2, 6))
    print(f"seed {seed}:", *chosen)
    for fault in chosen:
        try:
            getattr(faults, fault)()
        except (psutil.NoSuchProcess, StopIteration):
            print(f"{fault}: there was none")
        clock.wait(drawn.uniform(0, LONGEST_PAUSE_S))
        if drawn.random() < 0.5:
            faults.wake()
    faults.wake()
    golden.in_mid_stream().finish()
