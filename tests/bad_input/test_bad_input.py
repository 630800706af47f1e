"""Bad input, as a user meets it: one clear sentence that names the operator (or file, option, object), exit code 1
(2 for wrong usage), nothing written over, nothing lost. Where each refusal is proven:

| what is refused                                                     | where (under tests/) |
|---------------------------------------------------------------------|----------------------|
| map that yields; flat_map that returns str, dict, bytes; async def  | api/test_refusals.py |
| something that is no function; no operators at all                  | api/test_refusals.py |
| unknown columns: key_by, sum, expressions, agg, timestamps          | api/test_refusals.py |
| keyed function without keys; state without keys                     | api/test_refusals.py; runtime/test_functions |
| impossible parallelism, options, delivery modes, restart strategies | api/test_refusals.py |
| parallelism above max parallelism; duplicate uid                    | api/test_refusals.py |
| unbounded exactly-once sink without checkpoints                     | api/test_refusals.py |
| naive datetimes in a column                                         | api/test_refusals.py |
| naive datetimes from a timestamp assigner                           | here |
| sums that leave 64 bits                                             | here |
| key types by annotation                                             | api/test_refusals.py |
| key types by value: lists, NaN, a second type, True after 1         | here; all types: runtime/test_keys.py |
| functions that cannot be serialised; generic types                  | here |
| unknown option (nearest name), unknown flag, missing script         | api/test_command_line; api/test_configuration |
| malformed lines: fail, drop and count, side output                  | here; every kind: connectors/test_formats.py |
| missing, unreadable, vanished files and directories                 | here; connectors/test_file_source.py |
| records that do not fit the sink's format                           | connectors/test_file_sink.py |
| checkpoint directory: below a file, read-only, full                 | here; store/test_directory.py |
| full disks under a job: of state, of savepoints, of checkpoints     | pipelines/test_full_disks.py |
| a store that answers 503 for a while                                | pipelines/test_failing_store.py |
| damaged checkpoint: truncated, flipped byte, missing object         | here; all bytes: store/test_checkpoint_store |
| foreign checkpoint: no checkpoint, another version's                | here; store/test_checkpoint_store.py |
| another max parallelism; state of an operator that is gone (-n)     | here |
| damaged or missing state files of every kind, other formats         | bad_input/test_damaged_state.py |
| impossible TTLs, one name for two states, another kind than it was  | bad_input/test_declared_state.py |
| state of another type, before there is a job                        | jobmanager/test_restore_check |
| user function that raises                                           | api/test_command_line.py |
| a script that never calls execute                                   | here |
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from penstock.testing.commands import penstock_in

KEYS = """
import sys
import penstock as ps
keys = {"list": lambda x: [x], "nan": lambda x: float("nan"), "str": lambda x: "a" if x == 2 else x,
        "bool": lambda x: True if x == 2 else x}
env = ps.StreamExecutionEnvironment()
env.from_sequence(1, 3).key_by(keys[sys.argv[1]]).reduce(lambda a, b: a + b, name="totals").print()
env.execute()
"""
OVERFLOW = """
import sys
from dataclasses import dataclass
import penstock as ps

@dataclass
class Sale:
    shop: str
    amount: int
    at: int

strategy = ps.WatermarkStrategy.for_monotonous_timestamps().with_timestamp_assigner("at")
env = ps.StreamExecutionEnvironment()
sales = env.from_collection([Sale("a", 2**62, at) for at in range(3)], Sale, watermark_strategy=strategy)
keyed = sales.key_by("shop" if sys.argv[1] == "columns" else lambda sale: sale.shop)
keyed.window(ps.TumblingEventTimeWindows("1s")).agg(total=ps.sum("amount"), name="totals").print()
env.execute()
"""
NAIVE = """
from datetime import datetime
import penstock as ps
strategy = ps.WatermarkStrategy.for_monotonous_timestamps().with_timestamp_assigner(lambda x, _: datetime(2026, 1, 1))
env = ps.StreamExecutionEnvironment()
env.from_collection([1, 2], watermark_strategy=strategy, name="numbers").print()
env.execute()
"""
GENERIC_STATE = """
from collections.abc import Iterator
import penstock as ps

