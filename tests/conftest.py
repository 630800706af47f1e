"""For all tests: `env.execute()` runs in the test's process. What tests a cluster says so itself."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from penstock.connectors.collect import keep_collected

pytest_plugins = ["s3_fixtures"]
"""tests/services"""

os.environ.setdefault("PENSTOCK__EXECUTION__TARGET", "local")

LONG = ("examples", "cluster", "packaging", "simulation")
"""Folders of tests whose files take longest."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """They begin first: so nothing long is left for one process at the end, while the other one has nothing to do."""
    here = Path(__file__).parent
    items.sort(key=lambda item: item.path.relative_to(here).parts[0] not in LONG)


@pytest.fixture(autouse=True)
def _collected_by_this_process() -> None:
    """Records of `execute_and_collect` come to the test, also after one that ran a job master of a cluster here."""
    keep_collected(None)
