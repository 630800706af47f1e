"""What a slot's process may use of memory: printed when it starts, shown over REST, and checked by a test.

    process     resident when it is blank: Python, Arrow, the libraries
    network     windows of the channels into the slot, and as much again of what its own channels have encoded and not
                sent yet: both are bounded by credit (writers.py), at most taskmanager.memory.network.max each
    state       block cache and write buffers of RocksDB, shared by all databases of the process; and the cells of one
                operator with keyed state in front of it: each further one may add as much
    work        the batches that are being read, computed and encoded

Nothing enforces it: every part has a limit of its own. What is not in it is what users' functions hold, and state on
the heap (state.backend.type: heap).
"""

from __future__ import annotations

from dataclasses import dataclass

from ..runtime.config import Configuration
from ..runtime.options import NETWORK_MEMORY, STATE_BACKEND
from ..runtime.units import format_size
from ..state.keyed_backend import BackendOptions

CELLS_BYTES = 100 << 20
"""Of the default number of cells, with small values."""
WORK_BYTES = 128 << 20
"""Some batches of 65,536 rows of columns, or of 1,024 rows of large objects, and what Python's allocator keeps."""


@dataclass(frozen=True, slots=True)
class MemoryBudget:
    """Bytes."""

    process: int
    network: int
    state: int
    work: int = WORK_BYTES

    @property
    def total(self) -> int:
        return self.process + self.network + self.state + self.work

    def __str__(self) -> str:
        parts = {"process": self.process, "network": self.network, "state": self.state, "work": self.work}
        return f"{_mebibytes(self.total)} = " + " + ".join(f"{name} {_mebibytes(part)}" for name, part in parts.items())


def memory_budget(config: Configuration, process_bytes: int) -> MemoryBudget:
    """`process_bytes`: resident memory of the blank process."""
    backend = BackendOptions()
    on_disk = backend.block_cache_bytes + backend.write_buffer_bytes + CELLS_BYTES
    return MemoryBudget(
        process=process_bytes,
        network=2 * config.get(NETWORK_MEMORY),
        state=on_disk if config.get(STATE_BACKEND) == "rocksdb" else 0,
    )


def _mebibytes(nbytes: int) -> str:
    return format_size(nbytes >> 20 << 20)
