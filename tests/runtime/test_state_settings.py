"""Options of state and memory: what they come to, and what is refused."""

from __future__ import annotations

import pytest

from penstock.runtime.configuration.config import Configuration
from penstock.runtime.configuration.memory_options import network_bytes
from penstock.runtime.configuration.state_options import FIELDS
from penstock.runtime.configuration.state_settings import check_settings, managed_memory, rocks_tuning
from penstock.state.errors import ConfigurationError
from penstock.state.rows.tuning import PROFILES, RocksTuning

MB = 1 << 20
ROCKS = "state.backend.rocksdb."


def test_without_options_everything_has_its_default() -> None:
    memory = managed_memory(Configuration())
    assert (memory.cells, memory.block_cache, memory.write_buffers) == (128 * MB, 256 * MB, 256 * MB)
    assert rocks_tuning(Configuration()) == RocksTuning()
    assert network_bytes(Configuration()) == 256 * MB
    assert {name: option.default for name, option in FIELDS.items()} == {
        name: getattr(RocksTuning(), name) for name in FIELDS
    }, "what is printed as the default is the default"


@pytest.mark.parametrize("name", ["DEFAULT", "SPINNING_DISK_OPTIMIZED", "SPINNING_DISK_OPTIMIZED_HIGH_MEM",
                                  "FLASH_SSD_OPTIMIZED"])  # fmt: skip
def test_profiles_have_the_names_of_flink(name: str) -> None:
    known = PROFILES[name.lower().replace("_", "-")]
    assert rocks_tuning(Configuration({f"{ROCKS}predefined-options": name})) == known


def test_single_options_win_over_the_profile() -> None:
    config = Configuration(
        {
            f"{ROCKS}predefined-options": "SPINNING_DISK_OPTIMIZED_HIGH_MEM",
            f"{ROCKS}block.blocksize": "8kb",
            f"{ROCKS}compression.per.level": "NO_COMPRESSION;LZ4_COMPRESSION;ZSTD_COMPRESSION",
            f"{ROCKS}compaction.style": "UNIVERSAL",
        }
    )
    tuning = rocks_tuning(Configuration.from_dict(config.to_dict()))
    assert (tuning.block_bytes, tuning.compaction_style) == (8 << 10, "universal")
    assert tuning.compression == ("none", "lz4", "zstd")
    assert (tuning.write_buffers_to_merge, tuning.background_jobs) == (3, 4), "the rest is the profile's"
    assert rocks_tuning(Configuration({f"{ROCKS}use-bloom-filter": False})).bloom_bits == 0


def test_parts_are_fractions_of_the_process() -> None:
    config = Configuration({"taskmanager.memory.process.size": "2g"})
    check_settings(config)
    shared = 2048 * MB - 384 * MB
    assert managed_memory(config).total == round(shared * 0.4)
    assert network_bytes(config) == round(shared * 0.1)
    large = Configuration({"taskmanager.memory.process.size": "20g"})
    assert network_bytes(large) == 256 * MB, "network.max"
    small = Configuration({"taskmanager.memory.process.size": "600m", "taskmanager.memory.network.min": "40m"})
    assert network_bytes(small) == 40 * MB


def test_memory_for_state_is_split_as_told() -> None:
    config = Configuration(
        {
            "taskmanager.memory.managed.size": "100m",
            f"{ROCKS}memory.cell-cache-ratio": 0.5,
            f"{ROCKS}memory.write-buffer-ratio": 0.2,
        }
    )
    memory = managed_memory(config)
    assert (memory.cells, memory.write_buffers, memory.block_cache) == (50 * MB, 10 * MB, 40 * MB)
    config.set(f"{ROCKS}block.cache-size", "30m")
    assert managed_memory(config).block_cache == 30 * MB


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"taskmanager.memory.process.size": "300m"}, "process.size: 300MiB is not more than the 384MiB"),
        ({"taskmanager.memory.process.size": "500m"}, "process.size: 500MiB less 384MiB .* has no room"),
        ({"taskmanager.memory.process.size": "1g", "taskmanager.memory.managed.size": "1g"}, "or lower .*managed.size"),
        ({"taskmanager.memory.process.size": "1g", "taskmanager.memory.network.min": "1g"}, "more than .*network.max"),
        ({"taskmanager.memory.managed.size": "1m"}, "managed.size: 1MiB is too little for keyed state"),
        ({f"{ROCKS}block.cache-size": "1g"}, "block.cache-size: 1GiB does not fit; .* 640MiB leaves 256MiB"),
        (
            {"taskmanager.memory.managed.size": "8m", f"{ROCKS}memory.write-buffer-ratio": 0.99},
            "less than 1 MiB of 8MiB",
        ),
        ({f"{ROCKS}block.blocksize": "10b"}, "block.blocksize: it is at least 1KiB"),
        ({f"{ROCKS}writebuffer.number-to-merge": 3}, "number-to-merge: 3 of 3 write buffers"),
        ({f"{ROCKS}bloom-filter.bits-per-key": -1}, "bits-per-key: it is between 0 and 100"),
        ({f"{ROCKS}files.open": 0}, "files.open: it is -1, or at least 1"),
    ],
)
def test_what_does_not_go_together_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        check_settings(Configuration(options))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("predefined-options", "FASTEST", "'FASTEST' is none of default, spinning-disk-optimized,"),
        ("compaction.style", "FIFO", "'FIFO' is none of level, universal"),
        ("compression.per.level", "lz4;middle-out", "'middle-out' is none of none, snappy,"),
        ("writebuffer.count", 0, "0 is less than 1"),
        ("thread.num", "many", "'many' is not a whole number of at least 1"),
        ("memory.write-buffer-ratio", 1.5, "1.5 is not between 0 and 1"),
        ("writebuffer.siz", "1m", "did you mean state.backend.rocksdb.writebuffer.size"),
        ("block.cash-size", "1m", "did you mean state.backend.rocksdb.block.cache-size"),
    ],
)
def test_what_an_option_cannot_be_is_refused(key: str, value: object, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Configuration({ROCKS + key: value})


def test_what_flink_has_beyond_that_is_noted() -> None:
    for key in ("localdir", "timer-service.factory", "memory.managed", "log.level", "checkpoint.transfer.thread.num"):
        assert len(Configuration({ROCKS + key: "1"}).notes) == 1
