"""What the options of state and memory come to, checked against each other before a job runs."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ...state.errors import ConfigurationError
from ...state.rows.tuning import PROFILES, RocksTuning
from ..units import format_size
from .config import Configuration
from .memory_options import check_memory, managed_bytes
from .option_kinds import Option
from .state_options import (
    BLOCK,
    BLOCK_CACHE,
    BLOOM,
    BLOOM_BITS,
    CACHE_RATIO,
    FIELDS,
    MERGED_BUFFERS,
    METADATA_BLOCK,
    OPEN_FILES,
    PROFILE,
    TARGET_FILE,
    WRITE_BATCH,
    WRITE_BUFFER,
    WRITE_BUFFER_RATIO,
)

_LEAST_BYTES: dict[Option[int], int] = {
    BLOCK: 1 << 10, METADATA_BLOCK: 1 << 10, WRITE_BUFFER: 64 << 10, WRITE_BATCH: 4 << 10, TARGET_FILE: 1 << 20,
}  # fmt: skip
_MOST_BLOOM_BITS = 100


@dataclass(frozen=True, slots=True)
class ManagedMemory:
    """Of one slot, in bytes."""

    cells: int
    """Decoded values, and what is on its way to RocksDB."""
    block_cache: int
    write_buffers: int

    @property
    def total(self) -> int:
        return self.cells + self.block_cache + self.write_buffers


def check_settings(config: Configuration) -> None:
    """ConfigurationError when options of state and memory do not go together."""
    check_memory(config)
    managed_memory(config)
    rocks_tuning(config)


def managed_memory(config: Configuration) -> ManagedMemory:
    """How the memory for keyed state is split. ConfigurationError when it does not fit."""
    whole = managed_bytes(config)
    cells = round(whole * config.get(CACHE_RATIO))
    buffers = round((whole - cells) * config.get(WRITE_BUFFER_RATIO))
    left = whole - cells - buffers
    if min(cells, buffers, left) < 1 << 20:
        raise ConfigurationError(
            f"options {CACHE_RATIO.key} and {WRITE_BUFFER_RATIO.key} leave less than 1 MiB of "
            f"{format_size(whole)} for a part"
        )
    cache = config.get(BLOCK_CACHE) or left
    if cache > left:
        raise ConfigurationError(
            f"option {BLOCK_CACHE.key}: {format_size(cache)} does not fit; the managed memory of "
            f"{format_size(whole)} leaves {format_size(left >> 20 << 20)} for it beside write buffers and cells"
        )
    return ManagedMemory(cells, cache, buffers)


def rocks_tuning(config: Configuration) -> RocksTuning:
    """The profile, as far as no option says otherwise. ConfigurationError for what RocksDB cannot do."""
    for option, least in _LEAST_BYTES.items():
        if config.get(option) < least:
            raise ConfigurationError(f"option {option.key}: it is at least {format_size(least)}")
    if not 0 < config.get(BLOOM_BITS) <= _MOST_BLOOM_BITS:
        raise ConfigurationError(f"option {BLOOM_BITS.key}: it is between 0 and {_MOST_BLOOM_BITS}")
    if config.get(OPEN_FILES) < -1 or config.get(OPEN_FILES) == 0:
        raise ConfigurationError(f"option {OPEN_FILES.key}: it is -1, or at least 1")
    given = {name: config.get(option) for name, option in FIELDS.items() if option in config}
    tuning = replace(PROFILES[config.get(PROFILE)], **given)
    if not config.get(BLOOM):
        tuning = replace(tuning, bloom_bits=0.0)
    if tuning.write_buffers_to_merge >= tuning.write_buffers and tuning.write_buffers_to_merge > 1:
        raise ConfigurationError(
            f"option {MERGED_BUFFERS.key}: {tuning.write_buffers_to_merge} of {tuning.write_buffers} write buffers "
            "cannot be merged while another one is written to"
        )
    return tuning
