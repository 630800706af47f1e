"""The main job against DuckDB over the same files: straight, killed and restored, restored at another parallelism."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import pytest

if TYPE_CHECKING:
    from conftest import KillOnTheWay

pytestmark = pytest.mark.timeout(400)

EXAMPLES = Path(__file__).parents[2] / "examples"
EXACT = "33h"
"""Above the data's disorder: nothing is late, every result is exact."""

FLIGHTS = """
create table flights as
select *, row_number() over () as line,
       epoch_ms(time_hour) + (minute + coalesce(dep_delay, 0)) * 60000 as left_ms
from read_csv('{data}/*.csv', nullstr='NA')
"""
DELAYS = """
select origin, left_ms // 3600000 * 3600000 as window_start, left_ms // 3600000 * 3600000 + 3600000 as window_end,
       count(*) as departures, avg(dep_delay) as mean_delay, max(dep_delay) as worst_delay
from flights where dep_delay is not null group by all order by origin, window_start
"""
TURNAROUNDS = """
select tailnum, flight, left_ms as left_at, due from (
    select tailnum, flight, left_ms, lag(left_ms + air_time * 60000) over (
        partition by tailnum order by left_ms, flight, origin, dest) as due
    from flights where tailnum is not null and air_time is not null
) where left_ms < due + 45 * 60000 order by all
"""
CARRIERS = """
with ordered as (
    select carrier, left_ms, flight, origin, dest, dep_delay is null as is_cancelled, dep_delay > 15 as is_delayed,
           row_number() over (partition by carrier order by left_ms, flight, origin, dest) as n
    from flights),
streaks as (
    select *, sum(case when not is_cancelled and not is_delayed then 1 else 0 end)
        over (partition by carrier order by n) as streak_number from ordered),
running as (
    select *, count(*) filter (is_delayed) over (partition by carrier, streak_number order by n) as streak from streaks)
select carrier, left_ms, n as flights,
       count(*) filter (is_cancelled) over (partition by carrier order by n) as cancelled,
       streak, max(streak) over (partition by carrier order by n) as longest_streak
from running order by carrier, n
"""


@pytest.fixture(scope="module")
def year(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of all months."""
    sys.path.insert(0, str(EXAMPLES))
    try:
        import flight_delays
    finally:
        sys.path.remove(str(EXAMPLES))
    return flight_delays.monthly_files(tmp_path_factory.mktemp("year") / "flights")


@pytest.fixture(scope="module")
def spring(year: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five weeks of two months: enough for what is killed and restored."""
    directory = tmp_path_factory.mktemp("spring")
    for name, days in {"flights-02.csv": range(8, 29), "flights-03.csv": range(1, 15)}.items():
        header, *lines = (year / name).read_text().splitlines(keepends=True)
        kept = (line for line in lines if int(line.split(",", 3)[2]) in days)
        (directory / name).write_text(header + "".join(kept))
    return directory


def database(data: Path) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    connection.execute("set threads = 1; set timezone = 'UTC'")
    connection.execute(FLIGHTS.format(data=data))
    return connection


def command(data: Path, out: Path, bound: str, *flags: str, rate: int | None = None) -> list[str]:
    script = ["--data", str(data), "--out", str(out), "--bound", bound]
    if rate is not None:
        script += ["--rate", str(rate)]
    job = str(EXAMPLES / "flight_delays.py")
    return [sys.executable, "-m", "penstock.api.command_line", "run", job, "--local", *flags, "--", *script]


def run(cwd: Path, data: Path, out: Path, bound: str, *flags: str) -> None:
    finished = subprocess.run(command(data, out, bound, *flags), cwd=cwd, capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, finished.stderr


def read_results(connection: duckdb.DuckDBPyConnection, out: Path) -> dict[str, list[tuple[object, ...]]]:
    queries = {
        "delays": f"""select origin, window_start, window_end, departures, mean_delay, worst_delay
            from read_parquet('{out}/delays/*/*.parquet') order by origin, window_start""",
        "turnarounds": f"select tailnum, flight, \"left\", due from read_json('{out}/turnarounds/*') order by all",
        "carriers": f"""select carrier, "at", flights, cancelled, streak, longest_streak
            from read_parquet('{out}/carriers/*/*.parquet') order by carrier, flights""",
    }
    return {name: connection.execute(query).fetchall() for name, query in queries.items()}


def expected_results(connection: duckdb.DuckDBPyConnection) -> dict[str, list[tuple[object, ...]]]:
    queries = {"delays": DELAYS, "turnarounds": TURNAROUNDS, "carriers": CARRIERS}
    return {name: connection.execute(query).fetchall() for name, query in queries.items()}


def late_files(out: Path) -> Iterator[Path]:
    yield from (path for path in (out / "late").rglob("*") if path.is_file() and not path.name.startswith("_"))


def assert_exact(data: Path, out: Path) -> None:
    connection = database(data)
    expected, results = expected_results(connection), read_results(connection, out)
    for name, rows in expected.items():
        assert len(rows) > 10, "the oracle has something to say"
        assert results[name] == rows, name
    assert list(late_files(out)) == []
    assert not [path for path in out.rglob("_*") if path.is_file()], "nothing is left pending"


@pytest.mark.long
def test_the_whole_year_is_exact(tmp_path: Path, year: Path) -> None:
    run(tmp_path, year, tmp_path / "out", EXACT)
    assert_exact(year, tmp_path / "out")


def test_two_subtasks_with_a_tighter_bound_lose_nothing(tmp_path: Path, spring: Path) -> None:
    """What comes too late is in the side outputs: on-time and late together are the whole input."""
    out = tmp_path / "out"
    at_once = "execution.buffer-timeout.interval=0ms"  # else which are late depends on how fast all of it is
    run(tmp_path, spring, out, "10min", "-p", "2", "-c", at_once)
    connection = database(spring)
    departed, flew, flights = connection.execute(
        "select count(dep_delay), count(*) filter (tailnum is not null and air_time is not null), count(*) from flights"
    ).fetchall()[0]
    results = read_results(connection, out)

    def late(name: str) -> int:
        return sum(len(path.read_text().splitlines()) for path in late_files(out) if path.parent.name == name)

    assert late("delays") > 0
    assert late("turnarounds") > 0
    assert sum(int(str(row[3])) for row in results["delays"]) + late("delays") == departed
    assert len(results["carriers"]) + late("carriers") == flights
    assert late("turnarounds") < flew


def test_killed_and_continued_is_exact(tmp_path: Path, spring: Path, kill_on_the_way: KillOnTheWay) -> None:
    """At parallelism 2, then at 3, and at 1 to the end."""
    out, latest = tmp_path / "out", ("-s", "latest")
    checkpoints = ("-c", "execution.checkpointing.interval=200ms")
    kill_on_the_way(command(spring, out, EXACT, "-p", "2", *checkpoints, rate=2_000), 4)
    kill_on_the_way(command(spring, out, EXACT, "-p", "3", *checkpoints, *latest, rate=2_000), 8)
    run(tmp_path, spring, out, EXACT, "-p", "1", *latest)
    assert_exact(spring, out)
