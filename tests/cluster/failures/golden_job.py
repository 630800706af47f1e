"""A job whose whole output can be told from its arguments; it is submitted as a script.

Two subtasks read a number sequence, each its half, at a limited rate until the file `gate` is there, and the rest at
once. Both halves have the same event times. What becomes of them:

    counted   every number, with how often its key was seen so far: state that is lost or restored wrongly shows in
              the counts, a number that is lost or doubled shows in itself
    quiet     per key: after every LONG numbers of event time a timer fires and tells how many came meanwhile

All of it goes into many small files, exactly once.
"""

from __future__ import annotations

import argparse
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import penstock as ps
from penstock.connectors.collections import RangeReader, SequenceSource
from penstock.connectors.discard import DiscardingSink
from penstock.connectors.files import FileSink
from penstock.connectors.formats import Json
from penstock.runtime.connector import NotReady, PollResult, ReaderContext

KEYS = 31
LONG = 1_000
SLICE = 50
"""Rows that a reader gives at once."""


class GatedSequence(SequenceSource):
    """Not faster than `rate` a second and subtask, until the gate is open."""

    def __init__(self, count: int, rate: int, gate: str) -> None:
        super().__init__(0, count - 1)
        self.rate = rate
        self.gate = gate

    def create_reader(self, context: ReaderContext) -> RangeReader:
        return GatedReader(self, context)


class GatedReader(RangeReader):
    def __init__(self, source: GatedSequence, context: ReaderContext) -> None:
        super().__init__(source)
        self._gate, self._pause_ms = Path(source.gate), 1_000 * SLICE // source.rate
        self._clock = context.clock
        self._next_ms = 0

    def poll(self, max_rows: int) -> PollResult:
        if self._gate.exists():
            return super().poll(max_rows)
        now_ms = self._clock.now_ms()
        if now_ms < self._next_ms:
            return NotReady(self._next_ms)
        self._next_ms = now_ms + self._pause_ms
        return super().poll(min(max_rows, SLICE))


@dataclass(frozen=True)
class Counted:
    key: int
    number: int
    seen: int


@dataclass(frozen=True)
class Quiet:
    key: int
    at: int
    came: int


quiet = ps.OutputTag[Quiet]("quiet", Quiet)


class Count(ps.KeyedProcessFunction):
    def open(self, context: ps.RuntimeContext) -> None:
        self.seen = context.get_state(ps.ValueStateDescriptor[int]("seen", int))
        self.came = context.get_map_state(ps.MapStateDescriptor[int, int]("came", int, int))

    def process_element(self, number: int, context: Any) -> Iterator[Any]:
        seen = (self.seen.value() or 0) + 1
        self.seen.update(seen)
        end = (context.timestamp() // LONG + 1) * LONG
        self.came.put(end, (self.came.get(end) or 0) + 1)
        context.timer_service().register_event_time_timer(end - 1)
        yield Counted(number % KEYS, number, seen)

    def on_timer(self, timestamp: int, context: Any) -> Iterator[Any]:
        end = timestamp + 1
        yield quiet, Quiet(context.get_current_key(), end, self.came.get(end) or 0)
        self.came.remove(end)


def build(env: ps.StreamExecutionEnvironment, arguments: argparse.Namespace) -> None:
    half, out = arguments.rows // 2, arguments.out
    numbers = env.from_source(
        GatedSequence(arguments.rows, arguments.rate, str(arguments.gate)),
        ps.WatermarkStrategy.for_monotonous_timestamps().with_timestamp_assigner(lambda number, _: number % half),
        name="numbers",
        uid="numbers",
    )
    keyed = numbers.key_by(lambda number: number % KEYS)
    counted = keyed.process(Count(), output_type=Counted, name="count").uid("count")
    counted.sink_to(FileSink(str(out / "counted"), Json(), roll_rows=500), name="counted files")
    counted.get_side_output(quiet).sink_to(FileSink(str(out / "quiet"), Json(), roll_rows=100), name="quiet files")
    if arguments.never_returns:
        hangs = NeverReturns(arguments.never_returns, str(arguments.out / "hangs"))
        counted.map(hangs, name="never returns").sink_to(DiscardingSink())
    if arguments.slow_sink:
        counted.map(SlowSink(arguments.slow_sink), name="slow").sink_to(DiscardingSink())


class NeverReturns(ps.MapFunction):
    """For numbers from here on; then there is a file."""

    def __init__(self, number: int, file: str) -> None:
        self._number, self._file = number, file

    def map(self, counted: Counted) -> int:
        while counted.number >= self._number:
            Path(self._file).touch()
            threading.Event().wait()
        return counted.number


class SlowSink(ps.MapFunction):
    def __init__(self, rate: int) -> None:
        self._pause_s = 1 / rate

    def map(self, counted: Counted) -> int:
        threading.Event().wait(self._pause_s)
        return counted.number


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--rate", type=int, required=True, help="numbers a second and subtask")
    parser.add_argument("--gate", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--never-returns", type=int, default=0)
    parser.add_argument("--slow-sink", type=int, default=0)
    arguments = parser.parse_args()
    env = ps.StreamExecutionEnvironment()
    build(env, arguments)
    env.execute("golden")


if __name__ == "__main__":
    main()
