"""What the pages say is so: the README's pipeline runs as printed, links, files and tests exist, tables are whole."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, cast, get_args

import pytest

from penstock.jobmanager.gateway import Gateway
from penstock.jobmanager.rest.app import create_app
from penstock.runtime.elements import Element
from penstock.taskmanager.exchange.wire import Kind
from penstock.taskmanager.messages import FromSlot, ToSlot

ROOT = Path(__file__).parents[2]
DECISIONS = sorted(f"docs/decisions/{path.name}" for path in (ROOT / "docs" / "decisions").glob("*.md"))
PAGES = (
    "README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/protocols.md", "docs/rest.md",
    "docs/metrics.md", "docs/state-evolution.md", "docs/compatibility.md", "docs/savepoints.md", "docs/memory.md",
    "docs/batch-mode.md", "docs/end-of-input.md", "docs/skew.md", "docs/models.md",
    *DECISIONS,
)  # fmt: skip

CLICKS = [
    {"user": "ada", "page": "home", "at": 0},
    {"user": "bob", "page": "home", "at": 100},
    {"user": "ada", "page": "cart", "at": 400},
    {"user": "ada", "page": "home", "at": 61_000},
]


def rows(folder: Path) -> list[dict[str, Any]]:
    """Everything the readers of a sink's folder see: files whose name is not hidden."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(("_", ".")))
    return [json.loads(line) for path in files for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_pipeline_runs_as_printed(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "clicks.py").write_text(code, encoding="utf-8")
    (tmp_path / "clicks").mkdir()
    lines = "".join(f"{json.dumps(click)}\n" for click in CLICKS)
    (tmp_path / "clicks" / "one.json").write_text(lines, encoding="utf-8")
    done = subprocess.run([sys.executable, "clicks.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert rows(tmp_path / "rapid") == [{"user": "ada", "page": "cart", "after_ms": 400}]
    columns = ("window_start", "window_end", "page", "clicks")
    minutes = sorted(tuple(row[column] for column in columns) for row in rows(tmp_path / "minutes"))
    assert minutes == [(0, 60_000, "cart", 1), (0, 60_000, "home", 2), (60_000, 120_000, "home", 1)]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    targets = {link.split("#")[0] for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link}
    assert [link for link in sorted(targets) if link and not ((ROOT / page).parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES)
def test_source_files_that_a_page_names_exist(page: str) -> None:
    named = set(re.findall(r"`((?:\w+/)+\w+\.py)(?:::\w+)?`", (ROOT / page).read_text(encoding="utf-8")))
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


def section_of(page: str, title: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8").partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def functions_of(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("page", PAGES)
def test_tests_that_a_page_names_exist(page: str) -> None:
    named = re.findall(r"`((?:\w+/)+\w+\.py)::(\w+)`", (ROOT / page).read_text(encoding="utf-8"))
    assert [f"{path}::{name}" for path, name in named if name not in functions_of(path)] == []


def connectors() -> set[str]:
    """Sources and sinks of the package that users can write down."""
    found = set()
    for path in (ROOT / "connectors").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and re.fullmatch(r"[A-Z]\w*(Source|Sink)", node.name):
                found.add(node.name)
    return found - {"RangeSource"}


def test_every_guarantee_names_its_proof() -> None:
    """A cell ends with the numbers of its proofs, or says with a dash why there is nothing to prove."""
    section = section_of("README.md", "Guarantees")
    table = [line.strip("| ").split(" | ") for line in re.findall(r"^\| `.*$", section, re.MULTILINE)]
    assert {row[0].strip("`") for row in table} == connectors()
    cells = [cell for row in table for cell in row[1:] if not cell.startswith("—")]
    cited = [re.findall(r"\d+", " ".join(re.findall(r"\(([\d, ]+)\)", cell))) for cell in cells]
    assert [cell for cell, numbers in zip(cells, cited, strict=True) if not numbers] == []
    proofs = re.findall(r"^(\d+)\. `tests/\S+::\w+`$", section, re.MULTILINE)
    assert proofs == sorted({number for numbers in cited for number in numbers}, key=int)


def test_the_table_of_messages_is_complete() -> None:
    listed = re.findall(r"^\| `(\w+)` \|", section_of("ARCHITECTURE.md", "Every message"), re.MULTILINE)
    assert listed == [message.__name__ for union in (Element, ToSlot, FromSlot) for message in get_args(union)]


ACTORS = {
    "slot": ("taskmanager/processes/actor.py", "SlotShell"),
    "task manager": ("taskmanager/processes/actor.py", "TaskManagerShell"),
    "job master": ("jobmanager/cluster/actors.py", "JobMasterProcess"),
    "dispatcher": ("jobmanager/cluster/actors.py", "DispatcherProcess"),
}


def calls_of(path: str, name: str) -> list[str]:
    """Methods of an actor that other processes call."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    (found,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    return sorted(node.name for node in found.body if isinstance(node, ast.FunctionDef) and node.decorator_list)


def test_the_table_of_calls_is_complete() -> None:
    section = section_of("ARCHITECTURE.md", "Calls between processes")
    rows = re.findall(r"^\| ([a-z ]+) \| (`[^|]*) \|", section, re.MULTILINE)
    listed: dict[str, list[str]] = {actor: [] for actor, _ in rows}
    for actor, calls in rows:
        listed[actor] += re.findall(r"\w+", calls)
    assert {actor: sorted(calls) for actor, calls in listed.items()} == {
        actor: calls_of(path, name) for actor, (path, name) in ACTORS.items()
    }


def test_the_table_of_frames_is_complete() -> None:
    listed = re.findall(r"^\| `(\w+)` \|", section_of("ARCHITECTURE.md", "Frames on sockets"), re.MULTILINE)
    assert listed == [kind.name for kind in Kind]


def test_the_table_of_rest_is_complete() -> None:
    described = create_app(cast(Gateway, None)).openapi()["paths"]
    paths = sorted(f"{method.upper()} {path}" for path, methods in described.items() for method in methods)
    text = (ROOT / "docs" / "rest.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"`((?:GET|POST|PUT|PATCH|DELETE) /[^`]*)`", text)) == paths
    files = re.findall(r"^\|.*\| `(\w+\.py)` \|$", text, re.MULTILINE)
    assert [name for name in files if not (ROOT / "jobmanager" / "rest" / name).exists()] == []


def test_all_checkers_of_the_simulator_are_explained() -> None:
    listed = re.findall(r"^\| `(\w+)` \|", section_of("ARCHITECTURE.md", "The simulator"), re.MULTILINE)
    checkers = (ROOT / "testing" / "checkers.py").read_text(encoding="utf-8")
    assert listed == [*re.findall(r"^class (\w+Checker)", checkers, re.MULTILINE), "check_output"]


def test_rules_that_the_code_cites_exist_and_each_says_what_keeps_it() -> None:
    rules = re.split(r"^(\d+)\. ", (ROOT / "docs" / "protocols.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    texts = dict(zip(map(int, rules[1::2]), rules[2::2], strict=True))
    assert list(texts) == list(range(1, len(texts) + 1))
    assert [n for n, text in texts.items() if not re.search(r"`\w+/[\w/]+\.py", text) and "*To come*" not in text] == []
    assert [n for n, text in texts.items() if text.startswith("(!)") and "`tests/" not in text] == []
    cited = {
        int(number)
        for floor in ("state", "runtime", "connectors", "taskmanager", "jobmanager", "api", "testing")
        for path in (ROOT / floor).rglob("*.py")
        for numbers in re.findall(r"PROTOCOLS ((?:\d+(?:, (?=\d))?)+)", path.read_text(encoding="utf-8"))
        for number in numbers.split(", ")
    }
    assert cited <= set(texts)


def test_seeded_bugs_that_rules_name_exist() -> None:
    text = (ROOT / "docs" / "protocols.md").read_text(encoding="utf-8")
    named = {
        name for names in re.findall(r"\(bugs?\s+((?:`\w+`[,\s]*)+)\)", text) for name in re.findall(r"\w+", names)
    }
    assert named
    assert named <= functions_of("testing/seeded_bugs.py") | functions_of("testing/seeded_state_bugs.py")
