"""Savepoints as users have them: verbs against a cluster, and methods of a job's client, here and there."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

import penstock as ps
from penstock.connectors.files import FileSource
from penstock.connectors.formats import Text
from penstock.jobmanager.events import JobState
from penstock.state.errors import CheckpointError, PenstockError
from penstock.state.savepoints.savepoint_store import is_savepoint
from penstock.testing import commands

COUNTS = """
import penstock as ps
from penstock.connectors.files import FileSource
from penstock.connectors.formats import Text

env = ps.StreamExecutionEnvironment()
env.enable_checkpointing("1h")
lines = env.from_source(FileSource("{directory}", Text(), watch="50ms"), name="watched").uid("watched")
lines.key_by(len).count().uid("counts").print("counted")
env.execute("counts")
"""


def penstock(*arguments: str) -> tuple[int, str, str]:
    """Code, output and errors of a verb, without what the job prints in this process meanwhile."""
    code, out, err = commands.penstock(*arguments)
    said = "".join(line for line in out.splitlines(keepends=True) if not line.startswith("counted"))
    return code, said, err


def told(*arguments: str) -> str:
    """Of a verb that succeeds."""
    code, out, err = penstock(*arguments)
    assert code == 0, err
    return out.strip()


@pytest.fixture
def watched(tmp_path: Path) -> Path:
    directory = tmp_path / "watched"
    directory.mkdir()
    (directory / "first.txt").write_text("a\nb\na\n")
    return directory


@pytest.fixture
def job(here: Path, address: str, watched: Path, gateway: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    """Id of one that counts what it finds in files and waits for more, on the cluster of PENSTOCK_ADDRESS."""
    monkeypatch.setenv("PENSTOCK_ADDRESS", address)
    found = counting(watched, **{"rest.address": address}).execute_async("counts").job_id
    return has_read(gateway, 0, found)


def has_read(gateway: Any, records: int, job: str) -> str:
    running = gateway.running[job]
    wait_for(lambda: running.view().overview.state == "RUNNING" and read(running.view()) >= records)
    return job


def read(view: Any) -> int:
    return sum(subtask.metrics.records_in for subtask in view.vertices[-1].subtasks)


def test_a_savepoint_is_taken_and_the_job_goes_on(job: str, here: Path) -> None:
    path = told("savepoint", "take", "counts", "kept")
    assert Path(path).parent == here / "kept", "below the working directory of who asked"
    assert is_savepoint(path)
    assert (Path(path) / "_metadata").is_file()
    assert f"{path}" in told("savepoint", "list", job)
    (row,) = json.loads(told("savepoint", "list", job, "-o", "json"))
    assert (row["state"], row["path"], row["stop"]) == ("COMPLETED", path, False)
    assert json.loads(told("list", "-o", "json"))[0]["state"] == "RUNNING"
    document = json.loads(told("savepoint", "take", job[:6], "kept", "-o", "json"))
    assert document["savepoint"] not in (None, path)


def test_nobody_needs_to_wait_and_a_checkpoint_is_taken_now(job: str) -> None:
    request = told("savepoint", "take", job, "kept", "--detached")
    rows = json.loads(told("savepoint", "list", job, "-o", "json"))
    assert [row["request"] for row in rows] == [request]
    wait_for(lambda: json.loads(told("savepoint", "list", job, "-o", "json"))[0]["state"] == "COMPLETED")
    assert told("checkpoint", job) == "2"
    assert json.loads(told("checkpoint", job, "-o", "json"))["checkpoint_id"] == 3
    shown = json.loads(told("checkpoints", job, "-o", "json"))
    assert (shown["completed"], shown["latest_completed"]["id"], shown["latest_savepoint"]["id"]) == (3, 3, 1)


@pytest.mark.parametrize("options", [(), ("--drain",)])
def test_a_job_stops_with_a_savepoint_and_another_one_goes_on_from_it(
    job: str, options: tuple[str, ...], gateway: Any, watched: Path, here: Path
) -> None:
    has_read(gateway, 3, job)
    code, out, err = penstock("stop", job, "--savepoint-path", "kept", *options)
    assert code == 0, err
    path = Path(out.strip())
    assert f"job {job} 'counts': FINISHED" in err
    latest = gateway.job(job).checkpoints
    assert (latest.latest_savepoint.external_path, latest.latest_savepoint.stops_job) == (str(path), True)
    moved = path.parent.parent / "moved" / path.name
    moved.parent.mkdir()
    path.rename(moved)
    (watched / "second.txt").write_text("a\n")
    (here / "counts.py").write_text(COUNTS.format(directory=watched))
    relative = Path("moved") / path.name
    again = has_read(gateway, 1, told("submit", "counts.py", "-s", str(relative), "-p", "3"))
    restored = gateway.job(again).checkpoints.latest_restored
    assert (restored.is_savepoint, restored.external_path) == (True, str(moved))
    assert again != job


def test_a_savepoint_that_fails_is_told_and_the_job_goes_on(job: str, here: Path) -> None:
    (here / "file").write_text("no directory")
    for verb in (["savepoint", "take", job, "file/below"], ["stop", job, "-p", "file/below"]):
        code, out, err = penstock(*verb)
        assert (code, out) == (1, "")
        assert err.startswith("error: ")
    assert json.loads(told("list", "-o", "json"))[0]["state"] == "RUNNING"
    code, _, err = penstock("savepoint", "take", job)
    assert code == 1
    assert "there is no directory for the savepoint" in err


def test_a_job_that_has_ended_cannot_be_asked(job: str) -> None:
    told("cancel", job, "--yes")
    for verb in (["savepoint", "take"], ["stop"], ["checkpoint"]):
        code, _, err = penstock(*verb, job)
        assert code == 1
        assert "has ended already: CANCELED" in err


@pytest.mark.parametrize("there", [False, True])
def test_a_savepoint_is_disposed_of(job: str, address: str, there: bool) -> None:
    path = told("savepoint", "take", job, "kept")
    code, _, err = penstock("savepoint", "dispose", path)
    assert code == 2
    assert "--yes" in err
    arguments = ["--address", address] if there else []
    relative = Path("kept") / Path(path).name
    assert json.loads(told("savepoint", "dispose", str(relative), "--yes", "-o", "json", *arguments)) == {
        "disposed": path
    }
    assert not Path(path).exists()
    code, _, err = penstock("savepoint", "dispose", path, "--yes", *arguments)
    assert code == 1
    assert "there is no savepoint" in err


def test_what_is_no_savepoint_is_not_disposed_of(here: Path) -> None:
    (here / "mine").mkdir()
    code, _, err = penstock("savepoint", "dispose", "mine", "--yes")
    assert code == 2
    assert "is not a savepoint" in err
    assert (here / "mine").is_dir()


# the client of a job ------------------------------------------------------------------------------------------------


def counting(watched: Path, **settings: str) -> ps.StreamExecutionEnvironment:
    env = ps.StreamExecutionEnvironment(ps.Configuration(settings))
    env.enable_checkpointing("1h")
    lines = env.from_source(FileSource(str(watched), Text(), watch="50ms"), name="watched").uid("watched")
    lines.key_by(len).count().uid("counts").print("counted")
    return env


@pytest.fixture(params=["local", "remote"])
def env(request: pytest.FixtureRequest, here: Path, watched: Path) -> ps.StreamExecutionEnvironment:
    if request.param == "local":
        return counting(watched, **{"execution.target": "local"})
    return counting(watched, **{"rest.address": request.getfixturevalue("address")})


def test_a_jobs_client_takes_savepoints_and_stops_with_one(
    env: ps.StreamExecutionEnvironment, here: Path, gateway: Any
) -> None:
    client = env.execute_async("counts")
    wait_until_it_runs(client)
    first = client.trigger_savepoint(str(here / "kept"))
    assert (Path(first) / "_metadata").is_file()
    assert client.status().state is JobState.RUNNING
    last = client.stop_with_savepoint("kept", drain=True)
    assert Path(last).parent == here / "kept"
    assert client.result(timeout_s=60).state is JobState.FINISHED
    with pytest.raises(PenstockError):
        client.trigger_savepoint("kept")


def test_a_failed_savepoint_is_an_error_of_who_asked(env: ps.StreamExecutionEnvironment, here: Path) -> None:
    (here / "file").write_text("no directory")
    client = env.execute_async("counts")
    wait_until_it_runs(client)
    with pytest.raises(CheckpointError):
        client.trigger_savepoint("file/below")
    assert client.status().state is JobState.RUNNING
    client.cancel()


def wait_until_it_runs(client: Any) -> None:
    wait_for(lambda: client.status().state is JobState.RUNNING)


def wait_for(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    deadline_s, never = monotonic() + timeout_s, threading.Event()
    while not condition():
        assert monotonic() < deadline_s, "it did not come to hold"
        never.wait(0.02)
