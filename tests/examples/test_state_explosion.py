"""State of sessions that are over: without a TTL all of it is in the last checkpoint, with one hardly any; the results
are the same."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import pytest

VISITS, RATE = 16_000, 8_000


def test_a_ttl_keeps_state_flat(example: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = example.write_visits(tmp_path / "visits.json", VISITS)
    runs = {ttl: example.run(data, RATE, ttl, tmp_path / str(ttl)) for ttl in (None, "200ms")}
    without, with_ttl = ([size for _, size in sizes] for sizes in runs.values())
    assert all(later > 0.95 * earlier for earlier, later in pairwise(without)), "it grows, but for the end"
    sessions = VISITS // example.VISITS_A_SESSION
    assert without[-1] > 8 * sessions, "bytes: all of them are there"
    assert max(with_ttl) < 0.6 * without[-1]
    for ttl in runs:
        files = [path for path in (tmp_path / str(ttl)).rglob("*") if path.is_file() and path.name[0] not in "_."]
        rows = [json.loads(line) for path in files for line in path.read_text().splitlines()]
        assert sorted(row["session"] for row in rows) == [f"session-{n:09}" for n in range(sessions)]
