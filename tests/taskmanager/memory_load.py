"""Run by test_memory_budget.py in a process of its own: keyed state of some times its budget, under load.

Prints one JSON line: what the budget is, and the most that was resident beyond the blank process.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

from penstock.runtime.configuration.config import Configuration
from penstock.state.backend_factory import create_keyed_backend
from penstock.state.descriptors import ValueStateDescriptor
from penstock.state.key_groups import KeyGroupRange
from penstock.state.rows import rocksdb  # noqa: F401  # the native library is part of a blank process
from penstock.state.rows.cell_weight import CacheShares
from penstock.state.snapshots import FileHandle
from penstock.taskmanager.processes.memory_budget import backend_options, memory_budget
from penstock.taskmanager.processes.process_metrics import rss_bytes

VALUE_BYTES = 4_000
BATCH = 100


class Uploads:
    """Reads nothing: what is uploaded where is not what this is about."""

    def put_bytes(self, data: bytes, *, shared: bool = False) -> Generator[Any, Any, FileHandle]:
        yield None
        return FileHandle("object", len(data), "", shared)

    def put_file(self, path: Path, *, shared: bool = False, name: str = "") -> Generator[Any, Any, FileHandle]:
        yield None
        return FileHandle("object", path.stat().st_size, "", shared)


def main(directory: Path, budget: str, times: int) -> None:
    config = Configuration({"taskmanager.memory.managed.size": budget})
    shares, pick = CacheShares(), random.Random(7)
    blank = rss_bytes()
    planned = memory_budget(config, blank)
    managed = planned.cells + planned.rocksdb
    operators = [
        create_keyed_backend(
            "rocksdb",
            operator_name=f"operator {number}",
            key_groups=KeyGroupRange(0, 127),
            max_parallelism=128,
            directory=directory / str(number),
            uploads=lambda checkpoint: Uploads(),
            now_ms=lambda: 0,
            options=backend_options(config, shares),
        )
        for number in range(2)
    ]
    values = [backend.value_state(ValueStateDescriptor("value", bytes)) for backend in operators]
    keys, most = times * managed // VALUE_BYTES // len(operators), 0
    for turn, start in enumerate([*range(0, keys, BATCH), *range(0, keys // 4, BATCH)]):
        for backend, value in zip(operators, values, strict=True):
            for key in range(start, start + BATCH):
                backend.set_current_key(key)
                value.update(pick.randbytes(VALUE_BYTES))
                backend.set_current_key(pick.randrange(start + 1))
                value.value()
            backend.between_batches()
            if turn % 40 == 39:
                for _step in backend.snapshot(turn):
                    pass
                backend.checkpoint_completed(turn)
        most = max(most, rss_bytes() - blank)
    stored = sum(backend.statistics().bytes for backend in operators)
    print(json.dumps({"managed": managed, "stored": stored, "resident": most, "budget": str(planned)}))
    for backend in operators:
        backend.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
