"""What a restore fetches does not stay on the disk: compaction could never free it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from penstock.testing.lists import ListSink


@pytest.mark.parametrize("backend", ["heap", "rocksdb"])
def test_fetched_files_go_when_state_is_open(
    new_env: Any, drive: Any, held_source: Any, results: Any, tmp_path: Path, backend: str
) -> None:
    def job(restore: str | None = None) -> Any:
        env = new_env(1, restore).set_state_backend(backend)
        numbers = env.from_source(held_source(list(range(100)), tmp_path / "gate", 50, record_type=int))
        numbers.key_by(lambda x: x % 3).reduce(lambda a, b: a + b).uid("sums").sink_to(ListSink("sums"))
        return drive(env)

    assert results("sums") == []
    job().checkpoints().stop()
    second = job("latest").checkpoints()
    assert second.status.checkpoints.restored is not None
    assert not list(second.job.cluster._work_directory.rglob("restored"))
    (tmp_path / "gate").touch()
    second.end()
    assert len(results("sums")) == 100
