"""`state list`, `state cat`, `savepoint check`, on what a job that runs here has left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from penstock.testing.commands import penstock

JOB = """
import os
import sys
import time
from dataclasses import dataclass
import penstock as ps
from penstock.connectors.files import FileSource
from penstock.connectors.formats import Text


@dataclass
class Tally:
    word: str
    lines: int = 0
    {field}


class Tallies(ps.KeyedProcessFunction):
    def open(self, runtime_context):
        {opening}
        self.tally = runtime_context.get_state(ps.ValueStateDescriptor("tally", Tally))
        self.seen = runtime_context.get_map_state(ps.MapStateDescriptor("{seen}"))

    def process_element(self, value, ctx):
        tally = self.tally.value() or Tally(value)
        self.tally.update(Tally(value, tally.lines + 1))
        self.seen.put(len(value), value)
        ctx.timer_service().register_event_time_timer(5_000)
        with open({directory!r} + "/../seen", "a") as seen:
            seen.write("x")
        yield value


env = ps.StreamExecutionEnvironment()
env.enable_checkpointing("1h")
lines = env.from_source(FileSource({directory!r}, Text(), watch="50ms"), name="watched").uid("watched")
lines.key_by(str).process(Tallies()).uid("tallies").print()
{more}
if sys.argv[1:] == ["run"]:
    job = env.execute_async("tallies")
    while not os.path.exists({directory!r} + "/../seen") or os.path.getsize({directory!r} + "/../seen") < 3:
        time.sleep(0.01)
    print("savepoint", job.trigger_savepoint({directory!r} + "/../kept", timeout_s=60))
    job.stop()
    job.result(timeout_s=60)
else:
    env.execute("tallies")
"""
AGAIN = "lines.key_by(len).count().uid('counts').print()"


class Shop:
    """A job's script in a directory, and a savepoint of it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.watched = directory / "watched"
        self.watched.mkdir()
        (self.watched / "first.txt").write_text("ann\nbo\nann\n")
        command = [sys.executable, self.script("first.py", more=AGAIN), "run"]
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, done.stderr
        self.savepoint = next(line.split()[1] for line in done.stdout.splitlines() if line.startswith("savepoint "))

    def script(self, name: str, *, more: str = "", **parts: Any) -> Path:
        given = {"field": "", "opening": "", "seen": "seen", **parts}
        script = self.directory / name
        script.write_text(JOB.format(directory=str(self.watched), more=more, **given))
        return script

    def check(self, script: Path, *flags: str) -> tuple[int, Any]:
        code, out, err = penstock("savepoint", "check", self.savepoint, str(script), "-o", "json", *flags)
        assert out, err
        return code, json.loads(out)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return Shop(tmp_path_factory.mktemp("shop"))


def test_list_tells_what_a_savepoint_holds(shop: Shop) -> None:
    code, out, err = penstock("state", "list", shop.savepoint, "-o", "json")
    assert code == 0, err
    states = {(each["operator"], each["name"]): (each["kind"], each["key"], each["type"]) for each in json.loads(out)}
    assert states["tallies", "tally"] == ("value", "str", "Tally")
    assert states["tallies", "seen"] == ("map", "str", "pickled")
    assert states["tallies", "timers/event"] == ("timers", "str", "")
    assert {operator for operator, _state in states} == {"tallies", "counts"}
    _, text, _ = penstock("state", "list", f"{shop.savepoint}/_metadata", "--operator", "tallies")
    assert text.splitlines()[0].split() == ["OPERATOR", "STATE", "KIND", "KEY", "TYPE", "BYTES"]
    assert len(text.splitlines()) == 1 + sum(operator == "tallies" for operator, _state in states)


def test_cat_prints_rows(shop: Shop) -> None:
    code, out, err = penstock("state", "cat", shop.savepoint, "--operator", "tallies", "--state", "tally", "-o", "json")
    assert code == 0, err
    (found,) = json.loads(out)
    assert {(row["key"], row["word"], row["lines"]) for row in found["rows"]} == {("ann", "ann", 2), ("bo", "bo", 1)}
    _, text, told = penstock("state", "cat", shop.savepoint, "--state", "seen", "--limit", "1")
    assert text.splitlines()[0].split() == ["key_group", "key", "namespace", "user_key", "value"]
    assert len(text.splitlines()) == 2
    assert "the first 1 rows" in told


def test_cat_reads_checkpoints_too(shop: Shop) -> None:
    (checkpoint,) = shop.directory.glob(".penstock/checkpoints/*/chk-*")
    code, out, err = penstock("state", "cat", str(checkpoint), "-o", "json")
    assert code == 0, err
    _, of_savepoint, _ = penstock("state", "cat", shop.savepoint, "-o", "json")
    assert json.loads(out) == json.loads(of_savepoint)


def test_unknown_states_and_places_are_told(shop: Shop) -> None:
    code, _, err = penstock("state", "cat", shop.savepoint, "--state", "nothing")
    assert code == 2
    assert "tallies/tally" in err
    for path in (shop.directory / "nowhere", shop.directory):
        code, _, err = penstock("state", "list", str(path))
        assert code == 1
        assert str(path) in err


