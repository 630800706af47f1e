"""A job at a given pace, with a given amount of state: numbers -> stamp -> key_by -> state -> told.

Each key keeps a value of so many bytes. Each subtask reads its first rows, as many as there are keys, as fast as
possible, and the rest at `rate` a second. `told` is a directory: whoever processes a first record after its start
leaves a file `first-<subtask>-<time>` there, and at the end `latencies-<subtask>`, the ms from source to end of its
records.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from random import Random
from typing import NamedTuple

import penstock as ps
from penstock.connectors.collections import RangeReader, SequenceSource
from penstock.connectors.discard import DiscardingSink
from penstock.runtime.connector import NotReady, PollResult, ReaderContext

PIECE_MS = 5
"""A reader gives what is due so often."""
MAX_LATENCIES = 2_000_000


class Stamped(NamedTuple):
    """A number, and when it was read."""

    number: int
    made_ns: int


class PacedSequence(SequenceSource):
    """`first` numbers of each subtask at once, then `rate` a second."""

    def __init__(self, count: int, first: int, rate: int) -> None:
        super().__init__(0, count - 1)
        self.first = first
        self.rate = rate

    def create_reader(self, context: ReaderContext) -> RangeReader:
        return PacedReader(self, context)


class PacedReader(RangeReader):
    """What is due every PIECE_MS."""

    def __init__(self, source: PacedSequence, context: ReaderContext) -> None:
        super().__init__(source)
        self._fast, self._rate, self._clock = source.first, source.rate, context.clock
        self._piece = max(1, source.rate * PIECE_MS // 1_000)
        self._next_ms = 0

    def poll(self, max_rows: int) -> PollResult:
        if self._fast > 0 or not self._rate:
            self._fast -= max_rows
            return super().poll(max_rows)
        now_ms = self._clock.now_ms()
        if now_ms < self._next_ms:
            return NotReady(self._next_ms)
        self._next_ms = max(self._next_ms, now_ms - 100) + PIECE_MS  # what it is late it makes up for, up to a point
        return super().poll(min(max_rows, self._piece))


class Keep(ps.KeyedProcessFunction):
    """A value for each key, which no compression makes smaller."""

    def __init__(self, value_bytes: int) -> None:
        self._pool = Random(0).randbytes(value_bytes + 65_536)
        self._length = value_bytes

    def open(self, context: ps.RuntimeContext) -> None:
        self.kept = context.get_state(ps.ValueStateDescriptor[bytes]("kept", bytes))

    def process_element(self, record: Stamped, context: ps.KeyedProcessFunction.Context) -> list[Stamped]:
        if self.kept.value() is None:
            begin = record.number * 977 % 65_536
            self.kept.update(self._pool[begin : begin + self._length])
        return [record]


class Tell(ps.MapFunction):
    """What the directory is told."""

    def __init__(self, told: str) -> None:
        self._told = told

    def open(self, context: ps.RuntimeContext) -> None:
        self._subtask = context.get_index_of_this_subtask()
        self._latencies_ms: list[float] = []
        self._first = True

    def map(self, record: Stamped) -> int:
        now_ns = time.time_ns()
        if self._first:
            self._first = False
            (Path(self._told) / f"first-{self._subtask}-{now_ns}").touch()
        if len(self._latencies_ms) < MAX_LATENCIES:
            self._latencies_ms.append((now_ns - record.made_ns) / 1e6)
        return record.number

    def close(self) -> None:
        (Path(self._told) / f"latencies-{self._subtask}").write_text(json.dumps(self._latencies_ms))


def stamp(number: int) -> Stamped:
    return Stamped(number, time.time_ns())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--rate", type=int, default=0, help="a second and subtask, 0: no limit")
    parser.add_argument("--keys", type=int, default=10_000)
    parser.add_argument("--value-bytes", type=int, default=8)
    parser.add_argument("--told", required=True)
    arguments = parser.parse_args()
    env = ps.StreamExecutionEnvironment()
    keys = arguments.keys
    (
        env.from_source(
            PacedSequence(arguments.rows, keys, arguments.rate), ps.WatermarkStrategy.no_watermarks(), name="numbers"
        )
        .map(stamp)
        .key_by(lambda record: record.number % keys, key_type=int)
        .process(Keep(arguments.value_bytes), output_type=Stamped, name="keep")
        .map(Tell(arguments.told), name="tell")
        .sink_to(DiscardingSink())
    )
    env.execute("paced")


if __name__ == "__main__":
    main()
