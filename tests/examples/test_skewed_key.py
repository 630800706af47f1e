"""Two phases give what one phase gives, over an exchange that hardly any record crosses, with the work spread."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from types import ModuleType

import pytest

CLICKS, PARALLELISM = 10_000, 3


def golden(example: ModuleType) -> dict[tuple[str, int], tuple[int, int]]:
    stays: defaultdict[tuple[str, int], list[int]] = defaultdict(list)
    for click in map(example.click_of, range(CLICKS)):
        stays[click.page, click.at // 60_000].append(click.duration_ms)
    return {key: (len(of_key), max(of_key)) for key, of_key in stays.items()}


def test_what_is_told(example: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PENSTOCK__PARALLELISM__DEFAULT", str(PARALLELISM))
    one, two = (example.run(CLICKS, two_phase, tmp_path / str(two_phase)) for two_phase in (False, True))
    assert one.results == two.results
    rows = list(map(json.loads, two.results))
    found = {(row["page"], row["minute"]): (row["clicks"], row["longest_ms"]) for row in rows}
    assert len(rows) == len(found)
    assert found == golden(example)
    assert one.exchanged == CLICKS
    assert two.exchanged <= CLICKS / 5, "one in ten clicks is on a page that few are on"
    assert len(one.calls) == len(two.calls) == PARALLELISM
    assert max(one.calls.values()) > 0.9 * CLICKS, "one subtask has the hot page"
    assert max(two.calls.values()) < 0.6 * CLICKS
