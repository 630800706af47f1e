"""State many times as large as the memory for it, against raw rocksdict that has all of that memory for its own caches.

Work: values of a kilobyte, read, changed and written back: at keys that are picked evenly from all of them, so that
nearly every access goes to the files, and at keys some of which come often. The other program does get and put in the
same kind of database with the same options; what we spend on cells, it has as block cache, which is what we pay for
where no key comes again. Both in turns, over the same keys, in elapsed time: that is what a disk costs. (As much of the
files as it likes, the operating system keeps in the memory that nothing else uses.)

    python benchmarks/larger_than_memory.py [--managed SIZE] [--times N] [--operations N]

One JSON line per result. Memory: the most that was resident while ours ran alone, beyond the blank process, against the
budget.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import shutil
import struct
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rocksdict import Rdict, WriteOptions
from row_store import no_uploads

from penstock.runtime.clock import SystemClock
from penstock.runtime.configuration.config import Configuration
from penstock.state.backend import KeyedStateBackend, ValueState
from penstock.state.backend_factory import create_keyed_backend
from penstock.state.descriptors import ValueStateDescriptor
from penstock.state.key_groups import KeyGroupRange
from penstock.state.rows.cell_weight import CacheShares
from penstock.state.rows.rocksdb_options import database_options
from penstock.taskmanager.processes.memory_budget import backend_options, memory_budget
from penstock.taskmanager.processes.process_metrics import rss_bytes

VALUE_BYTES = 1_000
BATCH = 1_000
TURNS = 5
REQUIRED = 0.5
"""Of the raw rate."""
BYTE_KEY = struct.Struct(">HQ")


def changed(value: bytes | None, number: int) -> bytes:
    return number.to_bytes(8, "big") + (value or bytes(VALUE_BYTES))[8:]


class Own:
    """A value per key, in the row store."""

    def __init__(self, directory: Path, config: Configuration) -> None:
        self.backend: KeyedStateBackend = create_keyed_backend(
            "rocksdb",
            operator_name="benchmark",
            key_groups=KeyGroupRange(0, 127),
            max_parallelism=128,
            directory=directory,
            uploads=no_uploads,
            now_ms=SystemClock().now_ms,
            options=backend_options(config, CacheShares()),
        )
        self.state: ValueState[bytes] = self.backend.value_state(ValueStateDescriptor[bytes]("value", bytes))
        self.most_resident = 0

    def fill(self, keys: int, values: random.Random) -> None:
        for start in range(0, keys, BATCH):
            for key in range(start, min(start + BATCH, keys)):
                self.backend.set_current_key(key)
                self.state.update(values.randbytes(VALUE_BYTES))
            self._between()

    def run(self, keys: list[int]) -> None:
        for start in range(0, len(keys), BATCH):
            batch = keys[start : start + BATCH]
            self.state.fold(batch, batch, changed)
            self._between()

    def _between(self) -> None:
        self.backend.between_batches()
        self.most_resident = max(self.most_resident, rss_bytes())


class Raw:
    """What a program does without us."""

    def __init__(self, directory: Path, cache_bytes: int, write_buffer_bytes: int) -> None:
        self.database = Rdict(str(directory), database_options(cache_bytes, write_buffer_bytes))
        options = WriteOptions()
        options.disable_wal = True  # type: ignore[method-assign,assignment]
        self.database.set_write_options(options)

    def fill(self, keys: int, values: random.Random) -> None:
        for key in range(keys):
            self.database[BYTE_KEY.pack(key & 127, key)] = values.randbytes(VALUE_BYTES)

    def run(self, keys: list[int]) -> None:
        database: Any = self.database
        for key in keys:
            row = BYTE_KEY.pack(key & 127, key)
            database[row] = changed(database[row], key)


def seconds(work: Callable[[list[int]], None], keys: list[int]) -> float:
    start = time.monotonic()
    work(keys)
    return time.monotonic() - start


def report(benchmark: str, value: float, unit: str, **more: float) -> None:
    benchmark = f"state larger than memory: {benchmark}"
    print(json.dumps({"benchmark": benchmark, "value": round(value, 2), "unit": unit} | more), flush=True)


def evenly(keys: int, operations: int) -> list[int]:
    pick = random.Random(2)
    return [pick.randrange(keys) for _ in range(operations)]


def some_often(keys: int, operations: int) -> list[int]:
    """Each with a probability of 1 / rank, in random places."""
    pick, places = random.Random(3), list(range(keys))
    random.Random(4).shuffle(places)
    return [places[int(keys ** pick.random()) - 1] for _ in range(operations)]


def run(directory: Path, managed: str, times: float, operations: int) -> None:
    config = Configuration({"taskmanager.memory.managed.size": managed})
    blank = rss_bytes()
    budget = memory_budget(config, blank)
    memory = budget.cells + budget.rocksdb
    keys = int(memory * times) // VALUE_BYTES
    own = Own(directory / "own", config)
    own.fill(keys, random.Random(1))
    own.run(evenly(keys, operations))
    report(
        "resident", (own.most_resident - blank) / memory, "of the budget", limit=1.0, state_mb=keys * VALUE_BYTES / 1e6
    )
    buffers = backend_options(config, CacheShares()).write_buffer_bytes
    raw = Raw(directory / "raw", memory - buffers, buffers)
    raw.fill(keys, random.Random(1))
    raw.run(evenly(keys, operations))
    chosen = {"keys picked evenly": evenly(keys, operations), "some keys often": some_often(keys, operations)}
    for name, accesses in chosen.items():
        own_s = raw_s = 0.0
        for turn in range(TURNS):
            own_s += seconds(own.run, accesses[turn::TURNS])
            raw_s += seconds(raw.run, accesses[turn::TURNS])
        report(name, operations / own_s, "operations/s", limit=round(operations / raw_s))
        report(f"{name}, to raw rocksdict", raw_s / own_s, "ratio", required=REQUIRED)
    own.backend.close()
    raw.database.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--managed", default="128 mb")
    parser.add_argument("--times", type=float, default=16)
    parser.add_argument("--operations", type=int, default=200_000)
    arguments = parser.parse_args()
    gc.set_threshold(50_000, 50, 1_000)  # as slots do
    directory = Path(tempfile.mkdtemp(prefix="larger-than-memory-"))
    try:
        run(directory, arguments.managed, arguments.times, arguments.operations)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
