"""Order statistics against DuckDB over the same orders: straight, in batch mode, killed and restored at another
parallelism."""

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
COUNT = 1_500
REGIONS = """
with hours as (
    select region, "at" // 3600000 * 3600000 as window_start, count(*) as orders, sum(cents)::bigint as revenue,
           avg(cents) as mean, coalesce(stddev(cents), -1) as spread, quantile_cont(cents, 0.5) as median,
           quantile_cont(cents, 0.95) as p95
    from orders group by all)
"""


@pytest.fixture(scope="module")
def data(example: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    written: Path = example.write_orders(tmp_path_factory.mktemp("orders") / "orders", COUNT, files=4)
    return written


def assert_exact(data: Path, out: Path, *, only_last_totals: bool = False) -> None:
    connection = duckdb.connect()
    connection.execute("set threads = 1")
    connection.execute(f"create table orders as select region, \"at\", cents from read_json('{data}/*.json')")

    def asked(query: str) -> list[tuple[Any, ...]]:
        return connection.execute(query).fetchall()

    of_hours = asked(f"{REGIONS} select * from hours order by all")
    found = asked(
        f"""select region, window_start, orders, revenue, mean, coalesce(spread, -1), median, p95
        from read_json('{out}/regions/*.json') order by all"""
    )
    assert [row[:5] for row in found] == [row[:5] for row in of_hours]
    for row, expected in zip(found, of_hours, strict=True):
        assert row[5:] == pytest.approx(expected[5:], rel=1e-9)
    places = asked(
        f"""{REGIONS}, places as (
            select window_start, row_number() over (partition by window_start order by revenue desc, region) as place,
                   region, revenue from hours)
        select * from places where place <= 3 order by all"""
    )
    assert asked(f"select start, place, region, revenue from read_json('{out}/top/*.json') order by all") == places
    totals = asked(f"select region, orders, revenue from read_json('{out}/totals/*.json') order by all")
    last = asked("select region, count(*), sum(cents)::bigint from orders group by all order by all")
    if only_last_totals:
        assert totals == last
    else:
        assert len(totals) == COUNT, "one of every order"
        assert sorted({region: total for region, *total in totals}.items()) == [(row[0], [*row[1:]]) for row in last]


def run(example: ModuleType, cwd: Path, data: Path, parallelism: int, **configured: str) -> Path:
    """In this process."""
    env = ps.StreamExecutionEnvironment(ps.Configuration({"execution.target": "local", **configured}))
    env.set_parallelism(parallelism).enable_checkpointing("200ms", storage=cwd / "checkpoints")
    example.build(env, data, cwd / "out", "1h")
    env.execute("order statistics")
    return cwd / "out"


def test_straight_through(tmp_path: Path, example: ModuleType, data: Path) -> None:
    assert_exact(data, run(example, tmp_path, data, 2))


def test_in_batch_mode_only_the_last_totals_are_given_out(tmp_path: Path, example: ModuleType, data: Path) -> None:
    out = run(example, tmp_path, data, 3, **{"execution.runtime-mode": "BATCH"})
    assert_exact(data, out, only_last_totals=True)


@pytest.mark.parametrize("mode", ["STREAMING", "BATCH"])
def test_killed_and_restored_at_another_parallelism(
    tmp_path: Path, data: Path, mode: str, kill_on_the_way: KillOnTheWay
) -> None:
    out = tmp_path / "out"

    def command(*flags: str, rate: str | None = None) -> list[str]:
        script = ["--data", str(data), "--out", str(out), "--bound", "1h", *(["--rate", rate] if rate else [])]
        job = str(EXAMPLES / "order_statistics.py")
        flags = (*flags, "-c", f"execution.runtime-mode={mode}")
        return [sys.executable, "-m", "penstock.api.command_line", "run", job, "--local", *flags, "--", *script]

    kill_on_the_way(command("-p", "2", "-c", "execution.checkpointing.interval=100ms", rate="500"), 3)
    finished = subprocess.run(
        command("-p", "3", "-s", "latest"), cwd=tmp_path, capture_output=True, text=True, timeout=100
    )
    assert finished.returncode == 0, finished.stderr
    assert_exact(data, out, only_last_totals=mode == "BATCH")
