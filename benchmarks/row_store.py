"""The row store against raw rocksdict: read-modify-writes per second of CPU, in one run.

Work: a counter per key, zipf-distributed keys over a database that holds all of them, so that about a third of the
accesses miss the cache: once because keys are touched for the first time, once in the steady state of a cache that is
too small, where every miss also writes a changed cell out. The limit is what a program does without us: get, unpack,
add, pack, put, in the same kind of database with the same options, over the same keys in the same order.

    python benchmarks/row_store.py [--keys N] [--operations N]

One JSON line per result; CPU time of the thread that owns the state, since the machine may be shared.
"""

from __future__ import annotations

import argparse
import gc
import json
import shutil
import struct
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rocksdict import Rdict, WriteBatch, WriteOptions

from penstock.runtime.clock import SystemClock
from penstock.state.backend import KeyedStateBackend, ListState, ValueState
from penstock.state.backend_factory import create_keyed_backend
from penstock.state.descriptors import ListStateDescriptor, ValueStateDescriptor
from penstock.state.ids import CheckpointId
from penstock.state.key_groups import KeyGroupRange
from penstock.state.rows.keyed_backend import BackendOptions, RowBackend
from penstock.state.rows.rocksdb_options import database_options
from penstock.state.rows.row_store import Uploads

BATCH = 1_000
TURNS = 10
CACHE = 1 << 30  # shared by both databases: all blocks fit, so that neither pays for the file system
BYTE_KEY, COUNTER = struct.Struct(">HQ"), struct.Struct("<q")


def zipf_keys(keys: int, operations: int, seed: int) -> list[int]:
    """Ids 0 .. keys - 1, each with a probability of 1 / rank, in random places."""
    generator = np.random.default_rng(seed)
    ranks = np.exp(generator.random(operations) * np.log(keys)).astype(np.int64) - 1
    places: npt.NDArray[np.int64] = np.random.default_rng(0).permutation(keys)
    chosen: list[int] = places[ranks % keys].tolist()
    return chosen


def no_uploads(checkpoint_id: CheckpointId) -> Uploads:
    raise NotImplementedError("nothing is uploaded here")


def cpu_seconds(work: Callable[[], None]) -> float:
    start = time.thread_time()
    work()
    return time.thread_time() - start


def batches_of(keys: list[int]) -> list[list[int]]:
    return [keys[start : start + BATCH] for start in range(0, len(keys), BATCH)]


def backend_in(directory: Path, cache_cells: int) -> RowBackend:
    backend = create_keyed_backend(
        "rocksdb",
        operator_name="benchmark",
        key_groups=KeyGroupRange(0, 127),
        max_parallelism=128,
        directory=directory,
        uploads=no_uploads,
        now_ms=SystemClock().now_ms,
        options=BackendOptions(cache_cells=cache_cells, block_cache_bytes=CACHE, cache_bytes=CACHE),
    )
    assert isinstance(backend, RowBackend)
    return backend


def count(value: int | None, record: int) -> int:
    return (value or 0) + record


def fold_all(backend: KeyedStateBackend, state: ValueState[int], batches: list[list[int]]) -> None:
    ones = [1] * BATCH
    for batch in batches:
        state.fold(batch, ones[: len(batch)], count)
        backend.between_batches()


class RawCounters:
    """What a program does without us."""

    def __init__(self, directory: Path, keys: int) -> None:
        self.database = Rdict(str(directory), database_options(CACHE, CACHE))
        options = WriteOptions()
        options.disable_wal = True  # type: ignore[method-assign,assignment]
        self.database.set_write_options(options)
        zero = COUNTER.pack(0)
        for group in range(128):
            batch = WriteBatch(raw_mode=True)
            for key in range(group, keys, 128):
                batch[BYTE_KEY.pack(group, key)] = zero
            self.database.write(batch, options)
        self.database.flush()

    def run(self, batches: list[list[int]]) -> None:
        database: Any = self.database
        pack, counter, unpack = BYTE_KEY.pack, COUNTER.pack, COUNTER.unpack
        for batch in batches:
            for key in batch:
                row = pack(key & 127, key)
                (value,) = unpack(database[row])
                database[row] = counter(value + 1)


