"""`import penstock` offers every name of the API, light and lazy."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import penstock

HEAVY = ("ray", "polars", "numba", "duckdb", "pyarrow", "rocksdict", "obstore", "penstock.connectors", "penstock.api")
"""What `import penstock` must not load: it would make the facade slow, and connectors are the user's choice."""


def test_importing_it_loads_nothing_heavy(tmp_path: Path) -> None:
    code = f"import sys, penstock; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_command_starts_light(tmp_path: Path) -> None:
    """Its verbs import what they need: `cluster start` and `list` need no Arrow, and take a third of the time."""
    heavy = ("ray", "polars", "numba", "pyarrow", "numpy", "cloudpickle", "rocksdict", "obstore", "httpx", "fastapi")
    code = f"import sys, penstock.api.command_line; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", penstock.__all__)
def test_every_name_is_there(name: str) -> None:
    value = getattr(penstock, name)
    assert value.__name__ == name
    assert name in dir(penstock)


def test_type_checkers_see_the_same_names_in_the_same_modules() -> None:
    tree = ast.parse(Path(penstock.__file__).read_text(encoding="utf-8"))
    (checking,) = (node for node in tree.body if isinstance(node, ast.If))
    imports = [node for node in checking.body if isinstance(node, ast.ImportFrom)]
    seen = {f".{node.module}": tuple(alias.name for alias in node.names) for node in imports}
    assert seen == penstock._HOMES
    assert sorted(penstock.__all__) == sorted(name for names in seen.values() for name in names)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'StreamExecutionEnviroment'"):
        _ = penstock.StreamExecutionEnviroment


def test_the_version_is_the_installed_one() -> None:
    assert penstock.__version__ == version("penstock")
