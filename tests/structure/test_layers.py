"""Who may import whom: the floors of the house, read from the source (ARCHITECTURE.md)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

BELOW: dict[str, frozenset[str]] = {
    "state": frozenset(),
    "runtime": frozenset({"state"}),
    "connectors": frozenset({"state", "runtime"}),
    "taskmanager": frozenset({"state", "runtime"}),
    "jobmanager": frozenset({"state", "runtime", "connectors", "taskmanager"}),
    "api": frozenset({"state", "runtime", "connectors", "taskmanager", "jobmanager"}),
    "testing": frozenset({"state", "runtime", "connectors", "taskmanager", "jobmanager", "api"}),
}
"""What each floor may import besides itself. Connectors and taskmanager share a floor and do not know each other."""

RAY_SHELLS = frozenset(
    {
        "taskmanager/processes/actor.py", "taskmanager/processes/model_actors.py",
        "taskmanager/processes/ray_resources.py",
        "jobmanager/cluster/actors.py", "jobmanager/cluster/ray_processes.py",
        "jobmanager/cluster/ray_slots.py", "jobmanager/startup/ray_cluster.py",
    }
)  # fmt: skip
"""The only files that may import ray; everything else runs without it."""


def sources(floor: str) -> list[Path]:
    return sorted((ROOT / floor).rglob("*.py"))


def imports(module: tuple[str, ...], is_package: bool, tree: ast.AST) -> Iterator[tuple[int, bool, tuple[str, ...]]]:
    """Line, whether it is written with dots, and absolute dotted name of everything a module imports.

    `from a import b` gives a.b: whether b is a module or a name in one does not matter for the floor.
    """
    package = module if is_package else module[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, False, tuple(alias.name.split("."))
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            base += tuple(node.module.split(".")) if node.module else ()
            for alias in node.names:
                yield node.lineno, node.level > 0, (*base, alias.name)


def violations(path: str, source: str) -> Iterator[str]:
    """What a file of the package (path from the root, with slashes) imports and must not."""
    parts = Path(path).with_suffix("").parts
    is_package = parts[-1] == "__init__"
    module = ("penstock", *(parts[:-1] if is_package else parts))
    floor = parts[0]
    for line, dotted, name in imports(module, is_package, ast.parse(source)):
        if name[0] == "ray" and path not in RAY_SHELLS:
            yield f"{path}:{line}: ray is imported outside the shells"
        elif name[0] in {"penstock", *BELOW} and not dotted:
            yield f"{path}:{line}: {'.'.join(name)} is imported absolutely; inside the package use dots"
        elif name[0] == "penstock" and (len(name) < 2 or name[1] not in BELOW[floor] | {floor}):
            yield f"{path}:{line}: {floor} must not import {'.'.join(name)}"


@pytest.mark.parametrize("floor", BELOW)
def test_no_floor_imports_upwards(floor: str) -> None:
    files = sources(floor)
    assert files, f"no source found for {floor}"
    paths = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in files}
    assert [problem for path, source in paths.items() for problem in violations(path, source)] == []


def test_every_package_has_a_floor() -> None:
    outside = {"tests", "examples", "benchmarks", "docs", "helm", "build", "dist"}
    folders = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert folders - outside == set(BELOW)


@pytest.mark.parametrize(
    ("path", "source", "complaint"),
    [
        (
            "state/key_groups.py",
            "from ..runtime.batch import Batch",
            "state must not import penstock.runtime.batch.Batch",
        ),
        ("runtime/graph/job_graph.py", "from ...api import streams", "runtime must not import penstock.api.streams"),
        ("runtime/graph/__init__.py", "from ...api import x", "runtime must not import penstock.api.x"),
        ("connectors/files/sink.py", "from ...taskmanager.gate import Gate", "connectors must not import"),
        ("taskmanager/slot.py", "from ..connectors import files", "taskmanager must not import"),
        (
            "state/key_groups.py",
            "def f():\n    from .. import MapFunction",
            "state must not import penstock.MapFunction",
        ),
        ("api/streams.py", "from penstock.state.ids import JobId", "inside the package use dots"),
        ("api/streams.py", "import penstock.state", "inside the package use dots"),
        ("api/streams.py", "from state.ids import JobId", "inside the package use dots"),
        ("jobmanager/job_master.py", "import ray", "ray is imported outside the shells"),
        ("jobmanager/job_master.py", "from ray.actor import ActorHandle", "ray is imported outside the shells"),
    ],
)
def test_the_check_sees_each_kind_of_violation(path: str, source: str, complaint: str) -> None:
    assert any(complaint in problem for problem in violations(path, source))


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("runtime/graph/__init__.py", "from .job_graph import JobGraph"),
        ("runtime/graph/job_graph.py", "from ...state.ids import VertexId\nfrom ..batch import Batch"),
        ("testing/lists.py", "from ..api.streams import DataStream"),
        ("jobmanager/cluster/actors.py", "import ray"),
        ("api/streams.py", "import rayon"),
    ],
)
def test_the_check_lets_the_rest_pass(path: str, source: str) -> None:
    assert list(violations(path, source)) == []
