"""No file of the project is loaded under another name than its own. Runs here, and in a clone (test_clone.py)."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from pathlib import Path

import penstock

ROOT = Path(__file__).parents[2]
FLOORS = ("state", "runtime", "connectors", "taskmanager", "jobmanager", "api", "testing")


def own_name(path: Path) -> str | None:
    """The only name under which a file, given from the root, may be a module; None where it is not ours."""
    dotted = ".".join(path.with_suffix("").parts).removesuffix("__init__").rstrip(".")
    if path.parts[:2] == ("tests", "services"):
        return path.stem  # on pytest's pythonpath: all areas of tests share them
    if path.name == "matrix_job.py":
        return None  # a script that is submitted, and beside that the module of its test
    if path.parts[0] == "tests":
        return dotted
    return f"penstock.{dotted}".rstrip(".") if path.parts[0] in {"__init__.py", *FLOORS} else None


def test_every_file_is_loaded_under_its_own_name() -> None:
    for module in pkgutil.walk_packages(penstock.__path__, "penstock."):
        if module.name.split(".")[1] in FLOORS:
            importlib.import_module(module.name)
    files = {name: getattr(module, "__file__", None) for name, module in list(sys.modules.items())}
    paths = {name: Path(file).resolve() for name, file in files.items() if file}
    ours = {name: path.relative_to(ROOT) for name, path in paths.items() if path.is_relative_to(ROOT)}
    assert {name: path for name, path in ours.items() if own_name(path) not in {None, name}} == {}
    sources = {path.relative_to(ROOT) for floor in FLOORS for path in (ROOT / floor).rglob("*.py")}
    assert sources <= set(ours.values())
