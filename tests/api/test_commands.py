"""Verbs against a cluster: what is sent, what is shown, exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import penstock as ps
from penstock.testing.commands import penstock

BOUNDED = """
import sys
import time
import penstock as ps
from helper import factor

env = ps.StreamExecutionEnvironment()
rows = env.from_sequence(1, 3).map(lambda x: x * factor()).execute_and_collect(sys.argv[1])
print("not run on the cluster")
"""
ENDLESS = """
import itertools
import penstock as ps
from penstock.connectors.files import FileSource
from penstock.connectors.formats import Text
from pathlib import Path

Path("{directory}").mkdir(exist_ok=True)
env = ps.StreamExecutionEnvironment()
env.enable_checkpointing("50ms")
env.from_source(FileSource("{directory}", Text(), watch="100ms"), name="watched").print()
env.execute("endless")
"""
FAILING = """
import penstock as ps

def invert(x: int) -> float:
    return 1 / (x - 2)

env = ps.StreamExecutionEnvironment()
env.set_restart_strategy("none")
env.from_sequence(1, 3).map(invert, name="inverted").print()
env.execute("inverts")
"""


@pytest.fixture
def endless(here: Path, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Id of a job that runs for ever, on the cluster of PENSTOCK_ADDRESS."""
    (here / "endless.py").write_text(ENDLESS.format(directory=tmp_path / "watched"))
    monkeypatch.setenv("PENSTOCK_ADDRESS", address)
    code, out, err = penstock("submit", "endless.py")
    assert code == 0, err
    return out.strip()


def test_a_script_with_its_modules_runs_on_the_cluster_and_what_it_collects_is_printed(
    here: Path, address: str, gateway: Any
) -> None:
    (here / "job.py").write_text(BOUNDED)
    (here / "helper.py").write_text("def factor() -> int:\n    return 10\n")
    code, out, err = penstock("run", "--address", address, "job.py", "--", "tens")
    assert code == 0, err
    assert out.splitlines() == ["10", "20", "30"]
    assert err.splitlines()[0] == f"job.py runs on the cluster at {address}"
    assert err.splitlines()[-1].startswith("job 'tens' has finished: 3 records in ")
    assert gateway.runs[0].interactive


def test_the_same_code_is_uploaded_once(here: Path, address: str, gateway: Any) -> None:
    (here / "job.py").write_text(BOUNDED)
    (here / "helper.py").write_text("def factor() -> int:\n    return 1\n")
    for name in ("one", "two"):
        assert penstock("run", "-a", address, "job.py", "--", name)[0] == 0
    assert gateway.uploads == 1


def test_flags_and_environment_reach_the_cluster_and_the_file_goes_along(
    here: Path, address: str, gateway: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "job.py").write_text(BOUNDED)
    (here / "helper.py").write_text("def factor() -> int:\n    return 1\n")
    (here / "penstock.yaml").write_text("execution.checkpointing.interval: 7s\nparallelism.default: 9\n")
    monkeypatch.setenv("PENSTOCK__PIPELINE__MAX_PARALLELISM", "64")
    code, out, err = penstock("run", "-a", address, "-p", "2", "-o", "json", "job.py", "--", "tuned")
    assert code == 0, err
    config = next(iter(gateway.running.values())).view().config
    assert config["execution.checkpointing.interval"] == "7s"
    assert config["parallelism.default"] == "2"
    assert config["pipeline.max-parallelism"] == "64"
    assert "rest.address" not in gateway.runs[0].config
    *rows, results = (json.loads(line) for line in out.splitlines())
    assert sorted(rows) == [1, 2, 3]
    assert results[0]["state"] == "FINISHED"


def test_a_job_that_fails_on_the_cluster(here: Path, address: str) -> None:
    (here / "job.py").write_text(FAILING)
    code, _, err = penstock("run", "-a", address, "job.py")
    assert code == 1
    assert err.rstrip().endswith(
        "error: operator 'inverted', subtask 0: ZeroDivisionError: division by zero (on the record 2)"
    )
    assert "return 1 / (x - 2)" in err


