"""What a slot's process may use of memory: printed when it starts and when it is leased, shown over REST.

    process     resident when it is blank: Python, Arrow, the libraries
    network     windows of the channels into the slot, and as much again of what its own channels have encoded and not
                sent yet: both are bounded by credit (writers.py), at most taskmanager.memory.network.max each
    cells       decoded values before RocksDB, the first timers, and what is on its way into it
                (state/rows/cell_weight.py), shared by all operators of the slot with keyed state
    rocksdb     block cache, which indexes and filters are part of, and write buffers, shared by all its databases
    work        the batches that are being read, computed and encoded
    functions   with taskmanager.memory.process.size: what is left for users' functions

Cells and rocksdb are the managed memory. Nobody enforces the sum: every part keeps to its own limit. What is not in it
is what users' functions hold beyond their part, vectorised windows, and state and timers on the heap
(state.backend.type: heap).
"""

from __future__ import annotations

from dataclasses import dataclass

from ...runtime.configuration.config import Configuration
from ...runtime.configuration.memory_options import PROCESS_SIZE, WORK_BYTES, network_bytes
from ...runtime.configuration.options import GENERIC_TYPES, STATE_BACKEND
from ...runtime.configuration.state_options import SNAPSHOT_COMPRESSION
from ...runtime.configuration.state_settings import managed_memory, rocks_tuning
from ...runtime.units import format_size
from ...state.rows.cell_weight import CacheShares
from ...state.rows.keyed_backend import BackendOptions

_CELL_BYTES = 640
"""Least room for a cell in the cache, which bounds their number: of 128 MB, 210,000."""


@dataclass(frozen=True, slots=True)
class MemoryBudget:
    """Bytes."""

    process: int
    network: int
    cells: int
    rocksdb: int
    work: int = WORK_BYTES
    functions: int = 0

    @property
    def parts(self) -> dict[str, int]:
        names = ("process", "network", "cells", "rocksdb", "work", "functions")
        return {name: getattr(self, name) for name in names}

    @property
    def total(self) -> int:
        return sum(self.parts.values())

    def __str__(self) -> str:
        shown = " + ".join(f"{name} {_mebibytes(part)}" for name, part in self.parts.items() if part)
        return f"{_mebibytes(self.total)} = {shown}"


def memory_budget(config: Configuration, process_bytes: int) -> MemoryBudget:
    """`process_bytes`: resident memory of the blank process. ConfigurationError."""
    managed = managed_memory(config)
    on_disk = config.get(STATE_BACKEND) == "rocksdb"
    budget = MemoryBudget(
        process=process_bytes,
        network=2 * network_bytes(config),
        cells=managed.cells,
        rocksdb=managed.block_cache + managed.write_buffers if on_disk else 0,
    )
    left = config.get(PROCESS_SIZE) - budget.total
    if left <= 0:
        return budget
    return MemoryBudget(budget.process, budget.network, budget.cells, budget.rocksdb, functions=left)


def backend_options(config: Configuration, shares: CacheShares) -> BackendOptions:
    """For one operator with keyed state. `shares`: of its slot. ConfigurationError."""
    managed = managed_memory(config)
    return BackendOptions(
        cache_cells=managed.cells // _CELL_BYTES,
        generic_types=config.get(GENERIC_TYPES),
        block_cache_bytes=managed.block_cache,
        write_buffer_bytes=managed.write_buffers,
        tuning=rocks_tuning(config),
        compress_snapshots=config.get(SNAPSHOT_COMPRESSION),
        cache_bytes=managed.cells,
        shares=shares,
    )


def _mebibytes(nbytes: int) -> str:
    return format_size(nbytes >> 20 << 20)
