"""The command: exit codes, flags, what is told to people and to programs."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from penstock.api import session
from penstock.testing.commands import penstock

WORKING = """
import sys
import penstock as ps

env = ps.StreamExecutionEnvironment()
env.from_sequence(1, 3).map(lambda x: x * env_factor).print(sys.argv[1] if len(sys.argv) > 1 else None)
env_factor = 10
result = env.execute("tens")
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
CONTINUED = """
import os, signal
from pathlib import Path
import penstock as ps
from penstock.connectors.files import FileSink, FileSource
from penstock.connectors.formats import Json, Text

def checkpointed() -> bool:
    return any(Path(".penstock/checkpoints").glob("*/chk-*/_metadata"))

def maybe_die(x: int) -> int:
    if x >= 5_000 and x % 100 == 0 and not Path("died").exists() and checkpointed():
        Path("died").write_text(str(x))
        os.kill(os.getpid(), signal.{signal})
    return x

env = ps.StreamExecutionEnvironment()
env.enable_checkpointing("10ms")
lines = FileSource("numbers", Text(), rate_limit=None if Path("died").exists() else 20_000)
counts = env.from_source(lines).map(int).map(maybe_die).key_by(lambda x: x % 10).reduce(lambda a, b: a + b)
counts.map(lambda total: {{"total": total}}).sink_to(FileSink("out", Json()))
env.execute("continued")
"""

NUMBERS = 60_000
"""Enough to last for some seconds at the rate above, unless the job dies."""
EXECUTABLE = [sys.executable, "-m", "penstock.api.command_line"]


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Commands run in this process change its arguments, its path and its flags; here they are put back."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(session, "flags", {})
    monkeypatch.setattr(session, "results", [])
    return tmp_path


def test_a_job_that_finishes(directory: Path) -> None:
    (directory / "job.py").write_text(WORKING)
    code, out, err = penstock("run", "job.py", "--local", "--", "tens")
    assert (code, out) == (0, "tens> 10\ntens> 20\ntens> 30\n")
    assert err.splitlines()[0] == "job 'tens' runs in this process (execution.target is local)"
    assert err.splitlines()[-1].startswith("job 'tens' has finished: 3 records in ")


def test_results_for_programs(directory: Path) -> None:
    (directory / "job.py").write_text(WORKING)
    code, out, _ = penstock("run", "job.py", "--output", "json")
    assert code == 0
    (result,) = json.loads(out.splitlines()[-1])
    assert (result["job_name"], result["state"]) == ("tens", "FINISHED")


def test_a_job_that_fails_shows_the_users_frames_and_not_ours(directory: Path) -> None:
    (directory / "job.py").write_text(FAILING)
    code, _, err = penstock("run", "job.py")
    assert code == 1
    trace, _, sentence = err[err.index("Traceback") :].rstrip().rpartition("\n")
    assert sentence == "error: operator 'inverted', subtask 0: ZeroDivisionError: division by zero (on the record 2)"
    assert "return 1 / (x - 2)" in trace
    assert trace.count('  File "') == 1


def test_failures_for_programs(directory: Path) -> None:
    (directory / "job.py").write_text(FAILING)
    code, out, _ = penstock("run", "job.py", "-o", "json")
    assert code == 1
    assert json.loads(out.splitlines()[-1])["type"] == "JobFailedError"


def test_a_refused_pipeline_is_one_sentence(directory: Path) -> None:
    (directory / "job.py").write_text(FAILING.replace("map(invert", "map(5"))
    code, _, err = penstock("run", "job.py")
    assert code == 1
    assert err.startswith("error: operator 'inverted' (job.py:9): a function is needed")
    assert "Traceback" not in err


def test_an_error_of_the_script_itself(directory: Path) -> None:
    (directory / "job.py").write_text("def f():\n    return [][1]\n\nf()\n")
    code, _, err = penstock("run", "job.py")
    assert code == 1
    assert err.startswith("Traceback")
    assert err.count('  File "') == 2
    assert err.rstrip().endswith("IndexError: list index out of range")