class Remembers(ps.KeyedProcessFunction):
    def open(self, context):
        self.last = context.get_state(ps.ValueStateDescriptor("last"))

    def process_element(self, value: int, context) -> Iterator[int]:
        self.last.update(value)
        yield value

env = ps.StreamExecutionEnvironment()
env.from_sequence(1, 3).key_by(lambda x: x, key_type=int).process(Remembers(), name="remembers").print()
env.execute()
"""
LOCK = """
import threading
import penstock as ps
lock = threading.Lock()

def locked(x: int) -> int:
    with lock:
        return x

env = ps.StreamExecutionEnvironment()
env.from_sequence(1, 3).map(locked, name="locked").print()
env.execute()
"""
GENERIC = """
import penstock as ps
env = ps.StreamExecutionEnvironment()
env.from_sequence(1, 3).map(lambda x: object(), name="things").key_by(lambda x: 1).reduce(lambda a, b: a).print()
env.execute()
"""
FILES = """
import sys
from dataclasses import dataclass
import penstock as ps
from penstock.connectors.files import FileSource
from penstock.connectors.formats import Csv, Json

@dataclass
class Row:
    a: int
    b: int

kind, path, policy = sys.argv[1:]
malformed = ps.OutputTag("malformed")
source = FileSource(path, {"json": Json, "csv": Csv}[kind](Row), on_malformed=malformed if policy == "side" else policy)
env = ps.StreamExecutionEnvironment()
rows = env.from_source(source, name="rows")
rows.map(lambda row: row.a).print("good")
if policy == "side":
    rows.get_side_output(malformed).map(lambda bad: f"{bad.line} {bad.raw.decode().strip()}").print("bad")
result = env.execute()
counters = {name: count for vertex in result.status.vertices for name, count in vertex.counters.items()}
print("dropped", sum(count for name, count in counters.items() if "malformed" in name))
"""
JOB = """
import os, sys
import penstock as ps
from penstock.connectors.files import FileSink
from penstock.connectors.formats import Json
from penstock.testing.lists import ListSource

def check(x: int) -> int:
    if x == 150 and not os.path.exists("mended"):
        raise ValueError("bad number")
    return x

