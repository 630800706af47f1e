"""What `make demo` runs, on a cluster and in one process: progress is shown, something is killed, nothing is lost."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def shown_by(demo: str, directory: Path) -> str:
    command = [sys.executable, str(EXAMPLES / demo), "--months", "4"]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=560)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [path.name for path in directory.iterdir()] == [".penstock"], "it leaves nothing else behind"
    return " ".join(done.stdout.split())


@pytest.mark.timeout(600)
def test_a_slot_of_the_cluster_is_killed_and_every_flight_is_counted(tmp_path: Path) -> None:
    shown = shown_by("demo.py", tmp_path)
    assert "A cluster runs at http://127.0.0.1:" in shown
    assert "watermark 2013-" in shown
    assert "with SIGKILL, after" in shown
    assert "It runs again" in shown
    assert "FINISHED, restored from checkpoint" in shown
    assert "109,119 of 109,119. None lost, none doubled." in shown
    assert "/jobs/overview" in shown


@pytest.mark.timeout(600)
def test_the_process_of_a_local_job_is_killed_and_every_flight_is_counted(tmp_path: Path) -> None:
    shown = shown_by("demo_local.py", tmp_path)
    assert "watermark 2013-" in shown
    assert "Killed with SIGKILL after" in shown
    assert "FINISHED, restored from checkpoint" in shown
    assert "109,119 of 109,119. None lost, none doubled." in shown
