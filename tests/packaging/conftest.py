"""A copy of the repository, as it is now, in a folder whose name is no identifier."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOT_SOURCE = shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "*.egg-info")


@pytest.fixture(scope="session")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything but what git ignores; without the tests, which the tests of packaging do not run again."""
    target = tmp_path_factory.mktemp("clone") / "x-y.z"
    shutil.copytree(ROOT, target, ignore=NOT_SOURCE)
    shutil.rmtree(target / "tests")
    return target
