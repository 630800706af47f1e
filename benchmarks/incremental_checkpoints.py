"""Incremental checkpoints of a large state: what is uploaded when a twentieth of it has changed, and for how long the
slot's thread stands still.

Work: values of 400 bytes that do not compress, 1 GB of them, in RocksDB with the memory that a slot has by default. A
round changes a twentieth of the keys, drawn at random: the worst case, because what changed lies everywhere. Then a
checkpoint is taken; its program runs on a helper thread, as in a slot, while the next round's changes go on. Uploaded
bytes are those of all objects that are written to the store, a local directory, over the bytes of the values that
changed. The synchronous part is the call that freezes the state, on the slot's thread: wall time, and CPU time since
the machine may be shared.

    python benchmarks/incremental_checkpoints.py [--gigabytes 1] [--rounds 20]

One JSON line per result.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import shutil
import statistics
import tempfile
import threading
import time
from pathlib import Path

import psutil

from penstock.runtime.clock import SystemClock
from penstock.state.backend_factory import create_keyed_backend
from penstock.state.descriptors import ValueStateDescriptor
from penstock.state.ids import Attempt, CheckpointId, JobId, new_nonce
from penstock.state.key_groups import KeyGroupRange
from penstock.state.rows.keyed_backend import BackendOptions, RowBackend
from penstock.state.store.checkpoint_store import CheckpointStore
from penstock.state.store.counted_objects import CountedObjects
from penstock.state.store.objects import run_program
from penstock.state.store.obstore_objects import ObstoreObjects
from penstock.state.store.packing import SubtaskUploads

VALUE_BYTES = 400
BATCH = 500
SHARE = 0.05
UPLOADS_LIMIT, SYNC_LIMIT_MS = 5.0, 50.0
POOL = random.Random(1).randbytes(64 << 20)


class LargeState:
    """Keys 0 .. count - 1."""

    def __init__(self, directory: Path, count: int) -> None:
        self.count = count
        self.objects = CountedObjects(ObstoreObjects(directory / "store"))
        store = CheckpointStore(JobId("job"), new_nonce)
        self.uploads = SubtaskUploads(lambda checkpoint: store.uploads(Attempt(1), checkpoint))
        backend = create_keyed_backend(
            "rocksdb",
            operator_name="benchmark",
            key_groups=KeyGroupRange(0, 127),
            max_parallelism=128,
            directory=directory / "state",
            uploads=self.uploads.of,
            now_ms=SystemClock().now_ms,
            options=BackendOptions(),
        )
        assert isinstance(backend, RowBackend)
        self.backend = backend
        self.state = backend.value_state(ValueStateDescriptor[bytes]("large", bytes))
        self.checkpoints = 0
        self._random = random.Random(2)
        self._helper = threading.Thread()
        self._uploaded = 0

    def change(self, keys: list[int]) -> None:
        set_key, update, draw = self.backend.set_current_key, self.state.update, self._random.randrange
        for start in range(0, len(keys), BATCH):
            for key in keys[start : start + BATCH]:
                set_key(key)
                place = draw(len(POOL) - VALUE_BYTES)
                update(POOL[place : place + VALUE_BYTES])
            self.backend.between_batches()

    def drawn(self) -> list[int]:
        return self._random.sample(range(self.count), round(self.count * SHARE))

    def checkpoint(self) -> tuple[float, float]:
        """The last one must have settled. Milliseconds of the synchronous part: wall, CPU."""
        self.checkpoints += 1
        began, began_cpu = time.monotonic(), time.thread_time()
        program = self.backend.snapshot(self.checkpoints)
        sync = 1_000 * (time.monotonic() - began), 1_000 * (time.thread_time() - began_cpu)

        def upload() -> None:
            run_program(program, self.objects)
            run_program(self.uploads.finish(CheckpointId(self.checkpoints)), self.objects)
            self.uploads.forget(CheckpointId(self.checkpoints))

        self._helper = threading.Thread(target=upload)
        self._helper.start()
        return sync

    def settle(self) -> int:
        """The last checkpoint is in the store, and told to be complete. Answers what it has uploaded."""
        self._helper.join()
        self.backend.checkpoint_completed(self.checkpoints)
        moved = self.objects.counts().bytes
        before, self._uploaded = self._uploaded, moved.get("put", 0) + moved.get("put_file", 0)
        return self._uploaded - before


def report(benchmark: str, value: float, unit: str, **more: object) -> None:
    print(json.dumps({"benchmark": benchmark, "value": round(value, 2), "unit": unit} | more), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    gc.set_threshold(50_000, 50, 1_000)  # as slots do
    directory = Path(tempfile.mkdtemp(prefix="incremental-"))
    try:
        large = LargeState(directory, int(arguments.gigabytes * 1e9) // VALUE_BYTES)
        large.change(random.Random(3).sample(range(large.count), large.count))
        large.checkpoint()
        changed = round(large.count * SHARE) * VALUE_BYTES
        syncs, uploads = [], []
        for _ in range(arguments.rounds):
            large.change(large.drawn())
            uploads.append(large.settle())
            syncs.append(large.checkpoint())
        whole, *uploads = [*uploads, large.settle()]
        wall, cpu = (sorted(times) for times in zip(*syncs, strict=True))
        late = int(0.95 * (len(wall) - 1))
        report("incremental checkpoint: first, whole", whole / 1e6, "MB")
        report(
            "incremental checkpoint: uploaded per changed byte", statistics.mean(uploads) / changed, "ratio",
            limit=UPLOADS_LIMIT, changed_mb=round(changed / 1e6), each_mb=[round(size / 1e6) for size in uploads],
        )  # fmt: skip
        report(
            "incremental checkpoint: synchronous part, p95", wall[late], "ms",
            limit=SYNC_LIMIT_MS, p50=round(wall[len(wall) // 2], 2), cpu_p95=round(cpu[late], 2),
        )  # fmt: skip
        report("incremental checkpoint: memory of the process", psutil.Process().memory_info().rss / 1e6, "MB")
        large.backend.close()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
