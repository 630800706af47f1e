"""The job of these tests: numbers are counted per key, behind an exchange between all of its slots.

    python keyed_counts.py OUT GATE NUMBERS KEYS

Sources are slow (some hundred numbers a second each) until the file GATE is there, so that a test has time for what it
does in mid-stream; then as fast as it goes. Every number becomes one line {key, nth, number} of OUT: the nth of its
key. Whatever happens, each number is there once, and each key's nth go from 1 to the last without a gap.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import penstock as ps
from penstock.connectors.collections import SequenceSource
from penstock.connectors.files import FileSink
from penstock.connectors.formats import Json
from penstock.runtime.connector import NotReady, PollResult, ReaderContext, SourceReader

SLOW_ROWS, SLOW_PAUSE_MS = 20, 50


@dataclass(frozen=True)
class Counted:
    key: int
    nth: int
    number: int


class PacedNumbers(SequenceSource):
    """A few at a time until the gate is open."""

    def __init__(self, end: int, gate: str) -> None:
        super().__init__(0, end)
        self.gate = gate

    def create_reader(self, context: ReaderContext) -> SourceReader[Any]:
        reader = super().create_reader(context)
        poll, pause, open_ = reader.poll, False, False

        def paced(max_rows: int) -> PollResult:
            nonlocal pause, open_
            open_ = open_ or os.path.exists(self.gate)
            if open_:
                return poll(max_rows)
            pause = not pause
            return NotReady(context.clock.now_ms() + SLOW_PAUSE_MS) if pause else poll(SLOW_ROWS)

        reader.poll = paced  # type: ignore[method-assign]
        return reader


class Count(ps.KeyedProcessFunction):
    def open(self, context: ps.RuntimeContext) -> None:
        self.key_count = context.get_state(ps.ValueStateDescriptor[int]("count", int))

    def process_element(self, number: int, context: Any) -> Iterator[Counted]:
        nth = (self.key_count.value() or 0) + 1
        self.key_count.update(nth)
        yield Counted(context.get_current_key(), nth, number)


def main(out: str, gate: str, numbers: int, keys: int) -> None:
    env = ps.StreamExecutionEnvironment.get_execution_environment()
    stream = env.from_source(PacedNumbers(numbers - 1, gate), name="numbers")
    counted = stream.key_by(lambda number: number % keys, key_type=int).process(Count(), Counted)
    counted.sink_to(FileSink(out, Json()), name="counted")
    env.execute("keyed counts")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
