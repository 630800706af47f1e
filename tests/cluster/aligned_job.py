"""Two sources that wait for each other: the slow one stands after a few records until the file `gate` is there, and the
fast one, which could read on, pauses before it is far ahead. All records go to files.

    slow   0, 100, 200 … 4900, one split
    fast   0, 10, 20 … 4990, two splits, of which the second one begins at 2500
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import penstock as ps
from penstock.connectors.collections import RangeReader, SequenceSource
from penstock.connectors.files import FileSink
from penstock.connectors.formats import Json
from penstock.runtime.connector import NotReady, PollResult, ReaderContext, SplitBatch

SLOW, FAST = 50, 500
HELD_AFTER = 3
"""Records of the slow one."""
PAUSE_MS = 10
"""Nobody waits before the master has answered for the first time; nobody must be at its end by then."""


@dataclass(frozen=True)
class Event:
    source: str
    at: int


class Paced(SequenceSource):
    """Until the gate is there a record every PAUSE_MS, and, if it is held, only a few."""

    def __init__(self, count: int, gate: str, *, held: bool = False) -> None:
        super().__init__(0, count - 1)
        self.gate, self.held = gate, held

    def create_reader(self, context: ReaderContext) -> RangeReader:
        return PacedReader(self, context)


class PacedReader(RangeReader):
    def __init__(self, source: Paced, context: ReaderContext) -> None:
        super().__init__(source)
        self._clock, self._next_ms = context.clock, 0
        self._gate, self._held, self._given = Path(source.gate), source.held, 0

    def poll(self, max_rows: int) -> PollResult:
        if self._gate.exists():
            return super().poll(max_rows)
        now_ms = self._clock.now_ms()
        if now_ms < self._next_ms:
            return NotReady(self._next_ms)
        self._next_ms = now_ms + PAUSE_MS
        if self._held and self._given == HELD_AFTER:
            return NotReady(self._next_ms)
        result = super().poll(1)
        self._given += isinstance(result, SplitBatch)
        return result


def slow_event(number: int) -> Event:
    return Event("slow", number * 100)


def fast_event(number: int) -> Event:
    return Event("fast", number * 10)


parser = argparse.ArgumentParser()
parser.add_argument("--gate", required=True)
parser.add_argument("--out", required=True)
arguments = parser.parse_args()

env = ps.StreamExecutionEnvironment()
env.enable_checkpointing("300ms")


def aligned(step_ms: int) -> ps.WatermarkStrategy[int]:
    strategy = ps.WatermarkStrategy.for_monotonous_timestamps().with_timestamp_assigner(lambda n, _: n * step_ms)
    return strategy.with_watermark_alignment("both", "100ms", "20ms")


slow = env.from_source(Paced(SLOW, arguments.gate, held=True), aligned(100), name="slow", uid="slow").set_parallelism(1)
fast = env.from_source(Paced(FAST, arguments.gate), aligned(10), name="fast", uid="fast").map(fast_event)
slow.map(slow_event).set_parallelism(1).union(fast).sink_to(FileSink(arguments.out, Json()), name="all").uid("all")
env.execute("aligned")
