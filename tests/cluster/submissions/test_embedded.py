"""A script without an address brings its own cluster, which leaves nothing behind but what continues the job."""

from __future__ import annotations

import signal
import subprocess
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Project

PRINTS = """
import sys
import penstock as ps
def shout(n):
    print("shouted", n, open("lists/words.txt").read())
    return n
env = ps.StreamExecutionEnvironment()
env.add_python_archive("words.zip", "lists")
env.from_sequence(1, 5).map(shout).print()
env.execute("prints")
"""
LONG = """
from pathlib import Path
import penstock as ps
import time
def slowly(n):
    if not Path("HURRY").exists():
        time.sleep(0.01)
    return n
env = ps.StreamExecutionEnvironment()
env.enable_checkpointing("500ms")
env.from_sequence(1, 5000).map(slowly).print()
env.execute("long")
"""


@pytest.fixture
def embedded(lonely_project: Project, short_directory: Path) -> Project:
    options = f"io.tmp.dirs: {short_directory}\ntaskmanager.numberOfTaskSlots: 2\nrest.port: 0\n"
    lonely_project.write("penstock.yaml", options)
    return lonely_project


def left_of(project: Project, directory: Path) -> list[str]:
    """Files of processes, and the processes."""
    files = [str(path) for path in directory.rglob("*") if path.is_file() and path.name not in ("token", "secret")]
    processes = subprocess.run(["pgrep", "-f", str(directory)], capture_output=True, text=True, check=False).stdout
    return files + processes.split()


@pytest.mark.parametrize("command", ["python job.py", "penstock run job.py"])
def test_what_is_printed_is_seen_and_nothing_is_left(command: str, embedded: Project, short_directory: Path) -> None:
    with zipfile.ZipFile(embedded.directory / "words.zip", "w") as archive:
        archive.writestr("words.txt", "loud")
    embedded.write("job.py", PRINTS)
    told = (
        embedded.run(embedded.python, "job.py") if command.startswith("python") else embedded.penstock("run", "job.py")
    )
    assert told.code == 0, told.err
    expected = [*(f"shouted {n} loud" for n in range(1, 6)), *(str(n) for n in range(1, 6))]
    assert sorted(told.out.splitlines()) == sorted(expected)
    assert "has finished: 5 records" in told.err
    assert "starting the dispatcher on it\n" in told.err, "nobody stares at nothing while a cluster starts"
    assert left_of(embedded, short_directory) == []


@pytest.mark.timeout(300)
def test_ctrl_c_stops_after_a_checkpoint_and_latest_continues(embedded: Project, short_directory: Path) -> None:
    hurry = embedded.directory / "hurry"
    embedded.write("job.py", LONG.replace("HURRY", str(hurry)))
    first = stopped_after(embedded, 50)
    assert "continue it with -s latest" in first[1]
    assert left_of(embedded, short_directory) == []
    hurry.touch()
    second = embedded.penstock("run", "job.py", "-s", "latest")
    assert second.code == 0, second.err
    assert "continuing job" in second.err
    assert "job 'long' has finished: " in second.err, "as it ends now, not as it ended before"
    rows = [int(line) for line in second.out.splitlines()]
    assert first[0] == list(range(1, first[0][-1] + 1))
    assert rows == list(range(rows[0], 5001))
    again = first[0][-1] + 1 - rows[0]
    assert 0 <= again < 100, "what came behind the last checkpoint is printed again, and that is little"


def stopped_after(project: Project, rows: int) -> tuple[list[int], str]:
    """Numbers that it printed until Ctrl-C after so many, and what it said."""
    penstock = Path(project.python).with_name("penstock")
    running = project.start(penstock, "run", "job.py")
    assert running.stdout is not None
    seen = [running.stdout.readline() for _ in range(rows)]
    running.send_signal(signal.SIGINT)
    told = project.rest_of(running)
    assert told.code == 130, told.err
    return [int(line) for line in [*seen, *told.out.splitlines()] if line.strip()], told.err
