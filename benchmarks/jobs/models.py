"""Numbers through a model, in the slot or on a pool of actors, and how long they took: numbers -> model -> told.

`light` doubles them; `dense` looks each up in a table and puts it through two layers. `told` is a file: at the end it
holds the ns from the first result to the last, and how many came in between.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

import penstock as ps
from penstock.connectors.collections import SequenceSource
from penstock.connectors.discard import DiscardingSink

ROWS, WIDTH, HIDDEN = 10_000, 64, 256
Batch = dict[str, npt.NDArray[np.float64]]


class Light:
    """Takes next to no time."""

    def __call__(self, batch: Batch) -> Batch:
        return {"value": batch["value"] * 2}


class Dense:
    """Takes some ten us a record on one core."""

    def __init__(self) -> None:
        draw = np.random.default_rng(1)
        self.table = draw.normal(size=(ROWS, WIDTH)).astype(np.float32)
        self.layers = [draw.normal(size=shape).astype(np.float32) for shape in ((WIDTH, HIDDEN), (HIDDEN, HIDDEN))]
        self.weights = draw.normal(size=HIDDEN).astype(np.float32)

    def __call__(self, batch: Batch) -> Batch:
        values = self.table[batch["value"].astype(np.int64) % ROWS]
        for layer in self.layers:
            values = np.maximum(values @ layer, 0)
        return {"value": (values @ self.weights).astype(np.float64)}


class InSlot:
    """The same model, loaded with the first batch."""

    def __init__(self, model: Callable[[], Light | Dense]) -> None:
        self.model = model
        self.loaded: Light | Dense | None = None

    def __call__(self, batch: Batch) -> Batch:
        if self.loaded is None:
            self.loaded = self.model()
        return self.loaded(batch)


class Told:
    """Not from the start: it takes no part in the time that actors take to load their models."""

    def __init__(self, path: str, count: int) -> None:
        self.path, self.count = path, count
        self.seen = self.first = 0
        self.first_ns = 0

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        self.seen += batch.num_rows
        if not self.first:
            self.first, self.first_ns = batch.num_rows, time.monotonic_ns()
        if self.seen == self.count:
            took = {"ns": time.monotonic_ns() - self.first_ns, "records": self.count - self.first}
            Path(self.path).write_text(json.dumps(took))
        return batch


MODELS: dict[str, type[Light | Dense]] = {"light": Light, "dense": Dense}
parser = argparse.ArgumentParser()
parser.add_argument("--model", choices=MODELS, required=True)
parser.add_argument("--records", type=int, required=True)
parser.add_argument("--actors", type=int, default=0, help="0: in the slot")
parser.add_argument("--batch", type=int, default=1_024)
parser.add_argument("--told", required=True)
arguments = parser.parse_args()

env = ps.StreamExecutionEnvironment()
model, schema = MODELS[arguments.model], pa.schema({"value": pa.float64()})
numbers = env.from_source(
    SequenceSource(0, arguments.records - 1), ps.WatermarkStrategy.no_watermarks(), name="numbers", uid="numbers"
)
if arguments.actors:
    scored = numbers.map_batches(
        model, "numpy", schema, concurrency=arguments.actors, batch_size=arguments.batch, name="model"
    )
else:
    scored = numbers.map_batches(InSlot(model), "numpy", schema, name="model")
scored.uid("model").map_batches(Told(arguments.told, arguments.records), name="told").sink_to(DiscardingSink())
env.execute("models")