@pytest.mark.parametrize(
    ("script", "complaint"),
    [
        ("import nope", "job.py needs the module 'nope'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("print('only this')", "job.py ended without running a pipeline"),
        ("import penstock as ps\nps.StreamExecutionEnvironment().execute()", "there is nothing to execute"),
    ],
)
def test_a_script_that_cannot_be_captured(here: Path, address: str, script: str, complaint: str) -> None:
    (here / "job.py").write_text(script)
    code, _, err = penstock("submit", "-a", address, "job.py")
    assert code == 1
    assert complaint in err
    assert "/jobmanager/" not in err


def test_a_relative_path_that_is_not_in_the_copy_of_the_directory(here: Path, address: str) -> None:
    (here / "job.py").write_text(
        "import penstock as ps\nfrom penstock.connectors.files import FileSource\n"
        "from penstock.connectors.formats import Text\nenv = ps.StreamExecutionEnvironment()\n"
        "env.from_source(FileSource('elsewhere/in', Text()), name='read').print()\nenv.execute()\n"
    )
    code, _, err = penstock("submit", "-a", address, "job.py")
    assert code == 1
    assert "error: operator 'read': there is no file elsewhere/in, nor any" in err
    assert "On a cluster a script runs in a copy of its directory" in err


def test_connectors_of_one_process_are_refused_on_a_cluster(here: Path, address: str) -> None:
    (here / "job.py").write_text(
        "import penstock as ps\nfrom penstock.testing import ListSource\nenv = ps.StreamExecutionEnvironment()\n"
        "env.from_source(ListSource([1]), name='mine').print()\nenv.execute()\n"
    )
    code, _, err = penstock("submit", "-a", address, "job.py")
    assert code == 1
    assert "the connector of 'mine' works in one process only" in err


def test_a_detached_job_prints_its_id_alone(endless: str) -> None:
    assert len(endless) == 32
    assert set(endless) <= set("0123456789abcdef")


def test_jobs_are_listed_described_and_cancelled_by_name_and_by_prefix(endless: str) -> None:
    code, out, _ = penstock("list")
    assert (code, out.split()[:2]) == (0, ["JOB", "NAME"])
    assert f"{endless}  endless" in out
    (row,) = json.loads(penstock("list", "-o", "json")[1])
    assert (row["job_id"], row["job_name"]) == (endless, "endless")

    assert f"job {endless} 'endless'" in penstock("describe", "endless")[1]
    view = json.loads(penstock("describe", endless[:8], "-o", "json")[1])
    assert view["overview"]["id"] == endless
    assert [vertex["name"] for vertex in view["vertices"]] == ["watched -> print"]

    code, _, err = penstock("cancel", endless)
    assert code == 2
    assert "--yes" in err
    code, out, _ = penstock("cancel", endless[:6], "--yes", "-o", "json")
    assert (code, json.loads(out)["state"]) == (0, "CANCELED")
    assert json.loads(penstock("list", "-o", "json")[1]) == []
    assert json.loads(penstock("list", "--all", "-o", "json")[1])[0]["state"] == "CANCELED"
    code, _, err = penstock("cancel", "endless", "--yes")
    assert code == 1
    assert "has ended already: CANCELED" in err


def test_checkpoints_are_shown(endless: str, gateway: Any) -> None:
    deadline = 200
    while not json.loads(penstock("checkpoints", "endless", "-o", "json")[1])["completed"]:
        deadline -= 1
        assert deadline, "no checkpoint completes"
    code, out, err = penstock("checkpoints", "endless")
    assert code == 0
    assert "COMPLETED" in out
    assert "completed" in err


def test_a_job_that_was_restored_says_from_which_checkpoint(endless: str) -> None:
    deadline = 200
    while not json.loads(penstock("checkpoints", "endless", "-o", "json")[1])["completed"]:
        deadline -= 1
        assert deadline, "no checkpoint completes"
    assert "restored from" not in penstock("describe", endless)[1]
    assert penstock("cancel", endless, "--yes")[0] == 0
    code, out, err = penstock("submit", "endless.py", "-s", "latest")
    assert code == 0, err
    deadline = 200
    while "; restored from: " not in penstock("describe", out.strip())[1]:
        deadline -= 1
        assert deadline, "it is not told"


def test_logs_of_the_job_manager(here: Path, address: str) -> None:
    assert penstock("logs", "-a", address) == (0, "first line\nsecond line\n", "")
    assert penstock("logs", "-a", address, "--tail", "1")[1] == "second line\n"
    assert penstock("logs", "-a", address, "--stdout")[1] == "printed\n"
    assert "jobmanager.out" in penstock("logs", "-a", address, "--list")[1]
    code, _, err = penstock("logs", "-a", address, "--file", "../secret")
    assert code == 2
    assert "no such file" in err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["run", "job.py", "--local", "--address", "x"], "exclude each other"),
        (["run", "job.py", "-d", "-c", "execution.target=local"], "--detach is for jobs on a cluster"),
        (["run", "nope.py", "--address", "127.0.0.1:1"], "there is no file nope.py"),
        (["list", "--address", "ftp://x"], "is no address of a cluster"),
        (["run", "job.py", "-c", "execution.target=remote"], "no cluster is named"),
        (["cluster", "nope"], "No such command"),
    ],
)
def test_wrong_usage(here: Path, arguments: list[str], complaint: str) -> None:
    (here / "job.py").write_text("raise AssertionError('must not run')")
    code, _, err = penstock(*arguments)
    assert code == 2
    assert complaint in err


