"""A job with a pool of models and an operator in slots of its own; it is submitted as a script.

    numbers ─ scored (a pool of two actors, batches of 40) ─ heavy (slots with resources) ─ files, exactly once

Until the file `gate` is there few numbers come.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

import penstock as ps
from penstock.connectors.collections import RangeReader, SequenceSource
from penstock.connectors.files import FileSink
from penstock.connectors.formats import Json
from penstock.runtime.connector import NotReady, PollResult, ReaderContext

NUMBERS = 20_000
ROWS, PAUSE_MS = 5, 100
"""So many at once before the gate is open."""


@dataclass(frozen=True)
class Scored:
    number: int
    score: int


class Numbers(SequenceSource):
    def __init__(self, gate: str) -> None:
        super().__init__(0, NUMBERS - 1)
        self.gate = gate

    def create_reader(self, context: ReaderContext) -> RangeReader:
        return Slowly(self, context)


class Slowly(RangeReader):
    def __init__(self, source: Numbers, context: ReaderContext) -> None:
        super().__init__(source)
        self._gate, self._clock, self._next_ms = Path(source.gate), context.clock, 0

    def poll(self, max_rows: int) -> PollResult:
        if self._gate.exists():
            return super().poll(max_rows)
        now_ms = self._clock.now_ms()
        if now_ms < self._next_ms:
            return NotReady(self._next_ms)
        self._next_ms = now_ms + PAUSE_MS
        return super().poll(min(max_rows, ROWS))


class Model:
    """Loaded once in every actor."""

    def __init__(self) -> None:
        self.factor = 3

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        numbers = batch.column(0).to_numpy()
        return pa.record_batch({"number": batch.column(0), "score": pa.array(numbers * self.factor)})


def unscored(number: int) -> Scored:
    return Scored(number, 0)


class PassedOn(ps.MapFunction):
    """Leaves word of the GPUs that it sees, before anything comes."""

    def __init__(self, out: str) -> None:
        self.out = out

    def open(self, runtime_context: ps.RuntimeContext) -> None:
        told = Path(self.out, f"gpus-{runtime_context.get_index_of_this_subtask()}")
        told.parent.mkdir(parents=True, exist_ok=True)
        told.write_text(os.environ.get("CUDA_VISIBLE_DEVICES", ""))

    def map(self, value: Scored) -> Scored:
        return value


parser = argparse.ArgumentParser()
parser.add_argument("--gate", required=True)
parser.add_argument("--out", required=True)
parser.add_argument("--gpu", type=float, default=0)
arguments = parser.parse_args()

env = ps.StreamExecutionEnvironment()
(
    env.from_source(Numbers(arguments.gate), ps.WatermarkStrategy.no_watermarks(), name="numbers", uid="numbers")
    .map(unscored)
    .map_batches(Model, concurrency=2, batch_size=40, cpu=0.25)
    .name("scored")
    .uid("scored")
    .map(PassedOn(arguments.out))
    .name("heavy")
    .resources(cpu=0.25, memory="32MiB", gpu=arguments.gpu)
    .sink_to(FileSink(f"{arguments.out}/scored", Json()))
    .uid("files")
)
env.execute()
