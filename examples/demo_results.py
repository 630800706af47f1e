"""What the demos show: the tables of the flights job, and whether every flight was counted once."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import polars as pl
from rich.console import Console
from rich.table import Table

JOB_NAME = "flight delays"

console = Console(highlight=False)


def progress_line(records: int, watermark: int, checkpoints: int, seconds: float) -> str:
    at = datetime.fromtimestamp(watermark / 1000, UTC).strftime("%Y-%m-%d %H:%M") if abs(watermark) < 2**62 else "-"
    return (
        f"  {records:>9,} flights   {records / max(seconds, 0.1):>7,.0f}/s   watermark {at:<16}   "
        f"{checkpoints} checkpoints"
    )


def flights_in(data: Path) -> int:
    """How many there are to be counted."""
    return sum(count_lines(path) - 1 for path in files(data))


def print_results(results: Path, flights: int) -> None:
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
        f"Flights counted, on time and late: {counted:,} of {flights:,}. "
        + ("None lost, none doubled." if counted == flights else "[red]That is wrong.[/red]")
    )
    if counted != flights:
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
