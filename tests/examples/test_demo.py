"""What `make demo` runs: progress is shown, the first process is killed, the second one finishes, nothing is lost."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

DEMO = Path(__file__).parents[2] / "examples" / "demo_local.py"


@pytest.mark.timeout(400)
def test_the_demo_is_killed_on_the_way_and_counts_every_flight(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, str(DEMO)], cwd=tmp_path, capture_output=True, text=True, timeout=380)
    assert done.returncode == 0, done.stderr
    shown = " ".join(done.stdout.split())
    assert "watermark 2013-" in shown
    assert "Killed with SIGKILL after" in shown
    assert "FINISHED, restored from checkpoint" in shown
    assert "336,776 of 336,776. None lost, none doubled." in shown
    assert [path.name for path in tmp_path.iterdir()] == [".penstock"], "it leaves nothing else behind"
