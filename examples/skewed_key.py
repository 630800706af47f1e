"""One page that nine of ten clicks are on, counted per minute: in one phase, and in two.

In one phase all clicks of that page go to one subtask, which has most of the work. In two phases (`two_phase=True`)
every subtask folds the clicks that it has itself, and only sums go to the page's subtask. Both are run, and it is told
how many records went over the exchange, how often each subtask has called the function, and that the results are equal.

    python examples/skewed_key.py
    penstock run examples/skewed_key.py --local -p 4 -- --clicks 1000000
"""

from __future__ import annotations

import argparse
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import penstock as ps
from penstock.connectors.files import FileSink
from penstock.connectors.formats import Json

MINUTE_MS = 60_000
PAGES = 499
HOT = "home"


@dataclass(frozen=True)
class Click:
    page: str
    at: int
    duration_ms: int


@dataclass(frozen=True)
class PageMinute:
    page: str
    minute: int
    clicks: int
    longest_ms: int


def click_of(number: int) -> Click:
    page = HOT if number % 10 else f"page-{number // 10 % PAGES}"
    return Click(page, number * 10, number * 7_919 % 30_000)


class PageStatistics(ps.AggregateFunction):
    """Clicks and the longest stay; it counts how often it is called, in each subtask."""

    def open(self, context: ps.RuntimeContext) -> None:
        self.calls = context.get_metrics_group().counter(f"calls in subtask {context.get_index_of_this_subtask()}")

    def create_accumulator(self) -> tuple[int, int]:
        return 0, 0

    def add(self, click: Click, accumulator: tuple[int, int]) -> tuple[int, int]:
        self.calls.inc()
        return accumulator[0] + 1, max(accumulator[1], click.duration_ms)

    def merge(self, acc_a: tuple[int, int], acc_b: tuple[int, int]) -> tuple[int, int]:
        self.calls.inc()
        return acc_a[0] + acc_b[0], max(acc_a[1], acc_b[1])

    def get_result(self, accumulator: tuple[int, int]) -> tuple[int, int]:
        return accumulator


def named(page: str, context: Any, results: Any) -> Any:
    for clicks, longest_ms in results:
        yield PageMinute(page, context.window().start // MINUTE_MS, clicks, longest_ms)


def build(env: ps.StreamExecutionEnvironment, clicks: int, two_phase: bool, out: Path) -> None:
    in_order = ps.WatermarkStrategy.for_monotonous_timestamps().with_timestamp_assigner(lambda click, _: click.at)
    per_minute = (
        env.from_sequence(0, clicks - 1, name="numbers")
        .map(click_of, output_type=Click, name="clicks")
        .assign_timestamps_and_watermarks(in_order, name="times")
        .key_by(lambda click: click.page, key_type=str)
        .window(ps.TumblingEventTimeWindows("1min"))
        .aggregate(PageStatistics(), named, PageMinute, two_phase=two_phase, name="statistics")
        .uid("statistics")
    )
    per_minute.sink_to(FileSink(str(out), Json()), name="per minute").uid("per minute")


@dataclass(frozen=True)
class Outcome:
    results: list[str]
    """In order."""
    exchanged: int
    """Records that went to the subtasks of their keys."""
    calls: dict[str, int]
    """By subtask, of the function's add and merge."""


def run(clicks: int, two_phase: bool, out: Path) -> Outcome:
    shutil.rmtree(out, ignore_errors=True)
    env = ps.StreamExecutionEnvironment()
    build(env, clicks, two_phase, out)
    status = env.execute(f"skewed key, {'two phases' if two_phase else 'one phase'}").status
    calls: Counter[str] = Counter()
    for vertex in status.vertices:
        for name, count in vertex.counters.items():
            if "statistics.calls in " in name:
                calls[name.partition("calls in ")[2]] += count
    (keyed,) = [vertex for vertex in status.vertices if vertex.name.startswith("statistics")]
    files = [path for path in out.rglob("*") if path.is_file() and not path.name.startswith(("_", "."))]
    lines = [line for path in files for line in path.read_text(encoding="utf-8").splitlines()]
    return Outcome(sorted(lines), keyed.records_in, dict(sorted(calls.items())))


def tell(phases: str, outcome: Outcome) -> None:
    print(f"{phases}: {outcome.exchanged:,} records went over the exchange")
    for subtask, count in outcome.calls.items():
        print(f"  {subtask}: {count:,} calls of the function")


def main() -> None:
    parser = argparse.ArgumentParser(description="A key that most records have, in one phase and in two.")
    parser.add_argument("--clicks", type=int, default=200_000)
    parser.add_argument("--out", type=Path, default=Path(".penstock/skewed_key"))
    arguments = parser.parse_args()
    one = run(arguments.clicks, False, arguments.out / "one")
    two = run(arguments.clicks, True, arguments.out / "two")
    tell("one phase", one)
    tell("two phases", two)
    print(f"{len(one.results):,} results, {'equal' if one.results == two.results else 'DIFFERENT'}")


if __name__ == "__main__":
    main()
