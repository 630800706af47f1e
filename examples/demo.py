"""`make demo`: the flights job runs, is killed with SIGKILL on the way, continues from its last checkpoint, and shows
what it has found. Everything it writes is below `.penstock/demo` in the working directory.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import flight_delays
import polars as pl
from rich.console import Console
from rich.table import Table

import penstock as ps

DIRECTORY = Path(".penstock/demo")
JOB_NAME = "flight delays"
KILL_AT = 0.4
"""Share of the flights after which the first process is killed."""

console = Console(highlight=False)


def run_job(restore: str | None) -> None:
    """The child process: runs the job and writes a line of JSON about it twice a second."""
    configuration = ps.Configuration({"state.checkpoints.dir": str(DIRECTORY / "checkpoints")})
    if restore is not None:
        configuration.set("execution.state-recovery.path", restore)
    env = ps.StreamExecutionEnvironment(configuration)
    env.enable_checkpointing("1s")
    flight_delays.build(env, DIRECTORY / "flights", DIRECTORY / "results", bound="2h")
    job = env.execute_async(JOB_NAME)
    while True:
        try:
            job.result(timeout_s=0.5)
        except TimeoutError:
            report(job.status())
            continue
        report(job.status())
        return


def report(status: Any) -> None:
    source = status.vertices[0]
    progress = {
        "records": source.records_in,
        "watermark": source.watermark,
        "checkpoints": status.checkpoints.completed,
        "checkpoint": status.checkpoints.last_completed,
        "restored": status.checkpoints.restored,
        "state": status.state.value,
    }
    print("@" + json.dumps(progress), flush=True)


def watch(restore: str | None, kill_at_records: int | None) -> dict[str, Any]:
    """Run the child and show its progress. Its last report; SIGKILL once it has read so many records."""
    command = [sys.executable, __file__, "--child", *(["--restore", restore] if restore else [])]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    began_s, last = time.monotonic(), {"records": 0, "checkpoints": 0}
    with console.status("starting") as line:
        for text in child.stdout:
            if not text.startswith("@"):
                continue
            before, last = last, json.loads(text[1:])
            if last["records"] != before["records"]:
                show(line.update if console.is_terminal else console.print, last, time.monotonic() - began_s)
            if kill_at_records is not None and last["records"] >= kill_at_records and last["checkpoints"] >= 2:
                child.send_signal(signal.SIGKILL)
                break
    code = child.wait()
    if kill_at_records is None and code != 0:
        raise SystemExit(f"the job failed with exit code {code}")
    return last


def show(write: Any, progress: dict[str, Any], seconds: float) -> None:
    watermark = progress["watermark"]
    known = abs(watermark) < 2**62
    at = datetime.fromtimestamp(watermark / 1000, UTC).strftime("%Y-%m-%d %H:%M") if known else "-"
    write(
        f"  {progress['records']:>9,} flights   {progress['records'] / max(seconds, 0.1):>7,.0f}/s   "
        f"watermark {at:<16}   {progress['checkpoints']} checkpoints"
    )


def print_results(results: Path) -> None:
    delays = pl.read_parquet(results / "delays" / "*" / "*.parquet")
    console.print(
        table(
            "Departures per airport (1 h windows, vectorised)",
            delays.group_by("origin")
            .agg(
                windows=pl.len(),
                departures=pl.col("departures").sum(),
                mean_delay=((pl.col("mean_delay") * pl.col("departures")).sum() / pl.col("departures").sum()).round(2),
                worst_delay=pl.col("worst_delay").max(),
            )
            .sort("origin"),
        )
    )
    carriers = pl.read_parquet(results / "carriers" / "*" / "*.parquet")
    latest = carriers.sort("flights").group_by("carrier").last().sort("flights", descending=True)
    console.print(table("Carriers (keyed running state)", latest.drop("at", "streak").head(8)))
    turnarounds = pl.concat([pl.read_ndjson(path) for path in files(results / "turnarounds")])
    console.print(
        table(
            f"Turnarounds under 45 minutes (timers): {len(turnarounds)}, the tightest",
            turnarounds.with_columns(
                minutes=(pl.col("left") - pl.col("due")) // 60_000, left=pl.from_epoch("left", time_unit="ms")
            )
            .sort("minutes", "tailnum")
            .drop("due")
            .head(5),
        )
    )
    late = {name: sum(count_lines(path) for path in files(results / "late" / name)) for name in ("delays", "carriers")}
    counted = int(latest["flights"].sum()) + late["carriers"]
    console.print(f"Late: {late['carriers']} flights, {late['delays']} of them departed and missed their window.")
    console.print(
        f"Flights counted, on time and late: {counted:,} of {flight_delays.FLIGHTS_IN_FILE:,}. "
        + ("None lost, none doubled." if counted == flight_delays.FLIGHTS_IN_FILE else "[red]That is wrong.[/red]")
    )
    if counted != flight_delays.FLIGHTS_IN_FILE:
        raise SystemExit(1)


def files(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file() and not path.name.startswith(("_", ".")))


def count_lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for _ in file)


def table(title: str, frame: pl.DataFrame) -> Table:
    drawn = Table(title=title, title_justify="left")
    for name in frame.columns:
        drawn.add_column(name.replace("_", " "), justify="right" if frame[name].dtype.is_numeric() else "left")
    for row in frame.iter_rows():
        drawn.add_row(*(f"{value:,}" if isinstance(value, int) else str(value) for value in row))
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--restore")
    arguments = parser.parse_args()
    if arguments.child:
        run_job(arguments.restore)
        return
    began_s = time.monotonic()
    shutil.rmtree(DIRECTORY, ignore_errors=True)
    flight_delays.monthly_files(DIRECTORY / "flights")
    console.print(f"Running examples/flight_delays.py: {flight_delays.FLIGHTS_IN_FILE:,} flights of 2013.")
    killed = watch(None, int(KILL_AT * flight_delays.FLIGHTS_IN_FILE))
    console.print(
        f"Killed with SIGKILL after {killed['records']:,} flights and {killed['checkpoints']} checkpoints. "
        "Continuing with `-s latest`:"
    )
    finished = watch("latest", None)
    console.print(f"{finished['state']}, restored from checkpoint {finished['restored']}.\n")
    print_results(DIRECTORY / "results")
    console.print(f"\nResults:     {os.path.relpath(DIRECTORY / 'results')}/{{delays,carriers,turnarounds,late}}")
    console.print(f"Checkpoints: {os.path.relpath(DIRECTORY / 'checkpoints')} (removed when the job finished)")
    console.print(f"Took {time.monotonic() - began_s:.0f} s.")


if __name__ == "__main__":
    main()
