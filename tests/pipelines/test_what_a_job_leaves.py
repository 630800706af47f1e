"""What is left of a job that does not finish: committed output, and no pending one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import penstock as ps
from penstock.connectors.files import FileSink
from penstock.connectors.formats import Json
from penstock.jobmanager.events import JobState
from penstock.jobmanager.views import OperationState

NUMBERS = 400


def build(env: ps.StreamExecutionEnvironment, source: Any, out: Path) -> ps.StreamExecutionEnvironment:
    numbers = env.from_source(source, name="numbers", uid="numbers").map(as_record)
    numbers.sink_to(FileSink(str(out), Json())).uid("files")
    return env


def as_record(number: int) -> dict[str, int]:
    return {"number": number}


def pending(out: Path) -> list[Path]:
    return sorted(path for path in out.rglob("*") if path.is_file() and path.name.startswith("_"))


def test_a_job_that_is_cancelled_leaves_nothing_pending(
    new_env: Any, drive: Any, held_source: Any, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    source = held_source(list(range(NUMBERS)), tmp_path / "gate", 30, splits=4, batch_rows=10, record_type=int)
    env = new_env(2)
    env.enable_checkpointing("1h")
    job = drive(build(env, source, out))
    job.until(lambda _status: len(pending(out)) == 2)
    (tmp_path / "file").touch()
    request = job.job.savepoint(str(tmp_path / "file" / "below"))  # parts are handed out for it, and it fails
    job.job.run(lambda: (found := job.job.operation(request)) is not None and found.ended)
    assert job.job.operation(request).state is OperationState.FAILED
    assert len(pending(out)) == 2
    job.job.cancel()
    assert job.end().state is JobState.CANCELED
    assert [path for path in out.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("failover", ["", "region", "full"])
def test_what_a_savepoint_holds_stays_for_whoever_goes_on_from_it(
    new_env: Any, drive: Any, held_source: Any, tmp_path: Path, failover: str
) -> None:
    """Also if its job fails before the next checkpoint: what it holds is that of a dead attempt then."""
    out = tmp_path / "out"
    source = held_source(list(range(NUMBERS)), tmp_path / "gate", 30, splits=4, batch_rows=10, record_type=int)
    env = new_env(2)
    env.enable_checkpointing("1h")
    if failover:
        env.configure(ps.Configuration({"jobmanager.execution.failover-strategy": failover}))
    job = drive(build(env, source, out))
    job.until(lambda _status: len(pending(out)) == 2)
    request = job.job.savepoint(str(tmp_path / "savepoints"))
    job.job.run(lambda: (found := job.job.operation(request)) is not None and found.ended)
    assert job.job.operation(request).state is OperationState.COMPLETED
    if failover:
        job.kill().until(lambda status: status.state is JobState.RUNNING)
    job.job.cancel()
    job.end()
    (tmp_path / "gate").touch()
    env = new_env(1, restore=job.job.operation(request).path)
    assert drive(build(env, source, out)).end().state is JobState.FINISHED
    rows = [line for path in out.rglob("part-*") for line in path.read_text().splitlines()]
    assert sorted(rows) == sorted(f'{{"number":{number}}}' for number in range(NUMBERS))


def test_a_later_checkpoint_lets_go_of_what_a_savepoint_holds(
    new_env: Any, drive: Any, held_source: Any, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    source = held_source(list(range(NUMBERS)), tmp_path / "gate", 30, splits=4, batch_rows=10, record_type=int)
    env = new_env(2)
    env.enable_checkpointing("300ms").configure(ps.Configuration({"jobmanager.execution.failover-strategy": "full"}))
    job = drive(build(env, source, out))
    job.until(lambda _status: len(pending(out)) == 2)
    request = job.job.savepoint(str(tmp_path / "savepoints"))
    job.job.run(lambda: (found := job.job.operation(request)) is not None and found.ended)
    job.kill().checkpoints(1).kill()
    (tmp_path / "gate").touch()
    assert job.end().state is JobState.FINISHED
    assert pending(out) == []
    rows = [line for path in out.rglob("part-*") for line in path.read_text().splitlines()]
    assert sorted(rows) == sorted(f'{{"number":{number}}}' for number in range(NUMBERS))
