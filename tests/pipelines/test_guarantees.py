"""What README.md promises of the connectors that need nothing outside: after a killed slot, a killed process, and at
another parallelism. The file connectors' promises are kept by test_failures_and_restores.py and tests/examples.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import penstock as ps
from penstock.connectors.collect import Collector
from penstock.connectors.collections import CollectionSource, SequenceSource
from penstock.connectors.discard import DiscardingSink
from penstock.jobmanager.events import JobState
from penstock.testing.lists import ListSink

NUMBERS = 40_000
MANY = 300_000
"""More than are read before the first checkpoint is complete, on a slow disk too."""

SOURCES = {
    "collection": lambda: CollectionSource(range(1, NUMBERS + 1)),
    "sequence": lambda: SequenceSource(1, NUMBERS),
}


def every_number_once(found: list[int], numbers: int = NUMBERS) -> bool:
    return sorted(found) == list(range(1, numbers + 1))


@pytest.fixture
def numbers(hold: Any, tmp_path: Path) -> Any:
    """A stream of numbers that comes to a halt until `gate` is there."""

    def stream(env: ps.StreamExecutionEnvironment, source: str = "sequence") -> ps.DataStream:
        return env.from_source(hold(SOURCES[source](), tmp_path / "gate", NUMBERS // 4), name="numbers")

    return stream


@pytest.fixture
def killed(drive: Any, tmp_path: Path) -> Any:
    """Run a pipeline to its end; one of its slots is killed on the way, behind some checkpoints."""

    def run(env: ps.StreamExecutionEnvironment) -> Any:
        job = drive(env).checkpoints(3).kill()
        (tmp_path / "gate").touch()
        status = job.end()
        assert (status.restarts, status.state) == (1, JobState.FINISHED)
        return status

    return run


@pytest.mark.parametrize("source", SOURCES)
def test_values_are_read_once_although_a_slot_is_killed(
    new_env: Any, numbers: Any, killed: Any, results: Any, source: str
) -> None:
    env = new_env(2)
    numbers(env, source).sink_to(ListSink("read"))
    assert results("read") == []
    killed(env)
    assert every_number_once(results("read"))


@pytest.mark.parametrize("source", SOURCES)
def test_values_are_read_once_at_another_parallelism(
    new_env: Any, numbers: Any, drive: Any, results: Any, source: str, tmp_path: Path
) -> None:
    def job(parallelism: int, restore: str | None = None) -> Any:
        env = new_env(parallelism, restore)
        numbers(env, source).sink_to(ListSink("read"), name="read")
        return drive(env)

    assert results("read") == []
    job(2).checkpoints().stop()
    assert 0 < len(results("read")) < NUMBERS
    (tmp_path / "gate").touch()
    job(3, restore="latest").end()
    assert every_number_once(results("read"))


def test_collected_records_come_once_although_a_slot_is_killed(new_env: Any, numbers: Any, killed: Any) -> None:
    collector = Collector()
    env = new_env(2)
    numbers(env).sink_to(collector.sink())
    killed(env)
    collector.finish()
    assert every_number_once(list(collector))


def test_collected_records_come_once_at_another_parallelism(
    new_env: Any, numbers: Any, drive: Any, tmp_path: Path
) -> None:
    collector = Collector()

    def job(parallelism: int, restore: str | None = None) -> Any:
        env = new_env(parallelism, restore)
        numbers(env).sink_to(collector.sink(), name="collected")
        return drive(env)

    job(2).checkpoints().stop()
    first = collector.take()
    assert 0 < len(first) < NUMBERS
    (tmp_path / "gate").touch()
    job(1, restore="latest").end()
    assert every_number_once(first + collector.take())


def test_printed_records_may_come_twice_and_none_is_missing(
    new_env: Any, numbers: Any, killed: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    env = new_env(2)
    numbers(env).print("n")
    killed(env)
    printed = {int(line.rpartition(" ")[2]) for line in capsys.readouterr().out.splitlines()}
    assert printed == set(range(1, NUMBERS + 1))


def test_a_discarding_sink_ends_like_any_other(new_env: Any, numbers: Any, killed: Any) -> None:
    env = new_env(2)
    numbers(env).sink_to(DiscardingSink())
    assert killed(env).checkpoints.restored is not None


JOB = """
import os, signal, sys
from pathlib import Path
import penstock as ps
from penstock.connectors.files import FileSink
from penstock.connectors.formats import Json

def maybe_die(x: int) -> int:
    if x > 5_000 and not Path("died").exists() and any(Path("checkpoints").glob("*/chk-*/_metadata")):
        Path("died").write_text(str(x))
        sys.stdout.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    return x

env = ps.StreamExecutionEnvironment()
env.enable_checkpointing("10ms", storage="checkpoints")
numbers = {source}.map(maybe_die)
numbers.print()
numbers.sink_to(FileSink("out", Json()))
env.execute("numbers")
"""


@pytest.mark.parametrize(
    "source", [f"env.from_collection(range(1, {MANY + 1}))", f"env.from_sequence(1, {MANY})"], ids=list(SOURCES)
)
def test_values_are_read_once_although_the_process_is_killed(tmp_path: Path, source: str) -> None:
    """Read once into files; what is printed may come twice, and none of it is missing."""
    (tmp_path / "job.py").write_text(JOB.format(source=source))
    command = [sys.executable, "-m", "penstock.api.command_line", "run", "job.py"]
    printed: Counter[int] = Counter()
    for code, flags in ((-9, []), (0, ["-s", "latest"])):
        done = subprocess.run([*command, *flags], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=90)
        assert done.returncode == code, done.stderr
        printed.update(map(int, done.stdout.split()))
    files = [path for path in (tmp_path / "out").iterdir() if not path.name.startswith("_")]
    assert every_number_once([json.loads(line) for path in files for line in path.read_text().splitlines()], MANY)
    assert sorted(printed) == list(range(1, MANY + 1))
