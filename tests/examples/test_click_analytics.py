"""Click analytics against DuckDB over the same clicks: straight, in batch mode, killed and restored at another
parallelism; and with a bound below the clicks' disorder, where what is late must be in the side outputs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import duckdb
import pytest

import penstock as ps

if TYPE_CHECKING:
    from conftest import KillOnTheWay

EXAMPLES = Path(__file__).parents[2] / "examples"
COUNT = 2_000
EXACT = "2h"
"""Above the clicks' disorder: nothing is late."""

CLICKS = 'create table clicks as select "user", page, "at", duration_ms from read_json(\'{data}/*.json\')'
ORACLE = {
    "pages": """
        select page, "at" // 60000 * 60000 as start, count(*), count(distinct "user"), avg(duration_ms)
        from {clicks} group by all order by all""",
    "trends": """
        select page, start, start + 600000, count(*), avg(duration_ms)
        from (select *, unnest(range("at" // 60000 * 60000 - 540000, "at" // 60000 * 60000 + 1, 60000)) as start
              from {clicks})
        group by all order by all""",
    "sessions": """
        with beginning as (
            select *, "at" > lag("at") over (partition by "user" order by "at") + 1800000 as begins from {clicks}),
        numbered as (
            select *, count(*) filter (begins) over (partition by "user" order by "at") as number from beginning)
        select "user", min("at") as start, max("at"), count(*), sum(duration_ms)::bigint
        from numbered group by "user", number order by all""",
}
RESULTS = {
    "pages": "select page, start, views, visitors, mean_ms",
    "trends": "select page, window_start, window_end, views, mean_ms",
    "sessions": 'select "user", start, "end", clicks, viewed_ms',
}


@pytest.fixture(scope="module")
def data(example: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    written: Path = example.write_clicks(tmp_path_factory.mktemp("clicks") / "clicks", COUNT, files=4)
    return written


def database(data: Path) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    connection.execute("set threads = 1")
    connection.execute(CLICKS.format(data=data))
    return connection


def results(connection: duckdb.DuckDBPyConnection, out: Path, name: str) -> list[Any]:
    return connection.execute(f"{RESULTS[name]} from read_json('{out}/{name}/*.json') order by all").fetchall()


def late(out: Path, name: str) -> list[str]:
    return [line for path in (out / "late" / name).glob("*.json") for line in path.read_text().splitlines()]


def assert_exact(data: Path, out: Path) -> None:
    connection = database(data)
    for name, query in ORACLE.items():
        expected = connection.execute(query.format(clicks="clicks")).fetchall()
        assert len(expected) > 100, "the oracle has something to say"
        assert results(connection, out, name) == expected, name
        assert late(out, name) == []


def run(example: ModuleType, cwd: Path, data: Path, bound: str, parallelism: int, **configured: str) -> Path:
    """In this process."""
    env = ps.StreamExecutionEnvironment(ps.Configuration({"execution.target": "local", **configured}))
    env.set_parallelism(parallelism).enable_checkpointing("200ms", storage=cwd / "checkpoints")
    example.build(env, data, cwd / "out", bound)
    env.execute("click analytics")
    return cwd / "out"


def test_straight_through(tmp_path: Path, example: ModuleType, data: Path) -> None:
    assert_exact(data, run(example, tmp_path, data, EXACT, 2))


def test_in_batch_mode_nothing_is_late_whatever_the_bound(tmp_path: Path, example: ModuleType, data: Path) -> None:
    assert_exact(data, run(example, tmp_path, data, "0s", 3, **{"execution.runtime-mode": "BATCH"}))


def test_what_is_late_is_in_the_side_outputs_and_in_no_result(tmp_path: Path, example: ModuleType, data: Path) -> None:
    at_once = {"execution.buffer-timeout.interval": "0ms"}  # else which are late depends on how fast all of it is
    out = run(example, tmp_path, data, "10s", 1, **at_once)
    connection = database(data)
    for name in ("pages", "sessions"):
        assert late(out, name)
        columns = '"user", page, "at", duration_ms'
        if name == "sessions":  # there it is the session that each click is made into
            columns = '"user", start as "at", viewed_ms as duration_ms'
        kept = columns.replace("start as ", "").replace("viewed_ms as ", "")
        on_time = f"(select {kept} from clicks except all select {columns} from read_json('{out}/late/{name}/*.json'))"
        assert results(connection, out, name) == connection.execute(ORACLE[name].format(clicks=on_time)).fetchall()


def test_killed_and_restored_at_another_parallelism(tmp_path: Path, data: Path, kill_on_the_way: KillOnTheWay) -> None:
    out = tmp_path / "out"

    def command(*flags: str, rate: str = "0") -> list[str]:
        script = ["--data", str(data), "--out", str(out), "--bound", EXACT]
        script += [] if rate == "0" else ["--rate", rate]
        job = str(EXAMPLES / "click_analytics.py")
        return [sys.executable, "-m", "penstock.api.command_line", "run", job, "--local", *flags, "--", *script]

    kill_on_the_way(command("-p", "2", "-c", "execution.checkpointing.interval=100ms", rate="600"), 3)
    finished = subprocess.run(
        command("-p", "3", "-s", "latest"), cwd=tmp_path, capture_output=True, text=True, timeout=100
    )
    assert finished.returncode == 0, finished.stderr
    assert_exact(data, out)