def test_an_unknown_job_and_an_ambiguous_one(endless: str) -> None:
    code, _, err = penstock("describe", "nope")
    assert code == 2
    assert "there is no job 'nope'" in err
    assert penstock("submit", "endless.py", "-c", "pipeline.name=x")[0] == 0
    code, _, err = penstock("describe", "endless")
    assert code == 2
    assert "means several jobs" in err


def test_of_many_jobs_of_a_name_the_newest_are_named(here: Path, address: str, gateway: Any) -> None:
    for _ in range(7):
        env = ps.StreamExecutionEnvironment(ps.Configuration({"rest.address": address}))
        env.from_sequence(1, 3).print()
        env.execute("daily")
    code, _, err = penstock("describe", "daily", "-a", address)
    assert code == 2
    assert err.count("'daily' FINISHED") == 5
    assert list(gateway.running)[-1] in err
    assert "and 2 older ones; give the id" in err


def test_a_cluster_that_does_not_answer(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "job.py").write_text("raise AssertionError('must not run')")
    monkeypatch.setenv("PENSTOCK_ADDRESS", "http://127.0.0.1:9")
    code, out, err = penstock("run", "job.py", "-o", "json")
    assert code == 1
    assert "error: no cluster answers at http://127.0.0.1:9 (" in err
    assert "--local" in err
    assert "runs on" not in err, "nothing runs where nobody answers"
    assert json.loads(out)["type"] == "UnreachableError"


@pytest.mark.parametrize("verb", ["run", "submit"])
def test_the_address_may_be_an_option(here: Path, address: str, monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    (here / "job.py").write_text("raise AssertionError('must not run')")
    monkeypatch.setenv("PENSTOCK_ADDRESS", address)
    code, _, err = penstock(verb, "job.py", "-c", "rest.address=http://127.0.0.1:9")
    assert code == 1
    assert "no cluster answers at http://127.0.0.1:9" in err


def test_interrupted_while_it_attends_a_job_it_stops_it_after_a_last_checkpoint(
    here: Path, address: str, gateway: Any, tmp_path: Path
) -> None:
    (here / "endless.py").write_text(ENDLESS.format(directory=tmp_path / "watched"))
    command = [sys.executable, "-m", "penstock.api.command_line", "run", "-a", address, "-o", "json", "endless.py"]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
    with (tmp_path / "out").open("w") as out:
        process = subprocess.Popen(command, cwd=here, env=environ, stdout=out, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("submitted job"):
            break
    (job,) = gateway.running.values()
    while job.view().checkpoints.completed < 1:
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    rest = process.stderr.read()
    assert process.wait(60) == 130, rest
    assert job.view().overview.state == "SUSPENDED"
    assert "continue it with -s latest" in rest
    (result,) = json.loads((tmp_path / "out").read_text().splitlines()[-1])
    assert (result["job_name"], result["state"], result["checkpoints"] >= 1) == ("endless", "SUSPENDED", True)


def test_a_slot_that_was_lost_is_told_once(endless: str, gateway: Any) -> None:
    cluster, deadline_s = gateway.running[endless].job.cluster, time.monotonic() + 60
    while gateway.job(endless).overview.state != "RUNNING":
        assert time.monotonic() < deadline_s
    cluster.loop.ask(lambda: cluster.kill_slot(next(iter(cluster.slots)), "it was killed"), 30)
    while not gateway.job(endless).exceptions:
        assert time.monotonic() < deadline_s
    assert penstock("describe", endless)[1].count("was lost: it was killed") == 1
