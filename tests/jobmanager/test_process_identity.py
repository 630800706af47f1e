"""A process is called dead only when it is."""

from __future__ import annotations

import json
import subprocess
import sys

from penstock.jobmanager.process_identity import is_dead, this_process

SLEEPER = """
import time
from penstock.jobmanager.process_identity import this_process
print(this_process(), flush=True)
time.sleep(60)
"""


def test_this_one_lives() -> None:
    assert this_process() != ""
    assert not is_dead(this_process())


def test_a_killed_one_is_dead_before_and_after_it_is_reaped() -> None:
    process = subprocess.Popen([sys.executable, "-c", SLEEPER], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    identity = process.stdout.readline()
    assert not is_dead(identity)
    process.kill()
    process.stdout.read()  # ends when the process does
    while (status := open(f"/proc/{process.pid}/stat").read().rpartition(")")[2].split()[0]) != "Z":  # noqa: SIM115
        assert status in "RSDX"
    assert is_dead(identity)
    process.wait()
    assert is_dead(identity)


def changed(**fields: object) -> str:
    return json.dumps({**json.loads(this_process()), **fields})


def test_a_pid_used_again_is_another_process() -> None:
    assert is_dead(changed(started=1))


def test_what_cannot_be_compared_is_not_known_to_be_dead() -> None:
    for identity in ("", "nonsense", "{}", changed(boot="another"), changed(namespace="pid:[1]", pid=999_999_999)):
        assert not is_dead(identity)