env = ps.StreamExecutionEnvironment()
env.enable_checkpointing("10ms").set_restart_strategy("none")
env.set_max_parallelism(64 if "rescaled" in sys.argv else 128)
numbers = env.from_source(ListSource(list(range(300)), batch_rows=5, pause_ms=5), name="numbers", uid="numbers")
keyed = numbers.map(check, name="check").key_by(lambda x: x % 3)
sums = numbers if "gone" in sys.argv else keyed.sum(name="totals").uid("totals")
sums.map(lambda x: {"x": x}).sink_to(FileSink("out", Json()), name="out").uid("out")
env.execute("job")
"""


def run(directory: Path, *arguments: str) -> tuple[int, str, list[str]]:
    """Exit code, standard output, and the errors told. Never with frames of ours."""
    code, out, err = penstock_in(directory, "run", *arguments)
    lines = err.splitlines()
    assert not [line for line in lines if 'File "' in line and ("/runtime/" in line or "/taskmanager/" in line)]
    return code, out, [line for line in lines if line.startswith("error: ")]


def told(directory: Path, *arguments: str) -> str:
    """To people, by a run that succeeds."""
    code, _, err = penstock_in(directory, "run", *arguments)
    assert code == 0
    return err


def refused(directory: Path, script: str, *arguments: str) -> str:
    (directory / "script.py").write_text(script)
    code, _, errors = run(directory, "script.py", *arguments)
    assert (code, len(errors)) == (1, 1)
    return errors[0]


# keys, types, functions -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "complaint"),
    [
        ("list", "builtins.list cannot be a key; keys are str, bytes, int"),
        ("nan", "NaN cannot be a key"),
        ("str", "the keys of this stream are of type int, but one is of type str: 'a'"),
        ("bool", "the keys of this stream are of type int, but one is of type bool: True"),
    ],
)
def test_keys_that_are_none(tmp_path: Path, kind: str, complaint: str) -> None:
    assert f"error: operator 'totals': {complaint}" in refused(tmp_path, KEYS, "--", kind)


@pytest.mark.parametrize("kind", ["columns", "rows"])
def test_sums_that_leave_64_bits(tmp_path: Path, kind: str) -> None:
    complaint = refused(tmp_path, OVERFLOW, "--", kind)
    assert "operator 'totals'" in complaint
    assert "the sum of column 'amount' does not fit 64 bits" in complaint


def test_naive_datetimes_as_event_time(tmp_path: Path) -> None:
    assert "operator 'numbers': the timestamp 2026-01-01 00:00:00 of the record 1 is a naive datetime" in refused(
        tmp_path, NAIVE
    )


def test_a_function_that_cannot_be_serialised(tmp_path: Path) -> None:
    assert refused(tmp_path, LOCK) == (
        "error: operator 'locked': its function cannot be serialised, because it uses 'lock' (a _thread.lock); create "
        "it in open(), or pass what it is made from"
    )
    assert not (tmp_path / ".penstock").exists()


def test_generic_types_where_they_are_not_allowed(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(GENERIC)
    assert run(tmp_path, "script.py")[0] == 0
    assert "the pipeline has 2 problems" in refused(tmp_path, GENERIC, "-c", "pipeline.generic-types=false")


def test_generic_state_where_it_is_not_allowed(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(GENERIC_STATE)
    assert run(tmp_path, "script.py")[0] == 0
    complaint = refused(tmp_path, GENERIC_STATE, "-c", "pipeline.generic-types=false")
    assert "state 'last' of operator 'remembers' would be pickled, and pipeline.generic-types is false" in complaint


def test_a_script_that_never_executes_says_so(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(GENERIC.replace("env.execute()", ""))
    assert told(tmp_path, "script.py") == (
        "note: script.py has run no job; a pipeline runs when env.execute() is called\n"
    )
    assert not (tmp_path / ".penstock").exists()
    (tmp_path / "script.py").write_text(GENERIC)
    assert "has run no job" not in told(tmp_path, "script.py")


# files ------------------------------------------------------------------------------------------------------------

LINES = {
    "json": ('{"a": 1, "b": 1}\n{"a": oops}\n{"a": 3, "b": 3}\n', 2, '{"a": oops}'),
    "csv": ("a,b\n1,1\nx,2\n3,3\n", 3, "x,2"),
}


@pytest.mark.parametrize("kind", LINES)
def test_a_malformed_line(tmp_path: Path, kind: str) -> None:
    data, line, text = LINES[kind]
    path = tmp_path / f"rows.{kind}"
    path.write_text(data)
    assert f"error: operator 'rows', subtask 0: {path}, line {line}: " in refused(
        tmp_path, FILES, "--", kind, str(path), "fail"
    )
    code, out, _ = run(tmp_path, "script.py", "--", kind, str(path), "drop")
    assert (code, out.splitlines()) == (0, ["good> 1", "good> 3", "dropped 1"])
    code, out, _ = run(tmp_path, "script.py", "--", kind, str(path), "side")
    assert code == 0
    assert sorted(out.splitlines())[:1] == [f"bad> {line} {text}"]
    assert {"good> 1", "good> 3"} < set(out.splitlines())


@pytest.mark.parametrize("path", ["nope.json", "nowhere/*.json", "empty"])
def test_a_file_that_is_not_there(tmp_path: Path, path: str) -> None:
    sentence = refused(tmp_path, FILES, "--", "json", path, "fail")
    assert sentence.startswith(f"error: operator 'rows': there is no file {tmp_path / path}")
    assert not (tmp_path / ".penstock").exists()


def test_files_that_vanish_while_the_job_runs(tmp_path: Path) -> None:
    rows = tmp_path / "rows"
    rows.mkdir()
    for name in "ab":
        (rows / f"{name}.json").write_text('{"a": 1, "b": 1}\n')
    vanishing = FILES.replace("lambda row: row.a", "lambda row: shutil.rmtree(path)").replace(
        "import sys", "import shutil, sys"
    )
    sentence = refused(tmp_path, vanishing, "-c", "restart-strategy.type=none", "--", "json", str(rows), "fail")
    assert sentence.startswith("error: operator 'rows', subtask 0: ")
    assert str(rows / "b.json") in sentence


# checkpoints ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("directory", ["file", "file/below"])
def test_a_checkpoint_directory_that_cannot_be(tmp_path: Path, directory: str) -> None:
    (tmp_path / "file").write_text("")
    assert directory in refused(tmp_path, GENERIC, "-c", f"state.checkpoints.dir={directory}")
    assert (tmp_path / "file").read_text() == ""


@pytest.fixture(scope="module")
def failed_job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working directory of a job that failed in its middle, after some checkpoints."""
    directory = tmp_path_factory.mktemp("failed")
    (directory / "job.py").write_text(JOB)
    code, _, errors = run(directory, "job.py")
    assert (code, errors) == (1, ["error: operator 'check', subtask 0: ValueError: bad number (on the record 150)"])
    assert metadata_of(directory).exists()
    return directory


