"""docs/compatibility.md: the numbers of its formats are those of the code, and unknown ones are refused."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from penstock.state.errors import DamagedCheckpointError
from penstock.state.store.documents import seal, unseal

ROOT = Path(__file__).parents[2]
ROW = re.compile(r"^\| ([^|]+) \| `([\w/]+)\.py` `(\w+)` \| (\d+) \| (\d+) \|$", re.MULTILINE)
FORMATS = ROW.findall((ROOT / "docs" / "compatibility.md").read_text())


@pytest.mark.parametrize(("what", "module", "constant", "version", "oldest"), FORMATS, ids=lambda value: str(value))
def test_the_page_and_the_code_have_the_same_numbers(
    what: str, module: str, constant: str, version: str, oldest: str
) -> None:
    found = importlib.import_module(f"penstock.{module.replace('/', '.')}")
    assert getattr(found, constant) == int(version), what
    assert getattr(found, f"OLDEST_{constant}", int(version)) == int(oldest), what


def test_every_number_is_on_the_page() -> None:
    """Documents are sealed with a constant; all of them, and the metas of the backends, are in the table."""
    written = {constant for _what, _module, constant, _version, _oldest in FORMATS}
    sources = [path.read_text() for folder in ("state", "jobmanager") for path in (ROOT / folder).rglob("*.py")]
    sealed = {name for text in sources for name in re.findall(r"\bseal\([^,]+, ([A-Z_]+VERSION)", text)}
    assert sealed - {"VERSION"} <= written, "VERSION is that of artefacts, which no restore needs"
    assert len(FORMATS) == 8


def test_a_version_that_is_not_known_is_refused_by_name() -> None:
    data = seal("checkpoint", 9, "nonce", {"a": 1})
    with pytest.raises(DamagedCheckpointError, match=r"job/chk-1-1/_metadata .* format version 9; this penstock reads"):
        unseal("job/chk-1-1/_metadata", "checkpoint", 3, data, dict, oldest=1)
