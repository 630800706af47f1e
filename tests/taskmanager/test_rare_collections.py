from __future__ import annotations

import gc

import penstock as ps
from penstock.taskmanager.processes.rare_collections import THRESHOLDS, rare_collections


def test_only_while_a_job_runs() -> None:
    before, frozen = gc.get_threshold(), gc.get_freeze_count()
    env = ps.StreamExecutionEnvironment()
    looks = env.from_collection([0]).map(lambda _: (gc.get_threshold(), gc.get_freeze_count() > 0))
    assert list(looks.execute_and_collect()) == [(THRESHOLDS, True)]
    assert (gc.get_threshold(), gc.get_freeze_count()) == (before, frozen)


def test_the_last_of_several_jobs_restores() -> None:
    before = gc.get_threshold()
    first, second = rare_collections(), rare_collections()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert gc.get_threshold() == THRESHOLDS
    second.__exit__(None, None, None)
    assert gc.get_threshold() == before