def test_a_savepoint_fits_its_job_and_one_that_has_evolved(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shop.directory)  # paths below it are refused where a script is captured for a cluster
    fits = {"fits": True, "problems": [], "dropped": [], "empty": [], "unknown": []}
    assert shop.check(shop.script("same.py", more=AGAIN)) == (0, fits)
    assert shop.check(shop.script("evolved.py", more=AGAIN, field="note: str = ''"), "-p", "3") == (0, fits)
    code, text, _ = penstock("savepoint", "check", shop.savepoint, str(shop.directory / "same.py"))
    assert code == 0
    assert text.startswith("fits same.py: checkpoint 1 of job 'tallies'")


def test_what_does_not_fit_is_told_by_state_and_field(shop: Shop) -> None:
    code, found = shop.check(shop.script("narrow.py", more=AGAIN, field="lines: str = ''"))
    assert code == 1
    (problem,) = found["problems"]
    assert "state 'tally'" in problem
    assert "'lines'" in problem
    code, found = shop.check(shop.directory / "narrow.py", "--no-open")
    assert code == 0
    assert len(found["unknown"]) == 3


def test_what_would_be_dropped_is_refused_unless_it_is_allowed(shop: Shop) -> None:
    other = "lines.key_by(len).count().uid('other').print()"
    script = shop.script("gone.py", more=other)
    code, found = shop.check(script)
    assert code == 1
    assert [each["operator"] for each in found["dropped"]] == ["counts"]
    assert len(found["dropped"][0]["states"]) == 1
    assert len(found["empty"]) == 1
    assert shop.check(script, "-n")[0] == 0


def test_another_max_parallelism_is_a_problem(shop: Shop) -> None:
    more = f"{AGAIN}\nenv.set_max_parallelism(64)"
    code, found = shop.check(shop.script("wide.py", more=more))
    assert code == 1
    assert any("max parallelism" in problem for problem in found["problems"])


def test_a_function_that_cannot_be_opened_here_is_no_problem(shop: Shop) -> None:
    script = shop.script("service.py", more=AGAIN, opening="raise ConnectionError('no service')")
    code, found = shop.check(script)
    assert code == 0
    assert len(found["unknown"]) == 1
    assert "ConnectionError: no service" in found["unknown"][0]


def test_a_script_without_a_pipeline_is_told(shop: Shop) -> None:
    (shop.directory / "empty.py").write_text("print('nothing')\n")
    code, _, err = penstock("savepoint", "check", shop.savepoint, str(shop.directory / "empty.py"))
    assert code == 1
    assert "empty.py has no pipeline" in err


# before a job exists ------------------------------------------------------------------------------------------------

MISFIT = (
    "state 'tally' of operator 'process Tallies' does not fit what was restored: field 'lines' was int and is now str"
)


def test_a_run_here_is_refused_before_there_is_a_job(shop: Shop, here: Path) -> None:
    script = shop.script("refused.py", more=AGAIN, field="lines: str = ''")
    code, _, err = penstock("run", "--local", str(script), "-s", shop.savepoint)
    assert code == 1
    assert f"error: checkpoint 1 of job 'tallies' does not fit: {MISFIT}; declare 'lines' so that it can be int" in err
    assert not list(here.glob(".penstock/checkpoints/jobs/*"))


def test_a_submitted_script_is_refused_before_there_is_a_job(
    shop: Shop, here: Path, address: str, gateway: Any
) -> None:
    def submit(script: Path, *flags: str) -> tuple[int, str, str]:
        return penstock("submit", str(script), "-s", shop.savepoint, "--address", address, *flags)

    code, _, err = submit(shop.script("refused.py", field="lines: str = ''"))
    assert code == 1
    assert f"error: checkpoint 1 of job 'tallies' does not fit:\n  {MISFIT}; declare" in err, "each on a line"
    assert "\n  it holds state of operators that the job does not have: counts (state '" in err
    assert gateway.running == {}
    code, out, err = submit(shop.script("gone.py", opening="raise ConnectionError('no service')"), "-n")
    assert code == 0, err
    assert "note: dropped of checkpoint 1 of job 'tallies': operator counts (state '" in err
    assert "process Tallies: it cannot be opened here: ConnectionError: no service" in err
    assert list(gateway.running) == [out.strip()]


def test_a_savepoint_that_is_none_is_refused_by_a_cluster(shop: Shop, here: Path, address: str, gateway: Any) -> None:
    there = here / "savepoint-000000-000000000000"
    there.mkdir()
    (there / "_metadata").write_text("flink")
    script = shop.script("same.py", more=AGAIN)
    code, _, err = penstock("submit", str(script), "-s", str(there), "--address", address)
    assert code == 1
    assert f"error: {there}/_metadata is damaged, or was not written by penstock" in err
    assert gateway.running == {}


def test_a_pipeline_that_was_built_here_is_refused_by_a_cluster(
    shop: Shop, here: Path, address: str, gateway: Any
) -> None:
    """`python job.py` with a cluster's address: it goes there as a graph."""
    script = shop.script("refused.py", more=AGAIN, field="lines: str = ''")
    environment = {
        **os.environ,
        "PENSTOCK_ADDRESS": address,
        "PENSTOCK__EXECUTION__STATE_RECOVERY__PATH": shop.savepoint,
    }
    done = subprocess.run(
        [sys.executable, str(script)], cwd=here, env=environment, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 1
    assert MISFIT in done.stderr
    assert len(gateway.graphs) == 1
    assert gateway.running == {}
