"""State that expires, under keys that come once and never again: how large it gets, and what expiring costs.

Work: one update per key on RocksDB, on a clock of which a millisecond passes every hundred keys; a TTL holds `--alive`
keys. The state must stay flat after the first TTL. What it costs is the CPU time of the same updates with a TTL that
is swept, with one that is not, and without a TTL, in one run, over ten times as many keys as are alive.

    python benchmarks/state_ttl.py [--keys N] [--alive N]

One JSON line per result; CPU time of the thread that owns the state, since the machine may be shared.
"""

from __future__ import annotations

import argparse
import gc
import json
import shutil
import tempfile
import time
from pathlib import Path

from penstock.state.backend_factory import create_keyed_backend
from penstock.state.descriptors import ValueStateDescriptor
from penstock.state.ids import CheckpointId
from penstock.state.key_groups import KeyGroupRange
from penstock.state.rows.keyed_backend import BackendOptions, RowBackend
from penstock.state.rows.row_store import Uploads
from penstock.state.ttl_config import StateTtlConfig

BATCH = 1_000
KEYS_PER_MS = 100


def no_uploads(checkpoint_id: CheckpointId) -> Uploads:
    raise NotImplementedError("nothing is uploaded here")


class OneShotKeys:
    """A state that every key touches once."""

    def __init__(self, directory: Path, ttl: StateTtlConfig | None) -> None:
        self.now_ms = 0
        backend = create_keyed_backend(
            "rocksdb",
            operator_name="benchmark",
            key_groups=KeyGroupRange(0, 127),
            max_parallelism=128,
            directory=directory,
            uploads=no_uploads,
            now_ms=lambda: self.now_ms,
            options=BackendOptions(cache_cells=100_000),
        )
        assert isinstance(backend, RowBackend)
        self.backend = backend
        self.state = backend.value_state(ValueStateDescriptor[int]("seen", int, ttl=ttl))
        self.sizes: list[int] = []

    def run(self, keys: int, *, sizes: bool) -> float:
        """CPU seconds. sizes: count the rows now and then, which is not measured."""
        spent = 0.0
        set_key, update = self.backend.set_current_key, self.state.update
        for first in range(0, keys, BATCH):
            start = time.thread_time()
            for key in range(first, first + BATCH):
                set_key(key)
                update(key)
            self.now_ms += BATCH // KEYS_PER_MS
            self.backend.between_batches()
            spent += time.thread_time() - start
            if sizes and (first // BATCH) % (keys // BATCH // 50) == 0:
                self.sizes.append(self.rows())
        return spent

    def rows(self) -> int:
        """In the store, by looking at every one."""
        return sum(1 for _ in self.backend._store.rows_of_state(0, self.backend.key_groups))


def report(benchmark: str, value: float, unit: str, **more: float) -> None:
    print(json.dumps({"benchmark": benchmark, "value": round(value, 2), "unit": unit} | more), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--keys", type=int, default=10_000_000)
    parser.add_argument("--alive", type=int, default=1_000_000)
    arguments = parser.parse_args()
    gc.set_threshold(50_000, 50, 1_000)  # as slots do
    directory = Path(tempfile.mkdtemp(prefix="state-ttl-"))
    ttl_ms = arguments.alive // KEYS_PER_MS
    swept, unswept = StateTtlConfig(ttl_ms), StateTtlConfig(ttl_ms, cleanup_rows=0)
    try:
        one = OneShotKeys(directory / "flat", swept)
        one.run(arguments.keys, sizes=True)
        settled = one.sizes[len(one.sizes) // 5 :]
        first, last = max(settled[: len(settled) // 2]), max(settled[len(settled) // 2 :])
        report("state ttl: stored rows per live row", last / arguments.alive, "rows", limit=2.0)
        report("state ttl: growth over the run", last / first, "ratio", limit=1.1)
        one.backend.close()
        costs = {}
        for name, ttl in (("none", None), ("unswept", unswept), ("swept", swept)):
            run = OneShotKeys(directory / name, ttl)
            costs[name] = run.run(arguments.keys // 5, sizes=False)
            run.backend.close()
        updates = arguments.keys // 5
        report("state ttl: updates without a TTL", updates / costs["none"], "operations/s")
        report("state ttl: cost of stamps", costs["unswept"] / costs["none"], "ratio")
        report("state ttl: cost of stamps and sweeps", costs["swept"] / costs["none"], "ratio")
    finally:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
