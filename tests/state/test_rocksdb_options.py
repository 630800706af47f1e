"""What is said of RocksDB reaches it: read back from the file in which it notes its options."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from penstock.state.rows.rocksdb import RocksStore
from penstock.state.rows.rocksdb_options import database_options
from penstock.state.rows.tuning import PROFILES, RocksTuning

MB = 1 << 20


def noted(directory: Path, tuning: RocksTuning, buffers: int = 256 * MB) -> dict[str, str]:
    """Opens a database, writes to it, and reads its options file."""
    store = RocksStore(directory, database_options(8 * MB, buffers, tuning))
    store.write([(b"\0\0\0\1key", b"value")])
    assert store.get(b"\0\0\0\1key") == b"value"
    (file,) = sorted((directory / "db").glob("OPTIONS-*"))[-1:]
    store.close()
    return dict(re.findall(r"^\s*(\w+)=(.*)$", file.read_text(), re.MULTILINE))


@pytest.mark.parametrize(
    ("tuning", "expected"),
    [
        (RocksTuning(background_jobs=5), {"max_background_jobs": "5"}),
        (RocksTuning(open_files=300), {"max_open_files": "300"}),
        (RocksTuning(compaction_style="universal"), {"compaction_style": "kCompactionStyleUniversal"}),
        (RocksTuning(dynamic_level_bytes=False), {"level_compaction_dynamic_level_bytes": "false"}),
        (RocksTuning(target_file_bytes=7 * MB), {"target_file_size_base": str(7 * MB)}),
        (RocksTuning(level_base_bytes=9 * MB), {"max_bytes_for_level_base": str(9 * MB)}),
        (RocksTuning(compression=("zstd",)), {"compression": "kZSTD"}),
        (
            RocksTuning(compression=("none", "lz4", "zstd")),
            {"compression_per_level": "kNoCompression:kLZ4Compression:kZSTD:kZSTD:kZSTD:kZSTD:kZSTD"},
        ),
        (RocksTuning(write_buffer_bytes=3 * MB), {"write_buffer_size": str(3 * MB)}),
        (
            RocksTuning(write_buffers=6, write_buffers_to_merge=2),
            {"max_write_buffer_number": "6", "min_write_buffer_number_to_merge": "2"},
        ),
        (RocksTuning(block_bytes=32 << 10), {"block_size": str(32 << 10)}),
        (
            RocksTuning(partitioned_filters=True, metadata_block_bytes=8 << 10),
            {"partition_filters": "true", "index_type": "kTwoLevelIndexSearch", "metadata_block_size": str(8 << 10)},
        ),
        (RocksTuning(bloom_bits=0), {"filter_policy": "nullptr"}),
    ],
)
def test_every_setting_reaches_the_database(tmp_path: Path, tuning: RocksTuning, expected: dict[str, str]) -> None:
    default = noted(tmp_path / "default", RocksTuning())
    found = noted(tmp_path / "set", tuning)
    assert {name: found[name] for name in expected} == expected
    assert all(default.get(name) != value for name, value in expected.items()), "the default would do the same"


def test_the_default_profile_is_what_was_measured(tmp_path: Path) -> None:
    found = noted(tmp_path, PROFILES["default"])
    assert (found["write_buffer_size"], found["max_write_buffer_number"]) == (str(64 * MB), "3")
    assert (found["block_size"], found["compression"], found["filter_policy"]) == (
        str(16 << 10), "kLZ4Compression", "bloomfilter",
    )  # fmt: skip
    assert (found["cache_index_and_filter_blocks"], found["level0_stop_writes_trigger"]) == ("true", "60")


def test_profiles_for_disks_are_those_of_flink(tmp_path: Path) -> None:
    high = noted(tmp_path / "high", PROFILES["spinning-disk-optimized-high-mem"])
    assert (high["max_background_jobs"], high["block_size"]) == ("4", str(128 << 10))
    assert (high["target_file_size_base"], high["max_bytes_for_level_base"]) == (str(256 * MB), str(1024 * MB))
    assert (high["max_write_buffer_number"], high["min_write_buffer_number_to_merge"]) == ("4", "3")
    for name in ("spinning-disk-optimized", "flash-ssd-optimized"):
        assert noted(tmp_path / name, PROFILES[name])["max_background_jobs"] == "4"


def test_write_buffers_of_one_database_fit_into_their_memory(tmp_path: Path) -> None:
    assert noted(tmp_path, RocksTuning(), buffers=12 * MB)["write_buffer_size"] == str(4 * MB)


def test_rows_are_written_in_batches_of_a_size(tmp_path: Path) -> None:
    store = RocksStore(tmp_path, database_options(8 * MB, 8 * MB), batch_bytes=1_000)
    rows = [(b"\0\0\0\1" + number.to_bytes(2, "big"), b"x" * 300) for number in range(50)]
    store.write([*rows, (b"\0\0\0\2", None)])
    assert store.scan(b"\0\0\0\1") == rows
    store.close()


def test_another_style_opens_what_the_one_before_wrote(tmp_path: Path) -> None:
    styles = [RocksTuning(), RocksTuning(compaction_style="universal"), replace(RocksTuning(), compression=("zstd",))]
    for turn, tuning in enumerate([*styles, RocksTuning()]):
        store = RocksStore(tmp_path, database_options(8 * MB, 8 * MB, tuning))
        assert [value for _key, value in store.scan(b"\0\0\0\1")] == [b"%d" % number for number in range(turn)]
        store.write([(b"\0\0\0\1%d" % turn, b"%d" % turn)])
        store.freeze().discard()  # flushes
        store.close()