def test_a_module_that_is_missing_is_explained_as_on_a_cluster(directory: Path) -> None:
    (directory / "job.py").write_text("import nope_at_all\n")
    code, out, err = penstock("run", "job.py", "--local", "-o", "json")
    assert code == 1
    trace, _, told = err.rstrip().rpartition("\n")
    assert trace.endswith("ModuleNotFoundError: No module named 'nope_at_all'")
    assert told == (
        f"error: job.py needs the module 'nope_at_all', which is not installed here: install its package for "
        f"{sys.executable}, or put the module beside the script"
    )
    assert json.loads(out)["error"] == told.removeprefix("error: ")


@pytest.mark.parametrize(("ending", "code"), [("", 0), ("0", 0), ("3", 3), ("'no data'", 1)])
def test_a_script_may_end_itself(directory: Path, ending: str, code: int) -> None:
    (directory / "job.py").write_text(f"import sys\nsys.exit({ending})\n")
    assert penstock("run", "job.py")[0] == code


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["run", "nope.py"], "there is no file nope.py"),
        (["run", "job.py", "-c", "parallelism.defaults=1"], "did you mean parallelism.default?"),
        (["run", "job.py", "-c", "parallelism.default"], "-c takes key=value"),
        (["run", "job.py", "-p", "0"], "option parallelism.default: 0 is less than 1"),
        (["run", "job.py", "--nope"], "No such option"),
        (["config", "-c", "a=b"], "there is no option 'a'"),
        (["nope"], "No such command"),
    ],
)
def test_wrong_usage(directory: Path, arguments: list[str], complaint: str) -> None:
    (directory / "job.py").write_text("raise AssertionError('must not run')")
    code, _, err = penstock(*arguments)
    assert code == 2
    assert complaint in err


def test_flags_reach_the_script_and_its_code_wins(directory: Path) -> None:
    (directory / "job.py").write_text(
        "import penstock as ps\nenv = ps.StreamExecutionEnvironment()\nenv.set_parallelism(3)\n"
        "config = env.configuration\n"
        "print(*[config.get_string(key) for key in ('parallelism.default', 'execution.checkpointing.interval',"
        " 'execution.state-recovery.path')])\n"
    )
    code, out, _ = penstock("run", "job.py", "-p", "2", "-c", "execution.checkpointing.interval=7s", "-s", "latest")
    assert (code, out) == (0, "3 7s latest\n")


@pytest.mark.parametrize("short", [["-h"], ["run", "-h"], ["cluster", "start", "-h"]])
def test_help_by_its_short_name(directory: Path, short: list[str]) -> None:
    code, out, _ = penstock(*short)
    assert (code, "Usage: " in out) == (0, True)


def test_versions(directory: Path) -> None:
    assert penstock("--version") == penstock("version")
    assert penstock("version")[1].startswith("penstock ")
    versions = json.loads(penstock("version", "-o", "json")[1])
    assert {"penstock", "python", "cloudpickle", "pyarrow"} <= set(versions)
    assert versions["python"] == f"{sys.version_info.major}.{sys.version_info.minor}"


def test_options_are_listed_with_their_values(directory: Path) -> None:
    (directory / "penstock.yaml").write_text("parallelism.default: 4\n")
    rows = {row["key"]: row for row in json.loads(penstock("config", "-o", "json")[1])}
    assert rows["parallelism.default"]["value"] == "4"
    assert rows["execution.checkpointing.interval"]["value"] == "10s"
    assert "parallelism.default: 4  (default 1)" in penstock("config")[1]


def test_nothing_to_continue(directory: Path) -> None:
    (directory / "job.py").write_text(WORKING)
    code, _, err = penstock("run", "job.py", "-s", "latest")
    assert code == 1
    assert "error: there is no job 'tens' in .penstock/checkpoints that could be continued" in err


@pytest.mark.parametrize("flag", ["elsewhere", "abc/chk-1-1"])
def test_a_path_that_is_no_checkpoint(directory: Path, flag: str) -> None:
    (directory / "job.py").write_text(WORKING)
    code, _, err = penstock("run", "job.py", "-s", flag)
    assert code == 1
    assert "error: " in err
    assert "Traceback" not in err


def test_an_unusable_checkpoint_directory(directory: Path) -> None:
    (directory / "job.py").write_text(WORKING)
    (directory / "file").write_text("")
    code, _, err = penstock("run", "job.py", "-c", "state.checkpoints.dir=file/below")
    assert code == 1
    assert "cannot be used" in err
    assert "Traceback" not in err


