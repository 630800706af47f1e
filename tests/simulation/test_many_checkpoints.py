"""A simulated job that takes many checkpoints, with faults all along: nothing is left in its store in the end that
nobody wants, and nothing is missing on the way. CHECKPOINTS=1000 in the long form (make soak)."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from penstock.testing import simulation
from penstock.testing.faults import STORE_TROUBLES, STORM, Fault, FaultPlan
from penstock.testing.simulated_workload import Workload, draw_workload
from penstock.testing.simulation import Simulation, report
from penstock.testing.virtual_time import MS

CHECKPOINTS = int(os.environ.get("CHECKPOINTS", "12"))
EACH_MS = 1_000
"""Virtual time that a checkpoint takes, with its share of the faults."""
FAULT_EVERY_MS = 3_000
SEEDS = (1,) if CHECKPOINTS < 1_000 else range(1, 7)

pytestmark = pytest.mark.timeout(120 + CHECKPOINTS)


def draw(random: Random) -> tuple[FaultPlan, Workload]:
    """Each seed without some kinds of faults, but slots die in all."""
    workload = draw_workload(Random(random.getrandbits(64)), failing=False, stormy=True)
    lasts_ms = CHECKPOINTS * EACH_MS
    stretched = replace(workload, pause_ms=workload.pause_ms * lasts_ms // workload.lasts_ms, lasts_ms=lasts_ms)
    moments = [Fault.KILL_SLOT, *(fault for fault in STORM if random.random() < 0.75)]
    troubles = [fault for fault in STORE_TROUBLES if random.random() < 0.5]
    drawn = [(random.randrange(lasts_ms * MS), random.choice(moments)) for _ in range(lasts_ms // FAULT_EVERY_MS)]
    kinds = frozenset((*moments, *troubles, Fault.COMMIT_FAILS))
    return FaultPlan(kinds, tuple(sorted(drawn, key=lambda each: each[0])), lasts_ms * MS, 0.01, 0.1), stretched


@pytest.mark.parametrize("seed", SEEDS)
def test_many_checkpoints(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulation, "_draw_storm", draw)
    run = Simulation(seed, tmp_path, stormy=True)
    outcome = run.run()
    assert outcome.violation is None, report(outcome)
    assert outcome.checkpoints >= CHECKPOINTS, outcome.described
    assert outcome.attempts > CHECKPOINTS // 60
