"""Which process leads, and whether it is known to be dead: lets the next one on the same machine take over at once.

A guess may only err to one side: "not known to be dead". So the identity holds what tells machines, boots, containers
and re-used pids apart, and whoever cannot compare all of it says no. Linux only; elsewhere nobody is known to be dead.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

PROC = Path("/proc")


class _Identity(msgspec.Struct, frozen=True):
    boot: str
    """Of the machine since it was started."""
    namespace: str
    """In which the pid is counted (containers)."""
    pid: int
    started: int
    """In clock ticks since the boot."""


def this_process() -> str:
    """Of this process; empty where it cannot be told."""
    place, pid = _place(), os.getpid()
    status = _status(pid)
    if place is None or status is None:
        return ""
    return msgspec.json.encode(_Identity(*place, pid, status[1])).decode()


def is_dead(identity: str) -> bool:
    """The process ran here, and does not any more. One that waits to be reaped is dead."""
    try:
        process = msgspec.json.decode(identity, type=_Identity)
    except msgspec.DecodeError:
        return False
    if (process.boot, process.namespace) != _place():
        return False
    try:
        os.kill(process.pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass  # somebody else's: it lives, or its pid is used again, which its start time tells
    status = _status(process.pid)
    return status is not None and (status[0] in "ZX" or status[1] != process.started)


def _place() -> tuple[str, str] | None:
    try:
        boot = (PROC / "sys/kernel/random/boot_id").read_text().strip()
        return boot, os.readlink(PROC / "self/ns/pid")
    except OSError:
        return None


def _status(pid: int) -> tuple[str, int] | None:
    """State letter and start time of a process. Its name, in parentheses, may contain anything."""
    try:
        fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return fields[0], int(fields[19])