# in a process of its own


def run(directory: Path, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*EXECUTABLE, *arguments], cwd=directory, input=stdin, capture_output=True, text=True, timeout=100, check=False
    )


def test_a_breakpoint_in_a_users_function_stops_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONBREAKPOINT", raising=False)  # Ray sets it in processes that speak to a cluster
    (tmp_path / "job.py").write_text(WORKING.replace("lambda x: x * env_factor", "lambda x: breakpoint() or x"))
    done = run(tmp_path, "run", "job.py", "--local", stdin="p x + 100\nc\nc\nc\n")
    assert done.returncode == 0, done.stderr
    assert "(Pdb) 101" in done.stdout
    assert f"{tmp_path / 'job.py'}(6)<lambda>()" in done.stdout


def totals(directory: Path) -> list[int]:
    files = [path for path in (directory / "out").rglob("*") if path.is_file() and not path.name.startswith(("_", "."))]
    return sorted(json.loads(line)["total"] for path in files for line in path.read_text().splitlines())


def running_totals() -> list[int]:
    sums, found = [0] * 10, []
    for x in range(1, NUMBERS + 1):
        sums[x % 10] += x
        found.append(sums[x % 10])
    return sorted(found)


@pytest.mark.parametrize(("name", "code"), [("SIGKILL", -9), ("SIGTERM", 130)])
def test_a_killed_or_stopped_job_is_continued_without_losing_or_doubling(tmp_path: Path, name: str, code: int) -> None:
    (tmp_path / "job.py").write_text(CONTINUED.format(signal=name))
    (tmp_path / "numbers").write_text("".join(f"{x}\n" for x in range(1, NUMBERS + 1)))
    killed = run(tmp_path, "run", "job.py", "-o", "json")
    assert killed.returncode == code, killed.stderr
    if code > 0:
        (result,) = json.loads(killed.stdout)
        assert (result["job_name"], result["state"]) == ("continued", "SUSPENDED")
    continued = run(tmp_path, "run", "job.py", "-s", "latest")
    assert continued.returncode == 0, continued.stderr
    assert "continuing job" in continued.stderr
    assert totals(tmp_path) == running_totals()


def test_a_script_that_is_stopped_ends_without_a_traceback_and_says_how_to_go_on(tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text(CONTINUED.format(signal="SIGINT"))
    (tmp_path / "numbers").write_text("".join(f"{x}\n" for x in range(1, NUMBERS + 1)))
    script = [sys.executable, "job.py"]
    stopped = subprocess.run(script, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=100)
    assert stopped.returncode == -signal.SIGINT, "which shells show as 130"
    *_, last = stopped.stderr.splitlines()
    assert re.fullmatch(r"stopped job [0-9a-f]{32}; continue it with PENSTOCK_RESTORE=latest", last)
    assert "Traceback" not in stopped.stderr


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("env.execute()", "interrupted\n"),
        ("try:\n    env.execute()\nexcept KeyboardInterrupt:\n    print('caught')", ""),
        ("raise KeyboardInterrupt", "Traceback"),
    ],
)
def test_an_interrupt_before_the_job_runs(tmp_path: Path, call: str, said: str) -> None:
    (tmp_path / "job.py").write_text(
        "import penstock as ps\nfrom penstock.api import environment\n"
        "def interrupt(*_):\n    raise KeyboardInterrupt\n"
        "env = ps.StreamExecutionEnvironment()\nenv.from_sequence(1, 3).print()\n"
        f"environment.build_job_graph = interrupt\n{call}\n"
    )
    done = subprocess.run(
        [sys.executable, "job.py"], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == (0 if "caught" in call else -signal.SIGINT)
    assert done.stderr.startswith(said)
    assert ("Traceback" in done.stderr) == ("Traceback" in said)


def test_the_script_alone_takes_its_flags_from_the_environment(tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text(WORKING)
    environ = {**os.environ, "PENSTOCK_RESTORE": "latest"}
    done = subprocess.run(
        [sys.executable, "job.py"], cwd=tmp_path, env=environ, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1
    assert "CheckpointError: there is no job 'tens'" in done.stderr.splitlines()[-1]
    assert "/jobmanager/" not in done.stderr
