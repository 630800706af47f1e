"""`-s latest` over several lives of a job: every record counts once, whoever went on from whom."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.jobmanager.events import JobState
from penstock.state.errors import CheckpointError
from penstock.testing.lists import ListSink


@pytest.fixture
def job(new_env: Any, drive: Any, held_source: Any, tmp_path: Any) -> Any:
    def new(restore: str | None = None) -> Any:
        env = new_env(1, restore)
        numbers = env.from_source(held_source(list(range(100)), tmp_path / "gate", 50, record_type=int))
        numbers.key_by(lambda x: x % 3).reduce(lambda a, b: a + b, name="sums").uid("sums").sink_to(ListSink("sums"))
        return drive(env)

    return new


EXPECTED = sorted(sum(range(i % 3, i + 1, 3)) for i in range(100))


def test_a_job_that_died_before_its_first_checkpoint_goes_on_from_where_it_was_started(
    job: Any, results: Any, tmp_path: Any
) -> None:
    """It has a log, but nothing in it to restore: the other job's checkpoint holds still."""
    assert results("sums") == []
    first = job().checkpoints()
    first.job.cancel()
    assert first.end().state is JobState.CANCELED
    dead = job("latest")
    dead.job.run(lambda: dead.status.state is JobState.STARTING)
    dead.job.close()
    (tmp_path / "gate").touch()
    second = job("latest")
    assert second.job.job_id == dead.job.job_id != first.job.job_id
    assert second.end().checkpoints.restored is not None
    assert sorted(results("sums")) == EXPECTED


def test_a_job_that_another_one_went_on_from_is_over(job: Any, results: Any, tmp_path: Any) -> None:
    assert results("sums") == []
    first = job().checkpoints()
    first.job.cancel()
    first.end()
    (tmp_path / "gate").touch()
    job("latest").end()
    with pytest.raises(CheckpointError, match="no job 'job'"):
        job("latest")
    assert sorted(results("sums")) == EXPECTED
