"""The operator harness as its users handle it."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

from penstock.runtime.operators.stateless import MapOperator
from penstock.runtime.records.record_types import OPAQUE
from penstock.testing import OperatorHarness


def test_a_harness_that_is_not_open_says_so() -> None:
    with pytest.raises(ValueError, match="use it as a context manager"):
        OperatorHarness(MapOperator(abs, OPAQUE)).push([1])


@pytest.mark.parametrize("closed", [True, False], ids=["closed", "forgotten"])
def test_nothing_of_a_harness_stays_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closed: bool) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    harness = OperatorHarness(MapOperator(abs, OPAQUE)).open()
    assert list(tmp_path.iterdir())
    if closed:
        harness.close()
    del harness
    gc.collect()
    assert not list(tmp_path.iterdir())
