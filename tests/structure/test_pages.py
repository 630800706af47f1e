"""What the pages say is so: the README's pipeline runs as printed, links and files exist, the table is complete."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest

from penstock.runtime.elements import Element
from penstock.taskmanager.messages import FromSlot, ToSlot

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/protocols.md")

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
    named = set(re.findall(r"`((?:\w+/)+\w+\.py)`", (ROOT / page).read_text(encoding="utf-8")))
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


def test_the_table_of_messages_is_complete() -> None:
    listed = re.findall(r"^\| `(\w+)` \|", (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert listed == [message.__name__ for union in (Element, ToSlot, FromSlot) for message in get_args(union)]
