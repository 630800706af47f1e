"""Examples that run as processes of their own, and are killed on the way."""

from __future__ import annotations

import contextlib
import importlib
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
KillOnTheWay = Callable[[list[str], int], None]


@pytest.fixture(scope="module")
def example(request: pytest.FixtureRequest) -> Iterator[ModuleType]:
    """examples/x.py as a module, in test_x.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLES))
        yield importlib.import_module(request.path.stem.removeprefix("test_"))


@pytest.fixture
def kill_on_the_way(tmp_path: Path) -> KillOnTheWay:
    """Runs a command in tmp_path and kills it once its job has completed so many checkpoints."""

    def kill(command: list[str], checkpoints: int) -> None:
        process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL)
        try:
            wait_for_checkpoints(tmp_path / ".penstock" / "checkpoints", checkpoints, process)
            assert process.poll() is None, "killed on the way, not after the end"
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()

    return kill


def wait_for_checkpoints(directory: Path, count: int, process: subprocess.Popen[bytes]) -> None:
    """Until the job's log says that this many checkpoints are complete."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        names = [name for name in directory.glob("*/log/*") if name.name.isdigit()]
        if sum(b"CheckpointCompleted" in name.read_bytes() for name in names) >= count:
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.1)
    raise AssertionError(f"{count} checkpoints did not complete; the job ended with {process.poll()}")
