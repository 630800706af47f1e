"""Tells RocksDB how to work (tuning.py) and how much memory it has.

Block cache and write buffers are shared by all databases of the process that name the same sizes. Indexes and filters
are in the block cache, so that it bounds them too.
"""

from __future__ import annotations

from functools import lru_cache

from rocksdict import (
    BlockBasedIndexType,
    BlockBasedOptions,
    Cache,
    DataBlockIndexType,
    DBCompactionStyle,
    DBCompressionType,
    Options,
    UniversalCompactOptions,
    WriteBufferManager,
)

from .tuning import RocksTuning

_LEVELS = 7
_LOG_BYTES = 8 << 20
_MOSTLY_DELETIONS = 0.7


@lru_cache(maxsize=8)
def _block_cache(size_bytes: int) -> Cache:
    return Cache(size_bytes)


@lru_cache(maxsize=8)
def _write_buffers(size_bytes: int) -> WriteBufferManager:
    return WriteBufferManager(size_bytes, False)


def database_options(block_cache_bytes: int, write_buffer_bytes: int, tuning: RocksTuning | None = None) -> Options:
    tuning = tuning or RocksTuning()
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_write_buffer_size(tuning.write_buffer_of(write_buffer_bytes))
    options.set_max_write_buffer_number(tuning.write_buffers)
    options.set_min_write_buffer_number_to_merge(tuning.write_buffers_to_merge)
    options.set_write_buffer_manager(_write_buffers(write_buffer_bytes))
    options.set_level_zero_slowdown_writes_trigger(40)  # a stalled write holds the GIL
    options.set_level_zero_stop_writes_trigger(60)
    options.set_max_background_jobs(tuning.background_jobs)
    options.set_max_open_files(tuning.open_files)
    options.set_memtable_prefix_bloom_ratio(0.05)  # what misses the cache is seldom in the memtable either
    options.set_memtable_whole_key_filtering(True)
    _set_compaction(options, tuning)
    options.set_bytes_per_sync(1 << 20)
    options.set_keep_log_file_num(1)
    options.set_max_log_file_size(_LOG_BYTES)
    options.set_block_based_table_factory(_tables(block_cache_bytes, tuning))
    return options


def _set_compaction(options: Options, tuning: RocksTuning) -> None:
    if tuning.compaction_style == "universal":
        options.set_compaction_style(DBCompactionStyle.universal())
        options.set_universal_compaction_options(UniversalCompactOptions())
    else:
        options.set_level_compaction_dynamic_level_bytes(tuning.dynamic_level_bytes)
    # A file of what a burst of timers or windows has deleted goes where it frees room, though there is nothing new.
    options.add_compact_on_deletion_collector_factory(0, 0, _MOSTLY_DELETIONS)
    kinds = [getattr(DBCompressionType, name)() for name in tuning.compression]
    options.set_compression_type(kinds[-1])
    if len(kinds) > 1:
        options.set_compression_per_level([*kinds, *[kinds[-1]] * (_LEVELS - len(kinds))][:_LEVELS])
    options.set_target_file_size_base(tuning.target_file_bytes)
    options.set_max_bytes_for_level_base(tuning.level_base_bytes)


def _tables(block_cache_bytes: int, tuning: RocksTuning) -> BlockBasedOptions:
    tables = BlockBasedOptions()
    tables.set_block_cache(_block_cache(block_cache_bytes))
    if tuning.bloom_bits:
        tables.set_bloom_filter(tuning.bloom_bits, False)  # type: ignore[arg-type]  # the stub says int
    tables.set_block_size(tuning.block_bytes)
    tables.set_format_version(5)
    tables.set_data_block_index_type(DataBlockIndexType.binary_and_hash())
    tables.set_data_block_hash_ratio(0.75)
    tables.set_cache_index_and_filter_blocks(True)
    tables.set_pin_l0_filter_and_index_blocks_in_cache(True)
    tables.set_metadata_block_size(tuning.metadata_block_bytes)
    if tuning.partitioned_filters:
        tables.set_index_type(BlockBasedIndexType.two_level_index_search())
        tables.set_partition_filters(True)
        tables.set_pin_top_level_index_and_filter(True)
    return tables
