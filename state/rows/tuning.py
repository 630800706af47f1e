"""How RocksDB works: profiles to choose from, and what can be set one by one. rocksdb_options.py tells the library.

How much memory it has is not decided here but by the slot's budget; what is said of write buffers is fitted to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

CompactionStyle = Literal["level", "universal"]
Compression = Literal["none", "snappy", "lz4", "lz4hc", "zlib", "bz2", "zstd"]


@dataclass(frozen=True, slots=True)
class RocksTuning:
    """Of every database of an operator. Sizes in bytes."""

    background_jobs: int = 2
    """Threads for flushes and compactions."""
    open_files: int = -1
    """-1: all stay open."""
    compaction_style: CompactionStyle = "level"
    dynamic_level_bytes: bool = True
    target_file_bytes: int = 64 << 20
    level_base_bytes: int = 256 << 20
    compression: tuple[Compression, ...] = ("lz4",)
    """From level 0 on; the last one is that of all further levels."""
    write_buffer_bytes: int = 64 << 20
    write_buffers: int = 3
    write_buffers_to_merge: int = 1
    write_batch_bytes: int = 2 << 20
    """Rows are written in batches of about this size: writing one holds the interpreter's lock."""
    block_bytes: int = 16 << 10
    metadata_block_bytes: int = 4 << 10
    partitioned_filters: bool = False
    """Indexes and filters in blocks that are cached apart: for much more data than memory."""
    bloom_bits: float = 10.0
    """A key; 0: no filters."""

    def write_buffer_of(self, budget_bytes: int) -> int:
        """The size of one, so that those of one database fit."""
        return max(64 << 10, min(self.write_buffer_bytes, budget_bytes // self.write_buffers))


_DEFAULT = RocksTuning()
_SPINNING = replace(_DEFAULT, background_jobs=4)
PROFILES: Mapping[str, RocksTuning] = MappingProxyType(
    {
        "default": _DEFAULT,
        "spinning-disk-optimized": _SPINNING,
        "spinning-disk-optimized-high-mem": replace(
            _SPINNING,
            target_file_bytes=256 << 20,
            level_base_bytes=1 << 30,
            write_buffers=4,
            write_buffers_to_merge=3,
            block_bytes=128 << 10,
        ),
        "flash-ssd-optimized": replace(_DEFAULT, background_jobs=4),
    }
)
"""As Flink's PredefinedOptions name them. DEFAULT is ours: levels that size themselves, lz4, filters."""
