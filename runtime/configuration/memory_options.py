"""Options of memory, and what follows from them alone. taskmanager/processes/memory_budget.py adds up a slot's budget.

Every slot is a process of its own, so what Flink says of a task manager's process is said here of a slot's. Without
taskmanager.memory.process.size the parts have sizes of their own, and their sum is the budget; with it they are
fractions of what the process itself and the batches at work leave of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...state.errors import ConfigurationError
from ..units import format_size
from .option_kinds import FRACTION, SIZE, Option

if TYPE_CHECKING:
    from .config import Configuration

PROCESS_SIZE = Option(
    "taskmanager.memory.process.size", SIZE, 0,
    "What the process of one slot may use altogether, of which the parts below are fractions; 0: managed.size and "
    "network.max stand for themselves.",
)  # fmt: skip
MANAGED_SIZE = Option(
    "taskmanager.memory.managed.size", SIZE, 0,
    "Memory for the keyed state of one slot: RocksDB's block cache and write buffers, and the cache of decoded values "
    "before it. 0: managed.fraction of process.size; 640 MiB without that.",
)  # fmt: skip
MANAGED_FRACTION = Option(
    "taskmanager.memory.managed.fraction", FRACTION, 0.4, "Of process.size, for keyed state, without managed.size."
)
NETWORK_FRACTION = Option(
    "taskmanager.memory.network.fraction", FRACTION, 0.1,
    "Of process.size, for the windows of channels, between network.min and network.max.",
)  # fmt: skip
NETWORK_MIN = Option("taskmanager.memory.network.min", SIZE, 64 * 2**20, "With process.size: see network.fraction.")
NETWORK_MEMORY = Option(
    "taskmanager.memory.network.max", SIZE, 256 * 2**20,
    "Most that the windows of all of a slot's channels may hold together; checked when the job is submitted.",
)  # fmt: skip

DEFAULT_MANAGED_BYTES = 640 << 20
OWN_BYTES = 256 << 20
"""Of process.size, for the process when it is blank: Python, Arrow, the libraries."""
WORK_BYTES = 128 << 20
"""Some batches of 65,536 rows of columns, or of 1,024 rows of large objects, and what Python's allocator keeps."""
_LEAST_MANAGED = 8 << 20


def managed_bytes(config: Configuration) -> int:
    """For keyed state. ConfigurationError when it does not fit."""
    given = config.get(MANAGED_SIZE)
    size = given or (round(_shared_out(config) * config.get(MANAGED_FRACTION)) or DEFAULT_MANAGED_BYTES)
    if size < _LEAST_MANAGED:
        raise ConfigurationError(
            f"option {MANAGED_SIZE.key}: {format_size(size)} is too little for keyed state, which needs "
            f"{format_size(_LEAST_MANAGED)} at least"
        )
    return size


def network_bytes(config: Configuration) -> int:
    """For the windows of the channels into a slot; what its own channels have encoded takes as much again.
    ConfigurationError."""
    most = config.get(NETWORK_MEMORY)
    if not config.get(PROCESS_SIZE):
        return most
    if config.get(NETWORK_MIN) > most:
        raise ConfigurationError(f"option {NETWORK_MIN.key}: it is more than {NETWORK_MEMORY.key}")
    size = round(_shared_out(config) * config.get(NETWORK_FRACTION))
    return min(max(size, config.get(NETWORK_MIN)), most)


def check_memory(config: Configuration) -> None:
    """ConfigurationError when the parts do not fit into the process."""
    parts = managed_bytes(config) + 2 * network_bytes(config)
    if config.get(PROCESS_SIZE) and parts > _shared_out(config):
        raise ConfigurationError(
            f"option {PROCESS_SIZE.key}: {format_size(config.get(PROCESS_SIZE))} less "
            f"{format_size(OWN_BYTES + WORK_BYTES)} for the process itself has no room for keyed state and twice the "
            f"network's windows, {format_size(parts >> 20 << 20)} together; raise it, or lower {MANAGED_SIZE.key} or "
            f"{NETWORK_MEMORY.key}"
        )


def _shared_out(config: Configuration) -> int:
    """What is there for state, network and functions; 0 without process.size."""
    whole = config.get(PROCESS_SIZE)
    if not whole:
        return 0
    left = whole - OWN_BYTES - WORK_BYTES
    if left <= 0:
        raise ConfigurationError(
            f"option {PROCESS_SIZE.key}: {format_size(whole)} is not more than the "
            f"{format_size(OWN_BYTES + WORK_BYTES)} that the process itself and the batches at work need"
        )
    return left
