"""What a slot may use of memory: how it is added up, and that state keeps to its part under load."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from penstock.runtime.configuration.config import Configuration
from penstock.state.errors import ConfigurationError
from penstock.state.rows.cell_weight import CacheShares
from penstock.taskmanager.processes.memory_budget import backend_options, memory_budget

MB = 1 << 20
LOAD = Path(__file__).with_name("memory_load.py")


def test_the_parts_add_up_to_what_is_printed() -> None:
    budget = memory_budget(Configuration(), 70 * MB)
    assert str(budget) == ("1350MiB = process 70MiB + network 512MiB + cells 128MiB + rocksdb 512MiB + work 128MiB")
    assert budget.total == sum(budget.parts.values()) == 1350 * MB


def test_with_the_size_of_a_process_functions_have_the_rest() -> None:
    config = Configuration({"taskmanager.memory.process.size": "2g"})
    budget = memory_budget(config, 100 * MB)
    assert budget.total == 2048 * MB
    assert budget.functions > 512 * MB
    assert budget.cells + budget.rocksdb == round(0.4 * (2048 - 384) * MB)


def test_state_on_the_heap_needs_no_databases() -> None:
    assert memory_budget(Configuration({"state.backend.type": "heap"}), 0).rocksdb == 0


def test_a_budget_that_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"taskmanager.memory.managed.size"):
        memory_budget(Configuration({"taskmanager.memory.managed.size": "1kb"}), 0)


def test_backends_are_given_what_the_budget_says() -> None:
    config = Configuration(
        {
            "taskmanager.memory.managed.size": "100m",
            "state.backend.rocksdb.thread.num": 3,
            "execution.checkpointing.snapshot-compression": False,
            "pipeline.generic-types": False,
        }
    )
    shares = CacheShares()
    options = backend_options(config, shares)
    assert (options.cache_bytes, options.block_cache_bytes, options.write_buffer_bytes) == (20 * MB, 40 * MB, 40 * MB)
    assert (options.tuning.background_jobs, options.compress_snapshots, options.generic_types) == (3, False, False)
    assert options.shares is shares
    assert backend_options(Configuration(), shares).cache_cells > 200_000


def test_state_four_times_its_memory_keeps_to_it(tmp_path: Path) -> None:
    """Two operators of a slot, values written and read at random, checkpoints taken."""
    done = subprocess.run(
        [sys.executable, str(LOAD), str(tmp_path), "64m", "4"], capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)
    assert measured["managed"] == 64 * MB
    assert measured["stored"] > 3.5 * 64 * MB, "values at random do not compress"
    assert measured["resident"] < 64 * MB + 32 * MB, measured
