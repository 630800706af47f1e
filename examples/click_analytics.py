"""Clicks on the pages of a shop, in event time: three windowed views of one stream, and what came too late for them.

  pages     per page and minute: views, visitors, mean time on the page
  trends    per page, every minute: the mean of the last 10 minutes (sliding windows that share their slices)
  sessions  per visitor: clicks that are at most 30 minutes apart, as one visit

Clicks come out of order by up to two minutes; some are held back for an hour, by phones that were offline. Those that
come later than the watermark allows go to `late`, one directory for each view.

    penstock run examples/click_analytics.py --local
    penstock run examples/click_analytics.py --local -- --bound 2h --out results
    penstock run examples/click_analytics.py --local -c execution.runtime-mode=batch
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import penstock as ps
from penstock.connectors.files import FileSink, FileSource
from penstock.connectors.formats import Json

SECOND_MS, MINUTE_MS, HOUR_MS = 1_000, 60_000, 3_600_000
SESSION_GAP_MS = 30 * MINUTE_MS
START_MS = 1_767_225_600_000
"""Midnight of the first of January 2026, UTC."""
DISORDER_MS = 2 * MINUTE_MS
OFFLINE_MS = HOUR_MS
PAGES = ("home", "search", "product", "basket", "checkout", "help")


@dataclass(frozen=True)
class Click:
    user: str
    page: str
    at: int
    duration_ms: int
    """How long the page was looked at."""


@dataclass(frozen=True)
class PageMinute:
    page: str
    start: int
    views: int
    visitors: int
    mean_ms: float


@dataclass(frozen=True)
class Session:
    user: str
    start: int
    end: int
    """Of the last click."""
    clicks: int
    viewed_ms: int


late = ps.OutputTag[Click]("late", Click)

PageTotals = tuple[int, int, frozenset[str]]


class PageStatistics(ps.AggregateFunction):
    """Views, ms looked at, and who."""

    def create_accumulator(self) -> PageTotals:
        return 0, 0, frozenset()

    def add(self, value: Click, accumulator: PageTotals) -> PageTotals:
        views, viewed_ms, users = accumulator
        return views + 1, viewed_ms + value.duration_ms, users | {value.user}

    def get_result(self, accumulator: PageTotals) -> PageTotals:
        return accumulator

    def merge(self, acc_a: PageTotals, acc_b: PageTotals) -> PageTotals:
        return acc_a[0] + acc_b[0], acc_a[1] + acc_b[1], acc_a[2] | acc_b[2]


class WithPageAndTime(ps.ProcessWindowFunction):
    """What the statistics are of: the key, and the window's start."""

    def process(
        self, key: str, context: ps.ProcessWindowFunction.Context, elements: Iterable[PageTotals]
    ) -> Iterator[PageMinute]:
        for views, viewed_ms, users in elements:
            yield PageMinute(key, context.window().start, views, len(users), viewed_ms / views)


def one_click(click: Click) -> Session:
    return Session(click.user, click.at, click.at, 1, click.duration_ms)


def together(one: Session, other: Session) -> Session:
    return Session(
        one.user,
        min(one.start, other.start),
        max(one.end, other.end),
        one.clicks + other.clicks,
        one.viewed_ms + other.viewed_ms,
    )


# the clicks ----------------------------------------------------------------------------------------------------------


def clicks(count: int, seed: int = 1) -> list[Click]:
    """In the order in which they come. Visitors come, click, leave, and some of them come back."""
    draw = random.Random(seed)
    made: list[tuple[int, Click]] = []
    visitors, day_ms = max(1, count // 40), 24 * HOUR_MS
    while len(made) < count:
        user, at = f"user-{draw.randrange(visitors)}", START_MS + draw.randrange(day_ms)
        for _ in range(draw.randint(1, 12)):
            looked_ms = draw.randint(SECOND_MS, 3 * MINUTE_MS)
            held_back = OFFLINE_MS if draw.random() < 0.01 else 0
            click = Click(user, draw.choice(PAGES), at, looked_ms)
            made.append((at + held_back + draw.randrange(DISORDER_MS), click))
            at += looked_ms + draw.choice((0, 0, 0, 10 * MINUTE_MS, SESSION_GAP_MS))
    return [click for _, click in sorted(made[:count], key=lambda each: each[0])]


def write_clicks(directory: Path, count: int, files: int = 8) -> Path:
    """As NDJSON, in files one after the other. Written once."""
    if not directory.exists():
        unfinished = directory.with_name(f"{directory.name}.unfinished")
        unfinished.mkdir(parents=True, exist_ok=True)
        made = clicks(count)
        for number in range(files):
            part = made[len(made) * number // files : len(made) * (number + 1) // files]
            lines = "".join(f"{json.dumps(asdict(click))}\n" for click in part)
            (unfinished / f"clicks-{number:02}.json").write_text(lines, encoding="utf-8")
        unfinished.rename(directory)
    return directory


# the pipeline --------------------------------------------------------------------------------------------------------


def build(env: ps.StreamExecutionEnvironment, data: Path, out: Path, bound: str, rate: int | None = None) -> None:
    """Clicks in `data`, results in directories below `out`; disorder up to `bound` is waited for."""
    source = env.from_source(
        FileSource(str(data), Json(Click), rate_limit=rate),
        ps.WatermarkStrategy.for_bounded_out_of_orderness(bound).with_timestamp_assigner("at"),
        name="clicks",
        uid="clicks",
    )
    pages = (
        source.key_by(lambda click: click.page, key_type=str)
        .window(ps.TumblingEventTimeWindows("1min"))
        .side_output_late_data(late)
        .aggregate(PageStatistics(), WithPageAndTime(), output_type=PageMinute, name="pages")
        .uid("pages")
    )
    trends = (
        source.key_by("page")
        .window(ps.SlidingEventTimeWindows("10min", "1min"))
        .side_output_late_data(late)
        .agg(views=ps.count(), mean_ms=ps.avg("duration_ms"), name="trends")
        .uid("trends")
    )
    sessions = (
        source.map(one_click, name="one click")
        .key_by(lambda session: session.user, key_type=str)
        .window(ps.EventTimeSessionWindows.with_gap("30min"))
        .side_output_late_data(late)
        .reduce(together, name="sessions")
        .uid("sessions")
    )
    for name, stream in (("pages", pages), ("trends", trends), ("sessions", sessions)):
        stream.sink_to(FileSink(str(out / name), Json()), name=f"{name} files").uid(f"{name}-files")
        lates = stream.get_side_output(late).sink_to(FileSink(str(out / "late" / name), Json()), name=f"late {name}")
        lates.uid(f"late-{name}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Windows over clicks.")
    parser.add_argument("--data", type=Path, default=Path(".penstock/clicks"))
    parser.add_argument("--out", type=Path, default=Path(".penstock/click_analytics"))
    parser.add_argument("--clicks", type=int, default=20_000, help="how many to make, if there are none")
    parser.add_argument("--bound", default="5min", help="how long to wait for clicks that are out of order")
    parser.add_argument("--rate", type=int, default=None, help="clicks a second, to watch it run")
    arguments = parser.parse_args()
    env = ps.StreamExecutionEnvironment()
    build(env, write_clicks(arguments.data, arguments.clicks), arguments.out, arguments.bound, arguments.rate)
    env.execute("click analytics")


if __name__ == "__main__":
    main()
