"""Options of state backends: how RocksDB works, under Flink's names. tuning.py says what the profiles are."""

from __future__ import annotations

from typing import Any

from ...state.rows.tuning import PROFILES, RocksTuning
from .option_kinds import BOOL, COUNT, FLOAT, FRACTION, INT, SIZE, Option, list_of, one_of

_COMPRESSIONS = ("none", "snappy", "lz4", "lz4hc", "zlib", "bz2", "zstd")
_FLINKS_COMPRESSIONS = {
    f"{name}-compression": known
    for name, known in (
        ("no", "none"), ("snappy", "snappy"), ("lz4", "lz4"), ("lz4hc", "lz4hc"), ("zlib", "zlib"), ("bzlib2", "bz2"),
        ("zstd", "zstd"),
    )
}  # fmt: skip
_DEFAULT = RocksTuning()

SNAPSHOT_COMPRESSION = Option(
    "execution.checkpointing.snapshot-compression", BOOL, True,
    "Compress the rows of the heap backend in checkpoints (lz4). RocksDB's files are compressed as "
    "state.backend.rocksdb.compression.per.level says, savepoints always (zstd).",
    ("execution.checkpointing.snapshot.compression",),
)  # fmt: skip
CACHE_RATIO = Option(
    "state.backend.rocksdb.memory.cell-cache-ratio", FRACTION, 0.2,
    "Part of the managed memory that holds decoded values in front of RocksDB.",
)  # fmt: skip
WRITE_BUFFER_RATIO = Option(
    "state.backend.rocksdb.memory.write-buffer-ratio", FRACTION, 0.5,
    "Part of RocksDB's memory, which is the rest of the managed memory, for write buffers; what they leave is its "
    "block cache.",
)  # fmt: skip
BLOCK_CACHE = Option(
    "state.backend.rocksdb.block.cache-size", SIZE, 0,
    "Block cache of a slot, if not what the write buffers leave of RocksDB's memory; it must fit beside them.",
)  # fmt: skip
PROFILE = Option(
    "state.backend.rocksdb.predefined-options", one_of(*PROFILES), "default",
    "A profile, of which single options below may differ.",
)  # fmt: skip
JOBS = Option(
    "state.backend.rocksdb.thread.num", COUNT, _DEFAULT.background_jobs, "Threads for flushes and compactions."
)
OPEN_FILES = Option(
    "state.backend.rocksdb.files.open", INT, _DEFAULT.open_files, "Table files kept open in each database; -1: all."
)
STYLE = Option(
    "state.backend.rocksdb.compaction.style", one_of("level", "universal"), _DEFAULT.compaction_style,
    "level: less disk and faster reads; universal: less is rewritten, for up to twice the disk.",
)  # fmt: skip
DYNAMIC_LEVELS = Option(
    "state.backend.rocksdb.compaction.level.use-dynamic-size", BOOL, _DEFAULT.dynamic_level_bytes,
    "Sizes of levels follow that of the last one.",
)  # fmt: skip
TARGET_FILE = Option(
    "state.backend.rocksdb.compaction.level.target-file-size-base", SIZE, _DEFAULT.target_file_bytes,
    "Table files that compaction writes.",
)  # fmt: skip
LEVEL_BASE = Option(
    "state.backend.rocksdb.compaction.level.max-size-level-base", SIZE, _DEFAULT.level_base_bytes,
    "The first level below level 0.",
)  # fmt: skip
COMPRESSION = Option(
    "state.backend.rocksdb.compression.per.level", list_of(*_COMPRESSIONS, **_FLINKS_COMPRESSIONS),
    _DEFAULT.compression,
    "Compression of levels from 0 on, with semicolons or commas; the last one is that of all further levels.",
)  # fmt: skip
WRITE_BUFFER = Option(
    "state.backend.rocksdb.writebuffer.size", SIZE, _DEFAULT.write_buffer_bytes,
    "One write buffer; smaller where `count` of them would not fit into the memory for write buffers.",
)  # fmt: skip
WRITE_BUFFERS = Option(
    "state.backend.rocksdb.writebuffer.count", COUNT, _DEFAULT.write_buffers, "Write buffers of each database."
)
MERGED_BUFFERS = Option(
    "state.backend.rocksdb.writebuffer.number-to-merge", COUNT, _DEFAULT.write_buffers_to_merge,
    "Full write buffers that are flushed together; fewer than `count`.",
)  # fmt: skip
WRITE_BATCH = Option(
    "state.backend.rocksdb.write-batch-size", SIZE, _DEFAULT.write_batch_bytes,
    "Rows are written in batches of about this size: the whole process waits for one.",
)  # fmt: skip
BLOCK = Option(
    "state.backend.rocksdb.block.blocksize", SIZE, _DEFAULT.block_bytes,
    "What is read from disk for one row, and compressed together.",
)  # fmt: skip
METADATA_BLOCK = Option(
    "state.backend.rocksdb.block.metadata-blocksize", SIZE, _DEFAULT.metadata_block_bytes,
    "Blocks of indexes and filters, if they are partitioned.",
)  # fmt: skip
PARTITIONED = Option(
    "state.backend.rocksdb.memory.partitioned-index-filters", BOOL, _DEFAULT.partitioned_filters,
    "Indexes and filters are read in parts: for state that is very much larger than memory.",
)  # fmt: skip
BLOOM = Option(
    "state.backend.rocksdb.use-bloom-filter", BOOL, True, "Filters that know most of the keys that are not there."
)
BLOOM_BITS = Option("state.backend.rocksdb.bloom-filter.bits-per-key", FLOAT, _DEFAULT.bloom_bits, "Of such a filter.")

FIELDS: dict[str, Option[Any]] = {
    "background_jobs": JOBS,
    "open_files": OPEN_FILES,
    "compaction_style": STYLE,
    "dynamic_level_bytes": DYNAMIC_LEVELS,
    "target_file_bytes": TARGET_FILE,
    "level_base_bytes": LEVEL_BASE,
    "compression": COMPRESSION,
    "write_buffer_bytes": WRITE_BUFFER,
    "write_buffers": WRITE_BUFFERS,
    "write_buffers_to_merge": MERGED_BUFFERS,
    "write_batch_bytes": WRITE_BATCH,
    "block_bytes": BLOCK,
    "metadata_block_bytes": METADATA_BLOCK,
    "partitioned_filters": PARTITIONED,
    "bloom_bits": BLOOM_BITS,
}
"""Of RocksTuning -> the option that overrides the profile's."""