def settle(backend: RowBackend) -> None:
    """Bring everything into the database, compacted like the other one."""
    work: Any = backend.snapshot(1)
    store: Any = backend._store
    with suppress(NotImplementedError):
        next(work)  # written and flushed when it asks for uploads
    store._database.compact_range(None, None)


def against_raw(name: str, directory: Path, keys: int, accesses: list[int], *, cells: int, warm_up: int) -> None:
    """Ours and raw rocksdict over the same accesses, in turns; the first `warm_up` accesses are not measured."""
    backend = backend_in(directory / "own", cells)
    state = backend.value_state(ValueStateDescriptor[int]("count", int))
    fold_all(backend, state, batches_of(list(range(keys))))
    raw = RawCounters(directory / "raw", keys)
    settle(backend)
    raw.database.compact_range(None, None)
    warm, batches = batches_of(accesses[:warm_up]), batches_of(accesses[warm_up:])
    fold_all(backend, state, warm)
    raw.run(warm)
    own_seconds = raw_seconds = 0.0
    misses = backend.cache_misses
    for turn in range(TURNS):
        part = batches[turn::TURNS]
        own_seconds += cpu_seconds(partial(fold_all, backend, state, part))
        raw_seconds += cpu_seconds(partial(raw.run, part))
    measured = len(accesses) - warm_up
    share = (backend.cache_misses - misses) / measured
    backend.close()
    raw.database.close()
    report(name, measured / own_seconds, measured / raw_seconds, required=2.5, miss_share=round(share, 3))


def hits(directory: Path, accesses: list[int]) -> None:
    """Folds, and read-modify-writes as a function on single records does them, of keys that are all in the cache."""
    backend = backend_in(directory, 200_000)
    state = backend.value_state(ValueStateDescriptor[int]("count", int))
    batches = batches_of([key % 10_000 for key in accesses])

    def one_by_one() -> None:
        set_key, value, update = backend.set_current_key, state.value, state.update
        for batch in batches:
            for key in batch:
                set_key(key)
                update((value() or 0) + 1)
            backend.between_batches()

    fold_all(backend, state, batches)
    folds = cpu_seconds(lambda: fold_all(backend, state, batches))
    singles = cpu_seconds(one_by_one)
    backend.close()
    report("row store: value state, all hits, folded", len(accesses) / folds)
    report("row store: value state, all hits, one by one", len(accesses) / singles, 1_000_000)


def appends(directory: Path, accesses: list[int]) -> None:
    """Appends to lists, written out on the way; and to lists in a dict, which no store is behind."""
    backend = backend_in(directory, 200_000)
    state: ListState[int] = backend.list_state(ListStateDescriptor[int]("events", int))
    batches = batches_of(accesses)
    lists: dict[int, list[int]] = {}

    def own() -> None:
        set_key, add = backend.set_current_key, state.add
        for batch in batches:
            for key in batch:
                set_key(key)
                add(key)
            backend.between_batches()

    def bare() -> None:
        for batch in batches:
            for key in batch:
                lists.setdefault(key, []).append(key)

    own_rate, bare_rate = len(accesses) / cpu_seconds(own), len(accesses) / cpu_seconds(bare)
    backend.close()
    report("row store: list append", own_rate, 1_000_000, of_a_dict=round(own_rate / bare_rate, 2))


def report(benchmark: str, value: float, limit: float | None = None, **more: float) -> None:
    line: dict[str, object] = {"benchmark": benchmark, "value": round(value), "unit": "operations/s"}
    if limit is not None:
        line |= {"limit": round(limit), "ratio": round(value / limit, 2)}
    print(json.dumps(line | more), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--keys", type=int, default=2_000_000)
    parser.add_argument("--operations", type=int, default=1_000_000)
    arguments = parser.parse_args()
    gc.set_threshold(50_000, 50, 1_000)  # as slots do
    directory = Path(tempfile.mkdtemp(prefix="row-store-"))
    try:
        accesses = zipf_keys(arguments.keys, arguments.operations, seed=1)
        keys, half, quarter = arguments.keys, len(accesses) // 2, len(accesses) // 4
        cold, steady = directory / "cold", directory / "steady"
        against_raw("row store: first touches", cold, keys, accesses[:quarter], cells=keys // 8, warm_up=0)
        against_raw("row store: steady state", steady, keys, accesses, cells=keys // 26, warm_up=half)
        hits(directory / "hits", accesses)
        appends(directory / "lists", accesses)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
