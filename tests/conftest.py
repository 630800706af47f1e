"""For all tests: `env.execute()` runs in the test's process. What tests a cluster says so itself."""

from __future__ import annotations

import os

import pytest

from penstock.connectors.collect import keep_collected

pytest_plugins = ["s3_fixtures"]
"""tests/services"""

os.environ.setdefault("PENSTOCK__EXECUTION__TARGET", "local")


@pytest.fixture(autouse=True)
def _collected_by_this_process() -> None:
    """Records of `execute_and_collect` come to the test, also after one that ran a job master of a cluster here."""
    keep_collected(None)
