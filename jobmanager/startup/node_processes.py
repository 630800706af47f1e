"""The processes of one Ray node on this machine: how they are recognised, found, ended, and watched over.

A node is a tree: the keeper (ray_cluster.py's entry), under it GCS and raylet, under the raylet its agents and all
workers, and under these whatever users' code starts. Ray ties most of them to each other, but not all: agents outlive
a raylet by half a minute, a stopped (SIGSTOP) worker for ever. So every node has two signs. All of its processes are in
the **session** of its keeper, unless they made one of their own; and all inherit a **mark** in their environment, the
node's directory, unless they wrote their title over it. Whatever carries either sign belongs to the node.

Whoever started the node **owns** it. The keeper watches the owner through a pidfd, which tells its death whatever the
cause, and whichever thread of the owner started the keeper (PDEATHSIG tells the death of that thread).
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from ...runtime.directories import private_directory

MARK = "PENSTOCK_NODE_DIRECTORY"
"""Environment variable with the directory of the node that a process belongs to."""

_KILL_POLL_S = 0.05


def members(mark: str, session: int | None = None) -> list[psutil.Process]:
    """Living processes of the node with that directory, but not this one. `session`: only while it is surely its."""
    return [process for process in psutil.process_iter() if _belongs(process, mark, session)]


def _belongs(process: psutil.Process, mark: str, session: int | None) -> bool:
    if process.pid == os.getpid() or not is_alive(process):
        return False
    try:
        if session is not None and os.getsid(process.pid) == session:
            return True
        return process.environ().get(MARK) == mark
    except (psutil.Error, OSError):
        return False  # it ended meanwhile, or is not ours


def is_alive(process: psutil.Process) -> bool:
    """One that only waits to be reaped is not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def kill_members(mark: str, session: int | None = None, *, timeout_s: float = 10.0) -> list[int]:
    """SIGKILL until none is left; the pids of those that are still there after the time, which no signal ends."""
    deadline = time.monotonic() + timeout_s
    while found := members(mark, session):
        if time.monotonic() > deadline:
            return [process.pid for process in found]
        for process in found:
            try:
                process.kill()
            except psutil.Error:
                pass  # already gone
        psutil.wait_procs(found, timeout=_KILL_POLL_S)
    return []


def kill_agents(session: int) -> None:
    """Of a keeper that was killed together with its owner. They have written their title over the mark, and go on for
    half a minute. The session may be somebody else's by now, so only what calls itself Ray's is taken."""
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == session and process.name().startswith("ray::"):
                process.kill()
        except (psutil.Error, OSError):
            continue


def on_death_of(owner: int, action: Callable[[], None]) -> None:
    """Calls `action` on a thread once that process, which must be this one's parent, has ended."""
    threading.Thread(target=_await_death, args=(owner, action), name="penstock-owner", daemon=True).start()


def _await_death(owner: int, action: Callable[[], None]) -> None:
    try:
        descriptor = os.pidfd_open(owner)
    except ProcessLookupError:
        return action()
    except (AttributeError, OSError):  # no Linux, or an old one
        return _poll_parent(owner, action)
    if os.getppid() == owner:  # else its pid was used again before it was opened
        select.select([descriptor], [], [])
    os.close(descriptor)
    return action()


def _poll_parent(owner: int, action: Callable[[], None]) -> None:
    while os.getppid() == owner:
        time.sleep(0.2)
    action()


def user_directory() -> Path:
    """Of this user, in the system's temporary directory: short enough for sockets, readable by nobody else."""
    return private_directory(Path(tempfile.gettempdir()) / f"penstock-{os.getuid()}")


@contextmanager
def one_at_a_time(timeout_s: float) -> Iterator[bool]:
    """Holds the machine's lock for starts of Ray: several at once on a busy machine make raylets give up on their
    agents. It only keeps order: False if it could not be had in this time, and the start goes ahead without."""
    descriptor = os.open(user_directory() / "ray-start.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        yield _lock(descriptor, timeout_s)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)


def terminate(pid: int) -> None:
    """SIGTERM, if it is still there."""
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        pass


def tails(paths: list[Path], lines: int) -> str:
    """The last lines of each of these logs that is not empty, under its name."""
    parts = []
    for path in paths:
        try:
            text = path.read_bytes()[-20_000:].decode(errors="replace")
        except OSError:
            continue
        last = [line for line in text.splitlines() if line.strip()][-lines:]
        if last:
            parts.append("\n".join([f"--- {path.name}", *last]))
    return "\n".join(parts)