@pytest.fixture
def job(failed_job: Path, tmp_path: Path) -> Path:
    return shutil.copytree(failed_job, tmp_path / "job")


def metadata_of(directory: Path) -> Path:
    return max(directory.glob(".penstock/checkpoints/*/chk-*/_metadata"))


def results(directory: Path) -> list[int]:
    files = [path for path in (directory / "out").rglob("*") if path.is_file() and not path.name.startswith(("_", "."))]
    return sorted(json.loads(line)["x"] for path in files for line in path.read_text().splitlines())


def expected() -> list[int]:
    sums, found = [0, 0, 0], []
    for x in range(300):
        sums[x % 3] += x
        found.append(sums[x % 3])
    return sorted(found)


def continues_exactly(directory: Path) -> None:
    (directory / "mended").touch()
    code, _, errors = run(directory, "job.py", "-s", "latest")
    assert (code, errors) == (0, [])
    assert results(directory) == expected()


def test_a_failed_job_continues_once_its_function_is_mended(job: Path) -> None:
    assert 0 < len(results(job)) <= 150
    continues_exactly(job)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing state", "missing metadata"])
def test_a_damaged_checkpoint_is_named_and_nothing_is_lost(job: Path, damage: str) -> None:
    damaged = metadata_of(job)
    if damage == "missing state":
        damaged = max(job.glob(".penstock/checkpoints/*/shared/*"), key=lambda path: path.stat().st_size)
    whole = damaged.read_bytes()
    if damage == "truncated":
        damaged.write_bytes(whole[:-5])
    elif damage == "flipped":
        damaged.write_bytes(
            whole[: len(whole) // 2] + bytes([whole[len(whole) // 2] ^ 1]) + whole[len(whole) // 2 + 1 :]
        )
    else:
        damaged.unlink()
    before = results(job)
    code, _, errors = run(job, "job.py", "-s", "latest")
    assert (code, len(errors)) == (1, 1)
    assert damaged.name in errors[0]
    assert "missing" in errors[0] if "missing" in damage else "damaged" in errors[0]
    assert results(job) == before
    damaged.write_bytes(whole)
    continues_exactly(job)


@pytest.mark.parametrize("path", ["nonsense", "job.py", ".penstock/checkpoints", "abc/chk-1-1/_metadata"])
def test_what_is_no_checkpoint(job: Path, path: str) -> None:
    code, _, errors = run(job, "job.py", "-s", path)
    assert (code, len(errors)) == (1, 1)
    assert "checkpoint" in errors[0]
    continues_exactly(job)


def test_a_foreign_file_in_the_place_of_a_checkpoint(job: Path) -> None:
    place = metadata_of(job).parent.parent / "chk-99-1"
    place.mkdir()
    (place / "_metadata").write_text('{"format": "somebody else\'s"}')
    code, _, errors = run(job, "job.py", "-s", str(place))
    assert (code, len(errors)) == (1, 1)
    assert "chk-99-1/_metadata is damaged, or was not written by penstock" in errors[0]
    continues_exactly(job)


def test_a_checkpoint_of_another_max_parallelism(job: Path) -> None:
    code, _, errors = run(job, "job.py", "-s", "latest", "--", "rescaled")
    assert code == 1
    assert "totals: its keyed state was written at max parallelism 128, the job has 64; set it back" in errors[0]
    continues_exactly(job)


def test_state_of_an_operator_that_is_gone(job: Path) -> None:
    code, _, errors = run(job, "job.py", "-s", "latest", "--", "gone")
    assert code == 1
    assert "it holds state of operators that the job does not have: totals (state 'running'); give" in errors[0]
    (job / "mended").touch()
    assert "note: dropped of checkpoint " in told(job, "job.py", "-s", "latest", "-n", "--", "gone")
