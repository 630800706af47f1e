"""What a supervisor says while its cluster starts, heard by who waits for it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from penstock.jobmanager.startup.cluster_control import Started, read_started

UP = '{"state": {"cluster_id": "own", "pid": 7, "phase": "running"}, "notes": ["another port"]}'


def saying(script: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def up(started: Started) -> bool:
    return started.state is not None and (started.state.cluster_id, started.notes) == ("own", ("another port",))


def test_a_start_that_takes_long_is_told_of_step_by_step() -> None:
    process = saying(
        f"for what in 'Ray', 'the dispatcher': print('{{\"doing\": \"' + what + '\"}}', flush=True); input()\n"
        f"print('{UP}')"
    )
    told: list[str] = []

    def tell(text: str) -> None:
        told.append(text)
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.flush()

    assert up(read_started(process, tell))
    assert told == ["Ray", "the dispatcher"]
    process.communicate()


def test_a_quick_one_is_not() -> None:
    process, told = saying(f"print('{{\"doing\": \"Ray\"}}'); print('{UP}')"), list[str]()
    assert up(read_started(process, told.append))
    assert told == []
    process.communicate()


@pytest.mark.parametrize("script", ["", "print('hello')", 'print(\'{"doing": "Ray"}\')'])
def test_one_that_ends_or_says_something_else_is_an_error(script: str) -> None:
    process = saying(script)
    assert "has not come up (code " in (read_started(process).error or "")
    process.communicate()
